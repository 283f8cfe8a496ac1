"""Pair lists: names to rows, drawn lists, leaks, scores against the loop, metrics against the script, and what is
refused."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optional_captions import evidence, score_by_hand
from small_run import made_up

from tgfr.core import TgfrError, rng
from tgfr.evaluation.metrics import Metric, auc, cmc, eer, mate_ranks, tpr_at_fpr
from tgfr.evaluation.pair_lists import (
    FPRS,
    PairList,
    PairProtocol,
    leaks,
    make_pairs,
    match_pairs,
    published_metrics,
    rank1_hits,
    repeated_pairs,
    score_pairs,
    write_pairs,
)
from tgfr.evaluation.scoring import embed_photos
from tgfr.formats.pairs import PairNames, read_pairs_list


def names(*lines):
    return PairNames(
        pa.array([x[0] for x in lines], pa.string()),
        pa.array([x[1] for x in lines], pa.string()),
        np.array([x[2] for x in lines], bool),
    )


def world(people=40, photos=3, seed=0, width=12):
    "Identities and embeddings of made-up people."
    identity, draw = np.repeat(np.arange(people), photos), rng("protocols", seed)
    return identity, (draw.normal(size=(people, width))[identity] + draw.normal(size=(people * photos, width))).astype(
        np.float32
    )


# names


@pytest.mark.parametrize(
    "ids, listed",
    [
        (["3_1", "3_2", "5_1"], ["3_1", "3_2", "5_1"]),
        (["3/3_1", "3/3_2", "5/5_1"], ["3_1.jpg", "3_2.jpg", "5_1.jpg"]),
        (["3_1.png", "3_2.png", "5_1.png"], ["a/3_1.jpg", "b/3_2.jpg", "c/5_1.jpg"]),
    ],
)
def test_names_meet_whatever_folder_and_ending(ids, listed):
    found = match_pairs(names((listed[1], listed[0], 1), (listed[1], listed[2], 0)), ids, np.array([3, 3, 5]))
    assert found.first.tolist() == [1, 1] and found.second.tolist() == [0, 2] and found.same.tolist() == [True, False]


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "empty"),
        ([("3_1", "9_9", 0)], "1 photos are not in the dataset of 3, such as 9_9"),
        ([("3_1", "3_2", 0)], "line 1 is labelled 0, but the dataset's identities are 3 and 3"),
        ([("3_1", "3_2", 1), ("3_1", "5_1", 1)], "line 2 is labelled 1"),
        ([("", "3_1", 0)], "not in the dataset"),
        ([("\n\0../", "3_1", 0)], "not in the dataset"),
    ],
)
def test_wrong_names_are_named(lines, message):
    with pytest.raises(TgfrError, match=message):
        match_pairs(names(*lines), ["3_1", "3_2", "5_1"], np.array([3, 3, 5]))


def test_names_that_could_be_two_photos_are_refused():
    with pytest.raises(TgfrError, match="2 photos are not in the dataset of 3, such as x/1.jpg"):
        match_pairs(names(("x/1.jpg", "x/2.jpg", 0)), ["a/1", "b/1", "a/2"], np.array([0, 1, 2]))


# drawn lists


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 60), st.integers(0, 10**6))
def test_a_drawn_list_is_what_it_says(people, more, seed):
    identity = rng("list", seed).permutation(
        np.concatenate([np.arange(people), np.arange(people), rng(seed).integers(people, size=more)])
    )
    pairs = make_pairs(identity, people - 1, seed)
    blocks = pairs.second.reshape(people, people)
    assert (
        np.array_equal(identity[pairs.first] == identity[pairs.second], pairs.same)
        and (pairs.first != pairs.second).all()
    )
    assert pairs.same.reshape(people, people)[:, 0].all() and pairs.same.sum() == people
    assert (pairs.first.reshape(people, people) == pairs.first[::people, None]).all()
    assert all(len(set(identity[b])) == people for b in blocks)


def test_seeds_and_unusable_photos():
    identity, _ = world()
    one, again, other = make_pairs(identity, 9, 1), make_pairs(identity, 9, 1), make_pairs(identity, 9, 2)
    assert np.array_equal(one.second, again.second) and not np.array_equal(one.second, other.second)
    usable = np.arange(len(identity)) % 3 > 0
    pairs = make_pairs(identity, 9, usable=usable)
    assert usable[pairs.first].all() and usable[pairs.second].all()
    large = np.repeat(np.arange(700), 2)  # more people than are drawn at a time
    assert all(len(set(block)) == 100 for block in large[make_pairs(large, 99).second].reshape(700, 100))
    for impostors in (0, 40, -1):
        with pytest.raises(TgfrError, match="1 to 39"):
            make_pairs(identity, impostors)
    with pytest.raises(TgfrError, match="0 people"):
        make_pairs(np.arange(5), 2)


def test_a_written_list_reads_back(tmp_path):
    identity, _ = world()
    ids = [f"{p}/{p}_{i}" for i, p in enumerate(identity)]
    pairs = make_pairs(identity, 5)
    write_pairs(tmp_path / "pairs.txt", pairs, ids)
    back = match_pairs(read_pairs_list(tmp_path / "pairs.txt"), ids, identity)
    for name in ("first", "second", "same"):
        assert np.array_equal(getattr(back, name), getattr(pairs, name))


# figures


def test_scores_are_the_loop():
    identity, system_styles = world()
    probe, pairs = system_styles + 1, make_pairs(identity, 20)
    loop = [
        probe[a] @ system_styles[b] / np.linalg.norm(probe[a]) / np.linalg.norm(system_styles[b])
        for a, b in zip(pairs.first, pairs.second)
    ]
    np.testing.assert_allclose(score_pairs(probe, system_styles, pairs), loop, atol=1e-5)


def test_figures_are_those_of_metrics_on_either_list():
    identity, system_styles = world(people=60, photos=2)
    captions = [[f"c{i - (i % 2 and i < 40)}"] for i in range(120)]  # the first 20 people's photos have one caption
    protocol = PairProtocol(make_pairs(identity, 30), identity, captions, replicates=20)
    scores = score_pairs(system_styles, system_styles, protocol.pairs)
    found = protocol.evaluate(scores, (1e-1, 1e-2))
    assert list(found) == ["generated", "leak-free"] and (found["generated"].genuine, found["leak-free"].genuine) == (
        60,
        40,
    )
    keep = {"generated": np.ones(len(scores), bool), "leak-free": ~protocol.pairs.same | (protocol.pairs.first >= 40)}
    for name, v in found.items():
        genuine, impostor = scores[keep[name] & protocol.pairs.same], scores[keep[name] & ~protocol.pairs.same]
        expected = [*tpr_at_fpr(genuine, impostor, (1e-1, 1e-2)), eer(genuine, impostor), auc(genuine, impostor)]
        np.testing.assert_allclose(list(v.value.values())[:4], expected, atol=1e-12)
        assert all(
            low <= v.value[k] <= high for k in (Metric("AUC"), Metric("rank", 1)) for low, high in [v.interval(k)]
        )
    assert (
        found["generated"].value[Metric("rank", 1)]
        == cmc(mate_ranks(scores.reshape(60, 31), np.zeros(60), np.arange(31)), (1,))[0]
    )


def test_rank1_reads_labels_not_places():
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.8, 0.4, 0.7, 0.7])
    pairs = PairList("", np.array([0, 0, 0, 5, 5, 5, 7, 7]), np.arange(8), np.array([1, 0, 0, 0, 1, 0, 1, 0], bool))
    for order in (np.arange(8), np.arange(8)[::-1], np.array([3, 7, 0, 1, 6, 5, 4, 2])):
        probes, hit = rank1_hits(scores[order], PairList("", pairs.first[order], pairs.second, pairs.same[order]))
        assert probes.tolist() == [0, 5, 7] and hit.tolist() == [True, True, False]  # a tie is no hit


def test_probes_without_a_genuine_pair_are_not_searched():
    probes, hit = rank1_hits(
        np.array([0.5, 0.6, 0.1]), PairList("", np.array([0, 1, 1]), np.arange(3), np.array([True, False, True]))
    )
    assert probes.tolist() == [1] and hit.tolist() == [False]


def test_accepts_at_the_published_sizes():
    for people, impostors, expected in ((1193, 299, [356, 35, 3]), (1217, 399, [485, 48, 4])):
        identity = np.repeat(np.arange(people), 2)
        protocol = PairProtocol(
            make_pairs(identity, impostors), identity, [[str(i)] for i in range(2 * people)], replicates=1
        )
        assert list(protocol.max_false_accepts().values()) == expected and len(protocol.pairs) == people * (
            1 + impostors
        )
        assert (
            list(protocol.max_false_accepts())
            == list(protocol.evaluate(np.zeros(len(protocol.pairs)), FPRS)["generated"].value)[:3]
        )


def test_leaks_by_caption_and_by_mark():
    pairs = PairList("", np.array([0, 0, 1, 3]), np.array([1, 2, 2, 4]), np.array([1, 0, 1, 1], bool))
    captions = [["a", "b"], ["b", "a", "a"], ["a", "b"], ["c"], ["d"]]
    assert leaks(pairs, captions).tolist() == [True, False, True, False]
    assert leaks(pairs, captions, [None, None, None, "", "3_1"]).tolist() == [True, False, True, True]


def test_a_list_of_nothing_but_leaks_is_refused():
    identity, _ = world()
    with pytest.raises(TgfrError, match="all 40 genuine pairs of generated leak"):
        PairProtocol(make_pairs(identity, 5), identity, [["the same"]] * 120)


@pytest.mark.parametrize(
    "change, message",
    [(lambda s: s[:-1], r"scores: shape \(399,\)"), (lambda s: np.where(np.arange(400) == 7, np.nan, s), "NaN")],
)
def test_broken_scores_are_refused(change, message):
    identity, system_styles = world()
    protocol = PairProtocol(make_pairs(identity, 9), identity, [[str(i)] for i in range(120)], replicates=2)
    with pytest.raises(TgfrError, match=message):
        protocol.evaluate(change(score_pairs(system_styles, system_styles, protocol.pairs)))


@pytest.mark.golden("tgfr_eval_metrics*")
def test_golden_published_figures_of_a_list(golden):
    for case, expected in golden.meta["expected"].items():
        if "auc" not in expected:
            continue
        found = published_metrics(*(golden.i[f"{case}.{k}"].numpy() for k in ("score", "label")))
        assert expected["printed"] == (
            f"AUC {found[Metric('AUC')]:.4f} | EER {found[Metric('EER')]:.4f} | "
            + " | ".join(f"{m} {100 * found[m]:.4f}" for m in map(Metric, 3 * ["TPR"], (1e-5, 1e-4, 1e-3)))
            + f" | score {found[Metric('score')]:.4f}"
        )


def test_pairs_that_count_again_are_told():
    "insightface #620 and facenet #655: lists that people draw themselves."
    first, second, same = (
        np.array([0, 1, 2, 3, 0, 3]),
        np.array([1, 0, 2, 0, 1, 2]),
        np.array([True, True, True, False, True, False]),
    )
    (said,) = repeated_pairs(PairList("mine", first, second, same))
    assert (
        "of the 6 pairs of mine, 1 compare a photo with itself and 2 compare two photos that an earlier line compares"
        in said
    )
    assert repeated_pairs(make_pairs(np.repeat(np.arange(9), 3), 5)) == []


def test_names_whose_accents_stand_apart_meet():
    "FPVTracksideCore #75, renpy PR 2327: names of files on macOS are decomposed, those of lists are not."
    ids = ["José/José_1.jpg", "B/B_1.jpg"]
    for form in "NFC", "NFD":
        listed = names(
            *[
                (unicodedata.normalize(form, a), b, False)
                for a, b in (("José/José_1.jpg", "B/B_1.jpg"), ("José_1", "B_1"))
            ][:1]
        )
        for other in "NFC", "NFD":
            assert match_pairs(
                listed, [unicodedata.normalize(other, i) for i in ids], np.array([1, 2])
            ).first.tolist() == [0]
            stems = names((unicodedata.normalize(form, "José_1"), "B_1", False))
            assert match_pairs(
                stems, [unicodedata.normalize(other, i) for i in ids], np.array([1, 2])
            ).first.tolist() == [0]


# models with a score of their own


def test_pairs_of_a_model_with_a_score_of_its_own_are_inner_products_by_hand():
    store, _, captions = made_up()
    model = evidence(captions, 16, (8, 7, 7), 12)
    captions[3] = []
    fused = embed_photos(model, store, captions, progress=False)["all"]["fused"]
    draw = rng("pairs by hand")
    first, second = draw.integers(24, size=(2, 60))
    scores = score_pairs(fused[1], fused[0], PairList("drawn", first, second, first % 6 == second % 6), model)
    expected = [score_by_hand(fused[0][j], fused[1][i], model.fusion) for i, j in zip(first, second)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    cosine = score_pairs(fused[1], fused[0], PairList("drawn", first, second, first == second))
    assert np.abs(cosine - expected).max() > 0.01, "a cosine of the whole is something else"


@pytest.mark.parametrize("fusion", ["residual", "linear"])
def test_pairs_of_cosine_models_are_the_same_to_the_bit(fusion):
    store, _, captions = made_up()
    model = evidence(captions, 16, (8, 7, 7), 12, fusion)
    fused = embed_photos(model, store, captions, progress=False)["all"]["fused"]
    draw = rng("pairs to the bit")
    pairs = PairList("drawn", *draw.integers(24, size=(2, 60)), np.arange(60) % 2 == 0)
    np.testing.assert_array_equal(score_pairs(fused[1], fused[0], pairs, model), score_pairs(fused[1], fused[0], pairs))

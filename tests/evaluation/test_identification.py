"""1:N and ten folds: the definitions written out as loops, draws as repeated probes, what is refused."""

import json
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tgfr.cli import main
from tgfr.core import TgfrError, rng
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.evaluation.identification import open_set_scores, published_tpir, tpir_at_fpir
from tgfr.evaluation.metrics import cmc, mate_ranks, operating_points, search, split_scores, tpr_at_fpr
from tgfr.evaluation.ten_fold import ten_fold_metrics
from tgfr.workflows.verify import verify


@st.composite
def searches(draw):
    "A small matrix with many ties, and identities on both sides."
    P, G, seed = draw(st.integers(2, 25)), draw(st.integers(1, 8)), draw(st.integers(0, 999))
    r = rng("searches", seed)
    return r.integers(-3, 4, size=(P, G)) / 2, r.integers(G + 3, size=P), r.permutation(G + 3)[:G]


def loop_tpir(scores, probe_ids, gallery_ids, f):
    alone = sorted((row.max() for row, p in zip(scores, probe_ids) if p not in gallery_ids), reverse=True)
    k = int(f * len(alone) * (1 + 1e-12))
    threshold = alone[k] if k < len(alone) else -np.inf
    right = [
        row[gallery_ids == p].max() > max([threshold, *row[gallery_ids != p]])
        for row, p in zip(scores, probe_ids)
        if p in gallery_ids
    ]
    return np.mean(right)


@given(searches(), st.integers(1, 40))
@settings(deadline=None)
def test_search_is_the_loop_in_blocks_of_any_size(case, block):
    scores, probe_ids, gallery_ids = case
    found = search(scores, probe_ids, gallery_ids, block)
    for i, (row, p) in enumerate(zip(scores, probe_ids)):
        mates, others = row[gallery_ids == p], row[gallery_ids != p]
        assert found.mate[i] == max(mates, default=-np.inf) and found.best_nonmate[i] == max(others, default=-np.inf)
        assert found.rank[i] == ((others >= mates.max()).sum() if len(mates) else -1)


@given(searches(), st.sampled_from([0, 0.01, 0.1, 0.25, 0.5, 1]), st.integers(0, 99))
@settings(deadline=None)
def test_tpir_is_the_loop_also_for_draws(case, fpir, seed):
    scores, probe_ids, gallery_ids = case
    found = search(scores, probe_ids, gallery_ids)
    mated = found.rank >= 0
    assume(mated.any() and not mated.all())
    assert tpir_at_fpir(found, fpir)[0] == pytest.approx(loop_tpir(scores, probe_ids, gallery_ids, fpir))
    weights = rng("weights", seed).integers(3, size=(4, len(scores)))
    for w, tpir, ranked in zip(weights, tpir_at_fpir(found, fpir, weights), cmc(found.rank, (1, 3), weights)):
        probes = np.repeat(np.arange(len(scores)), w)
        if w[mated].any():
            np.testing.assert_allclose(ranked, cmc(mate_ranks(scores[probes], probe_ids[probes], gallery_ids), (1, 3)))
        if w[mated].any() and w[~mated].any():
            assert tpir[0] == pytest.approx(loop_tpir(scores[probes], probe_ids[probes], gallery_ids, fpir))
        else:
            assert np.isnan(tpir[0])


@given(searches(), st.sampled_from([0.1, 0.3, 0.5]))
@settings(deadline=None)
def test_published_tpir_is_the_sorted_list(case, fpir):
    scores, probe_ids, gallery_ids = case
    wrong = np.sort(scores[probe_ids[:, None] != gallery_ids])[::-1]
    number = int(np.ceil(fpir * len(scores)))
    if len(wrong) < number:
        with pytest.raises(TgfrError, match="impostor scores number"):
            published_tpir(scores, probe_ids, gallery_ids, fpir)
        return
    shares, thresholds = published_tpir(scores, probe_ids, gallery_ids, fpir)
    mates = [row[gallery_ids == p].max(initial=-np.inf) for row, p in zip(scores, probe_ids)]
    assert thresholds[0] == wrong[number - 1] and shares[0] == np.mean(np.array(mates) > wrong[number - 1])


def test_tpr_and_open_set_are_operating_points():
    draw = rng("det")
    labels, scores = np.arange(2000) % 2, draw.normal(size=2000).round(1)
    at = operating_points(scores[labels == 1], scores[labels == 0], (0.01, 0.1))
    np.testing.assert_allclose(tpr_at_fpr(*split_scores(scores, labels), (0.01, 0.1)), at.tpr)
    assert at.accepted.tolist() == [(scores[labels == 0] > t).sum() for t in at.threshold]
    found = search(draw.normal(size=(50, 9)), draw.integers(14, size=50), np.arange(9))
    np.testing.assert_array_equal(operating_points(*open_set_scores(found), (0.1,)).tpr, tpir_at_fpir(found, 0.1))


def loop_folds(scores, labels, folds, far):
    rows = []
    for fold in np.unique(folds):
        test, train = folds == fold, folds != fold
        best = max(np.unique(scores[train])[::-1], key=lambda t: ((scores[train] >= t) == labels[train]).mean())
        impostor = np.sort(scores[train & ~labels])[::-1]
        k = int(far * len(impostor) * (1 + 1e-12))
        strict = impostor[k] if k < len(impostor) else -np.inf
        rows.append(
            [
                ((scores[test] >= best) == labels[test]).mean(),
                best,
                (scores[test & labels] > strict).mean(),
                (scores[test & ~labels] > strict).mean(),
            ]
        )
    return np.array(rows).T


def loop_published(scores, labels, folds):
    "Fixed squared distances, the first best of them."
    grid, distance, rows = np.arange(0, 4, 0.01), 2 - 2 * scores, []
    for fold in np.unique(folds):
        test, train = folds == fold, folds != fold
        best = grid[np.argmax([((distance[train] < t) == labels[train]).mean() for t in grid])]
        rows.append(((distance[test] < best) == labels[test]).mean())
    return rows


@given(st.integers(0, 500), st.sampled_from([0, 0.01, 0.1, 1]))
@settings(max_examples=30, deadline=None)
def test_folds_are_the_loop(seed, far):
    draw = rng("folds", seed)
    labels, folds = np.tile(np.repeat([True, False], 6), 4), np.repeat(np.arange(4), 12)
    scores = np.where(labels, draw.normal(0.5, 0.2, 48), draw.normal(0, 0.2, 48)).round(1).clip(-1, 1)
    found = ten_fold_metrics(scores, labels, folds if seed % 2 else 4, far)
    np.testing.assert_allclose(
        [found.accuracy, found.threshold, found.val, found.far], loop_folds(scores, labels, folds, far)
    )
    for some in scores, scores.astype(np.float32), np.clip(scores + 0.0013, -1, 1):  # on grid points and off them
        np.testing.assert_allclose(
            ten_fold_metrics(some, labels, folds, far, "published").accuracy, loop_published(some, labels, folds)
        )


def test_published_folds_of_scores_on_the_grid():
    """insightface #2152, scipy #21550: two scores in all, kept apart wholly, where the interpolation of thresholds gave
    up."""
    labels = np.tile([True, False], 60)
    found = ten_fold_metrics(np.where(labels, 0.9, -0.9), labels, definition="published").summary()
    assert (found["accuracy"], found["val"], found["far"]) == (1, 1, 0)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: tpir_at_fpir(search(np.eye(3), [0, 1, 2], [0, 1, 2])), "3 mated and 0 non-mated"),
        (lambda: tpir_at_fpir(search(np.eye(3), [5, 6, 7], [0, 1, 2])), "0 mated"),
        (lambda: tpir_at_fpir(search(np.eye(3), [0, 1], [0, 1, 2])), "2 probe_ids"),
        (lambda: tpir_at_fpir(search(np.eye(3) * np.nan, [0, 1, 9], [0, 1, 2])), "NaN"),
        (lambda: tpir_at_fpir(search(np.eye(3), [0, 1, 9], [0, 1, 2]), 2), "between 0 and 1"),
        (lambda: cmc(search(np.eye(3), [5, 6, 7], [0, 1, 2]).rank), "none of them"),
        (lambda: ten_fold_metrics(np.zeros(20), np.arange(20) % 2, definition="iso"), "'standard' or 'published'"),
        (lambda: ten_fold_metrics(np.zeros(20), np.repeat([1, 0], 10)), "only pairs of one kind"),
        (lambda: ten_fold_metrics(np.zeros(20), np.arange(20) % 2, np.zeros(19)), "folds: shape"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, said):
    with pytest.raises(TgfrError, match=said):
        call()


def test_command_line(tmp_path, capsys):
    "Two sets, one of them cut off: it is named, the other is judged."
    faces = synthetic_faces(people=12, photos=2)["image"]
    pairs = [(2 * p, 2 * p + k if k else (2 * p + 2) % 24) for p in range(12) for k in (1, 0)]
    whole = pickle.dumps(([faces[i]["bytes"] for pair in pairs for i in pair], [True, False] * 12))
    (tmp_path / "whole.bin").write_bytes(whole), (tmp_path / "cut.bin").write_bytes(whole[:5000])
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32), tmp_path / "encoder")
    main(
        [
            "verify",
            str(tmp_path / "whole.bin"),
            str(tmp_path / "cut.bin"),
            "--encoder",
            str(tmp_path / "encoder"),
            "--out",
            str(tmp_path / "out"),
            "--folds",
            "3",
            "--far",
            "0.2",
        ]
    )
    said, found = capsys.readouterr().out, json.loads((tmp_path / "out" / "verification.json").read_text())
    assert (
        f"whole: accuracy {found['whole']['accuracy']:.4f}" in said
        and "cut: left out" in said
        and 0 <= found["whole"]["accuracy"] <= 1
    )


def test_no_set_at_all_is_refused(tmp_path, refusal):
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32, size=32), tmp_path / "encoder")
    (tmp_path / "no.bin").write_bytes(b"?")
    for sets, reason in ((["no.bin"], "no.bin"), (["no.bin", "a/no.bin"], "two sets are called no")):
        assert reason in refusal(
            "verify", *(str(tmp_path / s) for s in sets), "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path)
        )


def test_images_that_are_no_aligned_crops_are_counted(tmp_path, capsys):
    "MobileFaceNet (zhanglaplace) #8, insightface #1107: crops of 112x96 and raw photos of 250x250 in a .bin."
    faces = [read_image(row) for row in synthetic_faces(people=12, photos=2)["image"]]
    pairs = [(2 * p, 2 * p + k if k else (2 * p + 2) % 24) for p in range(12) for k in (1, 0)]
    forms = {
        "aligned": lambda f: f,
        "narrow": lambda f: f[:, 8:104],
        "raw": lambda f: cv2.copyMakeBorder(f, 69, 69, 69, 69, cv2.BORDER_REFLECT),
    }
    for name, form in forms.items():
        images = [encode_jpeg(form(faces[i])) for pair in pairs for i in pair]
        (tmp_path / f"{name}.bin").write_bytes(pickle.dumps((images, [True, False] * 12)))
    broken = bytearray(images[3])
    broken[len(broken) // 2 : len(broken) // 2 + 40] = bytes(40)
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(([*images[:3], bytes(broken), *images[4:]], [True, False] * 12)))
    encoder = IResNet((1, 1, 1, 1), width=4, embedding=32)
    found = verify([tmp_path / f"{name}.bin" for name in forms], encoder, tmp_path / "out", folds=3, far=0.2)
    said = capsys.readouterr().err
    assert "warnings" not in found["aligned"] and "features/aligned" not in said
    assert (
        "48 of the 48 photos are not square (48 of 96 x 112" in found["narrow"]["warnings"][0]
        and "8 columns a side" in said
    )
    assert (
        "48 of 250 x 250" in found["raw"]["warnings"][0]
        and "align those first" in said
        and "000003 (Corrupt JPEG data" in said
    )
    assert found == json.loads((tmp_path / "out/verification.json").read_text())


def test_pairs_of_one_file_are_told(tmp_path, capsys):
    "MagFace #56, insightface #620: one photo on both sides of a pair, and pairs that stand in a set twice."
    faces = [row["bytes"] for row in synthetic_faces(people=6, photos=2)["image"]]
    pairs = [
        pair for p in range(6) for pair in ((faces[2 * p], faces[2 * p + 1]), (faces[2 * p], faces[(2 * p + 2) % 12]))
    ]
    pairs[0], pairs[4] = (faces[0], faces[0]), (faces[3], faces[2])
    for name, some in ("twice", pairs), ("sound", pairs[1:4] + pairs[5:8]):
        (tmp_path / f"{name}.bin").write_bytes(
            pickle.dumps(
                (
                    [image for pair in some for image in pair],
                    [some[k][0] != some[k][1] and pairs.index(some[k]) % 2 == 0 for k in range(len(some))],
                )
            )
        )
    verify(
        [tmp_path / "twice.bin", tmp_path / "sound.bin"],
        IResNet((1, 1, 1, 1), width=4, embedding=32),
        tmp_path / "out",
        folds=2,
        far=0.2,
    )
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "twice.bin: of 12 pairs 1 compare a file with itself, and 1 repeat an earlier pair" in said
        and "sound.bin: of" not in said
    )

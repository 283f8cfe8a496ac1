"""Metrics: the published scripts' recorded figures, scikit-learn, and the definitions written out as loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from tgfr.core import TgfrError, rng
from tgfr.evaluation.metrics import accuracy, auc, cmc, eer, false_accepts, mate_ranks, roc, split_scores, tpr_at_fpr

PUBLISHED_FPRS = (1e-5, 1e-4, 1e-3)

# few distinct values, so that most examples have ties within and across the two kinds
some_scores = st.lists(st.integers(-4, 4), min_size=1, max_size=25).map(lambda x: np.array(x) / 4)
rates = st.one_of(st.floats(0, 1), st.sampled_from([0, 0.1, 0.2, 0.25, 0.29, 0.5, 1]))


def labelled(genuine, impostor, *keys):
    "Both kinds in one shuffled list: scores, labels."
    scores, labels = np.concatenate([genuine, impostor]), np.repeat([1, 0], [len(genuine), len(impostor)])
    order = rng("shuffle", *keys).permutation(len(scores))
    return scores[order], labels[order]


def rank_one(scores, probe_ids, gallery_ids):
    "The share of mated probes whose mate comes first."
    return cmc(mate_ranks(scores, probe_ids, gallery_ids), (1,))[0]


def points(genuine, impostor):
    "Every (FPR, TPR) of accepting `score >= threshold`, from the strictest, as fractions of whole numbers."
    thresholds = [np.inf, *sorted({*genuine.tolist(), *impostor.tolist()}, reverse=True)]
    return [((impostor >= t).sum() / len(impostor), (genuine >= t).sum() / len(genuine)) for t in thresholds]


@pytest.mark.golden("tgfr_eval_metrics*")
def test_golden_published_figures(golden):
    cases = {k: v for k, v in golden.meta["expected"].items() if not k.startswith("ident")}
    assert cases
    for case, expected in cases.items():
        scores, labels = (golden.i[f"{case}.{k}"].numpy() for k in ("score", "label"))
        tpr = 100 * tpr_at_fpr(*split_scores(scores, labels), PUBLISHED_FPRS, "published")
        figures = {
            "auc": auc(*split_scores(scores, labels)),
            "eer": eer(*split_scores(scores, labels), "published"),
            "tpr_percent_at_fpr_1e5_1e4_1e3": tpr,
            "roc_points": len(roc(*split_scores(scores, labels)).fpr),
            "cal_accuracy": accuracy(scores, labels),
        }
        numbers = {k: v for k, v in expected.items() if k not in ("printed", "eer_is")}
        assert numbers.keys() <= figures.keys(), "a recorded figure is not checked"
        for key, value in numbers.items():
            np.testing.assert_allclose(figures[key], value, rtol=1e-9, atol=1e-12, err_msg=f"{case}: {key}")
        rates = " | ".join(f"TPR@FPR={name} {x:.4f}" for name, x in zip(("1e-5", "1e-4", "1e-3"), tpr))
        assert (
            expected["printed"]
            == f"AUC {figures['auc']:.4f} | EER {figures['eer']:.4f} | {rates} | score {tpr.sum():.4f}"
        )


@pytest.mark.golden("tgfr_eval_metrics*")
def test_golden_identification(golden):
    """The original asks for the diagonal; where the list has the genuine pair first, `gallery_ids` says so and gives
    the true figure."""
    cases = {k: v for k, v in golden.meta["expected"].items() if k.startswith("ident")}
    assert cases
    for case, expected in cases.items():
        scores = golden.i[case].numpy()
        people = np.arange(len(scores))
        printed = float(expected["printed"].split()[-1])
        assert 100 * rank_one(scores, people, people) == pytest.approx(printed), case
        assert expected.get("test_sub", len(scores)) == len(scores)
        if "true_rank1_percent" in expected:
            first = np.zeros(len(scores), int)
            assert 100 * rank_one(scores, first, np.arange(scores.shape[1])) == pytest.approx(
                expected["true_rank1_percent"]
            ), case


@given(some_scores, some_scores, st.booleans())
def test_roc_and_auc_are_scikit_learns(genuine, impostor, drop):
    scores, labels = labelled(genuine, impostor)
    ours, theirs = (
        roc(*split_scores(scores, labels), drop),
        sklearn_metrics.roc_curve(labels, scores, drop_intermediate=drop),
    )
    for x, y in zip((ours.fpr, ours.tpr, ours.thresholds), theirs):
        np.testing.assert_allclose(x, y, atol=1e-15)
    assert auc(*split_scores(scores, labels)) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert auc(genuine, impostor) == pytest.approx(np.trapezoid(ours.tpr, ours.fpr), abs=1e-12)


@given(some_scores, some_scores, rates)
def test_standard_tpr_is_the_best_at_most_that_fpr(genuine, impostor, fpr):
    best = max(t for f, t in points(genuine, impostor) if f <= fpr * (1 + 1e-12))
    assert tpr_at_fpr(genuine, impostor, fpr) == pytest.approx([best])
    assert tpr_at_fpr(*split_scores(*labelled(genuine, impostor)), fpr) == pytest.approx([best])


@given(some_scores, some_scores, rates)
def test_published_tpr_is_at_the_nearest_point(genuine, impostor, fpr):
    curve = roc(genuine, impostor)
    distance = np.abs(curve.fpr - fpr).min()
    best = max(t for f, t in zip(curve.fpr, curve.tpr) if abs(f - fpr) == distance)
    assert tpr_at_fpr(genuine, impostor, fpr, "published") == pytest.approx([best])


@given(some_scores, some_scores)
def test_eer_is_where_the_lines_cross(genuine, impostor):
    "Of neighbouring points of the complete curve, those between which FPR - FNR changes sign; the crossing solved for."
    fpr, fnr = (np.array(x) for x in zip(*((f, 1 - t) for f, t in points(genuine, impostor))))
    j = (fpr - fnr >= -1e-12).argmax()
    a, b = fnr[j - 1] - fpr[j - 1], fpr[j] - fnr[j]
    assert eer(genuine, impostor) == pytest.approx((fpr[j - 1] * b + fpr[j] * a) / (a + b), abs=1e-9)
    curve = roc(genuine, impostor)
    nearest = min(enumerate(zip(curve.fpr, 1 - curve.tpr)), key=lambda p: (abs(p[1][1] - p[1][0]), -p[0]))[1][0]
    assert eer(*split_scores(*labelled(genuine, impostor)), "published") == nearest


@given(some_scores, some_scores)
def test_accuracy_is_the_best_of_all_thresholds(genuine, impostor):
    scores, labels = labelled(genuine, impostor)
    slow = [np.mean((scores >= t) == labels) for t in scores]
    assert accuracy(scores, labels) == (pytest.approx(max(slow)), scores[np.argmax(slow)])


@given(some_scores, some_scores)
def test_figures_do_not_depend_on_order_or_scale(genuine, impostor):
    """A rising map of the scores and another order of the pairs change nothing; exchanging the kinds and the sign
    changes neither EER nor AUC."""
    one, two = labelled(genuine, impostor, 1), labelled(np.exp(genuine), np.exp(impostor), 2)
    for metric in (auc, eer, tpr_at_fpr):
        np.testing.assert_array_equal(metric(*split_scores(*one)), metric(*split_scores(*two)))
    assert accuracy(*one)[0] == accuracy(*two)[0]
    assert auc(-impostor, -genuine) == pytest.approx(auc(genuine, impostor), abs=1e-12)
    assert eer(-impostor, -genuine) == pytest.approx(eer(genuine, impostor), abs=1e-12)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=50)
def test_mate_ranks_is_the_loop(probes, gallery, seed):
    draw = rng("ranks", seed)
    scores, probe_ids, gallery_ids = (
        draw.integers(5, size=(probes, gallery)),
        draw.integers(6, size=probes),
        draw.integers(6, size=gallery),
    )
    expected = []
    for row, person in zip(scores, probe_ids):
        mates = [s for s, g in zip(row, gallery_ids) if g == person]
        expected.append(sum(s >= max(mates) for s, g in zip(row, gallery_ids) if g != person) if mates else -1)
    found = mate_ranks(scores, probe_ids, gallery_ids)
    np.testing.assert_array_equal(found, expected)
    if (found >= 0).any():
        curve = cmc(mate_ranks(scores, probe_ids, gallery_ids), range(1, gallery + 1))
        assert (np.diff(curve) >= 0).all() and curve[-1] == 1 and curve[0] == rank_one(scores, probe_ids, gallery_ids)


@given(st.integers(1, 2000), st.data())
def test_false_accepts_of_a_ratio_is_its_numerator(impostors, data):
    "k / m as a float must allow k, whatever the last bit of k / m says."
    k = data.draw(st.integers(0, impostors))
    assert false_accepts(k / impostors, impostors).tolist() == [k]
    if k:
        assert false_accepts((k - 0.001) / impostors, impostors).tolist() == [k - 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standard_threshold_is_an_order_statistic(dtype):
    draw = rng("order statistic")
    genuine, impostor = (
        draw.normal(0.3, 0.2, 600).round(2).astype(dtype),
        draw.normal(0, 0.2, 3400).round(2).astype(dtype),
    )
    falling = np.sort(impostor)[::-1]
    for fpr in (0.3, 0.1, 0.01, 0.001):
        assert tpr_at_fpr(genuine, impostor, fpr) == [(genuine > falling[int(fpr * 3400)]).mean()]


def test_scores_that_say_nothing_earn_nothing():
    same, people = np.ones((5, 5)), np.arange(5)
    assert rank_one(same, people, people) == 0
    assert tpr_at_fpr(np.ones(9), np.ones(50), (1e-3, 0.5, 1)).tolist() == [0, 0, 1]
    assert eer(np.ones(9), np.ones(50)) == auc(np.ones(9), np.ones(50)) == 0.5


def test_perfect_and_hopeless_scores():
    high, low = np.linspace(1, 2, 20), np.linspace(-1, 0, 300)
    assert tpr_at_fpr(high, low, (0, 1e-3)).tolist() == [1, 1] and eer(high, low) == 0 and auc(high, low) == 1
    assert tpr_at_fpr(low, high, (0, 0.5)).tolist() == [0, 0] and eer(low, high) == 1 and auc(low, high) == 0


@pytest.mark.parametrize(
    "figure",
    [
        lambda s, y: roc(*split_scores(s, y)),
        lambda s, y: tpr_at_fpr(*split_scores(s, y), 0.1),
        lambda s, y: eer(*split_scores(s, y)),
        lambda s, y: auc(*split_scores(s, y)),
        accuracy,
    ],
    ids=["roc", "tpr", "eer", "auc", "accuracy"],
)
def test_every_figure_refuses_broken_pairs(figure):
    scores, labels = np.linspace(0, 1, 20), np.arange(20) % 2
    figure(scores, labels)
    for s, y, message in (
        (np.where(labels * scores == 1, np.nan, scores), labels, "index 19"),
        (scores, labels[1:], "shape"),
        (scores, 0 * labels, "no genuine"),
    ):
        with pytest.raises(TgfrError, match=message):
            figure(s, y)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: auc(*split_scores([0.1, np.nan, 0.3], [1, 0, 1])), "1 NaN, the first at index 1"),
        (lambda: mate_ranks([[1, 2], [3, np.nan]], [0, 1], [0, 1]), "index 1, 1"),
        (lambda: tpr_at_fpr([np.nan], [0.0]), "genuine"),
        (lambda: eer([0.0], [1.0, np.nan]), "impostor"),
        (lambda: split_scores([1, 2], [1, 1]), "no impostor pair among 2"),
        (lambda: split_scores([1, 2], [0, 0]), "no genuine pair among 2"),
        (lambda: split_scores([1, 2], [0, 2]), "2 at index 1"),
        (lambda: split_scores([1, 2], [0]), "shape"),
        (lambda: split_scores([], []), "at least one"),
        (lambda: split_scores(["a", "b"], [0, 1]), "expected numbers"),
        (lambda: tpr_at_fpr([2], [1], 1.5), "between 0 and 1"),
        (lambda: tpr_at_fpr([2], [1], -0.1, "published"), "between 0 and 1"),
        (lambda: eer([2], [1], "iso"), "'standard' or 'published'"),
        (lambda: rank_one([[1, 2]], [0], [0, 1, 2]), "3 gallery_ids"),
        (lambda: rank_one([[1, 2]], [7], [0, 1]), "none of them"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(TgfrError, match=message):
        call()

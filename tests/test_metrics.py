"evaluation.metrics: the published scripts' figures (goldens), scikit-learn's, and the definitions word for word."
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn_metrics

from tgfr.core import TgfrError
from tgfr.evaluation.metrics import (
    accuracy, auc, auc_of, cmc, eer, eer_of, false_accepts, mate_ranks, rank1, roc, roc_of, split_scores, tpr_at_fpr, tpr_of,
)


def cases(golden):
    "Name, scores, labels and expected figures of each verification case in the file."
    for name, expected in golden.meta["expected"].items():
        if f"{name}.score" in golden.i: yield name, golden.i[f"{name}.score"].numpy(), golden.i[f"{name}.label"].numpy(), expected


@pytest.mark.golden("tgfr_eval_metrics*")
def test_golden_published_verification(golden):
    for name, scores, labels, expected in cases(golden):
        percent = 100 * tpr_at_fpr(scores, labels, (1e-5, 1e-4, 1e-3), "published")
        np.testing.assert_allclose(percent, expected["tpr_percent_at_fpr_1e5_1e4_1e3"], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose([auc(scores, labels), eer(scores, labels, "published")], [expected["auc"], expected["eer"]], rtol=1e-12, err_msg=name)
        assert len(roc(scores, labels).fpr) == expected["roc_points"], name
        assert percent.sum() == pytest.approx(float(re.search(r"score ([\d.]+)", expected["printed"])[1]), abs=1e-4), name
        if "cal_accuracy" in expected: assert accuracy(scores, labels) == tuple(expected["cal_accuracy"]), name


@pytest.mark.golden("tgfr_eval_metrics*")
def test_golden_published_identification(golden):
    for name, expected in golden.meta["expected"].items():
        if not name.startswith("ident_"): continue
        scores = golden.i[name].numpy()
        order = np.arange(expected["test_sub"])
        assert 100 * rank1(scores, order, order) == pytest.approx(float(expected["printed"].split()[-1])), name
        if "true_rank1_percent" in expected:  # each probe's own block of scores, the genuine one first
            assert 100 * rank1(scores, np.zeros_like(order), order) == pytest.approx(expected["true_rank1_percent"]), name


def pairs(seed, n=4000, digits=2):
    draw = np.random.default_rng(seed)
    labels = draw.random(n) < .15
    return np.where(labels, draw.normal(.3, .2, n), draw.normal(0, .2, n)).round(digits), labels


@pytest.mark.parametrize("digits", [1, 2, 12])
@pytest.mark.parametrize("drop", [True, False])
def test_roc_and_auc_equal_sklearn(digits, drop):
    scores, labels = pairs(digits, digits=digits)
    curve, theirs = roc(scores, labels, drop), sklearn_metrics.roc_curve(labels, scores, drop_intermediate=drop)
    for mine, expected in zip((curve.fpr, curve.tpr, curve.thresholds), theirs): np.testing.assert_allclose(mine, expected, rtol=1e-12)
    assert auc(scores, labels) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12)


few = hnp.arrays(np.float64, st.integers(1, 30), elements=st.integers(-4, 4).map(float))


@settings(deadline=None, max_examples=150)
@given(few, few, st.sampled_from([0, .01, .05, .1, .25, .29, .5, .9, 1]))
def test_standard_tpr_is_the_largest_within_the_fpr(genuine, impostor, fpr):
    thresholds = [-np.inf, *genuine, *impostor]
    best = max((genuine > t).mean() for t in thresholds if (impostor > t).mean() <= fpr)
    assert tpr_of(genuine, impostor, fpr)[0] == best


@settings(deadline=None, max_examples=150)
@given(few, few)
def test_eer_lies_on_the_polyline_and_both_sides_agree(genuine, impostor):
    curve = roc_of(genuine, impostor)
    gap = curve.fpr + curve.tpr - 1
    j = (gap >= 0).argmax()
    expected = curve.fpr[j - 1] + (curve.fpr[j] - curve.fpr[j - 1]) * gap[j - 1] / (gap[j - 1] - gap[j])
    assert eer_of(genuine, impostor) == pytest.approx(expected, abs=1e-12)
    assert eer_of(-impostor, -genuine) == pytest.approx(expected, abs=1e-12)  # swapping the roles mirrors the curve
    assert auc_of(genuine, impostor) + auc_of(impostor, genuine) == pytest.approx(1)


def test_standard_threshold_by_order_statistic():
    scores, labels = pairs(3)
    genuine, impostor = split_scores(scores, labels)
    falling = np.sort(impostor)[::-1]
    for f in (.3, .1, .01, .001): assert tpr_at_fpr(scores, labels, f)[0] == (genuine > falling[int(f * len(impostor))]).mean()
    assert false_accepts((.29, 1e-5, 1), 100).tolist() == [29, 0, 100]
    assert tpr_of(genuine.astype(np.float32), impostor.astype(np.float32), .1) == tpr_of(genuine, impostor, .1)


def test_accuracy_equals_the_loop_and_takes_the_first():
    scores, labels = pairs(4, 500, 1)
    loop = [((scores >= t) == labels).mean() for t in scores]
    assert accuracy(scores, labels) == (max(loop), scores[np.argmax(loop)])


def test_mate_ranks_by_loop_with_ties_and_strangers():
    draw = np.random.default_rng(0)
    scores, probes, gallery = draw.integers(0, 6, (50, 20)).astype(float), draw.integers(0, 14, 50), draw.integers(0, 10, 20)
    expected = []
    for row, p in zip(scores, probes):
        mates = [s for s, g in zip(row, gallery) if g == p]
        expected.append(sum(s >= max(mates) for s, g in zip(row, gallery) if g != p) if mates else -1)
    assert mate_ranks(scores, probes, gallery).tolist() == expected and -1 in expected
    mated = np.array([r for r in expected if r >= 0])
    assert cmc(scores, probes, gallery, (1, 3, 21)).tolist() == [(mated < 1).mean(), (mated < 3).mean(), 1]


@pytest.mark.parametrize("make, text", [
    (lambda s, y: (np.where(np.arange(len(s)) == 12, np.nan, s), y), "index 12"),
    (lambda s, y: (s, np.ones_like(y)), "no impostor"),
    (lambda s, y: (s, np.zeros_like(y)), "no genuine"),
    (lambda s, y: (s, y[:-1]), "labels: shape"),
    (lambda s, y: (s, y * 2), "expected 0 or 1"),
    (lambda s, y: (s[:0], y[:0]), "at least one"),
])
@pytest.mark.parametrize("figure", [roc, lambda s, y: tpr_at_fpr(s, y, .1), eer, auc, accuracy])
def test_bad_pairs_are_refused(make, text, figure):
    scores, labels = pairs(5, 50)
    with pytest.raises(TgfrError, match=text): figure(*make(scores, labels.astype(int)))


def test_bad_arguments_are_refused():
    with pytest.raises(TgfrError, match="genuine: 1 NaN, the first at index 1"): eer_of([0, np.nan], [0])
    with pytest.raises(TgfrError, match="'exact', expected"): tpr_of([1], [0], .1, "exact")
    with pytest.raises(TgfrError, match="between 0 and 1"): tpr_of([1], [0], 2)
    with pytest.raises(TgfrError, match="index 0, 1"): rank1([[0, np.nan]], [0], [0, 1])
    with pytest.raises(TgfrError, match="3 gallery_ids"): rank1([[0, 1]], [0], [0, 1, 2])
    with pytest.raises(TgfrError, match="none of them"): rank1([[0, 1]], [5], [0, 1])

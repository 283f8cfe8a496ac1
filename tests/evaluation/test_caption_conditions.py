"""The table of caption conditions, with systems whose right answer is known by counting pairs."""

import numpy as np
import pytest

from tgfr.core import TgfrError, rng
from tgfr.data.caption_changes import swap_captions
from tgfr.evaluation.bootstrap import PersonBootstrap
from tgfr.evaluation.caption_conditions import (
    CaptionResult,
    caption_conditions,
    caption_report_table,
    caption_table,
    pool_captions,
)
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.results import Report
from tgfr.report.page import render_html

TPR2, TPR3 = Metric("TPR", 1e-2), Metric("TPR", 1e-3)
IDENTITY = np.repeat(np.arange(50), 4)
CAPTIONS = [[f"She has bangs. {person}{' again' * k}" for k in range(5)] for person in IDENTITY]
BOOTSTRAP = PersonBootstrap(IDENTITY, 60)


def person_of(captions):
    "The person that the first caption of each photo names; -1 without, or where the word was masked."
    numbers = [[int(word) for word in " ".join(texts[:1]).split() if word.isdigit()] for texts in captions]
    return np.array([found[0] if found else -1 for found in numbers])


def knows_names(gallery, probe):
    "1 where both captions name one person; captions on one side give 0."
    first, second = person_of(gallery), person_of(probe)
    return ((first[:, None] == second) & (first[:, None] >= 0)).astype(np.float32)


@pytest.fixture(scope="module")
def results():
    return {r.condition: r for r in caption_table(knows_names, CAPTIONS, IDENTITY, BOOTSTRAP, seen_at=None)}


def accepted(gallery, probe):
    "The share of genuine pairs in which both name one person, by a loop over pairs."
    counts = []
    for i, a in enumerate(person_of(gallery)):
        for j, b in enumerate(person_of(probe)):
            if i != j and IDENTITY[i] == IDENTITY[j]:
                counts.append(a == b >= 0)
    return np.mean(counts)


def test_conditions_come_as_promised():
    conditions = {c.text: c for c in caption_conditions(CAPTIONS, IDENTITY, seen_at=None)}
    assert len(conditions) == 25 and next(iter(conditions)) == "no captions"
    lengths = {text: ({*map(len, c.gallery)}, {*map(len, c.probe)}) for text, c in conditions.items()}
    for text, count in ("one caption", 1), ("3 captions", 3), ("all captions", 5):
        assert lengths[text] == ({count}, {count})
        assert lengths[f"{text}, probe only"] == ({0}, {count})
        assert lengths[f"{text}, gallery only"] == ({count}, {0})
    assert lengths["half of the photos without"] == ({0, 5}, {0, 5})
    for text, condition in conditions.items():
        assert (condition.gallery is condition.probe) == ("only" not in text)
    for count, text in (1, "one caption"), (5, "all captions"):
        for share in (10, 25, 100):
            changed = conditions[f"{share}% wrong, {text}"].probe
            expected = swap_captions(CAPTIONS, IDENTITY, share / 100)
            assert changed == [of_photo[:count] for of_photo in expected]
            probe_only = conditions[f"{share}% wrong, {text}, probe only"]
            assert probe_only.probe == changed
            assert probe_only.gallery == [of_photo[:count] for of_photo in CAPTIONS]


def test_counts_that_are_all_there_are_stand_once():
    for most, texts in (1, ["all captions"]), (3, ["one caption", "all captions"]):
        few = [of_photo[:most] for of_photo in CAPTIONS]
        conditions = caption_conditions(few, IDENTITY, seen_at=None)
        assert [c.text for c in conditions if c.group == "both sides"] == texts


def test_a_system_that_reads_names(results):
    """True captions tell everybody apart, captions on one side nobody; of wrong ones the share of genuine pairs that
    still agree is counted. Where at most one impostor pair in a hundred agrees, TPR at FPR 1e-2 is that share."""
    assert results["all captions"].values[TPR2] == results["one caption"].values[TPR2] == 1
    for text in ("no captions", "all captions, probe only", "3 captions, gallery only"):
        assert results[text].values[TPR2] == 0
    for condition in caption_conditions(CAPTIONS, IDENTITY, seen_at=None):
        scores = knows_names(condition.gallery, condition.probe)
        impostor = IDENTITY[:, None] != IDENTITY
        if scores[impostor].mean() <= 1e-2:
            expected = accepted(condition.gallery, condition.probe)
            assert results[condition.text].values[TPR2] == pytest.approx(expected), condition.text
    assert results["10% wrong, all captions, probe only"].values[TPR2] == pytest.approx(0.9)
    assert results["100% wrong, all captions, probe only"].values[TPR2] == 0


def test_differences_are_paired_with_no_captions(results):
    assert results["no captions"].differences == {}
    for result in list(results.values())[1:]:
        value, low, high = result.differences[TPR2]
        assert value == pytest.approx(result.values[TPR2] - results["no captions"].values[TPR2])
        assert low <= value <= high
        assert result.significant(TPR2) == (low > 0 or high < 0)
    assert results["half of the photos without"].significant(TPR2)
    assert not results["all captions, probe only"].significant(TPR2)
    assert set(results["all captions"].values) == {TPR2, TPR3}  # no other metric


def test_the_face_alone_is_the_same_everywhere():
    draw = rng("caption conditions", 1)
    face = draw.normal(size=(50, 16))[IDENTITY] + draw.normal(size=(200, 16))
    found = caption_table(lambda gallery, probe: face @ face.T, CAPTIONS, IDENTITY, BOOTSTRAP, seen_at=None)
    assert len({tuple(result.values.values()) for result in found}) == 1
    assert {result.differences[TPR2] for result in found[1:]} == {(0, 0, 0)}


def test_captions_of_a_small_size_are_a_condition_of_the_grammar():
    captions = [["She has bangs, and big nose."] for _ in IDENTITY]
    seen = {c.text: c for c in caption_conditions(captions, IDENTITY)}["what is seen at 16 px"]
    assert seen.gallery == seen.probe == [["She has bangs."]] * 200
    with pytest.raises(TgfrError, match="not in the grammar"):
        caption_conditions(CAPTIONS, IDENTITY)


@pytest.mark.parametrize("where", [(3, 7), (5, 5)], ids=["pair", "diagonal"])
@pytest.mark.parametrize("text", ["no captions", "one caption, gallery only", "50% of words masked"])
def test_a_score_that_is_no_number_names_its_condition(where, text):
    wrong = {c.text: c for c in caption_conditions(CAPTIONS, IDENTITY, seen_at=None)}[text]

    def score(gallery, probe):
        scores = knows_names(gallery, probe)
        if (gallery, probe) == (wrong.gallery, wrong.probe):
            scores[where] = np.nan
        return scores

    with pytest.raises(TgfrError, match=f"score: 1 of 40,000 are NaN with '{text}'"):
        caption_table(score, CAPTIONS, IDENTITY, BOOTSTRAP, seen_at=None)


def test_wrong_shapes_and_people_are_errors():
    with pytest.raises(TgfrError, match=r"score: shape \(2,\) with 'no captions', expected \(200, 200\)"):
        caption_table(lambda gallery, probe: [0, 1], CAPTIONS, IDENTITY, BOOTSTRAP, seen_at=None)
    with pytest.raises(TgfrError, match="identity: other people"):
        caption_table(knows_names, CAPTIONS, IDENTITY[::-1] // 2, BOOTSTRAP, seen_at=None)
    with pytest.raises(TgfrError, match="captions: no photo has one"):
        caption_table(knows_names, [[]] * 200, IDENTITY, BOOTSTRAP)


def test_the_table_is_one_of_a_report(results):
    table = caption_report_table(list(results.values()))
    assert len(table["rows"]) == 25 and table["columns"][1:3] == [str(TPR2), f"{TPR2}, difference from no captions"]
    result = CaptionResult("g", "made up", {TPR2: 0.5, TPR3: 0.25}, {TPR2: (0.4, 0.6)}, {TPR2: (-0.1, -0.2, -0.05)})
    row = caption_report_table([result])["rows"][0]
    assert row == ["made up", ".500 (.400 to .600)", "-.100* (-.200 to -.050)", ".250", "–"]
    page = render_html(Report("Captions", tables={"Captions of all kinds": table}))
    assert "half of the photos without" in page and "Captions of all kinds" in page


def test_seeds_are_pooled_condition_by_condition():
    "Means over seeds; differences from no captions of the same seeds; one seed twice is that seed."
    noise = np.random.default_rng(3).normal(size=(2, 200, 200))

    def scores(seed):
        return lambda gallery, probe: knows_names(gallery, probe) + 0.5 * noise[seed]

    runs = [caption_table(scores(seed), CAPTIONS, IDENTITY, BOOTSTRAP, seen_at=None) for seed in (0, 1)]
    pooled = pool_captions(runs)
    assert [row.condition for row in pooled] == [row.condition for row in runs[0]]
    for mean, *each in zip(pooled, *runs):
        assert mean.group == each[0].group and list(mean.values) == list(each[0].values)
        for metric, value in mean.values.items():
            assert value == pytest.approx(np.mean([row.values[metric] for row in each]))
        for metric, (difference, low, high) in mean.differences.items():
            assert difference == pytest.approx(np.mean([row.differences[metric][0] for row in each]))
            assert low <= difference <= high
    twice = pool_captions([runs[0], runs[0]])
    assert [row.values for row in twice] == [row.values for row in runs[0]]

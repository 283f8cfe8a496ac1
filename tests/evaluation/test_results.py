"""Which captions a system read, in conditions, files and their schema; earlier files still read."""

from typing import get_args, get_type_hints

import pytest

from tgfr.core import TgfrError
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.results import CAPTIONS, SCHEMA, Condition, Report, ResultRow

SIDES = {"first-probe", "first-gallery", "all-probe", "all-gallery"}


def test_choices_of_captions_are_the_same_everywhere():
    assert list(get_args(get_type_hints(Condition)["captions"])) == list(CAPTIONS)
    row = SCHEMA["properties"]["results"]["items"]["properties"]["condition"]["properties"]
    assert row["captions"]["enum"] == list(CAPTIONS)
    assert CAPTIONS.keys() == {"none", "first", "all"} | SIDES
    with pytest.raises(TgfrError, match="captions 'probe'"):
        Condition("16px", "probe")


@pytest.mark.parametrize("captions", CAPTIONS)
def test_captions_of_one_side_come_back_from_a_file(captions):
    row = ResultRow("residual", Condition("16px", captions, 16), {Metric("EER"): 0.1})
    report = Report("Sides", [row], "residual")
    again = Report.from_json(report.to_json())
    assert again.results == [row] and again.select(captions=[captions]).results == [row]
    assert again.probes == [Condition("16px", resolution=16)]


def test_reports_of_before_still_read():
    row = {"system": "residual", "condition": {"label": "16px", "captions": "first"}, "values": {}, "interval": {}}
    old = {"version": 1, "title": "t", "reference": "", "results": [row]}
    assert Report.from_json(old).results[0].condition.captions == "first"
    row = {"system": "residual", "probe": "16px", "mode": "one", "values": {}, "interval": {}}
    older = {"title": "t", "reference": "", "results": [row]}
    assert Report.from_json(older).results[0].condition == Condition("16px", "first", 16)

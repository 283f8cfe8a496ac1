"""What the charts of captions show, read back from their lines."""

from collections import Counter

import numpy as np
import pytest
from matplotlib.figure import Figure

from tgfr.core import TgfrError
from tgfr.evaluation.caption_conditions import CaptionResult
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.results import CAPTIONS, Condition, Report, ResultRow
from tgfr.report.charts import MARKERS, plot_caption_conditions, plot_intervals
from tgfr.report.page import render_html
from tgfr.report.tables import results_table

TPR2 = Metric("TPR", 1e-2)


def report_of(kinds):
    "Two systems, one of them with captions of some kinds."
    rows = [ResultRow("image-only head", Condition("16px", resolution=16), {TPR2: 0.5}, {TPR2: (0.4, 0.6)})]
    for k, captions in enumerate(kinds):
        value, condition = 0.55 + 0.05 * k, Condition("16px", captions, 16)
        differences = {TPR2: (value - 0.5, value - 0.52, value - 0.48)}
        interval = {TPR2: (value - 0.1, value + 0.1)}
        rows.append(ResultRow("residual", condition, {TPR2: value}, interval, differences))
    return Report("Sides", rows, "image-only head")


def dots(ax):
    "The places and marks of dots."
    lines = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker()) for line in lines]


def test_each_choice_of_captions_has_a_mark():
    assert MARKERS.keys() == CAPTIONS.keys() and len(set(MARKERS.values())) == len(MARKERS)


@pytest.mark.parametrize("kinds", [["first", "all"], ["all", "all-probe"], list(CAPTIONS)[1:]], ids=len)
def test_captions_of_one_side_have_places_of_their_own(kinds):
    ax = plot_intervals(report_of(kinds))
    figure = ax.figure
    drawn = [dot for panel in figure.axes[1:] for dot in dots(panel)]
    assert Counter(mark for _, _, mark in drawn) == Counter(MARKERS[kind] for kind in ["none", *kinds])
    places = [y for _, y, _ in drawn]
    assert len(set(places)) == len(places) and max(abs(y - round(y)) for y in places) < 0.5
    texts = [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]
    named = [text for text in texts if text in CAPTIONS.values()]
    assert named == [text for kind, text in CAPTIONS.items() if kind in ["none", *kinds]]


def test_the_two_usual_choices_stand_where_they_stood():
    places = {mark: y for _, y, mark in dots(plot_intervals(report_of(["first", "all"])).figure.axes[1])}
    assert places == {"D": 0, "o": pytest.approx(0.84), "s": pytest.approx(1.16)}


def test_tables_and_pages_name_the_side():
    report = report_of(list(CAPTIONS)[1:])
    (lines,) = results_table(report)[1].values()
    assert [line.captions for line in lines] == list(CAPTIONS)
    page = render_html(report)
    assert all(text in page for text in CAPTIONS.values())


RESULTS = [
    CaptionResult("no captions", "no captions", {TPR2: 0.5}, {}, {}),
    CaptionResult("a", "helps", {TPR2: 0.6}, {}, {TPR2: (0.1, 0.05, 0.15)}),
    CaptionResult("b", "harms", {TPR2: 0.4}, {}, {TPR2: (-0.1, -0.15, -0.05)}),
    CaptionResult("a", "neither", {TPR2: 0.51}, {}, {TPR2: (0.01, -0.02, 0.04)}),
]


def test_differences_are_drawn_in_groups_with_their_intervals():
    ax = plot_caption_conditions(RESULTS, ax=Figure().add_subplot())
    order = [RESULTS[1], RESULTS[3], RESULTS[2]]
    assert [label.get_text() for label in ax.get_yticklabels()] == [result.condition for result in order]
    assert ax.get_yticks().tolist() == [1, 2, 4] and [text.get_text() for text in ax.texts] == ["a", "b"]
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    assert [tuple(line.get_xdata()) for line in bars] == [result.differences[TPR2][1:] for result in order]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    hollow = [line.get_markerfacecolor() == "white" for line in points]
    assert hollow == [False, True, False]
    np.testing.assert_allclose([line.get_xdata()[0] for line in points], [0.1, 0.01, -0.1])


def test_without_differences_there_is_no_chart():
    with pytest.raises(TgfrError, match="no difference in TPR@FPR=1e-2 is known"):
        plot_caption_conditions(RESULTS[:1])
    with pytest.raises(TgfrError, match="no difference in EER"):
        plot_caption_conditions(RESULTS, Metric("EER"))

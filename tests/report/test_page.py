"""Reports: three outputs of one table that agree, a self-contained page, figures that leave global state alone."""

import base64
import io
import json
import re
import string
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from tgfr.core import TgfrError, rng
from tgfr.evaluation.metrics import Metric, roc, tpr_at_fpr
from tgfr.evaluation.results import CAPTIONS, Condition, Report, ResultRow, format_rate
from tgfr.report import charts as plots
from tgfr.report import pictures
from tgfr.report.page import render_html, write_report
from tgfr.report.tables import definitions, markdown_table, print_table, results_table, summaries

TPR2, EER, RANK1 = METRICS = [Metric("TPR", 1e-2), Metric("EER"), Metric("rank", 1)]
HOSTILE = '</td><script>alert(1)</script><img src=x onerror="alert(1)"> & $title | "quoted"'
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    "The elements of a page, its tables as lists of rows of text, and whether tags are balanced."

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.tables, self.text, self.cell = [], [], [], "", None
        self.feed(text), self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.cell = []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[-1][-1].append(" ".join(self.cell))
            self.cell = None

    def handle_data(self, data):
        self.text += data
        if self.cell is not None:
            self.cell.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def made_up(seed=0):
    "A report with drawn values: three systems, two probe sizes, a system without captions and one with both choices."
    draw, results = rng("test report", seed), []
    for size in 16, 112:
        for system, captions in (
            ("linear", "all"),
            ("image-only head", "none"),
            ("linear", "first"),
            ("residual", "first"),
            ("residual", "all"),
        ):
            values = {m: float(draw.random()) for m in METRICS}
            intervals = {m: (v - 0.02, v + 0.02) for m, v in values.items()}
            differences = {}
            for m in METRICS if captions != "none" else ():
                delta = float(draw.normal(0, 0.03))
                differences[m] = (delta, delta - 0.02, delta + 0.02)
            condition = Condition(f"{size}px", captions, resolution=size)
            results.append(ResultRow(system, condition, values, intervals, differences))
    return Report(
        "A test",
        results,
        "image-only head",
        warnings=[],
        data={"people": 20_000},
        setup={"encoder": "none", "lr": 1e-3},
        skipped={"count": 1, "items": [["7/1", "no caption"]]},
        run={
            "minutes": 1.5,
            "peak_gb": 0.4,
            "machine": "here",
            "versions": {"tgfr": "0"},
            "command": "tgfr evaluate a && b",
        },
    )


def with_row(report, index, **changes):
    "The report with some fields of one row changed."
    rows = list(report.results)
    rows[index] = replace(rows[index], **changes)
    return replace(report, results=rows)


def with_name(report, system, name):
    "The report with a system called otherwise."
    return replace(report, results=[replace(r, system=name) if r.system == system else r for r in report.results])


def a_figure():
    figure = Figure((2, 1))
    figure.add_subplot().plot([0, 1])
    return figure


@pytest.fixture
def written(tmp_path):
    "A report full of hostile text, written with two figures."
    report = with_name(made_up(), "linear", HOSTILE)
    report = replace(
        report,
        title=HOSTILE,
        data=report.data | {HOSTILE: HOSTILE},
        setup=report.setup | {"$setup": HOSTILE},
        run=report.run | {"command": HOSTILE},
        skipped={"count": 5, "items": [[HOSTILE, HOSTILE]]},
    )
    figures = {"roc": (a_figure(), HOSTILE, HOSTILE), "16px / all": (a_figure(), "a line", "A line.")}
    path = write_report(tmp_path / "new" / "run", report, figures)
    return report, path, path.read_text(encoding="utf-8")


def printed(report, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    print_table(report, console=console)
    return console.file.getvalue()


def test_page_is_well_formed_and_accessible(written):
    page = Page(written[2])
    assert page.open == [] and written[2].startswith("<!DOCTYPE html>") and page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1
    heads = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert all(b <= a + 1 for a, b in zip(heads, heads[1:]))
    assert len(page.all("caption")) == len(page.tables) == 2
    assert page.all("th") and all(th["scope"] in ("col", "row", "rowgroup") for th in page.all("th"))
    assert "viewport" in [meta.get("name") for meta in page.all("meta")] and "prefers-color-scheme: dark" in written[2]


def test_page_needs_no_other_file(written):
    _, path, text = written
    page = Page(text)
    assert len(page.all("img")) == 2
    for image, file in zip(page.all("img"), ("roc.png", "16px-all.png")):
        assert image["alt"].strip()
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64" and base64.b64decode(data) == (path.parent / file).read_bytes()
        Image.open(path.parent / file).verify()
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "base") and "href" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?://|url\(|@import", text)
    assert (
        "default-src 'none'" in {m.get("http-equiv"): m for m in page.all("meta")}["Content-Security-Policy"]["content"]
    )


def test_hostile_text_is_shown_as_it_is(written):
    _, _, text = written
    page = Page(text)
    assert "<script" not in text and 'onerror="' not in text
    assert page.all("img")[0]["alt"] == HOSTILE
    assert (
        page.text.count(HOSTILE) >= 2 + 1 + 2 + 1 + 1 + 4
    )  # title twice, data, skipped item and reason, command, caption, rows
    assert "$setup" in page.text and "4 more" in page.text


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=40))
def test_any_name_survives_html_and_markdown(name):
    report = with_name(made_up(), "linear", name)
    page = Page(render_html(report))
    assert page.open == [] and any(row and row[0].startswith(name) for row in page.tables[0])
    lines = markdown_table(report).split("\n")
    assert lines.pop() == "" and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}


def test_json_round_trip(written):
    report, path, _ = written
    assert Report.from_json(path.parent / "report.json") == report
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "16px-all.pdf",
        "16px-all.png",
        "report.html",
        "report.json",
        "roc.pdf",
        "roc.png",
    ]


def test_numpy_numbers_are_written(tmp_path):
    report = made_up()
    for k, row in enumerate(report.results):
        report = with_row(report, k, values={m: np.float32(v) for m, v in row.values.items()})
    path = write_report(tmp_path, report)
    eer = report.results[0].values[EER]
    assert json.loads((tmp_path / "report.json").read_text())["results"][0]["values"]["EER"] == pytest.approx(eer)
    assert format_rate(eer) in path.read_text()


def test_the_three_outputs_agree():
    report = made_up()
    metrics, probes = results_table(report)
    page, terminal, markdown = Page(render_html(report)), printed(report), markdown_table(report, METRICS)
    cells = [cell for lines in probes.values() for line in lines for cell in line.cells]
    assert metrics == METRICS and len(cells) == 2 * 5 * 3

    shown = [cell for table in page.tables for row in table[1:] for cell in row[1:]]
    assert [re.findall(r"[+-]?\d?\.\d+", text) for text in shown] == [
        [c.value, *c.interval, *(c.difference or ())] for c in cells
    ]
    assert ["*" in text for text in shown] == [c.significant for c in cells]

    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines()]
    assert rows[0] == ["system", "captions", *(f"{probe.label}: {metric}" for probe in probes for metric in METRICS)]
    for k, probe in enumerate(probes):
        expected = [[f"{c.value} ({' to '.join(c.interval)}){c.star}" for c in line.cells] for line in probes[probe]]
        assert [row[2 + 3 * k : 5 + 3 * k] for row in rows[2:]] == expected

    for get in (lambda c: c.value, lambda c: "-".join(c.interval), lambda c: c.difference and c.difference[0] + c.star):
        expected = [get(c) for c in cells if get(c)]
        assert sorted(w for w in terminal.split() if w in set(expected)) == sorted(expected)
    assert any(c.significant for c in cells) and not all(c.significant for c in cells if c.difference)
    assert max(map(len, terminal.splitlines())) <= 80


def test_six_metrics_fit_into_80_columns():
    report = made_up()
    metrics = [*(Metric("TPR", fpr) for fpr in (1e-2, 1e-3, 1e-4)), EER, Metric("AUC"), RANK1]
    for k, row in enumerate(report.results):
        differences = dict.fromkeys(metrics, (-0.123, -0.124, -0.122)) if row.differences else {}
        values, intervals = dict.fromkeys(metrics, 0.5), dict.fromkeys(metrics, (0.998, 1.0))
        report = with_row(report, k, values=values, intervals=intervals, differences=differences)
    text = printed(report)
    assert text.count(".998-1.000") == 6 * len(report.results) and text.count("-.123*") == 6 * 8 and "…" not in text


def test_rows_are_grouped_by_captions():
    for lines in results_table(made_up())[1].values():
        captions = [line.captions for line in lines]
        assert captions == sorted(captions, key=list(CAPTIONS).index)
        assert [line.reference for line in lines] == [True] + [False] * 4


@pytest.mark.parametrize(
    "difference, significant",
    [((0.05, 0.01, 0.09), True), ((-0.05, -0.09, -0.01), True), ((0.01, -0.01, 0.03), False), ((0.0, 0.0, 0.0), False)],
)
def test_significant_is_an_interval_without_zero(difference, significant):
    report = made_up()
    report = with_row(report, -1, differences=report.results[-1].differences | {TPR2: difference})
    assert results_table(report)[1][Condition("112px", resolution=112)][-1].cells[0].significant == significant
    sentences = summaries(report)
    assert ("no significant difference" in sentences[-1]) == (not significant)
    start = {0.05: "Captions add +.050", -0.05: "Captions take .050"}.get(difference[0], "Captions make no")
    assert sentences[-1].startswith(start)
    assert len(sentences) == 4


def test_metrics_that_could_not_be_measured_are_dashes():
    values = {TPR2: None, EER: float("nan")}
    report = with_row(made_up(), 0, values=values, intervals={}, differences={})
    lines = results_table(report)[1][Condition("16px", resolution=16)]
    line = next(line for line in lines if (line.system, line.captions) == ("linear", "all"))
    assert [(c.value, c.interval, c.difference, c.significant) for c in line.cells] == [("–", None, None, False)] * 3
    assert "–" in render_html(report) and "–" in markdown_table(report) and "–" in printed(report)


def test_a_system_missing_at_one_probe_size_leaves_a_dash():
    report = made_up()
    kept = [row for row in report.results if (row.system, row.condition.resolution) != ("residual", 112)]
    rows = [r for r in markdown_table(replace(report, results=kept)).splitlines() if r.startswith("| residual")]
    assert len(rows) == 2 and all(row.endswith("| – |") for row in rows)


def test_definitions_follow_the_report():
    report = made_up()
    terms = definitions(report)
    assert "at most" in terms["TPR@FPR=f"] and "AUC" not in terms and "EER" in terms
    assert "nearest" in definitions(replace(report, definition="published"))["TPR@FPR=f"]
    text = Page(render_html(report)).text
    assert all(sentence in text for sentence in terms.values()) and "20,000" in text and "no caption" in text


def test_a_bare_report_is_enough(tmp_path):
    report = Report("t", [ResultRow("a", Condition("16px"), {EER: 0.1})], "a")
    assert "Nothing was left out" in write_report(tmp_path, report).read_text() and ".100" in printed(report)


def test_a_report_without_results_has_no_table():
    with pytest.raises(TgfrError, match="results is empty"):
        results_table(replace(made_up(), results=[]))


@pytest.mark.parametrize("missing", ["title", "results", "reference"])
def test_a_report_file_without_a_field_is_named(missing):
    content = made_up().to_json()
    del content[missing]
    with pytest.raises(TgfrError, match=f"no {missing}"):
        Report.from_json(content)


def test_wrong_metrics_and_figures_are_named(tmp_path):
    report = made_up()
    with pytest.raises(TgfrError, match="no result has AUC"):
        markdown_table(report, ["AUC"])
    with pytest.raises(TgfrError, match="'a' has no alt text"):
        write_report(tmp_path, report, {"a": (a_figure(), "", "")})
    with pytest.raises(TgfrError, match="taken"):
        write_report(tmp_path, report, {"a b": (a_figure(), "x", ""), "a/b": (a_figure(), "x", "")})
    assert not list(tmp_path.iterdir())


def contrast(a, b):
    "The WCAG contrast of two #rrggbb or #rgb colours."

    def luminance(c):
        c = c[1:] if len(c) == 7 else "".join(2 * x for x in c[1:])
        x = np.array([int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_contrast_is_at_least_7_in_both_schemes():
    blocks = re.findall(r":root \{([^}]*)\}", render_html(made_up()))
    schemes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks]
    assert len(schemes) == 2
    for scheme in schemes:
        assert all(
            contrast(scheme[text], scheme[back]) >= (7 if text == "ink" else 6)
            for text in ("ink", "soft", "mark")
            for back in ("page", "box")
        )


# ---- plots


def photo(seed=0):
    return rng("photo", seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)


def pair(captions=("a man", "he is old"), **scores):
    return dict(
        gallery=photo(0),
        probe=photo(1),
        captions=captions,
        scores=scores or {"residual": 0.4, "frozen face": -0.1},
        genuine=True,
    )


def every_figure():
    draw = rng("plots test")
    genuine, impostor = draw.normal(0.4, 0.2, 200), draw.normal(0, 0.2, 1000)
    curve = roc(genuine, impostor)
    log = [
        {"stage": s, "epoch": e, "seconds": 1.0, "loss_a": 2.0 / e, "loss_b": 90.0 / e, "score": 0.1 * e, "TPR": 0.5}
        for s in ("align", "fuse")
        for e in (1, 2, 3)
    ]
    return {
        "roc": plots.plot_roc({"residual": (curve.fpr, curve.tpr)}).figure,
        "scores": plots.plot_score_histograms(genuine, impostor, title="t").figure,
        "examples": pictures.plot_examples([pair(), pair()]).figure,
        "photos": pictures.plot_photos({"$5 a": photo(), "two\nlines": photo()}, width=1.2).figure,
        "words": pictures.plot_word_regions(photo(), ["a", "b"], draw.random((2, 7, 7))).figure,
        "cmc": plots.plot_cmc({"residual": ([1, 2], [0.5, 0.6])}).figure,
        "det": plots.plot_det({"residual": ([0.1, 0.2], [0.5, 0.4])}).figure,
        "training": plots.plot_training(log).figure,
        "intervals": plots.plot_intervals(made_up(), EER).figure,
    }


def overlaps(figure):
    "Pairs of visible texts of a drawn figure that cover each other, and texts that leave the figure."
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure).draw()
    shown = {}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and (box := text.get_window_extent()).width:
            shown[text] = box
    ticks = {
        t
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for t in axis.get_majorticklabels() + axis.get_minorticklabels()
    }
    drawn = [(t.get_text(), b.padded(-1)) for t, b in shown.items() if t not in ticks]
    outside = [a for a, x in drawn if x.x0 < 0 or x.y0 < 0 or x.x1 > figure.bbox.x1 or x.y1 > figure.bbox.y1]
    return outside + [(a, b) for k, (a, x) in enumerate(drawn) for b, y in drawn[k + 1 :] if x.overlaps(y)]


def test_figures_leave_global_state_alone_and_texts_do_not_overlap():
    before = dict(matplotlib.rcParams)
    figures = every_figure()
    assert dict(matplotlib.rcParams) == before
    for name, figure in figures.items():
        figure.savefig(buffer := io.BytesIO(), format="png")
        size = Image.open(buffer).size
        assert min(size) > 100, name
        assert overlaps(figure) == [], name


def test_an_axes_that_is_given_is_drawn_on():
    log = [{"stage": "fuse", "epoch": 1, "seconds": 1.0, "loss": 2.0, "score": 0.1}]
    sets = [ResultRow("a", Condition(f"N={n}", set_size=n), {plots.TPR3: 0.5}) for n in (1, 2)]
    draw = {
        "roc": lambda ax: plots.plot_roc({"a": ([0, 1], [0, 1])}, ax),
        "scores": lambda ax: plots.plot_score_histograms([0.5], [0.1], ax),
        "cmc": lambda ax: plots.plot_cmc({"a": ([1], [1])}, ax),
        "det": lambda ax: plots.plot_det({"a": ([0.1], [0.1])}, ax),
        "gain": lambda ax: plots.plot_set_gain(Report("sets", sets, "a"), ax=ax),
        "captions": lambda ax: plots.plot_caption_conditions(
            [plots.CaptionResult("a", "b", {TPR2: 0.5}, {}, {TPR2: (0.1, 0.0, 0.2)})], ax=ax
        ),
        "training": lambda ax: plots.plot_training(log, ax),
        "intervals": lambda ax: plots.plot_intervals(made_up(), EER, ax=ax),
        "examples": lambda ax: pictures.plot_examples([pair()], ax),
        "photos": lambda ax: pictures.plot_photos([photo()] * 3, 2, ax=ax),
        "words": lambda ax: pictures.plot_word_regions(photo(), ["a"], np.ones((1, 7, 7)), ax=ax),
        "strip": lambda ax: pictures.plot_set_strip([0, 1], [0.1, 0.2], [0.5, 0.5], ax=ax),
    }
    named = {name for module in (plots, pictures) for name in module.__all__ if name.startswith("plot_")}
    assert len(named) == len(draw)
    figure = Figure((16, 20), layout="constrained")
    for ax, (name, plot) in zip(figure.subplots(6, 2).ravel(), draw.items()):
        assert plot(ax) is ax, name
    figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(TgfrError, match="axes of a grid"):
        plots.plot_training(log, Figure().add_axes((0, 0, 1, 1)))


def test_the_drawn_roc_is_the_standard_tpr():
    draw = rng("roc test")
    genuine, impostor = draw.normal(0.4, 0.2, 300).round(2), draw.normal(0, 0.2, 20_000).round(2)
    curve = roc(genuine, impostor, drop_intermediate=False)
    line = plots.plot_roc({"a": (curve.fpr, curve.tpr)}).lines[0]
    np.testing.assert_allclose(line.get_ydata(), tpr_at_fpr(genuine, impostor, line.get_xdata()))


def test_histograms_show_shares_and_stand_equal_scores():
    for genuine, impostor in (rng(1).normal(size=50), rng(2).normal(size=70)), (np.ones(3), np.ones(4)):
        ax = plots.plot_score_histograms(genuine, impostor)
        np.testing.assert_allclose([patch.get_data().values.sum() for patch in ax.patches], 1)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            f"impostor ({len(impostor)})",
            f"genuine ({len(genuine)})",
        ]


@pytest.mark.parametrize("caption", ["costs $5 and $\\frac{$", "word " * 200, "x" * 500, "", string.punctuation])
def test_any_caption_can_be_drawn(caption):
    figure = pictures.plot_examples([pair((caption, caption))]).figure
    figure.savefig(io.BytesIO(), format="png")
    text = next(t.get_text() for ax in figure.axes for t in ax.texts if t.get_text().startswith("gallery:"))
    assert text.count("\n") <= 8
    pictures.plot_word_regions(photo(), [caption], np.ones((1, 7, 7))).figure.savefig(io.BytesIO(), format="png")


def test_examples_may_lack_a_score_of_a_system():
    figure = pictures.plot_examples([pair(a=0.3, b=0.2), pair(a=0.1)]).figure
    assert [len(ax.texts) for ax in figure.axes[4::4]] == [2, 1]


def test_word_regions_share_one_scale():
    attention = np.stack([np.full((7, 7), 0.01), np.eye(7)])
    images = [
        ax.images[-1].get_array()
        for ax in pictures.plot_word_regions(photo(), ["flat", "sharp"], attention).figure.axes[2:4]
    ]
    assert images[0].max() < 0.02 and images[1].max() == pytest.approx(1, abs=0.05) and images[0].shape == (112, 112)
    pictures.plot_word_regions(photo(), ["nothing"], np.zeros((1, 7, 7))).figure.savefig(io.BytesIO(), format="png")


def test_training_tells_losses_from_validation():
    rows = [
        {"stage": "fuse", "epoch": e, "seconds": 1.0, "words": 1.0, "score": 0.1 * e, "TPR@FPR=1e-2": 0.5}
        for e in (1, 2)
    ]
    left, right = plots.plot_training(rows).figure.axes[1:]
    assert [line.get_label() for line in left.lines] == ["words"] and "0.200" in [t.get_text() for t in right.texts]
    left, right = plots.plot_training(
        [{k: v for k, v in row.items() if k not in ("score", "TPR@FPR=1e-2")} for row in rows]
    ).figure.axes[1:]
    assert [line.get_label() for line in left.lines] == ["words"] and not right.texts


def test_intervals_show_values_reference_and_significance():
    report = made_up()
    for k, difference in (-1, (0.1, 0.05, 0.15)), (-2, (0.01, -0.05, 0.06)):
        report = with_row(report, k, differences=report.results[k].differences | {EER: difference})
    panel = plots.plot_intervals(report, EER).figure.axes[2]
    dots = {line.get_xdata()[0]: line for line in panel.lines if len(line.get_xdata()) == 1}
    shown = {row.system + row.condition.captions: row.values[EER] for row in report.select(resolutions=[112]).results}
    assert set(dots) == set(shown.values())
    all_captions, one_caption = (dots[row.values[EER]] for row in report.results[:-3:-1])
    assert (
        one_caption.get_markerfacecolor() == "white" != all_captions.get_markerfacecolor()
        and one_caption.get_marker() != all_captions.get_marker()
    )
    dashed = [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"]
    assert dashed == [shown["image-only headnone"]]
    for columns, probes in (1, 1), (3, 1), (2, 3), (3, 2), (3, 3), (3, 7):
        many = []
        for k in range(probes):
            for row in report.results[:5]:
                many.append(replace(row, condition=replace(row.condition, label=f"{k}px", resolution=k)))
        assert overlaps(plots.plot_intervals(replace(report, results=many), EER, columns).figure) == []


def test_a_notebook_shows_a_figure_without_pyplot():
    for figure in every_figure().values():
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_system_looks_the_same_everywhere():
    assert len({str(look) for look in plots.system_styles(plots._systems).values()}) == 7
    assert (
        plots.system_styles(["residual", "other"])["residual"]
        == plots.system_styles(["a", "b", "linear", "residual"])["residual"]
    )
    assert set(plots.system_styles([f"s{k}" for k in range(20)])) == {f"s{k}" for k in range(20)}


def test_empty_input_is_named():
    for call in (
        lambda: plots.plot_roc({}),
        lambda: pictures.plot_examples([]),
        lambda: pictures.plot_photos([]),
        lambda: plots.plot_training([]),
        lambda: plots.plot_score_histograms([], [1.0]),
        lambda: plots.plot_intervals(made_up(), Metric("AUC")),
        lambda: pictures.plot_word_regions(photo(), ["a"], np.ones((2, 7, 7))),
    ):
        with pytest.raises(TgfrError):
            call()

"""What others wrote (names of folders, attributes) does nothing where it is shown: no formula in points.csv, no HTML
in a model card."""

import csv
import re

import pandas as pd
import pytest

from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.results import Condition, Report, ResultRow
from tgfr.formats.cards import markdown_rows, model_card
from tgfr.report.model_cards import result_sections
from tgfr.workflows.ijb_benchmark import write_points

NAMES = ["=1+1 N1D1F0", "@SUM(1)", "-2+3", "+7", "\t=1", " =1", "\r=1", "\uff1d1+1", "average", "x=1", "'quoted"]


def test_no_cell_is_a_formula(tmp_path):
    columns = ["system", "protocol", "figure", "value", "threshold", "false accepts", "impostors", "genuine"]
    tables = {
        "Operating points": {
            "columns": columns,
            "rows": [[name, "1:1", "TPR@FPR=1e-3", 0.5, -0.25, 3, 3000, 20] for name in NAMES],
        },
        "Ranks in each gallery": {
            "columns": [*columns[:4], "mated probes"],
            "rows": [[name, "1:N S1", "rank-1", 0.5, 20] for name in NAMES],
        },
    }
    write_points(tmp_path / "points.csv", tables)
    with open(tmp_path / "points.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert len(rows) == 2 * len(NAMES)
    for row in rows:
        texts = [cell for cell in row if not re.fullmatch(r"-?[\d.]+|", cell)]
        assert not any(re.match(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]", cell) for cell in texts), row
    read = pd.read_csv(tmp_path / "points.csv")
    assert (read["threshold"][: len(NAMES)] == -0.25).all() and (read["value"] == 0.5).all()  # numbers stay numbers
    assert [name for name in read["system"][: len(NAMES)] if name in NAMES] == ["average", "x=1", "'quoted"]
    assert all(
        shown.removeprefix("'").strip() in (name.strip(), name.strip()[1:])
        for shown, name in zip(read["system"], NAMES)
    )


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "a & b < c", "</td><h1>x"]
)
def test_html_in_a_card_is_text(name):
    rows = [ResultRow(s, Condition(name), {Metric("rank", 1): 0.5}) for s in ("frozen face", name)]
    report = Report(
        "t",
        rows,
        "frozen face",
        warnings=[f"in the training of the model in {name}"],
        data={"source": name},
        setup={name: {"inner": name}},
        tables={"Groups": {"columns": ["group", name], "rows": [[name, 3], [f"{name} | b\nc", 4]]}},
    )
    card = model_card("m", "what", {"trained on": name}, "code", result_sections(report, ("frozen face", name)))
    assert name not in card and re.search(r"</?(img|script|td|h1)", card) is None
    assert card.count("&lt;") >= 7
    assert markdown_rows(["a"], [[name]]).count("\n") == 2

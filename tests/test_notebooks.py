"""Every notebook's cells, one case a notebook; cells flagged slow, gpu or data run with --slow, where there is a
GPU, where there is data."""

import matplotlib
import pytest
import torch
from conftest import SHARED
from nbdev.test import test_nb as run_notebook
from sync import ROOT, notebooks

from tgfr.sets import caface  # noqa: F401 - registers what its notebook registers again
from tgfr.sets.pooling import SET_FUSIONS


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook(path, request, monkeypatch):
    monkeypatch.chdir(path.parent)
    if path.stem == "03_caface":  # it registers its own class; the library's comes back
        monkeypatch.delitem(SET_FUSIONS._builders, "caface")
    matplotlib.use("agg")
    have = {
        "slow": request.config.getoption("--slow"),
        "gpu": torch.cuda.is_available(),
        "data": (SHARED / "data").is_dir(),
    }
    ok, _ = run_notebook(path, skip_flags=[flag for flag, there in have.items() if not there])
    assert ok, "a cell failed: its traceback stands above"

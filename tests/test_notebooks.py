"""Every notebook's cells, one case a notebook; cells flagged slow, gpu or data run with --slow, where there is a
GPU, where there is data."""

import json
import re

import matplotlib
import pytest
import torch
from conftest import SHARED
from nbdev.test import test_nb as run_notebook
from registries import entries, registries, restored_registries
from sync import ROOT, notebooks


def module_of(path) -> str | None:
    "The module that a notebook is exported to, if any."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if named := re.match(r"#\| *default_exp +(\S+)", "".join(cell["source"])):
            return f"tgfr.{named[1]}"


def run(path, skip_flags=()) -> bool:
    "Whether every cell of a notebook ran; what it registers is gone again."
    with restored_registries(without=module_of(path)):
        ok, _ = run_notebook(path, skip_flags=skip_flags)
    return ok


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook(path, request, monkeypatch):
    monkeypatch.chdir(path.parent)
    matplotlib.use("agg")
    have = {
        "slow": request.config.getoption("--slow"),
        "gpu": torch.cuda.is_available(),
        "data": (SHARED / "data").is_dir(),
    }
    before = entries()
    assert run(path, [flag for flag, there in have.items() if not there]), "a cell failed: its traceback stands above"
    assert entries() == before


def notebook(path, *cells):
    "A notebook of code cells."
    code = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    listed = [code | {"id": str(number), "source": source} for number, source in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
    path.write_text(json.dumps({"cells": listed, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_a_notebooks_own_classes_do_not_stay_registered(tmp_path):
    """A notebook defines a library's class anew under its name and adds one of its own; a later notebook and the
    library find the library's."""
    before = entries()
    own = "@SET_FUSIONS.register('caface')\n@SET_FUSIONS.register('mine')\nclass CAFace: pass"
    seen = "assert list(SET_FUSIONS)[-2:] == ['mine', 'caface'] and SET_FUSIONS['caface'] is CAFace"
    start = "from tgfr.sets.pooling import SET_FUSIONS"
    assert run(notebook(tmp_path / "1.ipynb", "#| default_exp sets.caface", start, own, seen))
    assert entries() == before
    assert entries()["set fusion"]["caface"].__module__ == "tgfr.sets.caface"
    assert not run(notebook(tmp_path / "2.ipynb", start, own)), "the name is the library's"
    assert entries() == before


def test_every_registry_is_given_back():
    before = entries()
    assert set(before) >= {"data reader", "fusion", "loss", "margin head", "set fusion"}
    with restored_registries():
        for registry in registries().values():
            registry.register("mine")(dict)
        assert all("mine" in there for there in entries().values())
    assert entries() == before

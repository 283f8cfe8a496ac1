"""The way of one image and one caption through `tgfr demo` to report.json, recorded in a run and as CONTRIBUTING tells
it: how often they go from one room to another, and how often a room calls one that is read later."""

import re
import sys
from dataclasses import is_dataclass

import datasets
import numpy as np
import torch
from sync import ROOT

from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.feature_store import FeatureStore
from tgfr.evaluation.bootstrap import Metrics
from tgfr.evaluation.results import Report, ResultRow
from tgfr.training.batches import FaceBatches
from tgfr.training.recipes import build_recipe
from tgfr.workflows.demo import demo

ROOMS = "core data formats encoders losses fusion sets evaluation training report workflows".split()
WORD = "zyxwort"  # stands in every caption, so that no other text is taken for one
CARRIED = datasets.Dataset, FeatureStore, FaceBatches, Metrics, ResultRow, Report  # what they are in, or become
FIRST, LAST = "data.splits.load_splits", "report.page.save_report"
RECORDS = "encoders.features", "encoders.weight_files"  # the records themselves with their arithmetic; weights
BYWAYS = {"result_sections", "TGFR.save"}  # to the model's folder, not to report.json
BYWAYS |= {"study_captions", "CaptionStudy.add_to"}  # to the table of other captions
BYWAYS |= {"retrieve", "WordPredictor.seen", "WordPredictor.said"}  # to the table of search by description
MAX_MOVES, MAX_CLIMBS = 25, 5


def carries(x, depth=3) -> bool:
    "Whether images, captions or what became of them are in `x`."
    if isinstance(x, (CARRIED, bytes)):
        return True
    if isinstance(x, (np.ndarray, torch.Tensor)):
        return x.ndim >= 2
    if isinstance(x, str):
        return WORD in x and " " in x  # not a word of a vocabulary
    if not depth or isinstance(x, torch.nn.Module):
        return False
    if isinstance(x, dict):
        parts = list(x.values())
    elif isinstance(x, (list, tuple)):
        parts = x
    else:
        parts = list(vars(x).values()) if is_dataclass(x) and not isinstance(x, type) else []
    return any(carries(part, depth - 1) for part in parts[:6])


def module_of(frame) -> str:
    "`room.module` of a frame; empty outside the library."
    name = frame.f_globals.get("__name__", "")
    return name.removeprefix("tgfr.") if name.startswith("tgfr.") else ""


class Recorder:
    "Calls of public functions from one room into another that take and give images or captions, each function once."

    def __init__(self):
        self.order, self.passed = {}, set()  # function to the room that called it first; those that both take and give
        self.on = False

    def __call__(self, frame, event, result):
        if event not in ("call", "return") or not module_of(frame):
            return
        module, parts = module_of(frame), frame.f_code.co_qualname.replace(".__call__", "").split(".")
        function = ".".join([module, *parts])
        self.on = self.on or function == FIRST
        if not self.on or module in RECORDS or any(part.startswith(("_", "<")) for part in parts):
            return
        caller, byway = self.look_up(frame)
        if not caller or byway or caller.split(".")[0] == module.split(".")[0]:
            return
        if event == "call":
            if function in (FIRST, LAST) or carries([frame.f_locals.get(name) for name in arguments(frame)]):
                self.order.setdefault(function, caller.split(".")[0])
        elif function in (FIRST, LAST) or carries(result):
            self.passed.add(function)

    @staticmethod
    def look_up(frame) -> tuple[str, bool]:
        "The module of ours that called, and whether a byway was taken."
        caller, byway, frame = "", frame.f_code.co_qualname in BYWAYS, frame.f_back
        while frame is not None:
            caller = caller or module_of(frame)
            byway = byway or frame.f_code.co_qualname in BYWAYS
            frame = frame.f_back
        return caller, byway

    def moves(self) -> dict[str, str]:
        "Function to the room that called it, in the order of their first calls."
        return {name: room for name, room in self.order.items() if name in self.passed}


def arguments(frame) -> tuple[str, ...]:
    code = frame.f_code
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def climbs(moves: dict[str, str]) -> list[str]:
    "Functions that a room read earlier calls."
    return [name for name, room in moves.items() if ROOMS.index(room) < ROOMS.index(name.split(".")[0])]


def listed() -> list[str]:
    "The functions that CONTRIBUTING lists."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The way of one image and one caption\n")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `([\w.]+)`", section, re.MULTILINE)


def test_the_way_of_an_image_and_a_caption_is_as_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("tgfr.workflows.demo.comparison_figures", lambda *_: {})  # pictures do not go into report.json
    faces = synthetic_faces(people=12, photos=3)
    captions = [[f"{caption} {WORD}." for caption in row] for row in faces["captions"]]
    faces = faces.remove_columns("captions").add_column("captions", captions)
    (tmp_path / "data").mkdir()
    faces.to_parquet(str(tmp_path / "data/photos.parquet"))
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32), tmp_path / "encoder")
    recipe = build_recipe("demo", dim=16, epochs_align=1, epochs_fuse=1, batch_align=8, batch_fuse=8)
    recorder, before = Recorder(), sys.getprofile()
    sys.setprofile(recorder)
    try:
        data, encoder = str(tmp_path / "data/photos.parquet"), str(tmp_path / "encoder")
        demo(data, tmp_path / "out", encoder, recipe, systems=("image-only head",), probe_size=(112, 16), replicates=5)
    finally:
        sys.setprofile(before)
    assert (tmp_path / "out/report.json").is_file()
    moves = recorder.moves()
    assert list(moves) == listed()
    assert len(moves) <= MAX_MOVES
    assert len(climbs(moves)) <= MAX_CLIMBS
    assert list(moves)[0] == FIRST and list(moves)[-1] == LAST

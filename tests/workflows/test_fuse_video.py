"""`tgfr fuse`: what a report says of an earlier state, what was written by earlier code, and fusions of a plug-in in
processes of their own."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import finish, python

from tgfr.core import read_json, seed_everything
from tgfr.data.degradation import Degradation
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.evaluation.results import Report
from tgfr.sets.checkpoints import save_set_fusion
from tgfr.sets.pooling import build_set_fusion
from tgfr.sets.tracking import TrackingOptions
from tgfr.sets.video_templates import source_digest
from tgfr.workflows.fuse_video import fuse_video, video_page

FACE = read_image(synthetic_faces(people=1, photos=1)["image"][0])
PLUGIN = """
import torch
from torch import nn
from tgfr.sets.pooling import SetFusion, register_set_fusion

@register_set_fusion("flat")
class Flat(SetFusion):
    "All images count alike."
    def quality(self, faces):
        return faces.mask.float()

@register_set_fusion("scaled")
class Scaled(SetFusion):
    "A learned power of the norm."
    def __init__(self, embedding, start=1.0):
        super().__init__(embedding)
        self.config["start"] = start
        self.power = nn.Parameter(torch.tensor(start))
    def quality(self, faces):
        return faces.norm.clamp_min(1e-6) ** self.power
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "An encoder, a CAFace for it, a gallery photo, two folders of pictures that share four, and a plug-in."
    folder = tmp_path_factory.mktemp("fuse")
    seed_everything(0)
    encoder = IResNet((1, 1, 1, 1), width=4, embedding=32)
    save_encoder(encoder, folder / "encoder")
    save_set_fusion(build_set_fusion("caface", 32, styles=24).eval(), folder / "caface", encoder=encoder)
    (folder / "photo.jpg").write_bytes(encode_jpeg(FACE))
    for name, numbers in ("monday", range(8)), ("tuesday", range(4, 12)):
        (folder / name).mkdir()
        for k in numbers:
            poor = Degradation(size=12 + 20 * (k % 5), noise=6)(FACE, k)
            (folder / name / f"{k}.jpg").write_bytes(encode_jpeg(poor))
    (folder / "mine.py").write_text(PLUGIN)
    return folder


def test_a_gallery_photo_beside_an_earlier_state(home, tmp_path):
    options = {"encoder": home / "encoder", "gallery": home / "photo.jpg", "fusion": home / "caface", "chunk": 4}
    fuse_video(home / "monday", out=tmp_path / "monday", **options)
    state = tmp_path / "monday/state.safetensors"
    report = fuse_video(home / "tuesday", out=tmp_path / "tuesday", state=state, write_video=True, **options)
    assert [row["weight"] > 0 for row in report["frames"]] == [False] * 4 + [True] * 4
    assert all(row["similarity"] is not None and row["fused so far"] is None for row in report["frames"])
    assert (tmp_path / "tuesday/strip.png").is_file() and (tmp_path / "tuesday/clip.mp4").is_file()
    again = fuse_video(home / "monday", out=tmp_path / "again", state=tmp_path / "tuesday/state.safetensors", **options)
    assert "all 8 of the person are already in the state of 12 images" in again["summary"][0]


def test_the_fused_template_is_named_first(home, tmp_path):
    report = fuse_video(home / "monday", home / "encoder", fusion="average", out=tmp_path)
    assert list(report["templates"]) == ["average", "largest norm"]
    assert report["summary"][0].endswith("all were fused by average.")


def test_a_page_is_made_of_the_file_alone(home, tmp_path):
    report = fuse_video(home / "monday", home / "encoder", home / "photo.jpg", out=tmp_path)
    content = read_json(tmp_path / "fuse.json")
    assert content == report
    page = video_page(content)
    assert isinstance(page, Report) and page.title == report["title"] and page.run == report["run"]
    assert [row[0] for row in page.tables["Templates"]["rows"]] == ["norm-squared", "average", "largest norm"]
    assert page.tables["Tracks"]["rows"] == [["0 (fused)", 8, 0, 7]]


def test_the_digest_of_a_source_is_that_of_the_first_states():
    "Options have the names in it that they had then; the value is that of the code of then."
    frames = SimpleNamespace(source="nowhere", files=None)
    encoder = SimpleNamespace(content_digest="of the encoder", config=SimpleNamespace(name="x"))
    plain = source_digest(frames, encoder, None, None, ("stage2",), "longest", 4, None)
    chosen = source_digest(frames, encoder, None, None, ("stage2",), "longest", 4, TrackingOptions(max_gap=3))
    assert (plain, chosen) == ("e746bb5c707b372b", "7c05410032900a38")


def tgfr(*args):
    "`tgfr ARGS` in a process of its own."
    return python("-m", "tgfr.cli", *args)


def test_set_fusions_of_a_plugin_in_new_processes(home, tmp_path):
    plugin = ("--plugin", home / "mine.py")
    fuse = ("fuse", home / "monday", "--encoder", home / "encoder")
    data = ("--data", "synthetic:people=40,photos=4", "--replicates", "5", "--set-sizes", "1", "4")
    recipe = ("--set", "epochs_sets=1", "batch_sets=8", "images=8")
    sets = ("sets", *data, *recipe, "--encoder", home / "encoder", "--fusions", "average", "flat", "scaled")
    trained = tmp_path / "sets/fusions/scaled"
    finish(
        tgfr(*sets, *plugin, "--out", tmp_path / "sets"),
        tgfr(*fuse, *plugin, "--fusion", "flat", "--out", tmp_path / "flat"),
    )
    report = Report.from_json(tmp_path / "sets/report.json")
    assert {row.system for row in report.results} == {"average", "flat", "scaled"}
    for row in report.select(systems=["flat"]).results:
        average = next(r for r in report.select(systems=["average"]).results if r.condition == row.condition)
        assert row.values == pytest.approx(average.values, abs=1e-6)
    config = json.loads((trained / "config.json").read_text())
    assert config["plugin"] == "mine.py" and config["start"] == 1.0
    assert "mine.py" in (trained / "README.md").read_text()
    weights = [row["weight"] for row in read_json(tmp_path / "flat/fuse.json")["frames"]]
    np.testing.assert_allclose(weights, 1 / 8, atol=1e-6)
    without = tgfr(*fuse, "--fusion", trained, "--out", tmp_path / "without")
    simulated = ("--simulate", "IJBB", "--scale", "0.01", "--replicates", "10")
    finish(
        tgfr(*fuse, *plugin, "--fusion", trained, "--out", tmp_path / "trained"),
        tgfr("ijb", *simulated, "--fusion", "average", "flat", *plugin, "--out", tmp_path / "ijb"),
    )
    _, message = without.communicate(timeout=300)
    message = " ".join(message.split())
    assert without.returncode == 2 and "'scaled' comes from the plug-in 'mine.py', which is not loaded" in message
    weights = [row["weight"] for row in read_json(tmp_path / "trained/fuse.json")["frames"]]
    assert torch.tensor(weights).unique().numel() > 1 and sum(weights) == pytest.approx(1, abs=1e-4)
    assert {row.system for row in Report.from_json(tmp_path / "ijb/report.json").results} == {"average", "flat"}

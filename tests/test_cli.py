"""The command line: help is enough, bad input is one clear line and code 2, bad photos among good ones are named and counted."""
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tgfr.cli import COMMANDS
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder

TGFR = [Path(sys.executable).parent / "tgfr"]
TINY = ["--set", "dim=16", "epochs_encode=1", "epochs_align=1", "epochs_fuse=1", "batch_align=8", "batch_fuse=8", "--replicates", "10", "--probe-size", "112", "16"]


def tgfr(*args, cwd=None):
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([*TGFR, *map(str, args)], capture_output=True, text=True, env=env, cwd=cwd, timeout=300)


def refused(run, *said):
    "One line on stderr with all of `said`, code 2, no traceback."
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    last = run.stderr.strip().splitlines()[-1]
    for part in said: assert part in last, run.stderr


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(people=10, photos=3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32), folder)
    return folder


def parquet(dataset, folder, name="photos.parquet"):
    dataset.to_parquet(str(folder / name))
    return folder / name


@pytest.mark.parametrize("args", [[], *([name] for name in COMMANDS)])
def test_help(args):
    run = tgfr(*args, "--help")
    assert run.returncode == 0 and all(name in run.stdout for name in (args or COMMANDS))
    if args == ["demo"]: assert all(flag in run.stdout for flag in ("--data", "--encoder", "--text", "--probe-size", "--out", "--set"))


def test_wrong_flag_and_command(tmp_path):
    assert tgfr("demo", "--no-such-flag").returncode == 2
    assert tgfr("fly").returncode == 2


def test_help_into_a_pipe_that_closes():
    run = subprocess.run(f"{TGFR[0]} fuse --help | head -1", shell=True, capture_output=True, text=True, timeout=60)
    assert run.stdout.startswith("usage: tgfr fuse [-h] [FUSE OPTIONS] SOURCE") and not run.stderr


def test_a_log_gets_lines_where_a_terminal_has_a_bar(monkeypatch, capsys):
    from tgfr import core
    monkeypatch.setattr(core, "LOG_SECONDS", 0)
    assert list(core.track(iter("abc"), "reading", done=1200, total=1203)) == list("abc")
    assert capsys.readouterr().err.splitlines() == ["reading: 1,201 of 1,203", "reading: 1,202 of 1,203", "reading: 1,203 of 1,203"]


def test_missing_folder(tmp_path): refused(tgfr("demo", "--data", "/no/such/folder", "--out", tmp_path), "/no/such/folder")


def test_probe_size_zero(tmp_path): refused(tgfr("demo", "--probe-size", "0", "--out", tmp_path), "size", "0")


def test_unknown_encoder(tmp_path): refused(tgfr("demo", "--encoder", "facenet9000", "--out", tmp_path), "facenet9000")


def test_unknown_recipe_field(tmp_path): refused(tgfr("demo", "--set", "epoch=3", "--out", tmp_path), "no field epoch")


def test_unknown_text_encoder(tmp_path, faces, encoder):
    refused(tgfr("demo", "--data", parquet(faces, tmp_path), "--encoder", encoder, "--text", "/no/such/bert", "--out", tmp_path / "out"), "/no/such/bert")


def test_onnx_that_is_no_face_model(tmp_path):
    x, y = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 7]), helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "relu.onnx")
    refused(tgfr("demo", "--encoder", tmp_path / "relu.onnx", "--out", tmp_path / "out"), "relu.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    refused(tgfr("demo", "--encoder", tmp_path / "text.onnx", "--out", tmp_path / "out"), "text.onnx")


@pytest.mark.parametrize("column", ["image", "identity", "photo_id", "captions"])
def test_parquet_without_a_column(tmp_path, faces, column):
    refused(tgfr("demo", "--data", parquet(faces.remove_columns(column), tmp_path), "--out", tmp_path / "out"), "photos.parquet", column)


def test_no_readable_image(tmp_path, faces):
    broken = faces.map(lambda row: {"image": {"bytes": b"no photo", "path": None}})
    refused(tgfr("demo", "--data", parquet(broken, tmp_path), "--out", tmp_path / "out"), "no readable image")


def test_empty_captions_everywhere(tmp_path, faces):
    refused(tgfr("demo", "--data", parquet(faces.map(lambda row: {"captions": ["", "  "]}), tmp_path), "--out", tmp_path / "out"), "captions", "empty")


def test_bad_photos_among_good_ones_are_named_and_counted(tmp_path, faces, encoder):
    def spoil(row, i):
        if i == 4: row["image"] = {"bytes": row["image"]["bytes"][:40], "path": None}
        if i == 7: row["captions"] = [""]
        return row
    data = parquet(faces.map(spoil, with_indices=True, features=faces.features), tmp_path)
    run = tgfr("demo", "--data", data, "--encoder", encoder, "--out", tmp_path / "out", "--recipe", "demo", *TINY)
    assert run.returncode == 0, run.stderr
    said = " ".join(run.stderr.split())
    assert faces["photo_id"][4] in said and faces["photo_id"][7] in said and "2 photos left out" in said
    assert {"report.html", "report.json", "model"} <= {p.name for p in (tmp_path / "out").iterdir()}
    again = tgfr("demo", "--data", data, "--encoder", encoder, "--out", tmp_path / "out", "--recipe", "demo", *TINY)
    assert again.returncode == 0 and "align 1/1" not in again.stderr, "a finished run is not trained again"


def test_same_seed_same_report(tmp_path, encoder):
    results = []
    for name in "ab":
        run = tgfr("demo", "--data", "synthetic:people=10,photos=3", "--encoder", encoder, "--out", tmp_path / name, *TINY)
        assert run.returncode == 0, run.stderr
        results.append(json.loads((tmp_path / name / "report.json").read_text())["results"])
    assert results[0] == results[1] and len(results[0]) == 2 * (2 + 5 * 2)  # 2 sizes; 2 systems without words, 5 with two modes


def test_a_trained_model_is_kept_with_its_recipe_and_evaluated(tmp_path, encoder):
    from tgfr.training.recipes import read_recipe
    data = ["--data", "synthetic:people=10,photos=3", "--encoder", encoder]
    assert (run := tgfr("train", "demo", *data, *TINY[:-5], "--out", tmp_path)).returncode == 0, run.stderr
    assert read_recipe(tmp_path / "config.yaml").dim == 16
    about = (tmp_path / "config.yaml").read_text().splitlines()[:3]
    assert about[0] == "# data: synthetic:people=10,photos=3" and about[1].startswith(f"# encoder: {encoder} (") and about[2] == "# words: yes"
    again = tgfr("train", tmp_path / "config.yaml", *data, "--out", tmp_path)
    assert again.returncode == 0, "a run that is finished is read, not refused: " + again.stderr
    judged = tgfr("evaluate", tmp_path / "model", *data, "--out", tmp_path / "judged", *TINY[-5:])
    assert judged.returncode == 0 and (tmp_path / "judged" / "report.html").is_file(), judged.stderr
    said, card = "10 of the 10 people judged here were in the training", (tmp_path / "model/README.md").read_text()
    assert said in " ".join(judged.stdout.split()) and said in card and "TPR@FPR=1e-3: " in card, "whom it was trained on, and rates that so few pairs cannot tell, are no result"
    assert "epochs_fuse: 1" in card and str(encoder.parent) not in card and "{'" not in card
    others = tgfr("evaluate", tmp_path / "model", "--data", "synthetic:people=10,photos=3,seed=1", *data[2:], "--out", tmp_path / "others", *TINY[-5:])
    assert "in the training" not in others.stdout + (tmp_path / "model/README.md").read_text() and others.returncode == 0, others.stderr


def test_a_killed_run_has_its_recipe_and_a_refused_one_leaves_it(tmp_path, encoder, monkeypatch):
    from tgfr import compare
    from tgfr.training.recipes import make_recipe, read_recipe
    def killed(*_): raise KeyboardInterrupt
    monkeypatch.setattr(compare.Trainer, "train", killed)
    for dim, kept in (16, 16), (24, 24), (32, 24):
        with pytest.raises(KeyboardInterrupt): compare.train("synthetic:people=10,photos=3", str(encoder), make_recipe("demo", dim=dim), tmp_path, words=False)
        assert read_recipe(tmp_path / "config.yaml").dim == kept, "an epoch that is kept keeps its recipe"
        if dim == 24: (tmp_path / "runs/residual-image").mkdir(parents=True), (tmp_path / "runs/residual-image/run.json").write_text("{}")
    assert "# words: no" in (tmp_path / "config.yaml").read_text()


def test_bad_recipes(tmp_path, encoder):
    data = ["--data", "synthetic:people=10,photos=3", "--encoder", encoder, "--out", tmp_path]
    (tmp_path / "wrong.yaml").write_text("epochs_fuse: many\n")
    refused(tgfr("train", "theirs", *data), "theirs", "ours")
    refused(tgfr("train", tmp_path / "wrong.yaml", *data), "wrong.yaml", "epochs_fuse", "'many'")
    refused(tgfr("train", tmp_path / "missing.yaml", *data), "missing.yaml")
    refused(tgfr("ablate", *data, "--variants", "no luck"), "no luck", "no word loss")

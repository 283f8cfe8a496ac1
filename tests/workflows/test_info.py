"""`tgfr info`: what is installed, what data folders hold, and what is printed to be pasted."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Value, concatenate_datasets

from tgfr.cli import main
from tgfr.data.synthetic import synthetic_faces
from tgfr.evaluation.simulated_ijb import simulate_ijb
from tgfr.workflows.info import environment


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(people=4, photos=2)


def look(path):
    return environment([path])["data"].popitem()[1]


def test_what_is_installed():
    facts = environment()
    assert facts["versions"]["numpy"] == np.__version__ and torch.__version__.startswith(facts["versions"]["torch"])
    assert facts["machine"]["torch threads"] == torch.get_num_threads() and facts["machine"]["process"] == "1 of 1"
    assert facts["extras"]["dev"] == "installed" and facts["data"] == {}


def test_mixed_precision_is_what_accelerate_was_told(monkeypatch):
    assert environment()["machine"]["mixed precision"] == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert environment()["machine"]["mixed precision"] == "bf16"


def test_captioned_faces(faces, tmp_path):
    faces.select(range(4)).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    faces.select(range(4, 8)).to_parquet(tmp_path / "validation.parquet")
    assert (
        look(tmp_path)
        == "ok: captioned faces: train 4 photos of 2 people in 1 file; validation 4 photos of 2 people in 1 file"
    )
    assert "4 photos" in look(tmp_path / "validation.parquet")
    faces.save_to_disk(tmp_path / "saved")
    assert look(tmp_path / "saved") == "ok: saved dataset: 8 photos"
    DatasetDict(train=faces.select(range(6)), validation=faces.select(range(6, 8))).save_to_disk(tmp_path / "both")
    assert look(tmp_path / "both") == "ok: saved dataset: train 6 photos; validation 2 photos"


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda d: d.remove_columns("identity"), "no column 'identity'"),
        (lambda d: d.cast_column("identity", Value("float64")), "column 'identity' is double"),
        (lambda d: concatenate_datasets([d, d.select([0])]), "1 photo ids occur again"),
    ],
)
def test_faces_that_are_wrong(faces, tmp_path, spoil, said):
    spoil(faces).to_parquet(tmp_path / "train.parquet")
    assert look(tmp_path).startswith("wrong: ") and said in look(tmp_path)


def test_folders_that_are_no_data(tmp_path):
    assert look(tmp_path / "missing") == "wrong: no such file or folder"
    assert look(tmp_path).endswith("found nothing")
    (tmp_path / "a.jpg").touch(), (tmp_path / "b.jpg").touch(), (tmp_path / "faces").mkdir()
    assert look(tmp_path).endswith("found 2 .jpg, faces/")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
    assert look(tmp_path).startswith("wrong: ")


def test_ijb(tmp_path):
    files, _ = simulate_ijb("IJBB", tmp_path, 0, 0.01)
    assert look(files.folder) == "wrong: IJBB: missing loose_crop/", "a simulated set has no crops"
    (files.folder / "loose_crop").mkdir()
    assert look(files.folder) == "ok: IJBB: all files of 1:1 and 1:N, and loose_crop/"
    for file in files.folder.glob("meta/*template_pair_label*"):
        file.unlink()
    assert look(tmp_path) == "wrong: IJBB: missing template_pair_label.txt"


def test_home_is_not_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(environment([tmp_path / "x", f"{tmp_path}y"])["data"]) == ["~/x", f"{tmp_path}y"]
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more"), (tmp_path / "IJBB/meta").mkdir(parents=True)
    assert look(tmp_path / "IJBB") == "wrong: neither SPLIT-*.parquet nor meta/ijb*; found meta/"
    assert str(tmp_path) not in look(tmp_path) and look(tmp_path).startswith("wrong: ")


def test_command(capsys, tmp_path):
    main(["info", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["data"][str(tmp_path)].startswith("wrong")
    run = subprocess.run([Path(sys.executable).parent / "tgfr", "info"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert {line.split()[0] for line in run.stdout.splitlines()} == {"versions", "machine", "caches", "extras"}

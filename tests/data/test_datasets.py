"""Readers of data that a user registers: from a `--plugin` file to the canonical columns, and what is refused."""

import json
import subprocess
import sys

import pytest

from tgfr.cli import main
from tgfr.core import TgfrError, load_plugin
from tgfr.data.columns import CANONICAL
from tgfr.data.datasets import READERS, drop_unusable, list_readers, load_faces, read_synthetic, register_reader
from tgfr.data.splits import load_splits

PLUGIN = """
import json
from pathlib import Path

from datasets import Dataset

from tgfr.data.datasets import register_reader


@register_reader("listed")
def read_listed(folder, split=None):
    "Photos of a folder, listed with their people and captions in SPLIT.json."
    return Dataset.from_list(json.loads((Path(folder) / f"{split or 'train'}.json").read_text()))
"""


@pytest.fixture
def registered():
    "Registered readers are gone after the test."
    with READERS.restored():
        yield


@pytest.fixture
def folder(tmp_path):
    "Twelve photos of six people in files, listed in two splits, and the file of their reader."
    drawn, data = read_synthetic("people=6,photos=2,seed=3"), tmp_path / "data"
    (data / "photos").mkdir(parents=True)
    rows = []
    for number, row in enumerate(drawn):
        (data / f"photos/{number}.jpg").write_bytes(row["image"]["bytes"])
        image = {"bytes": None, "path": f"photos/{number}.jpg"}
        rows.append({"image": image, "identity": f"person {row['identity']}", "photo_id": f"photo {number}"})
        rows[-1]["captions"] = row["captions"][0]
    (data / "train.json").write_text(json.dumps(rows[:8]))
    (data / "validation.json").write_text(json.dumps(rows[8:]))
    (tmp_path / "my_reader.py").write_text(PLUGIN)
    return data


def test_a_plugin_reads_a_folder(folder, registered):
    load_plugin(folder.parent / "my_reader.py")
    assert "listed" in list_readers()
    faces = load_faces(f"listed:{folder}")
    assert {name: faces.features[name] for name in CANONICAL} == CANONICAL
    assert len(set(faces["identity"])) == 4 and faces["identity_name"][0] == "person 0"
    assert faces["captions"][0] == [json.loads((folder / "train.json").read_text())[0]["captions"]]
    assert faces["image"][3] == {"bytes": None, "path": str(folder / "photos/3.jpg")}
    assert len(drop_unusable(faces)[0]) == 8
    training, testing, skips = load_splits(f"listed:{folder}", "train", "validation")
    assert (len(training), len(testing), len(skips)) == (8, 4, 0)


def test_a_command_takes_a_reader_of_a_plugin(folder, registered, tmp_path):
    plugin, out = str(folder.parent / "my_reader.py"), tmp_path / "audit.json"
    main(["audit", f"listed:{folder}", "--out", str(out), "--plugin", plugin])
    assert json.loads(out.read_text())["splits"]["all"] == {"photos": 8, "people": 4, "captions": 8}


def test_without_its_file_a_reader_is_asked_for(folder):
    code = "import sys; from tgfr.cli import main; main(sys.argv[1:])"
    run = subprocess.run([sys.executable, "-c", code, "audit", f"listed:{folder}"], capture_output=True, text=True)
    assert run.returncode == 2 and "no data reader 'listed' (there is synthetic)" in run.stderr
    assert "--plugin FILE" in run.stderr and "Traceback" not in run.stderr


ROW = {"image": b"P6 1 1 255\n123", "identity": 1, "photo_id": "a", "captions": ["a man"]}


@pytest.mark.parametrize(
    "result, message",
    [
        ([ROW], "'mine' returned a list; expected a datasets.Dataset"),
        ([{k: v for k, v in ROW.items() if k != "photo_id"}], "mine:x: no column 'photo_id'"),
        ([ROW | {"identity": 1.5}], "mine:x: column 'identity' is double; expected an integer"),
        ([ROW, ROW], "mine:x: photo_id 'a' occurs 2 times"),
        ([ROW | {"image": {"bytes": None, "path": "/etc/hostname"}}], "leads out of this folder"),
        (KeyError("column"), "mine:x: cannot be read .KeyError: 'column'."),
    ],
)
def test_what_a_reader_returns_is_checked(registered, result, message):
    from datasets import Dataset

    @register_reader("mine")
    def read_mine(options, split=None):
        if isinstance(result, Exception):
            raise result
        return result if "returned a list" in message else Dataset.from_list(result)

    with pytest.raises(TgfrError, match=message):
        load_faces("mine:x")


def test_photos_outside_of_the_folder_are_refused(folder, registered):
    load_plugin(folder.parent / "my_reader.py")
    rows = json.loads((folder / "train.json").read_text())
    rows[2]["image"]["path"] = "../my_reader.py"
    (folder / "train.json").write_text(json.dumps(rows))
    with pytest.raises(TgfrError, match="photo photo 2: its path '../my_reader.py' leads out of this folder"):
        load_faces(f"listed:{folder}")


def test_names_of_readers(registered):
    for name in ("c", "", "two words", "1st", "a/b"):
        with pytest.raises(TgfrError, match="expected a letter"):
            register_reader(name)
    with pytest.raises(TgfrError, match="data reader 'synthetic': tgfr.data.datasets.read_synthetic has this name"):
        register_reader("synthetic")(lambda options, split=None: None)
    with READERS.restored(without=["synthetic"]):
        register_reader("other")(lambda options, split=None: None)
        assert list_readers() == ["other"]
    assert list_readers() == ["synthetic"]

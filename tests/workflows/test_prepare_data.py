"""`tgfr prepare`: photos as they are stored, kill and resume, changed photos, links, the command and its options."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from raw_sets import files, make_mm, rows, write

from tgfr.cli import main
from tgfr.core import TgfrError
from tgfr.data.datasets import load_faces
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.synthetic import synthetic_faces
from tgfr.formats.prepare import Options, summary
from tgfr.workflows.prepare_data import prepare, prepare_faces


@pytest.fixture(scope="module")
def drawn():
    return synthetic_faces(people=10, photos=3, seed=4)


# ---- photos, resuming


def test_photos_of_another_size_are_cropped_and_counted(tmp_path, drawn):
    folder = make_mm(tmp_path / "in", drawn, celeba=False)
    report = prepare_faces("mm-celeba-hq", folder, tmp_path / "out", options=Options(size=64))
    assert report["photos"] == {"cropped": 30} and "not aligned" in summary(report)
    assert {read_image(row["image"]["bytes"], size=None).shape for row in rows(tmp_path / "out").values()} == {
        (64, 64, 3)
    }
    assert prepare_faces("mm-celeba-hq", folder, tmp_path / "as they are", options=Options(size=None))["photos"] == {
        "kept": 30
    }
    assert prepare_faces("mm-celeba-hq", folder, tmp_path / "elsewhere", photos=folder / "image")["photos"] == {
        "kept": 30
    }
    for wrong in (dict(size=3), dict(quality=0), dict(replicas="some"), dict(rows=0)):
        with pytest.raises(TgfrError, match="expected"):
            Options(**wrong)
    for wrong in (
        dict(split="mine"),
        dict(split="published"),
        dict(fractions=(0.5, 0.5, 0.5)),
        dict(fractions=(1.0, 0.0, float("nan"))),
    ):
        with pytest.raises(TgfrError):
            prepare_faces("mm-celeba-hq", folder, tmp_path / "no", options=Options(**wrong))


def test_other_endings_are_read_or_named_and_damage_is_told(tmp_path, drawn):
    folder = make_mm(tmp_path / "in", drawn)
    for old, new in (("3.jpg", "3.jfif"), ("4.jpg", "4.JPE"), ("6.jpg", "6.heic"), ("7.jpg", "7.tif")):
        (folder / "image" / old).rename(folder / "image" / new)
    write(folder / "image/7.tif", b"II*\0 no more")
    write(folder / "image/9.bmp", b"beside the JPEG of this number, which counts")
    noise = encode_jpeg(np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8))
    write(folder / "image/8.jpg", noise[:4000] + bytes(64) + noise[4064:])
    report = prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    assert report["photos"] == {"kept": 29} and report["left out"] == {
        "unreadable photo": {"count": 1, "names": report["left out"]["unreadable photo"]["names"]}
    }
    assert "TIFF" in report["left out"]["unreadable photo"]["names"][0]  # 6.heic holds a JPEG, and is read
    assert (
        len(report["notes"]) == 1
        and "damaged inside, and used: Corrupt JPEG data" in report["notes"][0]
        and report["notes"][0] in summary(report)
    )


KILLED = """
import os, signal, sys
from tgfr.formats import prepare as p
from tgfr.workflows.prepare_data import prepare_faces
real, calls = p.photo_bytes, []
def photo_bytes(*args):
    calls.append(1)
    if len(calls) == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
p.photo_bytes = photo_bytes
prepare_faces("mm-celeba-hq", sys.argv[1], sys.argv[2], options=p.Options(rows=4))
"""


def test_killed_and_resumed_is_the_same(tmp_path, drawn):
    folder = make_mm(tmp_path / "in", drawn)
    write(folder / "image/5.jpg", drawn[5]["image"]["bytes"][:600])
    report = prepare_faces("mm-celeba-hq", folder, tmp_path / "whole", options=Options(rows=4))
    run = subprocess.run(
        [sys.executable, "-c", KILLED, folder, tmp_path / "again", "10"], capture_output=True
    )  # in the third file
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert sum(p.suffix == ".parquet" for p in (tmp_path / "again").iterdir()) == 2 and any(
        p.suffix == ".tmp" for p in (tmp_path / "again").iterdir()
    )
    assert prepare_faces("mm-celeba-hq", folder, tmp_path / "again", options=Options(rows=4)) == report
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "again").glob("*.parquet")}
    prepare_faces("mm-celeba-hq", folder, tmp_path / "again", options=Options(rows=4))
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "again").glob("*.parquet")}  # nothing was done twice


def test_another_preparation_is_not_mixed_in(tmp_path, drawn):
    folder = make_mm(tmp_path / "in", drawn)
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    for options in (Options(seed=1), Options(rows=5), Options(quality=90)):
        with pytest.raises(TgfrError, match="of another preparation"):
            prepare_faces("mm-celeba-hq", folder, tmp_path / "out", options=options)
    write(folder / "text/0.txt", "Another caption.")
    with pytest.raises(TgfrError, match="of another preparation"):
        prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    with pytest.raises(TgfrError, match="is no folder"):
        prepare_faces("mm-celeba-hq", folder, tmp_path / "out/prepare.json")
    write(tmp_path / "foreign/train-00000-of-00001.parquet", b"PAR1 no more")
    with pytest.raises(TgfrError, match="of another preparation"):
        prepare_faces("mm-celeba-hq", folder, tmp_path / "foreign")


def test_the_command(tmp_path, drawn, capsys, refusal):
    folder = make_mm(tmp_path / "in", drawn)
    main(
        [
            "prepare",
            "mm-celeba-hq",
            str(folder),
            "--out",
            str(tmp_path / "out"),
            "--split",
            "seeded",
            "--fractions",
            "1",
            "0",
            "0",
            "--size",
            "None",
        ]
    )
    assert "train: 10 people, 30 photos" in capsys.readouterr().out and len(load_faces(tmp_path / "out")) == 30
    for wrong in (
        ["mm-celeba-hq", str(tmp_path / "nowhere")],
        ["face2text", str(folder)],
        ["mm-celeba-hq", str(folder), "--detector", str(tmp_path / "no.onnx")],
    ):
        refusal("prepare", *wrong, "--out", str(tmp_path / "other"))


# ---- photos that change, links


def exchange(a: Path, b: Path) -> None:
    "Two photos under each other's names, as long in bytes and as old as before."
    one, two = a.read_bytes(), b.read_bytes()
    longest, stats = max(len(one), len(two)), (a.stat(), b.stat())
    for path, data, stat in ((a, two, stats[0]), (b, one, stats[1])):
        path.write_bytes(data.ljust(longest, b"\0"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "resumed"])
def test_photos_exchanged_under_their_names_are_prepared_anew(tmp_path, drawn, finished, capsys):
    folder, options = make_mm(tmp_path / "in", drawn), Options(rows=5)
    for n in (0, 29):
        (folder / f"image/{n}.jpg").write_bytes(drawn[n]["image"]["bytes"].ljust(20_000, b"\0"))
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out", options=options)
    before = {name: data for name, data in files(tmp_path / "out").items() if name.endswith(".parquet")}
    if not finished:
        (tmp_path / "out" / list(before)[2]).unlink()
    exchange(folder / "image/0.jpg", folder / "image/29.jpg")
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out", options=options)
    assert "photos have changed" in capsys.readouterr().err
    prepare_faces("mm-celeba-hq", folder, tmp_path / "fresh", options=options)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")
    assert sum(data != before[name] for name, data in files(tmp_path / "out").items() if name in before) == 2
    capsys.readouterr()
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out", options=options)
    assert "changed" not in capsys.readouterr().err


def test_a_photo_of_another_size_is_prepared_anew(tmp_path, drawn):
    folder = make_mm(tmp_path / "in", drawn)
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    (folder / "image/3.jpg").write_bytes(drawn[4]["image"]["bytes"])
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    assert drawn[4]["image"]["bytes"] in [
        row["image"]["bytes"] for name, row in rows(tmp_path / "out").items() if name.endswith("/3")
    ]


def test_unpacked_again_is_the_same(tmp_path, drawn, capsys):
    "The same photos with other dates are the same photos."
    folder = make_mm(tmp_path / "in", drawn)
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.parquet")}
    shutil.rmtree(folder)
    prepare_faces("mm-celeba-hq", make_mm(folder, drawn), tmp_path / "out")
    assert times == {p: p.stat().st_mtime_ns for p in times} and "changed" not in capsys.readouterr().err


def test_an_older_preparation_is_said(tmp_path, drawn):
    folder = make_mm(tmp_path / "in", drawn)
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    path = next((tmp_path / "out").glob("train*.parquet"))
    table = pq.read_table(path)
    note = json.loads(pq.read_metadata(path).metadata[b"tgfr"])
    del note["content"]
    pq.write_table(table.replace_schema_metadata({"tgfr": json.dumps(note)}), path)
    prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    assert "content" in json.loads(
        pq.read_metadata(path).metadata[b"tgfr"]
    )  # it could not be told, so it was written anew


LINKS = {
    "a caption": "text/3.txt",
    "a photo": "image/3.jpg",
    "identities": "identity_CelebA.txt",
    "a folder of captions": "text",
    "a folder of photos": "image",
}


@pytest.mark.parametrize("case", LINKS)
@pytest.mark.parametrize("inside", [False, True], ids=["out", "within"])
def test_links_of_a_set(tmp_path, drawn, case, inside):
    folder = make_mm(tmp_path / "in", drawn)
    path, away = folder / LINKS[case], (folder / "kept" if inside else tmp_path / "private") / "that"
    away.parent.mkdir()
    path.rename(away), path.symlink_to(away)
    call = {"name": "mm-celeba-hq", "source": folder, "out": tmp_path / "out"}
    if inside:
        assert sum(s["photos"] for s in prepare_faces(**call)["splits"].values()) == 30
    else:
        with pytest.raises(
            TgfrError, match=f"{path.name}: a symbolic link out of .*/in, to .*/private/that.*--follow-links"
        ):
            prepare_faces(**call)
        assert not (tmp_path / "out").exists()
        assert sum(s["photos"] for s in prepare_faces(**call, follow_links=True)["splits"].values()) == 30
        assert main(["prepare", "mm-celeba-hq", str(folder), "--out", str(tmp_path / "again"), "--follow-links"]) in (
            0,
            None,
        )


def test_links_its_user_chose(tmp_path, drawn):
    "The folder itself, and one given by --photos, may be links."
    folder = make_mm(tmp_path / "in", drawn)
    (folder / "image").rename(tmp_path / "photos")
    (tmp_path / "way").symlink_to(folder), (tmp_path / "pictures").symlink_to(tmp_path / "photos")
    report = prepare_faces("mm-celeba-hq", tmp_path / "way", tmp_path / "out", photos=tmp_path / "pictures")
    assert sum(s["photos"] for s in report["splits"].values()) == 30
    (tmp_path / "photos/5.jpg").unlink(), (tmp_path / "photos/5.jpg").symlink_to("/etc/hostname")
    with pytest.raises(TgfrError, match="5.jpg: a symbolic link out of .*pictures, to /etc/hostname"):
        prepare_faces("mm-celeba-hq", tmp_path / "way", tmp_path / "out2", photos=tmp_path / "pictures")


@pytest.mark.parametrize("link", ["/dev/zero", "loop.txt", "nowhere"])
def test_links_to_nothing(tmp_path, drawn, link):
    folder = make_mm(tmp_path / "in", drawn)
    (
        (folder / "text/3.txt").unlink(),
        (folder / "text/3.txt").symlink_to(
            folder / "text" / link if link == "nowhere" else "3.txt" if "loop" in link else link
        ),
    )
    if link == "/dev/zero":
        with pytest.raises(TgfrError, match="a symbolic link out of"):
            prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    else:
        assert (
            sum(s["photos"] for s in prepare_faces("mm-celeba-hq", folder, tmp_path / "out")["splits"].values()) == 29
        )


# ---- the function of the command


def test_the_function_prints_and_returns_the_report(tmp_path, drawn, capsys):
    folder = make_mm(tmp_path / "in", drawn, celeba=False)
    report = prepare("mm-celeba-hq", folder, tmp_path / "out", size=64, quality=90, seed=3, fractions=[0.5, 0.2, 0.3])
    printed = capsys.readouterr().out
    assert printed == f"{summary(report)}\nall names: {tmp_path / 'out/prepare.json'}\n"
    assert report == json.loads((tmp_path / "out/prepare.json").read_text())
    expected = Options(fractions=(0.5, 0.2, 0.3), seed=3, size=64, quality=90)
    assert prepare_faces("mm-celeba-hq", folder, tmp_path / "same", options=expected) == report


def test_defaults_are_those_of_the_options():
    parameters = inspect.signature(prepare).parameters
    defaults = Options(*(parameters[name].default for name in ("split_by", "fractions", "seed", "replicas", "size")))
    assert defaults == Options() and parameters["quality"].default == Options().quality


@pytest.mark.parametrize(
    "option, flag",
    [
        ({"photos": "x"}, "--photos"),
        ({"detector": "x"}, "--detector"),
        ({"part": "hq"}, "--part"),
        ({"split_by": "seeded"}, "--split-by"),
        ({"fractions": (0.5, 0.5, 0.0)}, "--fractions"),
        ({"seed": 1}, "--seed"),
        ({"replicas": "none"}, "--replicas"),
        ({"size": None}, "--size"),
        ({"quality": 90}, "--quality"),
        ({"follow_links": True}, "--follow-links"),
    ],
)
def test_options_of_captioned_faces_are_refused_for_evaluation_sets(tmp_path, option, flag):
    write(tmp_path / "list.txt", "5_1 5_2 1\n5_1 6_1 0\n")
    with pytest.raises(TgfrError, match=f"^{flag}: has no meaning for an evaluation set"):
        prepare("ijb", tmp_path / "list.txt", tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_set_is_written_where_it_says(tmp_path, capsys):
    write(tmp_path / "list.txt", "5_1 5_2 1\n5_1 6_1 0\n")
    path = prepare("ijb", tmp_path / "list.txt", tmp_path / "out")
    assert path == tmp_path / "out/list.parquet" and path.is_file() and capsys.readouterr().out == f"{path}\n"

"From what a user downloads to the canonical form: each layout, its quirks, splits, replicas, kill and resume, hostile files."

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hostile import Runs

from tgfr.cli import main
from tgfr.core import TgfrError
from tgfr.data.datasets import drop_unusable, load_faces
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.synthetic import synthetic_faces
from tgfr.formats.celeba_sources import ASPECTS
from tgfr.formats.prepare import Options, summary
from tgfr.formats.sources import PUBLISHED, read_source
from tgfr.formats.tgfr_layout import count_padding_copies
from tgfr.formats.untrusted import squeeze
from tgfr.workflows.prepare_data import prepare_faces


@pytest.fixture(scope="module")
def drawn():
    return synthetic_faces(people=10, photos=3, seed=4)


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def left_out(report: dict) -> dict[str, int]:
    return {kind: what["count"] for kind, what in report["left out"].items()}


def rows(out: Path) -> dict[str, dict]:
    "Every row of a preparation by photo_id, with its split."
    found = {}
    for path in sorted(out.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found[row["photo_id"]] = row | {"split": path.name.partition("-")[0]}
    return found


def files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir()}


# ---- MM-CelebA-HQ


def make_mm(folder: Path, drawn, texts: str = "text", images: str = "image", celeba: bool = True) -> Path:
    for n, row in enumerate(drawn):
        write(folder / images / f"{n}.jpg", row["image"]["bytes"])
        write(folder / texts / f"{n}.txt", "  \n".join([*row["captions"], row["captions"][0]]) + "\n" * (n % 2))
    if celeba:  # CelebA's own numbers, in an order of their own
        write(
            folder / "CelebA-HQ-to-CelebA-mapping.txt",
            "idx        orig_idx   orig_file\n"
            + "".join(f"{n:<11}{500 - n:<11}{501 - n:06d}.jpg\n" for n in range(len(drawn))),
        )
        write(
            folder / "identity_CelebA.txt",
            "".join(f"{501 - n:06d}.jpg {1000 - 7 * row['identity']}\r\n" for n, row in enumerate(drawn))
            + "202599.jpg 3\r\n",
        )
    else:
        write(
            folder / "identity.txt", "".join(f"{n}.jpg {1000 - 7 * row['identity']}\n" for n, row in enumerate(drawn))
        )
    return folder


@pytest.mark.parametrize(
    "texts, images, celeba",
    [
        ("text", "image", False),
        ("text/celeba-caption", "image/images", True),
        ("celeba-caption", "CelebA-HQ-img", True),
    ],
)
def test_mm_celeba_hq(tmp_path, drawn, texts, images, celeba):
    report = prepare_faces(
        "mm-celeba-hq",
        make_mm(tmp_path / "in", drawn, texts, images, celeba),
        tmp_path / "out",
        options=Options(rows=7),
    )
    assert left_out(report) == {} and report["photos"] == {"kept": 30} and report["people known"] == 10
    found = rows(tmp_path / "out")
    assert len(found) == 30
    for n, row in enumerate(drawn):
        got = found[f"{9 - row['identity']}/{n}"]  # ranks: the smallest number is person 0
        assert got["identity"] == 9 - row["identity"] and got["source_identity"] == 1000 - 7 * row["identity"]
        assert (
            got["captions"] == row["captions"]
            and got["image"]["bytes"] == row["image"]["bytes"]
            and got["replica_of"] is None
        )
    splits = defaultdict(set)
    for row in found.values():
        splits[row["identity"]].add(row["split"])
    assert all(len(s) == 1 for s in splits.values()) and Counter(s for (s,) in splits.values()) == {
        "train": 7,
        "validation": 1,
        "test": 2,
    }
    loaded, skips = drop_unusable(load_faces(tmp_path / "out", "train"))
    assert (
        len(loaded) == 21
        and not len(skips)
        and loaded["photo_id"][:] == [i for i, r in found.items() if r["split"] == "train"]
    )
    assert json.loads((tmp_path / "out/prepare.json").read_text()) == report


def test_published_split_is_reproduced(tmp_path, drawn):
    counts = PUBLISHED["mm-celeba-hq"]
    folder, chosen = (
        tmp_path / "in",
        [0, counts[0] - 1, counts[0], counts[0] + counts[1] - 1, counts[0] + counts[1], sum(counts) - 1],
    )
    numbers = np.random.default_rng(0).permutation(sum(counts)).tolist()  # photo n shows the person of rank numbers[n]
    write(
        folder / "identity_CelebA.txt", "".join(f"{n + 1:06d}.jpg {3 * rank + 5}\r\n" for n, rank in enumerate(numbers))
    )
    write(
        folder / "mapping.txt",
        "idx orig_idx orig_file\n" + "".join(f"{n} {n} {n + 1:06d}.jpg\n" for n in range(len(numbers))),
    )
    for rank in chosen:
        write(folder / f"image/{numbers.index(rank)}.jpg", drawn[0]["image"]["bytes"])
        write(folder / f"text/{numbers.index(rank)}.txt", "A face.")
    report = prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    assert report["split"].startswith("published")
    assert {row["identity"]: row["split"] for row in rows(tmp_path / "out").values()} == dict(
        zip(chosen, np.repeat(["train", "validation", "test"], 2))
    )
    assert prepare_faces("mm-celeba-hq", folder, tmp_path / "seeded", options=Options(split="seeded"))["split"].startswith(
        "seeded"
    )


def test_mm_quirks_are_counted_and_named(tmp_path, drawn):
    folder = make_mm(tmp_path / "in", drawn, celeba=False)
    write(folder / "text/3.txt", "\ufeffShe is naïve.\r\n\r\nShe smiles.\r\n")
    write(folder / "text/4.txt", "Elle est naïve.\nElle rit.".encode("latin-1"))
    write(folder / "text/5.txt", b"\n \r\n")
    write(folder / "text/6.txt", bytes(300))
    write(folder / "image/7.jpg", drawn[7]["image"]["bytes"][:700])
    write(folder / "image/8.jpg", b"")
    write(folder / "text/99.txt", "Nobody.")
    (folder / "image/10.jpg").unlink()
    (folder / "text/11.txt").unlink()
    write(folder / "CelebAMask-HQ-attribute-anno.txt", "2\nMale Smiling\n30000.jpg  1 -1\n1.jpg -1  1\n")
    report = prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    assert left_out(report) == {"no caption": 3, "no identity": 1, "no photo": 1, "unreadable photo": 2}
    assert report["left out"]["no caption"]["names"] == ["5", "6", "11"] and report["left out"]["no photo"][
        "names"
    ] == ["10"]
    assert sorted(name.partition(":")[0] for name in report["left out"]["unreadable photo"]["names"]) == ["7/7", "7/8"]
    assert any("text/6.txt" in note for note in report["notes"]) and "left out, no caption: 3 (5; 6; 11)" in summary(
        report
    )
    assert summary(report | {"notes": ["a note"] * 12}).endswith("... and 2 more notes")
    by_number = {photo.partition("/")[2]: row for photo, row in rows(tmp_path / "out").items()}
    assert by_number["3"]["captions"] == ["She is naïve.", "She smiles."] and by_number["4"]["captions"] == [
        "Elle est naïve.",
        "Elle rit.",
    ]
    assert (
        by_number["0"]["attributes"] == "Male"
        and by_number["1"]["attributes"] == "Smiling"
        and by_number["2"]["attributes"] == ""
    )


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda f: [p.unlink() for p in (f / "image").iterdir()], "no photos named by a number"),
        (lambda f: [p.unlink() for p in (f / "text").iterdir()], "no captions"),
        (lambda f: (f / "identity.txt").unlink(), "no identities"),
        (lambda f: write(f / "identity.txt", "0.jpg 1\n0.jpg 2\n"), "0 has two values"),
        (lambda f: write(f / "identity.txt", "0.jpg one\n"), "filled line 1"),
        (lambda f: write(f / "identity.txt", "000001.jpg 1\n"), "no mapping"),
        (lambda f: write(f / "identity.txt", bytes(99)), "no text"),
        (lambda f: write(f / "identity.txt", "777.jpg 1\n"), "nothing is left of 30 photos"),
        (
            lambda f: write(f / "CelebAMask-HQ-attribute-anno.txt", "1\nMale\n0.jpg 1 1\n"),
            "expected a photo and 1 values",
        ),
        (lambda f: [write(p, b"no jpeg") for p in (f / "image").iterdir()], "no photo is left"),
    ],
)
def test_broken_sources_are_one_clear_error(tmp_path, drawn, break_it, message, refusal):
    folder = make_mm(tmp_path / "in", drawn, celeba=False)
    break_it(folder)
    with pytest.raises(TgfrError, match=message) as error:
        prepare_faces("mm-celeba-hq", folder, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out/prepare.json").exists()
    refusal("prepare", "mm-celeba-hq", str(folder), "--out", str(tmp_path / "out"))


# ---- CelebA-Dialog


def make_dialog(folder: Path, drawn, celeba: bool = False) -> Path:
    def name(n):
        return f"{n + 1:06d}.jpg" if celeba else f"{n}.jpg"

    captions = {
        name(n): {
            "attribute_wise_captions": {a: f"{a} of photo {n}." for a in ASPECTS},
            "overall_caption": f"Photo {n}.",
        }
        for n in range(len(drawn))
    }
    captions[name(1)]["overall_caption"] = None
    captions[name(2)]["attribute_wise_captions"] = {
        "Bangs": None,
        "Eyeglasses": "",
        "Smiling": "She\nsmiles. ",
    }  # No_Beard and Young are missing
    captions[name(3)] = {"attribute_wise_captions": None, "overall_caption": ""}
    captions[name(4)] = None
    captions[name(6)] = {"overall_caption": ["a list"], "attribute_wise_captions": ["a list"]}
    captions[name(7)] = {"overall_caption": "Half \ud83d a pair."}
    del captions[name(5)]
    write(folder / ("captions.json" if celeba else "text_hq/captions_hq.json"), json.dumps(captions))
    write(
        folder / ("identity_CelebA.txt" if celeba else "metadata/identity_hq.txt"),
        "".join(f"{name(n)} {row['identity'] + 1}\r\n" for n, row in enumerate(drawn)),
    )
    write(
        folder / "combined_annotation.txt",
        "Bangs Eyeglasses No_Beard Smiling Young\n"
        + "".join(f"{name(n)} {n % 6} 0 1 2 5\n" for n in range(len(drawn))),
    )
    for n, row in enumerate(drawn):
        write(folder / ("img_align_celeba" if celeba else "image/images") / name(n), row["image"]["bytes"])
    return folder


@pytest.mark.parametrize("celeba", [False, True])
def test_celeba_dialog(tmp_path, drawn, celeba):
    report = prepare_faces(
        "celeba-dialog", make_dialog(tmp_path / "in", drawn, celeba), tmp_path / "out", part="all" if celeba else None
    )
    first = int(celeba)
    assert left_out(report) == {"no caption": 4} and report["left out"]["no caption"]["names"] == [
        str(n + first) for n in (3, 4, 5, 6)
    ]
    found = {int(photo.partition("/")[2]) - first: row for photo, row in rows(tmp_path / "out").items()}
    assert found[0]["captions"] == ["Photo 0."] + [f"{a} of photo 0." for a in ASPECTS]  # tests take the first
    assert found[1]["captions"] == [f"{a} of photo 1." for a in ASPECTS]
    assert found[2]["captions"] == ["Photo 2.", "She smiles."] and found[7]["captions"] == ["Half ? a pair."]
    assert found[9]["attributes"] == "Bangs=3 Eyeglasses=0 No_Beard=1 Smiling=2 Young=5"
    assert all(row["identity"] == drawn[n]["identity"] for n, row in found.items())


def test_celeba_dialog_parts(tmp_path, drawn):
    folder = make_dialog(tmp_path / "in", drawn)
    with pytest.raises(TgfrError, match="expected hq or all"):
        prepare_faces("celeba-dialog", folder, tmp_path / "out", part="most")
    with pytest.raises(TgfrError, match="no captions; expected captions.json"):
        prepare_faces("celeba-dialog", folder, tmp_path / "out", part="all")
    with pytest.raises(TgfrError, match="only celeba-dialog"):
        prepare_faces("face2text", folder, tmp_path / "out", part="hq")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 5_000_000,
        b'{"0.jpg": ' + b"[" * 5_000_000,
        b'{"0.jpg": ' + b"[]," * 2_000_000,
        b"[]",
        b'{"0.jpg": {}',
        b'{"0.jpg": NaN} x',
        b"\xff\xfe{}",
    ],
)
def test_hostile_captions(tmp_path, drawn, content):
    folder = make_dialog(tmp_path / "in", drawn)
    write(folder / "text_hq/captions_hq.json", content)
    with pytest.raises(TgfrError):
        prepare_faces("celeba-dialog", folder, tmp_path / "out")


# ---- Face2Text


def make_face2text(folder: Path, drawn, as_list: bool = False) -> Path:
    texts = [
        {"response_id": str(n), "filename": f"{k + 1:06d}.jpg", "description": f"Person number {k}, answer {n}."}
        for n, k in enumerate([0, 0, 1, 2, 5, 5, 5, 8])
    ]
    texts[2]["description"] = "A naïve man\nwith “a hat”."
    texts[3]["description"] = " "
    write(
        folder / ("raw_2.1.json" if as_list else "raw_2.0.jsonl"),
        json.dumps(texts) if as_list else "\n".join(json.dumps(t, ensure_ascii=False) for t in texts) + "\n",
    )
    write(folder / "clean_train_2.0.jsonl", "not read")
    write(
        folder / "Anno/identity_CelebA.txt",
        "".join(f"{n + 1:06d}.jpg {50 + row['identity']}\r\n" for n, row in enumerate(drawn)),
    )
    for n, row in enumerate(drawn):
        write(folder / "img_align_celeba" / f"{n + 1:06d}.jpg", row["image"]["bytes"])
    return folder


@pytest.mark.parametrize("as_list", [False, True])
def test_face2text(tmp_path, drawn, as_list):
    report = prepare_faces("face2text", make_face2text(tmp_path / "in", drawn, as_list), tmp_path / "out")
    assert left_out(report) == {"no caption": 1} and report["people known"] == 3  # only described photos count
    found = rows(tmp_path / "out")
    assert {photo: row["captions"] for photo, row in found.items()} == {
        "0/1": ["Person number 0, answer 0.", "Person number 0, answer 1."],
        "0/2": ["A naïve man with “a hat”."],
        "1/6": [f"Person number 5, answer {n}." for n in (4, 5, 6)],
        "2/9": ["Person number 8, answer 7."],
    }
    assert found["2/9"]["source_identity"] == 52


def test_face2text_damage_is_counted(tmp_path, drawn):
    folder = make_face2text(tmp_path / "in", drawn)
    with open(folder / "raw_2.0.jsonl", "ab") as f:
        f.write(
            b'{"filename": "000010.jpg", "description": "caf\xe9 owner\nof old"}\r\n{"filename": \n{"description": "whose?"}\n[1]\n{"filename": "../../x.jpg", "description": "out"}\n{"filename": "000030.jpg", "description": 7}\n'
        )
    report = prepare_faces("face2text", folder, tmp_path / "out")
    assert left_out(report) == {"no JSON object with a photo's filename": 4, "no caption": 2}
    assert "café owner of old" in [c for row in rows(tmp_path / "out").values() for c in row["captions"]]


# ---- TGFR's layout


def make_tgfr(folder: Path, drawn, photos: bool = True) -> Path:
    "Persons 0 to 9 with five photos each: three real ones and two copies of the last."
    for split, people in {"train": range(6), "valid": (6,), "test": (7, 8, 9)}.items():
        names = [f"{i}/{i}_{n}" for i in people for n in range(1, 6)]
        write(folder / split / "filenames.pickle", pickle.dumps(names))
        write(folder / split / "class_info.pickle", pickle.dumps([i for i in people for _ in range(5)]))
        for i in people:
            for n in range(1, 6):
                row = drawn[3 * i + min(n, 3) - 1]
                write(folder / f"text/{i}/{i}_{n}.txt", "\n".join(row["captions"] * 2))
                if photos:
                    write(folder / f"images/{split}/{i}/{i}_{n}.jpg", row["image"]["bytes"])
    return folder


@pytest.mark.parametrize(
    "replicas, kept",
    [
        ("train", {"train": 30, "validation": 3, "test": 9}),
        ("all", {"train": 30, "validation": 5, "test": 15}),
        ("none", {"train": 18, "validation": 3, "test": 9}),
    ],
)
def test_tgfr_layout_and_its_replicas(tmp_path, drawn, replicas, kept):
    report = prepare_faces(
        "tgfr-layout", make_tgfr(tmp_path / "in", drawn), tmp_path / "out", options=Options(replicas=replicas)
    )
    assert {split: counts["photos"] for split, counts in report["splits"].items()} == kept
    assert left_out(report).get("replica", 0) == 50 - sum(kept.values())
    found = rows(tmp_path / "out")
    for photo, row in found.items():
        person, n = photo.split("_")
        assert (
            row["replica_of"] == (f"{person}_3" if int(n) > 3 else None)
            and row["captions"] == drawn[3 * row["identity"] + min(int(n), 3) - 1]["captions"]
        )
    if replicas == "train":
        assert not any(row["replica_of"] for row in found.values() if row["split"] != "train")


def test_padding_is_a_run_at_the_end():
    for files, count in (([], 0), ("a", 0), ("aa", 1), ("aab", 0), ("abb", 1), ("abab", 0), ("aaaa", 3)):
        assert count_padding_copies([f.encode() for f in files]) == count


def test_tgfr_quirks(tmp_path, drawn, capsys):
    folder = make_tgfr(tmp_path / "in", drawn)
    names = pickle.loads((folder / "train/filenames.pickle").read_bytes())
    write(
        folder / "train/filenames.pickle",
        pickle.dumps(names + ["../../etc/passwd", "1/2_3", 7, names[0], "9/9_1", "0/0_9"], 2),
    )
    write(
        folder / "train/class_info.pickle", pickle.dumps([i for i in range(6) for _ in range(5)] + [0, 1, 7, 0, 9, 5])
    )
    (folder / "text/2/2_1.txt").unlink()
    (folder / "images/train/3/3_1.jpg").unlink()
    write(folder / "images/train/4/4_1.jpg", drawn[0]["image"]["bytes"][:500])
    report = prepare_faces("tgfr-layout", folder, tmp_path / "out")
    assert left_out(report) == {
        "class_info.pickle says 5": 1,
        "its person is in test too": 1,
        "listed twice": 1,
        "no caption file": 1,
        "no name like 12/12_3": 3,
        "no photo": 1,
        "replica": 8,
        "unreadable photo": 1,
    }
    write(folder / "train/class_info.pickle", pickle.dumps([1, 2]))
    with pytest.raises(TgfrError, match="two lists of one length"):
        prepare_faces("tgfr-layout", folder, tmp_path / "out2")


def test_tgfr_without_photos(tmp_path, drawn):
    report = prepare_faces("tgfr-layout", make_tgfr(tmp_path / "in", drawn, photos=False), tmp_path / "out")
    assert report["photos"] == {"without photo": 42} and "image column stays empty" in summary(report)
    assert (
        all(row["image"]["bytes"] is None for row in rows(tmp_path / "out").values())
        and len(load_faces(tmp_path / "out", "test")) == 9
    )
    with pytest.raises(TgfrError, match="no such folder"):
        prepare_faces("tgfr-layout", tmp_path / "in", tmp_path / "out2", photos=tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["filenames.pickle", "class_info.pickle"])
def test_pickles_never_run_code(tmp_path, drawn, file):
    folder = make_tgfr(tmp_path / "in", drawn, photos=False)
    write(folder / "train" / file, pickle.dumps([Runs(tmp_path / "ran")]))
    with pytest.raises(TgfrError, match=f"{file}: not a pickle of plain values"):
        prepare_faces("tgfr-layout", folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


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
    assert prepare_faces("mm-celeba-hq", folder, tmp_path / "elsewhere", photos=folder / "image")["photos"] == {"kept": 30}
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


# ---- the real layouts


def test_real_mm_celeba_hq(tmp_path, shared_data):
    detector = shared_data / "weights/yunet_n_dynamic.onnx"
    report = prepare_faces("mm-celeba-hq", shared_data / "raw_mm_celeba_hq", tmp_path / "out")
    photos = len(list((shared_data / "raw_mm_celeba_hq/image").iterdir()))
    assert left_out(report) == {} and report["photos"] == {"kept": photos}
    known = {
        row["photo_id"].partition("/")[2]: row for row in load_faces(shared_data / "celeba_hq", "validation").to_list()
    }
    for photo, row in rows(tmp_path / "out").items():
        assert (
            row["captions"] == known[photo.partition("/")[2]]["captions"]
            and row["image"]["bytes"] == known[photo.partition("/")[2]]["image"]["bytes"]
        )
    assert prepare_faces("mm-celeba-hq", shared_data / "raw_mm_celeba_hq", tmp_path / "aligned", detector=detector)[
        "photos"
    ] == {"aligned": photos}
    np.testing.assert_equal(
        {read_image(r["image"]["bytes"], size=None).shape for r in rows(tmp_path / "aligned").values()}, {(112, 112, 3)}
    )


def test_photos_without_a_face_are_named(tmp_path, drawn, shared_data):
    folder = make_mm(tmp_path / "in", drawn, celeba=False)
    for n, path in enumerate(sorted((shared_data / "raw_mm_celeba_hq/image").iterdir())[:20]):
        write(folder / f"image/{n}.jpg", path.read_bytes())
    for n in range(20, 30):
        write(folder / f"image/{n}.jpg", b"P6 40 40 255\n" + bytes(4800))
    report = prepare_faces("mm-celeba-hq", folder, tmp_path / "out", detector=shared_data / "weights/yunet_n_dynamic.onnx")
    assert left_out(report) == {"no face found": 10} and report["photos"] == {"aligned": 20}


@pytest.mark.parametrize("name", ["celeba", "face2text"])
def test_real_tgfr_layout(tmp_path, shared_data, name):
    source = shared_data / "raw_tgfr" / name
    report = prepare_faces("tgfr-layout", source, tmp_path / "out", options=Options(replicas="all"))
    texts = {f"{p.parent.name}/{p.stem}" for p in source.glob("text/*/*.txt")}
    found = rows(tmp_path / "out")
    listed = set().union(
        *(pickle.loads((source / split / "filenames.pickle").read_bytes()) for split in ("train", "valid"))
    )
    assert set(found) == texts & listed and left_out(report) == {"no caption file": len(listed - texts)}
    assert all(row["split"] == ("train" if row["identity"] < 4500 else "validation") for row in found.values())
    if name == "face2text":
        for split in ("train", "valid"):
            for line in (shared_data / f"face2text/{split}.jsonl").read_text().splitlines():
                row = json.loads(line)
                if row["image"] in found:
                    assert (found[row["image"]]["captions"], found[row["image"]]["replica_of"]) == (
                        [squeeze(c) for c in row["captions"]],
                        row.get("replica_of"),
                    )


def test_source_names(tmp_path):
    with pytest.raises(TgfrError, match="there are mm-celeba-hq, celeba-dialog"):
        read_source("lfw", tmp_path)
    for name in PUBLISHED | {"tgfr-layout": 0}:
        with pytest.raises(TgfrError, match="expected"):
            read_source(name, tmp_path)


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
        assert sum(s["photos"] for s in prepare_faces("mm-celeba-hq", folder, tmp_path / "out")["splits"].values()) == 29

"""From what a user downloads to the canonical form: each layout, its quirks, splits, replicas, hostile files."""

import json
import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest
from hostile import Runs
from raw_sets import left_out, make_dialog, make_face2text, make_mm, make_tgfr, rows, write

from tgfr.core import TgfrError
from tgfr.data.datasets import drop_unusable, load_faces
from tgfr.data.faces import read_image
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


# ---- MM-CelebA-HQ


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
    assert prepare_faces("mm-celeba-hq", folder, tmp_path / "seeded", options=Options(split="seeded"))[
        "split"
    ].startswith("seeded")


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
            b'{"filename": "000010.jpg", "description": "caf\xe9 owner\nof old"}\r\n{"filename": \n'
            b'{"description": "whose?"}\n[1]\n{"filename": "../../x.jpg", "description": "out"}\n'
            b'{"filename": "000030.jpg", "description": 7}\n'
        )
    report = prepare_faces("face2text", folder, tmp_path / "out")
    assert left_out(report) == {"no JSON object with a photo's filename": 4, "no caption": 2}
    assert "café owner of old" in [c for row in rows(tmp_path / "out").values() for c in row["captions"]]


# ---- TGFR's layout


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
    report = prepare_faces(
        "mm-celeba-hq", folder, tmp_path / "out", detector=shared_data / "weights/yunet_n_dynamic.onnx"
    )
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

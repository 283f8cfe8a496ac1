"""Embedding crops: equal to aligning and encoding by hand, with processes, after a kill, with images that cannot be
read."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from processes import kill_when, killed_at, needs_kill, python

from tgfr.cli import main
from tgfr.core import TgfrError, read_json, rng
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.landmarks import ARCFACE_TEMPLATE, align
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.embed import constant_norm_warning, embed_crops, embed_file, embed_folder, embed_ijb
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.features import l2_normalize
from tgfr.encoders.pretrained_faces import load_encoder
from tgfr.evaluation.simulated_ijb import simulate_ijb


@pytest.fixture(scope="module")
def encoder():
    return IResNet((1, 1, 1, 1), width=4, embedding=32)


@pytest.fixture(scope="module")
def ijb_set(tmp_path_factory):
    "A simulated set with crops: smooth noise, one file that is no image, one missing."
    folder = tmp_path_factory.mktemp("set")
    files = simulate_ijb("IJBB", folder, scale=0.001, width=8)[0]
    (crops := files.folder / "loose_crop").mkdir()
    for k, name in enumerate(files.images().name.to_pylist()):
        picture = cv2.GaussianBlur(rng("crop", k).integers(0, 255, (130, 120, 3), np.uint8), (0, 0), 5)
        if k != 11:
            cv2.imwrite(str(crops / name), picture)
    (crops / files.images().name[5].as_py()).write_bytes(b"\xff\xd8\xff garbage")
    return files


def test_rows_are_what_a_hand_would_make(ijb_set, encoder, tmp_path):
    images = ijb_set.images()
    store = embed_ijb(ijb_set.folder, encoder, tmp_path / "a", mirror=True, styles=("stage2",), batch=50, workers=2)
    assert store.variants == ["112px", "112px mirrored"] and [row for row, *_ in store.meta["unreadable"]] == [5, 11]
    assert store.meta["unreadable"][0][1] == images.name[5].as_py() and "no such file" in store.meta["unreadable"][1][2]
    for row in 0, 4, 6, 49, 50, len(images) - 1:
        crop = align(
            read_image(ijb_set.folder / "loose_crop" / images.name[row].as_py(), size=None), images.points[row]
        )
        for v, picture in enumerate((crop, np.ascontiguousarray(crop[:, ::-1]))):
            features = encoder.encode(picture[None], styles=("stage2",))
            np.testing.assert_allclose(store.embedding[v, row], features.embedding[0], atol=1e-5)
            np.testing.assert_allclose(store.styles[v, row], features.styles[0], atol=2e-3)
    assert np.isnan(store.embedding[:, [5, 11]]).all() and np.isfinite(np.delete(store.embedding, [5, 11], 1)).all()
    store.verify()
    alone = embed_ijb(ijb_set.folder, encoder, tmp_path / "b", batch=64)
    np.testing.assert_allclose(np.nan_to_num(alone.embedding[0]), np.nan_to_num(store.embedding[0]), atol=1e-5)


def test_a_finished_store_is_not_made_again(ijb_set, encoder, tmp_path):
    names = ijb_set.images().name.to_pylist()[:20]

    class Counting:
        config, content_digest, calls = encoder.config, encoder.content_digest, 0

        def encode(self, images):
            Counting.calls += 1
            return encoder.encode(images)

    def run(**changes):
        return embed_crops(
            ijb_set.folder / "loose_crop", changes.get("names", names), None, Counting(), tmp_path, batch=8
        )

    first = run()
    assert Counting.calls == 3
    assert run().meta == first.meta and Counting.calls == 3
    assert len(run(names=names[:10])) == 10 and Counting.calls == 5


def test_unit_features_are_warned_of_once(ijb_set, encoder, tmp_path, capsys):
    names = ijb_set.images().name.to_pylist()[:20]

    class Unit:
        config = encoder.config

        def encode(self, images):
            return replace(raw := encoder.encode(images), embedding=l2_normalize(raw.embedding))

    def run(encoder, name):
        return embed_crops(ijb_set.folder / "loose_crop", names, None, encoder, tmp_path / name, batch=8)

    store = run(Unit(), "unit")
    assert (said := capsys.readouterr().err).count("all embeddings have the length 1,") == 1 and said.count(
        "warning: "
    ) == 2  # the other: crops that are not square
    assert (
        "norm" in constant_norm_warning(store)
        and not constant_norm_warning(run(encoder, "raw"))
        and "length" not in capsys.readouterr().err
    )


def test_lenient_takes_what_strict_refuses(ijb_set, encoder, tmp_path, refusal):
    "An image named twice has its row twice; one without finite points is left out."
    lines = ijb_set.path("name_5pts_score.txt").read_text().splitlines()[:4]
    lines[2], lines[3] = lines[0], " ".join(["nan" if k == 3 else part for k, part in enumerate(lines[3].split())])
    (points := tmp_path / "points.txt").write_text("\n".join(lines) + "\n")
    crops = ijb_set.folder / "loose_crop"
    with pytest.raises(TgfrError, match="for the second time|not finite"):
        embed_file(points, crops, encoder, tmp_path / "strict")
    save_encoder(encoder, tmp_path / "encoder")
    args = [
        "embed",
        str(crops),
        "--points",
        str(points),
        "--encoder",
        str(tmp_path / "encoder"),
        "--out",
        str(tmp_path / "store"),
    ]
    refusal(*args)
    main([*args, "--lenient"])
    store = FeatureStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.embedding[0, 0], store.embedding[0, 2])
    assert [row for row, *_ in store.meta["unreadable"]] == [3] and "expected finite" in store.meta["unreadable"][0][2]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"names": []}, "no images"),
        ({"points": np.zeros((3, 5, 2))}, "expected \\(2, 5, 2\\)"),
        ({"batch": 0}, "batch 0"),
        ({"crops": "/no/such"}, "no such folder"),
        ({"names": ["x.jpg", "y.jpg"]}, "none of the 2 images"),
    ],
)
def test_wrong_use(ijb_set, encoder, tmp_path, change, said):
    options = {
        "crops": ijb_set.folder / "loose_crop",
        "names": ijb_set.images().name.to_pylist()[:2],
        "points": None,
        "encoder": encoder,
        "out": tmp_path,
    } | change
    with pytest.raises(TgfrError, match=said):
        embed_crops(**options)


def put(path: Path, key: int) -> None:
    "A picture whose file is as long as any other's, and as old."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        cv2.imencode(".bmp", cv2.GaussianBlur(rng("put", key).integers(0, 255, (112, 112, 3), np.uint8), (0, 0), 5))[
            1
        ].tobytes()
    )
    os.utime(path, (1e9, 1e9))


@pytest.mark.parametrize(
    "names", [["a.bmp", "b.bmp", "c.bmp"], ["x/a.bmp", "x/b.bmp", "y/z/c.bmp"]], ids=["top", "below"]
)
@pytest.mark.parametrize("how", ["written", "renamed", "copied with its times"])
def test_a_picture_replaced_under_its_name_is_encoded_anew(names, how, encoder, tmp_path):
    "The kind of deepface #942: length, name and time of change say nothing of what is in a picture."
    crops = tmp_path / "crops"
    for k, name in enumerate(names):
        put(crops / name, k)
    first = np.array(embed_crops(crops, names, None, encoder, tmp_path / "store").embedding)
    if how == "written":
        put(crops / names[2], 99)
    else:
        put(tmp_path / "new.bmp", 99)
        (os.replace if how == "renamed" else shutil.copy2)(tmp_path / "new.bmp", crops / names[2])
    again = embed_crops(crops, names, None, encoder, tmp_path / "store")
    fresh = embed_crops(crops, names, None, encoder, tmp_path / "fresh")
    np.testing.assert_array_equal(again.embedding, fresh.embedding)
    assert (again.embedding != first).any(2).tolist() == [[False, False, True]]


def test_a_run_whose_pictures_change_does_not_mix(encoder, tmp_path):
    names = [f"{k}.bmp" for k in range(12)]
    for k, name in enumerate(names):
        put(tmp_path / "crops" / name, k)

    class Meddled:
        config, content_digest, calls = encoder.config, encoder.content_digest, 0

        def encode(self, images):
            self.calls += 1
            if self.calls == 2:
                put(tmp_path / "crops" / names[self.which], 77)
            if self.calls == 3:
                raise KeyboardInterrupt
            return encoder.encode(images)

    for which, expected in ((1, KeyboardInterrupt), (9, TgfrError)):  # one that is encoded, and one that is not yet
        meddled = Meddled()
        meddled.which = which
        with pytest.raises(expected):
            embed_crops(tmp_path / "crops", names, None, meddled, tmp_path / "store", batch=4)
        store, fresh = (
            embed_crops(tmp_path / "crops", names, None, encoder, tmp_path / name, batch=4)
            for name in ("store", f"fresh{which}")
        )
        np.testing.assert_array_equal(store.embedding, fresh.embedding)
        assert (store.folder / "meta.json").read_bytes() == (fresh.folder / "meta.json").read_bytes()
        put(tmp_path / "crops" / names[3], which + 50), shutil.rmtree(store.folder)


@needs_kill
def test_killed_at_any_file_operation_and_resumed_to_the_bit(ijb_set, encoder, tmp_path, one_thread):
    "Every fifth operation of a run on images of which two cannot be read; `unreadable.jsonl` too says each once."
    crops, names = ijb_set.folder / "loose_crop", ijb_set.images().name.to_pylist()[:16]

    def files(folder):
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}

    def run(folder):
        embed_crops(crops, names, None, encoder, folder, batch=4)

    run(tmp_path / "whole")
    assert len((tmp_path / "whole/unreadable.jsonl").read_text().splitlines()) == 2
    kills = 0
    for at in range(1, 200, 5):
        if not killed_at(at, run, tmp_path / f"at{at}"):
            break
        run(tmp_path / f"at{at}")
        assert files(tmp_path / f"at{at}") == files(tmp_path / "whole"), at
        kills += 1
    assert kills > 5


def test_lines_of_a_block_that_was_lost_stand_once(ijb_set, encoder, tmp_path):
    crops, names = ijb_set.folder / "loose_crop", ijb_set.images().name.to_pylist()[:16]

    class Tired:
        config, content_digest, calls = encoder.config, encoder.content_digest, 0

        def encode(self, images):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return encoder.encode(images)

    with pytest.raises(KeyboardInterrupt):
        embed_crops(crops, names, None, Tired(), tmp_path, batch=4)
    with open(tmp_path / "unreadable.jsonl", "a") as file:
        file.write('[12, "x.jpg", "ahead"]\n[13, "y.j')  # and a line that a kill cut
    embed_crops(crops, names, None, encoder, tmp_path, batch=4)
    assert [json.loads(line)[0] for line in (tmp_path / "unreadable.jsonl").read_text().splitlines()] == [5, 11]


@needs_kill
def test_kill_and_resume_on_the_command_line(ijb_set, encoder, tmp_path, capsys):
    save_encoder(encoder, tmp_path / "encoder")
    args = [
        "embed",
        str(ijb_set.folder),
        "--encoder",
        str(tmp_path / "encoder"),
        "--out",
        str(tmp_path / "store"),
        "--batch",
        "4",
    ]
    progress = tmp_path / "store" / "progress.json"
    kill_when(
        lambda: progress.is_file() and read_json(progress)["rows"] >= 12,
        python("-c", "import sys, tgfr.cli; tgfr.cli.main(sys.argv[1:])", *args),
    )
    done = read_json(progress)["rows"]
    main(args)
    assert (
        "2 unreadable ones" in (said := capsys.readouterr()).out
        and "garbage" not in said.out
        and "left out" in said.err
    )
    found, whole = (
        FeatureStore.open(tmp_path / "store"),
        embed_ijb(ijb_set.folder, load_encoder(tmp_path / "encoder"), tmp_path / "whole", batch=4),
    )
    assert 0 < done < len(found) and found.meta["unreadable"] == whole.meta["unreadable"]
    np.testing.assert_allclose(
        found.embedding, whole.embedding, atol=1e-6
    )  # one thread and then more: equal to rounding
    main(
        [
            "ijb",
            str(ijb_set.folder),
            "--features",
            str(tmp_path / "store"),
            "--out",
            str(tmp_path / "run"),
            "--replicates",
            "0",
        ]
    )
    report = read_json(tmp_path / "run" / "report.json")
    assert report["skipped"]["count"] == 2 and all(
        "interval" not in row or not row["interval"] for row in report["results"]
    )


# ---- points of other photos


def face_photos(folder, n=24, orientation=None, seed=0):
    """Photos of differing shapes with the five points of a face about the middle of each as it is shown, (n, 5, 2);
    with an EXIF tag the stored picture is another."""
    folder.mkdir()
    names, points = [f"{k:02d}.jpg" for k in range(n)], []
    back = {None: None, 1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        orientation
    ]  # Pillow's transpose that undoes what the tag asks for
    for k, name in enumerate(names):
        draw = rng("face photos", seed, k)
        width, height = (int(x) for x in draw.integers(130, 400, 2))
        scale = min(width, height) / 200
        points.append(
            ARCFACE_TEMPLATE * scale + (width / 2, height / 2) - ARCFACE_TEMPLATE.mean(0) * scale + draw.normal(0, 3, 2)
        )
        picture = Image.fromarray(
            cv2.resize(draw.integers(0, 255, (9, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        )
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        (picture if back is None else picture.transpose(Image.Transpose(back))).save(
            folder / name, exif=exif, quality=95
        )
    return names, np.array(points)


def stored_points(folder, names, points):
    """The same points where a reader that knows no EXIF finds them: the coordinates of stored pixels, turned as numpy
    turns."""
    found = []
    for name, five in zip(names, points):
        image = Image.open(folder / name)
        tag, (w, h) = image.getexif().get(0x0112, 1), image.size
        grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)  # x and y of each stored pixel
        turned = {
            1: grid,
            2: grid[:, ::-1],
            3: grid[::-1, ::-1],
            4: grid[::-1],
            5: grid.transpose(1, 0, 2),
            6: np.rot90(grid, -1),
            7: np.rot90(grid, 2).transpose(1, 0, 2),
            8: np.rot90(grid),
        }[tag]
        x, y = np.rint(five).astype(int).T
        found.append(turned[y, x])
    return np.array(found, float)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_points_measured_without_the_exif_turn_are_refused(tmp_path, encoder, orientation):
    "Pillow, and what reads with it, does not turn a photo as its tag asks; tgfr does."
    names, points = face_photos(tmp_path / "crops", orientation=orientation)
    unturned = stored_points(tmp_path / "crops", names, points)
    store = embed_crops(tmp_path / "crops", names, points, encoder, tmp_path / "right")
    assert len(store.unreadable) == 0
    with pytest.raises(TgfrError, match="EXIF orientation|expected x1 y1"):
        embed_crops(tmp_path / "crops", names, unturned, encoder, tmp_path / "wrong")
    mixed = points.copy()
    mixed[:3] = unturned[:3]
    store = embed_crops(tmp_path / "crops", names, mixed, encoder, tmp_path / "mixed")
    assert [row for row, *_ in store.meta["unreadable"]] == [
        0,
        1,
        2,
    ] and f"EXIF orientation {orientation}" in store.meta["unreadable"][0][2]


def test_points_of_larger_photos_other_crops_and_shifted_lines_are_refused(tmp_path, encoder, capsys):
    names, points = face_photos(tmp_path / "crops")
    for what, wrong in {
        "larger": points * 2.5,
        "other crops": points + 400,
        "shifted": np.roll(points, 1, 0),
        "shifted back": np.roll(points, -1, 0),
        "shifted by two": np.roll(points, 2, 0),
    }.items():
        with pytest.raises(TgfrError, match="list.txt.*(shifted|outside the photo)"):
            embed_crops(tmp_path / "crops", names, wrong, encoder, tmp_path / what, source="list.txt")
    embed_crops(tmp_path / "crops", names, points, encoder, tmp_path / "right")
    assert "upper left" not in capsys.readouterr().err
    embed_crops(tmp_path / "crops", names, points / 2, encoder, tmp_path / "smaller")
    assert "upper left part of their photos" in capsys.readouterr().err
    points[[4, 9]] += 900
    store = embed_crops(tmp_path / "crops", names, points, encoder, tmp_path / "two")
    assert [(row, "outside the photo of" in why) for row, _, why in store.meta["unreadable"]] == [(4, True), (9, True)]


def test_ijb_points_in_another_order_are_refused(ijb_set, encoder, tmp_path):
    images = ijb_set.images()
    path = tmp_path / "points.txt"
    path.write_text(
        "".join(
            f"{name} {' '.join(f'{x:.3f}' for x in p.ravel())} .9\n"
            for name, p in zip(images.name.to_pylist(), images.points[:, [1, 0, 2, 4, 3]])
        )
    )
    with pytest.raises(TgfrError, match="points.txt.*right eye, left eye, nose"):
        embed_file(path, ijb_set.folder / "loose_crop", encoder, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_folder_without_points_is_of_aligned_faces(encoder, tmp_path, capsys, refusal):
    (folder := tmp_path / "faces").mkdir()
    noise = rng("folder").integers(0, 256, (112, 112, 3), np.uint8)
    for name in ("1.jpg", "2.jfif", "3.PNG"):
        (folder / name).write_bytes(encode_jpeg(noise))
    (folder / "4.jpg").write_bytes(encode_jpeg(noise[:, 8:104])), (folder / "5.tif").write_bytes(b"II*\0")
    broken = bytearray(encode_jpeg(noise))
    broken[4000:4064] = bytes(64)
    (folder / "6.jpg").write_bytes(broken)
    save_encoder(encoder, tmp_path / "encoder")
    main(
        [
            "embed",
            str(folder),
            "--encoder",
            str(tmp_path / "encoder"),
            "--out",
            str(tmp_path / "store"),
            "--workers",
            "1",
        ]
    )
    store, said = FeatureStore.open(tmp_path / "store"), capsys.readouterr().err
    assert store.meta["photo_id"] == ["1.jpg", "2.jfif", "3.PNG", "4.jpg", "6.jpg"] and store.meta["other shapes"] == {
        "96 x 112": 1
    }
    assert (
        store.meta["damaged inside"]["items"][0][0] == "6.jpg"
        and "Corrupt JPEG data" in store.meta["damaged inside"]["items"][0][1]
    )
    assert (
        "1 left out: 5.tif" in said
        and "96 x 112" in said
        and "8 columns a side" in said
        and said.count("Corrupt JPEG") == 1
    )
    np.testing.assert_allclose(
        store.embedding[0, 0], encoder.encode(read_image(folder / "1.jpg")[None]).embedding[0], atol=1e-5
    )
    for other in ("5.tif",):
        (tmp_path / "none").mkdir(), (tmp_path / "none" / other).write_bytes(b"II*\0")
    assert "TIFF" in refusal(
        "embed", str(tmp_path / "none"), "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path / "no")
    )
    assert (
        embed_folder(folder, encoder, tmp_path / "store").meta["other shapes"] and "96 x 112" in capsys.readouterr().err
    )  # a finished store says it again

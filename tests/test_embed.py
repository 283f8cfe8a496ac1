"""Embedding crops: equal to aligning and encoding by hand, with processes, after a kill, with images that cannot be read."""
from dataclasses import replace

import cv2
import numpy as np
import pytest
from processes import kill_when, needs_kill, python

from tgfr.cli import main
from tgfr.core import TgfrError, read_json, rng, unit
from tgfr.data.embed import alike_lengths, embed_crops, embed_file, embed_ijb
from tgfr.data.faces import read_image
from tgfr.data.features import FeatureStore
from tgfr.data.landmarks import align
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.weights import load_encoder
from tgfr.evaluation.simulate import simulate


@pytest.fixture(scope="module")
def encoder():
    return IResNet((1, 1, 1, 1), width=4, embedding=32)


@pytest.fixture(scope="module")
def ijb_set(tmp_path_factory):
    "A simulated set with crops: smooth noise, one file that is no image, one missing."
    folder = tmp_path_factory.mktemp("set")
    files = simulate("IJBB", folder, scale=.001, width=8)[0]
    (crops := files.folder / "loose_crop").mkdir()
    for k, name in enumerate(files.images().name.to_pylist()):
        picture = cv2.GaussianBlur(rng("crop", k).integers(0, 255, (130, 120, 3), np.uint8), (0, 0), 5)
        if k != 11: cv2.imwrite(str(crops / name), picture)
    (crops / files.images().name[5].as_py()).write_bytes(b"\xff\xd8\xff garbage")
    return files


def test_rows_are_what_a_hand_would_make(ijb_set, encoder, tmp_path):
    images = ijb_set.images()
    store = embed_ijb(ijb_set.folder, encoder, tmp_path / "a", mirror=True, styles=("stage2",), batch=50, workers=2)
    assert store.variants == ["112px", "112px mirrored"] and [row for row, *_ in store.meta["unreadable"]] == [5, 11]
    assert store.meta["unreadable"][0][1] == images.name[5].as_py() and "no such file" in store.meta["unreadable"][1][2]
    for row in 0, 4, 6, 49, 50, len(images) - 1:
        crop = align(read_image(ijb_set.folder / "loose_crop" / images.name[row].as_py(), size=None), images.points[row])
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
        config, fingerprint, calls = encoder.config, encoder.fingerprint, 0
        def encode(self, images): Counting.calls += 1; return encoder.encode(images)
    def run(**changes): return embed_crops(ijb_set.folder / "loose_crop", changes.get("names", names), None, Counting(), tmp_path, batch=8)
    first = run()
    assert Counting.calls == 3
    assert run().meta == first.meta and Counting.calls == 3
    assert len(run(names=names[:10])) == 10 and Counting.calls == 5


def test_unit_features_are_warned_of_once(ijb_set, encoder, tmp_path, capsys):
    names = ijb_set.images().name.to_pylist()[:20]
    class Unit:
        config = encoder.config
        def encode(self, images): return replace(raw := encoder.encode(images), embedding=unit(raw.embedding))
    def run(encoder, name): return embed_crops(ijb_set.folder / "loose_crop", names, None, encoder, tmp_path / name, batch=8)
    store = run(Unit(), "unit")
    assert (said := capsys.readouterr().err).count("all embeddings have the length 1,") == 1 and said.count("warning: ") == 2  # the other: crops that are not square
    assert "norm" in alike_lengths(store) and not alike_lengths(run(encoder, "raw")) and "length" not in capsys.readouterr().err


def test_lenient_takes_what_strict_refuses(ijb_set, encoder, tmp_path, refusal):
    "An image named twice has its row twice; one without finite points is left out."
    lines = ijb_set.path("name_5pts_score.txt").read_text().splitlines()[:4]
    lines[2], lines[3] = lines[0], " ".join(["nan" if k == 3 else part for k, part in enumerate(lines[3].split())])
    (points := tmp_path / "points.txt").write_text("\n".join(lines) + "\n")
    crops = ijb_set.folder / "loose_crop"
    with pytest.raises(TgfrError, match="for the second time|not finite"): embed_file(points, crops, encoder, tmp_path / "strict")
    save_encoder(encoder, tmp_path / "encoder")
    args = ["embed", str(crops), "--points", str(points), "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path / "store")]
    refusal(*args)
    main([*args, "--lenient"])
    store = FeatureStore.open(tmp_path / "store")
    np.testing.assert_array_equal(store.embedding[0, 0], store.embedding[0, 2])
    assert [row for row, *_ in store.meta["unreadable"]] == [3] and "expected finite" in store.meta["unreadable"][0][2]


@pytest.mark.parametrize("change, said", [({"names": []}, "no images"), ({"points": np.zeros((3, 5, 2))}, "expected \\(2, 5, 2\\)"), ({"batch": 0}, "batch 0"), ({"crops": "/no/such"}, "no such folder"), ({"names": ["x.jpg", "y.jpg"]}, "none of the 2 images")])
def test_wrong_use(ijb_set, encoder, tmp_path, change, said):
    options = {"crops": ijb_set.folder / "loose_crop", "names": ijb_set.images().name.to_pylist()[:2], "points": None, "encoder": encoder, "out": tmp_path} | change
    with pytest.raises(TgfrError, match=said): embed_crops(**options)


@needs_kill
def test_kill_and_resume_on_the_command_line(ijb_set, encoder, tmp_path, capsys):
    save_encoder(encoder, tmp_path / "encoder")
    args = ["embed", str(ijb_set.folder), "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path / "store"), "--batch", "4"]
    progress = tmp_path / "store" / "progress.json"
    kill_when(lambda: progress.is_file() and read_json(progress)["rows"] >= 12, python("-c", "import sys, tgfr.cli; tgfr.cli.main(sys.argv[1:])", *args))
    done = read_json(progress)["rows"]
    main(args)
    assert "2 unreadable ones" in (said := capsys.readouterr()).out and "garbage" not in said.out and "left out" in said.err
    found, whole = FeatureStore.open(tmp_path / "store"), embed_ijb(ijb_set.folder, load_encoder(tmp_path / "encoder"), tmp_path / "whole", batch=4)
    assert 0 < done < len(found) and found.meta["unreadable"] == whole.meta["unreadable"]
    np.testing.assert_allclose(found.embedding, whole.embedding, atol=1e-6)  # one thread and then more: equal to rounding
    main(["ijb", str(ijb_set.folder), "--features", str(tmp_path / "store"), "--out", str(tmp_path / "run"), "--replicates", "0"])
    report = read_json(tmp_path / "run" / "report.json")
    assert report["skipped"]["count"] == 2 and all("interval" not in row or not row["interval"] for row in report["results"])

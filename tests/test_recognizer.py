"""The front door: against the evaluation's own path, and against scores and ranks computed by hand."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tgfr
from tgfr.core import TgfrError, seed_everything
from tgfr.data.degradation import Degradation
from tgfr.data.face_detection import YuNet
from tgfr.data.landmarks import align
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet
from tgfr.encoders.face_features import encode_faces
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.scoring import embed_photos, score_matrix
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.recognizer import Recognizer, load

SHARED = Path(__file__).parent.parent.parent / "shared/data"
PEOPLE, PHOTOS = 4, 3


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(people=PEOPLE, photos=PHOTOS)


@pytest.fixture(scope="module")
def encoder():
    seed_everything(0)
    return IResNet((1, 1, 1, 1), width=8, embedding=32).eval()


def untrained(encoder, faces, fusion="evidence", use_captions=True):
    seed_everything(1)
    text = build_text_encoder("bag", sum(faces["captions"], []), dim=16) if use_captions else None
    model = TGFR(ModelConfig(32, encoder.config.regions, 16, fusion=fusion, use_captions=use_captions), text)
    if fusion == "evidence" and use_captions:
        words = model.text_encoder.tokenize(sum(faces["captions"], []))["ids"]
        model.fusion.counter.learn([words.masked_fill(words == 0, -1)])
    return model.eval()


def photos_of(faces):
    return [cell["bytes"] for cell in faces["image"]]


@pytest.mark.parametrize(
    "fusion, use_captions",
    [("evidence", True), ("residual", True), ("linear", True), ("residual", False), (None, True)],
)
def test_what_is_embedded_is_what_is_evaluated(tmp_path, encoder, faces, fusion, use_captions):
    model = untrained(encoder, faces, fusion, use_captions)
    store = encode_faces(faces, encoder, [Degradation()], tmp_path / "features")
    captions = faces["captions"] if use_captions else [[] for _ in faces["captions"]]
    mode = "all" if use_captions else "none"
    expected = embed_photos(model, store, captions, modes=(mode,), progress=False)[mode]["fused"][0]
    recognizer = Recognizer(model, encoder)
    encoded = recognizer.encode(photos_of(faces), captions)
    assert np.array_equal(encoded.embedding.numpy(), expected)
    scores = score_matrix(expected, expected, model if fusion else None)
    assert np.array_equal(recognizer.similarity(encoded, encoded), scores)


def test_any_batch_and_any_kind_of_photo_gives_the_same(tmp_path, encoder, faces):
    recognizer = Recognizer(untrained(encoder, faces), encoder)
    files = photos_of(faces)
    pictures = [Image.open(BytesIO(data)) for data in files]
    for k, data in enumerate(files):
        (tmp_path / f"{k}.jpg").write_bytes(data)
    paths = [str(tmp_path / f"{k}.jpg") for k in range(len(files))]
    first = recognizer.encode(files)
    for photos in (pictures, [np.asarray(picture) for picture in pictures], paths, [Path(path) for path in paths]):
        assert torch.equal(recognizer.encode(photos).embedding, first.embedding)
    small = recognizer.encode(files, batch=5)
    assert torch.allclose(small.embedding, first.embedding, atol=1e-5) and len(small) == len(files)


def test_a_photo_may_have_no_caption_one_or_several(encoder, faces):
    recognizer = Recognizer(untrained(encoder, faces), encoder)
    files, said = photos_of(faces)[:3], faces["captions"]
    mixed = recognizer.encode(files, [None, said[1][0], said[2]])
    one_by_one = [(files[:1], None), (files[1:2], [[said[1][0]]]), (files[2:], [said[2]])]
    for row, (photos, captions) in enumerate(one_by_one):
        alone = recognizer.encode(photos, captions)
        assert torch.allclose(mixed.embedding[row], alone.embedding[0], atol=1e-5)
    assert torch.equal(recognizer.encode(files, ["", [" "], None]).embedding, recognizer.encode(files).embedding)


def test_photos_of_one_person_are_a_template_in_any_order(encoder, faces):
    "Each photo is read with all that is said of the person; the mean of those is the template."
    recognizer = Recognizer(untrained(encoder, faces), encoder)
    files, said, people = photos_of(faces), faces["captions"], [f"p{identity}" for identity in faces["identity"]]
    templates = recognizer.encode(files, said, people)
    assert len(templates) == PEOPLE and templates.shown.shape[0] == PEOPLE
    for k, person in enumerate(dict.fromkeys(people)):
        own = [row for row, name in enumerate(people) if name == person]
        everything = list(dict.fromkeys(text for row in own for text in said[row]))
        each = recognizer.encode([files[row] for row in own], [everything] * len(own))
        assert torch.allclose(templates.embedding[k], each.embedding.mean(0), atol=1e-5)
        assert torch.allclose(templates.shown[k], each.shown.mean(0), atol=1e-5)
    order = [5, 0, 11, 3, 1, 2, 4, 6, 7, 8, 9, 10]  # p1 comes first, then p0, p3, p2
    shuffled = recognizer.encode(*([values[row] for row in order] for values in (files, said, people)))
    assert torch.allclose(shuffled.embedding, templates.embedding[[1, 0, 3, 2]], atol=1e-4)


@pytest.mark.parametrize("fusion", ["evidence", "residual"])
def test_a_search_finds_the_people_with_the_best_rows(encoder, faces, fusion):
    recognizer = Recognizer(untrained(encoder, faces, fusion), encoder)
    files, said, names = photos_of(faces), faces["captions"], [f"p{identity}" for identity in faces["identity"]]
    encoded = recognizer.encode(files, said)
    gallery = recognizer.gallery(encoded[:5], names[:5])
    gallery.add(encoded[5:], names[5:])
    probe = recognizer.encode(files[7:8], said[7:8])
    by_photo = recognizer.similarity(encoded, probe)[:, 0]
    asked = "red hair and glasses"
    by_words = (encoded.shown @ recognizer.describe([asked]).T)[:, 0].numpy()
    found = gallery.search(image=files[7], captions=said[7], k=3), gallery.search(asked, k=3)
    for scores, matches in zip((by_photo, by_words), found):
        best = {name: max(s for s, other in zip(scores, names) if other == name) for name in names}
        expected = sorted(best, key=best.get, reverse=True)[:3]
        assert [match.name for match in matches] == expected
        assert [match.score for match in matches] == pytest.approx([best[name] for name in expected], abs=1e-5)
        assert all(names[match.row] == match.name for match in matches)
    assert found[0][0].name == names[7] and found[0][0].row == 7
    assert len(gallery.search(asked, k=100)) == PEOPLE and len(gallery) == len(names)


def test_a_saved_model_comes_back_with_its_encoder(tmp_path, encoder, faces):
    model = untrained(encoder, faces)
    model.save(tmp_path / "model", encoder=encoder)
    files, said = photos_of(faces), faces["captions"]
    here, again = Recognizer(model, encoder), tgfr.load(tmp_path / "model")
    assert torch.equal(again.encode(files, said).embedding, here.encode(files, said).embedding)
    assert repr(again) == "Recognizer(evidence on iresnet1-1-1-1, of photos and captions)"
    model.save(tmp_path / "alone")
    with pytest.raises(TgfrError, match="alone: no face encoder is kept with it"):
        load(tmp_path / "alone")
    given = load(tmp_path / "alone", encoder=encoder)
    assert torch.equal(given.encode(files).embedding, here.encode(files).embedding)
    seed_everything(2)
    other = IResNet((1, 1, 1, 1), width=8, embedding=32).eval()
    with pytest.raises(TgfrError, match="use that encoder, or train a model on this one"):
        load(tmp_path / "model", encoder=other)


def test_the_package_is_light_until_a_model_is_loaded():
    code = "import sys, tgfr; assert 'torch' not in sys.modules; tgfr.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        tgfr.lode  # noqa: B018


def test_what_does_not_fit_is_named(encoder, faces):
    files = photos_of(faces)
    recognizer, plain = (Recognizer(untrained(encoder, faces, "evidence", words), encoder) for words in (True, False))
    paired = Recognizer(untrained(encoder, faces, "linear"), encoder)
    gallery = recognizer.gallery(recognizer.encode(files[:2]), ["a", "b"])
    for call, message in (
        (lambda: recognizer.encode(["no.jpg", files[0], b"x"]), "2 of 3 cannot be used: photo no.jpg .*photo number 2"),
        (lambda: recognizer.encode([b""] * 12), "12 of 12 cannot be used.*and 4 more"),
        (lambda: recognizer.encode("a.jpg"), "photos: one path; expected a list"),
        (lambda: recognizer.encode([]), "photos: none; expected a list of at least one"),
        (lambda: recognizer.encode(files, "She smiles."), "captions: one text for 12 photos"),
        (lambda: recognizer.encode(files, ["She smiles."]), "captions: 1 for 12 photos"),
        (lambda: recognizer.encode(files, people=["a"]), "people: 1 names for 12 photos"),
        (lambda: recognizer.encode(files, align=True), "align: no detector"),
        (lambda: plain.encode(files[:1], ["She smiles."]), "this model was trained without"),
        (lambda: plain.describe(["She smiles."]), "this model was trained without"),
        (lambda: paired.encode(files[:2], ["She smiles.", None]), "captions: none of photos 1; a model with captions"),
        (lambda: recognizer.describe(["She smiles.", " "]), "1 of 2 say nothing"),
        (lambda: gallery.add(recognizer.encode(files[:2]), ["c"]), "names: 1 for 2 rows"),
        (lambda: gallery.search(), "expected either words or an image"),
        (lambda: gallery.search("red", image=files[0]), "expected either words or an image"),
        (lambda: gallery.search("red", k=0), "k=0: expected at least 1"),
    ):
        with pytest.raises(TgfrError, match=message):
            call()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data: real faces and a detector")
def test_faces_are_found_and_aligned(encoder, faces):
    detector = YuNet(SHARED / "weights/yunet_n_dynamic.onnx")
    recognizer = Recognizer(untrained(encoder, faces), encoder, detector)
    grey = [np.asarray(Image.open(SHARED / f"orl/s{person}/1.pgm")) for person in (1, 2)]
    photos = [np.stack([np.pad(photo, 40, mode="edge")] * 3, -1) for photo in grey]
    encoded = recognizer.encode(photos, align=True)
    crops = [align(photo, detector.detect(photo)[0].points, 112) for photo in photos]
    assert torch.equal(encoded.embedding, recognizer.encode(crops).embedding)
    assert not torch.allclose(encoded.embedding, recognizer.encode(photos).embedding, atol=1e-2)
    with pytest.raises(TgfrError, match="1 of 2 cannot be used: photo number 1: no face is found"):
        recognizer.encode([photos[0], np.zeros((200, 200, 3), np.uint8)], align=True)

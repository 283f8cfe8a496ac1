"""Pairs and the loss of evidence, and a whole training of it on a few made-up people."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_run import made_up, objective_and_batches
from text_models import tiny_bert

from tgfr.core import TgfrError
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.scoring import embed_photos, score_matrix
from tgfr.training.caption_evidence import TERMS, PairBatches
from tgfr.training.recipes import build_recipe
from tgfr.training.system import Trainer

RECIPE = build_recipe(
    dim=16,
    batch_fuse=8,
    batch_evidence=512,  # as many pairs as there are
    epochs_align=0,
    epochs_fuse=1,
    epochs_evidence=2,
    train_resolutions=(112, 16),
)


def pair_batches(photos=60, people=12, **options):
    store, identity, captions = made_up(photos, people)
    captions = [row if i % 3 else [None, " "] for i, row in enumerate(captions)]
    text = build_text_encoder("lstm", [c for row in captions for c in row if c], dim=16, embedding=12)
    return identity, captions, PairBatches(store, identity, captions, np.arange(photos), text, (112, 16), **options)


def test_pairs_are_of_one_person_and_two_photos_of_one_half():
    half = np.arange(60) % 12 // 6
    identity, captions, batches = pair_batches(half=half)
    store = batches.store
    assert batches.steps(8) == 2 * (30 // 8)
    seen = []
    for batch in batches.epoch("evidence", 0, 8):
        rows = []
        for k, embedding in enumerate(batch.photos.embedding):
            variants, photos = np.nonzero((store.embedding == embedding.numpy()).all(-1))
            assert len(photos) == 1
            rows.append(photos[0])
            assert k >= 8 or variants[0] == batch.variant[k]
        probe, gallery = np.array(rows[:8]), np.array(rows[8:])
        assert (identity[probe] == identity[gallery]).all() and (probe != gallery).all()
        assert len(set(half[probe])) == 1
        assert (batch.counts.numpy() > 0).tolist() == [row % 3 > 0 for row in rows]
        seen += probe.tolist()
    assert len(seen) == len(set(seen))  # a probe once an epoch


def test_the_batches_are_known_by_what_they_hold():
    faces = np.zeros((2, 60, 4), np.float32)
    digests = {pair_batches(**options)[2].content_digest for options in ({}, {"faces": faces}, {"faces": faces + 1})}
    said = np.ones((60, 1), np.float32)
    digests |= {pair_batches(said=said, **{name: 0.1})[2].content_digest for name in ("swapped", "masked", "alike")}
    assert len(digests) == 6
    with pytest.raises(TgfrError, match="batch_evidence"):
        pair_batches()[2].steps(61)


@pytest.mark.parametrize("photos, batch, largest", [(60, 512, 8), (60, 4, 4), (640, 512, 32), (14, 512, 4)])
def test_a_step_has_no_more_pairs_than_leave_sixteen_steps(photos, batch, largest):
    batches = pair_batches(photos, half=np.arange(photos) % 12 // 6)[2]
    assert batches.largest_batch(batch) == largest and type(batches.largest_batch(batch)) is int
    assert batches.steps(largest) >= (16 if photos == 640 else 1)


def test_people_with_one_photo_are_in_no_pair():
    identity, _, batches = pair_batches(photos=13, people=12)
    assert sorted(identity[batches.probes]) == [0, 0]


def test_the_loss_is_the_logistic_one_of_each_sum():
    objective, batches = objective_and_batches("evidence", RECIPE)
    objective.eval()
    batch = next(batches.epoch("evidence", 0, 8))
    model = objective.model
    with torch.no_grad():
        losses = objective(batch)
        text = model.encode_text(batch.tokens, batch.counts)
        parts = model.fusion.evidence(model.image_head.reader(batch.photos), text)
        described, shown, sentence = (part.double().numpy() for part in parts[:3])
        person = parts[3]
    faces, label = batch.face.double().numpy(), batch.label.numpy()
    for name, kinds in TERMS.items():
        total = 0.0
        for i in range(8):
            slope = math.exp(objective.log_slope[batch.variant[i]].item())
            for j in range(8):
                terms = {"x": described[i] @ shown[8 + j], "y": shown[i] @ described[8 + j]}
                terms["c"] = sentence[i] @ sentence[8 + j]
                logit = objective.bias[batch.variant[i]].item() + slope * faces[i] @ faces[8 + j]
                logit += sum(terms[kind] for kind in kinds)
                total += np.logaddexp(0, -logit if label[i] == label[j] else logit)
        assert losses[name].item() == pytest.approx(total / 8, rel=1e-4)
    centres = objective.text_id.weight.detach().double().numpy()
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    total, who = 0.0, person.double().numpy()
    for i, count in enumerate(batch.counts.tolist()):  # ArcFace with s = 20 and m = 0.2, of photos with captions
        if count:
            cosines = centres @ who[i]
            cosines[label[i % 8]] = math.cos(math.acos(cosines[label[i % 8]]) + 0.2)
            total += np.log(np.exp(20 * cosines).sum()) - 20 * cosines[label[i % 8]]
    assert losses["person"].item() == pytest.approx(total / 16, rel=1e-4)
    objective.recipe = replace(objective.recipe, terms_evidence=0.0)
    alone = objective(batch)
    assert alone["all"] == losses["all"] and not any(alone[name] for name in TERMS if name != "all")


def own_captions(people=12, photos=60, **options):
    "Batches of photos with one caption each, which names photo and kind of person; a caption's words by its tokens."
    store, identity, _ = made_up(photos, people)
    captions = [[f"photo{row} kind{identity[row] % 2} is shown here"] for row in range(photos)]
    text = build_text_encoder("bag", [row[0] for row in captions], dim=16, embedding=12)
    batches = PairBatches(store, identity, captions, np.arange(photos), text, (112, 16), **options)
    words = {text.tokenize([word])["ids"][0, 0].item(): word for row in captions for word in row[0].split()}
    return store, batches, words


def drawn(store, batches, words, batch, epochs=8):
    "Photos of some epochs, each with the words of its caption."
    for epoch in range(epochs):
        for pairs in batches.epoch("evidence", epoch, batch):
            for embedding, ids, length in zip(pairs.photos.embedding, pairs.tokens["ids"], pairs.tokens["lengths"]):
                photo = (store.embedding == embedding.numpy()).all(-1).any(0).argmax()
                yield int(photo), [words[number] for number in ids[:length].tolist()]


@pytest.mark.parametrize("share", [0, 0.4])
def test_a_share_of_the_captions_is_of_other_photos(share):
    own = [said[0] == f"photo{photo}" for photo, said in drawn(*own_captions(swapped=share), 15)]
    assert 1 - np.mean(own) == pytest.approx(share, abs=0.05 if share else 0)


@pytest.mark.parametrize("share", [0, 0.3])
def test_a_share_of_the_words_is_left_out(share):
    said = [words for _, words in drawn(*own_captions(masked=share), 15)]
    assert all(said) and 1 - np.mean([len(words) for words in said]) / 5 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("alike, expected", [(0, 1), (0.5, 1.5), (0.99, 2)])
def test_hard_impostors_are_described_alike(alike, expected):
    said = np.zeros((240, 2), np.float32)
    said[np.arange(240), np.arange(240) % 2] = 1  # people of one kind have one word, others another
    store, batches, words = own_captions(24, 240, alike=alike, said=said)
    probes = []
    for epoch in range(8):
        probes += [pairs.label.numpy() % 2 for pairs in batches.epoch("evidence", epoch, 12)]
    assert len(probes) == 8 * 20
    same = np.mean([np.mean(kinds == np.round(kinds.mean())) for kinds in probes])
    by_chance = np.mean([np.mean(kinds == np.round(kinds.mean())) for kinds in random_kinds()])
    assert same == pytest.approx(by_chance + (expected - 1) * (1 - by_chance), abs=0.05)


def random_kinds():
    "Kinds of twelve people drawn without a wish, many times."
    return np.random.default_rng(0).integers(0, 2, (4000, 12))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store, identity, captions = made_up(120, 24)
    store.meta["photo_id"] = list(range(120))
    captions = [row if i % 4 else [] for i, row in enumerate(captions)]
    split = SimpleNamespace(store=store, identity=identity, captions=captions)
    trainer = Trainer(split, RECIPE, tmp_path_factory.mktemp("evidence"))
    return trainer, trainer.train("evidence")


def test_a_training_from_image_only_head_to_weights(trained):
    trainer, model = trained
    runs = {path.name for path in trainer.folder.iterdir()}
    assert {"residual-image", "residual-image-half0", "residual-image-half1", "evidence"} <= runs
    image_only = trainer.train("evidence", use_captions=False)
    assert image_only.config.fusion == "residual" and not image_only.config.use_captions
    store, captions = trainer.split.store, trainer.captions
    face = embed_photos(image_only, store, captions, progress=False)["none"]["fused"]
    read = embed_photos(model, store, captions, modes=("none", "all"), progress=False)
    for variant in (0, 1):
        expected = score_matrix(face[0], face[variant])
        np.testing.assert_array_equal(score_matrix(*read["none"]["fused"][[0, variant]], model), expected)
    assert np.isfinite(read["all"]["fused"]).all()
    assert "image-only" in trainer.history["evidence"][0]


def test_each_half_is_scored_by_the_head_of_the_other(trained):
    trainer, _ = trained
    fitted = trainer.cross_fitted("evidence")
    faces, half = fitted["faces"], fitted["half"]
    trained_on = trainer.rows
    assert len(set(trainer.identity[trained_on[half[trained_on] == 0]])) == pytest.approx(
        len(set(trainer.identity[trained_on[half[trained_on] == 1]])), abs=1
    )
    assert not set(trainer.identity[half == 0]) & set(trainer.identity[half == 1])
    np.testing.assert_allclose(np.linalg.norm(faces[:, trained_on], axis=-1), 1, rtol=1e-5)
    assert (faces[:, trainer.validation] == 0).all()


def test_another_trainer_continues_the_same_image_only_head(trained, tmp_path):
    trainer, model = trained
    other = Trainer(trainer.split, RECIPE, tmp_path)
    again = other.train("evidence", start=trainer)
    assert {path.name for path in tmp_path.iterdir()} == {"evidence"}
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_recipes_that_differ_in_captions_alone_share_an_image_only_head(trained):
    trainer, _ = trained
    written = trainer.folder / "residual-image" / "run.json"
    before = written.stat().st_mtime_ns
    changes = {"text": "gru", "captions_per_image": 2, "epochs_evidence": 1, "lr_text": 1e-3, "fusion": "residual"}
    other = Trainer(trainer.split, replace(RECIPE, **changes), trainer.folder)
    other.train("residual", use_captions=False)
    assert written.stat().st_mtime_ns == before
    with pytest.raises(TgfrError, match="residual-image"):
        Trainer(trainer.split, replace(RECIPE, lr_heads=2e-3), trainer.folder).train("residual", use_captions=False)


@pytest.mark.parametrize("layers", [0, 1])
def test_of_a_transformer_only_the_layers_that_learn_change(layers, tmp_path):
    store, identity, captions = made_up(120, 24)
    model, tokenizer = tiny_bert()
    model.save_pretrained(tmp_path / "bert"), tokenizer.save_pretrained(tmp_path / "bert")
    store = replace(store, folder=tmp_path / "train")
    store.meta["photo_id"] = list(range(120))
    split = SimpleNamespace(store=store, identity=identity, captions=captions)
    recipe = build_recipe("evidence-transformer", text=str(tmp_path / "bert"), text_layers=layers)
    same = ("dim", "batch_fuse", "batch_evidence", "epochs_align", "epochs_fuse", "epochs_evidence")
    changes = {name: getattr(RECIPE, name) for name in (*same, "train_resolutions")}
    trainer = Trainer(split, replace(recipe, **changes, cross_fit=False), tmp_path / "runs")
    before, trained = trainer.new_model("evidence").text_encoder.transformer, trainer.train("evidence").text_encoder
    changed = {
        name
        for name, weight in trained.transformer.state_dict().items()
        if not torch.equal(weight, before.state_dict()[name])
    }
    assert all(name.startswith("encoder.layer.1.") for name in changed) and bool(changed) == bool(layers)
    assert not torch.equal(trained.head.project.weight, trainer.new_model("evidence").text_encoder.head.project.weight)
    kept = [path for path in tmp_path.iterdir() if path.name.startswith("train-captions-")]
    assert len(kept) == (0 if layers else 1)
    if kept:
        distinct = {caption for of_photo in captions for caption in of_photo}
        assert np.load(kept[0] / "embedding.npy").shape == (len(distinct), 1, 24)

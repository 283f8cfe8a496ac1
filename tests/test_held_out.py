"""Validation identities and what is said before a value is believed: training photos among those evaluated, features
that are not numbers, encoders that tell nobody apart."""

import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_run import WORDS
from test_cli import encoder  # noqa: F401 - a fixture

from tgfr.core import TgfrError, rng
from tgfr.data.splits import hold_out
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.pretrained_faces import load_encoder
from tgfr.evaluation.bootstrap import PersonBootstrap
from tgfr.evaluation.metrics import tpr_at_fpr
from tgfr.evaluation.results import Condition, chance_warnings
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.training.recipes import build_recipe
from tgfr.training.set_fusion import quick_sets
from tgfr.training.system import Trainer
from tgfr.workflows.ablate import ablate
from tgfr.workflows.compare import shared_photos
from tgfr.workflows.compare_fusions import compare_fusions
from tgfr.workflows.demo import demo
from tgfr.workflows.evaluate import evaluate
from tgfr.workflows.train import train
from tgfr.workflows.verify import verify

TINY = dict(dim=16, epochs_encode=1, epochs_align=1, epochs_fuse=1, batch_align=8, batch_fuse=8)


def renamed(faces, by):
    return Dataset.from_dict(
        {name: faces[name][:] for name in faces.column_names} | {"identity": [by + i for i in faces["identity"]]},
        features=faces.features,
    )


def written(folder, train, test):
    folder.mkdir()
    for name, part in ("train", train), ("validation", test):
        part.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    return str(folder)


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(people=10, photos=3)


def test_photos_of_the_training_under_other_names_are_told(faces):
    other = synthetic_faces(people=10, photos=3, first=500)
    mixed = Dataset.from_dict(
        {name: other[name][:27] + faces[name][:3] for name in faces.column_names}
        | {"identity": [900 + i // 3 for i in range(30)]},
        features=faces.features,
    )
    assert shared_photos(faces, other) == []
    assert shared_photos(faces, mixed)[0].startswith(
        "3 of the 30 photos evaluated here (of 1 people) are photos of the training"
    )
    assert shared_photos(faces, renamed(faces, 900))[0].startswith("30 of the 30 photos evaluated here (of 10 people)")


@pytest.mark.parametrize("command", ["demo", "ablate", "sets"])
def test_every_comparison_tells_them(faces, encoder, tmp_path, command, capsys):  # noqa: F811
    data, out = written(tmp_path / "data", faces, renamed(faces, 900)), tmp_path / "out"
    tiny = dict(probe_size=(112, 16), replicates=5)
    if command == "demo":
        report = demo(data, out, str(encoder), build_recipe("demo", **TINY), systems=("image-only head",), **tiny)
    elif command == "ablate":
        report = ablate(data, str(encoder), out, build_recipe("demo", **TINY), {}, **tiny)
    else:
        report = compare_fusions(data, str(encoder), out, ("average", "norm"), set_sizes=(1, 2), replicates=5)
    assert report.warnings[0].startswith("30 of the 30 photos evaluated here")
    assert "photos of the training" in capsys.readouterr().err
    assert "photos of the training" in (out / "report.html").read_text()


def split(people=8, photos=5, sizes=("112px", "16px"), noise=0.1):
    "A stand-in for photos and features, told apart well by the untouched encoder."
    draw, identity = rng("held out", people), np.repeat(np.arange(people), photos)
    embedding = draw.normal(size=(people, 16))[identity] + noise * draw.normal(size=(len(sizes), len(identity), 16))
    regions = draw.normal(size=(len(sizes), len(identity), 8, 7, 7)).astype("f")
    store = FeatureStore(Path("made up"), embedding.astype("f"), regions, list(sizes), {"fingerprint": "held out"})
    return SimpleNamespace(
        store=store, identity=identity, captions=[[" ".join(draw.choice(WORDS, 4))] for _ in identity]
    )


def trainer(folder, photos, **changes):
    return Trainer(photos, build_recipe("demo", **TINY | {"train_resolutions": (112, 16)} | changes), folder)


def test_a_model_below_the_untouched_encoder_is_told(tmp_path, capsys):
    photos = split()
    t = trainer(tmp_path, photos, lr_heads=3.0, epochs_fuse=2)
    t.train("concat", use_captions=False)
    x, who = photos.store.embedding[:, t.validation], photos.identity[t.validation]
    x, same, off = x / np.linalg.norm(x, axis=2, keepdims=True), who[:, None] == who, ~np.eye(len(who), dtype=bool)
    right = [tpr_at_fpr((x[0] @ v.T)[same & off], (x[0] @ v.T)[~same], [1e-2])[0] for v in x]  # by hand
    rows = [json.loads(line) for line in (tmp_path / "concat-image/metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["frozen"] == pytest.approx(np.mean(right))
        assert [row["frozen 112px"], row["frozen 16px"]] == pytest.approx(right)
        assert row["score"] == pytest.approx((row["score 112px"] + row["score 16px"]) / 2)
    warning = t.below["concat-image"]
    for part in "2 training people held out", "at 112px", "lower learning rates":
        assert part in warning
    assert "--image-only" not in warning, "it is the image-only head itself"
    stderr = capsys.readouterr().err
    assert f"frozen {np.mean(right):.3f}" in stderr and warning in stderr


def test_a_model_that_is_not_below_says_nothing_and_shows_the_image_only_head(tmp_path, capsys):
    t = trainer(tmp_path, split(noise=3.0), lr_heads=1e-6)
    t.frozen = dict.fromkeys(t.split.store.variants, 0.0)
    t.train("concat", use_captions=False)
    t.train("concat")
    assert t.below == {}
    assert t.history["concat"][-1]["image-only"] == max(row["score"] for row in t.history["concat-image"])
    assert "image-only 0." in capsys.readouterr().err and "image-only" not in t.history["concat-image"][-1]


def test_it_stands_on_the_card(faces, encoder, tmp_path, monkeypatch):  # noqa: F811
    path = tmp_path / "photos.parquet"
    faces.to_parquet(str(path))
    for better, said in (
        (1.1, "Warning: residual-image: on 2 training people held out it is below the untouched encoder"),
        (-1.0, "not below the untouched encoder at any size"),
    ):
        monkeypatch.setattr(
            Trainer, "frozen", property(lambda self, better=better: dict.fromkeys(self.split.store.variants, better))
        )
        train(build_recipe("demo", **TINY), str(path), str(encoder), tmp_path / f"out{better}", image_only=True)
        assert said in (tmp_path / f"out{better}/model/README.md").read_text()


@pytest.mark.parametrize("people", [1, 2, 3])
def test_too_few_training_people(people):
    with pytest.raises(TgfrError, match=f"training people: {people}, .* expected at least 4"):
        hold_out(np.repeat(np.arange(people), 5))
    rows, validation = hold_out(np.repeat(np.arange(4), 5))
    assert len(rows) == len(validation) == 10


@pytest.mark.parametrize("what", ["embedding", "regions"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_named(tmp_path, what, value):
    photos = split()
    getattr(photos.store, what)[:, 5:] = value
    with pytest.raises(TgfrError, match="features of .*NaN or infinite") as e:
        trainer(tmp_path, photos).train("concat", use_captions=False)
    assert "learning rates" not in str(e.value)


def test_a_loss_that_is_no_number_with_sound_features(tmp_path):
    with pytest.raises(TgfrError, match="features are sound: lower the learning rates"):
        trainer(tmp_path, split(), lr_heads=1e30, epochs_fuse=4, lr_margin=1e30).train("concat", use_captions=False)


def test_an_encoder_that_tells_nobody_apart(faces, encoder, tmp_path):  # noqa: F811
    with torch.no_grad():
        same = IResNet((1, 1, 1, 1), width=4, embedding=32)
        for p in same.parameters():
            p.zero_()
    save_encoder(same, tmp_path / "zero")
    data = written(tmp_path / "data", faces, synthetic_faces(people=10, photos=3, first=500))
    with pytest.raises(TgfrError, match="one and the same embedding"):
        recipe = build_recipe("demo", **TINY)
        demo(data, tmp_path / "out", str(tmp_path / "zero"), recipe, probe_size=(112,), replicates=5)
    with pytest.raises(TgfrError, match="one and the same embedding"):
        compare_fusions(
            data,
            str(tmp_path / "zero"),
            tmp_path / "sets",
            ("average",),
            recipe=quick_sets(),
            set_sizes=(1,),
            replicates=5,
        )


def test_a_figure_of_an_encoder_that_tells_nobody_apart_is_doubted(tmp_path):
    "All zero, constant, random: AUC .5 at every size, said in the report; a good system beside it is not."
    draw, who = rng("chance"), np.repeat(np.arange(30), 4)
    plan = PersonBootstrap(who, 20)
    x = draw.normal(size=(30, 32))[who] + draw.normal(size=(120, 32))
    systems = {
        "zero": np.zeros((120, 120)),
        "constant": np.ones((120, 120)),
        "random": draw.normal(size=(120, 120)),
        "face": x @ x.T,
    }
    clean, small = Condition("112px"), Condition("16px")
    results = {(name, c): plan.evaluate(scores) for name, scores in systems.items() for c in (clean, small)}
    warnings = chance_warnings(results)
    assert [line.split(":")[0] for line in warnings] == ["zero", "constant", "random"]
    assert all(re.search(r"an AUC of \.?0?\.(4|5)", line) for line in warnings)
    one_size = {("face", clean): results["face", clean], ("face", small): results["random", small]}
    assert chance_warnings(one_size) == []  # good at one size: small probes are hard, the encoder is sound


def test_evaluate_and_verify_doubt_a_zero_encoder(faces, tmp_path, capsys):
    with torch.no_grad():
        zero = IResNet((1, 1, 1, 1), width=4, embedding=32)
        for p in zero.parameters():
            p.zero_()
    save_encoder(zero, tmp_path / "zero")
    TGFR(ModelConfig(32, (16, 14, 14), 16, "linear", use_captions=False)).eval().save(tmp_path / "model")
    faces.to_parquet(str(tmp_path / "photos.parquet"))
    report = evaluate(
        tmp_path / "model",
        str(tmp_path / "photos.parquet"),
        str(tmp_path / "zero"),
        probe_size=(112, 16),
        out=tmp_path / "out",
        replicates=5,
        card=False,
    )
    assert any(w.startswith("frozen face: an AUC of 0.500 at best is chance") for w in report.warnings)
    photos = [faces["image"][i]["bytes"] for i in range(24)]
    (tmp_path / "lfw.bin").write_bytes(
        pickle.dumps(([p for k in range(12) for p in (photos[k], photos[k + 1])], [k % 2 == 0 for k in range(12)]))
    )
    verify([tmp_path / "lfw.bin"], load_encoder(str(tmp_path / "zero")), tmp_path / "bins", folds=2)
    assert "lfw: an accuracy of 0.500 is chance" in capsys.readouterr().err

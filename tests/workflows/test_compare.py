"""Plain sums of scores against loops, references, and whole jobs with several seeds."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_run import made_up

from tgfr.core import TgfrError, seed_everything
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.all_pairs import AllPairsEvaluator
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.scoring import embed_photos
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.training.recipes import build_recipe
from tgfr.workflows.ablate import ablate
from tgfr.workflows.compare import PLAIN_SUMS, add_plain_sums, check_systems
from tgfr.workflows.compare_fusions import compare_fusions
from tgfr.workflows.demo import default_recipe, demo
from tgfr.workflows.job import Job

TPR2 = Metric("TPR", 1e-2)


# plain sums


def tfidf(texts, fitted):
    "Cosines of tf-idf vectors by their definition: (1 + ln tf) (1 + ln ((1 + n) / (1 + df)))."
    documents = [set(" ".join(captions).split()) for captions in fitted]
    vectors = []
    for text in texts:
        vector = {}
        for word, times in Counter(text.split()).items():
            found = sum(word in document for document in documents)
            if found:
                vector[word] = (1 + math.log(times)) * (1 + math.log((1 + len(documents)) / (1 + found)))
        vectors.append(vector)
    scores = np.zeros((len(texts), len(texts)))
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            product = sum(weight * b.get(word, 0) for word, weight in a.items())
            sizes = [math.sqrt(sum(x * x for x in v.values())) for v in (a, b)]
            scores[i, j] = product / sizes[0] / sizes[1] if all(sizes) else 0
    return scores


def cosines(gallery, probe):
    out = np.zeros((len(gallery), len(probe)))
    for i, a in enumerate(np.asarray(gallery, float)):
        for j, b in enumerate(np.asarray(probe, float)):
            out[i, j] = a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)
    return out


def best_weight(face, text, identity):
    "The first of 0, .05 ... 2 with the largest TPR where at most one impostor pair of a hundred is accepted."
    best, chosen = -1, None
    pairs = [(i, j) for i in range(len(identity)) for j in range(len(identity)) if i != j]
    for w in np.linspace(0, 2, 41):
        total = face + w * text
        impostor = sorted((total[p] for p in pairs if identity[p[0]] != identity[p[1]]), reverse=True)
        genuine = [total[p] for p in pairs if identity[p[0]] == identity[p[1]]]
        threshold = impostor[int(len(impostor) * 1e-2)]
        rate = sum(score > threshold for score in genuine) / len(genuine)
        if rate > best:
            best, chosen = rate, w
    return chosen


@pytest.fixture(scope="module")
def tiny():
    "A trainer and an evaluator of made-up features, an image-only head and a model with words."
    store, identity, captions = made_up()
    draw = np.random.default_rng(0)  # one size more than is evaluated, between the two
    embedding = np.stack([store.embedding[0], draw.normal(size=store.embedding[0].shape), store.embedding[1]])
    regions = np.concatenate([store.regions[:1], store.regions])
    variants, meta = ["112px", "32px", "16px"], store.meta
    wide = FeatureStore(store.folder, embedding.astype("f"), regions, variants, meta)
    rows, validation = np.arange(10), np.arange(10, 24)
    trainer = SimpleNamespace(
        rows=rows, validation=validation, identity=identity, captions=captions, split=SimpleNamespace(store=wide)
    )
    other, people, texts = made_up(photos=20, people=5, seed=1)
    evaluator = AllPairsEvaluator(SimpleNamespace(identity=people, store=other, captions=texts), replicates=3)
    seed_everything(0)
    image_only = TGFR(ModelConfig(16, (8, 7, 7), 12, "residual", use_captions=False)).eval()
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=12, embedding=12)
    model = TGFR(ModelConfig(16, (8, 7, 7), 12, "linear"), text).eval()
    with torch.no_grad():
        for parameter in image_only.parameters():  # an untrained residual head leaves faces as they are
            parameter.add_(0.2 * torch.randn_like(parameter))
    return trainer, evaluator, image_only, model


@pytest.mark.parametrize("name", PLAIN_SUMS)
@pytest.mark.parametrize("read", ["first", "all"])
def test_plain_sums_are_the_loops(tiny, name, read, monkeypatch):
    trainer, evaluator, image_only, model = tiny
    matrices = {}
    monkeypatch.setattr(evaluator, "add", lambda name, read, scores: matrices.update({(name, read): list(scores)}))
    test = evaluator.split
    embeddings = embed_photos(model, test.store, test.captions, progress=False)
    faces = embed_photos(image_only, test.store, test.captions, progress=False)["none"]["fused"]
    add_plain_sums(evaluator, trainer, [name], image_only, faces, model, embeddings)
    store, held = trainer.split.store, trainer.validation
    system, kind = PLAIN_SUMS[name]
    if system == "frozen face":
        tuned, tested = store.embedding[:, held], test.store.embedding
    else:
        tuned = embed_photos(image_only, store, trainer.captions, held, progress=False)["none"]["fused"]
        tested = faces
    own = [trainer.captions[row] for row in held]
    if kind == "tf-idf":
        fitted, join = [trainer.captions[row] for row in trainer.rows], " ".join
        text, of_test = (tfidf([c[0] if read == "first" else join(c) for c in x], fitted) for x in (own, test.captions))
    else:
        sentence = embed_photos(model, store, trainer.captions, held, progress=False)[read]["sentence"]
        text, of_test = cosines(sentence, sentence), cosines(*[embeddings[read]["sentence"]] * 2)
    found = matrices[name, read]
    assert len(found) == 2
    for matrix, ours, theirs in zip(found, (0, 2), (0, 1)):  # 112px and 16px
        w = best_weight(cosines(tuned[0], tuned[ours]), text, trainer.identity[held])
        expected = cosines(tested[0], tested[theirs]) + w * of_test
        np.testing.assert_allclose(matrix, expected, atol=1e-5)


# references


@pytest.mark.parametrize("systems, reference", [(("linear",), "linear"), (("frozen face",), "fcfm")])
def test_any_system_may_be_the_reference(systems, reference):
    check_systems(systems, "fcfm", reference)


@pytest.mark.parametrize(
    "systems, reference, said",
    [
        (
            ("frozen face", "linear"),
            "image-only head",
            "expected one of the systems that are: frozen face, linear, fcfm",
        ),
        (("frozen face",), "concat", "reference concat: is not evaluated"),
        (("frozen",), "fcfm", "frozen unknown"),
    ],
)
def test_other_references_are_refused(systems, reference, said):
    with pytest.raises(TgfrError, match=said):
        check_systems(systems, "fcfm", reference)


def test_both_flags_and_an_unknown_reference_are_refused_at_once(refusal, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    assert "--seed 1, --seeds 2 3: expected one" in refusal("demo", "--seed", "1", "--seeds", "2", "3", *out)
    assert "--seeds 2 2" in refusal("sets", "--data", "d", "--encoder", "e", "--seeds", "2", "2", *out)
    said = refusal("ablate", "--data", "d", "--encoder", "e", "--variants", "linear", "--reference", "fcfm", *out)
    assert "reference fcfm: is not evaluated" in " ".join(said.split())


# whole jobs


DATA = "synthetic:people=34,photos=3"
TINY = dict(dim=16, epochs_align=1, epochs_fuse=1, batch_align=16, batch_fuse=16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32, size=32), folder := tmp_path_factory.mktemp("encoder"))
    return str(folder)


def rows_of(report):
    rows = report["results"] if isinstance(report, dict) else json.loads(json.dumps(report.to_json()))["results"]
    return {(row["system"], row["condition"]["label"], row["condition"]["captions"]): row for row in rows}


@pytest.mark.parametrize(
    "data, text, name",
    [
        ("synthetic:people=9", None, "demo-evidence"),
        ("celeba_hq", None, "evidence"),
        ("celeba_hq", "gru", "evidence"),
        ("celeba_hq", "bert-base-uncased", "evidence-transformer"),
    ],
)
def test_the_recipe_where_none_is_named_is_the_best_for_verification(data, text, name):
    assert default_recipe(data, text) == name
    build_recipe(name, **{"text": text} if text else {})


def test_a_demo_of_two_seeds_that_is_killed_between_them(tmp_path, encoder, monkeypatch):
    options = dict(recipe=build_recipe("demo", **TINY), probe_size=(112, 16), replicates=20)
    options |= dict(systems=("frozen face", "image-only head", *PLAIN_SUMS), reference="image-only head + tf-idf")
    out, stop = tmp_path / "out", KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(stop):
        patch.setattr(Job, "save_seed", lambda *_: (_ for _ in ()).throw(stop))
        demo(DATA, out, encoder, seeds=(0, 1), **options)
    trained = {path: path.stat().st_mtime_ns for path in out.glob("seed-0/runs/*/metrics.jsonl")}
    assert trained and not (out / "seed-1").exists() and not (out / "report.json").exists()
    report = demo(DATA, out, encoder, seeds=(0, 1), **options)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained, "what was trained is not trained again"
    single = [json.loads((out / f"seed-{seed}/report.json").read_text()) for seed in (0, 1)]
    alone = demo(DATA, tmp_path / "alone", encoder, seed=0, **options)
    assert rows_of(alone) == rows_of(single[0]), "a seed among several is that seed alone"
    assert single[0]["data"]["evaluated on"] == single[1]["data"]["evaluated on"] == "30 photos of 10 people"
    rows, first, second = rows_of(report), *map(rows_of, single)
    assert rows.keys() == first.keys() == second.keys() and report.seeds == 2
    for key, row in rows.items():
        for metric, value in row["values"].items():
            each = [first[key]["values"][metric], second[key]["values"][metric]]
            assert value == pytest.approx(np.mean(each)) and row["by_seed"][metric] == each
        difference = row.get("difference", {}).get("AUC")
        if key[2] == "none" or key[0] == report.reference:
            assert not difference, "without captions there is nothing of this reference to be compared with"
        else:
            same = rows[report.reference, *key[1:]]
            assert difference[0] == pytest.approx(row["values"]["AUC"] - same["values"]["AUC"])
    best = max(PLAIN_SUMS, key=lambda name: rows[name, "16px", "all"]["values"][str(TPR2)])
    (said,) = report.findings
    values = [rows[name, "16px", "all"]["values"][str(TPR2)] for name in ("residual", best)]
    assert f"{values[0] - values[1]:+.3f}".replace("0.", ".") in said and f"all captions against {best}" in said
    page = (out / "report.html").read_text()
    assert said in page and "Over seeds" in page and "each of 2 seeds" in page and (out / "seeds.png").is_file()
    assert report.data["seeds"].startswith("0, 1:") and report.setup["recipe"]["seed"] == "0, 1"
    card = (out / "seed-1/model/README.md").read_text()
    assert all(name in card for name in PLAIN_SUMS) and "residual against the best plain sum of scores" in card
    assert not (out / "model").exists() and {p.name for p in out.iterdir()} >= {"features", "seed-0", "seed-1"}


def test_an_ablation_of_two_seeds(tmp_path, encoder):
    recipe, options = build_recipe("demo", **TINY), dict(probe_size=(112, 16), replicates=5)
    report = ablate(DATA, encoder, tmp_path, recipe, ("linear",), seeds=(3, 4), reference="ours", **options)
    assert (report.reference, report.seeds) == ("ours", 2)
    assert {row.system for row in report.results} == {"image-only head", *PLAIN_SUMS, "ours", "linear"}
    assert report.findings[0].startswith("ours against the best plain sum of scores, TPR@FPR=1e-2 at 16px: ")
    assert (tmp_path / "seed-4/runs/linear/config.yaml").is_file()
    assert report.setup["variants"] == {"linear": "fusion=linear"}


def test_set_fusions_of_two_seeds(tmp_path, encoder):
    options = dict(set_=("epochs_sets=1",), set_sizes=(1, 4), replicates=5)
    report = compare_fusions(
        "synthetic:people=40,photos=4", encoder, tmp_path, ("average", "quality"), seeds=(0, 1), **options
    )
    average = [row for row in report.results if row.system == "average"]
    assert average and report.seeds == 2 and report.reference == "quality"
    for row in average:
        for values in row.by_seed.values():
            assert len(set(values)) == 1, "nothing is trained, and the sets are those of the first seed"
    assert (tmp_path / "seed-1/fusions/quality/model.safetensors").is_file() and (tmp_path / "seeds.png").is_file()
    assert any(title.startswith("Over seeds: TPR@FPR=1e-3") for title in report.tables)


EVIDENCE = dict(epochs_evidence=2, batch_evidence=16)


def test_a_demo_of_evidence_with_two_seeds(tmp_path, encoder):
    options = dict(
        recipe=build_recipe("demo", fusion="evidence", **TINY, **EVIDENCE), probe_size=(112, 16), replicates=20
    )
    options |= dict(systems=("frozen face", "image-only head", "words only", *PLAIN_SUMS))
    out = tmp_path / "out"
    report = demo(DATA, out, encoder, seeds=(0, 1), **options)
    rows = rows_of(report)
    for size in "112px", "16px":
        assert rows["evidence", size, "none"]["values"] == rows["image-only head", size, "none"]["values"], "to the bit"
    reads = {read for system, _, read in rows if system == "evidence"}
    assert reads == {"none", "first", "all", "first-probe", "all-probe"}
    (said,) = report.findings
    assert "probe only" not in said and "all captions against" in said
    for seed in (0, 1):
        folder = out / f"seed-{seed}"
        assert (folder / "captions.png").is_file() and not (folder / "regions.png").exists()
        card = (folder / "model/README.md").read_text()
        assert "## Captions missing, wrong, partial: evidence" in card and "evidence against the best plain sum" in card
    page = (out / "report.html").read_text()
    assert "evidence, all captions, probe only" in page and (out / "seeds.png").is_file()

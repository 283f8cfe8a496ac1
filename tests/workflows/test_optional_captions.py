"""Models that can do without captions, evaluated and trained: lists of pairs and tables by hand, photos without any."""

import numpy as np
import pytest
import torch
from small_run import made_up
from test_cli import encoder, parquet  # noqa: F401 - `encoder` is a fixture

from tgfr.core import rng, seed_everything
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.metrics import Metric, tpr_at_fpr
from tgfr.evaluation.pair_lists import PairList, score_pairs
from tgfr.evaluation.scoring import embed_photos
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.workflows.evaluate import evaluate

TPR2 = Metric("TPR", 1e-2)


def shaken(model):
    "The model with other weights, for an untrained one leaves faces as they are."
    seed_everything(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def evidence(captions, embedding=32, regions=(16, 14, 14), dim=16, fusion="evidence"):
    seed_everything(0)
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=dim, embedding=12)
    return shaken(TGFR(ModelConfig(embedding, regions, dim, fusion), text))


def image_only_part(model):
    "The image-only head inside of a model with the fusion `evidence`, as a model of its own."
    config = model.config
    head = TGFR(ModelConfig(config.embedding, config.regions, config.dim, "residual", use_captions=False)).eval()
    head.image_head.load_state_dict(model.image_head.state_dict(), strict=False)
    head.fusion.load_state_dict(model.fusion.face.state_dict())
    return head


@pytest.fixture(scope="module")
def photos():
    "Twelve people with three photos; every fourth photo has no caption."
    faces = synthetic_faces(people=12, photos=3)
    captions = [[] if i % 4 == 1 else row for i, row in enumerate(faces["captions"])]
    columns = {name: faces[name][:] for name in faces.column_names} | {"captions": captions}
    return type(faces).from_dict(columns, features=faces.features)


@pytest.fixture(scope="module")
def model(photos):
    return evidence(photos["captions"])


@pytest.fixture
def call(photos, model, encoder, tmp_path):  # noqa: F811
    model.save(tmp_path / "model")
    data = str(parquet(photos, tmp_path))
    return dict(
        model=tmp_path / "model",
        data=data,
        encoder=str(encoder),
        probe_size=(112, 16),
        out=tmp_path / "out",
        replicates=10,
    )


def evaluated(model, **call):
    return evaluate(model, **call)


def by_row(report):
    return {(r.system, r.condition.label, r.condition.captions): r.values for r in report.results}


def score_by_hand(gallery, probe, face, terms):
    "Cosine of the faces, then what captions say of the other side, entry by entry."
    g, p = np.asarray(gallery, float), np.asarray(probe, float)
    total = g[:face] @ p[:face] / np.sqrt(g[:face] @ g[:face] * (p[:face] @ p[:face]))
    told = [[x[face + k * terms : face + (k + 1) * terms] for k in range(3)] for x in (g, p)]
    for a, b in ((0, 1), (1, 0), (2, 2)):
        total += sum(x * y for x, y in zip(told[0][a], told[1][b]))
    return total


# lists of pairs


def test_pairs_of_a_model_with_a_score_of_its_own_are_inner_products_by_hand():
    store, _, captions = made_up()
    model = evidence(captions, 16, (8, 7, 7), 12)
    captions[3] = []
    fused = embed_photos(model, store, captions, progress=False)["all"]["fused"]
    draw = rng("pairs by hand")
    first, second = draw.integers(24, size=(2, 60))
    scores = score_pairs(fused[1], fused[0], PairList("drawn", first, second, first % 6 == second % 6), model)
    face, terms = model.fusion.face.width, model.fusion.terms
    expected = [score_by_hand(fused[0][j], fused[1][i], face, terms) for i, j in zip(first, second)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    cosine = score_pairs(fused[1], fused[0], PairList("drawn", first, second, first == second))
    assert np.abs(cosine - expected).max() > 0.01, "a cosine of the whole is something else"


@pytest.mark.parametrize("fusion", ["residual", "linear"])
def test_pairs_of_cosine_models_are_the_same_to_the_bit(fusion):
    store, _, captions = made_up()
    model = evidence(captions, 16, (8, 7, 7), 12, fusion)
    fused = embed_photos(model, store, captions, progress=False)["all"]["fused"]
    draw = rng("pairs to the bit")
    pairs = PairList("drawn", *draw.integers(24, size=(2, 60)), np.arange(60) % 2 == 0)
    np.testing.assert_array_equal(score_pairs(fused[1], fused[0], pairs, model), score_pairs(fused[1], fused[0], pairs))


def pair_list(photos, folder):
    ids = photos["photo_id"]
    lines = [f"{ids[3 * p]} {ids[3 * q + 1]} {int(p == q)}\n" for p in range(12) for q in range(12)]
    (folder / "pairs.txt").write_text("".join(lines))
    return folder / "pairs.txt"


def test_a_list_is_evaluated_with_captions_on_both_sides_on_one_and_without(call, photos, model, tmp_path):
    listed = pair_list(photos, tmp_path)
    image_only_part(model).save(tmp_path / "image-only")
    report = evaluated(**call, pairs=listed, baseline=tmp_path / "image-only")
    rows, label = by_row(report), "published list, 16px"
    assert {read for system, _, read in rows if system == "evidence"} == {
        "none",
        "first",
        "all",
        "first-probe",
        "all-probe",
    }
    for size in "112px", "16px":
        name = f"published list, {size}"
        assert rows["evidence", name, "none"] == rows["image-only head", name, "none"], "to the bit"
    store = FeatureStore.open(call["out"] / "features")
    trained = TGFR.load(call["model"])
    read = embed_photos(trained, store, photos["captions"][:], modes=("none", "all"), progress=False)
    face, terms = trained.fusion.face.width, trained.fusion.terms
    for captions, mode in (("all", "all"), ("all-probe", "none")):
        gallery, probe = read[mode]["fused"][0], read["all"]["fused"][1]
        scores = [score_by_hand(gallery[3 * q + 1], probe[3 * p], face, terms) for p in range(12) for q in range(12)]
        scores, same = np.array(scores), np.eye(12, dtype=bool).ravel()
        auc = np.mean(scores[same][:, None] > scores[~same][None])
        assert rows["evidence", label, captions][Metric("AUC")] == pytest.approx(auc, abs=1e-6)


# all pairs


def test_all_pairs_keep_photos_without_captions_and_count_them(call, photos, model, tmp_path):
    image_only_part(model).save(tmp_path / "image-only")
    report = evaluated(**call, baseline=tmp_path / "image-only")
    assert report.data["photos without a caption"] == "9 of 36" and report.data["evaluated on"].startswith("36 photos")
    rows = by_row(report)
    for size in "112px", "16px":
        assert rows["evidence", size, "none"] == rows["image-only head", size, "none"], "to the bit"
    store = FeatureStore.open(call["out"] / "features")
    read = embed_photos(TGFR.load(call["model"]), store, photos["captions"][:], modes=("none", "all"), progress=False)
    face, terms, people = model.fusion.face.width, model.fusion.terms, np.array(photos["identity"])
    gallery, probe = read["none"]["fused"][0], read["all"]["fused"][1]
    scores = np.array([[score_by_hand(g, p, face, terms) for p in probe] for g in gallery])
    same, off = people[:, None] == people, ~np.eye(36, dtype=bool)
    expected = tpr_at_fpr(scores[same & off], scores[~same], [1e-2])[0]
    assert rows["evidence", "16px", "all-probe"][TPR2] == pytest.approx(expected)


def test_photos_without_captions_are_left_out_where_one_model_needs_them(call, photos, tmp_path):
    evidence(photos["captions"], fusion="linear").save(tmp_path / "linear")
    report = evaluated(**call, baseline=tmp_path / "linear")
    assert report.data["evaluated on"].startswith("27 photos") and "photos without a caption" not in report.data
    assert report.skipped["count"] == 9
    image_only_part(evidence(photos["captions"])).save(tmp_path / "image-only")
    alone = evaluated(**call | {"model": tmp_path / "image-only"}, card=False)
    assert alone.data["evaluated on"].startswith("36 photos")

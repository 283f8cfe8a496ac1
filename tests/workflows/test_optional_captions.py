"""Models that can do without captions, evaluated and trained: lists of pairs and tables by hand, photos without any."""

import numpy as np
import pytest
import torch
from small_run import made_up
from test_cli import encoder, parquet  # noqa: F401 - `encoder` is a fixture

from tgfr.core import TgfrError, rng, seed_everything
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.caption_conditions import caption_conditions
from tgfr.evaluation.caption_scores import MAX_LISTS, CaptionScorer
from tgfr.evaluation.metrics import Metric, tpr_at_fpr
from tgfr.evaluation.pair_lists import PairList, score_pairs
from tgfr.evaluation.scoring import embed_photos
from tgfr.formats.cards import parse_card
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.training.recipes import build_recipe
from tgfr.workflows.compare import PLAIN_SUMS
from tgfr.workflows.demo import demo
from tgfr.workflows.evaluate import evaluate
from tgfr.workflows.train import train

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


# captions missing, wrong, partial


def study_of(report):
    "The title of the table, and its rows by condition."
    ((title, table),) = [entry for entry in report.tables.items() if entry[0].startswith("Captions missing")]
    return title, table["columns"], {row[0]: row[1:] for row in table["rows"]}


def test_the_table_begins_with_the_rows_of_the_report(call):
    report = evaluated(**call)
    title, columns, table = study_of(report)
    assert title == "Captions missing, wrong, partial: evidence, probes of 16px" and len(table) == 26
    assert columns[:3] == ["captions", "TPR@FPR=1e-2", "TPR@FPR=1e-2, difference from no captions"]
    rows = report.select(systems=["evidence"]).results
    row = next(r for r in rows if (r.condition.label, r.condition.captions) == ("16px", "none"))
    low, high = row.intervals[TPR2]
    cell = f"{row.values[TPR2]:.3f} ({low:.3f} to {high:.3f})".replace("0.", ".")
    assert table["no captions"][:2] == [cell, "–"]
    for read, text in (("first", "one caption"), ("all", "all captions")):
        for side, more in (("", ""), ("-probe", ", probe only")):
            row = next(r for r in rows if (r.condition.label, r.condition.captions) == ("16px", read + side))
            assert table[text + more][0].startswith(f"{row.values[TPR2]:.3f}".replace("0.", "."))
    assert (call["out"] / "captions.png").is_file() and "of words masked" in (call["out"] / "report.html").read_text()


def test_a_card_has_one_such_table_and_says_what_of_subgroups_is_known(call):
    for _ in range(2):
        evaluated(**call)
    sections = parse_card((call["model"] / "README.md").read_text()).sections
    assert len([title for title in sections if title.startswith("Captions missing")]) == 1
    assert [title for title in sections if title.startswith("Subgroups")]
    evaluated(**call, pairs=4)
    sections = parse_card((call["model"] / "README.md").read_text()).sections
    assert not [title for title in sections if title.startswith("Captions missing")], "of another evaluation"


def test_a_fusion_that_needs_captions_is_evaluated_where_there_are_some(call, photos, tmp_path):
    evidence(photos["captions"], fusion="concat").save(folder := tmp_path / "concat")
    title, columns, table = study_of(evaluated(**call | {"model": folder}))
    assert title.endswith("16px; this fusion needs captions, so that it cannot be evaluated without")
    assert columns[2] == "TPR@FPR=1e-2, difference from all captions" and table["all captions"][1] == "–"
    assert not any("only" in text and "wrong" not in text or "without" in text for text in table)
    assert {"one caption", "100% wrong, all captions", "50% of words masked"} <= table.keys()


@pytest.mark.parametrize("kept", [100, 1])
def test_scores_of_each_condition_are_those_of_its_captions(kept):
    store, identity, captions = made_up()
    model, n = evidence(captions, 16, (8, 7, 7), 12), len(identity)
    captions[2] = []
    scorer = CaptionScorer(model, store, 1, batch=7, max_kept=kept)
    face, terms = model.fusion.face.width, model.fusion.terms
    for condition in caption_conditions(captions, identity, seen_at=None):
        sides = []
        for side, variant in ((condition.gallery, 0), (condition.probe, 1)):
            mode = "all" if any(side) else "none"
            read = embed_photos(model, store, side, modes=(mode,), progress=False)
            sides.append(read[mode]["fused"][variant])
        found = scorer(condition.gallery, condition.probe)
        for i, j in ((0, 1), (2, 3), (5, 2), (n - 1, 7)):
            expected = score_by_hand(sides[0][i], sides[1][j], face, terms)
            assert found[i, j] == pytest.approx(expected, abs=1e-5), condition.text
    assert len(scorer._fused) <= MAX_LISTS


def test_the_image_part_runs_once_and_each_list_is_encoded_once(monkeypatch):
    store, identity, captions = made_up()
    model, seen, encoded = evidence(captions, 16, (8, 7, 7), 12), [], []
    model.image_head.register_forward_hook(lambda *_: seen.append(1))
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda *x: encoded.append(1) or encode(*x))
    scorer = CaptionScorer(model, store, 1)
    for condition in caption_conditions(captions, identity, seen_at=None):
        scorer(condition.gallery, condition.probe)
    conditions = caption_conditions(captions, identity, seen_at=None)
    lists = {repr(side) for condition in conditions for side in (condition.gallery, condition.probe) if any(side)}
    assert len(seen) == 2 and len(encoded) == len(lists)


def test_where_nobody_elses_captions_can_be_given_the_report_says_so(call, photos, tmp_path):
    some = [
        row if person == photos["identity"][0] else [] for person, row in zip(photos["identity"], photos["captions"])
    ]
    columns = {name: photos[name][:] for name in photos.column_names} | {"captions": some}
    few = parquet(type(photos).from_dict(columns, features=photos.features), tmp_path, "few.parquet")
    report = evaluated(**call | {"data": str(few)})
    assert any("Captions missing, wrong, partial: not evaluated" in line for line in report.warnings)
    assert not [title for title in report.tables if title.startswith("Captions missing")]


# training


TINY = dict(dim=16, epochs_align=1, epochs_fuse=1, batch_align=16, batch_fuse=16, epochs_evidence=2, batch_evidence=16)


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory):
    torch.manual_seed(0)
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32, size=32), folder := tmp_path_factory.mktemp("encoder"))
    return str(folder)


@pytest.mark.xfail(raises=TgfrError, reason="FaceBatches of the image-only head refuses photos without captions")
def test_training_keeps_photos_without_captions(tmp_path, small_encoder, capsys):
    faces = synthetic_faces(people=20, photos=4)
    captions = [[] if i % 4 == 1 else row for i, row in enumerate(faces["captions"])]
    columns = {name: faces[name][:] for name in faces.column_names} | {"captions": captions}
    data = parquet(type(faces).from_dict(columns, features=faces.features), tmp_path)
    settings = ("fusion=evidence", *(f"{name}={value}" for name, value in TINY.items()))
    model = train("demo", data=str(data), encoder=small_encoder, out=tmp_path / "run", set_=settings)
    card = (tmp_path / "run/model/README.md").read_text()
    assert "80 photos of 20 people" in card and "| photos without a caption | 20 of 80 |" in card
    assert model.config.optional_captions and "photos without a caption: 20 of 80" in capsys.readouterr().err


def test_training_of_other_fusions_leaves_them_out(tmp_path, small_encoder):
    faces = synthetic_faces(people=20, photos=4)
    captions = [[] if i % 4 == 1 else row for i, row in enumerate(faces["captions"])]
    columns = {name: faces[name][:] for name in faces.column_names} | {"captions": captions}
    data = parquet(type(faces).from_dict(columns, features=faces.features), tmp_path)
    settings = ("fusion=concat", *(f"{name}={value}" for name, value in TINY.items()))
    train("demo", data=str(data), encoder=small_encoder, out=tmp_path / "run", image_only=True, set_=settings)
    assert "60 photos of 20 people" in (tmp_path / "run/model/README.md").read_text()


# the whole job


def test_a_demo_of_evidence_with_two_seeds(tmp_path, small_encoder):
    options = dict(recipe=build_recipe("demo", fusion="evidence", **TINY), probe_size=(112, 16), replicates=20)
    options |= dict(systems=("frozen face", "image-only head", "words only", *PLAIN_SUMS))
    out = tmp_path / "out"
    report = demo("synthetic:people=34,photos=3", out, small_encoder, seeds=(0, 1), **options)
    rows = by_row(report)
    for size in "112px", "16px":
        assert rows["evidence", size, "none"] == rows["image-only head", size, "none"], "to the bit"
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

"""Evaluation of a saved model: retrieval metrics against loops, every task from folders to a report, refusals."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from optional_captions import evidence, image_only_part, partly_captioned, score_by_hand, with_captions
from test_cli import encoder, parquet, refused, tgfr  # noqa: F401 - `encoder` is a fixture

from tgfr.core import TgfrError, read_json, rng, seed_everything, write_json
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.bootstrap import PersonBootstrap
from tgfr.evaluation.metrics import Metric, tpr_at_fpr
from tgfr.evaluation.results import format_rate
from tgfr.evaluation.retrieval import query_ranks, retrieval_metrics, retrieve, same_captions, search_by_text
from tgfr.evaluation.scoring import embed_photos, score_matrix
from tgfr.evaluation.subgroups import attribute_subgroups, evaluate_subgroups
from tgfr.formats.cards import parse_card
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.report.model_cards import NOT_BY_SUBGROUP
from tgfr.report.subgroup_tables import subgroup_table
from tgfr.workflows.evaluate import evaluate


def evaluated(model, **call):
    return evaluate(model, **call)


@pytest.fixture(scope="module")
def photos():
    return synthetic_faces(people=10, photos=3)


def reader(photos, seed):
    "A model that knows the words of these captions, with random weights."
    seed_everything(seed)
    text = build_text_encoder("lstm", [c for row in photos["captions"] for c in row], dim=16, embedding=12)
    return TGFR(ModelConfig(32, (16, 14, 14), 16, "linear"), text).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory, photos):
    reader(photos, 0).save(folder := tmp_path_factory.mktemp("model"))
    return folder


@pytest.fixture
def call(photos, model, encoder, tmp_path):  # noqa: F811
    return dict(
        model=model,
        data=str(parquet(photos, tmp_path)),
        encoder=str(encoder),
        probe_size=(112, 16),
        out=tmp_path / "out",
        replicates=10,
    )


# retrieval


def test_ranks_are_the_loop_and_count_ties_against_the_query():
    draw = rng("ranks")
    x, y = draw.integers(-1, 2, size=(2, 40, 3)).astype(np.float32)
    x[:, 0] += 5
    scores = score_matrix(x, y)
    assert query_ranks(x, y, block=7).tolist() == [sum(scores[i] >= scores[i, i]) for i in range(40)]
    person = np.arange(40) % 7
    expected = []
    for i in range(40):
        best = max(scores[i, person == person[i]])
        expected.append(1 + sum(scores[i, person != person[i]] >= best))
    assert query_ranks(x, y, block=7, targets=person).tolist() == expected
    with pytest.raises(TgfrError, match="shapes"):
        query_ranks(x, y[:-1])
    with pytest.raises(TgfrError, match="NaN"):
        query_ranks(np.where(np.arange(40)[:, None] == 3, np.nan, x).astype(np.float32), y)


def test_figures_are_those_of_repeated_queries():
    draw = rng("retrieval figures")
    identity, rank = draw.integers(12, size=60), draw.integers(1, 30, size=60)
    f = retrieval_metrics(rank, identity, (1, 5), replicates=5, seed=3)
    names, person = np.unique(identity, return_inverse=True)
    weights = [
        np.ones(len(names), int),
        *rng("bootstrap", 3).multinomial(len(names), np.full(len(names), 1 / len(names)), 5),
    ]
    for r, w in enumerate(weights):
        drawn = np.sort(np.repeat(rank, w[person]))
        expected = {
            Metric("recall", 1): (drawn <= 1).mean(),
            Metric("recall", 5): (drawn <= 5).mean(),
            Metric("median rank"): drawn[(len(drawn) + 1) // 2 - 1],
        }
        for key, value in expected.items():
            assert (f.samples[key][r - 1] if r else f.value[key]) == pytest.approx(value), key
    with pytest.raises(TgfrError, match="one person"):
        retrieval_metrics(rank, np.zeros(60))
    with pytest.raises(TgfrError, match="shape"):
        retrieval_metrics(rank[1:], identity)


def test_a_model_without_words_cannot_read():
    plain = TGFR(ModelConfig(32, (16, 14, 14), 16, "linear", use_captions=False)).eval()
    with pytest.raises(TgfrError, match="no text encoder"):
        retrieve(plain, None, [["a"]], np.zeros(1))
    with pytest.raises(TgfrError, match="no text encoder"):
        search_by_text(plain, None, ["a"])


# two models


@pytest.fixture(scope="module")
def others(tmp_path_factory, photos):
    "A model like `model` with other weights, and an image-only head."
    home = tmp_path_factory.mktemp("others")
    reader(photos, 1).save(home / "second")
    TGFR(ModelConfig(32, (16, 14, 14), 16, "residual", use_captions=False)).eval().save(home / "without")
    return home


@pytest.fixture
def listed(photos, tmp_path):
    ids = photos["photo_id"][:]
    (tmp_path / "list.txt").write_text(
        "".join(f"{ids[3 * p]} {ids[3 * q + 1]} {int(p == q)}\n" for p in range(10) for q in range(10))
    )
    return {"all pairs": None, "list": tmp_path / "list.txt"}


def by_row(report):
    return {(r.system, r.condition.label, r.condition.captions): r for r in report.results}


def differences(report, system):
    rows = report.select(systems=[system]).results
    return {(r.condition.label, r.condition.captions, metric): d for r in rows for metric, d in r.differences.items()}


@pytest.mark.parametrize("task", ["all pairs", "list"])
def test_a_model_does_not_differ_from_itself(call, model, listed, task):
    report = evaluated(**call, pairs=listed[task], baseline=model)
    deltas = differences(report, "linear")
    assert report.reference == "other linear" and len(deltas) >= 8
    assert {captions for _, captions, _ in deltas} == {"first", "all"}
    assert all(tuple(d) == (0, 0, 0) for d in deltas.values())


@pytest.mark.parametrize("task", ["all pairs", "list"])
def test_two_models_exchanged_change_signs(call, model, others, listed, task):
    there = differences(evaluated(**call, pairs=listed[task], baseline=others / "second"), "linear")
    back = differences(evaluated(**call | {"model": others / "second"}, pairs=listed[task], baseline=model), "linear")
    assert there.keys() == back.keys() and any(d[0] for d in there.values())
    for key, (value, low, high) in there.items():
        assert back[key] == pytest.approx((-value, -high, -low), abs=1e-12), key


def test_the_image_only_head_is_the_reference_with_one_caption_and_with_all(call, model, others):
    report = evaluated(**call, baseline=others / "without")
    alone = evaluated(**call | {"model": others / "without"})
    rows, alone = by_row(report), by_row(alone)
    assert {name for name, _, _ in rows} == {"frozen face", "image-only head", "linear"}
    assert report.reference == "image-only head"
    auc = Metric("AUC")
    for captions in "first", "all":
        row = rows["linear", "16px", captions]
        baseline = alone["image-only head", "16px", "none"].values[auc]
        assert row.differences[auc][0] == pytest.approx(row.values[auc] - baseline)
    assert rows["frozen face", "16px", "none"].differences[auc][0] == pytest.approx(
        -alone["image-only head", "16px", "none"].differences[auc][0]
    )
    assert report.setup["image-only head"] == str(others / "without")
    with pytest.raises(TgfrError, match="exchange the two"):
        evaluated(**call | {"model": others / "without"}, baseline=model)
    with pytest.raises(TgfrError, match="nowhere"):
        evaluated(**call, baseline=others / "nowhere")
    with pytest.raises(TgfrError, match="baseline: retrieval"):
        evaluated(**call, baseline=model, task="retrieval")


# the card


def test_results_go_onto_the_card_and_facts_stay(call, model, tmp_path, capsys):
    shutil.copytree(model, folder := tmp_path / "own model")
    TGFR.load(model).save(folder, {"face encoder": "made up"})
    card = folder / "README.md"
    assert "has not been evaluated yet" in card.read_text()
    evaluated(**call | {"model": folder}, card=False)
    assert "has not been evaluated yet" in card.read_text()
    report = evaluated(**call | {"model": folder})
    text, sections = card.read_text(), parse_card(card.read_text()).sections
    assert "not been evaluated" not in text and "| face encoder | made up |" in text
    assert list(sections)[-1] == "Use with care"
    row = next(r for r in report.results if r.system == "linear" and r.condition.captions == "all")
    assert format_rate(row.values[Metric("TPR", 1e-2)]) in sections["Results"]
    assert [title[:10] for title in sections if title.startswith("Subgroups")] == ["Subgroups:"]
    evaluated(**call | {"model": folder}, pairs=4)
    evaluated(**call | {"model": folder}, task="retrieval")
    again = parse_card(card.read_text()).sections
    assert "generated list, 112px" in again["Results"] and "recall@10" in again["Find by description: Results"]
    assert again["Subgroups"] == again["Find by description: Subgroups"] == NOT_BY_SUBGROUP
    assert not [title for title in again if title.startswith("Subgroups:")], "those of all pairs are replaced"
    assert again["Use with care"] == sections["Use with care"]
    TGFR.load(folder)
    assert not list(folder.glob(".*")), "nothing half-written is left"


def test_a_card_that_is_not_ours_to_write_is_left(call, model, tmp_path, capsys, monkeypatch):
    shutil.copytree(model, cached := tmp_path / "models--me--mine/snapshots/1")
    before = (cached / "README.md").read_text()
    evaluated(**call | {"model": cached})
    assert (
        cached / "README.md"
    ).read_text() == before and "in the cache of the Hub, the card is left as it is" in capsys.readouterr().err

    def full(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tgfr.report.model_cards.write_text", full)
    shutil.copytree(model, locked := tmp_path / "locked")
    evaluated(**call | {"model": locked})
    assert (
        locked / "README.md"
    ).read_text() == before and "the card is left as it is ([Errno 13] Permission denied)" in capsys.readouterr().err


# groups


def test_groups_where_attributes_are_known(call, model, encoder, others):  # noqa: F811
    drawn = dict(call, data="synthetic:people=40,photos=2", features=call["out"] / "drawn")
    report = evaluated(**drawn, baseline=others / "without")
    title, table = next(iter(report.tables.items()))
    assert "probes of 16px" in title and table["columns"][3:] == [
        f"{system}: {rate}" for system in ("image-only head", "linear") for rate in ("TPR", "FPR")
    ]
    photos = synthetic_faces(people=40, photos=2)
    store, identity, trained = FeatureStore.open(drawn["features"]), np.array(photos["identity"]), TGFR.load(model)
    fused = embed_photos(trained, store, photos["captions"][:])["all"]["fused"]
    groups = attribute_subgroups(photos["attributes"][:])
    scores = {"linear": score_matrix(fused[0], fused[1])}
    expected = subgroup_table(evaluate_subgroups(scores, PersonBootstrap(identity, 10, 0), groups))
    at = table["columns"].index("linear: TPR")
    assert [row[at : at + 2] for row in table["rows"]] == [row[3:5] for row in expected["rows"]] and len(groups) >= 4
    assert "gender=" in (call["out"] / "report.html").read_text()
    small, few = next(iter(evaluated(**call).tables.items()))
    assert "fewer than 10 people" in small and all(row[3:] == ["–"] * 4 for row in few["rows"]), (
        "only ten people: no group is large enough, and that is said"
    )


# from folders to a report


def test_all_pairs(call, photos):
    report = evaluated(**call)
    again = evaluated(**call)  # reads the features of the first
    assert report == replace(again, run=report.run)
    rows = by_row(report)
    systems = ("frozen face", "none"), ("linear", "first"), ("linear", "all")
    assert set(rows) == {(system, size, captions) for size in ("112px", "16px") for system, captions in systems}
    assert rows["linear", "16px", "first"].differences and not rows["frozen face", "16px", "none"].differences
    store = FeatureStore.open(call["out"] / "features").embedding
    identity, scores = np.array(photos["identity"]), score_matrix(store[0], store[1])
    same, off = identity[:, None] == identity, ~np.eye(30, dtype=bool)
    expected = tpr_at_fpr(scores[same & off], scores[~same], [1e-2])[0]
    assert rows["frozen face", "16px", "none"].values[Metric("TPR", 1e-2)] == pytest.approx(expected)
    assert read_json(call["out"] / "report.json")["reference"] == "frozen face"
    assert (call["out"] / "report.html").is_file()


def test_a_list_and_its_leak_free_half(call, photos, tmp_path):
    ids = photos["photo_id"][:]
    columns = {n: photos[n][:] for n in photos.column_names}
    columns["captions"][1] = columns["captions"][0]
    call["data"] = str(parquet(type(photos).from_dict(columns, features=photos.features), tmp_path, "leaky.parquet"))
    lines = [f"{ids[3 * p]} {ids[3 * q + 1]} {int(p == q)}" for p in range(10) for q in range(10)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    report = evaluated(**call, pairs=tmp_path / "pairs.txt")
    labels = {f"{name} list, {size}" for name in ("published", "leak-free") for size in ("112px", "16px")}
    assert {r.condition.label for r in report.results} == labels
    assert report.data["published list"] == "10 genuine, 90 impostor pairs"
    assert report.data["leak-free list"] == "9 genuine, 90 impostor pairs"
    assert report.notes[Metric("TPR", 1e-3)] == "0 false accepts"
    assert "false accepts" in (call["out"] / "report.html").read_text()
    resolved = {Metric("EER"), Metric("AUC"), Metric("rank", 1)}  # 90 impostor pairs allow no false accept at any rate
    assert all(set(r.intervals) == resolved < set(r.values) for r in report.results)


def test_retrieval(call):
    report = evaluated(**call, task="retrieval")
    rows = by_row(report)
    assert len(rows) == 2 * (2 + 3 * 2)
    median = Metric("median rank")
    chance = {Metric("recall", k): k / 30 for k in (1, 5, 10)} | {median: 15.5}
    assert rows["chance", "112px", "none"].values == chance
    photos = 30 - np.arange(10)  # three of each of ten people: drawn without replacement, none is of the person
    missed = {k: np.prod((photos[:k] - 3) / photos[:k]) for k in (1, 5, 10)}
    by_person = rows["chance, person", "112px", "none"].values
    assert by_person == pytest.approx({Metric("recall", k): 1 - missed[k] for k in (1, 5, 10)})
    for (system, *_), row in rows.items():
        assert system == "chance, person" or 1 <= row.values[median] <= 30
    for size in ("112px", "16px"):
        own, person = (rows[f"text to {what}", size, "all"].values for what in ("image", "person"))
        assert all(person[Metric("recall", k)] >= own[Metric("recall", k)] for k in (1, 5, 10))
    assert "recall@k" in (call["out"] / "report.html").read_text()


def test_command(call):
    flags = [
        "--data",
        call["data"],
        "--encoder",
        call["encoder"],
        "--probe-size",
        "112",
        "--replicates",
        "5",
        "--out",
        call["out"],
    ]
    run = tgfr("evaluate", call["model"], *flags, "--pairs", "4")
    assert run.returncode == 0, run.stderr
    assert "generated list, 112px" in run.stdout and len((call["out"] / "pairs.txt").read_text().splitlines()) == 50
    refused(tgfr("evaluate", call["out"] / "nothing", *flags), "config.json: no such file")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(task="ocr"), "task 'ocr': expected one of verification, retrieval"),
        (dict(task="retrieval", pairs=3), "takes no list"),
        (dict(probe_size=(1,)), "size"),
        (dict(data="/no/such/photos"), "/no/such/photos"),
        (dict(encoder="/no/such/encoder"), "/no/such/encoder"),
        (dict(split="test"), "split"),
        (dict(pairs=0), "impostors 0"),
        (dict(pairs=4000), "impostors 4000"),
        (dict(pairs="/no/such/pairs.txt"), "/no/such/pairs.txt"),
        (dict(replicates=0), "replicates"),
    ],
)
def test_wrong_calls_are_named(call, change, message):
    with pytest.raises(TgfrError, match=message):
        evaluated(**call | change)


def test_an_encoder_that_does_not_fit(call, tmp_path):
    from tgfr.encoders.backbones import IResNet, save_encoder

    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=48), tmp_path / "other")
    with pytest.raises(TgfrError, match="its embedding has 48 numbers, the model in .* was trained on 32"):
        evaluated(**call | {"encoder": str(tmp_path / "other")})
    TGFR(ModelConfig(32, (24, 7, 7), 16, "residual", use_captions=False)).save(tmp_path / "model")
    with pytest.raises(TgfrError, match="its feature map is"):
        evaluated(**call | {"model": tmp_path / "model"})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n"),
        lambda f: (f / "config.json").write_text("[" * 100_000),
        lambda f: write_json(f / "config.json", {"dim": 3}),
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:50]),
    ],
)
def test_hostile_model_folders(call, model, tmp_path, spoil):
    shutil.copytree(model, tmp_path / "hostile")
    spoil(tmp_path / "hostile")
    with pytest.raises(TgfrError, match="hostile"):
        evaluated(**call | {"model": tmp_path / "hostile"})


def test_captions_that_tell_no_photos_apart_bound_recall(call, photos, tmp_path):
    "InternVideo #153, LanguageBind #58: several pictures fit one caption, and only one counts."
    assert same_captions([["a"], ["b", "a"]]) == []
    one, every = same_captions([["a man"], ["a man"], ["a woman"], ["a man", "old"]])
    assert "3 of 4 photos" in one and "at most 0.500 from text to image and 0.250 from image to text" in one
    assert "2 of 4 photos" in every and "at most 0.750 from text to image and 0.500 from image to text" in every
    x = np.eye(4, dtype="f")
    said = x[[0, 0, 2, 3]]  # the best that sentences of three kinds can do
    assert (query_ranks(said, said) == 1).mean() == 0.5  # two that are the same: both stand behind the other
    columns = {n: photos[n][:] for n in photos.column_names}
    columns["captions"][1] = columns["captions"][0]
    call["data"] = str(parquet(type(photos).from_dict(columns, features=photos.features), tmp_path, "same.parquet"))
    assert any("of 30 photos have the same caption" in line for line in evaluated(**call, task="retrieval").warnings)


# models that can do without captions


@pytest.fixture(scope="module")
def some_captioned():
    return partly_captioned(12, 3)


@pytest.fixture(scope="module")
def evidence_model(some_captioned):
    return evidence(some_captioned["captions"])


@pytest.fixture
def optional(some_captioned, evidence_model, encoder, tmp_path):  # noqa: F811
    evidence_model.save(tmp_path / "model")
    data = str(parquet(some_captioned, tmp_path))
    return dict(
        model=tmp_path / "model",
        data=data,
        encoder=str(encoder),
        probe_size=(112, 16),
        out=tmp_path / "out",
        replicates=10,
    )


def values_by_row(report):
    return {key: row.values for key, row in by_row(report).items()}


def pair_list(photos, folder):
    ids = photos["photo_id"]
    lines = [f"{ids[3 * p]} {ids[3 * q + 1]} {int(p == q)}\n" for p in range(12) for q in range(12)]
    (folder / "pairs.txt").write_text("".join(lines))
    return folder / "pairs.txt"


def test_a_list_is_evaluated_with_captions_on_both_sides_on_one_and_without(
    optional, some_captioned, evidence_model, tmp_path
):
    listed = pair_list(some_captioned, tmp_path)
    image_only_part(evidence_model).save(tmp_path / "image-only")
    report = evaluated(**optional, pairs=listed, baseline=tmp_path / "image-only")
    rows, label = values_by_row(report), "published list, 16px"
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
    store = FeatureStore.open(optional["out"] / "features")
    trained = TGFR.load(optional["model"])
    read = embed_photos(trained, store, some_captioned["captions"][:], modes=("none", "all"), progress=False)
    for captions, mode in (("all", "all"), ("all-probe", "none")):
        gallery, probe = read[mode]["fused"][0], read["all"]["fused"][1]
        scores = [score_by_hand(gallery[3 * q + 1], probe[3 * p], trained.fusion) for p in range(12) for q in range(12)]
        scores, same = np.array(scores), np.eye(12, dtype=bool).ravel()
        auc = np.mean(scores[same][:, None] > scores[~same][None])
        assert rows["evidence", label, captions][Metric("AUC")] == pytest.approx(auc, abs=1e-6)


# all pairs


def test_all_pairs_keep_photos_without_captions_and_count_them(optional, some_captioned, evidence_model, tmp_path):
    image_only_part(evidence_model).save(tmp_path / "image-only")
    report = evaluated(**optional, baseline=tmp_path / "image-only")
    assert report.data["photos without a caption"] == "9 of 36" and report.data["evaluated on"].startswith("36 photos")
    rows = values_by_row(report)
    for size in "112px", "16px":
        assert rows["evidence", size, "none"] == rows["image-only head", size, "none"], "to the bit"
    store = FeatureStore.open(optional["out"] / "features")
    read = embed_photos(
        TGFR.load(optional["model"]), store, some_captioned["captions"][:], modes=("none", "all"), progress=False
    )
    people = np.array(some_captioned["identity"])
    gallery, probe = read["none"]["fused"][0], read["all"]["fused"][1]
    scores = np.array([[score_by_hand(g, p, evidence_model.fusion) for p in probe] for g in gallery])
    same, off = people[:, None] == people, ~np.eye(36, dtype=bool)
    expected = tpr_at_fpr(scores[same & off], scores[~same], [1e-2])[0]
    assert rows["evidence", "16px", "all-probe"][Metric("TPR", 1e-2)] == pytest.approx(expected)


def test_photos_without_captions_are_left_out_where_one_model_needs_them(optional, some_captioned, tmp_path):
    evidence(some_captioned["captions"], fusion="linear").save(tmp_path / "linear")
    report = evaluated(**optional, baseline=tmp_path / "linear")
    assert report.data["evaluated on"].startswith("27 photos") and "photos without a caption" not in report.data
    assert report.skipped["count"] == 9
    image_only_part(evidence(some_captioned["captions"])).save(tmp_path / "image-only")
    alone = evaluated(**optional | {"model": tmp_path / "image-only"}, card=False)
    assert alone.data["evaluated on"].startswith("36 photos")


# captions missing, wrong, partial


def study_of(report):
    "The title of the table, and its rows by condition."
    ((title, table),) = [entry for entry in report.tables.items() if entry[0].startswith("Captions missing")]
    return title, table["columns"], {row[0]: row[1:] for row in table["rows"]}


def test_the_table_begins_with_the_rows_of_the_report(optional):
    report = evaluated(**optional)
    title, columns, table = study_of(report)
    assert title == "Captions missing, wrong, partial: evidence, probes of 16px" and len(table) == 26
    assert columns[:3] == ["captions", "TPR@FPR=1e-2", "TPR@FPR=1e-2, difference from no captions"]
    rows = report.select(systems=["evidence"]).results
    row = next(r for r in rows if (r.condition.label, r.condition.captions) == ("16px", "none"))
    low, high = row.intervals[Metric("TPR", 1e-2)]
    cell = f"{row.values[Metric('TPR', 1e-2)]:.3f} ({low:.3f} to {high:.3f})".replace("0.", ".")
    assert table["no captions"][:2] == [cell, "–"]
    for read, text in (("first", "one caption"), ("all", "all captions")):
        for side, more in (("", ""), ("-probe", ", probe only")):
            row = next(r for r in rows if (r.condition.label, r.condition.captions) == ("16px", read + side))
            assert table[text + more][0].startswith(f"{row.values[Metric('TPR', 1e-2)]:.3f}".replace("0.", "."))
    assert (optional["out"] / "captions.png").is_file() and "of words masked" in (
        optional["out"] / "report.html"
    ).read_text()


def test_a_card_has_one_such_table_and_says_what_of_subgroups_is_known(optional):
    for _ in range(2):
        evaluated(**optional)
    sections = parse_card((optional["model"] / "README.md").read_text()).sections
    assert len([title for title in sections if title.startswith("Captions missing")]) == 1
    assert [title for title in sections if title.startswith("Subgroups")]
    evaluated(**optional, pairs=4)
    sections = parse_card((optional["model"] / "README.md").read_text()).sections
    assert not [title for title in sections if title.startswith("Captions missing")], "of another evaluation"


def test_a_fusion_that_needs_captions_is_evaluated_where_there_are_some(optional, some_captioned, tmp_path):
    evidence(some_captioned["captions"], fusion="concat").save(folder := tmp_path / "concat")
    title, columns, table = study_of(evaluated(**optional | {"model": folder}))
    assert title.endswith("16px; this fusion needs captions, so that it cannot be evaluated without")
    assert columns[2] == "TPR@FPR=1e-2, difference from all captions" and table["all captions"][1] == "–"
    assert not any("only" in text and "wrong" not in text or "without" in text for text in table)
    assert {"one caption", "100% wrong, all captions", "50% of words masked"} <= table.keys()


def test_where_nobody_elses_captions_can_be_given_the_report_says_so(optional, some_captioned, tmp_path):
    some = [
        row if person == some_captioned["identity"][0] else []
        for person, row in zip(some_captioned["identity"], some_captioned["captions"])
    ]
    few = parquet(with_captions(some_captioned, some), tmp_path, "few.parquet")
    report = evaluated(**optional | {"data": str(few)})
    assert any("Captions missing, wrong, partial: not evaluated" in line for line in report.warnings)
    assert not [title for title in report.tables if title.startswith("Captions missing")]

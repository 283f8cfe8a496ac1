"""IJB: the recorded figures of the CAFace and insightface scripts, plain loops and scikit-learn on simulated sets, and
what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from tgfr.cli import main
from tgfr.core import TgfrError, read_json, rng
from tgfr.encoders.backbones import IResNet
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.store_writing import write_store
from tgfr.evaluation.ijb import IjbProtocol, bootstrap_subjects, evaluate_ijb
from tgfr.evaluation.metrics import Metric, auc, roc, search, split_scores, tpr_at_fpr
from tgfr.evaluation.simulated_ijb import SIZES, simulate_ijb
from tgfr.evaluation.templates import MediaPooling, pair_scores, pool_media
from tgfr.formats.ijb_files import IjbFiles, IjbImages
from tgfr.report.tables import definitions
from tgfr.sets.caface import CAFace
from tgfr.sets.checkpoints import save_set_fusion
from tgfr.sets.pooling import build_set_fusion
from tgfr.workflows.ijb_benchmark import build_systems, ijb, stored_fusion


class Recorded:
    "A golden set of files with its features, and the protocol read from it."

    def __init__(self, golden):
        self.golden, folder = golden, golden.path.parent / golden.meta["files"].split("/")[0]
        self.protocol = IjbProtocol.read(IjbFiles.open(folder))
        self.features = (
            golden.beside(golden.path.stem.replace("expected", "features"))
            .i["img_feats_1024"]
            .numpy()
            .reshape(-1, 2, 512)
            .transpose(1, 0, 2)
        )

    def check(self, name, templates):
        """Scores and AUC are the recorded ones; of the recorded scores TPRs and the number of ROC points, for which of
        ours tie, by a pair, depends on the machine's matrix product."""
        p, expected = self.protocol, self.golden.meta["expected"]
        scores = pair_scores(templates, p.first, p.second)
        self.golden.check(f"{name}.score", torch.from_numpy(scores), atol=2e-6)
        rates = expected[f"{name}.tpr_at_fpr_percent"]
        recorded, wanted = self.golden.o[f"{name}.score"].numpy(), list(rates.values())
        found, ours = (
            100 * tpr_at_fpr(*split_scores(s, p.genuine), list(map(float, rates)), "published")
            for s in (recorded, scores)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=100.001 / p.genuine.sum(), err_msg=name)
        assert auc(*split_scores(scores, p.genuine)) == pytest.approx(expected[f"{name}.auc"], abs=2e-6)
        if f"{name}.roc_points" in expected:
            assert abs(len(roc(*split_scores(recorded, p.genuine)).fpr) - expected[f"{name}.roc_points"]) <= 4, (
                "float32 scores may tie where float64 ones do not"
            )


@pytest.fixture(scope="module")
def recorded_cache():
    return {}


@pytest.fixture
def recorded(golden, recorded_cache):
    return recorded_cache.setdefault(golden.path, Recorded(golden))


@pytest.mark.golden("ijb_expected*")
def test_golden_media_pooling(golden, recorded):
    names = [k.split(".")[1] for k in golden.meta["expected"] if k.startswith("ijb11.") and k.endswith("auc")]
    assert len(names) == 8
    for name in names:
        recorded.check(f"ijb11.{name}", recorded.protocol.pool(recorded.features, name))
    recorded.check("caface.none_media_pool", recorded.protocol.pool(recorded.features, "N1D0F0"))


@pytest.mark.golden("ijb_expected*")
def test_golden_average(golden, recorded):
    recorded.check("caface.average", recorded.protocol.pool(recorded.features, build_set_fusion("norm", embedding=512)))


@pytest.mark.golden("ijb_expected*")
def test_golden_caface(golden, recorded):
    model = golden.caface()
    chunks = [
        k.split(".")[1]
        for k in golden.meta["expected"]
        if k.startswith("caface.") and k.endswith("auc") and k.split(".")[1].isdigit()
    ]
    assert chunks
    for chunk in chunks:
        templates = recorded.protocol.pool(
            recorded.features, model, golden.i["caface.intermediates"].numpy(), chunk=int(chunk)
        )
        recorded.check(f"caface.{chunk}", templates)
        if f"caface.{chunk}.template_feats" in golden.o:
            golden.check(f"caface.{chunk}.template_feats", torch.from_numpy(templates))


@pytest.mark.golden("ijb_expected*")
def test_golden_unique_templates(golden, recorded):
    np.testing.assert_array_equal(recorded.protocol.ids, golden.o["unique_templates"])
    assert (
        golden.meta["expected"]["verification2_max_absdiff_vs_verification"] < 1e-12
    )  # the faster script of the originals is the same


@pytest.mark.golden("ijb_expected*")
def test_golden_identification(golden, recorded):
    p, ranks = recorded.protocol, (1, 5, 10)
    gallery = np.concatenate(list(p.galleries.values()))
    gallery, probe = gallery[np.argsort(p.ids[gallery])], p.probe
    cases = {k.split(".")[1]: v for k, v in golden.meta["expected"].items() if k.startswith("ijb1n.")}
    assert len(cases) == 8
    for name, expected in cases.items():
        templates = p.pool(recorded.features, name)
        rates = [row["far"] for row in expected["fpir"]]
        result = evaluate_ijb(p, templates, name, "published", fpirs=rates, ranks=ranks)
        value = result.identification.value
        np.testing.assert_allclose([value[Metric("rank", r)] for r in ranks], [expected[f"top{r}"] for r in ranks])
        points = [row for row in result.points if row.protocol.startswith("1:N")]
        np.testing.assert_allclose(
            [row.value for row in points], [row["recall"] for row in expected["fpir"]], atol=1e-9
        )
        np.testing.assert_allclose(
            [row.threshold for row in points], [row["th"] for row in expected["fpir"]], atol=2e-6
        )
        if name != "N1D1F1":
            continue
        for what, ids in ("gallery", gallery), ("probe", probe):
            np.testing.assert_array_equal(p.ids[ids], golden.o[f"ijb1n.{what}_templates"])
            np.testing.assert_array_equal(p.subject[ids], golden.o[f"ijb1n.{what}_subjects"])
        found = search(templates[probe] @ templates[gallery].T, p.subject[probe], p.subject[gallery])
        (
            golden.check("ijb1n.rank", torch.from_numpy(found.rank)),
            golden.check("ijb1n.sim_gt", torch.from_numpy(found.mate), atol=2e-6),
        )
        golden.check("ijb1n.is_correct", torch.from_numpy(found.rank == 0))
        golden.check("ijb1n.mask", torch.from_numpy((p.subject[probe][:, None] == p.subject[gallery]).argmax(1)))


@pytest.mark.golden("ijb_features*")
def test_golden_features_are_of_those_images(golden):
    expected = golden.path.with_name(golden.path.stem.replace("features", "expected") + ".json")
    assert len(golden.i["img_feats_1024"]) == read_json(expected)["n_images"]


FPRS, POOLINGS = (1e-3, 1e-2, 1e-1), [f"N{n}D{d}F{f}" for n in (0, 1) for d in (0, 1) for f in (0, 1, 2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A simulated IJB-C of a hundredth: files, protocol, features (2, N, 32)."
    files, store = simulate_ijb("IJBC", tmp_path_factory.mktemp("ijbc"), seed=3, scale=0.01, width=32, mirror=True)
    return files, IjbProtocol.read(files), FeatureStore.open(store).embedding


def slow_templates(protocol, features, pooling):
    "The pooling as the protocol reads: a loop over templates and media."
    n, d, f = (int(c) for c in pooling[1::2])
    x = [features[0], features[0] + features[1], np.concatenate(features, axis=1)][f].astype(float)
    if not n:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    if d:
        x = x * protocol.images.score[:, None]
    out = []
    for t in range(len(protocol.ids)):
        mine = protocol.template == t
        total = sum(x[mine & (protocol.images.media == m)].mean(0) for m in np.unique(protocol.images.media[mine]))
        out.append(total / np.linalg.norm(total))
    return np.array(out)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_the_loop(made, pooling):
    _, protocol, features = made
    assert MediaPooling.named(pooling).name == pooling
    expected = slow_templates(protocol, np.asarray(features), pooling)
    np.testing.assert_allclose(protocol.pool(features, pooling), expected, atol=2e-6)
    in_blocks = pool_media(
        features, protocol.template, protocol.images.media, protocol.images.score, MediaPooling.named(pooling), block=97
    )
    np.testing.assert_allclose(in_blocks, expected, atol=2e-6)


def slow_identification(protocol, templates, ranks, fpirs):
    "Every figure of 1:N by a loop over probes."
    means = []
    for gallery in protocol.galleries.values():
        found, alone = [], []
        for probe in protocol.probe:
            scores = {g: float(templates[g] @ templates[probe]) for g in gallery}
            mates = [s for g, s in scores.items() if protocol.subject[g] == protocol.subject[probe]]
            others = [s for g, s in scores.items() if protocol.subject[g] != protocol.subject[probe]]
            if mates:
                found.append((max(mates), sum(o >= max(mates) for o in others)))
            else:
                alone.append(max(others))
        alone.sort(reverse=True)
        row = [np.mean([rank < r for _, rank in found]) for r in ranks]
        for f in fpirs:
            k = int(f * len(alone) * (1 + 1e-12))
            threshold = alone[k] if k < len(alone) else -np.inf
            row.append(np.mean([rank == 0 and mate > threshold for mate, rank in found]))
        means.append(row)
    return np.mean(means, axis=0)


def check_exact(protocol, templates):
    "All figures of `evaluate_ijb` against scikit-learn and loops, from the very same templates."
    result = evaluate_ijb(protocol, templates, "x", fprs=FPRS)
    pairs = np.array([float(np.float32(templates[a] @ templates[b])) for a, b in zip(protocol.first, protocol.second)])
    scores = pair_scores(templates, protocol.first, protocol.second)
    np.testing.assert_allclose(scores, pairs, atol=1e-6)
    fpr, tpr, _ = sklearn_metrics.roc_curve(protocol.genuine, scores, drop_intermediate=False)
    for f, row in zip(FPRS, result.points):
        assert row.value == pytest.approx(tpr[fpr <= f * (1 + 1e-12)].max(), abs=1e-12)
        assert (
            row.false_accepts
            == (scores[~protocol.genuine] > row.threshold).sum()
            <= f * (~protocol.genuine).sum() * (1 + 1e-12)
        )
        assert row.value == (scores[protocol.genuine] > row.threshold).mean()
    assert result.verification.value[Metric("AUC")] == pytest.approx(
        sklearn_metrics.roc_auc_score(protocol.genuine, scores), abs=1e-12
    )
    found = result.identification.value
    np.testing.assert_allclose(
        [found[Metric("rank", r)] for r in (1, 5, 10)] + [found[Metric("TPIR", f)] for f in (0.01, 0.1)],
        slow_identification(protocol, templates, (1, 5, 10), (0.01, 0.1)),
        atol=1e-12,
    )
    rates, curve = result.curves["ROC"]
    for f, t in zip(rates[::9], curve[::9]):
        assert t == pytest.approx(tpr[fpr <= f * (1 + 1e-12)].max(), abs=1e-12)
    return result


def test_figures_are_scikit_learns_and_the_loops(made):
    _, protocol, features = made
    check_exact(protocol, protocol.pool(features, "N1D1F0"))


def test_ties_are_exact(made):
    "Templates rounded to few values, so that scores are often equal to the last bit."
    _, protocol, _ = made
    draw = rng("ties")
    check_exact(protocol, draw.integers(-1, 2, size=(len(protocol.ids), 4)).astype(np.float32) / 2)


def test_equal_scores_everywhere_earn_nothing(made):
    _, protocol, _ = made
    result = check_exact(protocol, np.full((len(protocol.ids), 4), 0.5, np.float32))
    assert {v for k, v in result.verification.value.items() if k.name == "TPR"} == {0} and result.verification.value[
        Metric("AUC")
    ] == 0.5
    assert (
        result.identification.value[Metric("rank", 1)] == 0 and result.identification.value[Metric("TPIR", 1e-1)] == 0
    )


def test_order_of_rows_does_not_matter(made):
    _, p, features = made
    order, swap = rng("rows").permutation(len(p.images)), rng("pairs").permutation(len(p.genuine))
    images = IjbImages(
        p.images.name.take(order),
        p.images.points[order],
        p.images.score[order],
        p.images.template[order],
        p.images.media[order],
    )
    other = IjbProtocol(
        p.name,
        images,
        p.ids,
        p.template[order],
        p.subject,
        p.first[swap],
        p.second[swap],
        p.genuine[swap],
        p.galleries,
        p.probe[::-1],
    )
    a, b = p.pool(features, "N1D1F1"), other.pool(np.asarray(features)[:, order], "N1D1F1")
    np.testing.assert_allclose(a, b, atol=1e-6)
    for one, two in zip(evaluate_ijb(p, a, "x").points, evaluate_ijb(other, a, "x").points):
        assert one == two


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fusion", ["N0D0F0", "N1D1F1", "average"])
def test_broken_features_are_refused_with_their_row(made, bad, fusion):
    _, protocol, features = made
    broken, row = np.array(features), len(protocol.images) - 3
    broken[0, row, 5] = bad
    with pytest.raises(TgfrError, match=f"row {row} is not finite"):
        protocol.pool(broken, fusion if fusion.startswith("N") else build_set_fusion(fusion, embedding=32))
    with pytest.raises(TgfrError, match="images; expected"):
        protocol.pool(broken[:, 1:], "N1D1F0")


def test_images_left_out_are_absent(made):
    """Leaving out rows, whatever stands in them, is a set without those images; a template of them alone scores 0 and
    is reported."""
    _, p, features = made
    use = rng("use").random(len(p.images)) < 0.8
    use[p.template == p.template[0]] = False
    broken = np.where(use[:, None], features, np.nan).astype(np.float32)
    for fusion in "N1D1F0", build_set_fusion("norm", embedding=32):
        templates = p.pool(broken, fusion, use=use)
        kept = IjbImages(
            p.images.name.filter(use),
            p.images.points[use],
            p.images.score[use],
            p.images.template[use],
            p.images.media[use],
        )
        other = IjbProtocol(
            p.name, kept, p.ids, p.template[use], p.subject, p.first, p.second, p.genuine, p.galleries, p.probe
        )
        np.testing.assert_allclose(templates, other.pool(np.asarray(features)[:, use], fusion), atol=1e-6)
        assert not templates[p.template[0]].any() and evaluate_ijb(p, templates, "x").notes[0].endswith(
            "no image with features; their scores are 0"
        )


def test_norm_fusion_is_media_pooling_of_single_images(made):
    _, p, features = made
    alone = IjbProtocol(
        p.name,
        IjbImages(
            p.images.name, p.images.points, p.images.score, p.images.template, np.arange(len(p.images), dtype=np.int32)
        ),
        p.ids,
        p.template,
        p.subject,
        p.first,
        p.second,
        p.genuine,
        p.galleries,
        p.probe,
    )
    for power, pooling in ("norm", "N1D0F0"), ("average", "N0D0F0"), ("score", "N0D1F0"):
        np.testing.assert_allclose(
            p.pool(features, build_set_fusion(power, embedding=32)), alone.pool(features, pooling), atol=2e-6
        )


@pytest.mark.parametrize(
    "change, said",
    [({"genuine": lambda g: g & False}, "no genuine pair"), ({"genuine": lambda g: g | True}, "no impostor pair")],
)
def test_a_missing_class_is_refused(made, change, said):
    _, p, features = made
    other = IjbProtocol(
        p.name,
        p.images,
        p.ids,
        p.template,
        p.subject,
        p.first,
        p.second,
        change["genuine"](p.genuine),
        p.galleries,
        p.probe,
    )
    with pytest.raises(TgfrError, match=said):
        evaluate_ijb(other, p.pool(features), "x")
    with pytest.raises(TgfrError, match=said):
        bootstrap_subjects(other)


def test_one_template_only():
    files = IjbImages(None, np.zeros((3, 5, 2)), np.ones(3, np.float32), np.zeros(3, np.int32), np.int32([1, 1, 2]))
    features = rng("one").normal(size=(1, 3, 8)).astype(np.float32)
    template = pool_media(features, np.zeros(3, np.int32), files.media, pooling=MediaPooling(detector=False))
    expected = features[0, :2].mean(0) + features[0, 2]
    np.testing.assert_allclose(template, expected[None] / np.linalg.norm(expected), atol=1e-6)
    assert pair_scores(template, np.array([0]), np.array([0])) == pytest.approx([1])


@given(st.integers(1, 30), st.integers(1, 300), st.integers(1, 2000), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_pair_scores_are_dot_products_however_they_are_made(templates, pairs, most, seed):
    draw = rng("pair scores", seed)
    x, first, second = draw.normal(size=(templates, 5)).astype(np.float32), *draw.integers(templates, size=(2, pairs))
    np.testing.assert_allclose(
        pair_scores(x, first, second, most), np.einsum("pe,pe->p", x[first], x[second]), atol=1e-5
    )


def test_draws_of_one_to_n_are_repeated_probes(made):
    "A draw's figures are those of a list in which each probe stands as often as its subject was drawn."
    _, p, features = made
    templates, bootstrap = p.pool(features), bootstrap_subjects(p, replicates=6, seed=1)
    result = evaluate_ijb(p, templates, "x", fprs=FPRS, bootstrap=bootstrap)
    for r, weights in enumerate(bootstrap.weights[1:].astype(int)):
        drawn = IjbProtocol(
            p.name,
            p.images,
            p.ids,
            p.template,
            p.subject,
            p.first,
            p.second,
            p.genuine,
            p.galleries,
            np.repeat(p.probe, weights[np.searchsorted(bootstrap.subjects, p.subject[p.probe])]),
        )
        expected = evaluate_ijb(drawn, templates, "x").identification.value
        for key, value in expected.items():
            assert result.identification.samples[key][r] == pytest.approx(value, abs=1e-12)
    same = evaluate_ijb(p, templates, "y", fprs=FPRS, bootstrap=bootstrap)
    for one, two in (result.verification, same.verification), (result.identification, same.identification):
        for key in one.value:
            assert one.difference(two, key) == (0, 0, 0)


def test_simulation_has_the_real_sizes():
    b, c = SIZES["IJBB"], SIZES["IJBC"]
    assert (b.images, sum(b.galleries.values()) + b.probes, b.genuine + b.impostors) == (227_630, 12_115, 8_010_270)
    assert (c.images, sum(c.galleries.values()) + c.probes, c.genuine + c.impostors) == (469_375, 23_124, 15_658_489)


def test_without_1n_files_genuine_pairs_say_who_is_who(made, tmp_path):
    files, protocol, features = made
    (tmp_path / "meta").mkdir()
    for path in (files.folder / "meta").glob("*.txt"):
        (tmp_path / "meta" / path.name).write_bytes(path.read_bytes())
    other = IjbProtocol.read(IjbFiles.open(tmp_path))
    paired = np.unique(np.concatenate([protocol.first[protocol.genuine], protocol.second[protocol.genuine]]))
    same = [p.subject[paired][:, None] == p.subject[paired] for p in (protocol, other)]
    np.testing.assert_array_equal(*same)
    result = evaluate_ijb(other, other.pool(features), "x", bootstrap=bootstrap_subjects(other, 5))
    assert (
        result.identification is None
        and set(result.curves) == {"ROC"}
        and {row.protocol for row in result.points} == {"1:1"}
    )


def test_command_line(tmp_path, capsys, refusal):
    main(
        [
            "ijb",
            "--simulate",
            "IJBB",
            "--scale",
            "0.01",
            "--out",
            str(tmp_path),
            "--replicates",
            "5",
            "--fusion",
            "N1D1F0",
            "average",
        ]
    )
    assert "false accepts" in (said := capsys.readouterr()).err and "TPIR@FPIR" in said.out
    report, store, folder = (
        read_json(tmp_path / "report.json"),
        str(tmp_path / "simulated" / "features"),
        str(tmp_path / "simulated"),
    )
    assert [(r["system"], r["condition"]["label"]) for r in report["results"]] == [
        ("N1D1F0", "1:1"),
        ("N1D1F0", "1:N"),
        ("average", "1:1"),
        ("average", "1:N"),
    ]
    page = (tmp_path / "report.html").read_text()
    assert (
        "1:1 verification" in page
        and "Operating points" in page
        and "no captions" not in page
        and "px probes" not in page
    )
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0].startswith("system,protocol,figure,value,threshold,false accepts") and len(lines) == 1 + 2 * (
        6 + 2 * (2 + 3)
    )
    ranks = [line.split(",") for line in lines if ",rank-1," in line]
    assert [row[:2] for row in ranks] == [
        [system, f"1:N {gallery}"] for system in ("N1D1F0", "average") for gallery in ("S1", "S2")
    ] and all(row[4:7] == ["", "", ""] for row in ranks)
    for result in report["results"][1::2]:
        assert np.mean([float(row[3]) for row in ranks if row[0] == result["system"]]) == pytest.approx(
            result["values"]["rank-1"], abs=1e-12
        )
    for args, said in (
        ((), "give the folder of a set"),
        ((folder,), "no feature store"),
        ((folder, "--features", store, "--fusion", "N1"), "expected a pooling such as N1D1F0"),
        ((str(tmp_path / "no"), "--features", store), "no IJB set"),
        ((folder, "--features", store, "--fusion", "quality"), "has weights"),
        ((folder, "--features", store, store), "name each once"),
        ((folder, "--features", str(tmp_path)), "no feature store"),
        (("--simulate", "IJBB", "--scale", "7"), "scale: 7"),
    ):
        assert said in " ".join(refusal("ijb", *args, "--out", str(tmp_path / "other")).split())


def test_published_definitions_promise_no_intervals(tmp_path, capsys):
    report = ijb(simulate="IJBB", scale=0.01, out=tmp_path, definition="published", fusion=("N1D1F0", "average"))
    assert not any(row.intervals or row.differences for row in report.results)
    assert "Under each value" not in (said := capsys.readouterr()).out and "TPIR@FPIR" in said.out
    assert "intervals of 1:N" not in report.terms and "95 % interval" not in definitions(report)
    ranks = report.tables["Ranks in each gallery"]["rows"]
    assert {row[1] for row in ranks} == {"1:N S1+S2"} and ranks[0][3] == report.results[1].values[Metric("rank", 1)]


def test_unit_features_are_said_to_be_so(made, tmp_path):
    "Norm weighting of unit vectors is the average, and the report says why."
    files, p, features = made
    x, names = np.asarray(features[:1]), p.images.name.to_pylist()
    x = x / np.linalg.norm(x, axis=2, keepdims=True)
    meta = {
        "encoder": {"name": "unit"},
        "variants": ["112px"],
        "photo_id": names,
        "arrays": {"embedding": {"dtype": "float32", "shape": [len(names), 1, 32]}},
    }
    write_store(tmp_path / "unit", meta, lambda done: [{"embedding": x[0, :, None]}])
    report = ijb(files.folder, [tmp_path / "unit"], ("average", "norm"), tmp_path / "out", replicates=0)
    assert any("all embeddings have the length 1," in line for line in report.summary)
    assert report.results[0].values == pytest.approx(report.results[2].values, abs=1e-3)
    assert not any(
        "all embeddings" in line
        for line in ijb(
            files.folder, [files.folder.parent / "features"], ("average",), tmp_path / "raw", replicates=0
        ).summary
    )


def test_a_fusion_of_another_encoder_is_refused(made, tmp_path):
    "By the fingerprint in its config.json; by the widths where none is there."
    _, p, _ = made

    def store(name, weights, styles=None):
        folder, count = tmp_path / name, len(p.images)
        meta = {
            "encoder": {"name": name},
            "weights": weights,
            "variants": ["112px"],
            "photo_id": p.images.name.to_pylist(),
            "styles": ["stage2"] if styles else [],
            "arrays": {"embedding": {"dtype": "float32", "shape": [count, 1, 32]}}
            | ({"styles": {"dtype": "float16", "shape": [count, 1, styles, 2]}} if styles else {}),
        }
        return write_store(
            folder,
            meta,
            lambda done: [{k: np.ones((count, *a["shape"][1:]), a["dtype"]) for k, a in meta["arrays"].items()}],
        )

    encoder = IResNet((1, 1, 1, 1), width=4, embedding=32)
    ours, other = store("ours", encoder.content_digest, 12), store("other", "0123456789abcdef", 12)
    save_set_fusion(CAFace(32, 12), known := tmp_path / "known", encoder=encoder)
    assert isinstance(stored_fusion(known, ours), CAFace)
    with pytest.raises(
        TgfrError,
        match=f"{encoder.config.name}, fingerprint {encoder.content_digest}, but "
        ".*features of other, fingerprint 0123456789abcdef",
    ):
        build_systems([other.folder], [str(known)])
    save_set_fusion(CAFace(32, 12), silent := tmp_path / "silent")
    assert isinstance(stored_fusion(silent, other), CAFace)
    with pytest.raises(TgfrError, match="no styles.*--styles auto"):
        stored_fusion(silent, store("plain", None))
    with pytest.raises(TgfrError, match="for 12 channels of styles, .* has 10"):
        stored_fusion(silent, store("narrow", None, 10))
    save_set_fusion(CAFace(48, 12), wide := tmp_path / "wide")
    with pytest.raises(TgfrError, match="for embeddings of 48 numbers, .* has 32"):
        stored_fusion(wide, other)


def test_features_of_other_images_are_refused(made, tmp_path):
    files, protocol, _ = made
    _, store = simulate_ijb("IJBB", tmp_path, scale=0.01)
    with pytest.raises(TgfrError, match="features of .* images, but IJBC has"):
        ijb(files.folder, [store], out=tmp_path / "out")


def test_scores_of_no_face_do_not_turn_a_template_round():
    "insightface #756: images in which no face was found, scored 0 or -1."
    draw = rng("scores")
    x, template, media = (
        draw.normal(size=(1, 6, 8)).astype("f"),
        np.array([0, 0, 0, 1, 1, 1]),
        np.array([1, 1, 2, 3, 3, 4]),
    )
    plain = pool_media(x, template, media)
    for none in 0, -1:
        found = pool_media(x, template, media, np.float32([none, none, none, 0.5, none, 0.25]), MediaPooling())
        np.testing.assert_allclose(found[0], plain[0], atol=1e-6)  # nothing to weigh by
        expected = 0.5 * x[0, 3] / 2 + 0.25 * x[0, 5]
        np.testing.assert_allclose(found[1], expected / np.linalg.norm(expected), atol=1e-6)

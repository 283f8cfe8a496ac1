"""The comparison of set fusions: sets as described, figures as a plain loop has them, the command line."""

import json

import numpy as np
import pytest
import torch

from tgfr.cli import main
from tgfr.core import TgfrError, rng
from tgfr.data.augmentations import HorizontalFlip
from tgfr.data.degradation import Degradation
from tgfr.data.splits import load_splits
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.face_features import encode_faces
from tgfr.encoders.features import l2_normalize
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.results import result_rows
from tgfr.sets.pooling import build_set_fusion
from tgfr.workflows.compare_fusions import SetEvaluator, draw_probe_sets, evaluate_fusions


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.manual_seed(0)
    faces = synthetic_faces(people=8, photos=4)
    encoder = IResNet((1, 1, 1, 1), width=4, embedding=32, size=32)
    return encode_faces(
        faces,
        encoder,
        [Degradation(), HorizontalFlip(), Degradation(size=16)],
        tmp_path_factory.mktemp("store"),
        regions=False,
        styles=encoder.default_styles,
    ), np.array(faces["identity"])


def test_sets_are_of_other_photos_of_the_same_person():
    identity = rng("who").permutation(np.repeat(np.arange(30), 5))
    probes = draw_probe_sets(identity, {0: 1, 3: 3}, images=64, sets=4, seed=1)
    assert (identity[probes.photo] == identity[probes.gallery][probes.person][:, None]).all() and not np.isin(
        probes.photo, probes.gallery
    ).any()
    assert (probes.gallery == [np.flatnonzero(identity == p)[0] for p in range(30)]).all()
    assert set(np.unique(probes.variant)) == {0, 3} and abs((probes.variant == 3).mean() - 0.75) < 0.02
    again = draw_probe_sets(identity, {0: 1, 3: 3}, images=64, sets=4, seed=1)
    assert (again.photo == probes.photo).all() and (
        draw_probe_sets(identity, {0: 1}, images=64, sets=4, seed=2).photo != probes.photo
    ).any()
    assert set(identity[draw_probe_sets(identity, {0: 1}, np.flatnonzero(identity < 5)).gallery]) == set(range(5))


def test_figures_are_the_loops(store):
    store, identity = store
    judge = SetEvaluator(store, draw_probe_sets(identity, {0: 0.5, 2: 0.5}, images=6, sets=3), replicates=20)
    fusion, p = build_set_fusion("average", 32), judge.probes
    found = judge.evaluate(judge.templates(fusion, 4, batch=5), (0.1, 0.01))
    template = np.stack(
        [
            np.mean(
                [
                    l2_normalize(torch.from_numpy(store.embedding[v, r].astype("f"))).numpy()
                    for v, r in zip(vs[:4], rs[:4])
                ],
                axis=0,
            )
            for vs, rs in zip(p.variant, p.photo)
        ]
    )
    np.testing.assert_allclose(judge.templates(fusion, 4), template, rtol=1e-4, atol=1e-6)
    gallery = store.embedding[0, p.gallery] / np.linalg.norm(store.embedding[0, p.gallery], axis=1, keepdims=True)
    scores = gallery @ (template / np.linalg.norm(template, axis=1, keepdims=True)).T
    genuine = p.person == np.arange(len(gallery))[:, None]
    assert found.value[Metric("rank", 1)] == pytest.approx((scores.argmax(0) == p.person).mean())
    impostors = np.sort(scores[~genuine])[::-1]
    assert found.value[Metric("TPR", 1e-1)] == pytest.approx(
        (scores[genuine] > impostors[int(0.1 * len(impostors))]).mean()
    )
    assert (found.genuine, found.impostor) == (genuine.sum(), (~genuine).sum()) and found.samples[
        Metric("rank", 1)
    ].shape == (20,)


def test_a_fusion_does_not_differ_from_itself(store):
    store, identity = store
    average = build_set_fusion("average", 32)
    fusions = {"one": average, "two": average, "best": build_set_fusion("best-norm", 32)}
    variants = {"112px": 0.5, "16px": 0.5}
    results = evaluate_fusions(fusions, store, identity, variants, (1, 4), sets=3, replicates=10)
    assert {condition.label for _, condition in results} == {"N=1", "N=4", "112px alone, N=8", "16px alone, N=8"}
    assert not any(row.differences for row in result_rows(results, "one") if row.system == "one")
    compared = 0
    for (name, condition), metrics in results.items():
        if name == "two" or name == "best" and condition.set_size == 1:
            for metric in metrics.samples:
                assert metrics.difference(results["one", condition], metric) == (0, 0, 0)
                compared += 1
    assert compared >= 5 * 3


def test_command_line(tmp_path, refusal):
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32, size=32), tmp_path / "encoder")
    common = [
        "sets",
        "--data",
        "synthetic:people=40,photos=4",
        "--encoder",
        str(tmp_path / "encoder"),
        "--out",
        str(tmp_path / "out"),
    ]
    small = [
        "--set",
        "epochs_sets=1",
        "--set-sizes",
        "1",
        "4",
        "--replicates",
        "5",
        "--degradation",
        "augmentations",
        "--augmentations",
        "2",
    ]
    main([*common, *small, "--fusions", "norm", "quality", "caface"])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    card = (tmp_path / "out" / "fusions" / "caface" / "README.md").read_text()
    assert "images of a set" in card and not [
        x for x in ("one caption", "tgfr evaluate", "{'", str(tmp_path)) if x in card
    ], "nothing is explained that is not there"
    assert report["reference"] == "quality" and {r["system"] for r in report["results"]} == {
        "norm",
        "quality",
        "caface",
    }
    assert (tmp_path / "out" / "fusions" / "caface" / "model.safetensors").is_file() and "data:image/png" in (
        tmp_path / "out" / "report.html"
    ).read_text()
    for args, said in (
        (["--fusions", "median"], "median unknown"),
        (["--set-sizes", "0"], "numbers of at least 1"),
        (["--data", "synthetic:people=6,photos=2"], "three photos"),
    ):
        call = [*common, *small]
        place = call.index(args[0]) if args[0] in call else len(call)
        end = next((k for k in range(place + 1, len(call)) if call[k].startswith("--")), len(call))
        assert said in " ".join(refusal(*call[:place], *args, *call[end:]).split())
    with pytest.raises(TgfrError, match="expected at least two"):
        draw_probe_sets(np.zeros(9), {0: 1})


def test_photos_without_captions_will_do(tmp_path):
    photos = synthetic_faces(people=6, photos=3).remove_columns("captions")
    for name, rows in (("train", range(9)), ("validation", range(9, 18))):
        photos.select(rows).to_parquet(tmp_path / f"{name}-00000-of-00001.parquet")
    train, test, skips = load_splits(str(tmp_path), captions=False)
    assert len(train) == len(test) == 9 and not len(skips) and train["captions"][:] == [[]] * 9
    with pytest.raises(TgfrError, match="no column 'captions'"):
        load_splits(str(tmp_path))

"""Fusions of sets: weights are weights, padding is absence, order does not matter, many sets at once are the sets
one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError, rng, seed_everything
from tgfr.data.augmentations import TRANSFORMS, Augmentation, HorizontalFlip, augmentations
from tgfr.encoders.features import ImageFeatures, cosine_matrix, l2_normalize
from tgfr.sets.caface import CAFace
from tgfr.sets.caface_state import fuse_sharded, shard_states
from tgfr.sets.checkpoints import load_set_fusion, save_set_fusion
from tgfr.sets.pooling import (
    SET_FUSIONS,
    FaceSet,
    NormPower,
    SetFusion,
    buckets,
    build_set_fusion,
    chunk_bounds,
    face_set,
    fuse_ragged,
    split_chunks,
)
from tgfr.sets.stream import OnlineFusion

E, S = 12, 6


def build(name):
    seed_everything(3)
    fusion = build_set_fusion(
        name, E, **({"styles": S, "style_width": 8, "norm_width": 8, "heads": 4} if name == "caface" else {})
    )
    for p in fusion.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return fusion.eval()


def sets(counts, seed=0, garbage=0.0):
    "Sets of these sizes; `garbage` stands where there is no image."
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]

    def fill(*shape):
        return torch.where(
            mask[(..., *[None] * len(shape))],
            torch.rand(*mask.shape, *shape, generator=draw) - (0.5 if shape else 0),
            garbage,
        )

    return FaceSet(fill(E), mask, fill(S, 2), fill())


@pytest.mark.parametrize("name", SET_FUSIONS)
@torch.no_grad()
def test_weights_padding_and_order(name):
    fusion, counts = build(name), [5, 1, 9, 3]
    faces = sets(counts)
    weights, templates = fusion.weights(faces), fusion.fuse(faces)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert (weights >= 0).all() and not weights[~faces.mask].any()
    torch.testing.assert_close(fusion.fuse(sets(counts, garbage=torch.nan)), templates)
    order = torch.randperm(9)
    turned = FaceSet(faces.embedding[:, order], faces.mask[:, order], faces.styles[:, order], faces.score[:, order])
    torch.testing.assert_close(fusion.fuse(turned), templates, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fusion.weights(turned), weights[:, order], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fusion(faces), templates)
    for b, n in enumerate(counts):
        torch.testing.assert_close(
            fusion.fuse(FaceSet(*(x[b : b + 1, :n] for x in (faces.embedding, faces.mask, faces.styles, faces.score))))[
                0
            ],
            templates[b],
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("name", SET_FUSIONS)
@torch.no_grad()
def test_images_that_are_not_finite_and_empty_sets(name):
    fusion, faces = build(name), sets([4, 2, 3])
    faces.embedding[0, 1, 2], faces.styles[1], faces.score[2, 0] = torch.inf, torch.nan, torch.nan
    weights = fusion.weights(faces)
    assert weights[0, 1] == 0 and weights[2, 0] == 0 and not weights[1].any() and not fusion.fuse(faces)[1].any()
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 0, 1]))


@pytest.mark.parametrize("name", SET_FUSIONS)
@pytest.mark.parametrize("most", [10, 1000])
@torch.no_grad()
def test_ragged_is_one_by_one(name, most):
    draw, fusion = rng(1, name), build(name)
    counts = np.minimum(draw.zipf(1.5, 40), 30)
    template = draw.permutation(np.repeat(draw.choice(10**6, 40, replace=False) - 500, counts))
    embedding, styles, score = (
        draw.normal(size=(len(template), E)).astype(np.float16),
        draw.random((len(template), S, 2)),
        draw.random(len(template)),
    )
    ids, found = fuse_ragged(fusion, embedding, template, styles, score, max_cells=most)
    assert ids.tolist() == sorted(set(template.tolist()))
    for t, row in zip(ids, found):
        k = template == t
        alone = FaceSet(
            *(torch.from_numpy(x).float()[None] for x in (embedding[k],)),
            torch.ones(1, k.sum(), dtype=torch.bool),
            *(torch.from_numpy(x[k]).float()[None] for x in (styles, score)),
        )
        torch.testing.assert_close(row, fusion.fuse(alone)[0], rtol=1e-4, atol=1e-6)


def test_no_sets_at_all_and_wrong_lengths():
    caface, nothing = build("caface"), (np.ones((0, E), "f"), np.ones(0, int), np.ones((0, S, 2), "f"))
    for fuse in (fuse_ragged, fuse_sharded):
        ids, found = fuse(caface, *nothing)
        assert ids.shape == (0,) and found.shape == (0, E)
    ids, states = shard_states(caface, *nothing)
    assert len(ids) == len(states.count) == 0
    for template, styles in ((3, 4), (4, 3)):
        with pytest.raises(TgfrError, match=f"{template} numbers and styles of {styles} images for 4 images"):
            fuse_sharded(caface, np.ones((4, E)), np.ones(template), np.ones((styles, S, 2)))


@torch.no_grad()
def test_quality_in_half_precision():
    fusion, faces = build("quality"), sets([5, 1, 9])
    faces.mask[1] = False
    with torch.autocast("cpu", torch.float16):
        weights, template = fusion.weights(faces), fusion.fuse(faces)
    assert weights.dtype == torch.float32 and not weights[1].any()
    torch.testing.assert_close(weights, fusion.weights(faces), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(template.float(), fusion.fuse(faces), rtol=0.01, atol=2e-3)
    torch.testing.assert_close(
        fusion.double().fuse(replace(faces, embedding=faces.embedding.double())).float(), fusion.float().fuse(faces)
    )


def test_plain_fusions_are_what_their_names_say():
    faces = sets([5, 3])
    for b, n in enumerate((5, 3)):
        f = faces.embedding[b, :n]
        for name, expected in (
            ("average", l2_normalize(f).mean(0)),
            ("norm", f.mean(0)),
            ("norm-squared", (f * f.norm(dim=1)[:, None]).mean(0)),
            ("best-norm", f[f.norm(dim=1).argmax()]),
            ("score", (l2_normalize(f) * faces.score[b, :n, None]).mean(0)),
        ):
            torch.testing.assert_close(
                cosine_matrix(build(name).fuse(faces)[b : b + 1], expected[None]), torch.ones(1, 1)
            )


def test_wrong_use(tmp_path):
    with pytest.raises(TgfrError, match="not one of average"):
        build_set_fusion("mean", E)
    with pytest.raises(TgfrError, match="unexpected keyword"):
        build_set_fusion("quality", E, wide=3)
    with pytest.raises(TgfrError, match="the set has none"):
        build("score").fuse(FaceSet(torch.ones(1, 2, E), torch.ones(1, 2, dtype=torch.bool)))
    with pytest.raises(TgfrError, match="3 numbers for 4 images"):
        fuse_ragged(NormPower(E), np.ones((4, E)), np.ones(3))
    with pytest.raises(TgfrError, match="chunk=0"):
        chunk_bounds(torch.tensor([3]), 0)

    class Mine(SetFusion):
        pass

    with pytest.raises(TgfrError, match="no name in SET_FUSIONS"):
        save_set_fusion(Mine(E), tmp_path)


@pytest.mark.parametrize("name", SET_FUSIONS)
@torch.no_grad()
def test_saved_and_loaded(name, tmp_path):
    fusion, faces = build(name), sets([4, 2])
    save_set_fusion(fusion, tmp_path)
    assert torch.equal(load_set_fusion(tmp_path).fuse(faces), fusion.fuse(faces))


def test_hostile_folders_of_a_fusion(tmp_path):
    save_set_fusion(build("caface"), tmp_path)
    config = (tmp_path / "config.json").read_text()
    for wrong, reason in (
        ("[]", "not the config.json"),
        ("{}", "not the config.json"),
        ('{"set_fusion": "wings", "embedding": 3}', "not one of"),
        (config.replace('"styles": 6', '"styles": 1000000'), "does not fit"),
        (config.replace('"centres": 4', '"centres": "x"'), "set fusion caface"),
        (config.replace('"depth": 2', '"depth": -1'), "at least 1"),
        (config.replace('"depth": 2', '"depth": 1000000000'), "at most 256"),
    ):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(TgfrError, match=reason):
            load_set_fusion(tmp_path)
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(TgfrError, match="safetensors"):
        load_set_fusion(tmp_path)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_parts_are_consecutive_and_as_equal_as_can_be(counts, most):
    owner, start, size = chunk_bounds(torch.tensor(counts), most)
    expected = [
        (b, len(part), int(part[0]))
        for b, n in enumerate(counts)
        if n
        for part in np.array_split(np.arange(n), -(-n // most))
    ]
    assert list(zip(owner.tolist(), size.tolist(), start.tolist())) == expected
    if not max(counts):
        return
    generator = torch.Generator().manual_seed(sum(counts))
    mask = torch.zeros(len(counts), max(counts) + 3, dtype=torch.bool)
    for row, n in zip(mask, counts):
        row[torch.randperm(mask.shape[1], generator=generator)[:n]] = True
    number = torch.where(mask, torch.arange(mask.numel()).view(mask.shape), -1)[..., None].float()
    parts = split_chunks(FaceSet(number, mask), most)
    seen = [row[there].flatten().tolist() for row, there in zip(parts.faces.embedding, parts.faces.mask) if there.any()]
    assert sum(seen, []) == number[mask].flatten().tolist() and max(map(len, seen)) <= most
    back = torch.zeros_like(mask).index_put(
        (parts.set_index[:, None].expand_as(parts.position)[parts.faces.mask], parts.position[parts.faces.mask]),
        torch.tensor(True),
    )
    assert torch.equal(back, mask)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_buckets_hold_each_set_once_and_little_padding(counts, most):
    counts = np.array(counts)
    groups = list(buckets(counts, most))
    assert sorted(np.concatenate(groups)) == list(range(len(counts)))
    for g in groups:
        assert counts[g].min() >= 0.8 * counts[g].max() and (len(g) == 1 or len(g) * counts[g].max() <= most)


def test_face_set_side_by_side():
    parts = [ImageFeatures(torch.ones(n, E), styles=torch.ones(n, S, 2)) for n in (3, 1)]
    faces = face_set(parts, [torch.ones(3), torch.ones(1)])
    assert (
        faces.counts.tolist() == [3, 1]
        and faces.styles.shape == (2, 3, S, 2)
        and faces[1:].counts.tolist() == [1]
        and len(faces) == 2
    )
    assert (
        face_set([ImageFeatures(p.embedding) for p in parts]).styles is None
        and faces.to(torch.float64).embedding.dtype == torch.float64
    )


def test_augmentations_depend_on_their_keys_alone():
    image = rng(0).integers(0, 256, (112, 96, 3), np.uint8)
    assert (
        len({a.name for a in augmentations()}) == 16
        and len({a.name for a in [*augmentations(2), *augmentations(2, seed=1)]}) == 4
    )
    for a in (*augmentations(6), HorizontalFlip()):
        out = a(image, "photo")
        assert (
            out.shape == image.shape
            and out.dtype == np.uint8
            and out.flags["C_CONTIGUOUS"]
            and (out == a(image.copy(), "photo")).all()
        )
    strong = Augmentation(0)(image, 5)
    assert any((Augmentation(0)(image, k) != strong).any() for k in range(3))
    for change in TRANSFORMS:
        outs = [change(image, rng(k)) for k in range(60)]
        assert (
            all(o.shape == image.shape and o.dtype == np.uint8 for o in outs) and len({o.tobytes() for o in outs}) > 40
        )
    flips = [
        np.corrcoef(Augmentation(0)(image, k)[:, ::-1].ravel(), _unflipped(image, k).ravel())[0, 1] > 0.99
        for k in range(200)
    ]
    assert 70 < sum(flips) < 130


def _unflipped(image, key):
    strong = rng("augment", 0, key)
    for change in TRANSFORMS:
        image = change(image, strong)
    return image


def test_registry_builds_with_config():
    assert isinstance(build_set_fusion("caface", E, styles=S, style_width=8, norm_width=8, centres=3), CAFace)
    assert build_set_fusion("average", E).power == 0 and build_set_fusion("norm-squared", E).power == 2


@pytest.mark.parametrize("score", [0.0, -1.0])
def test_a_set_without_anything_to_weigh_by_is_averaged(score):
    "insightface #756: a template in which the detector finds no face."
    draw = torch.Generator().manual_seed(0)
    faces = FaceSet(
        torch.randn(2, 3, 8, generator=draw),
        torch.tensor([[True, True, False], [True, True, True]]),
        score=torch.tensor([[score] * 3, [0.5, score, 0.25]]),
    )
    fused = build_set_fusion("score", 8).fuse(faces)
    torch.testing.assert_close(fused[0], l2_normalize(faces.embedding[0, :2]).mean(0))
    torch.testing.assert_close(
        fused[1], (2 * l2_normalize(faces.embedding[1, 0]) + l2_normalize(faces.embedding[1, 2])) / 3
    )
    assert (
        not build_set_fusion("score", 8)
        .fuse(FaceSet(torch.zeros(1, 2, 8), torch.zeros(1, 2, dtype=torch.bool), score=torch.zeros(1, 2)))
        .any()
    )


def test_a_stream_without_anything_to_weigh_by_is_averaged_too():
    draw = torch.Generator().manual_seed(1)
    faces = FaceSet(
        torch.randn(1, 5, 8, generator=draw),
        torch.ones(1, 5, dtype=torch.bool),
        score=torch.tensor([[0.0, -1.0, 0.0, 0.0, 0.0]]),
    )
    running = OnlineFusion(build_set_fusion("score", 8).eval())
    for part in faces[:, :2], faces[:, 2:]:
        running = running.add(part)
    template, weights = running.readout()
    torch.testing.assert_close(template, l2_normalize(faces.embedding[0]).mean(0))
    torch.testing.assert_close(weights, torch.full((5,), 0.2))
    better = running.add(FaceSet(faces.embedding[:, :1], faces.mask[:, :1], score=torch.tensor([[0.7]])))
    torch.testing.assert_close(better.readout()[0], l2_normalize(faces.embedding[0, 0]))

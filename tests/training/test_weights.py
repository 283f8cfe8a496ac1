"Numbers chosen on people held out: for the scores that the models give, and the right ones where those are known."

import copy

import numpy as np
import pytest
import torch

from tgfr.encoders.features import ImageFeatures, cosine_matrix, l2_normalize
from tgfr.evaluation.metrics import pair_masks, tpr_at_fpr
from tgfr.fusion.evidence import EvidenceFusion
from tgfr.fusion.fcfm import ResidualFCFM
from tgfr.training.weights import (
    EVIDENCE_CONDITIONS,
    FROZEN_POWERS,
    FROZEN_WEIGHTS,
    SEARCH_WEIGHTS,
    _places,
    _terms,
    _weighted,
    _with_frozen,
    choose_evidence,
    choose_frozen,
    choose_search,
)

PEOPLE = np.repeat(np.arange(30), 4)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def faces(noise, seed):
    "Faces (120, 24) that are the better the less noise there is."
    draw = np.random.default_rng(seed)
    return unit(np.random.default_rng(0).normal(size=(30, 24))[PEOPLE] + noise * draw.normal(size=(120, 24)))


def test_scores_with_the_frozen_face_are_those_of_the_fusion():
    torch.manual_seed(0)
    fusion = ResidualFCFM(16, (7, 7), use_captions=False).eval()
    torch.nn.init.normal_(fusion.correction[-1].weight, std=0.05)
    face = l2_normalize(torch.randn(9, 16))
    regions, frozen = l2_normalize(torch.randn(9, 16, 7, 7), dim=1), l2_normalize(face + torch.rand(9, 16))
    image = ImageFeatures(face, regions, frozen=frozen)
    fusion.frozen_weight, fusion.frozen_power = 1.0, 0.0
    with torch.no_grad():
        corrected, free, frozen = fusion(image).split(16, -1)
        fusion.frozen_weight, fusion.frozen_power = 1.5, 4.0
        expected = cosine_matrix(fusion(image), fusion(image)).numpy()
    left = (corrected * frozen).sum(-1).numpy()
    for i in range(9):
        for j in range(9):
            pair = (corrected[i] @ corrected[j] + free[i] @ free[j]).item(), (frozen[i] @ frozen[j]).item()
            assert _with_frozen(*pair, left[i], left[j], 1.5, 4.0) == pytest.approx(expected[i, j], abs=1e-5)


def test_a_spoilt_head_leaves_the_face_to_the_encoder():
    frozen = np.stack([faces(0.9, 1), faces(1.2, 2)])
    noise = np.stack([faces(50, 3), faces(50, 4)])
    weight, power = choose_frozen(np.concatenate([noise, noise, frozen], -1), pair_masks(PEOPLE))
    assert weight == max(FROZEN_WEIGHTS)


def test_a_head_that_is_better_everywhere_is_left_alone():
    better, worse = np.stack([faces(0.5, 1), faces(0.5, 2)]), np.stack([faces(50, 3), faces(50, 4)])
    assert choose_frozen(np.concatenate([better, better, worse], -1), pair_masks(PEOPLE)) == (0.0, 0.0)


def test_the_frozen_face_fades_where_the_head_mends():
    "Clean faces that the head disturbs and poor ones that it mends: both are as good as the better of two."
    clean, poor, mended = faces(0.8, 1), faces(50, 2), faces(1.0, 3)
    disturbed = unit(clean + 0.6 * unit(np.random.default_rng(4).normal(size=clean.shape)))
    head, frozen = np.stack([disturbed, mended]), np.stack([clean, poor])
    weight, power = choose_frozen(np.concatenate([head, head, frozen], -1), pair_masks(PEOPLE))
    assert weight > 0 and power in FROZEN_POWERS[1:]
    left = np.maximum((head * frozen).sum(-1, keepdims=True), 0) ** power
    fused = np.concatenate([head, head, weight * left * frozen], -1)
    genuine, impostor = pair_masks(PEOPLE)

    def tpr(x, k):
        scores = unit(x[0]) @ unit(x[k]).T
        return tpr_at_fpr(scores[genuine], scores[impostor], [1e-2])[0]

    assert tpr(fused, 0) > tpr(head, 0) and tpr(fused, 1) > tpr(frozen, 1) + 0.3
    assert tpr(fused, 1) >= tpr(head, 1) - 0.02


def told(fusion, described, seed):
    "Embeddings (2, 120, width) of faces that tell little, and captions of some photos."
    draw = np.random.default_rng(seed)
    fused = 0.1 * draw.normal(size=(2, 120, fusion.width)).astype(np.float32)
    fused[..., : fusion.face.width] = np.tile(faces(1.5, seed), fusion.face.width // 24 + 1)[:, : fusion.face.width]
    fused[..., fusion.face.width : -2] *= described[:, None]
    fused[..., -2:] = 0
    start = fusion.face.width + 3 * fusion.terms
    person = unit(np.random.default_rng(9).normal(size=(30, 8))[PEOPLE] + 0.8)  # two people are alike, too
    fused[..., start : start + 8] = described[:, None] * person
    return fused


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    return EvidenceFusion(16, (7, 7), terms=8, tokens=4).eval()


def read(fusion):
    nobody, everybody = np.zeros(120, np.float32), np.ones(120, np.float32)
    return {name: {"fused": told(fusion, who, 5)} for name, who in (("none", nobody), ("first", everybody))} | {
        "all": {"fused": told(fusion, everybody, 5)}
    }


def test_terms_are_weighted_as_the_fusion_does(fusion):
    x, chosen = read(fusion), (0.01, 0.15, 0.02, 0.3, 0.4, 0.25, 0.7, 0.3)
    gallery, probe = x["none"]["fused"][0].copy(), x["all"]["fused"][1].copy()
    gallery[::2] = x["all"]["fused"][0][::2]
    gallery[:, -2:], probe[:, -2:] = 0.2, 0.9
    fusion = copy.deepcopy(fusion)
    fusion.weights.copy_(torch.tensor(chosen[:5]))
    for name, value in zip(("offset", "power", "growth"), chosen[5:]):
        getattr(fusion, name).fill_(value)
    expected = fusion.similarity(torch.tensor(gallery), torch.tensor(probe)).numpy()
    pairs = pair_masks(PEOPLE)
    for mask, terms in zip(pairs, _terms(fusion, gallery, probe, _places(pairs, 10**9))):
        np.testing.assert_allclose(_weighted(terms, chosen), expected[mask], atol=1e-5)


def test_captions_that_say_who_it_is_are_given_weight_and_an_offset(fusion):
    "Half of the photos have captions: without an offset the captioned impostors would pass for genuine."
    weights, offset, _, _ = choose_evidence(fusion, read(fusion), pair_masks(PEOPLE), rounds=2)
    assert weights[3] > 0 and offset >= 0.3
    weights, *_ = choose_evidence(fusion, read(fusion), pair_masks(PEOPLE), persons=False, rounds=1)
    assert weights[3] == 0
    assert ("some", "some") in EVIDENCE_CONDITIONS


def test_fewer_pairs_are_spread_over_all():
    pairs = pair_masks(PEOPLE)
    genuine, impostor = _places(pairs, 1000)
    assert len(genuine[0]) == pairs[0].sum() and 900 <= len(impostor[0]) <= 1000
    assert set(impostor[0]) == set(range(120))
    assert pairs[1][impostor].all()


def test_words_count_in_search_where_they_find_people():
    draw = np.random.default_rng(3)
    right, noise = unit(np.random.default_rng(0).normal(size=(30, 6)))[PEOPLE], draw.normal(size=(2, 120, 6))
    found = np.concatenate([noise[0], right], -1), np.concatenate([noise[1], right], -1)[None]
    read = {"all": {"described": found[0], "shown": found[1]}}
    assert choose_search(read, 6, PEOPLE) == max(SEARCH_WEIGHTS)
    read = {"all": {kind: x[..., ::-1] for kind, x in read["all"].items()}}
    assert choose_search(read, 6, PEOPLE) == 0

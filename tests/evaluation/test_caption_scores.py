"""Scores of a model for any captions of its photos: against embeddings of each condition, and how often what runs."""

import pytest
from optional_captions import evidence, score_by_hand
from small_run import made_up

from tgfr.evaluation.caption_conditions import caption_conditions
from tgfr.evaluation.caption_scores import MAX_LISTS, CaptionScorer
from tgfr.evaluation.scoring import embed_photos


@pytest.mark.parametrize("kept", [100, 1])
def test_scores_of_each_condition_are_those_of_its_captions(kept):
    store, identity, captions = made_up()
    model, n = evidence(captions, 16, (8, 7, 7), 12), len(identity)
    captions[2] = []
    scorer = CaptionScorer(model, store, 1, batch=7, max_kept=kept)
    for condition in caption_conditions(captions, identity, seen_at=None):
        sides = []
        for side, variant in ((condition.gallery, 0), (condition.probe, 1)):
            mode = "all" if any(side) else "none"
            read = embed_photos(model, store, side, modes=(mode,), progress=False)
            sides.append(read[mode]["fused"][variant])
        found = scorer(condition.gallery, condition.probe)
        for i, j in ((0, 1), (2, 3), (5, 2), (n - 1, 7)):
            expected = score_by_hand(sides[0][i], sides[1][j], model.fusion)
            assert found[i, j] == pytest.approx(expected, abs=1e-5), condition.text
    assert len(scorer._fused) <= MAX_LISTS


@pytest.mark.parametrize("fusion", ["evidence", "residual"])
def test_the_image_part_runs_once_and_no_caption_is_encoded_twice(monkeypatch, fusion):
    "Where single words are read, features of captions are too large to be kept: each list is encoded once."
    store, identity, captions = made_up()
    model, seen, encoded, lists = evidence(captions, 16, (8, 7, 7), 12, fusion), [], [], []
    model.image_head.register_forward_hook(lambda *_: seen.append(1))
    encode_captions, encode_text = model.encode_captions, model.encode_text
    monkeypatch.setattr(model, "encode_captions", lambda x: encoded.extend(x) or encode_captions(x))
    monkeypatch.setattr(model, "encode_text", lambda *x: lists.append(1) or encode_text(*x))
    scorer = CaptionScorer(model, store, 1)
    conditions = caption_conditions(captions, identity, seen_at=None, optional=fusion == "evidence")
    for condition in conditions:
        scorer(condition.gallery, condition.probe)
    sides = [side for condition in conditions for side in (condition.gallery, condition.probe) if any(side)]
    assert len(seen) == 2 and len(encoded) == len(set(encoded))
    if fusion == "residual":
        assert len(lists) == len({repr(side) for side in sides}) and not encoded
    else:
        assert set(encoded) == {text for side in sides for row in side for text in row} and not lists

"Words predicted from photos: against the normal equations, and as a baseline that finds what it should."

import numpy as np
import pytest

from tgfr.core import TgfrError
from tgfr.evaluation.predicted_words import WordPredictor

WORDS = ["glasses", "beard", "smile", "hat"]


def world(n, seed):
    draw = np.random.default_rng(seed)
    has = draw.integers(0, 2, (n, 4))
    has[has.sum(1) == 0, 0] = 1
    directions = np.random.default_rng(9).normal(size=(4, 24))
    embedding = has @ directions + 0.3 * draw.normal(size=(n, 24))
    return embedding, [[WORDS[k] for k in np.flatnonzero(row)] for row in has]


def test_it_is_ridge_regression_of_tf_idf_on_unit_embeddings():
    embedding, captions = world(80, 0)
    words = WordPredictor(embedding, captions, alpha=0.7)
    x = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    y = words.said(captions).astype(float)
    a, b = x - x.mean(0), y - y.mean(0)
    weights = np.linalg.solve(a.T @ a + 0.7 * np.eye(24), a.T @ b)
    expected = (x - x.mean(0)) @ weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(words.seen(embedding), expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-5)


def test_a_word_finds_the_photos_that_show_it():
    words = WordPredictor(*world(300, 0))
    embedding, captions = world(100, 1)
    for word in WORDS:
        scores = (words.said([[word]]) @ words.seen(embedding).T)[0]
        best = scores.argsort()[-20:]
        assert sum(word in captions[row] for row in best) >= 19


def test_the_first_caption_or_all_are_read():
    words = WordPredictor(*world(80, 0))
    one, both = words.said([["hat", "smile"]], "first"), words.said([["hat", "smile"]])
    assert (one > 0).sum() == 1 and (both > 0).sum() == 2
    assert not words.said([["nothing known"]]).any()


def test_what_cannot_be_learned_from_is_refused():
    embedding, captions = world(10, 0)
    with pytest.raises(TgfrError, match="9 lists, expected one for each of 10 photos"):
        WordPredictor(embedding, captions[:9])
    with pytest.raises(TgfrError, match="captions: none of 1"):
        WordPredictor(embedding, [*captions[:9], []])

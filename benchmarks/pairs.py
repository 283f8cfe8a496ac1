"""TGFR's pair list of Face2Text, 357,900 pairs over 2,386 photos: pair by pair against one matrix product; and the
whole protocol. Prints a markdown table."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from measure import compare, timed

from tgfr.core import rng
from tgfr.evaluation.pair_lists import PairProtocol, make_pairs, score_pairs

PEOPLE, IMPOSTORS, WIDTH = 1193, 299, 640


def made_up():
    "Embeddings of two photos a person, a list, and captions of which a third are those of the other photo."
    identity, draw = np.repeat(np.arange(PEOPLE), 2), rng("benchmark pairs")
    embeddings = (draw.normal(size=(PEOPLE, WIDTH))[identity] + 3 * draw.normal(size=(2 * PEOPLE, WIDTH))).astype(
        np.float32
    )
    captions = [[f"caption {i - i % 2 * (i % 3 == 0)}"] for i in range(2 * PEOPLE)]
    return embeddings, identity, make_pairs(identity, IMPOSTORS), captions


def loop(embeddings, pairs):
    rows = torch.from_numpy(embeddings)
    return np.array([F.cosine_similarity(rows[a], rows[b], dim=0).item() for a, b in zip(pairs.first, pairs.second)])


def ours(embeddings, pairs):
    return score_pairs(embeddings, embeddings, pairs)


def run(f, repeats):
    embeddings, _, pairs, _ = made_up()
    return timed(lambda: float(np.abs(f(embeddings, pairs)).sum()), repeats)


def protocol(repeats):
    """From embeddings to every figure of the published and of the leak-free list, with intervals from 200 draws of
    people."""
    embeddings, identity, pairs, captions = made_up()

    def whole():
        judge = PairProtocol(pairs, identity, captions)
        judge.evaluate(score_pairs(embeddings, embeddings, pairs))

    return timed(whole, repeats)


if __name__ == "__main__":
    cases = {
        "scores": {"pair by pair": partial(run, loop), "ours": partial(run, ours)},
        "scores, both lists, all figures with intervals": {"ours": protocol},
    }
    compare(
        __file__,
        f"Pair list: {PEOPLE * (1 + IMPOSTORS):,} pairs over {2 * PEOPLE:,} photos, {WIDTH}-d embeddings",
        cases,
        slow=("scores",),
    )

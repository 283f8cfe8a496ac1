"""Word-region and sentence loss, forward and backward: the textbook loop against ours. Prints a markdown table.

`python benchmarks/losses.py`: 256 dimensions, 22 words, 14x14 regions, B = 32 and 128."""

from functools import partial

import torch
import torch.nn.functional as F
from measure import compare, timed

from tgfr.losses.contrastive import sentence_loss, word_region_loss

D, T, SIDE = 256, 22, 14


def batch(B):
    "Unit regions, words, globals and sentences of a batch, and its identities; gradients wanted."
    torch.manual_seed(0)
    shapes = (B, D, SIDE, SIDE), (B, D, T), (B, D), (B, D)
    return [F.normalize(torch.randn(shape), dim=1).requires_grad_() for shape in shapes], torch.arange(B) // 2


def ours(regions, words, g, s, identity, cache_bytes=640 << 20):
    return word_region_loss(regions, words, cache_bytes=cache_bytes) + sentence_loss(g, s, identity)


def loop(regions, words, g, s, identity):
    "The same as the formulas read: one caption after the other, contexts and all."
    columns, R = [], regions.flatten(2)
    for word in words:
        share = torch.softmax(word.T @ R, 1)
        context = torch.softmax(4 * share, 2) @ R.transpose(1, 2)
        columns.append(torch.logsumexp(5 * F.cosine_similarity(word.T[None], context, dim=2), 1))
    S, pairs = 10 * torch.stack(columns, 1), torch.arange(len(words))
    cosines = 10 * F.cosine_similarity(g[:, None], s[None], dim=2)
    cosines = cosines.masked_fill((identity[:, None] == identity) & (pairs[:, None] != pairs), -torch.inf)
    return sum(F.cross_entropy(logits, pairs) for logits in (S, S.T, cosines, cosines.T))


def run(loss, B, repeats):
    "Forward and backward of `loss`."
    tensors, identity = batch(B)

    def step():
        for t in tensors:
            t.grad = None
        value = loss(*tensors, identity)
        value.backward()
        return value.item()

    loss(*(t[:2] for t in tensors), identity[:2]).backward()  # libraries load, threads start
    return timed(step, repeats)


if __name__ == "__main__":
    contenders = {"textbook loop": loop, "ours": ours, "ours, least memory": partial(ours, cache_bytes=0)}
    cases = {}
    for B in (32, 128):
        cases[f"B={B}"] = {name: partial(run, f, B) for name, f in contenders.items()}
    compare(
        __file__,
        f"Word-region + sentence loss, forward and backward (D={D}, {T} words, {SIDE}x{SIDE} regions)",
        cases,
        slow=("B=128",),
    )

"""Word head of a transformer text encoder, forward and backward: loops over captions and positions against ours.
Prints a markdown table."""

from functools import partial

import torch
import torch.nn.functional as F
from measure import compare, timed

from tgfr.encoders.pretrained_text import WordHead

WIDTH, T = 768, 23


def ours(head, hidden):
    text = head(hidden)
    return text.words, text.sentence


def loop(head, hidden):
    "One caption and one position after the other, as the formulas read."
    words, sentences = [], []
    for caption in hidden:
        responses = [F.conv1d(caption.T[None], conv.weight, conv.bias).relu()[0] for conv in head.convs]
        positions = []
        for j in range(responses[0].shape[1]):
            positions.append(torch.stack([r[:, j] for r in responses if j < r.shape[1]]).amax(0))
        words.append(torch.stack([F.normalize(p, dim=0) for p in positions], 1))
        sentences.append(F.normalize(sum(r.amax(1) for r in responses) / 3, dim=0))
    return torch.stack(words), torch.stack(sentences)


def run(f, B, repeats):
    "Forward and backward of `f`."
    torch.manual_seed(0)
    head, hidden = WordHead(WIDTH), torch.randn(B, T, WIDTH, requires_grad=True)
    weights = torch.randn(B, 256, T - 1), torch.randn(B, 256)

    def step():
        hidden.grad = None
        head.zero_grad()
        loss = sum((w * x).sum() for w, x in zip(weights, f(head, hidden)))
        loss.backward()
        return hidden.grad.norm().item()

    return timed(step, repeats)


if __name__ == "__main__":
    cases = {f"B={B}": {"textbook loop": partial(run, loop, B), "ours": partial(run, ours, B)} for B in (32, 128)}
    compare(__file__, f"Text head, forward and backward ({T} pieces of width {WIDTH} to 256)", cases)

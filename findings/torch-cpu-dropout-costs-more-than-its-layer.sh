#!/usr/bin/env bash
# torch==2.13.0 (CPU), 2026-11-29
#
# Expected (guess written before the run): dropout touches each number once, the linear layer behind it spends 512
#   operations on it, so that dropout before a layer of 300 to 256 takes less than a third of the layer's time.
# Seen: it takes two to three times as long as the layer. The random numbers are drawn one after another, by one
#   thread whatever the number of threads, at some twenty to thirty nanoseconds each.
# Why it matters here: text encoders of this field drop from the embedded words of every caption (AttnGAN's and TGFR's
#   do: 0.5 of 300 numbers a word). With thousands of captions a step that was a large part of the time of ours. In a
#   vocabulary's table, dropped once a step, it costs nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq torch==2.13.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys
import time
from statistics import median

import torch
from torch import nn

print("torch", torch.__version__)
torch.manual_seed(0)
torch.set_num_threads(1)
words = torch.randn(50_000, 300)  # 3,300 captions of 15 words


def seconds(layer):
    times = []
    for _ in range(7):
        start = time.perf_counter()
        layer(words)
        times.append(time.perf_counter() - start)
    return median(times)


with torch.no_grad():
    dropout, linear = seconds(nn.Dropout(0.1)), seconds(nn.Linear(300, 256))
    torch.set_num_threads(2)
    two = seconds(nn.Dropout(0.1))
print(f"dropout {dropout:.3f} s, linear {linear:.3f} s: {dropout / linear:.1f} times as long")
print(f"dropout with two threads {two:.3f} s")
if dropout < linear:
    print("changed: dropout takes less time than the layer")
    sys.exit(1)
PYTHON

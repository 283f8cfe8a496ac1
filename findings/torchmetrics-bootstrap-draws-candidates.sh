#!/usr/bin/env bash
# torchmetrics==1.9.0, torch==2.13.0 (CPU), 2026-11-28
#
# Expected: BootStrapper(RetrievalMRR()) draws probes (queries) again: the mean of the draws is the MRR, the quantiles
#   are its interval.
# Seen: it draws single candidates, from all lists together. In a third of the lists the one mate is not drawn and the
#   list counts 0: of an MRR of .94 the draws have a mean of .60 and an interval that ends far below .94.
# Why it matters here: rank-1 and MRR of gallery search are just this, and the wrapper is the one in reach. No error
#   tells: the interval is narrow and believable, of another quantity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq torch==2.13.0
"$work/venv/bin/pip" install -qq torch==2.13.0 torchmetrics==1.9.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import torch
import torchmetrics
from torchmetrics.retrieval import RetrievalMRR
from torchmetrics.wrappers import BootStrapper

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
torch.manual_seed(0)
probes, gallery = 200, 10
scores = torch.randn(probes, gallery)
scores[:, 0] += 3
mate = torch.zeros(probes, gallery, dtype=torch.bool)
mate[:, 0] = True
lists = (scores.ravel(), mate.ravel())
numbers = torch.arange(probes).repeat_interleave(gallery)
value = RetrievalMRR()(*lists, indexes=numbers).item()
ranks = 1 + (scores[:, 1:] > scores[:, :1]).sum(1)
draws = torch.stack([(1 / ranks[torch.randint(probes, (probes,))]).mean() for _ in range(50)])
ends = draws.quantile(torch.tensor([0.025, 0.975])).tolist()
print(f"MRR {value:.3f}; probes drawn by hand: {draws.mean():.3f}, interval {ends[0]:.3f} to {ends[1]:.3f}")
below = []
for way in ("poisson", "multinomial"):
    sides = torch.tensor([0.025, 0.975])
    wrapped = BootStrapper(RetrievalMRR(), num_bootstraps=50, quantile=sides, sampling_strategy=way)
    wrapped.update(*lists, indexes=numbers)
    found = wrapped.compute()
    low, high = found["quantile"].tolist()
    below.append(high < value - 0.1)
    print(f"BootStrapper, {way:11} mean {found['mean']:.3f}, interval {low:.3f} to {high:.3f}")
sys.exit(0 if all(below) else 1)
PYTHON

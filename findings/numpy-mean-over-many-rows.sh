#!/usr/bin/env bash
# numpy==2.4.6, 2026-11-28
#
# Expected: NumPy adds pairwise, so the mean of 24.5 million float32 numbers is right to six digits along any axis.
# Seen: pairwise adding is for the contiguous axis only. mean(axis=0) of a (pairs, thresholds) array of zeros and ones
#   adds row after row in float32, and the sum stands still at 16,777,216: a rate of 1 becomes .685, and so does one
#   of .9. The same array turned round, or as bool, or with dtype=np.float64, is right.
# Why it matters here: "accepted at each threshold" as float32 (it came from torch, or was weighted) is such an array,
#   and all pairs of 7,000 photos are 24.5 million. Every rate above .685 is shown as .685; on a small set, where one
#   tests, all is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np

print("numpy", np.__version__)
rng = np.random.default_rng(0)
thresholds = np.array([-1, 0.1, 0.5], np.float32)
right = 1 - np.clip(thresholds, 0, 1)
found = {}


def shown(rates): return [round(float(x), 4) for x in rates]


for pairs in (1_000_000, 24_500_000):
    accepted = rng.random(pairs, np.float32)[:, None] >= thresholds
    numbers = accepted.astype(np.float32)
    found[pairs] = numbers.mean(axis=0)
    print(f"{pairs:,} pairs, rates of {shown(right)}: float32 mean(axis=0) {shown(found[pairs])},",
          f"dtype=np.float64 {shown(numbers.mean(axis=0, dtype=np.float64))},",
          f"bool {shown(accepted.mean(axis=0))},",
          f"turned round {shown(np.ascontiguousarray(numbers.T).mean(axis=1))}")
small, large = found.values()
sys.exit(0 if np.allclose(small, right, atol=0.01) and np.allclose(large, [0.685, 0.685, 0.5], atol=0.01) else 1)
PYTHON

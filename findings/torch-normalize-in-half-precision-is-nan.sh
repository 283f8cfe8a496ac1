#!/usr/bin/env bash
# torch==2.13.0 (CPU), 2026-11-28
#
# Expected: F.normalize of a zero row is a zero row, and F.cosine_similarity with it 0: that is what their eps is for.
# Seen: in float16 both are NaN: eps (1e-12, and 1e-8) is itself 0 in that type, so 0 is divided by 0. float32 and
#   bfloat16 give zeros, so a model tested in these fails in the third.
# Why it matters here: zero rows are padding of sets, photos that an augmentation blackened, dead ReLU outputs. One of
#   them in a batch makes the whole contrastive loss NaN, and autocast to float16 is what saves memory in scoring.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq torch==2.13.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import torch
from torch.nn import functional

print("torch", torch.__version__)
nan = {}
for kind in (torch.float32, torch.bfloat16, torch.float16):
    zero = torch.zeros(1, 8, dtype=kind)
    row, cosine = functional.normalize(zero), functional.cosine_similarity(zero, zero)
    nan[kind] = bool(row.isnan().any()), bool(cosine.isnan().any())
    print(f"{str(kind):14} normalize {row[0, :3].tolist()}, cosine_similarity {cosine.tolist()};",
          f"eps 1e-12 is {torch.tensor(1e-12, dtype=kind).item()} in this type")
half = functional.normalize(torch.zeros(1, 8, dtype=torch.float16), eps=1e-6)
print("float16 with eps=1e-6:", half[0, :3].tolist())
sys.exit(0 if list(nan.values()) == [(False, False), (False, False), (True, True)] and not half.any() else 1)
PYTHON

#!/usr/bin/env bash
# torch==2.13.0 (CPU), 2026-11-28
#
# Expected: nn.MultiheadAttention over a set whose images are all masked (key_padding_mask all True) gives NaN in every
#   mode, since softmax has nothing to divide by; a test in one mode tells about all.
# Seen: need_weights=True, the default: NaN. need_weights=False: a finite answer, the bias of the last layer, the same
#   for all empty sets, in training and in eval with gradients; but NaN again in eval under no_grad. So training has no
#   NaN, validation inside the same model has. scaled_dot_product_attention itself gives zeros for such rows.
# Why it matters here: sets of photos and captions of no word are padded to a batch. An empty one is NaN only where
#   the model is used, or (with gradients on) an embedding of unit length that belongs to nobody.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq torch==2.13.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import torch
from torch import nn
from torch.nn import functional

print("torch", torch.__version__)
torch.manual_seed(0)
attention = nn.MultiheadAttention(16, 4, batch_first=True)
nn.init.normal_(attention.out_proj.bias)
sets = torch.randn(2, 3, 16)
absent = torch.tensor([[False, False, True], [True, True, True]])
nan = {}
for training in (True, False):
    for gradients in (True, False):
        for weights in (True, False):
            attention.train(training)
            with torch.set_grad_enabled(gradients):
                empty = attention(sets, sets, sets, key_padding_mask=absent, need_weights=weights)[0][1]
            nan[training, gradients, weights] = bool(empty.isnan().any())
            bias = torch.allclose(empty, attention.out_proj.bias)
            answer = "the bias" if bias else "NaN" if empty.isnan().any() else "else"
            mode = f"{'train' if training else 'eval':5} {'gradients' if gradients else 'no_grad':9}"
            print(f"{mode} need_weights={weights!s:5}:", answer)
query = torch.randn(1, 1, 3, 4)
zeros = functional.scaled_dot_product_attention(query, query, query, torch.zeros(3, 3, dtype=torch.bool))
print("scaled_dot_product_attention, nothing allowed:", zeros.unique().tolist())
finite = {mode for mode, found in nan.items() if not found}
described = finite == {(True, True, False), (True, False, False), (False, True, False)} and not zeros.any()
sys.exit(0 if described else 1)
PYTHON

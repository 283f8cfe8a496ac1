#!/usr/bin/env bash
# safetensors==0.8.0, numpy==2.4.6, 2026-11-28
#
# Expected: file.get_slice("x")[i:i + 1024] in a loop reads an array of any length by blocks, the last one shorter, as
#   NumPy, torch and h5py do.
# Seen: a slice that ends behind the last row raises SafetensorError ("out of bounds"), so the loop fails at its last
#   block, unless the length happens to be a multiple. Negative starts ([-1:]) raise OverflowError though [-1] works;
#   lists of rows are refused; steps work.
# Why it matters here: features of half a million photos are read by blocks. A test with a round number of photos
#   passes, and the first real set fails after all but one block. min(i + 1024, length) mends it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq safetensors==0.8.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

print("safetensors", version("safetensors"))
features = np.arange(10, dtype=np.float32).reshape(5, 2)
save_file({"x": features}, "features.safetensors")
asked = {
    "[0:2]": slice(0, 2), "[4:6]": slice(4, 6), "[4:]": slice(4, None), "[::2]": slice(None, None, 2),
    "[-1]": -1, "[-1:]": slice(-1, None), "[[0, 3]]": [0, 3],
}
answers = {}
with safe_open("features.safetensors", "numpy") as file:
    rows = file.get_slice("x")
    for name, index in asked.items():
        try:
            answers[name] = np.array_equal(rows[index], features[index])
            print(f"{name:9} as NumPy: {answers[name]}")
        except Exception as error:
            answers[name] = type(error).__name__
            print(f"{name:9} {answers[name]}: {str(error)[:90]}; NumPy: {features[index].tolist()}")
described = [True, "SafetensorError", True, True, True, "OverflowError", "SafetensorError"]
sys.exit(0 if list(answers.values()) == described else 1)
PYTHON

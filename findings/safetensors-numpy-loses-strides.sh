#!/usr/bin/env bash
# safetensors==0.8.0 (safetensors.numpy), numpy==2.4.6, 2026-11-28
#
# Expected: save_file writes what an array says, whatever its strides (or refuses, as safetensors.torch does).
# Seen: of a transposed, stepped or Fortran-ordered array the memory is written as it lies, under the
#   array's shape. Nothing is raised; the file opens, shapes and types are right, the numbers stand elsewhere.
# Why it matters here: features are kept as (N, E), but score matrices turned round, region maps (H, W, C
#   to C, H, W) and every second row are views. A template or store written so holds real numbers of other places.
#   np.ascontiguousarray before saving mends it.
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
from safetensors.numpy import load_file, save_file

print("safetensors", version("safetensors"), "numpy", np.__version__)
features = np.arange(6, dtype=np.float32).reshape(2, 3)
views = {
    "as made": features,
    "transposed": features.T,
    "every other": features[:, ::2],
    "Fortran order": np.asfortranarray(features),
}
kept = {}
for name, view in views.items():
    save_file({"x": view}, "x.safetensors")
    read = load_file("x.safetensors")["x"]
    kept[name] = np.array_equal(read, view)
    print(f"{name:14} written {view.tolist()} read {read.tolist()} equal: {kept[name]}")
save_file({"x": np.ascontiguousarray(features.T)}, "x.safetensors")
mended = np.array_equal(load_file("x.safetensors")["x"], features.T)
print("transposed, after np.ascontiguousarray: equal:", mended)
wrong = [name for name, equal in kept.items() if not equal]
sys.exit(0 if kept["as made"] and mended and len(wrong) == 3 else 1)
PYTHON

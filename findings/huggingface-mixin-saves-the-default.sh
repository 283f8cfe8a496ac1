#!/usr/bin/env bash
# huggingface_hub==2.4.0 (ModelHubMixin), numpy==2.4.6, 2026-11-28
#
# Expected: a model made with scale=np.float32(30) is saved with "scale": 30.0, or saving raises TypeError, since a
#   NumPy scalar is no JSON.
# Seen: the argument is dropped, and config.json holds the DEFAULT of __init__ in its place ("scale": 64.0). Loading
#   gives a model with the other value, without a word. np.float64 (a kind of float) and tuples are kept; np.float32,
#   np.int64 and sets are replaced.
# Why it matters here: margins, scales and widths come out of searches and tables as NumPy numbers. Where the value
#   shapes no weight (scale, margin, number of heads) nothing at loading can notice.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq huggingface_hub==2.4.0 jinja2==3.1.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
from huggingface_hub import ModelHubMixin

print("huggingface_hub", huggingface_hub.__version__, "numpy", np.__version__)


class Head(ModelHubMixin):
    def __init__(self, heads: int = 8, scale: float = 64.0): self.heads, self.scale = heads, scale

    def _save_pretrained(self, folder): (folder / "weights").write_text("")

    @classmethod
    def _from_pretrained(cls, *, model_id, heads, scale, **more): return cls(heads, scale)


tries = {
    "Python numbers": Head(heads=4, scale=30.0),
    "np.int64, np.float32": Head(heads=np.int64(4), scale=np.float32(30)),
    "np.int64, np.float64": Head(heads=np.int64(4), scale=np.float64(30)),
}
loaded = []
for number, (name, head) in enumerate(tries.items()):
    folder = Path(f"head-{number}")
    head.save_pretrained(folder)
    again = Head.from_pretrained(str(folder))
    loaded.append((again.heads, again.scale))
    config = json.loads((folder / "config.json").read_text())
    print(f"{name:22} made with ({head.heads}, {head.scale}), config.json", config, "loaded", loaded[-1])
sys.exit(0 if loaded == [(4, 30.0), (8, 64.0), (8, 30.0)] else 1)
PYTHON

#!/usr/bin/env bash
# scikit-learn==1.9.1, numpy==2.4.6, 2026-11-28
#
# Expected: sklearn.preprocessing.normalize gives rows of length 1, of float16 features as of float32.
# Seen: it keeps float16 and adds up squares in it: a row longer than 255.9 has an infinite sum, and every number of
#   the row becomes 0. No warning (np.linalg.norm, wrong likewise, gives one). cosine_similarity of the same rows is
#   right, since it goes over to float64.
# Why it matters here: stores keep features in float16 to halve them. Region maps laid flat (512 x 7 x 7), sums over
#   many photos of a person, and encoders without a last normalisation exceed 256: they are the longest, thus the
#   best photos, that turn to zero vectors, and a zero vector matches nobody.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq scikit-learn==1.9.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
import sklearn
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

print("scikit-learn", sklearn.__version__, "numpy", np.__version__)
warnings.simplefilter("error")
rng = np.random.default_rng(0)
unit = rng.normal(size=(3, 512))
unit /= np.linalg.norm(unit, axis=1, keepdims=True)
lengths = {}
for length in (100, 250, 257, 300):
    features = (length * unit).astype(np.float16)
    made = normalize(features)
    lengths[length] = np.linalg.norm(made.astype(np.float64), axis=1)
    print(f"features of length {length}: normalize gives {made.dtype} of length", np.round(lengths[length], 3).tolist())
own = np.diag(cosine_similarity((300 * unit).astype(np.float16)))
print("cosine_similarity of those of length 300 with themselves:", np.round(own, 3).tolist())
described = np.allclose(lengths[250], 1, atol=0.01) and not lengths[257].any() and not lengths[300].any()
sys.exit(0 if described and np.allclose(own, 1) else 1)
PYTHON

#!/usr/bin/env bash
# albumentations==2.0.8, opencv-python-headless==5.0.0.93, numpy==2.4.6, 2026-11-28
#
# Expected: after random.seed(0) and np.random.seed(0) (what accelerate.utils.set_seed and every training script call)
#   a pipeline gives the same pictures again, as it did up to version 1.4.
# Seen: it does not: each Compose made without seed= draws from a generator of its own, seeded by the system. Only
#   Compose(..., seed=) repeats, and then a copy (pickle, deepcopy, as for workers) goes on with the same draws.
# Why it matters here: a run "with seed 0" sees other crops, blurs and low resolutions each time; two recipes compared
#   "on the same seed" do not share their degradations, and the difference between them is noisier than believed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
NO_ALBUMENTATIONS_UPDATE=1 "$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import pickle
import random
import sys

import albumentations as A
import numpy as np

print("albumentations", A.__version__)
photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def pipeline(**more): return A.Compose([A.RandomBrightnessContrast(p=1), A.Rotate(p=1)], **more)


def means(count, **more):
    found = []
    for _ in range(count):
        random.seed(0)
        np.random.seed(0)
        found.append(round(float(pipeline(**more)(image=photo)["image"].mean()), 3))
    return found


free, seeded = means(4), means(4, seed=0)
print("global seeds 0, four times, mean grey of the result:", free)
print("the same with Compose(seed=0):", seeded)
first = pipeline(seed=0)
copy = pickle.loads(pickle.dumps(first))
both = [[round(float(one(image=photo)["image"].mean()), 3) for _ in range(3)] for one in (first, copy)]
print("three pictures of a pipeline and of its pickled copy:", both)
sys.exit(0 if len(set(free)) > 1 and len(set(seeded)) == 1 and both[0] == both[1] else 1)
PYTHON

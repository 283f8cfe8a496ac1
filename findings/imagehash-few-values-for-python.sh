#!/usr/bin/env bash
# ImageHash==4.3.2, numpy==2.4.6, 2026-11-28
#
# Expected: an ImageHash of 64 bits is as good a key of a set or dict as its 16 hexadecimal digits.
# Seen: Python's hash() of it adds up bit values 1 to 128 over all bytes: a number below 2,041. 20,000 different
#   hashes share about 1,200 values, so each look-up compares with many others, by NumPy, and the time grows with the
#   square of the photos. str(hash) as key has none of that.
# Why it matters here: "same perceptual hash in training and test?" is a dict of hashes. It is right, but four times
#   the photos cost about fourteen times the time (measured below); strings grow as the photos do.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq ImageHash==4.3.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
import time
from importlib.metadata import version

import imagehash
import numpy as np

print("ImageHash", version("ImageHash"))
rng = np.random.default_rng(0)
taken = {}
for count in (5_000, 10_000, 20_000):
    hashes = [imagehash.ImageHash(bits) for bits in rng.integers(0, 2, (count, 8, 8)).astype(bool)]
    start = time.process_time()
    different = len(set(hashes))
    taken[count] = time.process_time() - start
    start = time.process_time()
    texts = len({str(x) for x in hashes})
    values = len({hash(x) for x in hashes})
    print(f"{count:,} hashes: {different:,} different, {values:,} values of hash();",
          f"set of hashes {taken[count]:.2f} s, set of {texts:,} strings {time.process_time() - start:.2f} s")
sys.exit(0 if different == texts and values < 2_041 else 1)
PYTHON

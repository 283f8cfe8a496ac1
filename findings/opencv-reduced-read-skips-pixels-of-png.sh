#!/usr/bin/env bash
# opencv-python-headless==5.0.0.93, numpy==2.4.6, 2026-11-28
#
# Expected: cv2.imread with IMREAD_REDUCED_COLOR_8 gives a small, averaged picture, of one size and look whether the
#   photo is a JPEG or a PNG of the same pixels.
# Seen: a JPEG is averaged (8x8 blocks, the size rounded up), a PNG is decoded whole and then taken by bilinear
#   steps, which look at 2x2 of each 8x8 pixels (the size rounded down). On a noisy photo the PNG is 16 grey levels
#   off the average, the JPEG less than 1; at 113 px one is 15 wide, the other 14.
# Why it matters here: reduced reading is the quick way to thumbnails for near-duplicate search and to small probes
#   for low-resolution figures. A copy of a photo in the other format is not found again, and a set of PNGs looks
#   noisier at low resolution than the same set of JPEGs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import cv2
import numpy as np

print("OpenCV", cv2.__version__)
rng = np.random.default_rng(0)


def photo(side):
    smooth = cv2.resize(rng.integers(60, 196, (6, 6, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 40, smooth.shape), 0, 255).astype(np.uint8)


cv2.imwrite("a.png", photo(112))
cv2.imwrite("a.jpg", cv2.imread("a.png"), [cv2.IMWRITE_JPEG_QUALITY, 100])
off = {}
for name in ("a.png", "a.jpg"):
    small, whole = cv2.imread(name, cv2.IMREAD_REDUCED_COLOR_8), cv2.imread(name)
    mean = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    steps = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_LINEAR_EXACT)
    off[name] = np.abs(small.astype(int) - mean).mean()
    print(f"112 px, {name}: {small.shape[:2]}, off the average by {off[name]:.2f} levels, "
          f"off bilinear steps by {np.abs(small.astype(int) - steps).mean():.2f}")
cv2.imwrite("b.png", photo(113))
cv2.imwrite("b.jpg", cv2.imread("b.png"), [cv2.IMWRITE_JPEG_QUALITY, 100])
sizes = [cv2.imread(name, cv2.IMREAD_REDUCED_COLOR_8).shape[0] for name in ("b.png", "b.jpg")]
print("113 px: PNG, JPEG become", sizes)
sys.exit(0 if off["a.png"] > 10 and off["a.jpg"] < 2 and sizes == [14, 15] else 1)
PYTHON

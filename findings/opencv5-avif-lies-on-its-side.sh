#!/usr/bin/env bash
# opencv-python-headless==5.0.0.93, pillow==13.0.0, 2026-11-28
#
# Expected: cv2.imread turns a photo upright in any format that says how it lies: JPEG, PNG and WebP by EXIF, AVIF by
#   its own rotation and mirror properties (irot, imir), which a decoder must obey.
# Seen: JPEG, PNG and WebP are turned; the same photo as AVIF comes as it is stored, at all eight orientations,
#   without a word. Pillow reports the orientation for all four, and ImageOps.exif_transpose turns all four.
# Why it matters here: phone photos stored as AVIF lie on their side in front of the detector (no face found, the
#   photo is left out) or, at 180 degrees and mirrored, reach the encoder upside down or mirrored; points measured by
#   a Pillow-based tool fit another picture.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import cv2
import numpy as np
import PIL
from PIL import Image, ImageOps

print("OpenCV", cv2.__version__, "Pillow", PIL.__version__)
stored = Image.new("RGB", (64, 32), (0, 0, 255))
stored.paste((255, 0, 0), (0, 0, 16, 16))


def look(rgb):
    rgb = np.asarray(rgb).astype(int)
    rows, columns = np.nonzero((rgb[..., 0] > 128) & (rgb[..., 2] < 128))
    height, width = rgb.shape[:2]
    vertical = "top" if rows.mean() < height / 2 else "bottom"
    horizontal = "left" if columns.mean() < width / 2 else "right"
    return f"{width}x{height} red {vertical} {horizontal}"


wrong = {}
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[274] = orientation
    for ending in ("jpg", "png", "webp", "avif"):
        name = f"{orientation}.{ending}"
        stored.save(name, exif=exif)
        right = look(ImageOps.exif_transpose(Image.open(name)).convert("RGB"))
        read = look(cv2.imread(name)[..., ::-1])
        wrong.setdefault(ending, []).append(read != right)
        if ending in ("jpg", "avif"): print(f"{name:7} upright: {right:26} cv2.imread: {read}")
print("turned wrongly, of 8 orientations:", {ending: sum(found) for ending, found in wrong.items()})
sys.exit(0 if sum(wrong["avif"]) == 7 and not any(sum(wrong[x]) for x in ("jpg", "png", "webp")) else 1)
PYTHON

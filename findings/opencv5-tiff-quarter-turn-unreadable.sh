#!/usr/bin/env bash
# opencv-python-headless==5.0.0.93, pillow==13.0.0, 2026-11-28
#
# Expected: of a TIFF whose Orientation says "turned by 90 degrees", cv2.imread gives the upright picture (or with
#   IMREAD_UNCHANGED the stored one), as of JPEG; Pillow gives the stored one until exif_transpose is called.
# Seen: orientations 5 to 8 cannot be read at all: cv2.imread returns None and logs an internal check. Orientations 2
#   to 4 are turned even with IMREAD_UNCHANGED, which keeps JPEG, PNG and WebP as stored. Pillow turns every TIFF while
#   reading, and only TIFF.
# Why it matters here: scanned passport and archive photos are TIFFs, and scanners write the tag. A sound file passes
#   for a damaged one, and landmarks taken in Pillow belong to the turned picture for TIFF, to the stored one for JPEG.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
cd "$work"
OPENCV_LOG_LEVEL=SILENT "$work/venv/bin/python" - <<'PYTHON'
import sys

import cv2
import numpy as np
import PIL
from PIL import Image

print("OpenCV", cv2.__version__, "Pillow", PIL.__version__)
stored = Image.new("RGB", (64, 32), (0, 0, 255))
stored.paste((255, 0, 0), (0, 0, 16, 16))


def look(rgb):
    if rgb is None: return "not read"
    rgb = np.asarray(rgb).astype(int)
    rows, columns = np.nonzero((rgb[..., 0] > 128) & (rgb[..., 2] < 128))
    height, width = rgb.shape[:2]
    vertical = "top" if rows.mean() < height / 2 else "bottom"
    horizontal = "left" if columns.mean() < width / 2 else "right"
    return f"{width}x{height} red {vertical} {horizontal}"


def from_cv2(name, flag):
    picture = cv2.imread(name, flag)
    return picture if picture is None else picture[..., ::-1]


found = {}
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[274] = orientation
    for ending in ("jpg", "tif"):
        name = f"{orientation}.{ending}"
        stored.save(name, exif=exif)
        ways = (from_cv2(name, cv2.IMREAD_COLOR), from_cv2(name, cv2.IMREAD_UNCHANGED), Image.open(name).convert("RGB"))
        found[name] = [look(way) for way in ways]
        print(f"{name}: cv2 {found[name][0]}; cv2 unchanged {found[name][1]}; Pillow {found[name][2]}")
as_stored = "64x32 red top left"
unread = all(found[f"{o}.tif"][0] == "not read" for o in (5, 6, 7, 8))
turned = all(found[f"{o}.tif"][1] != as_stored == found[f"{o}.jpg"][1] for o in (2, 3, 4))
pillow = all(found[f"{o}.tif"][2] != as_stored == found[f"{o}.jpg"][2] for o in range(2, 9))
sys.exit(0 if unread and turned and pillow else 1)
PYTHON

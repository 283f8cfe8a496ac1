#!/usr/bin/env bash
# opencv-python-headless==5.0.0.93, numpy==2.4.6, 2026-11-28
#
# Expected: OpenCV 5 still has the two face detectors of every tutorial: CascadeClassifier with cv2.data.haarcascades,
#   and the Caffe SSD (res10_300x300) by dnn.readNetFromCaffe; at most marked as old.
# Seen: neither is there. cv2.data.haarcascades still names a folder, but no cascade file lies in it. Gone as well:
#   HOGDescriptor, cv2.ml, readNetFromDarknet and readNetFromTorch (OpenFace's nn4.small2). FaceDetectorYN,
#   FaceRecognizerSF and estimateAffinePartial2D are there.
# Why it matters here: code that asks for opencv>=4 gets 5, and fails at the first photo with an AttributeError; code
#   that looks for the cascade first ("if not os.path.exists(...): use the whole picture") goes on without alignment.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os
import sys

import cv2

print("OpenCV", cv2.__version__)
old = {name: hasattr(cv2, name) for name in ("CascadeClassifier", "HOGDescriptor", "ml")}
old |= {name: hasattr(cv2.dnn, name) for name in ("readNetFromCaffe", "readNetFromDarknet", "readNetFromTorch")}
new = {name: hasattr(cv2, name) for name in ("FaceDetectorYN", "FaceRecognizerSF", "estimateAffinePartial2D")}
cascades = [name for name in os.listdir(cv2.data.haarcascades) if name.endswith(".xml")]
print("old:", old)
print("new:", new)
print("cascade files in cv2.data.haarcascades:", cascades)
sys.exit(0 if not any(old.values()) and all(new.values()) and not cascades else 1)
PYTHON

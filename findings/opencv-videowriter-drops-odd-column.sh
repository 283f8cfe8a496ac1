#!/usr/bin/env bash
# opencv-python-headless==5.0.0.93, numpy==2.4.6, 2026-11-28
#
# Expected: cv2.VideoWriter for frames of 113x115 writes 113x115, or does not open (codecs with 4:2:0 colours want
#   even sizes).
# Seen: it opens, takes each frame, and the video is 112x114, for MJPG in AVI as for mp4v in MP4. One column and one
#   row are gone; isOpened() is True, nothing is printed.
# Why it matters here: crops around a tracked face have odd sizes half of the time. Five points measured before, and
#   masks saved beside the video, no longer have its shape, and a crop of 1.03 aspect becomes 1.02.
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
width, height = 113, 115
ramp = np.tile(np.arange(width, dtype=np.uint8)[None, :, None] * 2, (height, 1, 3))
shapes = []
for name, code in (("face.avi", "MJPG"), ("face.mp4", "mp4v")):
    writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*code), 25, (width, height))
    opened = writer.isOpened()
    for _ in range(5): writer.write(ramp)
    writer.release()
    video = cv2.VideoCapture(name)
    read, frame = video.read()
    shapes.append((opened, read, frame.shape))
    print(f"{name}: opened {opened}, written {ramp.shape}, read {frame.shape};",
          "right edge written", ramp[50, -3:, 0].tolist(), "read", frame[50, -3:, 0].tolist())
sys.exit(0 if shapes == [(True, True, (height - 1, width - 1, 3))] * 2 else 1)
PYTHON

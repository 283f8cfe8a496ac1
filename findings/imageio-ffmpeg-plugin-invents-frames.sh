#!/usr/bin/env bash
# imageio==2.38.1 with imageio-ffmpeg==0.8.1 against its pyav plugin (av==18.1.0), numpy==2.4.6, 2026-11-28
#
# Expected: iio.imiter gives the frames that are in the file, with either plugin.
# Seen: of a recording with 73 frames and a pause of two seconds the pyav plugin gives 73, the FFMPEG plugin 133: it
#   reads at one constant rate, and the last picture before the pause comes 61 times. Both name no error.
# Why it matters here: screen recordings, video calls and motion-triggered cameras have pauses. A template is then
#   drawn towards the one picture before the pause (61 of 133 votes), and "number of photos" in a table of set sizes is
#   not that of photos.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys
from fractions import Fraction
from importlib.metadata import version
from itertools import groupby

import av
import imageio.v3 as iio
import numpy as np

print("imageio", version("imageio"), "imageio-ffmpeg", version("imageio-ffmpeg"), "av", av.__version__)
milliseconds = Fraction(1, 1000)
times = [i / 30 for i in range(30)] + [3 + i / 30 for i in range(43)]
with av.open("pause.mp4", "w") as out:
    stream = out.add_stream("libx264", rate=30)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = milliseconds
    for number, seconds in enumerate(times):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 3 * number, np.uint8), format="rgb24")
        frame.pts, frame.time_base = round(1000 * seconds), milliseconds
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
count = {}
for plugin in ("pyav", "FFMPEG"):
    numbers = [round(float(frame.mean()) / 3) for frame in iio.imiter("pause.mp4", plugin=plugin)]
    longest = max((len(list(same)), number) for number, same in groupby(numbers))
    count[plugin] = len(numbers), longest[0]
    print(f"{plugin:6} {len(numbers)} frames of {len(times)} written;",
          f"frame {longest[1]} comes {longest[0]} times in a row")
print("mean of the frames' numbers: written", np.mean(range(73)), "by the FFMPEG plugin", round(np.mean(numbers), 2))
sys.exit(0 if count["pyav"] == (73, 1) and count["FFMPEG"][0] > 100 and count["FFMPEG"][1] > 30 else 1)
PYTHON

#!/usr/bin/env bash
# datasets==5.2.0 (webdataset builder) with webdataset==1.0.2, pillow==13.0.0, 2026-11-28
#
# Expected: a tar of photos named by seconds or scores (person/frame_0.50.jpg, person/frame_0.75.jpg) is one row a
#   photo, or refused.
# Seen: the name of a row ends at the FIRST dot of the file's name: all frames of a second are one row, with columns
#   "50.jpg" and "75.jpg" and no column "jpg". Both readers act so without a word. Dots in folders (MS-Celeb's m.0107_f)
#   do no harm.
# Why it matters here: tracks are cut to such names. len() counts seconds, not photos; code that takes the first
#   column that is a picture trains on one frame of each second.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq datasets==5.2.0 webdataset==1.0.2 pillow==13.0.0 numpy==2.4.6
cd "$work"
export HF_HOME="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import io
import sys
import tarfile
from importlib.metadata import version

import webdataset
from datasets import load_dataset
from PIL import Image

print("datasets", version("datasets"), "webdataset", version("webdataset"))


def tar(path, names):
    with tarfile.open(path, "w") as out:
        for number, name in enumerate(names):
            photo = io.BytesIO()
            Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(photo, "JPEG")
            entry = tarfile.TarInfo(name)
            entry.size = len(photo.getvalue())
            out.addfile(entry, io.BytesIO(photo.getvalue()))


kinds = {
    "dots in folders": [f"m.{person}/{number}-FaceId-0.jpg" for person in ("0107_f", "0108_x") for number in (0, 1)],
    "seconds in names": [f"{person}/frame_0.{part}.jpg" for person in ("anna", "bert") for part in (50, 75)],
}
rows = {}
for name, files in kinds.items():
    tar(f"{name}.tar", files)
    data = load_dataset("webdataset", data_files={"train": f"{name}.tar"})["train"]
    others = webdataset.WebDataset(f"{name}.tar", shardshuffle=False)
    other = [[key for key in row if key[:2] != "__"] for row in others]
    rows[name] = len(data), len(other)
    print(f"{name}: 4 photos; datasets {len(data)} rows, columns {data.column_names};",
          f"webdataset {len(other)} rows {other}")
sys.exit(0 if rows == {"dots in folders": (4, 4), "seconds in names": (2, 2)} else 1)
PYTHON

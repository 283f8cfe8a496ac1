#!/usr/bin/env bash
# datasets==5.2.0 (imagefolder), pillow==13.0.0, 2026-11-28
#
# Expected: a folder of photos with a metadata.jsonl that names some of them raises (as datasets did for years: "image
#   at ... doesn't have metadata") or gives null for the rest; photos in folders named by people keep these labels.
# Seen: photos without a line are left out without a word; with a metadata.jsonl in ONE person's folder every other
#   person is gone; and the label column (the folder's name) is dropped as soon as any metadata.jsonl is there.
# Why it matters here: captions written for one in four photos leave a quarter of the set, and captions for one
#   person leave one person: no identity to tell apart, no error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cd "$work"
export HF_HOME="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json
import sys
from pathlib import Path

import datasets
from datasets import load_dataset
from PIL import Image

print("datasets", datasets.__version__)


def folder(name, lines):
    for person in ("anna", "bert", "carl"):
        for number in range(2):
            path = Path(name, person, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (number * 90, 0, 0)).save(path)
    for place, files in lines.items():
        rows = [json.dumps({"file_name": file, "caption": "a smiling person"}) + "\n" for file in files]
        Path(name, place).write_text("".join(rows))
    data = load_dataset("imagefolder", data_dir=name)["train"]
    print(f"{name:28} 6 photos of 3 people: {len(data)} rows, columns {data.column_names}")
    return len(data), data.column_names


plain = folder("no-captions", {})
some = folder("captions-for-three", {"metadata.jsonl": ["anna/0.png", "anna/1.png", "bert/0.png"]})
one = folder("captions-in-one-folder", {"anna/metadata.jsonl": ["0.png", "1.png"]})
captioned = some == (3, ["image", "caption"]) and one == (2, ["image", "caption"])
described = plain == (6, ["image", "label"]) and captioned
sys.exit(0 if described else 1)
PYTHON

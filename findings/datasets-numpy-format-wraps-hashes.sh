#!/usr/bin/env bash
# datasets==5.2.0, pyarrow==26.0.1, numpy==2.4.6, 2026-11-28
#
# Expected: with_format("numpy") gives each column in its own type: a column of uint64 is uint64.
# Seen: whole columns and batches become int64 or float32, whatever they were: a 64-bit hash turns negative, seconds
#   of a clock lose up to a minute, bytes take eight times the room. A single row (ds[0]) keeps the types, so a look
#   at one row shows nothing. pandas and polars formats keep them. Dataset.from_dict with the feature uint64 declared
#   refuses such a hash outright (OverflowError).
# Why it matters here: perceptual hashes (near-duplicates between training and test), capture times of frames and
#   photos as arrays are just such columns. Wrapped hashes still compare equal among themselves, but not with hashes
#   read by anything else: no leak is found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import sys

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, Value

print("datasets", datasets.__version__, "pyarrow", pa.__version__, "numpy", np.__version__)
table = pa.table({
    "hash": pa.array([2**64 - 5, 2**63 + 1], pa.uint64()),
    "seconds": pa.array([1764365123.25, 1764365140.75], pa.float64()),
    "pixels": pa.array([[1, 250], [3, 4]], pa.list_(pa.uint8())),
})
data = Dataset(table).with_format("numpy")
batch, row = data[:], data[0]
for name in table.column_names:
    print(f"{name:8} stored {str(table.schema.field(name).type):18} batch {batch[name].dtype}: {batch[name].tolist()}",
          f"row {row[name].dtype}: {row[name].tolist()}")
try:
    Dataset.from_dict({"hash": [2**64 - 5]}, features=Features({"hash": Value("uint64")}))
    refused = False
except OverflowError as error:
    print("from_dict with Value('uint64'):", type(error).__name__, error)
    refused = True
types = [str(batch[name].dtype) for name in table.column_names]
kept = [str(row[name].dtype) for name in ("hash", "seconds")]
described = types == ["int64", "float32", "int64"] and kept == ["uint64", "float64"] and batch["hash"][0] == -5
sys.exit(0 if described and refused else 1)
PYTHON

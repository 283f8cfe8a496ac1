#!/usr/bin/env bash
# pyarrow==26.0.1, numpy==2.4.6, 2026-11-28
#
# Expected: the numbers of a column of embeddings, chunk.values.to_numpy().reshape(-1, E), belong to the rows of that
#   table, also after table.slice(start, length).
# Seen: .values is the whole child array behind the slice: 10 rows for a table of 3, beginning at row 0. .flatten()
#   keeps to the slice, but leaves out null rows, so rows after a photo without embedding move up by one. Only both
#   together (flatten of a column without nulls) gives row i at place i.
# Why it matters here: embeddings are read in slices (batches, pages, one identity). Each slice then gets the
#   embeddings of the first rows of the file: right shape, unit length, another person's.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq pyarrow==26.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import pyarrow as pa

print("pyarrow", pa.__version__)
embeddings = np.repeat(np.arange(10, dtype=np.float32)[:, None], 4, 1)
column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), 4)
table = pa.table({"row": range(10), "embedding": column}).slice(5, 3)
chunk = table["embedding"].chunk(0)
values, flat = (np.asarray(x).reshape(-1, 4)[:, 0].tolist() for x in (chunk.values, chunk.flatten()))
print("rows of the slice:", table["row"].to_pylist(), "through .values:", values, "through .flatten():", flat)
gap = pa.array([[0, 0], None, [2, 2]], pa.list_(pa.float32(), 2))
left = gap.flatten().to_numpy().reshape(-1, 2)[:, 0].tolist()
print("three photos, the second without embedding, through .flatten():", left)
sys.exit(0 if values == list(range(10)) and flat == [5, 6, 7] and left == [0, 2] else 1)
PYTHON

#!/usr/bin/env bash
# polars==2.1.0 against duckdb==2.0.1, pyarrow==26.0.1, pandas==3.1.1, 2026-11-28
#
# Expected: a JSON-lines file whose key "caption" first comes late (few photos have one) gives a column with nulls
#   before it, or an error that says which line has a new key.
# Seen: polars (read_ndjson and scan_ndjson) settles the columns by the first lines and drops the key of all later
#   ones, silently: as many rows as lines, two columns, no caption. DuckDB raises and names the line and the key;
#   pyarrow and pandas give all three columns.
# Why it matters here: captions and attributes are often gathered for a part of the photos and appended at the end.
#   A set read so is a set without words: training on images only looks like "words do not help".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq duckdb==2.0.1 polars==2.1.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
import sys

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.json

print("polars", pl.__version__, "duckdb", duckdb.__version__, "pyarrow", pa.__version__, "pandas", pd.__version__)
photos = [{"file": f"{i:06}.jpg", "identity": i // 4} for i in range(200_000)]
described = [{"file": f"{i:06}.jpg", "identity": i // 4, "caption": "a smiling man"} for i in range(200_000, 200_100)]
with open("photos.jsonl", "w") as out: out.writelines(json.dumps(row) + "\n" for row in photos + described)
readers = {
    "polars read_ndjson": lambda: pl.read_ndjson("photos.jsonl"),
    "polars scan_ndjson": lambda: pl.scan_ndjson("photos.jsonl").collect(),
    "duckdb": lambda: duckdb.sql("select * from 'photos.jsonl'").to_arrow_table(),
    "pyarrow": lambda: pyarrow.json.read_json("photos.jsonl"),
    "pandas": lambda: pd.read_json("photos.jsonl", lines=True),
}
columns = {}
for name, read in readers.items():
    try:
        table = read()
        columns[name] = list(getattr(table, "column_names", table.columns))
        print(f"{name:18} {len(table):,} rows, columns {columns[name]}")
    except duckdb.InvalidInputException as error:
        print(f"{name:18} raises: {str(error)[:120]} ...")
without = [name for name, found in columns.items() if "caption" not in found]
sys.exit(0 if without == ["polars read_ndjson", "polars scan_ndjson"] and "pyarrow" in columns else 1)
PYTHON

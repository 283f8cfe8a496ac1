#!/usr/bin/env bash
# duckdb==2.0.1, polars==2.1.0 against pyarrow==26.0.1, pandas==3.1.1, numpy==2.4.6, 2026-11-28
#
# Expected: NaN >= .5 is false, as IEEE 754 says; a comparison that gave NaN counts as rejected everywhere.
# Seen: in DuckDB and polars NaN is greater than every number: a filter "score >= .5" keeps it, while pyarrow, pandas
#   and NumPy leave it out. Above the largest real score DuckDB even disagrees with itself: the same query counts the
#   NaN of a table in memory, and not that of a Parquet file that pyarrow wrote, whose statistics leave NaN out.
# Why it matters here: half precision and blank photos give NaN embeddings. Counted in SQL or polars, each of their
#   impostor pairs is a false accept and each genuine pair a true one, in the first place of every rank list; counted
#   in NumPy they are rejections. FPR at a threshold differs between two honest scripts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq duckdb==2.0.1 polars==2.1.0 pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

print("duckdb", duckdb.__version__, "polars", pl.__version__, "pyarrow", pa.__version__, "pandas", pd.__version__)
scores = np.array([0.2, 0.9, np.nan, 0.6])
table = pa.table({"score": scores})
pq.write_table(table, "scores.parquet")
accepted = {
    "numpy": int((scores >= 0.5).sum()),
    "pandas": len(pd.read_parquet("scores.parquet").query("score >= 0.5")),
    "pyarrow": pq.read_table("scores.parquet", filters=[("score", ">=", 0.5)]).num_rows,
    "polars": pl.scan_parquet("scores.parquet").filter(pl.col("score") >= 0.5).collect().height,
    "duckdb": duckdb.sql("select count(*) from 'scores.parquet' where score >= 0.5").fetchall()[0][0],
}
print("accepted of .2, .9, NaN, .6 at .5:", accepted)
frame = pl.from_arrow(table)
high = {
    "numpy": int((scores >= 0.95).sum()),
    "polars": pl.scan_parquet("scores.parquet").filter(pl.col("score") >= 0.95).collect().height,
    "duckdb, memory": duckdb.sql("select count(*) from frame where score >= 0.95").fetchall()[0][0],
    "duckdb, Parquet": duckdb.sql("select count(*) from 'scores.parquet' where score >= 0.95").fetchall()[0][0],
}
print("accepted at .95:", high)
sys.exit(0 if list(accepted.values()) == [2, 2, 2, 3, 3] and list(high.values()) == [0, 1, 1, 0] else 1)
PYTHON

#!/usr/bin/env bash
# rank-bm25==0.2.2 (BM25Okapi) against bm25s==0.3.16, numpy==2.4.6, 2026-11-28
#
# Expected: a caption that has the word asked for scores above one that has not. Negative weights of words in more
#   than half of the texts are known of BM25, and rank_bm25 says that it lifts them to a small positive number.
# Seen: the small number is a quarter of the MEAN weight of the vocabulary. Captions of faces have few words, most of
#   them common, so that mean is below zero: each caption with "beard" scores below each without. bm25s is right.
# Why it matters here: BM25 over captions is the plain baseline of search by description. On attribute captions its
#   first answers are just those that lack the word, and the learned model beside it looks better than it is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq rank-bm25==0.2.2 bm25s==0.3.16 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import bm25s
import numpy as np
from rank_bm25 import BM25Okapi

print("rank-bm25", version("rank-bm25"), "bm25s", version("bm25s"))
rng = np.random.default_rng(0)
words = "man woman young old black brown blond hair smiling glasses beard".split()
captions = [[word for word in words if rng.random() < 0.6] for _ in range(500)]
has = np.array(["beard" in caption for caption in captions])
okapi = BM25Okapi(captions)
other = bm25s.BM25()
other.index(captions, show_progress=False)
print(f"{has.mean():.0%} of 500 captions have 'beard'; mean weight of the vocabulary {okapi.average_idf:.3f},",
      f"weight of 'beard' {okapi.idf['beard']:.3f}")
means = {}
for name, scores in (("rank_bm25", okapi.get_scores(["beard"])), ("bm25s", other.get_scores(["beard"]))):
    first = np.argsort(-scores, kind="stable")[:10]
    means[name] = scores[has].max() < scores[~has].min()
    print(f"{name:9} with the word {scores[has].mean():.3f}, without {scores[~has].mean():.3f};",
          f"{has[first].sum()} of the first 10 have it")
sys.exit(0 if means["rank_bm25"] and not means["bm25s"] else 1)
PYTHON

#!/usr/bin/env bash
# huggingface_hub==2.4.0, numpy==2.4.6, 2026-11-28
#
# Expected: EvalResult(metric_value=np.float64(.95)) stands as 0.95 in the card's head, or is refused.
# Seen: the YAML holds a Python object (python/object/apply: numpy ... scalar, with the bytes in base64), for
#   np.float32, np.float64 and np.int64. The card is written without a word; ModelCard.load of the same library cannot
#   read it (ConstructorError), nor can any other safe YAML reader.
# Why it matters here: every figure of an evaluation is a NumPy scalar unless float() was called. The results in
#   model-index are lost on the page, and the next tool that updates the card fails in another place.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq huggingface_hub==2.4.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import huggingface_hub
import numpy as np
from huggingface_hub import EvalResult, ModelCard, ModelCardData

print("huggingface_hub", huggingface_hub.__version__, "numpy", np.__version__)
outcome = {}
for value in (0.95, np.float64(0.95), np.float32(0.95), np.int64(3)):
    result = EvalResult(
        task_type="face-recognition", dataset_type="pairs", dataset_name="pairs", metric_type="tpr", metric_value=value,
    )
    head = ModelCardData(model_name="fusion", eval_results=[result]).to_yaml()
    line = next(line.strip() for line in head.splitlines() if line.strip().startswith("value:"))
    with open("README.md", "w") as out: out.write(f"---\n{head}\n---\n# fusion\n")
    kind = type(value).__name__
    try:
        outcome[kind] = ModelCard.load("README.md").data.eval_results[0].metric_value
    except Exception as error:
        outcome[kind] = type(error).__name__
    print(f"{kind:8} {line}; loaded again: {outcome[kind]}")
sys.exit(0 if list(outcome.values()) == [0.95] + 3 * ["ConstructorError"] else 1)
PYTHON

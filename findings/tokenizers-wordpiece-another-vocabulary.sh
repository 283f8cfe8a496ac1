#!/usr/bin/env bash
# tokenizers==0.23.3, 2026-11-28
#
# Expected: a vocabulary trained twice on the same captions is the same: there is no seed to set and nothing random.
# Seen: WordPiece numbers the same words otherwise at each training, in one process and in another, and holds partly
#   other pieces; BPE and Unigram are the same each time. Captions are cut alike, so nothing looks wrong.
# Why it matters here: rows of a word embedding belong to numbers. Weights saved with one training of the vocabulary
#   and opened with another (trained again from the same captions, as a resumed run may do) give each word the vector
#   of another word. Keep tokenizer.json beside the weights; never train it again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq tokenizers==0.23.3
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
import random
import sys

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

print("tokenizers", tokenizers.__version__)
random.seed(0)
words = ("a man woman with black brown blond wavy straight hair young smiling old glasses beard goatee pale skin "
         "pointy nose big lips narrow eyes arched eyebrows wearing necklace lipstick earrings hat").split()
captions = [" ".join(random.choices(words, k=12)) for _ in range(2000)]


def train(model, trainer, **more):
    tokenizer = Tokenizer(model())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]"]
    teacher = trainer(vocab_size=200, special_tokens=special, show_progress=False, **more)
    tokenizer.train_from_iterator(captions, teacher)
    return tokenizer


kinds = {
    "WordPiece": lambda: train(models.WordPiece, trainers.WordPieceTrainer),
    "BPE": lambda: train(models.BPE, trainers.BpeTrainer),
    "Unigram": lambda: train(models.Unigram, trainers.UnigramTrainer, unk_token="[UNK]"),
}
counts = {}
for name, make in kinds.items():
    made = [make() for _ in range(5)]
    tables = {json.dumps(t.get_vocab(), sort_keys=True) for t in made}
    pieces = {str(sorted(t.get_vocab())) for t in made}
    cuts = {str([t.encode(c).tokens for c in captions]) for t in made}
    counts[name] = len(tables)
    print(f"{name:10} 5 trainings: {len(tables)} tables of numbers, {len(pieces)} sets of pieces,",
          f"{len(cuts)} ways to cut")
    moved = [word for word in words if len({t.token_to_id(word) for t in made}) > 1]
    for word in moved[:3]: print(" " * 10, f"number of '{word}' in each:", [t.token_to_id(word) for t in made])
sys.exit(0 if counts["WordPiece"] > 1 and counts["BPE"] == counts["Unigram"] == 1 else 1)
PYTHON

#!/usr/bin/env bash
# transformers==5.24.0, tokenizers==0.23.3, 2026-11-28
#
# Expected: BertTokenizer(vocab_file="vocab.txt"), as in every release before 5, reads the vocabulary; or the old
#   keyword is refused.
# Seen: the keyword is now `vocab`. `vocab_file` is swallowed without a word and the tokenizer has five entries, the
#   special ones: every word of every caption becomes [UNK]. The same path given by place, or from_pretrained of the
#   folder, works. BertTokenizerFast and DistilBertTokenizer act alike.
# Why it matters here: a text tower still trains on [CLS] [UNK] ... [SEP]: it learns the length of captions, no loss
#   is NaN, and the words earn nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq transformers==5.24.0 tokenizers==0.23.3
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys
from pathlib import Path

import tokenizers
import transformers
from transformers import BertTokenizer, BertTokenizerFast, DistilBertTokenizer

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
words = "[PAD] [UNK] [CLS] [SEP] [MASK] a man woman with black hair young smiling glasses".split()
Path("bert").mkdir()
Path("bert/vocab.txt").write_text("\n".join(words) + "\n")
ways = {
    "BertTokenizer(vocab_file=path)": lambda: BertTokenizer(vocab_file="bert/vocab.txt"),
    "BertTokenizerFast(vocab_file=path)": lambda: BertTokenizerFast(vocab_file="bert/vocab.txt"),
    "DistilBertTokenizer(vocab_file=path)": lambda: DistilBertTokenizer(vocab_file="bert/vocab.txt"),
    "BertTokenizer(path)": lambda: BertTokenizer("bert/vocab.txt"),
    "BertTokenizer(vocab=path)": lambda: BertTokenizer(vocab="bert/vocab.txt"),
    "BertTokenizer.from_pretrained(folder)": lambda: BertTokenizer.from_pretrained("bert"),
}
sizes, caption = [], "a young woman with glasses"
for name, make in ways.items():
    tokenizer = make()
    sizes.append(len(tokenizer))
    print(f"{name:38} {len(tokenizer):3} entries; {caption}:", tokenizer.tokenize(caption))
sys.exit(0 if sizes == [5, 5, 5, len(words), len(words), len(words)] else 1)
PYTHON

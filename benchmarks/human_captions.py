"""How much of human captions a model of MM-CelebA-HQ understands: `python benchmarks/human_captions.py` prints which
share of the words of Face2Text's validation captions (without its replicas) is in the vocabulary of the training
captions of MM-CelebA-HQ, and which attributes `to_grammar` finds in them. With --model, a fusion `evidence` trained
there: at which rank one person's caption of a photo finds another person's caption of it. Needs ../shared/data."""

import argparse
import json
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch

from tgfr.data.captions import Vocabulary
from tgfr.data.human_captions import grammar_coverage, to_grammar
from tgfr.evaluation.retrieval import query_ranks
from tgfr.evaluation.scoring import CaptionIndex
from tgfr.fusion.model import TGFR

DATA = Path(__file__).parent.parent.parent / "shared/data"


def training_words(folder: Path) -> tuple[str, ...]:
    "The words of MM-CelebA-HQ's training captions."
    files = sorted(folder.glob("train-*.parquet"))
    tables = [parquet.read_table(path, columns=["captions"])["captions"].to_pylist() for path in files]
    photos = chain.from_iterable(tables)
    return Vocabulary.from_captions(chain.from_iterable(photos)).words


def human_captions(path: Path) -> list[list[str]]:
    "The captions of each photo that repeats no other."
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [row["captions"] for row in rows if "replica_of" not in row]


def measured(captions: list[list[str]], words: tuple[str, ...]) -> dict:
    "What is printed."
    coverage = grammar_coverage(captions, words)
    facts = list(map(to_grammar, chain.from_iterable(captions)))
    said = [fact.present + fact.denied for fact in facts]
    sexes = {"man", "woman"}
    return {
        "captions": len(facts),
        "words in the vocabulary": len(words),
        "words known": round(coverage.words, 3),
        "whole captions known": round(coverage.captions, 3),
        "different unknown words": len(coverage.unknown),
        "unknown words most often met": dict(coverage.unknown[:40]),
        "with an attribute": round(sum(not sexes.issuperset(names) for names in said) / len(facts), 3),
        "with the sex": round(sum(not sexes.isdisjoint(fact.present) for fact in facts) / len(facts), 3),
        "attributes present, each caption": round(sum(len(fact.present) for fact in facts) / len(facts), 2),
        "attributes denied, each caption": round(sum(len(fact.denied) for fact in facts) / len(facts), 2),
        "present": dict(Counter(chain.from_iterable(fact.present for fact in facts)).most_common()),
        "denied": dict(Counter(chain.from_iterable(fact.denied for fact in facts)).most_common()),
    }


def in_grammar(caption: str) -> str:
    "What a caption says, in the words of MM-CelebA-HQ."
    return f"This person has {', '.join(to_grammar(caption).present)}."


@torch.inference_mode()
def understood(model: TGFR, captions: list[list[str]], fitted: list[list[str]]) -> dict:
    "Ranks at which the first caption of a photo finds the second, among those of all photos that have two."
    sides = list(zip(*(of_photo[:2] for of_photo in captions if len(of_photo) > 1)))
    attributes = [list(map(in_grammar, side)) for side in sides]
    counted = CaptionIndex([*fitted, *([in_grammar(caption)] for caption in chain.from_iterable(fitted))])

    def by_tfidf(side):
        return counted.vectors([[caption] for caption in side]).toarray()

    def by_model(side):
        return model.fusion.compare_captions(model.encode_captions(list(side))).numpy()

    found = {"captions searched": len(sides[0]), "median rank by chance": (len(sides[0]) + 1) / 2}
    for name, texts, vectors in (
        ("tf-idf of human words", sides, by_tfidf),
        ("tf-idf of attributes", attributes, by_tfidf),
        ("evidence, human words", sides, by_model),
        ("evidence, attributes", attributes, by_model),
    ):
        ranks = query_ranks(*map(vectors, texts))
        found[f"{name}: median rank"] = float(np.median(ranks))
        found[f"{name}: recall@10"] = round(float((ranks <= 10).mean()), 3)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder with celeba_hq and face2text")
    parser.add_argument("--model", type=Path, help="model folder of a fusion evidence, trained on celeba_hq")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    options = parser.parse_args()
    for folder in "celeba_hq", "face2text":
        if not (options.data / folder).is_dir():
            sys.exit(f"skipped: no {options.data / folder}")
    captions = human_captions(options.data / "face2text/valid.jsonl")
    found = measured(captions, training_words(options.data / "celeba_hq"))
    if options.model:
        fitted = human_captions(options.data / "face2text/train.jsonl")
        found |= understood(TGFR.load(options.model), captions, fitted)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            listed = isinstance(value, dict)
            print(f"{name}: {', '.join(f'{word} {n:,}' for word, n in value.items()) if listed else value}")

"""What a human caption says in the words of the grammar: sentences written for these tests, each with its answer."""

import json
import subprocess
import sys

import pytest
from conftest import HERE, SHARED

from tgfr.core import TgfrError
from tgfr.data.caption_changes import Sentence, smallest_size
from tgfr.data.human_captions import PHRASINGS, grammar_coverage, to_grammar

SAID = {  # caption: (present, denied)
    "A man.": ({"man"}, set()),
    "An elderly lady with silver hair and spectacles": ({"woman", "gray hair", "eyeglasses"}, {"young"}),
    "This young guy has long, dirty-blonde hair.": ({"man", "young", "blond hair"}, set()),
    "Her hair is straight and brown, her eyes are blue.": ({"woman", "straight hair", "brown hair"}, set()),
    "a black man with short hair": ({"man"}, set()),
    "dark hair, brown eyes": (set(), set()),
    "He has white hair and small green eyes": ({"man", "gray hair", "narrow eyes"}, set()),
    "His lips are thin and his nose is large.": ({"man", "big nose"}, {"big lips"}),
    "His nose is thin. Lips: full": ({"man"}, set()),
    "A girl with a button nose and plump lips": ({"woman", "young", "big lips"}, {"big nose", "pointy nose"}),
    "A MIDDLE-AGED WOMAN, NOT SMILING": ({"woman"}, {"young", "smiling"}),
    "He doesn't wear glasses but has a moustache": ({"man", "mustache"}, {"eyeglasses"}),
    "without earrings or make-up": (set(), {"earrings", "heavy makeup"}),
    "no hat, glasses": ({"eyeglasses"}, {"hat"}),  # a comma ends what is denied
    "clean-shaven": ({"no beard"}, {"beard", "mustache"}),
    "He has no beard. He has a goatee.": ({"man", "goatee", "beard"}, set()),  # said once counts as said
    "His mouth is slightly open and his teeth are showing": ({"man", "mouth slightly open"}, set()),
    "full cheeks, a smile with dimples": ({"chubby", "smiling"}, set()),
    "thick, arched eyebrows and high cheek-bones": ({"bushy eyebrows", "arched eyebrows", "high cheekbones"}, set()),
    "a receding hairline, side-burns and bags under his eyes": (
        {"man", "receding hairline", "sideburns", "bags under eyes"},
        set(),
    ),
    "She wears lipstick, a necklace and a beanie": ({"woman", "lipstick", "necklace", "hat"}, set()),
    "hoop ear-rings, smoky eye-liner": ({"earrings", "heavy makeup"}, set()),
    "Fair-skinned woman with rosy cheeks and an oval face": ({"woman", "pale skin", "rosy cheeks", "oval face"}, set()),
    "a man in a tie with a double chin; shaved head": ({"man", "necktie", "double chin", "bald"}, set()),
    "bleached blond, wavy hair with a fringe": ({"blond hair", "wavy hair", "bangs"}, set()),
    "a pretty señora": ({"attractive"}, set()),
    "": (set(), set()),
}


@pytest.mark.parametrize("caption", SAID)
def test_what_people_say(caption):
    facts = to_grammar(caption)
    assert (set(facts.present), set(facts.denied)) == SAID[caption]


def test_every_attribute_is_found_somewhere():
    found = set()
    for present, _ in SAID.values():
        found |= present
    assert found - {"no beard"} | {"black hair", "pointy nose"} == set(PHRASINGS)
    assert set(to_grammar("jet-black hair and a pointed nose").present) == {"black hair", "pointy nose"}


def test_facts_are_written_in_the_grammar():
    """Each attribute as a caption of the grammar: what is read of it are its phrases, and each has a size."""
    for caption in SAID:
        facts = to_grammar(caption)
        text = str(facts)
        said = []
        for sentence in text.removesuffix(".").split(". ") if text else []:
            said += Sentence.read(f"{sentence}.").phrases
        assert all(smallest_size(phrase) for phrase in said)
        assert {phrase.split(" ", 1)[1] for phrase in said} == set(facts.present) - {"man", "woman"}
    assert str(to_grammar("a bald guy with glasses")) == "He has eyeglasses. He is bald."
    assert str(to_grammar("a man")) == "He." and str(to_grammar("")) == ""
    assert str(to_grammar("a man and a woman with hats, one has a fringe")) == "This person has bangs."


def test_coverage_is_counted():
    captions = [["A man smiles.", "Smiles, smiles!"], [], ["the Man"]]
    coverage = grammar_coverage(captions, {"man", "smiles"})
    assert coverage.words == pytest.approx(5 / 7) and coverage.captions == pytest.approx(1 / 3)
    assert sorted(coverage.unknown) == [("a", 1), ("the", 1)]
    assert grammar_coverage([["b b a", "c"]], []).unknown == [("b", 2), ("a", 1), ("c", 1)]
    with pytest.raises(TgfrError, match="captions: no word"):
        grammar_coverage([[]], {"man"})


@pytest.mark.skipif(not (SHARED / "data/face2text").is_dir(), reason="no ../shared/data/face2text")
def test_the_script_counts_captions_that_are_no_replicas():
    script = [sys.executable, HERE.parent / "benchmarks/human_captions.py", "--json"]
    found = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    lines = (SHARED / "data/face2text/valid.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "replica_of" not in row]
    assert found["captions"] == sum(len(row["captions"]) for row in rows)
    assert found["words in the vocabulary"] == 64  # as in the data's description
    assert 0 <= found["whole captions known"] < found["words known"] < 1
    assert found["with an attribute"] > 0.9

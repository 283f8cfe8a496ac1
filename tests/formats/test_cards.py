"Every card of the project says what it must, and its numbers are those of the code."

import re
import typing
from pathlib import Path

import pytest

from tgfr.cli import options_of
from tgfr.core import TgfrError
from tgfr.formats.cards import missing_fields, parse_card, read_cards
from tgfr.formats.sources import PUBLISHED, READERS
from tgfr.workflows.prepare_data import prepare

CARDS = read_cards(Path(__file__).parents[2] / "data_cards")
PREPARED = {*READERS, "ijb"}  # captioned faces, and evaluation sets


@pytest.mark.parametrize("name", CARDS)
def test_card_is_complete(name):
    assert missing_fields(CARDS[name]) == []


@pytest.mark.parametrize("name", CARDS)
def test_card_and_code_agree(name):
    known = CARDS[name].meta["tgfr"]
    if "prepare" in known:
        assert known["prepare"] in PREPARED
    if "people" in known:
        assert tuple(known["people"].values()) == PUBLISHED[known["prepare"]] and list(known["people"]) == [
            "train",
            "validation",
            "test",
        ]
    for command in re.findall(r"tgfr prepare ([\w-]+)", CARDS[name].sections["Layout"]):
        assert command in PREPARED and command == known.get("prepare", command)
    text = "\n".join(CARDS[name].sections.values())
    for module in re.findall(r"`(tgfr(?:\.\w+)+)", text):
        __import__(
            module.rpartition(".")[0]
            if module.rpartition(".")[2] in ("align", "read_pickle", "split_people")
            else module
        )
    for option in re.findall(r"`?(--[a-z-]+)", text):
        assert option[2:].replace("-", "_") in options_of(prepare).__dataclass_fields__


def test_every_set_that_is_prepared_has_a_card():
    assert {card.meta["tgfr"].get("prepare") for card in CARDS.values()} - {None} == PREPARED
    assert set(typing.get_args(prepare.__annotations__["name"])) == PREPARED


def test_cards_hold_no_picture():
    assert not any(re.search(r"!\[|<img", "\n".join(card.sections.values())) for card in CARDS.values())


def test_cards_that_are_none(tmp_path):
    with pytest.raises(TgfrError, match="no cards"):
        read_cards(tmp_path)
    for text in (
        "",
        "# Title",
        "---\na: [\n---\n",
        "---\n!!python/name:os.system\n---\n",
        "---\n" + "[" * 1500 + "\n---\n",
    ):
        with pytest.raises(TgfrError, match="YAML block"):
            parse_card(text)
    assert len(missing_fields(parse_card("---\nlicense: other\n---\n"))) == 15

"""Changed captions: shares, nesting, derangements and the grammar, against brute force and by their properties."""

import re

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError, rng
from tgfr.data.caption_changes import (
    CUES,
    Sentence,
    captions_of_person,
    drop_captions,
    keep_captions,
    mask_words,
    smallest_size,
    swap_captions,
    visible_at,
)
from tgfr.data.synthetic import synthetic_faces

SHARES = st.floats(0, 1)


@st.composite
def photos(draw):
    "Captions that each say whose photo they are of, and the people; some photos without."
    identity = draw(st.lists(st.integers(0, 4), min_size=1, max_size=30))
    counts = draw(st.lists(st.integers(0, 3), min_size=len(identity), max_size=len(identity)))
    captions = []
    for photo, (person, count) in enumerate(zip(identity, counts)):
        captions.append([f"{person} {photo} {k}" for k in range(count)])
    return captions, identity


def owners(captions):
    "The person that each caption is of."
    return [{int(text.split()[0]) for text in of_photo} for of_photo in captions]


@given(photos(), st.integers(0, 4))
def test_first_captions_are_kept_in_order(data, count):
    captions, _ = data
    kept = keep_captions(captions, count)
    for before, after in zip(captions, kept):
        assert after == before[: len(after)] and len(after) == min(count, len(before))


def test_counts_and_shares_out_of_range_are_refused():
    with pytest.raises(TgfrError, match="count: -1"):
        keep_captions([["a"]], -1)
    for change in (drop_captions, mask_words):
        with pytest.raises(TgfrError, match="share: 1.5, expected 0 to 1"):
            change([["a"]], 1.5)
    with pytest.raises(TgfrError, match="share: -0.1"):
        swap_captions([["a"], ["b"]], [0, 1], -0.1)
    with pytest.raises(TgfrError, match=r"identity: shape \(3,\)"):
        swap_captions([["a"], ["b"]], [0, 1, 2], 1)


@given(photos(), SHARES, SHARES, st.integers(0, 3))
def test_an_exact_share_of_captioned_photos_is_dropped_nested(data, a, b, seed):
    captions, _ = data
    few, many = (drop_captions(captions, share, seed) for share in sorted((a, b)))
    captioned = sum(map(bool, captions))
    assert captioned - sum(map(bool, few)) == round(min(a, b) * captioned)
    assert captioned - sum(map(bool, many)) == round(max(a, b) * captioned)
    for before, less, more in zip(captions, few, many):
        assert less in (before, []) and more in (less, [])


def possible(captions, identity):
    "Whether every captioned photo can get a captioned photo of another person: nobody has more than half (Hall)."
    people = [person for person, of_photo in zip(identity, captions) if of_photo]
    return all(2 * people.count(person) <= len(people) for person in people)


@settings(max_examples=300)
@given(photos(), SHARES, SHARES, st.integers(0, 3))
def test_swapped_captions_are_another_persons_nested_and_all_there(data, a, b, seed):
    captions, identity = data
    if not possible(captions, identity):
        with pytest.raises(TgfrError, match="expected at most half"):
            swap_captions(captions, identity, a, seed)
        return
    few, many, whole = (swap_captions(captions, identity, share, seed) for share in (*sorted((a, b)), 1))
    captioned = sum(map(bool, captions))
    for share, changed in ((min(a, b), few), (max(a, b), many), (1, whole)):
        wrong = [new != old for new, old in zip(changed, captions)]
        assert sum(wrong) == round(share * captioned)
        for person, owner, is_wrong, before in zip(identity, owners(changed), wrong, captions):
            assert owner == ({person} if before else set()) or (is_wrong and owner and person not in owner)
    for before, less, more, most in zip(captions, few, many, whole):
        assert less in (before, more) and more in (before, most)
        assert bool(before) == bool(most)  # photos without stay so
    assert sorted(whole) == sorted(captions)  # each list once


def test_captions_of_one_person_go_to_many():
    """Twenty people with ten photos each: were a person's photos given those of one other person, captions would
    agree within genuine pairs. By chance two photos of a person share a source about once in twenty pairs."""
    identity = np.repeat(np.arange(20), 10)
    changed = swap_captions([[f"{person} x"] for person in identity], identity, 1)
    source = np.array([min(owner) for owner in owners(changed)])
    same_person = (identity[:, None] == identity) & ~np.eye(200, dtype=bool)
    assert 0.02 < (source[:, None] == source)[same_person].mean() < 0.09


def test_two_people_with_equal_shares_exchange():
    identity = np.arange(400) % 2
    changed = swap_captions([[str(person)] for person in identity], identity, 1)
    assert [min(owner) for owner in owners(changed)] == (1 - identity).tolist()


@given(st.lists(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=3), max_size=5), SHARES, SHARES)
def test_masked_words_are_nested_and_leave_one(words, a, b):
    captions = [[" ".join(text) for text in of_photo] for of_photo in words]
    few, many = (mask_words(captions, share, seed=1) for share in sorted((a, b)))
    draw = iter(rng(1, "masked words").random(sum(len(text.split()) for of_photo in captions for text in of_photo)))
    for before, less, more in zip(captions, few, many):
        assert len(before) == len(less) == len(more)
        for text, little, much in zip(before, less, more):
            drawn = [(next(draw), word) for word in text.split()]
            highest = max(drawn, default=None)
            for share, left in ((min(a, b), little), (max(a, b), much)):
                assert left.split() == [pair[1] for pair in drawn if pair[0] >= share or pair is highest]


def test_the_share_of_masked_words():
    captions = [[" ".join(map(str, range(40)))] for _ in range(300)]
    left = sum(len(text[0].split()) for text in mask_words(captions, 0.3))
    assert abs(left / 12_000 - 0.7) < 3 * (0.3 * 0.7 / 12_000) ** 0.5
    assert mask_words(captions, 0) == captions
    assert {len(text[0].split()) for text in mask_words(captions, 1)} == {1}
    assert mask_words(captions, 0.3) != mask_words(captions, 0.3, seed=1)


@given(photos())
def test_captions_of_a_person_by_brute_force(data):
    captions, identity = data
    expected = []
    for person, of_photo in zip(identity, captions):
        known = []
        for other, texts in zip(identity, captions):
            known += [text for text in texts if other == person and text not in known]
        expected.append(of_photo if of_photo else known)
    assert captions_of_person(captions, identity) == expected


def test_names_are_identities():
    names = ["ann", "bob", "ann"]
    assert captions_of_person([["a"], [], []], names) == [["a"], [], ["a"]]
    assert swap_captions([["a"], ["b"]], names[:2], 1) == [["b"], ["a"]]


# The grammar

SENTENCES = {  # text: subject, sex and phrases
    "He.": ("He", "man", []),
    "The man has .": ("The man", "man", []),
    "She is wearing earrings, and lipstick.": ("She", "woman", ["wears earrings", "wears lipstick"]),
    "This attractive, and smiling woman has bangs.": (
        "This woman",
        "woman",
        ["is attractive", "is smiling", "has bangs"],
    ),
    "The person is young and has bags under eyes, and big nose and wears hat.": (
        "The person",
        "",
        ["is young", "has bags under eyes", "has big nose", "wears hat"],
    ),
    "This person and is wearing hat has no beard.": ("This person", "", ["wears hat", "has no beard"]),
    "The old man is happy and has a mustache.": ("The man", "man", ["is old", "is happy", "has a mustache"]),
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_are_read(text):
    sentence = Sentence.read(text)
    assert (sentence.subject, sentence.sex, sentence.phrases) == SENTENCES[text]
    again = Sentence.read(str(sentence))
    assert (again.subject, again.phrases) == (sentence.subject, sentence.phrases)


@pytest.mark.parametrize("text", ["", "A man.", "She has bangs", "The bearded.", "she has bangs.", "Shes bald.", "x"])
def test_other_sentences_are_not_of_the_grammar(text):
    assert Sentence.read(text) is None


PHRASES = [phrase for cue in CUES for phrase in cue.phrases.split("/")]


@settings(max_examples=200)
@given(st.data())
def test_a_written_sentence_reads_as_itself(data):
    clauses = []
    for verb in data.draw(st.permutations(["has", "is", "wears"])):
        said = [phrase.split(" ", 1)[1] for phrase in PHRASES if phrase.startswith(f"{verb} ")]
        items = data.draw(st.lists(st.sampled_from(said), max_size=4, unique=True))
        if items:
            clauses.append((verb, tuple(items)))
    adjectives = data.draw(st.lists(st.sampled_from(["young", "bald", "middle-aged"]), max_size=3, unique=True))
    subject = data.draw(st.sampled_from(["The man", "This woman", "This person"] if adjectives else ["She", "He"]))
    sentence = Sentence(subject, tuple(adjectives), tuple(clauses))
    assert Sentence.read(str(sentence)) == sentence


def test_each_phrase_has_one_size():
    assert len(PHRASES) == len(set(PHRASES))
    for cue in CUES:
        for phrase in cue.phrases.split("/"):
            assert smallest_size(phrase) == pytest.approx(400 / cue.millimetres)
    order = ["has brown hair", "wears eyeglasses", "wears lipstick", "has big nose", "has oval face", "has pointy nose"]
    assert [smallest_size(phrase) for phrase in order] == sorted(smallest_size(phrase) for phrase in order)
    assert max(map(smallest_size, PHRASES)) <= 112


FACES = synthetic_faces(people=40, photos=3, size=16)["captions"]


@pytest.mark.parametrize("size", [8, 16, 24, 32, 64, 111, 112])
def test_what_is_left_is_what_is_seen(size):
    """Word by word for the drawn faces: the phrases of each shortened caption are those of the full one with a size of
    at most this one, found by looking for each phrase in the text."""
    changed = visible_at(FACES, size)
    for before, after in zip(FACES, changed):
        kept = []
        for caption in before:
            said = phrases(caption)
            seen = [phrase for phrase in said if smallest_size(phrase) <= size]
            sexed = size >= 16 and re.search(r"\b(?:[Ss]?[Hh]e|woman|man)\b", caption) is not None
            kept += [(seen, sexed)] if seen or sexed else []
        for (seen, sexed), caption in zip(kept, after, strict=True):
            assert phrases(caption) == seen
            assert (re.search(r"\b(?:[Ss]?[Hh]e|woman|man)\b", caption) is not None) == sexed
            assert Sentence.read(caption.split(". ")[0].removesuffix(".") + ".") is not None
    if size == 112:
        assert changed == FACES


def phrases(caption):
    "The phrases of a caption, in their order."
    said = []
    for sentence in caption.removesuffix(".").split(". "):
        said += Sentence.read(f"{sentence}.").phrases
    return said


@pytest.mark.parametrize(
    "caption, left",
    [
        ("She has wavy hair, arched eyebrows, and brown hair.", "She has wavy hair and brown hair."),
        ("She has wavy hair.  She is attractive.", "She has wavy hair."),
        ("He is attractive. The person wears hat.", "He. The person wears hat."),
        ("The person is attractive. He wears earrings. He is young.", "He."),
        ("This attractive, and smiling woman has bangs, and big lips.", "This woman has bangs."),
        ("The man wears earrings, and hat and is attractive and has goatee.", "The man wears hat and has goatee."),
        ("This person wears earrings.", None),
        ("The man has .", "The man has ."),
    ],
)
def test_shortened_sentences(caption, left):
    assert visible_at([[caption], []], 16) == [[left] if left else [], []]


def test_below_the_size_of_the_sex_a_subject_is_a_person():
    assert visible_at([["She has brown hair. The man is bald. He is young. He."]], 12) == [
        ["This person has brown hair. The person is bald."]
    ]


def test_what_the_rule_does_not_know_is_an_error():
    with pytest.raises(TgfrError, match="'A man.' is not in the grammar"):
        visible_at([["She has bangs."], ["A man."]], 16)
    with pytest.raises(TgfrError, match="'has a scar' is not among the phrases"):
        visible_at([["She has bangs, and a scar."]], 16)


@pytest.mark.skipif(not (SHARED / "data/celeba_hq").is_dir(), reason="no ../shared/data/celeba_hq")
def test_every_real_caption_is_read():
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(SHARED / "data/celeba_hq/validation-00000-of-00001.parquet", columns=["captions"])
    captions = table["captions"].to_pylist()
    assert visible_at(captions, 112) == captions and sum(map(len, captions)) == 20_195
    small = visible_at(captions, 16)
    assert 0.9 < sum(map(len, small)) / 20_195 < 1 and all(small)

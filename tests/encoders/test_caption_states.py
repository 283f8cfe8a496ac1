"""Captions encoded once: the same features as made anew, across stores, after a break, and no others' files."""

import numpy as np
import pytest
import torch
from text_models import CAPTIONS, tiny_bert

from tgfr.encoders.caption_states import CaptionStates, remember_captions
from tgfr.encoders.recurrent_text import TextEncoder
from tgfr.encoders.text_encoders import TransformerTextEncoder, build_text_encoder

TOLD = [caption for caption in CAPTIONS if caption]


def frozen(**changes) -> TransformerTextEncoder:
    torch.manual_seed(0)
    encoder = TransformerTextEncoder(tiny_bert(), **{"dim": 16, "train_layers": 0, "head": "mean"} | changes)
    encoder.with_words = False
    return encoder.eval()


def count_calls(encoder) -> list:
    calls = []
    encoder.transformer.register_forward_hook(lambda *_: calls.append(1))
    return calls


@torch.no_grad()
def test_what_is_kept_is_what_would_be_made_anew(tmp_path):
    plain, encoder = frozen(), frozen()
    store = remember_captions(encoder, [TOLD[:2], TOLD[1:], [], None, [" "]], tmp_path / "train", batch=2)
    calls = count_calls(encoder)
    asked = [TOLD[2], TOLD[0], TOLD[2], TOLD[1]]
    known, anew = encoder(**encoder.tokenize(asked)), plain(**plain.tokenize(asked))
    torch.testing.assert_close(known.sentence, anew.sentence, atol=1e-6, rtol=1e-5)
    assert torch.equal(known.mask, anew.mask) and not calls and len(store) == len(TOLD)
    one_by_one = np.concatenate([plain.means(**plain.tokenize([caption])).numpy() for caption in asked])
    np.testing.assert_allclose(encoder.tokenize(asked)["means"].numpy(), one_by_one, atol=1e-5)


@torch.no_grad()
def test_two_stores_and_a_caption_of_neither(tmp_path):
    encoder = frozen()
    remember_captions(encoder, [TOLD[:2]], tmp_path / "train")
    remember_captions(encoder, [TOLD[2:]], tmp_path / "test")
    plain, calls = frozen(), count_calls(encoder)
    order = [TOLD[3], TOLD[0], TOLD[2], TOLD[1]]
    torch.testing.assert_close(encoder(**encoder.tokenize(order)).sentence, plain(**plain.tokenize(order)).sentence)
    assert not calls
    new = ["A hat", TOLD[0]]
    torch.testing.assert_close(encoder(**encoder.tokenize(new)).sentence, plain(**plain.tokenize(new)).sentence)
    assert calls and CaptionStates()(["A hat"]) is None


def test_a_break_is_continued_and_gives_the_same_bytes(tmp_path):
    whole = remember_captions(frozen(), [TOLD], tmp_path / "whole", batch=1)
    encoder = frozen()
    encoder.means = stop_after(encoder.means, calls=2)
    with pytest.raises(KeyboardInterrupt):
        remember_captions(encoder, [TOLD], tmp_path / "broken", batch=1)
    encoder = frozen()
    calls = count_calls(encoder)
    continued = remember_captions(encoder, [TOLD], tmp_path / "broken", batch=1)
    assert len(calls) == len(TOLD) - 2
    assert (continued.folder / "embedding.npy").read_bytes() == (whole.folder / "embedding.npy").read_bytes()


def stop_after(function, calls):
    left = iter(range(calls))

    def stopping(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return stopping


def test_other_weights_captions_and_lengths_are_other_stores(tmp_path):
    first = remember_captions(frozen(), [TOLD], tmp_path / "train")
    again = remember_captions(frozen(), [TOLD[::-1]], tmp_path / "train")
    other = frozen()
    with torch.no_grad():
        next(other.transformer.parameters()).add_(1)
    others = [
        remember_captions(other, [TOLD], tmp_path / "train"),
        remember_captions(frozen(), [TOLD[:2]], tmp_path / "train"),
        remember_captions(frozen(length=8), [TOLD], tmp_path / "train"),
    ]
    assert again.folder == first.folder and len({store.folder for store in [first, *others]}) == 4


@pytest.mark.parametrize(
    "encoder",
    [
        build_text_encoder("bag", TOLD, dim=16),
        frozen(head="convolutions"),
        frozen(train_layers=1),
        TransformerTextEncoder(tiny_bert(), dim=16, train_layers=0, head="mean"),  # whose words are read
    ],
    ids=["bag", "convolutions", "learns", "words"],
)
def test_nothing_is_kept_of_an_encoder_that_needs_more(encoder: TextEncoder, tmp_path):
    assert remember_captions(encoder, [TOLD], tmp_path / "train") is None
    assert not list(tmp_path.iterdir()) and "means" not in encoder.tokenize(TOLD)

"""LSTM, GRU and bag against recorded vectors and plain arithmetic."""

import pytest
import torch
from text_models import CAPTIONS

from tgfr.core import rng, seed_everything
from tgfr.data.captions import Vocabulary
from tgfr.encoders import recurrent_text
from tgfr.encoders.recurrent_text import RNNTextEncoder
from tgfr.encoders.text_encoders import build_text_encoder


@pytest.mark.golden("tgfr_rnn_lstm*", "tgfr_rnn_gru*")
def test_golden_rnn(golden):
    count, width = golden.p["encoder.weight"].shape
    kind = "lstm" if golden.p["rnn.weight_hh_l0"].shape[0] == 4 * golden.p["rnn.weight_hh_l0"].shape[1] else "gru"
    vocabulary = Vocabulary(tuple(f"w{i}" for i in range(count - 2)))
    encoder = RNNTextEncoder(vocabulary, golden.o["sent_emb"].shape[1], width, kind, golden.meta["nlayers"]).eval()
    encoder.load_state_dict({name.replace("encoder.", "embedding."): p for name, p in golden.p.items()})
    ids, lengths = golden.i["captions"], golden.i["cap_lens"]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))  # a caller need not sort
    out = encoder(ids[order], lengths[order])[order.argsort()]
    golden.check("words_emb", out.words)
    golden.check("sent_emb", out.sentence)
    assert torch.equal(out.mask.sum(1), lengths)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("pooling", ["mean", "final"])
def test_many_captions_of_one_length_are_read_as_if_packed(kind, pooling, monkeypatch):
    draw, words = rng("many captions"), "a man woman old with beard hair".split()
    captions = [" ".join(draw.choice(words, draw.integers(1, 7))) for _ in range(90)]
    torch.manual_seed(0)
    encoder = build_text_encoder(kind, captions, dim=16, embedding=12, pooling=pooling, layers=2, dropout=0.0)
    tokens, read = encoder.tokenize(captions), []
    for many in (10**9, 0):  # all packed, all by length
        monkeypatch.setattr(recurrent_text, "MANY", many)
        encoder.zero_grad()
        out = encoder(**tokens)
        (out.sentence * torch.linspace(-1, 1, 16)).sum().backward()
        gradients = [p.grad.clone() for p in encoder.parameters()]
        read.append([out.sentence, out.words, out.mask, *gradients])
    for packed, grouped in zip(*read):
        torch.testing.assert_close(grouped, packed, rtol=1e-4, atol=1e-6)


def test_a_bag_is_the_mean_of_its_words_in_any_order():
    seed_everything(0)
    encoder = build_text_encoder("bag", ["she is a young woman", "he"], dim=8, embedding=5).eval()
    captions = ["she is a young woman", "young a woman is she", "he he she"]
    with torch.no_grad():
        text = encoder(**encoder.tokenize(captions))
        table = encoder.embedding.weight.double() @ encoder.rnn.weight.double().T + encoder.rnn.bias.double()
    torch.testing.assert_close(text.sentence[0], text.sentence[1])
    for row, caption in enumerate(captions):
        ids = encoder.tokenize([caption])["ids"][0]
        mean = sum(table[i] for i in ids.tolist())
        torch.testing.assert_close(text.sentence[row].double(), mean / mean.norm(), atol=1e-6, rtol=1e-5)
        assert (text.words[row, :, len(ids) :] == 0).all() and text.mask[row].sum() == len(ids)


def test_a_bag_leaves_words_out_where_nobody_reads_them():
    bag = build_text_encoder("bag", CAPTIONS[:3], dim=16, embedding=10).eval()
    tokens = bag.tokenize(CAPTIONS[:3])
    whole = bag(**tokens)
    bag.with_words = False
    alone = bag(**tokens)
    assert torch.equal(alone.sentence, whole.sentence) and torch.equal(alone.mask, whole.mask)
    assert whole.words.shape[2] > 0 and alone.words.shape == (3, 16, 0)

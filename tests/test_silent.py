"""Photos without a caption: an error that names them, never NaN and never an IndexError."""

import unicodedata

import numpy as np
import pytest
import torch

from tgfr.core import TgfrError, seed_everything
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.features import ImageFeatures, TextFeatures, l2_normalize
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.scoring import CaptionIndex, embed_photos, non_blank_captions
from tgfr.fusion.fcfm import FUSIONS, build_fusion
from tgfr.fusion.model import TGFR, ModelConfig, merge_captions

CAPTIONS = [["a man"], [], ["a woman", "old"], [" "]]


def model(fusion="residual", kind="lstm"):
    seed_everything(0)
    return TGFR(
        ModelConfig(32, (16, 7, 7), 64, fusion),
        build_text_encoder(kind, ["a man", "a woman old"], dim=64, embedding=12),
    ).eval()


def photos(n=4):
    return ImageFeatures(torch.randn(n, 32), torch.randn(n, 16, 7, 7))


NEEDY = [name for name in FUSIONS if not getattr(FUSIONS[name], "optional_captions", False)]


@pytest.mark.parametrize("fusion", NEEDY)
def test_a_model_with_words_needs_them(fusion):
    net = model(fusion)
    tokens = net.text_encoder.tokenize(["a man", "a woman", "old"])
    with pytest.raises(TgfrError, match=r"no caption of 2 of 4 photos \(1, 3\)"):
        net(photos(), tokens, torch.tensor([1, 0, 2, 0]))
    with pytest.raises(TgfrError, match="no captions are given"):
        net(photos())
    with pytest.raises(TgfrError, match="3 captions, or sets of them, for 4 photos"):
        net(photos(), tokens)
    with pytest.raises(TgfrError, match="sum to 4, expected the 3"):
        net(photos(2), tokens, torch.tensor([2, 2]))
    assert net(photos(2), tokens, torch.tensor([1, 2])).embedding.isfinite().all()
    with pytest.raises(TgfrError, match="built with captions"):
        build_fusion(fusion, 64, (7, 7))(net.image_head(photos()), None)


def test_no_caption_at_all():
    none = TextFeatures(torch.zeros(0, 8), torch.zeros(0, 8, 2), torch.zeros(0, 2, dtype=torch.bool))
    with pytest.raises(TgfrError, match="no caption of 3 of 3 photos"):
        merge_captions(none, torch.zeros(3, dtype=torch.int64))


def test_stage_one_reads_faces_alone():
    net = model(None)
    assert net(photos()).text is None and net(photos()).image.embedding.isfinite().all()


@pytest.mark.parametrize("modes", [("first",), ("all",), ("first", "all")])
def test_photos_without_captions_are_named(tmp_path, modes):
    net = model()
    draw = np.random.default_rng(0)
    store = FeatureStore(
        tmp_path,
        draw.normal(size=(1, 4, 32)).astype("f"),
        draw.normal(size=(1, 4, 16, 7, 7)).astype("f"),
        ["112px"],
        {"photo_id": ["p0", "p1", "p2", "p3"]},
    )
    with pytest.raises(TgfrError, match=r"none of 2 of 4 photos \(p1, p3\)"):
        embed_photos(net, store, CAPTIONS, modes=modes)
    found = embed_photos(net, store, CAPTIONS, np.array([0, 2]), modes=modes)
    assert all(np.isfinite(array).all() and array.shape[-2] == 2 for mode in found.values() for array in mode.values())
    blank = embed_photos(net, store, [["a man"], ["x"], ["", "a woman", "old"], ["x"]], np.array([0, 2]), modes=modes)
    for mode in modes:
        np.testing.assert_array_equal(blank[mode]["fused"], found[mode]["fused"])  # a blank caption is none


def test_the_index_of_captions_names_them():
    index = CaptionIndex([["a man"], ["a woman"]])
    for mode in "one", "all":
        with pytest.raises(TgfrError, match=r"none of 2 of 4 photos \(1, 3\)"):
            index.scores(CAPTIONS, mode)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_caption_of_no_known_word_is_finite(kind):
    net = model(kind=kind)
    said = net.encode_captions(["", "?!", "zebra"])
    assert said.sentence.isfinite().all() and l2_normalize(said.sentence).norm(dim=-1).allclose(torch.ones(3))


@pytest.mark.parametrize(
    "caption, words",
    [
        ("आधुनिक मानक हिन्दी", ["आधुनिक", "मानक", "हिन्दी"]),
        ("ప్రధానమంత్రిని కలుసుకున్నారు", ["ప్రధానమంత్రిని", "కలుసుకున్నారు"]),
        ("They met the Prime Minister", ["they", "met", "the", "prime", "minister"]),
        ("ভৌতিক গল্প পড়তে", ["ভৌতিক", "গল্প", "পড়তে"]),
    ],
)
def test_the_index_of_captions_reads_whole_words(caption, words):
    "scikit-learn #30935, #20211, #7379: words of Indic scripts were cut at their vowel signs."
    found = CaptionIndex([[caption]]).vectorizer.get_feature_names_out()
    assert sorted(unicodedata.normalize("NFC", word) for word in found) == sorted(
        unicodedata.normalize("NFC", word) for word in words
    )


def test_the_index_of_captions_sees_what_captions_share():
    index = CaptionIndex([["这个女人有黑色的长发"], ["她有黑色的长发"], ["他戴眼镜"]])
    scores = index.scores([["这个女人有黑色的长发"], ["她有黑色的长发"], ["他戴眼镜"]])
    assert scores[0, 1] > 0.3 > scores[0, 2] == 0
    cafe = ["a café", unicodedata.normalize("NFD", "a café")]
    assert CaptionIndex([cafe]).scores([[text] for text in cafe])[0, 1] == pytest.approx(1)
    with pytest.raises(TgfrError, match="no word in those of 2 photos"):
        CaptionIndex([["..."], ["!"]])


def test_a_caption_that_is_none_is_blank():
    assert non_blank_captions([["a man", None], [None, "", "old"]]) == [["a man"], ["old"]]
    with pytest.raises(TgfrError, match="none of 1 of 1 photos"):
        non_blank_captions([[None]])

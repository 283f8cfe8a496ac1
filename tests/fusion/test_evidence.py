"""Evidence: the sum of its terms, nothing where captions are missing, a bound on what they can say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tgfr.core import seed_everything
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.features import ImageFeatures, TextFeatures, cosine_matrix, l2_normalize
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.retrieval import retrieve, search_by_text
from tgfr.evaluation.scoring import embed_photos, score_matrix
from tgfr.fusion.evidence import CaptionReader, EvidenceFusion, PhotoReader, TokenCounter, TokenRegression, clip_norm
from tgfr.fusion.model import TGFR, ModelConfig, merge_ids, token_ids

CAPTIONS = [["a man"], [], ["a woman", "old", "a man"], [" "], ["old"]]


def photos(n=5):
    return ImageFeatures(torch.randn(n, 32), torch.randn(n, 16, 7, 7))


@pytest.fixture
def models():
    "An image-only model and one of evidence that continues it."
    seed_everything(0)
    image_only = TGFR(ModelConfig(32, (16, 7, 7), 64, "residual", use_captions=False)).eval()
    torch.nn.init.normal_(image_only.fusion.correction[-1].weight, std=0.1)
    text = build_text_encoder("lstm", ["a man", "a woman old"], dim=64, embedding=12)
    model = TGFR(ModelConfig(32, (16, 7, 7), 64, "evidence"), text).eval()
    model.image_head.load_state_dict(image_only.image_head.state_dict(), strict=False)
    model.fusion.counter.learn([token_ids(text.tokenize(["a man", "a woman old"]))])
    words = torch.randn(len(model.image_head.words.mean), 4)
    model.image_head.words.learn([(torch.randn(40, len(words)), torch.rand(40, 256)), (words.T, torch.rand(4, 256))])
    model.fusion.weights.copy_(torch.tensor([0.04, 0.3, 0.05, 0.1, 0.2]))
    model.fusion.offset.fill_(0.2)
    model.fusion.power.fill_(0.7)
    model.fusion.growth.fill_(0.3)
    model.fusion.face.load_state_dict(image_only.fusion.state_dict())
    return image_only, model


@pytest.fixture
def store(tmp_path):
    draw = np.random.default_rng(0)
    features = draw.normal(size=(2, 5, 32)).astype("f"), draw.normal(size=(2, 5, 16, 7, 7)).astype("f")
    return FeatureStore(tmp_path, *features, ["112px", "16px"], {"photo_id": list("abcde")})


def fused(model, captions, seen):
    tokens = model.text_encoder.tokenize([c for row in captions for c in row] or ["none"])
    with torch.no_grad():
        return model(seen, tokens, torch.tensor([len(row) for row in captions])).embedding


def test_a_score_is_the_sum_of_its_terms(models):
    model, (left, right) = models[1], (photos(), photos())
    told = [["a man"], ["old"], ["a woman", "old", "a man"], ["man"], ["old"]]
    gallery, probe = fused(model, told, left), fused(model, told[::-1], right)
    scores = model.similarity(gallery, probe)
    cross, expected_words, sentences, persons, tfidf = model.fusion.weights.double().tolist()
    for i in range(5):
        for j in range(5):
            sides = []
            for seen, said, row in ((left, told, i), (right, told[::-1], j)):
                with torch.no_grad():
                    head = model.image_head(seen[[row]])
                    text = model.encode_text(model.text_encoder.tokenize(said[row]), torch.tensor([len(said[row])]))
                    parts = *model.fusion.evidence(head.attributes, text), head.expected
                    scale = math.exp(0.7 * min(max(model.fusion.poorness(head.attributes).item(), 0), 1))
                    told_of = *(scale * part[0].double() for part in parts), scale
                    sides.append([model.fusion.face(head)[0].double(), *told_of])
            face_g, says_g, shows_g, said_g, who_g, words_g, hopes_g, scale_g = sides[0]
            face_p, says_p, shows_p, said_p, who_p, words_p, hopes_p, scale_p = sides[1]
            neither = 0.2 * scale_g * scale_p
            cosine = face_g @ face_p / face_g.norm() / face_p.norm()
            grown = (max(len(told[i]), 1) * max(len(told[4 - j]), 1)) ** 0.3
            captions = persons * (who_g @ who_p - neither) + tfidf * (words_g @ words_p - neither)
            captions = captions + sentences * said_g @ said_p
            crossed = cross * (says_p @ shows_g + says_g @ shows_p)
            crossed = crossed + expected_words * (words_p @ hopes_g + words_g @ hopes_p)
            expected = cosine + crossed + grown * captions
            assert scores[i, j].item() == pytest.approx(expected.item(), abs=1e-5)


def test_an_index_gives_the_same_and_either_side_may_be_the_probe(models):
    model = models[1]
    x = fused(model, [["a man"], ["old"], [], ["man"], ["old", "a"]], photos())
    y = fused(model, [[], [], ["a man"], ["old"], ["woman"]], photos())
    scores = model.similarity(x, y)
    torch.testing.assert_close(model.index_vectors(x) @ model.index_vectors(y, probe=True).T, scores)
    torch.testing.assert_close(model.similarity(y, x).T, scores)
    unit = models[0].index_vectors(torch.randn(3, 128))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))


def test_without_captions_it_is_the_image_only_model_to_the_bit(models, store):
    image_only, model = models
    expected = embed_photos(image_only, store, CAPTIONS, progress=False)["none"]["fused"]
    found = embed_photos(model, store, CAPTIONS, modes=("none",), progress=False)["none"]["fused"]
    for variant in (0, 1):
        scores = score_matrix(found[0], found[variant], model)
        np.testing.assert_array_equal(scores, score_matrix(expected[0], expected[variant]))
    silent = fused(model, [[]] * 5, photos())
    assert silent.isfinite().all()


def test_a_photo_without_caption_is_as_if_nobody_had_one(models, store):
    model = models[1]
    read = embed_photos(model, store, CAPTIONS, modes=("none", "first", "all"), progress=False)
    for mode in ("first", "all"):
        assert np.isfinite(read[mode]["fused"]).all() and np.isfinite(read[mode]["sentence"]).all()
        np.testing.assert_allclose(read[mode]["fused"][:, [1, 3]], read["none"]["fused"][:, [1, 3]], atol=1e-6)
    np.testing.assert_allclose(read["first"]["fused"][:, [0, 4]], read["all"]["fused"][:, [0, 4]], atol=1e-5)
    assert np.abs(read["first"]["fused"][:, 2] - read["all"]["fused"][:, 2]).max() > 1e-3
    alone = embed_photos(model, store, CAPTIONS, np.array([2]), modes=("all",), progress=False)["all"]["fused"]
    np.testing.assert_allclose(alone[:, 0], read["all"]["fused"][:, 2], atol=1e-5)


def test_the_order_of_captions_does_not_matter(models):
    model, seen = models[1], photos(1)
    a, b = (fused(model, [row], seen) for row in (["a man", "old", "a woman"], ["a woman", "a man", "old"]))
    torch.testing.assert_close(a, b)


def test_captions_can_say_no_more_than_the_bound(models):
    model = models[1]
    with torch.no_grad():
        model.fusion.reader.network[-1].weight.mul_(1e4)
        model.fusion.power.fill_(0)
        model.fusion.shown.weight.mul_(1e4)
    told, silent = (fused(model, rows, photos()) for rows in ([["a man"]] * 5, [[]] * 5))
    cross, words, sentences, persons, tfidf = model.fusion.weights.tolist()
    nat = model.fusion.bound**2 / model.fusion.terms**0.5
    face = cosine_matrix(told[:, :128], silent[:, :128])
    one_sided = (model.similarity(told, silent) - face).abs().max()
    assert 0.01 < one_sided <= (cross * nat + words) * 1.0001
    both = (model.similarity(told, told) - cosine_matrix(told[:, :128], told[:, :128])).abs().max()
    assert both <= ((2 * cross + sentences) * nat + 2 * words + persons + tfidf) * 1.0001


def test_a_saved_model_scores_the_same(models, tmp_path):
    model, seen = models[1], photos()
    model.fusion.weights.copy_(torch.tensor([0.03, 0.25, 0.07, 0.2, 0.1]))
    model.fusion.power.fill_(1.5)
    model.save(tmp_path / "model")
    again = TGFR.load(tmp_path / "model")
    rows = [["a man"], [], ["old"], [], ["a woman", "old"]]
    x, y = fused(model, rows, seen), fused(again, rows, seen)
    assert torch.equal(model.similarity(x, x), again.similarity(y, y))
    assert "which may be missing" in (tmp_path / "model/README.md").read_text()


def test_readers():
    reader = PhotoReader(8, (4, 3, 3)).eval()  # a map smaller than the grid
    assert reader(ImageFeatures(torch.zeros(2, 8), torch.zeros(2, 4, 3, 3))).isfinite().all()
    text = TextFeatures(l2_normalize(torch.randn(2, 8)), torch.zeros(2, 8, 1), torch.tensor([[True], [False]]))
    read = CaptionReader(8, 3, 4).eval()(text, torch.rand(2, 3))
    assert [part.shape for part in read] == [(2, 4)] * 3
    assert all((part[1] == 0).all() and part[0].any() for part in read)  # no word, no count: no caption
    long, short = torch.tensor([[30.0, 40.0]]), torch.tensor([[0.3, 0.4]])
    torch.testing.assert_close(clip_norm(long, 5), torch.tensor([[3.0, 4.0]]))
    assert torch.equal(clip_norm(short, 5), short)
    assert EvidenceFusion(16, (7, 7), use_captions=False).width == 32


def test_a_description_finds_the_photo_whose_attributes_fit(models, store):
    model = models[1]
    model.fusion.search_weight.fill_(3)
    rows, scores = search_by_text(model, store, ["a man", "old"], max_results=5)
    with torch.no_grad():
        shown = model.fusion.show(model.image_head(store.batch(0, range(5))))
        for query, caption in enumerate(["a man", "old"]):
            expected = (shown @ model.fusion.describe(model.encode_captions([caption]))[0]).numpy()
            np.testing.assert_array_equal(rows[query], np.argsort(-expected))
            np.testing.assert_allclose(scores[query], np.sort(expected)[::-1], rtol=1e-4)
    model.fusion.weights.zero_()  # what verification weighs does not matter here
    np.testing.assert_array_equal(search_by_text(model, store, ["a man", "old"], max_results=5)[0], rows)
    captions = [["a man"], ["old"], ["a woman"], ["old man"], ["woman"]]
    found = retrieve(model, store, captions, np.arange(5), replicates=2)
    directions = {"text to image", "text to person", "image to text"}
    assert {row.system for row in found} == {"chance", "chance, person", *directions}


def test_tokens_are_counted_as_scikit_learn_does():
    from sklearn.feature_extraction.text import TfidfVectorizer

    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 20, draw.integers(1, 15)).tolist() for _ in range(50)]
    texts = [" ".join(f"t{token}" for token in row) for row in rows]
    expected = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+").fit_transform(texts).toarray()
    ids = torch.tensor([row + [-1] * (15 - len(row)) for row in rows])
    counter = TokenCounter(24)
    counter.learn([ids[:20], ids[20:]])
    said = counter(ids).numpy()
    np.testing.assert_allclose(said @ said.T, expected @ expected.T, atol=1e-6)
    few = TokenCounter(3)
    few.learn([ids])
    common = np.argsort([-sum(token in row for row in rows) for token in range(20)], kind="stable")[:3]
    assert few.tokens.tolist() == sorted(common.tolist())
    empty = TokenCounter(2)
    empty.learn([])
    assert (empty(ids) == 0).all() and (counter(torch.full((2, 3), -1)) == 0).all()


def test_the_captions_of_a_photo_are_counted_together():
    ids = torch.tensor([[4, 5], [6, -1], [7, 8]])
    merged = merge_ids(ids, torch.tensor([2, 0, 1]))
    assert [sorted(row[row >= 0].tolist()) for row in merged] == [[4, 5, 6], [], [7, 8]]


def test_a_text_encoder_that_tells_no_tokens_leaves_tf_idf_out(models):
    model = models[1]
    text = replace(model.encode_captions(["a man", "old"]), ids=None)
    image = model.image_head(photos(2))
    with torch.no_grad():
        assert (model.fusion.evidence(image.attributes, text)[4] == 0).all()
        assert model.fusion(image, text).isfinite().all()


def test_without_the_region_map_the_embedding_alone_is_read():
    reader = PhotoReader(32, (16, 7, 7)).eval()
    seen = photos()
    other = replace(seen, regions=seen.regions + 1)
    assert not torch.equal(reader(seen), reader(other))
    reader.regions_weight.zero_()
    assert torch.equal(reader(seen), reader(other))


def test_expected_words_are_those_of_scikit_learns_ridge_regression():
    from sklearn.linear_model import Ridge

    draw = np.random.default_rng(0)
    small, large = draw.normal(size=(80, 3)) * 0.1, draw.normal(size=(80, 5)) * 40 + 7
    x, said = np.hstack([small, large, np.ones((80, 1))]).astype("f"), draw.random((80, 6)).astype("f")
    regression = TokenRegression((3, 6), 6)
    assert (regression(torch.tensor(x)) == 0).all()  # nothing is learned
    regression.learn((torch.tensor(part), torch.tensor(what)) for part, what in zip(np.split(x, 4), np.split(said, 4)))
    unit = np.hstack([small / small.std(0) / 3**0.5, large / large.std(0) / 6**0.5])  # the constant tells nothing
    more = Ridge(1.0).fit(unit - unit.mean(0), said).predict(unit - unit.mean(0)) - said.mean(0)
    np.testing.assert_allclose(regression(torch.tensor(x)), more / np.linalg.norm(more, axis=1)[:, None], atol=2e-4)


def test_captions_told_afterwards_are_as_if_they_had_been_there(models):
    model, seen = models[1], photos()
    rows = [["a man"], [], ["a woman", "old", "a man"], [], ["old"]]
    counts = torch.tensor([len(row) for row in rows])
    with torch.no_grad():
        image = model.image_head(seen)
        silent = model.fusion(image)
        text = model.encode_text(model.text_encoder.tokenize([c for row in rows for c in row]), counts)
        assert torch.equal(model.fusion.tell(silent, text), model.fusion(image, text))
        assert torch.equal(model.fusion.tell(silent, None), silent)

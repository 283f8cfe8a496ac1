"""What is stored of photos and their variants, and which ones are refused."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_store import DEGRADATIONS, Tiny, files, photos

from tgfr.core import TgfrError, rng
from tgfr.data.degradation import Degradation
from tgfr.data.faces import read_image
from tgfr.encoders.face_features import encode_faces
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.features import ImageFeatures


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return photos()


@pytest.fixture
def store(dataset, tmp_path) -> FeatureStore:
    return encode_faces(dataset, Tiny(), DEGRADATIONS, tmp_path / "store", batch=8)


def test_what_is_stored(store, dataset):
    assert store.variants == ["112px", "32px", "16px noise8"] and len(store) == 21
    assert isinstance(store.embedding, np.memmap) and isinstance(store.regions, np.memmap)
    assert (store.embedding.dtype, store.regions.dtype) == (np.float32, np.float16)
    assert store.meta["photo_id"] == dataset["photo_id"][:]
    for v, degradation in enumerate(DEGRADATIONS):
        for row in (0, 9, 20):
            image = degradation(read_image(dataset[row]["image"]), dataset[row]["photo_id"])
            alone = Tiny().encode(image[None])
            np.testing.assert_array_equal(store.embedding[v, row], alone.embedding[0])
            np.testing.assert_array_equal(store.regions[v, row], alone.regions[0].half())
    assert sorted(p.name for p in store.folder.iterdir()) == [
        ".lock",
        "checksums.txt",
        "embedding.npy",
        "meta.json",
        "regions.npy",
    ]


def test_order_of_photos_does_not_change_a_photo(store, dataset, tmp_path):
    order = rng("order").permutation(len(dataset))
    other = encode_faces(dataset.select(order), Tiny(), DEGRADATIONS, tmp_path / "other", batch=4)
    np.testing.assert_array_equal(other.embedding, store.embedding[:, order])


def test_embeddings_only(dataset, tmp_path):
    store = encode_faces(dataset, Tiny(regions=None), DEGRADATIONS[:1], tmp_path, regions=False)
    assert store.regions is None and store.batch(0, [1, 2]).regions is None and not (tmp_path / "regions.npy").exists()
    with pytest.raises(TgfrError, match="no region map"):
        encode_faces(dataset, Tiny(regions=None), DEGRADATIONS[:1], tmp_path)


class Styled(Tiny):
    "Gives styles too: of stage `a` one channel, of `b` two."

    def style_width(self, styles):
        return sum({"a": 1, "b": 2}[name] for name in styles)

    def encode(self, images, styles=()):
        plain = super().encode(images)
        return ImageFeatures(
            plain.embedding, plain.regions, plain.embedding[:, : 2 * self.style_width(styles)].unflatten(1, (-1, 2))
        )


def test_styles_and_half_precision(dataset, tmp_path):
    store = encode_faces(
        dataset, Styled(), DEGRADATIONS, tmp_path / "half", regions=False, styles=("a", "b"), dtype="float16"
    )
    assert (store.embedding.dtype, store.styles.dtype, store.styles.shape, store.regions) == (
        np.float16,
        np.float16,
        (3, 21, 3, 2),
        None,
    )
    batch = store.batch([2, 0], [20, 3])
    np.testing.assert_array_equal(batch.styles.flatten(1), batch.embedding[:, :6])
    assert batch.styles.dtype == torch.float32 and batch.styles.shape == (2, 3, 2)
    store.verify()
    full = encode_faces(dataset, Styled(), DEGRADATIONS, tmp_path / "full", regions=False, styles=("a", "b"))
    np.testing.assert_array_equal(full.embedding.astype(np.float16), store.embedding)
    other = encode_faces(dataset, Styled(), DEGRADATIONS, tmp_path / "full", regions=False, styles=("b",))
    assert other.styles.shape == (3, 21, 2, 2)
    with pytest.raises(TgfrError, match="float32 or float16"):
        encode_faces(dataset, Tiny(), DEGRADATIONS, tmp_path, dtype="int8")


def test_a_photo_that_changes_meanwhile_is_noticed(dataset, tmp_path):
    paths = [tmp_path / f"{k}.jpg" for k in range(6)]
    for path, row in zip(paths, dataset):
        path.write_bytes(row["image"]["bytes"])
    named = Dataset.from_list(
        [{"image": {"bytes": None, "path": str(p)}, "photo_id": p.name} for p in paths], features=dataset.features
    )

    class Slow(Tiny):
        def encode(self, images):
            paths[5].write_bytes(dataset[9]["image"]["bytes"])
            return super().encode(images)

    with pytest.raises(TgfrError, match="photo 5.jpg: was changed"):
        encode_faces(named, Slow(), DEGRADATIONS, tmp_path / "store", batch=4)
    again, fresh = (encode_faces(named, Tiny(), DEGRADATIONS, tmp_path / name, batch=4) for name in ("store", "fresh"))
    assert files(again.folder) == files(fresh.folder)


@pytest.mark.parametrize(
    "what, value",
    [("embedding", float("nan")), ("embedding", float("inf")), ("regions", float("nan")), ("regions", 1e6)],
)
def test_features_that_are_not_finite_name_the_photo(what, value, dataset, tmp_path):
    class Broken(Tiny):
        def encode(self, images):
            out = super().encode(images)
            out = ImageFeatures(out.embedding.clone(), out.regions)
            if self.seen == 32:
                getattr(out, what)[3] = value  # fourth call: second batch, first variant
            return out

    with pytest.raises(TgfrError, match=rf"photo 2/3 \(112px\): its {what} is not finite"):
        encode_faces(dataset, Broken(), DEGRADATIONS, tmp_path, batch=8)
    with pytest.raises(TgfrError, match="unfinished, 8 photos"):
        FeatureStore.open(tmp_path)


def test_shapes_that_differ_from_the_config(dataset, tmp_path):
    for config, message in (
        ({"embedding": 13}, r"embedding: the encoder's config promises \(8, 13\), it gave \(8, 12\)"),
        ({"regions": (3, 4, 1)}, "regions: the"),
    ):
        with pytest.raises(TgfrError, match=message):
            encode_faces(dataset, Tiny(**config), DEGRADATIONS, tmp_path, batch=8)


def test_wrong_use(dataset, tmp_path):
    for change, message in (
        ({"batch": 0}, "batch 0"),
        ({"degradations": []}, "degradations"),
        ({"degradations": [Degradation(), Degradation(112)]}, "each once"),
        ({"dataset": dataset.select([])}, "empty"),
        ({"dataset": dataset.remove_columns("photo_id")}, "no column photo_id"),
    ):
        with pytest.raises(TgfrError, match=message):
            encode_faces(
                **{"dataset": dataset, "encoder": Tiny(), "degradations": DEGRADATIONS, "folder": tmp_path / "x"}
                | change
            )
    (tmp_path / "file").write_text("")
    with pytest.raises(TgfrError, match="file"):
        encode_faces(dataset, Tiny(), DEGRADATIONS, tmp_path / "file" / "inside")


def test_unreadable_photo_is_named(dataset, tmp_path):
    for image in ({"bytes": b"?", "path": None}, {"bytes": None, "path": "nowhere.jpg"}, None):
        bad = Dataset.from_list(
            [*dataset.select([0, 1]), {"image": image, "photo_id": "bad one"}], features=dataset.features
        )
        with pytest.raises(TgfrError, match="bad one"):
            encode_faces(bad, Tiny(), DEGRADATIONS, tmp_path)


def test_photos_given_as_paths(dataset, store, tmp_path):
    rows = []
    for i, row in enumerate(dataset):
        (tmp_path / f"{i}.jpg").write_bytes(row["image"]["bytes"])
        rows.append({"image": {"bytes": None, "path": str(tmp_path / f"{i}.jpg")}, "photo_id": row["photo_id"]})
    paths = Dataset.from_list(rows, features=dataset.features)
    assert (
        encode_faces(paths, Tiny(), DEGRADATIONS, tmp_path / "paths", batch=8).meta["fingerprint"]
        == store.meta["fingerprint"]
    )


def test_an_encoder_is_shown_photos_before_the_first_run_alone(dataset, tmp_path, capsys):
    "What it says of their preparation is told once: a finished or continued store has been looked at."

    class Doubtful(Tiny):
        shown = 0

        def check_images(self, images, identity=None):
            assert images.dtype == np.uint8 and images.shape == (21, 112, 112, 3) and identity is None
            self.shown += 1
            return "fed RGB, wants BGR"

    encoder = Doubtful()
    for _ in range(2):
        encode_faces(dataset, encoder, DEGRADATIONS, tmp_path, batch=8)
    assert encoder.shown == 1
    assert capsys.readouterr().err.count("warning: fed RGB, wants BGR") == 1


def test_an_encoder_is_shown_two_photos_each_of_a_few_people(dataset, tmp_path):
    shown = []

    class Doubtful(Tiny):
        def check_images(self, images, identity):
            shown.append(identity)
            return ""

    people = [k // 2 for k in range(21)]
    encode_faces(dataset.add_column("identity", people), Doubtful(), DEGRADATIONS, tmp_path, batch=8)
    assert shown == [[k // 2 for k in range(20)]]

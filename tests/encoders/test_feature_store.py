"The feature store: computed once, resumable after a kill, never mixed, read in bounded memory."

import json
import pickle
import struct
import time
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from processes import finish, kill_when, needs_kill, python, wait_for

from tgfr.core import TgfrError, rng
from tgfr.data import folders
from tgfr.data.degradation import Degradation
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.encoders import feature_store as features
from tgfr.encoders.face_features import encode_faces
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.features import ImageFeatures
from tgfr.encoders.store_files import read_npy_header

DEGRADATIONS = [Degradation(), Degradation(32), Degradation(16, noise=8)]


@dataclass(frozen=True)
class Config:
    name: str = "tiny"
    embedding: int = 12
    regions: tuple | None = (3, 2, 2)
    size: int = 112


class Tiny:
    "Means of the four quarters; `seen` counts photos, `nap` makes a batch last, `after` ends it."

    def __init__(self, nap=0.0, after=None, **config):
        self.config, self.seen, self.nap, self.after = Config(**config), 0, nap, after

    def encode(self, images: np.ndarray) -> ImageFeatures:
        assert images.dtype == np.uint8 and images.shape[1:] == (self.config.size, self.config.size, 3)
        if self.after is not None and self.seen >= self.after:
            raise KeyboardInterrupt
        time.sleep(self.nap)
        self.seen += len(images)
        half = self.config.size // 2
        regions = (
            torch.from_numpy(images)
            .permute(0, 3, 1, 2)
            .float()
            .unflatten(3, (2, half))
            .unflatten(2, (2, half))
            .mean((3, 5))
            / 255
        )
        return ImageFeatures(regions.flatten(1), regions)


def photos(n: int = 21) -> Dataset:
    rows = [
        {
            "image": {"bytes": encode_jpeg(rng("photo", i).integers(0, 256, (112, 112, 3), np.uint8)), "path": None},
            "photo_id": f"{i // 4}/{i % 4}",
        }
        for i in range(n)
    ]
    return Dataset.from_list(rows, features=Features({"image": Image(decode=False), "photo_id": Value("string")}))


def files(folder: Path) -> dict:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.*")) if p.name != ".lock"}


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


def test_a_finished_store_is_not_computed_again(store, dataset):
    before, again = files(store.folder), Tiny()
    encode_faces(dataset, again, DEGRADATIONS, store.folder, batch=5)
    assert again.seen == 0 and files(store.folder) == before


def test_order_of_photos_does_not_change_a_photo(store, dataset, tmp_path):
    order = rng("order").permutation(len(dataset))
    other = encode_faces(dataset.select(order), Tiny(), DEGRADATIONS, tmp_path / "other", batch=4)
    np.testing.assert_array_equal(other.embedding, store.embedding[:, order])


def test_batch_gathers_what_was_asked_for(store):
    generator = rng("gather")
    variants, rows = generator.integers(3, size=200), generator.integers(21, size=200)
    for v, r in (
        (variants, rows),
        (torch.from_numpy(variants), torch.from_numpy(rows)),
        (variants.tolist(), rows.tolist()),
    ):
        batch = store.batch(v, r)
        assert batch.embedding.dtype == batch.regions.dtype == torch.float32
        np.testing.assert_array_equal(batch.embedding, store.embedding[variants, rows])
        np.testing.assert_array_equal(batch.regions, store.regions[variants, rows].astype(np.float32))
    np.testing.assert_array_equal(store.batch(1, [5, 3]).embedding, store.embedding[1, [5, 3]])
    np.testing.assert_array_equal(store.batch([0, 1, 2], 7).embedding, store.embedding[:, 7])
    assert store.batch([], []).regions.shape == (0, 3, 2, 2)
    for v, r in (([0], [21]), ([3], [0]), ([0], [-1]), ([-1], [0])):
        with pytest.raises(IndexError):
            store.batch(v, r)


def test_batch_is_writable_and_does_not_reach_the_disk(store):
    before = files(store.folder)
    store.batch(0, [1, 2]).embedding.zero_()
    assert files(store.folder) == before


def test_store_travels_to_workers_as_its_folder(store):
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed).regions, store.regions)


def test_embeddings_only(dataset, tmp_path):
    store = encode_faces(dataset, Tiny(regions=None), DEGRADATIONS[:1], tmp_path, regions=False)
    assert store.regions is None and store.batch(0, [1, 2]).regions is None and not (tmp_path / "regions.npy").exists()
    with pytest.raises(TgfrError, match="no region map"):
        encode_faces(dataset, Tiny(regions=None), DEGRADATIONS[:1], tmp_path)


Weighted = namedtuple("Weighted", "config fingerprint encode")


def weighted(content_digest: str) -> Weighted:
    return Weighted(Config(), content_digest, Tiny().encode)


def test_anything_that_changes_the_features_changes_the_fingerprint(dataset, tmp_path):
    row = dataset[0]
    louder = Dataset.from_list(
        [{**row, "image": {"bytes": row["image"]["bytes"] + b"\0", "path": None}}, *dataset.select(range(1, 21))],
        features=dataset.features,
    )
    renamed = Dataset.from_list([{**row, "photo_id": "new"}, *dataset.select(range(1, 21))], features=dataset.features)
    runs = [
        (dataset, Tiny(), DEGRADATIONS, True),
        (louder, Tiny(), DEGRADATIONS, True),
        (renamed, Tiny(), DEGRADATIONS, True),
        (dataset.select(range(20)), Tiny(), DEGRADATIONS, True),
        (dataset.select([1, 0, *range(2, 21)]), Tiny(), DEGRADATIONS, True),
        (dataset, Tiny(name="other"), DEGRADATIONS, True),
        (dataset, Tiny(size=64), DEGRADATIONS, True),
        (dataset, weighted("a"), DEGRADATIONS, True),
        (dataset, weighted("b"), DEGRADATIONS, True),
        (dataset, Tiny(), DEGRADATIONS[:2], True),
        (dataset, Tiny(), DEGRADATIONS[::-1], True),
        (dataset, Tiny(), [*DEGRADATIONS[:2], replace(DEGRADATIONS[2], noise=9)], True),
        (dataset, Tiny(), DEGRADATIONS, False),
    ]
    prints = [encode_faces(d, e, g, tmp_path, regions=r).meta["fingerprint"] for d, e, g, r in runs]
    assert len(set(prints)) == len(runs)
    assert encode_faces(*runs[0][:3], tmp_path / "elsewhere").meta["fingerprint"] == prints[0]


def test_another_run_replaces_the_old_features(store, dataset, tmp_path):
    other = encode_faces(photos(30), Tiny(), DEGRADATIONS[1:], store.folder)
    fresh = encode_faces(photos(30), Tiny(), DEGRADATIONS[1:], tmp_path / "fresh")
    assert files(other.folder) == files(fresh.folder)


def test_an_unfinished_run_of_another_kind_is_not_continued(store, dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode_faces(dataset, Tiny(after=24, name="other"), DEGRADATIONS, tmp_path / "half", batch=8)
    assert json.loads((tmp_path / "half" / "progress.json").read_text())["rows"] == 8
    again = Tiny()
    assert files(encode_faces(dataset, again, DEGRADATIONS, tmp_path / "half", batch=8).folder) == files(store.folder)
    assert again.seen == 63


@pytest.mark.parametrize("after", [0, 8, 24, 40, 56])  # before anything, within a batch's variants, between batches
def test_an_interrupted_run_is_continued_to_the_bit(after, store, dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode_faces(dataset, Tiny(after=after), DEGRADATIONS, tmp_path / "half", batch=8)
    with pytest.raises(TgfrError, match="unfinished"):
        FeatureStore.open(tmp_path / "half")
    again = Tiny()
    encode_faces(dataset, again, DEGRADATIONS, tmp_path / "half", batch=8)
    assert again.seen == 63 - after // 24 * 24 and files(tmp_path / "half") == files(store.folder)


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


@pytest.mark.parametrize("after", [0, 24, 48])  # killed before the first new batch, after it, after the second
def test_a_store_grows_and_survives_a_kill_while_growing(after, store, dataset, tmp_path):
    more, whole = photos(40), encode_faces(photos(40), Tiny(), DEGRADATIONS, tmp_path / "whole", batch=8)
    with pytest.raises(KeyboardInterrupt):
        encode_faces(more, Tiny(after=after), DEGRADATIONS, store.folder, batch=8)
    with pytest.raises(TgfrError, match=f"unfinished, {21 + after // 3} photos"):
        FeatureStore.open(store.folder)
    again = Tiny()
    grown = encode_faces(more, again, DEGRADATIONS, store.folder, batch=8)
    assert again.seen == 3 * 19 - after
    grown.verify()
    for name in ("embedding", "regions"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name))
    assert {k: v for k, v in files(grown.folder).items() if k != "checksums.txt"} == {
        k: v for k, v in files(whole.folder).items() if k != "checksums.txt"
    }


def test_photos_that_are_no_continuation_begin_anew(store, dataset):
    again = Tiny()
    encode_faces(photos(40).select([1, 0, *range(2, 40)]), again, DEGRADATIONS, store.folder, batch=8)
    assert again.seen == 120


@pytest.mark.parametrize("name", ["embedding", "regions"])
def test_a_changed_byte_is_found(name, store):
    path = store.folder / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    store.verify()
    path.write_bytes(data)
    with pytest.raises(TgfrError, match=f"{name} of rows 16 to 20 is not what was written"):
        FeatureStore.open(store.folder).verify()
    for text in ("8 embedding=zz\n", "8\n", "99 embedding=00000000\n", "x"):
        (store.folder / "checksums.txt").write_text(text)
        with pytest.raises(TgfrError, match="checksums.txt"):
            store.verify()


def damage(path: Path, how: str) -> None:
    "A bit turned or a page of zeros in the middle of a file."
    data = bytearray(path.read_bytes())
    middle = len(data) * 3 // 4
    if how == "bit":
        data[middle] ^= 4
    else:
        data[middle : middle + 200] = bytes(len(data[middle : middle + 200]))
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["bit", "page"])
@pytest.mark.parametrize("name", ["embedding", "regions"])
def test_damage_is_named_where_a_store_is_read(name, how, store, dataset, capsys):
    "Row 15 of 21 lies at three quarters: the second of three batches of 8. It is named, and encoding goes on before it."
    before, again = files(store.folder), Tiny()
    damage(store.folder / f"{name}.npy", how)
    with pytest.raises(TgfrError, match=rf"{name} of rows 8 to 15 is not what was written"):
        FeatureStore.open(store.folder)
    encode_faces(dataset, again, DEGRADATIONS, store.folder, batch=8)
    assert f"{name} of rows 8 to 15 is not what was written" in capsys.readouterr().err
    assert again.seen == 3 * 13 and files(store.folder) == before


def test_damage_behind_which_a_run_stopped_is_not_gone_on_from(store, dataset, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        encode_faces(dataset, Tiny(after=48), DEGRADATIONS, tmp_path, batch=8)
    array = np.load(tmp_path / "embedding.npy", mmap_mode="r+")
    array.view(np.uint8)[10, 1, 3] ^= 1
    array.flush()
    again = Tiny()
    encode_faces(dataset, again, DEGRADATIONS, tmp_path, batch=8)
    assert "embedding of rows 8 to 15 is not what was written" in capsys.readouterr().err
    assert again.seen == 3 * 13 and files(tmp_path) == files(store.folder)


@pytest.mark.parametrize("name", ["meta.json", "checksums.txt"])
def test_a_flipped_bit_beside_the_arrays_is_noticed(name, store, dataset):
    before = files(store.folder)
    for place in range(3, len(before[name]), 37):
        (store.folder / name).write_bytes(
            before[name][:place] + bytes([before[name][place] ^ 1]) + before[name][place + 1 :]
        )
        with pytest.raises(TgfrError, match="meta.json|checksums.txt|is not what was written|format"):
            FeatureStore.open(store.folder)
    encode_faces(dataset, Tiny(), DEGRADATIONS, store.folder, batch=8)
    assert files(store.folder) == before


def test_parts_of_two_stores_are_no_store(store, dataset, tmp_path):
    "As after a copy that was begun anew half-way: each file whole, and of another run."
    other = encode_faces(photos(42).select(range(21, 42)), Tiny(), DEGRADATIONS, tmp_path / "other", batch=8)
    (store.folder / "meta.json").write_bytes((other.folder / "meta.json").read_bytes())
    with pytest.raises(TgfrError, match="meta.json: is not what was written"):
        FeatureStore.open(store.folder)


def test_a_store_that_another_run_replaces_stays_what_it_was(store, dataset):
    first = np.array(store.embedding)
    encode_faces(photos(40).select(range(19, 40)), Tiny(), DEGRADATIONS, store.folder, batch=8)
    np.testing.assert_array_equal(store.batch(1, np.arange(21)).embedding, first[1])
    packed = pickle.dumps(store)
    with pytest.raises(TgfrError, match="another process changed the store"):
        pickle.loads(packed)


@pytest.mark.parametrize("change", ["number", "cut"])
def test_a_store_that_is_changed_in_its_place_is_noticed(change, store):
    store.batch(0, [3])
    with open(store.folder / "regions.npy", "r+b") as file:
        file.seek(-9, 2), file.truncate() if change == "cut" else file.write(b"*")
    with pytest.raises(TgfrError, match="regions of rows .* another process changed the store"):
        store.batch(0, [3])
    with pytest.raises(TgfrError, match="another process changed the store"):
        store.recheck()


def test_a_store_that_grows_may_be_read_meanwhile(store):
    first = np.array(store.embedding)
    encode_faces(photos(40), Tiny(), DEGRADATIONS, store.folder, batch=8)
    np.testing.assert_array_equal(store.batch(2, np.arange(21)).embedding, first[2])


def test_stores_are_for_their_owner_alone(store):
    assert {p.name: p.stat().st_mode & 0o77 for p in store.folder.iterdir() if p.name != ".lock"} == dict.fromkeys(
        files(store.folder), 0
    )


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


def progress(folder: Path) -> int:
    try:
        return json.loads((folder / "progress.json").read_text())["rows"]
    except FileNotFoundError:
        return -1


ENCODE = "import sys; from pathlib import Path; from test_feature_store import *; encoder = Tiny(nap=float(sys.argv[2])); encode_faces(photos(), encoder, DEGRADATIONS, Path(sys.argv[1]), batch=4); print(encoder.seen)"


@needs_kill
@pytest.mark.skipif(folders.fcntl is None, reason="needs file locks")
def test_killed_and_continued_by_the_process_that_waited(store, dataset, tmp_path):
    folder = tmp_path / "killed"
    reference = encode_faces(dataset, Tiny(), DEGRADATIONS, tmp_path / "reference", batch=4)
    first = python("-c", ENCODE, folder, 0.3)
    wait_for(lambda: progress(folder) >= 4, first)
    second = python("-c", ENCODE, folder, 0)
    kill_when(lambda: progress(folder) >= 8, first)
    assert 0 < int(*finish(second)) < 63  # continued, not begun anew
    assert files(folder) == files(reference.folder)


@needs_kill
def test_killed_and_resumed_to_the_bit(dataset, tmp_path):
    folder = tmp_path / "killed"
    kill_when(lambda: progress(folder) >= 8, python("-c", ENCODE, folder, 0.1))
    with pytest.raises(TgfrError, match="unfinished"):
        FeatureStore.open(folder)
    done, again = progress(folder), Tiny()
    encode_faces(dataset, again, DEGRADATIONS, folder, batch=4)
    assert done >= 8 and again.seen == 3 * (21 - done)
    assert files(folder) == files(encode_faces(dataset, Tiny(), DEGRADATIONS, tmp_path / "reference", batch=4).folder)


@pytest.mark.skipif(folders.fcntl is None, reason="needs file locks")
def test_two_processes_share_one_run(tmp_path):
    printed = finish(*(python("-c", ENCODE, tmp_path / "shared", 0.05) for _ in range(2)))
    assert sorted(map(int, printed)) == [0, 63]


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


def test_too_little_space_is_said_before_anything_is_touched(store, dataset, monkeypatch):
    before, Usage = files(store.folder), namedtuple("Usage", "free")
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: Usage(10_000))
    with pytest.raises(TgfrError, match=r"bytes are needed for the features of 2,100 photos, 1\d,\d{3} are available"):
        encode_faces(
            Dataset.from_dict({k: dataset[k][:] * 100 for k in ("image", "photo_id")}, features=dataset.features),
            Tiny(),
            DEGRADATIONS,
            store.folder,
        )
    assert files(store.folder) == before


@pytest.mark.parametrize("name", ["embedding.npy", "regions.npy"])
def test_damaged_arrays_are_refused_and_computed_again(name, store, dataset):
    path, before = store.folder / name, files(store.folder)
    wrong = {
        "missing": None,
        "empty": b"",
        "cut": before[name][:-10],
        "longer": before[name] + b"\0",
        "text": b"hello" * 100,
    }
    for shape, dtype in (((3, 21, 5), np.float32), ((3, 21, 3, 2, 2), np.float64), ((1,), object)):
        np.save(path, np.zeros(shape, dtype), allow_pickle=True)
        wrong[f"{shape} {dtype}"] = path.read_bytes()
    for data in wrong.values():
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(TgfrError, match=name):
            FeatureStore.open(store.folder)
    again = Tiny()
    encode_faces(dataset, again, DEGRADATIONS, store.folder, batch=8)
    assert again.seen == 63 and files(store.folder) == before


def test_folders_that_are_no_store(store, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(TgfrError, match="no feature store"):
            FeatureStore.open(folder)
    meta = json.loads((store.folder / "meta.json").read_text())
    for wrong in (
        {},
        [],
        {**meta, "arrays": {}},
        {**meta, "arrays": {"embedding": 3}},
        {**meta, "variants": ["112px"]},
        {**meta, "photo_id": meta["photo_id"][:5]},
    ):
        (store.folder / "meta.json").write_text(json.dumps(wrong))
        with pytest.raises(TgfrError, match="meta.json|embedding.npy"):
            FeatureStore.open(store.folder)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_writing_needs_the_memory_of_a_batch(dataset, tmp_path):
    def mapped() -> int:
        return (
            next(
                int(line.split()[1])
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("RssFile")
            )
            * 1024
        )

    class Wide(Tiny):
        most = 0

        def encode(self, images):
            self.most = max(self.most, mapped())
            return ImageFeatures(torch.zeros(len(images), 12), torch.ones(len(images), 512, 14, 14))

    many = Dataset.from_dict(
        {"image": [dataset[0]["image"]] * 640, "photo_id": [str(i) for i in range(640)]}, features=dataset.features
    )
    encoder, before = Wide(regions=(512, 14, 14)), mapped()
    store = encode_faces(many, encoder, [Degradation()], tmp_path, batch=32)
    size = (tmp_path / "regions.npy").stat().st_size
    assert size > 128e6 and encoder.most - before < size / 4
    assert isinstance(store.regions, np.memmap) and float(store.regions[0, 639].min()) == 1


def test_damaged_heads_are_named(tmp_path):
    "A .npy head is read as Python: whatever is wrong with it is one line."
    good = np.lib.format.magic(1, 0) + struct.pack("<H", 118)
    heads = [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), ",
        b"{",
        b"{'descr': ",
        b"'''",
        b"(" * 100,
        b"{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        b"{'descr': 7, 'fortran_order': False, 'shape': (3,)}",
        b"\xff\xfe",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 60 + b",)}",
        b"\x00",
    ]
    for head in heads:
        (tmp_path / "a.npy").write_bytes(good + head.ljust(117) + b"\n" + bytes(12))
        try:
            found = read_npy_header(tmp_path / "a.npy")
        except TgfrError as e:
            assert "a.npy: not a readable .npy file" in str(e) and "\n" not in str(e)
        else:
            assert found[0][0] == (int("9" * 60),)  # a claim that _check_array compares with the size
    for k in range(len(good)):
        (tmp_path / "a.npy").write_bytes(good[:k])
        with pytest.raises(TgfrError, match="a.npy"):
            read_npy_header(tmp_path / "a.npy")

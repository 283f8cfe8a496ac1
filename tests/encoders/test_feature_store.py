"""A feature store as it is read: gathered rows, damage, changes meanwhile."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_store import DEGRADATIONS, Tiny, files, photos

from tgfr.core import TgfrError, rng
from tgfr.encoders.face_features import encode_faces
from tgfr.encoders.feature_store import FeatureStore


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return photos()


@pytest.fixture
def store(dataset, tmp_path) -> FeatureStore:
    return encode_faces(dataset, Tiny(), DEGRADATIONS, tmp_path / "store", batch=8)


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
    """Row 15 of 21 lies at three quarters: the second of three batches of 8. It is named, and encoding goes on before
    it."""
    before, again = files(store.folder), Tiny()
    damage(store.folder / f"{name}.npy", how)
    with pytest.raises(TgfrError, match=rf"{name} of rows 8 to 15 is not what was written"):
        FeatureStore.open(store.folder)
    encode_faces(dataset, again, DEGRADATIONS, store.folder, batch=8)
    assert f"{name} of rows 8 to 15 is not what was written" in capsys.readouterr().err
    assert again.seen == 3 * 13 and files(store.folder) == before


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

"""A feature store is computed once, resumed after a kill, never mixed, and written in bounded memory."""

import json
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from processes import finish, kill_when, needs_kill, python, wait_for
from tiny_store import DEGRADATIONS, ENCODE, Config, Tiny, files, photos

from tgfr.core import TgfrError
from tgfr.data import folders
from tgfr.data.degradation import Degradation
from tgfr.encoders import store_writing
from tgfr.encoders.face_features import encode_faces
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.features import ImageFeatures


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return photos()


@pytest.fixture
def store(dataset, tmp_path) -> FeatureStore:
    return encode_faces(dataset, Tiny(), DEGRADATIONS, tmp_path / "store", batch=8)


def test_a_finished_store_is_not_computed_again(store, dataset):
    before, again = files(store.folder), Tiny()
    encode_faces(dataset, again, DEGRADATIONS, store.folder, batch=5)
    assert again.seen == 0 and files(store.folder) == before


Weighted = namedtuple("Weighted", "config content_digest encode")


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


def test_stores_are_for_their_owner_alone(store):
    assert {p.name: p.stat().st_mode & 0o77 for p in store.folder.iterdir() if p.name != ".lock"} == dict.fromkeys(
        files(store.folder), 0
    )


def progress(folder: Path) -> int:
    try:
        return json.loads((folder / "progress.json").read_text())["rows"]
    except FileNotFoundError:
        return -1


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


def test_too_little_space_is_said_before_anything_is_touched(store, dataset, monkeypatch):
    before, Usage = files(store.folder), namedtuple("Usage", "free")
    monkeypatch.setattr(store_writing.shutil, "disk_usage", lambda _: Usage(10_000))
    with pytest.raises(TgfrError, match=r"bytes are needed for the features of 2,100 photos, 1\d,\d{3} are available"):
        encode_faces(
            Dataset.from_dict({k: dataset[k][:] * 100 for k in ("image", "photo_id")}, features=dataset.features),
            Tiny(),
            DEGRADATIONS,
            store.folder,
        )
    assert files(store.folder) == before


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

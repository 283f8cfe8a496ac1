"""Record files: the real one, what mxnet's format allows, and damage of every kind: a clear error or a valid read, in bounded memory."""
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from hostile import damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError, rng
from tgfr.data.faces import encode_jpeg
from tgfr.data.records import HEADER, MAGIC, Record, RecordFeatures, RecordFile, read_list, write_records


def test_real_file(shared_data):
    path = shared_data / "formats/mxnet_rec/train.rec"
    keys, labels, names = read_list(path.with_suffix(".lst"))
    for file in (RecordFile(path), RecordFile(path, index=False), pickle.loads(pickle.dumps(RecordFile(path)))):
        assert file.images.tolist() == sorted(keys.tolist()) and len(names) == len(file)
        assert file.labels(keys).tolist() == labels.tolist()
        for key in keys:
            record = file[key]
            assert record.id == key and record.image().shape == (112, 112, 3)
            assert (record.image(swap=True) == record.image()[..., ::-1]).all()


PART = struct.pack("<I", MAGIC)


@given(st.lists(st.tuples(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=4), st.lists(st.sampled_from([PART, b"abcd", b"x", b""]), max_size=6).map(b"".join)), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("rec") / "some.rec"
    write_records(path, [Record(np.array(label, "f"), i + 1, 2 * i, data) for i, (label, data) in enumerate(contents)])
    for file in (RecordFile(path), RecordFile(path, index=False)):
        for i, (label, data) in enumerate(contents):
            record = file[i + 1]
            assert (record.label.tolist(), record.data, record.id, record.id2) == (np.array(label, "f").tolist(), data, i + 1, 2 * i)


def test_repeated_ids_are_numbered(tmp_path):
    write_records(tmp_path / "a.rec", [Record(np.array([k], "f"), 0, 0, b"x" * k) for k in range(5)])
    (tmp_path / "a.idx").unlink()
    file = RecordFile(tmp_path / "a.rec")
    assert file.images.tolist() == [0, 1, 2, 3, 4] and file[3].data == b"xxx"
    with pytest.raises(KeyError): file[5]


@pytest.mark.parametrize("text, reason", [("0\t0\n1", "two whole numbers"), ("0\tx\n", "two whole numbers"), ("0\t4444\n", "points to byte"), ("0\t2\n", "multiple of 4"),
                                          ("0\t0\n0\t0\n", "occurs twice"), ("9" * 30 + "\t0\n", "two whole numbers"), ("0\t0\n" * 5000, "too many"), ("\0", "two whole numbers")])
def test_a_wrong_index_is_said(tmp_path, text, reason):
    write_records(tmp_path / "a.rec", [Record(np.array([k], "f"), k, 0, b"data") for k in range(3)])
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(TgfrError, match=reason): RecordFile(tmp_path / "a.rec")


def test_float32_features(tmp_path):
    rows = rng(0).normal(size=(4, 2, 5 + 2 * 3)).astype("f")
    write_records(tmp_path / "f.rec", [Record(np.array([k], "f"), k, 0, row.tobytes()) for k, row in enumerate(rows)])
    found = RecordFeatures(tmp_path / "f.rec", 5, 3, "float32").batch(np.array([1, 0]), np.array([3, 0]))
    assert (found.embedding.numpy() == rows[[3, 0], [1, 0], :5]).all() and found.styles.shape == (2, 3, 2)
    with pytest.raises(IndexError): RecordFeatures(tmp_path / "f.rec", 5, 3, "float32").batch(np.array([2]), np.array([0]))


def damage(data: bytes, draw) -> bytes:
    "One of several ways in which files break."
    data, kind = bytearray(data), draw.integers(5)
    if kind == 0: del data[draw.integers(len(data)):]
    elif kind == 1: data = damaged(data, draw.integers(1, 6), draw.integers)
    elif kind == 2:
        place = int(draw.integers(len(data) // 4)) * 4
        data[place:place + 4] = struct.pack("<I", int(draw.choice([0, MAGIC, 2**32 - 1, 2**29 - 1, 1 << 29, 3 << 29, 5 << 29, 2**31])))
    elif kind == 3:
        a, b = sorted(int(x) // 4 * 4 for x in draw.integers(0, len(data), 2))
        del data[a:b]
    else: data[:0] = bytes(data[:draw.integers(len(data))])
    return bytes(data)


def fuzz(tmp_path, rounds):
    "Damaged record files, with and without index, as photos and as features."
    draw, path = rng(7, "fuzz"), tmp_path / "some.rec"
    faces = [Record(np.array([k // 3], "f") if k else np.array([9, 12], "f"), k, 0, encode_jpeg(rng(k).integers(0, 255, (12, 12, 3), np.uint8)) if k else b"") for k in range(9)]
    numbers = [Record(np.array([k], "f"), k, 0, rng(k).normal(size=(2, 10)).astype(np.float16).tobytes() + (PART if k == 2 else b"")) for k in range(5)]
    whole = []
    for records in (faces, numbers, numbers[:2]):
        write_records(path, records)
        whole.append((path.read_bytes(), path.with_suffix(".idx").read_bytes()))
    refused = read = 0
    tracemalloc.start()
    for i in range(rounds):
        data, index = whole[i % 3]
        path.write_bytes(damage(data, draw))
        path.with_suffix(".idx").write_bytes(index if draw.random() < .7 else damage(index, draw))
        try:
            file = RecordFile(path, index=bool(draw.integers(2)))
            for key in file.images[:12]:
                try: read += len(file[key].data) + file[key].id >= 0
                except TgfrError: refused += 1
            file.labels(file.images)
            features = RecordFeatures(path, 4, 3)
            assert np.isfinite(features.batch(0, np.arange(len(features))).embedding.shape).all()
        except TgfrError as e:
            assert str(path.with_suffix("")) in str(e)
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > rounds / 4 and read > rounds / 4 and peak < 16 << 20


def test_damaged_files(tmp_path): fuzz(tmp_path, 600)


@pytest.mark.slow
def test_many_damaged_files(tmp_path): fuzz(tmp_path, 10_000)


def test_a_claimed_length_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.rec"
    path.write_bytes(struct.pack("<II", MAGIC, (1 << 29) - 1) + HEADER.pack(2**32 - 1, 0., 0, 0) + bytes(64))
    with pytest.raises(TgfrError, match="claims 536,870,911 bytes"): RecordFile(path)
    path.write_bytes(struct.pack("<II", MAGIC, 64) + HEADER.pack(2**32 - 1, 0., 0, 0) + bytes(40))
    with pytest.raises(TgfrError, match="claims 4,294,967,295 labels"): RecordFile(path)[0]

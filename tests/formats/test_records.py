"""Record files: the real one, what mxnet's format allows, and damage of every kind.

Damage gives a clear error or a valid read, in bounded memory."""

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
from tgfr.encoders.record_features import RecordFeatures
from tgfr.formats.records import HEADER, MAGIC, Record, RecordFile, read_list, write_records


def test_real_file(shared_data):
    path = shared_data / "formats/mxnet_rec/train.rec"
    keys, labels, names = read_list(path.with_suffix(".lst"))
    for file in (RecordFile(path), RecordFile(path, index=False), pickle.loads(pickle.dumps(RecordFile(path)))):
        assert file.images.tolist() == sorted(keys.tolist()) and len(names) == len(file)
        assert file.identities(keys).tolist() == labels.tolist()
        for key in keys:
            record = file[key]
            assert record.id == key and record.image().shape == (112, 112, 3)
            assert (record.image(swap=True) == record.image()[..., ::-1]).all()


PART = struct.pack("<I", MAGIC)


@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=4),
            st.lists(st.sampled_from([PART, b"abcd", b"x", b""]), max_size=6).map(b"".join),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=80, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("rec") / "some.rec"
    write_records(path, [Record(np.array(label, "f"), i + 1, 2 * i, data) for i, (label, data) in enumerate(contents)])
    for file in (RecordFile(path), RecordFile(path, index=False)):
        for i, (label, data) in enumerate(contents):
            record = file[i + 1]
            assert (record.label.tolist(), record.data, record.id, record.id2) == (
                np.array(label, "f").tolist(),
                data,
                i + 1,
                2 * i,
            )


def test_repeated_ids_are_numbered(tmp_path):
    write_records(tmp_path / "a.rec", [Record(np.array([k], "f"), 0, 0, b"x" * k) for k in range(5)])
    (tmp_path / "a.idx").unlink()
    file = RecordFile(tmp_path / "a.rec")
    assert file.images.tolist() == [0, 1, 2, 3, 4] and file[3].data == b"xxx"
    with pytest.raises(KeyError):
        file[5]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("0\t0\n1", "two whole numbers"),
        ("0\tx\n", "two whole numbers"),
        ("0\t4444\n", "points to byte"),
        ("0\t2\n", "multiple of 4"),
        ("0\t0\n0\t0\n", "occurs twice"),
        ("9" * 30 + "\t0\n", "two whole numbers"),
        ("0\t0\n" * 5000, "too many"),
        ("\0", "two whole numbers"),
    ],
)
def test_a_wrong_index_is_said(tmp_path, text, reason):
    write_records(tmp_path / "a.rec", [Record(np.array([k], "f"), k, 0, b"data") for k in range(3)])
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(TgfrError, match=reason):
        RecordFile(tmp_path / "a.rec")


def test_float32_features(tmp_path):
    rows = rng(0).normal(size=(4, 2, 5 + 2 * 3)).astype("f")
    write_records(tmp_path / "f.rec", [Record(np.array([k], "f"), k, 0, row.tobytes()) for k, row in enumerate(rows)])
    found = RecordFeatures(tmp_path / "f.rec", 5, 3, "float32").batch(np.array([1, 0]), np.array([3, 0]))
    assert (found.embedding.numpy() == rows[[3, 0], [1, 0], :5]).all() and found.styles.shape == (2, 3, 2)
    with pytest.raises(IndexError):
        RecordFeatures(tmp_path / "f.rec", 5, 3, "float32").batch(np.array([2]), np.array([0]))


def damage(data: bytes, draw) -> bytes:
    "One of several ways in which files break."
    data, kind = bytearray(data), draw.integers(5)
    if kind == 0:
        del data[draw.integers(len(data)) :]
    elif kind == 1:
        data = damaged(data, draw.integers(1, 6), draw.integers)
    elif kind == 2:
        place = int(draw.integers(len(data) // 4)) * 4
        data[place : place + 4] = struct.pack(
            "<I", int(draw.choice([0, MAGIC, 2**32 - 1, 2**29 - 1, 1 << 29, 3 << 29, 5 << 29, 2**31]))
        )
    elif kind == 3:
        a, b = sorted(int(x) // 4 * 4 for x in draw.integers(0, len(data), 2))
        del data[a:b]
    else:
        data[:0] = bytes(data[: draw.integers(len(data))])
    return bytes(data)


def fuzz(tmp_path, rounds):
    "Damaged record files, with and without index, as photos and as features."
    draw, path = rng(7, "fuzz"), tmp_path / "some.rec"
    faces = [
        Record(
            np.array([k // 3], "f") if k else np.array([9, 12], "f"),
            k,
            0,
            encode_jpeg(rng(k).integers(0, 255, (12, 12, 3), np.uint8)) if k else b"",
        )
        for k in range(9)
    ]
    numbers = [
        Record(
            np.array([k], "f"),
            k,
            0,
            rng(k).normal(size=(2, 10)).astype(np.float16).tobytes() + (PART if k == 2 else b""),
        )
        for k in range(5)
    ]
    whole = []
    for records in (faces, numbers, numbers[:2]):
        write_records(path, records)
        whole.append((path.read_bytes(), path.with_suffix(".idx").read_bytes()))
    refused = read = 0
    tracemalloc.start()
    for i in range(rounds):
        data, index = whole[i % 3]
        path.write_bytes(damage(data, draw))
        path.with_suffix(".idx").write_bytes(index if draw.random() < 0.7 else damage(index, draw))
        try:
            file = RecordFile(path, index=bool(draw.integers(2)))
            for key in file.images[:12]:
                try:
                    read += len(file[key].data) + file[key].id >= 0
                except TgfrError:
                    refused += 1
            file.identities(file.images)
            features = RecordFeatures(path, 4, 3)
            assert np.isfinite(features.batch(0, np.arange(len(features))).embedding.shape).all()
        except TgfrError as e:
            assert str(path.with_suffix("")) in str(e)
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > rounds / 4 and read > rounds / 4 and peak < 16 << 20


def test_damaged_files(tmp_path):
    fuzz(tmp_path, 600)


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    fuzz(tmp_path, 10_000)


def test_a_claimed_length_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.rec"
    path.write_bytes(struct.pack("<II", MAGIC, (1 << 29) - 1) + HEADER.pack(2**32 - 1, 0.0, 0, 0) + bytes(64))
    with pytest.raises(TgfrError, match="claims 536,870,911 bytes"):
        RecordFile(path)
    path.write_bytes(struct.pack("<II", MAGIC, 64) + HEADER.pack(2**32 - 1, 0.0, 0, 0) + bytes(40))
    with pytest.raises(TgfrError, match="claims 4,294,967,295 labels"):
        RecordFile(path)[0]


# ---- several labels, headers, identities

PHOTO = encode_jpeg(np.full((16, 16, 3), 90, np.uint8))


def save(path, rows, index=True):
    "Records of (key, labels, payload)."
    write_records(path, [Record(np.array(labels, "f"), key, 0, data) for key, labels, data in rows])
    if not index:
        path.with_suffix(".idx").unlink()
    return RecordFile(path)


HEADERS = {  # name: rows, the keys of photos
    "no header, one label": ([(k, [k // 2], PHOTO) for k in range(6)], range(6)),
    "several labels, the first 0": ([(k, [k // 2, 7], PHOTO) for k in range(6)], range(6)),
    "several labels, the first names a range": ([(k, [k + 3, 7], PHOTO) for k in range(6)], range(6)),
    "the first record alone has several": ([(k, [3, 7] if k == 0 else [k], PHOTO) for k in range(6)], range(6)),
    "keys from 1, several labels": ([(k, [k, 7], PHOTO) for k in range(1, 7)], range(1, 7)),
    "five labels": ([(k, [k, 1, 2, 3, 4], PHOTO) for k in range(6)], range(6)),
    "header alone": ([(0, [6, 6], b"")] + [(k, [k // 2], PHOTO) for k in range(1, 6)], range(1, 6)),
    "header and identities": (
        [(0, [5, 7], b"")] + [(k, [k // 3], PHOTO) for k in range(1, 5)] + [(5, [1, 3], b""), (6, [3, 5], b"")],
        range(1, 5),
    ),
    "header, photos of two labels": (
        [(0, [5, 5], b"")] + [(k, [k // 3, 0.5], PHOTO) for k in range(1, 5)],
        range(1, 5),
    ),
    "header that counts too few": ([(0, [4, 4], b"")] + [(k, [k], PHOTO) for k in range(1, 6)], range(1, 6)),
    "a photo among the identities": (
        [(0, [3, 6], b""), (1, [0], PHOTO), (2, [0], PHOTO), (3, [1, 3], b""), (4, [9], PHOTO), (5, [3, 3], b"")],
        [1, 2, 4],
    ),
    "a header whose range is not there": ([(0, [900, 950], b"")] + [(k, [k], PHOTO) for k in range(1, 5)], range(5)),
    "a header whose numbers are none": (
        [(0, [0.5, float("nan")], b"")] + [(k, [k], PHOTO) for k in range(1, 5)],
        range(5),
    ),
    "a photo without bytes, two labels": ([(0, [0, 9], b"")] + [(k, [k, 9], PHOTO) for k in range(1, 5)], range(5)),
    "a photo without bytes in the middle": (
        [(0, [5, 5], b"")] + [(k, [k], PHOTO if k != 3 else b"") for k in range(1, 5)],
        range(1, 5),
    ),
}


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize("case", HEADERS)
def test_no_photo_vanishes(case, index, tmp_path):
    rows, photos = HEADERS[case]
    assert save(tmp_path / "a.rec", rows, index).images.tolist() == list(photos)


def test_which_label_is_the_identity(tmp_path, capsys):
    file = save(tmp_path / "a.rec", [(k, [0.25 * k, k // 2, 1 - k % 2], PHOTO) for k in range(6)])
    assert (
        file.identities(file.images, 1).tolist() == [0, 0, 1, 1, 2, 2]
        and file.identities(file.images, 2).tolist() == [1, 0] * 3
    )
    assert not capsys.readouterr().err
    with pytest.raises(TgfrError, match=r"label 0 of record 1 is 0.25.*whole number.*3 labels"):
        file.identities(file.images)
    with pytest.raises(TgfrError, match=r"record 0 has 3 labels, no label 3"):
        file.identities(file.images, 3)
    for wrong in (-1, 5000):
        with pytest.raises(TgfrError, match="label"):
            file.identities(file.images, wrong)
    file = save(tmp_path / "b.rec", [(k, [k // 2, 7] if k else [0], PHOTO) for k in range(6)])
    assert file.identities(file.images).tolist() == [0, 0, 1, 1, 2, 2]
    assert "b.rec: up to 2 labels a record; the first is taken for the identity" in " ".join(
        capsys.readouterr().err.split()
    )
    with pytest.raises(TgfrError, match="record 0 has 1 label, no label 1"):
        file.identities(file.images, 1)


def test_features_with_several_labels(tmp_path, capsys):
    rows = rng(1).normal(size=(4, 2, 10)).astype(np.float16)
    rows[2, 0, :2] = np.array([MAGIC], "<u4").view(np.float16)
    write_records(
        tmp_path / "f.rec", [Record(np.array([9, k], "f"), k, 0, row.tobytes()) for k, row in enumerate(rows)]
    )
    features = RecordFeatures(tmp_path / "f.rec", 4, 3, label=1)
    assert features.identity.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(features.batch(0, np.arange(4)).embedding.numpy(), rows[:, 0, :4].astype("f"))
    assert pickle.loads(pickle.dumps(features)).identity.tolist() == [0, 1, 2, 3] and not capsys.readouterr().err
    assert pickle.loads(pickle.dumps(RecordFeatures(tmp_path / "f.rec", 4, 3))).identity.tolist() == [9] * 4
    assert capsys.readouterr().err.count("labels a record") == 1
    assert RecordFeatures(tmp_path / "f.rec", 4, 3).meta != features.meta

"Files that somebody else wrote: pickles, JSON and text, honest and hostile."

import json
import pickle
import pickletools
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hostile import Runs, damaged
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError
from tgfr.formats.untrusted import decode_text, json_items, json_lines, read_lines, read_pickle, split_lines


@pytest.fixture
def saved(tmp_path):
    "A file of these bytes."

    def save(data: bytes):
        (tmp_path / "file").write_bytes(data)
        return tmp_path / "file"

    return save


# ---- pickles

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.integers(3, 5))  # older protocols spell bytes as a call
def test_plain_values_come_back(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.pickle"
    path.write_bytes(pickle.dumps(value, protocol))
    assert read_pickle(path) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["u1", "b1", "<i8", ">f4", "<f2"])
def test_arrays_come_back(saved, protocol, kind):
    value = (
        [
            np.arange(12).reshape(3, 4).astype(kind),
            np.asfortranarray(np.ones((2, 3), kind)),
            np.zeros((0, 1), kind),
            b"jpeg",
        ],
        [True, np.bool_(False)],
    )
    (a, b, c, d), same = read_pickle(saved(pickle.dumps(value, protocol)), arrays=True)
    for got, want in zip((a, b, c), value[0]):
        np.testing.assert_array_equal(got, want)
        assert got.dtype.str[1:] == want.dtype.str[1:] and got.shape == want.shape
    assert d == b"jpeg" and list(same) == [True, False]
    if protocol > 2:
        with pytest.raises(TgfrError):
            read_pickle(saved(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("arrays", [False, True])
def test_code_in_a_pickle_never_runs(saved, tmp_path, protocol, arrays):
    with pytest.raises(TgfrError, match="not a pickle of plain values"):
        read_pickle(saved(pickle.dumps([b"x", Runs(tmp_path / "ran")], protocol)), arrays)
    assert not (tmp_path / "ran").exists()


def reference(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


RECONSTRUCT = reference("numpy.core.multiarray", "_reconstruct")
HOSTILE = {
    "inst": b"(S'touch ran'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'true'\no.",
    "newobj": b"\x80\x02cbuiltins\nlist\n)\x81.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pname\n.",
    "frame of 1 TB": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"].",
    "text of 1 TB": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "bytearray of 1 TB": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "memo of 32 GB": b"\x80\x02]r\xff\xff\xff\xff.",
    "memo in text": b"]p4000000000\n.",
    "number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
    "endless": b"N0" * 4_000_000,
    "empty": b"",
    "cut": pickle.dumps(["a"] * 9)[:-3],
    "no pickle": b"\xff\xd8\xff\xe0 a jpeg",
    "array of 1 TB": b"\x80\x02"
    + reference("numpy", "ndarray")
    + b"\x8a\x06"
    + struct.pack("<Q", 1 << 40)[:6]
    + b"\x85R.",
    "fromstring": b"\x80\x02" + reference("numpy", "load") + b"X\x04\x00\x00\x00file\x85R.",
    "builtin": b"\x80\x02" + reference("builtins", "getattr") + b".",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x10dtype.__class__\x93.",
    "change of a function": b"\x80\x02" + RECONSTRUCT + b"N}X\x0c\x00\x00\x00__defaults__)s\x86b.",
    "objects in an array": pickle.dumps(np.array([None, "x"], object), 2),
    "text in an array": pickle.dumps(np.array(["x"]), 2),
    "records in an array": pickle.dumps(np.zeros(2, [("a", "u1")]), 2),
    "shape beyond the bytes": pickle.dumps(np.zeros(3, np.uint8), 2).replace(b"K\x03\x85", b"J\x00\x00\x00\x40\x85"),
    "negative shape": pickle.dumps(np.zeros(3, np.uint8), 2)
    .replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85")
    .replace(b"\x00\x00\x00", b""),
    "bytes in another codec": pickle.dumps(b"abc", 2).replace(b"latin1", b"rot_13"),
}

DTYPE = reference("numpy", "dtype") + b"X\x02\x00\x00\x00u1\x85R"


def nested(depth: int, width: int) -> bytes:
    "`width` times the list below it, `depth` deep, by the memo: a few bytes a level, width ** depth entries."
    steps = [b"(" + b"K\x01" * width + b"l" + b"q\x00"]
    for level in range(depth):
        steps.append(b"(" + (b"h" + bytes([level])) * width + b"l" + b"q" + bytes([level + 1]))
    return b"\x80\x02" + b"0".join(steps) + b"."


BOMBS = {  # none of them large: at most 64 MB if they were believed
    "an array of a number": b"\x80\x02"
    + RECONSTRUCT
    + reference("numpy", "ndarray")
    + b"K\x00\x85X\x01\x00\x00\x00b\x87R(K\x01J\x00\x00\x00\x04\x85"
    + DTYPE
    + b"\x89J\x00\x00\x00\x04tb.",
    "a buffer of a number": b"\x80\x02"
    + reference("numpy.core.numeric", "_frombuffer")
    + b"(J\x00\x00\x00\x04"
    + DTYPE
    + b"J\x00\x00\x00\x04\x85X\x01\x00\x00\x00CtR.",
    "a scalar of a number": b"\x80\x02" + reference("numpy.core.multiarray", "scalar") + DTYPE + b"K\x01\x86R.",
    "an array of a list": b"\x80\x02"
    + reference("numpy.core.numeric", "_frombuffer")
    + b"(](K\x01K\x02e"
    + DTYPE
    + b"K\x02\x85X\x01\x00\x00\x00CtR.",
    "rows of nothing": b"\x80\x02"
    + reference("numpy.core.numeric", "_frombuffer")
    + b"(C\x00"
    + DTYPE
    + b"J\x00\x00\x00\x01K\x00\x86X\x01\x00\x00\x00CtR.",
    "lists in lists": nested(20, 10),
    "pairs in pairs": nested(60, 2),
    "depth": b"\x80\x02" + b"(" * 5000 + b"l" * 5000 + b".",
    "tuples as keys": b"\x80\x02}q\x00" + b"0" + nested(40, 2)[2:-1].replace(b"l", b"t") + b"0}h\x28K\x01s.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "two lists in each other": b"\x80\x02]q\x00]q\x01h\x00a0h\x00h\x01a.",
    "bytes by the memo": b"\x80\x02"
    + reference("_codecs", "encode")
    + b"q\x000X"
    + struct.pack("<I", 1 << 16)
    + b"a" * (1 << 16)
    + b"q\x010("
    + b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" * 1000
    + b"l.",
    "arrays by the memo": b"\x80\x04B"
    + struct.pack("<I", 1 << 16)
    + b"a" * (1 << 16)
    + b"\x94"
    + DTYPE
    + b"\x940("
    + (RECONSTRUCT + reference("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R(K\x01J\x00\x00\x01\x00\x85h\x01\x89h\x00tb")
    * 1000
    + b"l.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_pickle_claims_takes_nothing(saved, name):
    "Nothing is allocated and nothing unfolded that the file does not have."
    began, path = time.process_time(), saved(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(TgfrError, match="not a pickle of plain values and arrays") as caught:
            read_pickle(path, arrays=True)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(BOMBS[name]) + (4 << 20)
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5 and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_what_is_shared_comes_back(saved):
    "Honest sharing: one photo in many pairs, one label list, one array."
    photo, array, row = b"jpeg" * 100, np.arange(50, dtype=np.uint8), ("a", 1)
    value = ([photo, photo, array, array] * 50, [True, False] * 50, [row] * 100, {row: [row, row]})
    for protocol in range(2, 6):
        found = read_pickle(saved(pickle.dumps(value, protocol)), arrays=True)
        assert len(found[0]) == 200 and found[1] == value[1] and len(found[2]) == 100
        for got in found[0][2::4]:
            np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(saved, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(TgfrError, match="not a pickle of plain values and arrays"):
            read_pickle(saved(HOSTILE[name]), arrays=True)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "ran").exists()


@settings(max_examples=300)
@given(st.integers(0, 5), st.integers(1, 4), st.randoms())
def test_damaged_pickles_are_refused_or_harmless(tmp_path_factory, protocol, count, random):
    path = tmp_path_factory.getbasetemp() / "damaged.pickle"
    path.write_bytes(
        damaged(pickle.dumps(([np.arange(5, dtype=np.uint8), b"x"], [True]), protocol), count, random.randrange)
    )
    try:
        read_pickle(path, arrays=True)
    except TgfrError:
        pass


def test_size_limit_and_missing(saved, tmp_path):
    with pytest.raises(TgfrError, match="1,000 bytes, more than the 999"):
        read_pickle(saved(bytes(1000)), max_bytes=999)
    with pytest.raises(TgfrError, match="no such file"):
        read_pickle(tmp_path / "nowhere")
    with pytest.raises(TgfrError, match="no such file"):
        read_pickle(tmp_path)


def test_real_files(shared_data):
    photos, same = read_pickle(shared_data / "formats/small_lfw.bin", arrays=True)
    assert len(photos) == 2 * len(same) and all(bytes(np.asarray(p, np.uint8))[:2] == b"\xff\xd8" for p in photos)
    for path in shared_data.glob("raw_tgfr/*/*/*.pickle"):
        assert read_pickle(path) == pickle.loads(path.read_bytes())  # ours: known to hold nothing but lists
        assert not {o.name for o, _, _ in pickletools.genops(path.read_bytes())} & {"GLOBAL", "STACK_GLOBAL", "REDUCE"}


# ---- text


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_text_of_any_encoding_comes_back(text, encoding):
    if encoding == "utf-8" and text.startswith("\ufeff"):
        return
    assert decode_text(text.encode(encoding))[0] == text


def test_encodings_and_line_ends(saved):
    for data in (
        "Zoë smiles.\nShe is naïve.\n".encode(),
        "Zoë smiles.\r\nShe is naïve.".encode("latin-1"),
        "\ufeff Zoë\tsmiles.\r\r\nShe is naïve. \r".encode(),
    ):
        assert read_lines(saved(data)) == ["Zoë smiles.", "She is naïve."]
    assert decode_text(b"\x93quoted\x94 \x81")[0] == "“quoted” \ufffd"
    assert split_lines("\ud83d half\x0b a pair") == ["? half a pair"]
    for data in (bytes(10), b"text\0"):
        with pytest.raises(TgfrError, match="no text"):
            read_lines(saved(data))


# ---- JSON

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=9), JSON) | st.lists(JSON), st.sampled_from([None, 1]), st.booleans())
def test_json_items_are_those_of_json_loads(tmp_path_factory, value, indent, escaped):
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=escaped), encoding="utf-8")
    want = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    assert list(json_items(path, max_item=1 << 12)) == want


@pytest.mark.parametrize("start", [b"", b"[", b'{"0.jpg": ', b'{"0.jpg": [1,', b'{"a": {}, "b": '])
@pytest.mark.parametrize("filling", [b"[", b"[],", b'{"a":', b" ", b'"', b"1", b"\\"])
def test_many_brackets_end_early_in_little_memory(saved, start, filling):
    path = saved(start + filling * (20_000_000 // len(filling)))
    began = time.process_time()
    with pytest.raises(TgfrError, match="not valid JSON at item"):
        for _ in json_items(path, max_items=100_000):
            pass
    assert time.process_time() - began < 10
    tracemalloc.start()  # slows everything down, so after the clock and on fewer items
    try:
        with pytest.raises(TgfrError):
            for _ in json_items(path, max_items=1000):
                pass
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("filling", [b"[", b"[]\n", b"{\n", b"\n", b'{"a": "', b'{"a": "\n', b"[\n"])
def test_endless_lines_end_early(saved, filling):
    path = saved(filling * (10_000_000 // len(filling)))
    began = time.process_time()
    try:
        assert all(value is None for _, value in json_lines(path, max_lines=20_000))
    except TgfrError as e:
        assert "more than the 20,000 lines" in str(e)
    assert time.process_time() - began < 10


def test_json_beyond_its_limit_is_not_read(saved):
    with pytest.raises(TgfrError, match="3,000 bytes, more than the 2,999"):
        next(json_items(saved(b"[" * 3000), max_bytes=2999))
    with pytest.raises(TgfrError, match="item 2: longer than the 100 characters"):
        list(json_items(saved(json.dumps(["a", "b" * 99, "c"]).encode()), max_item=100))


def test_json_lines_survive_damage(saved):
    data = (
        b'{"a": 1}\r\n\r\n{"a": "two\nlines"}\n{"a": \n{"a": 3}\n[1]\n"x"\n{"a": "caf\xe9"}\n'
        + b"[" * 200_000
        + b'\n{"a": 5}'
    )
    found = list(json_lines(saved(data), max_item=1000))
    assert [v["a"] for _, v in found if v] == [1, "two\nlines", 3, "café", 5]
    assert {n for n, v in found if v is None} >= {5, 7, 8}
    assert list(json_lines(saved(b""))) == []

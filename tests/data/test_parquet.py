"Parquet files as people have them: names, column types, shards that differ, photos beside them, and no copy on disk."

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hostile import damaged

from tgfr.core import TgfrError, rng
from tgfr.data import columns, parquet
from tgfr.data.columns import CANONICAL, IMAGE_TYPE, identity_number
from tgfr.data.datasets import drop_unusable, load_faces, split_names
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.parquet_files import parquet_splits

PHOTOS = [b"P6 24 24 255\n" + bytes([20 + 9 * i]) * 1728 for i in range(20)]  # of one length
HASH, UUID = "0123456789abcdef", "3f2b1c4d-5e6f-4a1b-8c2d-9e0f1a2b3c4d"


def table(n: int = 4, start: int = 0, **other) -> pa.Table:
    "Canonical columns by hand; `other` changes one, or adds one."
    k = range(start, start + n)
    plain = {
        "image": pa.array([{"bytes": PHOTOS[i], "path": f"{i}.jpg"} for i in k]),
        "identity": pa.array([i // 2 for i in k]),
        "photo_id": pa.array([f"{i // 2}/{i}" for i in k]),
        "captions": pa.array([[f"a person {i}", "smiling"] for i in k]),
    }
    changed = {name: other[name](column) if name in other else column for name, column in plain.items()}
    return pa.table(
        {name: column for name, column in changed.items() if column is not None}
        | {name: make(None) for name, make in other.items() if name not in plain}
    )


def put(folder: Path, **files: pa.Table | bytes) -> Path:
    "Files in a folder, by path below it."
    for name, what in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(what) if isinstance(what, bytes) else pq.write_table(what, folder / name)
    return folder


def rows(faces) -> list:
    return [
        (r["image"]["bytes"], r["identity"], r["photo_id"], r["captions"])
        for r in faces.select_columns(list(CANONICAL))
    ]


def wanted(n: int = 4, start: int = 0) -> list:
    return [(PHOTOS[i], i // 2, f"{i // 2}/{i}", [f"a person {i}", "smiling"]) for i in range(start, start + n)]


# ---- names

NAMINGS = {  # split: names in their right order
    "datasets": ("train", [f"train-{i:05d}-of-00003" for i in range(3)]),
    "datasets until 2023": ("train", [f"train-{i:05d}-of-00003-{HASH}" for i in range(3)]),
    "a hash each": ("train", [f"train-{i:05d}-of-00003-{HASH[i:]}" for i in range(3)]),
    "more than ten, unpadded": ("train", [f"train-{i}-of-12" for i in range(12)]),
    "from one": ("train", [f"train-{i}-of-3" for i in (1, 2, 3)]),
    "downloaded twice by a browser": ("train", ["train-00000-of-00002", "train-00001-of-00002 (1)"]),
    "the Hub's converter": ("faces", [f"{i:04d}" for i in range(3)]),
    "Spark": ("part", [f"part-{i:05d}-{UUID}.c000.snappy" for i in range(3)]),
    "older Spark": ("part", [f"part-{i:05d}-{UUID}-c000.gz" for i in range(3)]),
    "Spark, several a task": ("part", [f"part-00000-{UUID}.c{i:03d}.snappy" for i in range(3)]),
    "pyarrow": ("part", [f"part-{i}" for i in range(12)]),
    "duckdb": ("data", [f"data_{i}" for i in range(12)]),
    "dask": ("part", [f"part.{i}" for i in range(12)]),
    "polars": ("faces", [f"{i:08d}" for i in range(3)]),
    "by hand": ("train", [f"train_{i}" for i in (1, 2, 3)]),
    "one": ("train", ["train"]),
    "one with a codec": ("train", ["train.zstd"]),
    "a year": ("faces", ["faces-2024"]),
    "a part of a name": ("train-hq", ["train-hq-00000-of-00001"]),
}


@pytest.mark.parametrize("case", NAMINGS)
def test_namings(case, tmp_path):
    split, names = NAMINGS[case]
    hidden = {
        "._train-00000-of-00003.parquet": b"macOS",
        ".part-00000.parquet.crc": b"",
        "_SUCCESS": b"",
        ".DS_Store": b"x",
        "_metadata": b"",
        "_common.parquet": b"",
        ".train.parquet": b"",
    }
    put(tmp_path / "faces", **{f"{name}.parquet": table(1, i) for i, name in enumerate(names)}, **hidden)
    assert split_names(tmp_path / "faces") == [split]
    assert rows(load_faces(tmp_path / "faces")) == rows(load_faces(tmp_path / "faces", split)) == wanted(len(names))


SEVERAL = {case: names for case, (_, names) in NAMINGS.items() if len(names) > 2}


@pytest.mark.parametrize(
    "case, gone",
    [
        (case, k)
        for case, names in SEVERAL.items()
        for k in ({0, 1, len(names) - 1} if "-of-" in names[0] else {1, len(names) - 2})
    ],
)
def test_a_missing_file_is_noticed(case, gone, tmp_path, capsys):
    names = SEVERAL[case]
    folder = put(tmp_path / "faces", **{f"{name}.parquet": table(1, i) for i, name in enumerate(names) if i != gone})
    number = gone + (case in ("from one", "by hand"))
    if case == "Spark, several a task":
        assert len(load_faces(folder)) == 2
    elif "Spark" in case:
        assert len(load_faces(folder)) == 2
        assert f"2 files of split 'part', without number {number}: Spark writes no file" in " ".join(
            capsys.readouterr().err.split()
        )
    else:
        with pytest.raises(
            TgfrError, match=f"{len(names) - 1} files of split '{NAMINGS[case][0]}'.*without number (0|{number})"
        ):
            load_faces(folder)


@pytest.mark.parametrize(
    "case, said",
    [
        ("the Hub's converter", None),
        ("polars", None),
        ("Spark", "without number 0"),
        ("pyarrow", "from number 1"),
        ("duckdb", "from number 1"),
        ("dask", "from number 1"),
    ],
)
def test_a_missing_first_file(case, said, tmp_path, capsys):
    folder = put(tmp_path / "faces", **{f"{name}.parquet": table(1, i) for i, name in enumerate(SEVERAL[case]) if i})
    if said:
        assert len(load_faces(folder)) and said in " ".join(capsys.readouterr().err.split())
    else:
        with pytest.raises(TgfrError, match="without number 0; files are missing"):
            load_faces(folder)


def test_one_of_two_with_a_hash(tmp_path):
    "The report: datasets #6979."
    put(tmp_path, **{f"train-00000-of-00002-{HASH}.parquet": table()})
    with pytest.raises(TgfrError, match="1 files of split 'train'; their names promise 2, without number 1"):
        load_faces(tmp_path)
    assert len(load_faces(tmp_path / f"train-00000-of-00002-{HASH}.parquet")) == 4  # a file alone may be meant


@pytest.mark.parametrize(
    "names, said",
    [
        (["train-00000-of-00002", f"train-00000-of-00002-{HASH}"], "two of number 0"),
        (["train-00000-of-00002", "train-00001-of-00003"], "promise 2 and 3"),
        (["train-00000-of-00002", "train-00001-of-00002", "train"], "train.parquet without"),
        (["train-00000-of-00001", "train-1"], "promise 1 and None"),
        (["train-00000-of-00002", "train-00005-of-00002"], "promise 2"),
        (["0001"], "without number 0"),
        (["0000", "0001", "0003"], "without number 2"),
        (["train-0", "train-999999999"], "without number 1"),
        (["train-00000-of-999999999"], "without number 1"),
    ],
)
def test_names_that_do_not_fit(names, said, tmp_path):
    put(tmp_path, **{f"{name}.parquet": table(1, i) for i, name in enumerate(names)})
    with pytest.raises(TgfrError, match=said):
        load_faces(tmp_path)


def test_splits_in_folders(tmp_path):
    put(
        tmp_path / "hub",
        **{
            "train/0000.parquet": table(2),
            "train/0001.parquet": table(2, 2),
            "test/0000.parquet": table(2, 4),
            ".cache/x.parquet": b"x",
        },
    )
    assert (
        split_names(tmp_path / "hub") == ["test", "train"]
        and rows(load_faces(tmp_path / "hub", "train")) == wanted(4)
        and rows(load_faces(tmp_path / "hub", "test")) == wanted(2, 4)
    )
    assert rows(load_faces(tmp_path / "hub/train")) == wanted(4)
    put(
        tmp_path / "repo",
        **{
            f"data/train-00000-of-00001-{HASH}.parquet": table(2),
            f"data/validation-00000-of-00001-{HASH}.parquet": table(2, 2),
            "README.md": b"x",
        },
    )
    assert split_names(tmp_path / "repo") == ["train", "validation"] and rows(
        load_faces(tmp_path / "repo", "validation")
    ) == wanted(2, 2)
    put(
        tmp_path / "spark",
        **{
            f"train/part-00000-{UUID}.c000.snappy.parquet": table(2),
            "train/_SUCCESS": b"",
            f"split=test/part-00000-{UUID}.c000.snappy.parquet": table(2, 2),
        },
    )
    assert split_names(tmp_path / "spark") == ["test", "train"]
    put(
        tmp_path / "configs",
        **{"a/train-00000-of-00001.parquet": table(2), "b/train-00000-of-00001.parquet": table(2, 2)},
    )
    with pytest.raises(TgfrError, match="split 'train' is in a and in b"):
        load_faces(tmp_path / "configs")
    put(tmp_path / "deep", **{"default/train/0000.parquet": table(2)})
    with pytest.raises(TgfrError, match="there are some in .*deep/default/train"):
        load_faces(tmp_path / "deep")
    (tmp_path / "hub/train/0000.parquet").unlink()
    with pytest.raises(TgfrError, match="split 'train', without number 0"):
        load_faces(tmp_path / "hub", "train")


# ---- types


def view(kind):
    return lambda x: x.cast(kind)


def coded(x):
    return x.dictionary_encode()


def photo(bytes_=None, path=None, **more):
    "A struct of photos with the parts changed."

    def change(x):
        parts = {"bytes": x.field("bytes"), "path": x.field("path")}
        parts = (
            {"bytes": (bytes_ or (lambda b: b))(parts["bytes"])}
            | ({} if path is False else {"path": (path or (lambda p: p))(parts["path"])})
            | {k: f(x) for k, f in more.items()}
        )
        return pa.StructArray.from_arrays(list(parts.values()), list(parts))

    return change


def only_bytes(change=lambda b: b):
    return lambda x: change(x.field("bytes"))


def lists(make):
    return lambda x: make(x)


def list_view(large):
    def change(x):
        sizes = np.diff(x.offsets.to_numpy())
        kind, width = (pa.LargeListViewArray, pa.int64()) if large else (pa.ListViewArray, pa.int32())
        return kind.from_arrays(x.offsets[:-1].cast(width), pa.array(sizes, width), x.values)

    return change


TYPES = {
    **{
        f"identity {kind}": {"identity": view(kind)}
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    },
    "identity decimal": {"identity": view(pa.decimal128(38, 0))},
    "identity category of numbers": {"identity": coded},
    "identity text of numbers": {"identity": view(pa.string())},
    "identity large text of numbers": {"identity": view(pa.large_string())},
    "photo_id large": {"photo_id": view(pa.large_string())},
    "photo_id view": {"photo_id": view(pa.string_view())},
    "photo_id category": {"photo_id": coded},
    "photo_id category of large": {"photo_id": lambda x: coded(x.cast(pa.large_string()))},
    "photo_id ordered, wide index": {"photo_id": lambda x: coded(x).cast(pa.dictionary(pa.int64(), pa.string()))},
    "captions large": {"captions": view(pa.large_list(pa.large_string()))},
    "captions of views": {"captions": view(pa.list_(pa.string_view()))},
    "captions list view": {"captions": list_view(False)},
    "captions large list view": {"captions": list_view(True)},
    "captions list view of views": {"captions": lambda x: list_view(False)(x.cast(pa.list_(pa.string_view())))},
    "captions fixed": {"captions": view(pa.list_(pa.string(), 2))},
    "captions of categories": {"captions": lambda x: pa.ListArray.from_arrays(x.offsets, x.values.dictionary_encode())},
    "captions large of large categories": {
        "captions": lambda x: pa.LargeListArray.from_arrays(
            x.offsets.cast(pa.int64()), x.values.cast(pa.large_string()).dictionary_encode()
        )
    },
    "image bytes": {"image": only_bytes()},
    "image large": {"image": only_bytes(view(pa.large_binary()))},
    "image view": {"image": only_bytes(view(pa.binary_view()))},
    "image category": {"image": only_bytes(coded)},
    "image fixed": {"image": only_bytes(lambda b: b.cast(pa.binary(len(PHOTOS[0]))))},
    "struct of large": {"image": photo(view(pa.large_binary()), view(pa.large_string()))},
    "struct of views": {"image": photo(view(pa.binary_view()), view(pa.string_view()))},
    "struct of categories": {"image": photo(coded, coded)},
    "struct with more": {
        "image": photo(width=lambda x: pa.array([112] * len(x)), sha=lambda x: pa.array(["f"] * len(x)))
    },
    "struct the other way round": {
        "image": lambda x: pa.StructArray.from_arrays([x.field("path"), x.field("bytes")], ["path", "bytes"])
    },
    "struct without path": {"image": photo(path=False)},
    "struct of no paths": {"image": photo(path=lambda p: pa.nulls(len(p)))},
}


@pytest.mark.parametrize("case", TYPES)
def test_types(case, tmp_path):
    assert len({len(p) for p in PHOTOS}) == 1  # as the fixed width asks
    made = table(6, **TYPES[case])
    pq.write_table(made, tmp_path / "a.parquet")
    column = next(iter(TYPES[case]))
    assert (
        pq.read_schema(tmp_path / "a.parquet").field(column).type == made.schema.field(column).type
        or "view" in case
        or "categor" in case
    )
    faces = load_faces(tmp_path / "a.parquet")
    assert rows(faces) == wanted(6) and {name: faces.features[name] for name in CANONICAL} == CANONICAL


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_one_caption(kind, tmp_path):
    text = pa.array(["a man", None, "", "she smiles"])
    pq.write_table(
        table(
            captions=lambda x: (
                text.cast(kind) if not pa.types.is_dictionary(kind) else text.dictionary_encode().cast(kind)
            )
        ),
        tmp_path / "a.parquet",
    )
    assert load_faces(tmp_path / "a.parquet")["captions"][:] == [["a man"], [], [], ["she smiles"]]


@pytest.mark.parametrize(
    "column",
    [pa.array([[]] * 4), pa.nulls(4), pa.array([[], None, [None], []])],
    ids=["list of nothing", "nothing", "nulls"],
)
def test_captions_that_are_not_there(column, tmp_path):
    pq.write_table(table(captions=lambda x: column), tmp_path / "a.parquet")
    assert not any(c for row in load_faces(tmp_path / "a.parquet")["captions"] for c in row or [])
    assert len(drop_unusable(load_faces(tmp_path / "a.parquet"), captions=False)[0]) == 4


@pytest.mark.parametrize(
    "column, make, said",
    [
        ("identity", lambda x: x.cast(pa.float64()), "double"),
        ("identity", lambda x: pa.array([True] * 4), "bool"),
        ("identity", lambda x: pa.array([1.5] * 4).cast(pa.decimal128(9, 1)), "decimal"),
        ("identity", lambda x: pa.array([b"a"] * 4), "binary"),
        ("photo_id", lambda x: pa.array(range(4)), "int64"),
        ("captions", lambda x: pa.array([[1]] * 4), "list<"),
        ("captions", lambda x: pa.array([[["a"]]] * 4), "list<"),
        ("image", lambda x: pa.array([[1, 2]] * 4, pa.list_(pa.uint8())), "list<"),
        ("image", lambda x: pa.array(["x.jpg"] * 4), "string"),
        ("image", lambda x: pa.array([{"bytes": "text", "path": "x"}] * 4), "struct<"),
        ("image", lambda x: pa.array([{"bytes": b"x", "path": 7}] * 4), "struct<"),
    ],
)
def test_types_that_would_be_a_guess(column, make, said, tmp_path):
    pq.write_table(table(**{column: make}), tmp_path / "a.parquet")
    with pytest.raises(TgfrError, match=f"a.parquet: column '{column}' is {said}.*expected") as caught:
        load_faces(tmp_path / "a.parquet")
    assert "\n" not in str(caught.value)


def test_numbers_that_do_not_fit(tmp_path):
    pq.write_table(table(identity=lambda x: pa.array([1, 2, 3, 2**63], pa.uint64())), tmp_path / "a.parquet")
    with pytest.raises(TgfrError, match="a.parquet.*9223372036854775808"):
        load_faces(tmp_path / "a.parquet")


def test_columns_twice(tmp_path, capfd):
    pq.write_table(
        table().append_column("identity2", table()["photo_id"]).rename_columns([*CANONICAL, "identity"]),
        tmp_path / "a.parquet",
    )
    with pytest.raises(TgfrError, match="a.parquet: column 'identity' is there 2 times"):
        load_faces(tmp_path / "a.parquet")
    assert capfd.readouterr() == ("", "")


def test_nulls_are_counted(tmp_path):
    pq.write_table(table(identity=lambda x: pa.array([1, None, 2, None])), tmp_path / "a.parquet")
    with pytest.raises(TgfrError, match="row 1 has no identity; 1 more rows like it"):
        load_faces(tmp_path / "a.parquet")
    pq.write_table(table(identity=lambda x: pa.array(["Anna", "", "Ben", "Ben"])), tmp_path / "a.parquet")
    with pytest.raises(TgfrError, match="row 1 has no identity"):
        load_faces(tmp_path / "a.parquet")
    pq.write_table(table(image=lambda x: pa.array([None, *x.to_pylist()[1:]], x.type)), tmp_path / "a.parquet")
    good, skips = drop_unusable(load_faces(tmp_path / "a.parquet"))
    assert good["photo_id"][:] == ["0/1", "1/2", "1/3"] and skips.items[0][0] == "0/0"


# ---- people with names


def test_names_are_identities(tmp_path, capsys):
    names = ["Anna", "Ben", "Anna", "17", "017", "Zo\u00eb", "Zoe\u0308"]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        column = pa.array(names)
        pq.write_table(
            table(
                7,
                identity=lambda x, c=column, k=kind: c.dictionary_encode() if pa.types.is_dictionary(k) else c.cast(k),
            ),
            tmp_path / "a.parquet",
        )
        faces = load_faces(tmp_path / "a.parquet")
        numbers = faces["identity"][:]
        assert numbers[0] == numbers[2] != numbers[1] and numbers[3] == 17 != numbers[4] and numbers[5] == numbers[6]
        assert faces["identity_name"][:] == names and all(isinstance(n, int) and n < 2**53 for n in numbers)
        assert "identities are names, 5 people" in " ".join(capsys.readouterr().err.split())
    pq.write_table(table(2, identity=lambda x: pa.array(["Ben", "Cleo"])), tmp_path / "b.parquet")
    other = load_faces(tmp_path / "b.parquet")["identity"][:]
    assert other[0] == numbers[1] and other[1] not in numbers  # a person has one number in every file
    assert (
        identity_number("Anna") == numbers[0] == 2**52 + int(hashlib.sha256(b"Anna").hexdigest()[:16], 16) % 2**52
    )  # and in every version


def test_two_names_of_one_number(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "identity_number", lambda name: 5)
    pq.write_table(table(identity=lambda x: pa.array(["Anna", "Ben", "Anna", "Ben"])), tmp_path / "a.parquet")
    with pytest.raises(TgfrError, match="'Anna' and 'Ben' get one number"):
        load_faces(tmp_path / "a.parquet")


# ---- shards


def shards(folder: Path, *tables: pa.Table) -> Path:
    return put(folder, **{f"train-{k:05d}-of-{len(tables):05d}.parquet": t for k, t in enumerate(tables)})


DIFFERENT = {
    **{case: change for case, change in TYPES.items()},
    "order": {"captions": lambda x: x},
    "captions as text": {"captions": lambda x: pa.array(["a person 4", "a person 5", "a person 6", "a person 7"])},
    "no captions in any row": {"captions": lambda x: pa.array([[]] * 4)},
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize("case", DIFFERENT)
def test_shards_of_different_types(case, first, tmp_path):
    other = table(4, 4, **DIFFERENT[case])
    if case == "order":
        other = other.select(["captions", "photo_id", "image", "identity"])
    faces = load_faces(shards(tmp_path, *[table(), other][:: 1 if not first else -1]))
    found = sorted(rows(faces), key=lambda r: r[2])
    expected = wanted(8)
    if case == "captions as text":
        expected[4:] = [(*row[:3], row[3][:1]) for row in expected[4:]]
    if case == "no captions in any row":
        expected[4:] = [(*row[:3], []) for row in expected[4:]]
    assert found == expected


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_names_in_one_shard(first, tmp_path):
    faces = load_faces(
        shards(
            tmp_path,
            *[table(), table(4, 4, identity=lambda x: pa.array(["1", "Anna", "Anna", "2"]))][:: 1 if not first else -1],
        )
    )
    of = dict(zip(faces["photo_id"], faces["identity"]))
    assert of["2/4"] == of["1/2"] == 1 and of["2/5"] == of["3/6"] == identity_number("Anna")


def ints(kind):
    return {"age": lambda _: pa.array([1, 2, 3, 4], kind)}


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize(
    "a, b, values",
    [
        (ints(pa.int32()), ints(pa.int64()), [1, 2, 3, 4]),
        (ints(pa.uint8()), ints(pa.int8()), [1, 2, 3, 4]),
        (ints(pa.int64()), ints(pa.float64()), [1, 2, 3, 4]),
        (ints(pa.float32()), ints(pa.float64()), [1, 2, 3, 4]),
        (
            {"age": lambda _: pa.array(list("abcd"))},
            {"age": lambda _: pa.array(list("abcd"), pa.large_string())},
            list("abcd"),
        ),
        (
            {"age": lambda _: pa.array(list("abcd"))},
            {"age": lambda _: pa.array(list("abcd"), pa.string_view())},
            list("abcd"),
        ),
        (
            {"age": lambda _: pa.array(list("abcd"))},
            {"age": lambda _: pa.array(list("abcd")).dictionary_encode()},
            list("abcd"),
        ),
        ({"age": lambda _: pa.nulls(4)}, ints(pa.int64()), None),
        ({}, ints(pa.int64()), None),
        ({}, {"age": lambda _: pa.array(list("abcd")).dictionary_encode()}, None),
    ],
)
def test_other_columns_widen(a, b, values, first, tmp_path, capsys):
    parts = [table(4, 0, **a), table(4, 4, **b)]
    faces = load_faces(shards(tmp_path, *parts[:: 1 if not first else -1]))
    said = " ".join(capsys.readouterr().err.split())
    assert sorted(rows(faces), key=lambda r: r[2]) == wanted(8)
    assert ("no column 'age'" in said) == (not a)
    for photo_id, age in zip(faces["photo_id"], faces["age"]):
        k = int(photo_id.partition("/")[2])
        assert age == (b["age"](None).to_pylist()[k % 4] if k > 3 else values[k] if values else None)


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize(
    "a, b, one, two",
    [
        (ints(pa.int64()), {"age": lambda _: pa.array(list("abcd"))}, "int64", "string"),
        (ints(pa.int64()), {"age": lambda _: pa.array([True] * 4)}, "int64", "bool"),
        ({"age": lambda _: pa.array([b"a"] * 4)}, {"age": lambda _: pa.array(["a"] * 4)}, "binary", "string"),
        ({"age": lambda _: pa.array([["a"]] * 4)}, {"age": lambda _: pa.array(["a"] * 4)}, "list<", "string"),
    ],
)
def test_other_columns_that_do_not_fit(a, b, one, two, first, tmp_path):
    shards(tmp_path, *[table(4, 0, **a), table(4, 4, **b)][:: 1 if not first else -1])
    with pytest.raises(TgfrError) as caught:
        load_faces(tmp_path)
    said = str(caught.value)
    assert (
        "train-00001-of-00002.parquet: column 'age' is" in said
        and one in said
        and two in said
        and "train-00000-of-00002.parquet" in said
        and "\n" not in said
    )


def test_a_number_that_would_change(tmp_path):
    shards(
        tmp_path, table(4, 0, age=lambda _: pa.array([2**53 + 1] * 4)), table(4, 4, age=lambda _: pa.array([0.5] * 4))
    )
    with pytest.raises(TgfrError, match="00000-of-00002.parquet: column 'age' is int64, which does not become double"):
        load_faces(tmp_path)


def test_labels_that_mean_something_else(tmp_path):
    for k, names in enumerate((["woman", "man"], ["man", "woman"])):
        made = (
            datasets.Dataset(table(4, 4 * k))
            .add_column("sex", [0, 1, 0, 1])
            .cast_column("sex", datasets.ClassLabel(names=names))
        )
        made.to_parquet(tmp_path / f"train-{k:05d}-of-00002.parquet")
    with pytest.raises(TgfrError, match="column 'sex' is ClassLabel.*man"):
        load_faces(tmp_path)
    assert load_faces(tmp_path / "train-00000-of-00002.parquet").features["sex"].names == ["woman", "man"]


def test_wrong_columns_in_a_later_file(tmp_path):
    shards(tmp_path, table(), table(4, 4, captions=lambda x: None))
    with pytest.raises(TgfrError, match="00001-of-00002.parquet: no column 'captions'"):
        load_faces(tmp_path)
    assert load_faces(tmp_path, captions=False)["captions"][4:] == [[]] * 4


def test_other_columns_of_types_nobody_reads(tmp_path, capsys):
    pq.write_table(
        table(when=lambda _: pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64()))), tmp_path / "a.parquet"
    )
    faces = load_faces(tmp_path / "a.parquet")
    assert rows(faces) == wanted(4)
    assert "when" in faces.column_names or "left out: 'when'" in " ".join(capsys.readouterr().err.split())


# ---- photos beside the file, links


def beside(path, count=2):
    return table(
        count,
        image=lambda x: pa.array(
            [{"bytes": None, "path": path if k == 1 else f"{k}.jpg"} for k in range(count)], x.type
        ),
    )


def test_photos_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("set/0.jpg", "set/photos/1.jpg"):
        put(tmp_path, **{name: PHOTOS[3]})
    (tmp_path / "set/photos/link.jpg").symlink_to("../0.jpg")
    for path in ("photos/1.jpg", str(tmp_path / "set/photos/1.jpg"), "photos/../0.jpg", "photos/link.jpg"):
        pq.write_table(beside(path), tmp_path / "set/a.parquet")
        faces = load_faces("set/a.parquet")
        assert len(drop_unusable(faces)[0]) == 2 and (read_image(faces[1]["image"]) == read_image(PHOTOS[3])).all()
    (tmp_path / "way").symlink_to("set")  # the folder itself may be a link
    assert len(drop_unusable(load_faces("way/a.parquet"))[0]) == 2
    pq.write_table(beside("nowhere.jpg"), tmp_path / "set/a.parquet")
    assert "no such file" in drop_unusable(load_faces("set/a.parquet"))[1].items[0][1]


@pytest.mark.parametrize("save", ["parquet", "saved"])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "../private.jpg",
        "photos/../../private.jpg",
        "link.jpg",
        "folder/private.jpg",
        "~/../../private.jpg",
        "a\0b",
        "{private}",
    ],
)
def test_paths_that_lead_out(path, save, tmp_path):
    put(tmp_path, **{"private.jpg": PHOTOS[0], "set/0.jpg": PHOTOS[1], "set/photos/1.jpg": PHOTOS[2], "set/~/x": b""})
    (tmp_path / "set/link.jpg").symlink_to("../private.jpg"), (tmp_path / "set/folder").symlink_to("..")
    made = beside(path.format(private=tmp_path / "private.jpg"))
    if save == "parquet":
        pq.write_table(made, tmp_path / "set/a.parquet")
    else:
        with pa.OSFile(str(tmp_path / "set/data.arrow"), "wb") as file, pa.ipc.new_stream(file, made.schema) as writer:
            writer.write_table(made)
        (tmp_path / "set/state.json").write_text(
            json.dumps(
                {
                    "_data_files": [{"filename": "data.arrow"}],
                    "_fingerprint": "a",
                    "_format_columns": None,
                    "_format_kwargs": {},
                    "_format_type": None,
                    "_output_all_columns": False,
                    "_split": None,
                }
            )
        )
        (tmp_path / "set/dataset_info.json").write_text("{}")
    with pytest.raises(TgfrError, match="photo 0/1: its path .* leads out of this folder"):
        load_faces(tmp_path / "set" / ("a.parquet" if save == "parquet" else ""))


def test_a_name_beside_bytes_is_only_a_name(tmp_path):
    pq.write_table(
        table(image=lambda x: pa.array([{"bytes": PHOTOS[i], "path": "/etc/hostname"} for i in range(4)])),
        tmp_path / "a.parquet",
    )
    faces = load_faces(tmp_path / "a.parquet")
    assert rows(faces) == wanted(4) and faces[0]["image"]["path"] == "/etc/hostname"


def test_linked_files(tmp_path):
    put(tmp_path, **{"elsewhere/train.parquet": table(), "set/kept/x.bin": b""})
    (tmp_path / "set/train.parquet").symlink_to("../elsewhere/train.parquet")
    with pytest.raises(TgfrError, match="train.parquet: a symbolic link out of"):
        load_faces(tmp_path / "set")
    assert len(load_faces(tmp_path / "set/train.parquet")) == 4  # named by its user
    put(tmp_path / "hub/datasets--me--faces", **{"blobs/abc": table()})
    snapshot = tmp_path / "hub/datasets--me--faces/snapshots/0123/data"
    snapshot.mkdir(parents=True)
    (snapshot / "train-00000-of-00001.parquet").symlink_to("../../../blobs/abc")  # as the Hub's cache is made
    assert len(load_faces(snapshot.parent)) == len(load_faces(snapshot)) == 4


def test_saved_sets_stay_in_their_folder(tmp_path):
    datasets.Dataset(table()).save_to_disk(tmp_path / "other")
    datasets.DatasetDict(train=datasets.Dataset(table())).save_to_disk(tmp_path / "set")
    state = json.loads((tmp_path / "set/train/state.json").read_text())
    for wrong in ("../../other/data-00000-of-00001.arrow", str(tmp_path / "other/data-00000-of-00001.arrow")):
        (tmp_path / "set/train/state.json").write_text(json.dumps(state | {"_data_files": [{"filename": wrong}]}))
        with pytest.raises(TgfrError, match="state.json: its data file .* lies outside"):
            load_faces(tmp_path / "set")
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["../other"]}')
    with pytest.raises(TgfrError, match="split 'other' lies outside"):
        load_faces(tmp_path / "set")


# ---- no copy, bounded memory


def test_no_copy_is_made(tmp_path):
    """Loading, screening and dividing write nothing but into the own folder: an audit hook sees every file that is
    opened for writing."""
    pq.write_table(
        table(
            20,
            captions=lambda x: pa.array([f"a person {i} " for i in range(20)]),
            identity=lambda x: x.cast(pa.int32()),
        ),
        tmp_path / "a.parquet",
    )
    datasets.Dataset(table(20, identity=lambda x: x.cast(pa.int32()))).save_to_disk(tmp_path / "saved")
    code = """
import sys, os
written = []
def hook(event, arguments):
    if event != "open" or not isinstance(arguments[2], int) or str(arguments[0]) == os.devnull:
        return
    if arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(str(arguments[0]))
import tgfr.data.faces
from tgfr.data.datasets import drop_unusable, load_faces
from tgfr.data.splits import split_people
sys.addaudithook(hook)
for source in sys.argv[1:]:
    faces, skips = drop_unusable(load_faces(source))
    parts = split_people(faces, [.5, .5])
    assert len(parts[0].select([1, 0]).select_columns(["image"])[:]["image"]) == 2
print(written)
"""
    home = tmp_path / "home"
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.parquet", tmp_path / "saved"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HOME": str(home), "HOME": str(home)},
    )
    assert run.returncode == 0 and run.stdout.strip() == "[]", run.stdout + run.stderr
    assert not [p for p in home.rglob("*") if p.is_file()] and sorted(
        p.name for p in (tmp_path / "saved").iterdir()
    ) == ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"]


def test_large_sets_lie_in_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "IN_MEMORY", 1000)
    monkeypatch.setattr(parquet.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    faces = load_faces(shards(tmp_path / "set", table(8), table(8, 8, age=lambda _: pa.array(range(8)))))
    assert (
        rows(faces) == wanted(16)
        and faces["age"][:] == [None] * 8 + list(range(8))
        and not list((tmp_path / "tmp").iterdir())
    )
    good, _ = drop_unusable(faces)
    assert rows(good) == wanted(16)
    monkeypatch.setattr(parquet.tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(TgfrError, match="nowhere: no room.*TMPDIR"):
        load_faces(tmp_path / "set")


def test_what_unfolds_is_bounded(tmp_path):
    "One photo of 64 KB under 40,000 names: a file of half a MB that would take 2.5 GB."
    n, large = 40_000, pa.array([encode_jpeg(rng(0).integers(0, 255, (224, 224, 3), np.uint8), 90)])
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), large)
    made = pa.table(
        {
            "image": image,
            "identity": pa.array(np.zeros(n, np.int64)),
            "photo_id": pa.array(np.arange(n)).cast(pa.string()),
            "captions": pa.array([["a"]] * n),
        }
    )
    pq.write_table(made, tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 1 << 20
    with pytest.raises(TgfrError, match="bomb.parquet: unfolds to more than"):
        load_faces(tmp_path / "bomb.parquet")


def fuzz(tmp_path, rounds):
    "Damaged files: our error in one line, or rows of the right types."
    whole, draw, taken, path = [], rng(3, "parquet"), 0, tmp_path / "a.parquet"
    for made in (
        table(8),
        table(8, **TYPES["photo_id category"]),
        table(8, identity=lambda x: pa.array(list("abcdefgh"))),
    ):
        pq.write_table(made, buffer := io.BytesIO(), compression=["snappy", "zstd", "none"][len(whole)])
        whole.append(buffer.getvalue())
    for i in range(rounds):
        data = damaged(whole[i % 3], draw.integers(1, 8), draw.integers)
        path.write_bytes(data[: draw.integers(len(data))] if draw.random() < 0.2 else data)
        try:
            faces = load_faces(path)
        except TgfrError as e:
            assert "a.parquet" in str(e) and "\n" not in str(e)
        else:
            taken += {name: faces.features[name] for name in CANONICAL} == CANONICAL and len(faces[:]["image"]) == len(
                faces
            )
    assert 0 < taken < rounds


def test_damaged_files(tmp_path):
    fuzz(tmp_path, 300)


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    fuzz(tmp_path, 10_000)


def test_canonical_files_are_as_before(tmp_path):
    "Columns, their order and features, and every value, as `datasets` itself reads them."
    made = (
        datasets.Dataset(table(8, link=lambda _: pa.array(["exact"] * 8)))
        .cast_column("image", datasets.Image(decode=False))
        .add_column("sex", [0, 1] * 4)
        .cast_column("sex", datasets.ClassLabel(names=["f", "m"]))
    )
    made.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    faces = load_faces(tmp_path)
    own = datasets.Dataset.from_parquet(
        str(tmp_path / "train-00000-of-00001.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert faces.column_names == own.column_names and faces.features == own.features and faces[:] == own[:]
    assert faces.data.table.schema.remove_metadata() == own.data.table.schema.remove_metadata()


def test_splits_of_a_file_of_any_ending(tmp_path):
    pq.write_table(table(), tmp_path / "A.PARQUET")
    assert len(load_faces(tmp_path / "A.PARQUET")) == len(load_faces(tmp_path)) == 4
    assert pc.sum(load_faces(tmp_path).data.table["identity"]).as_py() == 2 and list(parquet_splits(tmp_path)) == ["A"]


def test_names_of_ones_own(tmp_path):
    "A column identity_name that is there already stays as it is."
    pq.write_table(
        table(
            identity=lambda x: pa.array(["Anna", "Anna", "Ben", "Ben"]),
            identity_name=lambda _: pa.array(["a", None, "c", "d"]),
        ),
        tmp_path / "a.parquet",
    )
    faces = load_faces(tmp_path / "a.parquet")
    assert faces["identity_name"][:] == ["a", None, "c", "d"] and len(set(faces["identity"])) == 2


def test_what_a_file_says_of_itself_may_be_anything(tmp_path):
    for said in (
        b"{",
        b"[]",
        b'{"info": 3}',
        b'{"info": {"features": {"image": {"_type": "Nothing"}, "age": 7}}}',
        b'{"info": {"features": []}}',
        b'{"info": {"features": {"age": {"_type": "ClassLabel", "names": 5}}}}',
        b"\xff",
    ):
        pq.write_table(
            table(age=lambda _: pa.array(range(4))).replace_schema_metadata({b"huggingface": said}),
            tmp_path / "a.parquet",
        )
        faces = load_faces(tmp_path / "a.parquet")
        assert rows(faces) == wanted() and faces["age"][:] == [0, 1, 2, 3]


def test_large_files_go_there_at_once(tmp_path, monkeypatch):
    "The size of the files decides before anything is read; what unfolds to more goes there on the way."
    called = []

    def spy(batches, schema, max_bytes):
        called.append(max_bytes)
        return collect(batches, schema, max_bytes)

    collect = parquet._collect
    monkeypatch.setattr(parquet, "_collect", spy)
    folder = shards(tmp_path / "set", table(8), table(8, 8))
    size = sum(f.stat().st_size for f in folder.iterdir())
    for limit, max_bytes in ((size, size), (size - 1, 0)):
        monkeypatch.setattr(parquet, "IN_MEMORY", limit)
        assert rows(load_faces(folder)) == wanted(16) and called.pop() == max_bytes


def labelled(numbers, names, start=0) -> pa.Table:
    "A table whose people are class labels, written without the check that `datasets` makes."
    kind = datasets.Features({"identity": datasets.ClassLabel(names=names)}).arrow_schema
    made = table(len(numbers), start, identity=lambda _: pa.array(numbers, pa.int64()))
    return made.replace_schema_metadata(kind.metadata)


def test_people_as_class_labels(tmp_path, capsys):
    """mmdetection #3019, avalanche #771: numbers of two files mean what the names of each file say, in shards and in
    splits."""
    shards(tmp_path / "a", labelled([0, 1, 1], ["ann", "bob"]), labelled([0, 0, 1], ["bob", "ann"], 3))
    found = load_faces(tmp_path / "a")
    assert found["identity_name"][:] == ["ann", "bob", "bob", "bob", "bob", "ann"]
    assert found["identity"][:] == [identity_number(name) for name in found["identity_name"]]
    put(
        tmp_path / "b",
        **{
            "train.parquet": labelled([0, 1], ["ann", "bob"]),
            "validation.parquet": labelled([0, 1], ["cid", "dan"], 4),
        },
    )
    assert not set(load_faces(tmp_path / "b", "train")["identity"]) & set(
        load_faces(tmp_path / "b", "validation")["identity"]
    )
    pq.write_table(labelled([1, 0, 1], ["17", "4"]), tmp_path / "numbers.parquet")
    assert load_faces(tmp_path / "numbers.parquet")["identity"][:] == [4, 17, 4]
    load_faces(tmp_path / "a").save_to_disk(tmp_path / "saved")
    assert load_faces(tmp_path / "saved")["identity"][:] == found["identity"][:]
    assert parquet.read_ids(tmp_path / "numbers.parquet")["identity"].to_pylist() == [4, 17, 4]


@pytest.mark.parametrize(
    "numbers, said",
    [
        ([0, 1, 5], "identity 5 is a class label beyond the 2 names"),
        ([0, -1, -1], "row 1 has no identity; 1 more rows like it"),
        ([0, None, 1], "row 1 has no identity"),
    ],
)
def test_class_labels_without_a_person(numbers, said, tmp_path):
    "huggingface/datasets #8494 (a label out of range is kept), #4511 (-1 is no label)."
    pq.write_table(labelled(numbers, ["ann", "bob"]), tmp_path / "a.parquet")
    with pytest.raises(TgfrError, match=said):
        load_faces(tmp_path / "a.parquet")


def test_people_who_are_not_known(tmp_path, capsys):
    "deep-person-reid #551, Person_reID_baseline_pytorch #58: photos of nobody in particular are numbered -1."
    pq.write_table(table(identity=lambda _: pa.array([3, -1, -1, 4])), tmp_path / "a.parquet")
    assert load_faces(tmp_path / "a.parquet")["identity"][:] == [3, -1, -1, 4]
    assert "2 photos have identity -1, and are taken for one person" in " ".join(capsys.readouterr().err.split())
    pq.write_table(table(identity=lambda _: pa.array([3, -1, 3, 4])), tmp_path / "a.parquet")
    load_faces(tmp_path / "a.parquet")
    assert not capsys.readouterr().err


def test_photos_of_more_than_2_gb_stay_in_parts(tmp_path):
    """huggingface/datasets #6206, LlamaFactory #6606: `offset overflow while concatenating arrays`; here where one
    photo lies beside the file."""
    parts = [
        pa.array([{"bytes": PHOTOS[0], "path": "0.jpg"}], IMAGE_TYPE),
        pa.array([{"bytes": None, "path": "1.jpg"}, None], IMAGE_TYPE),
        pa.array([{"bytes": PHOTOS[2], "path": None}], IMAGE_TYPE),
    ]
    found = parquet._resolve_paths(pa.chunked_array(parts), pa.chunked_array([pa.array(list("abcd"))]), tmp_path)
    assert [len(chunk) for chunk in found.chunks] == [1, 2, 1]
    assert found.to_pylist() == [
        {"bytes": PHOTOS[0], "path": "0.jpg"},
        {"bytes": None, "path": str(tmp_path / "1.jpg")},
        None,
        {"bytes": PHOTOS[2], "path": None},
    ]

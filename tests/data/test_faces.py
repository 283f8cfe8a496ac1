"Reading, degrading and augmenting photos; loading, screening and dividing captioned faces."

import io
import json
import struct
import zlib
from types import SimpleNamespace

import cv2
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from hostile import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from tgfr.core import TgfrError, rng
from tgfr.data import faces
from tgfr.data.augmentations import augment
from tgfr.data.datasets import drop_unusable, load_faces, split_names
from tgfr.data.degradation import Degradation
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.splits import load_splits, split_people
from tgfr.training.recipes import Recipe
from tgfr.workflows.compare import Trainer


def picture(key: int = 0, height: int = 112, width: int = 112) -> np.ndarray:
    "A smooth random picture, which JPEG keeps well."
    return cv2.resize(
        rng("picture", key).integers(0, 256, (6, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )


def saved(image: Pillow.Image, kind: str = "PNG", **options) -> bytes:
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encode_jpeg(picture()))
    start = data.index(b"\xff\xc0")  # start of frame: length 2, precision 1, height 2, width 2
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def off(a: np.ndarray, b: np.ndarray) -> float:
    return np.abs(a.astype(float) - b).mean()


# ---- reading

JPEG, PNG = encode_jpeg(picture()), saved(Pillow.fromarray(picture()))


def test_every_way_in_gives_the_same_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    sources = [
        PNG,
        bytearray(PNG),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": PNG, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
        Pillow.open(io.BytesIO(PNG)),
        picture(),
    ]
    for source in sources:
        np.testing.assert_array_equal(read_image(source), picture())
    assert off(read_image(JPEG), picture()) < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "PPM"])
def test_formats(kind):
    assert off(read_image(saved(Pillow.fromarray(picture()), kind)), picture()) < 4


def test_modes_become_rgb():
    image, rgb = Pillow.fromarray(picture()), picture()
    grey = np.asarray(image.convert("L"))
    transparent = np.dstack([rgb, np.full((112, 112), 10, np.uint8)])
    for source in (
        saved(image.convert("L")),
        saved(image.convert("L"), "JPEG", quality=100),
        image.convert("L"),
        grey,
        grey[..., None],
    ):
        assert off(read_image(source), grey[..., None]) < 2
    for source in (saved(Pillow.fromarray(transparent)), Pillow.fromarray(transparent), transparent):
        np.testing.assert_array_equal(read_image(source), rgb)
    assert off(read_image(saved(image.convert("CMYK"), "JPEG", quality=100)), rgb) < 4
    assert off(read_image(image.convert("CMYK")), rgb) < 4
    deep = grey.astype(np.uint16) * 257
    for source in (
        saved(Pillow.fromarray(deep)),
        Pillow.fromarray(deep),
        deep,
        cv2.imencode(".png", deep)[1].tobytes(),
    ):
        assert off(read_image(source), grey[..., None]) < 1
    assert off(read_image(cv2.imencode(".png", rgb[..., ::-1].astype(np.uint16) * 257)[1].tobytes()), rgb) < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif, upright = Pillow.Exif(), picture(1, 60, 90)
    exif[0x0112] = orientation
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        orientation
    ]  # Pillow's transpose that undoes what the tag asks for
    stored = Pillow.fromarray(upright) if back is None else Pillow.fromarray(upright).transpose(Pillow.Transpose(back))
    data = saved(stored, "JPEG", exif=exif, quality=100)
    for source in (data, Pillow.open(io.BytesIO(data))):
        assert off(read_image(source, size=None), upright) < 4


def test_size_and_shape():
    wide = np.pad(picture(), ((0, 0), (20, 20), (0, 0)))
    np.testing.assert_array_equal(read_image(wide), picture())  # the central square
    assert read_image(wide, size=None).shape == (112, 152, 3)
    assert read_image(picture(height=500, width=300), size=112).shape == (112, 112, 3)
    assert read_image(picture(), size=64).flags.c_contiguous


HOSTILE = {
    "no bytes": b"",
    "text": b"hello world\n" * 50,
    "cut JPEG": JPEG[: len(JPEG) // 2],
    "JPEG without its end": JPEG[:-2],
    "JPEG header only": JPEG[:20],
    "cut PNG": PNG[: len(PNG) // 2],
    "PNG without pixels": png_header(112, 112),
    "zeros": bytes(5000),
    "SVG": b"<svg width='10' height='10'/>",
    "a number": 7,
    "None": None,
    "empty cell": {"bytes": None, "path": None},
    "float array": picture() / 255,
    "empty array": np.zeros((0, 4, 3), np.uint8),
    "two channels": np.zeros((5, 5, 2), np.uint8),
    "float image": Pillow.fromarray(np.zeros((5, 5), np.float32)),
    "missing file": "nowhere/photo.jpg",
    "a folder": "/",
    "cut Pillow image": Pillow.open(io.BytesIO(JPEG[: len(JPEG) // 2])),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_read_is_named(case):
    with pytest.raises(TgfrError, match="photo person 7/3.*cannot be read: ."):
        read_image(HOSTILE[case], name="person 7/3")


@pytest.mark.parametrize(
    "data",
    [png_header(60000, 60000), png_header(9000, 9000), jpeg_claiming(60000, 60000), jpeg_claiming(9000, 9000)],
    ids=["png 60000", "png 9000", "jpeg 60000", "jpeg 9000"],
)
def test_large_claims_are_refused_before_decoding(data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(TgfrError, match="pixels"):
        read_image(data, "bomb")


def test_limits_can_be_lowered(tmp_path, monkeypatch):
    with pytest.raises(TgfrError, match="112 x 112 pixels"):
        read_image(PNG, pixels=1000)
    with pytest.raises(TgfrError, match="112 x 112 pixels"):
        read_image(Pillow.open(io.BytesIO(PNG)), pixels=1000)
    (tmp_path / "big.jpg").write_bytes(JPEG)
    with pytest.raises(TgfrError, match="big.jpg.*more than the 100 expected"):
        monkeypatch.setattr(faces._file_bytes, "__defaults__", (100,))
        read_image(tmp_path / "big.jpg")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([JPEG, PNG]), st.integers(0, 5), st.randoms())
def test_damaged_bytes_give_a_picture_or_our_error(whole, count, random):
    data = damaged(whole[: random.randint(0, len(whole))], count, random.randrange)
    try:
        image = read_image(bytes(data), "fuzzed", pixels=1 << 20)
    except TgfrError:
        return
    assert image.shape == (112, 112, 3) and image.dtype == np.uint8


def test_jpeg_quality():
    assert len(encode_jpeg(picture(), 20)) < len(encode_jpeg(picture(), 95))
    assert encode_jpeg(picture()) == encode_jpeg(picture().copy())
    for wrong in (0, 101):
        with pytest.raises(TgfrError, match="quality"):
            encode_jpeg(picture(), wrong)


# ---- degradation and augmentation

cameras = st.builds(
    Degradation,
    size=st.none() | st.integers(2, 130),
    blur=st.just(0) | st.floats(0.1, 5),
    noise=st.just(0) | st.floats(0.5, 40),
    jpeg=st.none() | st.integers(1, 100),
)


@settings(max_examples=60, deadline=None)
@given(cameras, st.integers(8, 120), st.integers(8, 120), st.integers(0, 99))
def test_degradation_keeps_the_shape_and_depends_on_keys_alone(camera, height, width, key):
    image = picture(key, height, width)
    before = image.copy()
    once = camera(image, "photo", key)
    camera(picture(key + 1), "another photo")
    np.testing.assert_array_equal(camera(image, "photo", key), once)
    np.testing.assert_array_equal(image, before)
    assert once.shape == image.shape and once.dtype == np.uint8
    assert eval(repr(camera)) == camera and camera.name


def test_degradation_parts():
    image = picture()
    for nothing in (Degradation(), Degradation(112), Degradation(500)):
        np.testing.assert_array_equal(nothing(image), image)
    errors = [off(Degradation(size)(image), image) for size in (56, 32, 16, 8, 4)]
    assert errors == sorted(errors) and errors[0] > 0
    checks = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (56, 56))[..., None].repeat(3, 2)
    assert (
        np.abs(Degradation(56)(checks).astype(int) - 127.5).max() < 2
    )  # area averaging: two by two pixels become their mean
    assert Degradation(blur=2)(checks).std() < 1
    noise = Degradation(noise=10)(np.full((112, 112, 3), 128, np.uint8), "a") - 128.0
    assert abs(noise.std() - 10) < 0.3 and abs(noise.mean()) < 0.3
    assert (Degradation(noise=10)(image, "a") != Degradation(noise=10)(image, "b")).any()
    np.testing.assert_array_equal(Degradation(jpeg=30)(image), read_image(encode_jpeg(image, 30)))


def test_degradation_order():
    image, whole = picture(3), Degradation(16, blur=1.5, noise=8, jpeg=40)
    by_hand = image
    for step in (Degradation(blur=1.5), Degradation(16), Degradation(noise=8), Degradation(jpeg=40)):
        by_hand = step(by_hand, "x")
    np.testing.assert_array_equal(whole(image, "x"), by_hand)


def test_degradation_names():
    names = [d.name for d in (Degradation(), Degradation(16), Degradation(16, 1.5, 8, 40), Degradation(blur=2.0))]
    assert names == ["112px", "16px", "16px blur1.5 noise8 jpeg40", "112px blur2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 1},
        {"size": 16.5},
        {"size": "16"},
        {"size": True},
        {"blur": -1},
        {"blur": float("inf")},
        {"blur": 1e9},
        {"noise": float("nan")},
        {"noise": "8"},
        {"jpeg": 0},
        {"jpeg": 101},
    ],
    ids=str,
)
def test_degradation_refuses(wrong):
    with pytest.raises(TgfrError, match=next(iter(wrong))):
        Degradation(**wrong)


def test_degradation_refuses_other_arrays():
    for wrong in (picture() / 255, picture()[..., 0]):
        with pytest.raises(TgfrError, match="expected uint8"):
            Degradation(16)(wrong)


def test_augment():
    image = picture()
    np.testing.assert_array_equal(augment(image, rng(0), flip=0, grey=0), image)
    np.testing.assert_array_equal(augment(image, rng(0), flip=1, grey=0), image[:, ::-1])
    grey = augment(image, rng(0), flip=0, grey=1)
    assert off(grey, np.asarray(Pillow.fromarray(image).convert("L"))[..., None]) < 1
    assert not np.shares_memory(augment(image, rng(0), flip=0, grey=0), image)
    drawn = [augment(image, rng(0, i)) for i in range(600)]
    mirrored = np.mean([off(d.mean(2), image[:, ::-1].mean(2)) < off(d.mean(2), image.mean(2)) for d in drawn])
    assert abs(mirrored - 0.5) < 0.08 and abs(np.mean([(d[..., 0] == d[..., 1]).all() for d in drawn]) - 0.2) < 0.06


# ---- catalog

CANONICAL = Features(
    {
        "image": Image(decode=False),
        "identity": Value("int64"),
        "photo_id": Value("string"),
        "captions": List(Value("string")),
    }
)


def rows(people=4, photos=3) -> list[dict]:
    return [
        {
            "image": {"bytes": encode_jpeg(picture(p * photos + k)), "path": None},
            "identity": p,
            "photo_id": f"{p}/{k}",
            "captions": [f"Person {p}.", f"Photo {k}."],
        }
        for p in range(people)
        for k in range(photos)
    ]


@pytest.fixture
def drawn() -> Dataset:
    return Dataset.from_list(rows(), features=CANONICAL)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def table(drawn, **columns) -> pa.Table:
    "The faces as an Arrow table that no library has labelled."
    plain = {
        "image": [{"bytes": r["image"]["bytes"], "path": "x.jpg"} for r in drawn],
        **{k: drawn[k][:] for k in ("identity", "photo_id", "captions")},
    } | columns
    return pa.table({k: v for k, v in plain.items() if v is not None})


def test_parquet_file_and_folder(drawn, tmp_path):
    drawn.to_parquet(tmp_path / "one" / "faces.parquet")
    drawn.cast_column("image", Image()).to_parquet(tmp_path / "two" / "train-00000-of-00001.parquet")
    for source in (tmp_path / "one" / "faces.parquet", str(tmp_path / "one"), tmp_path / "two"):
        assert load_faces(source).features == CANONICAL and load_faces(source)[:] == drawn[:]


def test_files_of_a_split_are_in_order_and_all_there(drawn, tmp_path):
    for i in (2, 0, 1):
        drawn.shard(3, i, contiguous=True).to_parquet(tmp_path / f"train-{i:05}-of-00003.parquet")
    drawn.select([0]).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    assert load_faces(tmp_path, "train")["photo_id"][:] == drawn["photo_id"][:]
    assert len(load_faces(tmp_path, "validation")) == 1
    for split in (None, "test"):
        with pytest.raises(TgfrError, match="'train', 'validation'"):
            load_faces(tmp_path, split)
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(TgfrError, match="2 files of split 'train'.*3"):
        load_faces(tmp_path, "train")


def test_saved_datasets(drawn, tmp_path):
    drawn.save_to_disk(tmp_path / "one")
    DatasetDict(train=drawn, validation=drawn.select([3])).save_to_disk(tmp_path / "two")
    assert load_faces(tmp_path / "one")[:] == load_faces(tmp_path / "two", "train")[:] == drawn[:]
    assert load_faces(tmp_path / "two", "validation")["photo_id"][:] == ["1/0"]
    with pytest.raises(TgfrError, match="'train', 'validation'"):
        load_faces(tmp_path / "two")
    with pytest.raises(TgfrError, match="no split 'test'"):
        load_faces(tmp_path / "one", "test")


def test_split_names(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn.save_to_disk("synthetic"), drawn.to_parquet("file.parquet")
    DatasetDict(train=drawn, validation=drawn, extra=drawn).save_to_disk("dict")
    for name in "validation-00000-of-00001", "train":
        drawn.to_parquet(f"folder/{name}.parquet")
    assert split_names("dict") == ["train", "validation", "extra"] and split_names(tmp_path / "folder") == [
        "train",
        "validation",
    ]
    assert [
        split_names(source)
        for source in (
            "synthetic",
            "synthetic:people=2",
            tmp_path / "synthetic",
            "file.parquet",
            "nowhere",
            tmp_path / "dict/train",
        )
    ] == [[]] * 6
    for wrong in (5, {}, {"splits": None}, {"splits": [1]}):
        (tmp_path / "dict/dataset_dict.json").write_text(json.dumps(wrong))
        with pytest.raises(TgfrError, match='dataset_dict.json: expected {"splits"'):
            split_names("dict")


@pytest.mark.parametrize(
    "save",
    [
        lambda splits, to: DatasetDict(splits).save_to_disk(to),
        lambda splits, to: [d.to_parquet(to / f"{name}-00000-of-00001.parquet") for name, d in splits.items()],
    ],
    ids=["saved", "parquet"],
)
def test_training_and_test_people_by_split(drawn, tmp_path, save):
    identity = np.array(drawn["identity"])
    people = np.unique(identity)
    train, validation = (drawn.select(np.flatnonzero(np.isin(identity, some))) for some in (people[1:], people[:1]))
    save({"validation": validation, "extra": validation, "train": train}, tmp_path / "three")

    def ids(*parts):
        return [part["photo_id"][:] for part in parts]

    assert ids(*load_splits(str(tmp_path / "three"))[:2]) == ids(train, validation)
    assert ids(*load_splits(str(tmp_path / "three"), "extra", "train")[:2]) == ids(validation, train)
    save({"train": train, "test": validation}, tmp_path / "other")
    assert ids(*load_splits(str(tmp_path / "other"), test="test")[:2]) == ids(train, validation)
    with pytest.raises(
        TgfrError, match=r"no split 'validation' \(--test-split\); there is '(train', 'test|test', 'train)'"
    ):
        load_splits(str(tmp_path / "other"))
    with pytest.raises(TgfrError, match=r"no split 'nosuch' \(--train-split\); there is "):
        load_splits(str(tmp_path / "other"), "nosuch", "test")
    with pytest.raises(TgfrError, match=r"which split \(--split\)\? there is 'test', 'train'"):
        load_faces(tmp_path / "other")
    with pytest.raises(TgfrError, match=r"no split 'nosuch' \(--split\); there is 'test', 'train'"):
        load_faces(tmp_path / "other", "nosuch")
    save({"train": drawn}, tmp_path / "one")
    a, b, _ = load_splits(str(tmp_path / "one"))  # the only one is cut
    assert len(a) + len(b) == len(drawn) and not set(a["identity"]) & set(b["identity"])
    with pytest.raises(TgfrError, match=r"no split 'validation' \(--test-split\); there is 'train'"):
        load_splits(str(tmp_path / "one"), "train")


def test_splits_of_what_has_none(drawn, tmp_path):
    drawn.to_parquet(tmp_path / "faces.parquet")
    with pytest.raises(TgfrError, match=r"no split 'train' \(--train-split\); there is none"):
        load_splits(str(tmp_path / "faces.parquet"), "train")
    with pytest.raises(TgfrError, match="no such file"):
        load_splits(str(tmp_path / "nowhere"), "train")
    with pytest.raises(TgfrError, match="has no splits"):
        load_splits("synthetic", "train")


@pytest.mark.parametrize(
    "change",
    [
        {"image": lambda d: [r["image"]["bytes"] for r in d]},
        {"image": lambda d: pa.array([r["image"]["bytes"] for r in d], pa.large_binary())},
        {"identity": lambda d: pa.array(d["identity"][:], pa.int32())},
        {"photo_id": lambda d: pa.array(d["photo_id"][:], pa.large_string())},
        {"captions": lambda d: pa.array(d["captions"][:], pa.large_list(pa.string()))},
        {"link": lambda d: ["exact"] * len(d)},
    ],
    ids=["binary", "large binary", "int32", "large string", "large list", "another column"],
)
def test_other_types_become_canonical(change, drawn, tmp_path):
    pq.write_table(table(drawn, **{k: f(drawn) for k, f in change.items()}), tmp_path / "a.parquet")
    loaded = load_faces(tmp_path / "a.parquet")
    assert {k: loaded.features[k] for k in CANONICAL} == dict(CANONICAL)
    assert [r["bytes"] for r in loaded["image"]] == [r["bytes"] for r in drawn["image"]]
    assert all(loaded[k][:] == drawn[k][:] for k in ("identity", "photo_id", "captions"))
    assert ("link" in loaded.column_names) == ("link" in change)


def test_one_caption_as_a_string(drawn, tmp_path):
    pq.write_table(table(drawn, captions=["A.", None] + ["B."] * 10), tmp_path / "a.parquet")
    assert load_faces(tmp_path / "a.parquet")["captions"][:3] == [["A."], [], ["B."]]


@pytest.mark.parametrize("column", list(CANONICAL))
def test_missing_columns_are_named(column, drawn, tmp_path):
    pq.write_table(table(drawn, **{column: None}), tmp_path / "bad.parquet")
    with pytest.raises(
        TgfrError, match=f"bad.parquet: no column '{column}'.*columns are .*{[c for c in CANONICAL if c != column][-1]}"
    ):
        load_faces(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    "column, value",
    [
        ("image", ["x.jpg"] * 12),
        ("image", [{"path": "x.jpg"}] * 12),
        ("identity", [b"a"] * 12),
        ("identity", [True] * 12),
        ("identity", [1.5] * 12),
        ("photo_id", list(range(12))),
        ("captions", [[1]] * 12),
        ("captions", [3] * 12),
    ],
)
def test_wrong_types_are_named(column, value, drawn, tmp_path):
    pq.write_table(table(drawn, **{column: value}), tmp_path / "bad.parquet")
    with pytest.raises(TgfrError, match=f"bad.parquet: column '{column}' is .*expected"):
        load_faces(tmp_path / "bad.parquet")


def test_ids_are_there_and_unique(drawn, tmp_path):
    for column, value, message in (
        ("photo_id", ["a", "b", "a"] + list("cdefghijk"), "'a' occurs 2 times"),
        ("photo_id", [None] + list("bcdefghijkl"), "row 0 has no photo_id"),
        ("identity", [1, None] + [2] * 10, "row 1 has no identity"),
    ):
        pq.write_table(table(drawn, **{column: value}), tmp_path / "bad.parquet")
        with pytest.raises(TgfrError, match=message):
            load_faces(tmp_path / "bad.parquet")


def test_sources_that_are_none(drawn, tmp_path):
    with pytest.raises(TgfrError, match="no such file"):
        load_faces(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TgfrError, match="without SPLIT"):
        load_faces(tmp_path / "empty")
    (tmp_path / "a.csv").write_text("image\n")
    with pytest.raises(TgfrError, match="expected a .parquet"):
        load_faces(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no parquet at all")
    with pytest.raises(TgfrError, match="a.parquet"):
        load_faces(tmp_path / "a.parquet")
    pq.write_table(table(drawn).slice(0, 0), tmp_path / "rowless.parquet")
    with pytest.raises(TgfrError, match="no rows"):
        load_faces(tmp_path / "rowless.parquet")
    drawn.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(TgfrError, match="saved"):
        load_faces(tmp_path / "saved")


def test_synthetic_source():
    loaded = load_faces("synthetic:people=3,photos=2,seed=4,first=10,size=64")
    assert (
        len(loaded) == 6
        and set(loaded["identity"]) == {10, 11, 12}
        and read_image(loaded[0]["image"], size=None).shape == (64, 64, 3)
    )
    assert {name: loaded.features[name] for name in CANONICAL} == CANONICAL and "gender=" in loaded["attributes"][0]
    for wrong in ("people=x", "people", "faces=3", "people=3,people=4", "people=-3", "people=3;photos=2"):
        with pytest.raises(TgfrError, match="not understood"):
            load_faces(f"synthetic:{wrong}")
    with pytest.raises(TgfrError, match="no splits"):
        load_faces("synthetic", "train")


def test_progress_bars_are_as_before(drawn, tmp_path):
    drawn.to_parquet(tmp_path / "a.parquet")
    for before in (datasets.enable_progress_bars, datasets.disable_progress_bars):
        before()
        state = datasets.are_progress_bars_disabled()
        load_faces(tmp_path / "a.parquet")
        assert datasets.are_progress_bars_disabled() == state
    datasets.enable_progress_bars()


def test_screen_names_what_it_leaves_out():
    faces = rows()
    faces[1]["image"]["bytes"] = faces[1]["image"]["bytes"][:-300]
    faces[2]["image"] = {"bytes": b"", "path": None}
    faces[4]["captions"] = ["", "  "]
    faces[5]["captions"] = [" She smiles.\n", "", "She smiles.", "Wavy hair.", None]
    faces[6]["captions"] = []
    faces[8]["image"] = None
    faces[7]["captions"] = [" Only a blank before."]
    good, skips = drop_unusable(
        Dataset.from_list(
            [{**f, "link": "exact"} for f in faces], features=Features({**CANONICAL, "link": Value("string")})
        )
    )
    assert good["photo_id"][:] == [f["photo_id"] for i, f in enumerate(faces) if i not in (1, 2, 4, 6, 8)]
    captions = dict(zip(good["photo_id"], good["captions"]))
    assert (
        captions["1/2"] == ["She smiles.", "Wavy hair."]
        and captions["2/1"] == ["Only a blank before."]
        and captions["0/0"] == ["Person 0.", "Photo 0."]
    )
    reasons = dict(skips.items)
    assert list(reasons) == ["0/1", "0/2", "1/1", "1/2", "2/0", "2/2"]
    assert (
        "112 x 112" in reasons["0/1"] and "empty" in reasons["0/2"] and reasons["1/1"] == reasons["2/0"] == "no caption"
    )
    assert reasons["1/2"] == "2 empty captions, 1 repeated caption"
    assert good.column_names == [*CANONICAL, "link"] and good.features["captions"] == CANONICAL["captions"]
    again, none = drop_unusable(good)
    assert again[:] == good[:] and not len(none)


@pytest.mark.parametrize(
    "image, captions, message",
    [
        (b"x", ["A."], "no readable image at all among 12"),
        (None, ["", " "], "captions are empty everywhere: 12"),
        (None, [], "captions are empty everywhere: 12"),
    ],
)
def test_screen_says_why_nothing_is_left(image, captions, message):
    faces = [
        {**f, "captions": captions, "image": {"bytes": image or f["image"]["bytes"], "path": None}} for f in rows()
    ]
    with pytest.raises(TgfrError, match=message):
        drop_unusable(Dataset.from_list(faces, features=CANONICAL))


def test_screen_of_mixed_ruin():
    faces = rows(2, 1)
    faces[0]["captions"], faces[1]["image"]["bytes"] = [], b"x"
    with pytest.raises(TgfrError, match="1 unreadable, 1 without captions"):
        drop_unusable(Dataset.from_list(faces, features=CANONICAL))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=12, max_size=60),
    st.lists(st.floats(0.1, 0.3), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_split_people(identities, fractions, seed):
    dataset = Dataset.from_dict({"identity": identities, "row": list(range(len(identities)))})
    try:
        parts = split_people(dataset, fractions, seed)
    except TgfrError as e:
        assert "nobody" in str(e) and len(set(identities)) < 12
        return
    people = [set(p["identity"]) for p in parts]
    assert sum(map(len, people)) == len(set().union(*people)) and all(people)
    assert all(abs(len(p) - f * len(set(identities))) <= 1 for p, f in zip(people, fractions))
    for part, who in zip(parts, people):
        assert part["row"][:] == [i for i, k in enumerate(identities) if k in who]
    order = rng(seed).permutation(len(identities))
    assert [set(p["identity"]) for p in split_people(dataset.select(order), fractions, seed)] == people


def test_split_people_whole_and_wrong(drawn):
    parts = split_people(drawn, [0.5, 0.25, 0.25], 1)
    assert sorted(i for p in parts for i in p["photo_id"]) == sorted(drawn["photo_id"])
    assert any(split_people(drawn, [0.5], s)[0]["identity"][:] != parts[0]["identity"][:] for s in range(2, 8))
    for wrong in ([0.7, 0.4], [], [0, 0.5], [-0.2, 0.5], [float("nan")]):
        with pytest.raises(TgfrError, match="fractions"):
            split_people(drawn, wrong)
    with pytest.raises(TgfrError, match="nobody"):
        split_people(drawn, [0.5, 0.01])


def test_real_faces(shared_data):
    folder = shared_data / "celeba_hq"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    part = load_faces(folder, "validation")
    good, skips = drop_unusable(part.select(range(300)))
    assert len(good) == 300 and not len(skips) and "link" in good.column_names
    assert json.dumps(good["captions"][:3])


def test_two_people_are_too_few_to_train_on(tmp_path):
    "All of them would be set aside: the message is about people, not about captions."
    split = SimpleNamespace(identity=np.repeat([3, 5], 4), captions=[["A."]] * 8)
    with pytest.raises(TgfrError, match="training people: 2, .* expected at least 4"):
        Trainer(split, Recipe(), tmp_path)

"""Video files as cameras, telephones and editors write them: shapes, edit lists, pauses, joined pieces.

The files are made by hand from boxes, without ffmpeg."""

import itertools
import struct
import time

import cv2
import numpy as np
import pytest
import torch
from hostile import damaged
from scenes import FACES, MEAN, Pixels, Scripted, picture_file, scene, shots, stills, write

from tgfr.core import Skips, TgfrError, rng
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.embed import embed_crops
from tgfr.encoders.features import ImageFeatures
from tgfr.encoders.pretrained_faces import load_encoder
from tgfr.formats.video_containers import Container
from tgfr.formats.video_packets import Packets
from tgfr.sets.tracking import Frames
from tgfr.workflows.fuse_video import fuse_video

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")
STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def split(data):
    "Boxes of an MP4 as [type, bytes or boxes]."
    found, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        found.append([kind, split(body) if kind in CONTAINERS else body])
        at += size
    return found


def join(tree):
    parts = ((kind, join(body) if isinstance(body, list) else body) for kind, body in tree)
    return b"".join(struct.pack(">I4s", len(body) + 8, kind) + body for kind, body in parts)


def box(tree, *way):
    node = next(node for node in tree if node[0] == way[0])
    return node if len(way) == 1 else box(node[1], *way[1:])


def changed(path, name, change):
    "A copy of an MP4 whose tree of boxes was changed; its index stands behind its pictures, so it may grow."
    tree = split(path.read_bytes())
    change(tree)
    (to := path.with_name(name)).write_bytes(join(tree))
    return to


def sample_entry(tree, kind, content):
    "Put a box into the sample entry, in place of one of its kind."
    stsd = box(tree, *STBL, b"stsd")
    entry = stsd[1][8:]
    boxes = [b for b in split(entry[86:]) if b[0] != kind] + [[kind, content]]
    entry = entry[4:86] + join(boxes)
    stsd[1] = stsd[1][:8] + struct.pack(">I", len(entry) + 4) + entry


def grey(count, size=(96, 64)):
    return [np.full((*size[::-1], 3), 20 + 2 * k, np.uint8) for k in range(count)]


def told(path):
    "Frames read, and what is said of the file."
    skips, frames = Skips(), Frames(path)
    return len(list(frames.read(skips))), [reason for _, reason in skips.items], frames.warnings


@pytest.fixture
def plain(tmp_path):
    return write(tmp_path / "plain.mp4", grey(60))


# shapes


@pytest.mark.parametrize("across, down", [(4, 3), (16, 15), (64, 45), (2, 1), (10, 11), (1, 2)])
def test_pixels_that_are_not_square(tmp_path, across, down):
    disc = cv2.circle(np.zeros((240, 240, 3), np.uint8), (120, 120), 80, (255, 255, 255), -1)
    stored = cv2.resize(
        disc,
        (240 * down // across // 2 * 2, 240) if across > down else (240, 240 * across // down // 2 * 2),
        interpolation=cv2.INTER_AREA,
    )
    path = changed(
        write(tmp_path / "a.mp4", [stored] * 3),
        "b.mp4",
        lambda tree: sample_entry(tree, b"pasp", struct.pack(">II", across, down)),
    )
    frames = Frames(path)
    image = next(frames.read()).image
    rows, columns = (np.flatnonzero((image[..., 0] > 128).any(axis)) for axis in (1, 0))
    assert (
        abs(np.ptp(rows) - np.ptp(columns)) <= 3
        and abs(image.shape[0] - image.shape[1]) <= 3
        and "pixels" in frames.facts
    )


def test_absurd_pixels_are_taken_as_square(tmp_path, plain):
    for across, down in ((200, 1), (0, 5), (1, 0), (2**31, 1)):
        path = changed(
            plain, "b.mp4", lambda tree, pair=(across, down): sample_entry(tree, b"pasp", struct.pack(">II", *pair))
        )
        assert next(Frames(path).read()).image.shape == (64, 96, 3)


TURNS = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a * d - b * c) == 1 and abs(a) + abs(b) == 1 and abs(c) + abs(d) == 1
]


@pytest.mark.parametrize("where", ["tkhd", "mvhd"])
@pytest.mark.parametrize("a, b, c, d", TURNS)
def test_all_eight_display_matrices(tmp_path, a, b, c, d, where):
    stored = np.full((64, 96, 3), 128, np.uint8)
    stored[:24, :24], stored[-24:, :24] = (255, 0, 0), (0, 0, 255)
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    def turn(tree):
        way, at = ((b"moov", b"trak", b"tkhd"), 40) if where == "tkhd" else ((b"moov", b"mvhd"), 36)
        node = box(tree, *way)
        node[1] = node[1][:at] + matrix + node[1][at + 36 :]

    image = next(Frames(changed(write(tmp_path / "a.mp4", [stored] * 3), "b.mp4", turn)).read()).image
    y, x = np.mgrid[:64, :96]
    u, v = a * x + c * y, b * x + d * y  # by the definition: (x, y, 1) times the matrix
    right = np.zeros((np.ptp(v) + 1, np.ptp(u) + 1, 3), np.uint8)
    right[v - v.min(), u - u.min()] = stored
    assert image.shape == right.shape and np.abs(image.astype(int) - right).mean() < 12


# whole and broken files


def test_a_trimmed_file_is_whole(plain):
    for first, count in ((12, 36), (0, 20), (40, 20)):

        def trim(tree, first=first, count=count):
            movie = struct.unpack_from(">I", box(tree, b"moov", b"mvhd")[1], 12)[0]
            tick = struct.unpack_from(">I", box(tree, b"moov", b"trak", b"mdia", b"mdhd")[1], 12)[0] // 25
            node = box(tree, b"moov", b"trak", b"edts", b"elst")
            node[1] = node[1][:8] + struct.pack(">IiI", count * movie // 25, first * tick, 1 << 16)

        number, said, _ = told(path := changed(plain, "trimmed.mp4", trim))
        assert count <= number <= count + 1 and not said and abs(Frames(path).count - count) <= 1


def test_a_pause_is_no_break(tmp_path, plain):
    def pause(tree):
        node = box(tree, *STBL, b"stts")
        _, step = struct.unpack_from(">II", node[1], 8)
        node[1] = struct.pack(">II", 0, 3) + struct.pack(">6I", 19, step, 1, 50 * step, 40, step)
        track = box(tree, b"moov", b"trak")
        track[1] = [inner for inner in track[1] if inner[0] != b"edts"]

    assert told(changed(plain, "pause.mp4", pause))[:2] == (60, [])
    data = bytearray(write(tmp_path / "a.mkv", grey(40)).read_bytes())
    at, blocks = data.index(b"\x1f\x43\xb6\x75"), []
    while (at := data.find(b"\x81", at + 1)) > 0:  # SimpleBlock: A3, size, track 1, time
        if data[at - 2] == 0xA3 or data[at - 3] == 0xA3:
            blocks.append(at + 1)
    for place in blocks[len(blocks) // 2 :]:
        struct.pack_into(">h", data, place, struct.unpack_from(">h", data, place)[0] + 2000)
    duration = data.index(b"\x44\x89\x88") + 3
    struct.pack_into(">d", data, duration, struct.unpack_from(">d", data, duration)[0] + 2000)
    (tmp_path / "b.mkv").write_bytes(data)
    capture = cv2.VideoCapture(str(tmp_path / "b.mkv"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) > 80  # OpenCV counts the pause
    assert told(tmp_path / "b.mkv")[:2] == (40, [])


def test_a_wrong_count_in_the_header_is_no_break(tmp_path):
    data = bytearray(write(tmp_path / "a.avi", shots(20), "MJPG").read_bytes())
    (
        struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, 70),
        struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, 70),
    )
    (tmp_path / "b.avi").write_bytes(data)
    assert cv2.VideoCapture(str(tmp_path / "b.avi")).get(cv2.CAP_PROP_FRAME_COUNT) == 70 and told(tmp_path / "b.avi")[
        :2
    ] == (20, [])


@pytest.mark.parametrize("name, codec", [("a.avi", "MJPG"), ("a.mkv", "mp4v"), ("a.webm", "VP80")])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
def test_a_cut_file_is_named(tmp_path, name, codec, share):
    whole = write(tmp_path / name, shots(40), codec)
    assert told(whole)[:2] == (40, [])
    data = whole.read_bytes()
    (split_chunks := tmp_path / f"cut {name}").write_bytes(data[: int(share * len(data))])
    number, said, _ = told(split_chunks)
    assert (
        number == 40
        or 0 < number < 40
        and len(said) == 1
        and "breaks off after" in said[0]
        and f"{number} could be read" in said[0]
    )


def front(data):
    "An MP4 with its index before its pictures."
    tree = split(data)
    moov, size = box(tree, b"moov"), len(join([box(tree, b"moov")]))
    for kind in (b"stco",):
        node = box(tree, *STBL, kind)
        places = np.frombuffer(node[1][8:], ">u4") + size
        node[1] = node[1][:8] + places.astype(">u4").tobytes()
    return join([tree[0], moov, *(node for node in tree[1:] if node is not moov)])


def test_a_cut_mp4_whose_index_is_in_front(tmp_path):
    data = front(write(tmp_path / "a.mp4", shots(40)).read_bytes())
    (tmp_path / "whole.mp4").write_bytes(data), (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    assert told(tmp_path / "whole.mp4")[:2] == (40, [])
    number, said, _ = told(tmp_path / "cut.mp4")
    assert number < 35 and said[0].startswith(
        f"its header tells of 40 frames, {number} could be read; it breaks off after"
    )


# pieces and colours


def joined(tmp_path, first, second, count=12):
    "A Motion JPEG file whose later pictures have another size."
    data = bytearray(
        write(
            tmp_path / "joined.avi",
            [
                np.full((*first[::-1], 3), 90, np.uint8) + rng("noise", k).integers(0, 60, (*first[::-1], 3), np.uint8)
                for k in range(count)
            ],
            "MJPG",
        ).read_bytes()
    )
    at, seen = data.index(b"movi"), 0
    while (at := data.find(b"00dc", at)) > 0:
        size = struct.unpack_from("<I", data, at + 4)[0]
        if data[at + 8 : at + 10] != b"\xff\xd8":
            break
        if (seen := seen + 1) > count // 2:
            small = cv2.imencode(".jpg", np.full((*second[::-1], 3), 200, np.uint8))[1].tobytes()
            data[at + 8 : at + 8 + size] = small + bytes(size - len(small))
        at += size
    (tmp_path / "joined.avi").write_bytes(data)
    return tmp_path / "joined.avi"


def test_pieces_of_another_shape_are_warned_of(tmp_path):
    number, said, warnings = told(joined(tmp_path, (96, 64), (64, 96)))
    assert (number, said, len(warnings)) == (12, [], 1) and "change from 96 x 64 to 64 x 96 at picture 6" in warnings[0]
    report = fuse_video(tmp_path / "joined.avi", Pixels(), out=tmp_path / "out")
    assert any("change from 96 x 64" in line for line in report["warnings"])
    assert told(joined(tmp_path, (96, 64), (48, 32)))[2] == [] and told(joined(tmp_path, (96, 64), (96, 64)))[2] == []


def test_an_index_of_several_shapes_is_warned_of(plain):
    def second(tree, size):
        stsd = box(tree, *STBL, b"stsd")
        other = bytearray(stsd[1][8:])
        struct.pack_into(">HH", other, 32, *size)
        stsd[1] = stsd[1][:4] + struct.pack(">I", 2) + stsd[1][8:] + bytes(other)

    assert (
        "pictures of 96 x 64 and of 64 x 96" in told(changed(plain, "b.mp4", lambda tree: second(tree, (64, 96))))[2][0]
    )
    assert told(changed(plain, "c.mp4", lambda tree: second(tree, (192, 128))))[2] == []


@pytest.mark.parametrize(
    "colours, strange",
    [
        ((1, 1), False),
        ((6, 6), False),
        ((2, 2), False),
        ((9, 16), True),
        ((9, 18), True),
        ((9, 14), True),
        ((12, 1), True),
        ((1, 16), True),
    ],
)
def test_colours_that_other_readers_see_otherwise(plain, colours, strange):
    path = changed(
        plain, "b.mp4", lambda tree: sample_entry(tree, b"colr", b"nclx" + struct.pack(">HHHB", *colours, 1, 0))
    )
    assert ("wide-gamut or HDR" in " ".join(Frames(path).warnings)) == strange


# embeddings that are none


class Overflowing(Pixels):
    "Not finite, or zero, for pictures that are brighter than a limit."

    def __init__(self, limit, value=torch.nan):
        self.limit, self.value = limit, value

    def encode(self, crops, styles=()):
        features = super().encode(crops).embedding
        features[[crop.mean() > self.limit for crop in crops]] = self.value
        return ImageFeatures(features)


class EveryFourth(Pixels):
    "One value instead of every fourth embedding."

    def __init__(self, value):
        self.value, self.seen = value, 0

    def encode(self, crops, styles=()):
        features = super().encode(crops).embedding
        features[(torch.arange(len(crops)) + self.seen) % 4 == 3] = self.value
        self.seen += len(crops)
        return ImageFeatures(features)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, 1e30])
def test_one_person_stays_one(tmp_path, value):
    scenes = [scene(k, {0: (20 + k, 30)}) for k in range(24)]
    report = fuse_video(
        write(tmp_path / "v.mp4", [p for p, _ in scenes]),
        EveryFourth(value),
        detector=Scripted([f for _, f in scenes]),
        out=tmp_path / "out",
    )
    assert (
        len(report["tracks"]),
        report["skipped"]["count"],
        len(report["frames"]),
        report["setup"]["faces without an embedding"],
    ) == (1, 6, 18, 6)
    assert all("no embedding of 1 of its 1 faces" in reason for _, reason in report["skipped"]["items"]) and any(
        "no embedding of" in line for line in report["warnings"]
    )


def test_a_folder_with_some_and_with_none(tmp_path):
    pictures = shots(12)
    folder, level = stills(tmp_path / "photos", enumerate(pictures)), np.sort([p.mean() for p in pictures])
    report = fuse_video(folder, Overflowing(level[-4]), out=tmp_path / "out")
    assert report["skipped"]["count"] == 3 and len(report["frames"]) == 9 and "9 were fused" in report["summary"][0]
    with pytest.raises(TgfrError, match="no embedding of any of its 12 faces"):
        fuse_video(folder, Overflowing(0), out=tmp_path / "none")
    with pytest.raises(TgfrError, match="no embedding of the gallery photo"):
        fuse_video(folder, Overflowing(0), picture_file(tmp_path / "g.png", FACES[0]), out=tmp_path / "none")
    assert not (tmp_path / "none").exists() and MEAN.shape == (16, 16, 3)


def test_embed_leaves_out_by_name(tmp_path):
    pictures = shots(10)
    folder, level = stills(tmp_path / "photos", enumerate(pictures)), np.sort([p.mean() for p in pictures])
    names = [f"{k}.png" for k in range(10)]
    store = embed_crops(folder, names, None, Overflowing(level[-3]), tmp_path / "store", batch=4, mirror=True)
    bright = {names[k] for k in range(10) if pictures[k].mean() > level[-3]}
    assert (
        {name for name, _ in store.unreadable.items} == bright
        and len(bright) == 2
        and all("not finite" in reason for _, reason in store.unreadable.items)
    )
    assert np.isfinite(store.embedding).all((0, 2)).tolist() == store.readable.tolist() and store.readable.sum() == 8
    with pytest.raises(TgfrError, match="so with all 10 images"):
        embed_crops(folder, names, None, Overflowing(0), tmp_path / "none")


def test_an_encoder_of_damaged_weights_is_refused(tmp_path, capsys):
    network = IResNet((1, 1, 1, 1), width=4, embedding=32).eval()
    save_encoder(network, tmp_path / "good")
    load_encoder(tmp_path / "good")
    assert "photos go in as" in capsys.readouterr().err
    network.fc.weight.data[3] = torch.nan
    save_encoder(network, tmp_path / "nan")
    with pytest.raises(TgfrError, match="nan: .*not finite"):
        load_encoder(tmp_path / "nan")
    network.fc.weight.data.zero_(), network.fc.bias.data.zero_()
    save_encoder(network, tmp_path / "zero")
    load_encoder(tmp_path / "zero")
    assert "all embeddings are" in capsys.readouterr().err


# hostile headers


def fuzz(tmp_path, count):
    "Damaged headers: no exception, no second spent, and nothing believed that is not there."
    files = [
        write(tmp_path / f"good.{end}", grey(6), codec).read_bytes()
        for end, codec in (("mp4", "mp4v"), ("mkv", "mp4v"), ("webm", "VP80"), ("avi", "MJPG"), ("mov", "MJPG"))
    ]
    for k in range(count):
        draw, data = rng("headers", k), files[k % 5]
        data = (
            data[: int(draw.integers(len(data)))] if k % 3 == 0 else damaged(data, draw.integers(1, 40), draw.integers)
        )
        (path := tmp_path / "bad").write_bytes(data)
        start = time.process_time()
        said = Container.read(path)
        assert time.process_time() - start < 2 and (said.frames is None or 0 <= said.frames <= 1 << 24)
        if k % 10 == 0 and cv2.VideoCapture(str(path)).isOpened():
            Packets.read(path)


def test_damaged_headers(tmp_path):
    fuzz(tmp_path, 500)


@pytest.mark.slow
def test_ten_thousand_damaged_headers(tmp_path):
    fuzz(tmp_path, 10_000)


def test_a_header_that_claims_too_much(tmp_path, plain):
    def claim(tree):
        node = box(tree, *STBL, b"stts")
        node[1] = struct.pack(">IIII", 0, 1, 0xFFFFFFFF, 1)

    assert Container.read(changed(plain, "many.mp4", claim)).frames is None


def test_a_packet_that_ffmpeg_calls_empty(monkeypatch):
    "Found by tools/fuzz.py in 5 of 10,000 damaged videos: OpenCV says that it has a packet, and hands out None."

    class Capture:
        def __init__(self, *_):
            self.left = [None, np.zeros(4, np.uint8), np.zeros(99, np.uint8)]

        def get(self, _):
            return 0

        def grab(self):
            return bool(self.left)

        def retrieve(self):
            return True, self.left.pop(0)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    assert Packets.read("any.mp4") == Packets(1, [])

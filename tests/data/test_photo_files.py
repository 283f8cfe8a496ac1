"What files of pixels say of themselves: Netpbm by arithmetic, endings, work, and what decoders complain of."

import io
import os
import struct
import threading
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from tgfr.core import TgfrError, rng
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.data.photo_files import decoder_messages, jpeg_scans, list_pictures, picture_kind

NOISE = rng("photo files").integers(0, 256, (112, 112, 3), np.uint8)


def netpbm(kind: str, values: np.ndarray, top: int, comment: str = "") -> bytes:
    "A Netpbm file written by hand, values (H, W) or (H, W, 3)."
    height, width = values.shape[:2]
    head = f"{kind}\n{comment}{width} {height}\n{comment}" + ("" if kind in ("P1", "P4") else f"{top}\n")
    if kind in ("P1", "P2", "P3"):
        return head.encode() + b" ".join(b"%d" % v for v in values.ravel())
    if kind == "P4":
        return head.encode() + np.packbits(values, axis=1).tobytes()
    return head.encode() + values.astype(">u2" if top > 255 else "u1").tobytes()


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["P2", "P3", "P5", "P6"]),
    st.integers(1, 65535) | st.sampled_from([15, 100, 127, 1023, 4095, 16383]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 99),
)
def test_white_is_the_largest_value(kind, top, height, width, comment, seed):
    values = rng("netpbm", seed).integers(0, top + 1, (height, width, 3) if kind in ("P3", "P6") else (height, width))
    data = netpbm(kind, values, top, "# by hand, 7 8 9\n" if comment else "")
    found = read_image(data, size=None).astype(float)
    wanted = values / top * 255
    assert np.abs(found - (wanted if wanted.ndim == 3 else wanted[..., None])).max() <= 0.5
    pillow = Pillow.open(io.BytesIO(data))
    if pillow.mode in ("L", "RGB"):
        np.testing.assert_allclose(found, np.asarray(pillow.convert("RGB")), atol=1)  # halves are rounded either way


def test_bits_and_named_fields_and_odd_ends():
    bits = rng("bits").integers(0, 2, (5, 11))
    for kind in ("P1", "P4"):
        data = netpbm(kind, bits, 1)
        np.testing.assert_array_equal(
            read_image(data, size=None), np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB"))
        )
    pam = (
        b"P7\n# x\nWIDTH 2\nHEIGHT 1\nDEPTH 4\nMAXVAL 1023\nTUPLTYPE RGB_ALPHA\nENDHDR\n"
        + np.array([1023, 0, 341, 5, 0, 682, 1023, 9], ">u2").tobytes()
    )
    np.testing.assert_array_equal(read_image(pam, size=None), [[[255, 0, 85], [0, 170, 255]]])
    np.testing.assert_array_equal(
        read_image(b"P5\r\n2 1\r\n255\r\n\x01\x02", size=None)[0, :, 0], [1, 2]
    )  # line ends of Windows
    np.testing.assert_array_equal(
        read_image(b"P5 1 1 255 \x05P5 1 1 255 \x06", size=None)[0, 0], 5
    )  # the first of several


@pytest.mark.parametrize(
    "data, said",
    [
        (b"P5 2 2 255 abc", "cut-off"),
        (b"P2 2 2 255 1 2 3", "cut-off"),
        (b"P2 1 1 15 -5", "something else"),
        (b"P2 1 1 15 99999999999999999999", "ten digits"),
        (b"P2 1 1 15 16", "largest"),
        (b"P5 1 1 100 \xc8", "a value of 200"),
        (b"P5 0 5 255 ", "0 x 5"),
        (b"P5 1 1 0 x", "up to 0"),
        (b"P5 1 1 70000 xx", "70000"),
        (b"P5 9999999999 1 255 x", "width, height"),
        (b"P5 99999 99999 255 x", "pixels, more than"),
        (b"P7\nWIDTH 2\nENDHDR\n", "HEIGHT"),
        (b"P7\nWIDTH 2\n", "ENDHDR"),
        (b"P5", "width, height"),
        (b"P4\n10 2\n\xaa", "cut-off"),
    ],
)
def test_netpbm_that_is_none(data, said):
    with pytest.raises(TgfrError, match=f"photo x cannot be read: .*{said}"):
        read_image(data, "x")


@pytest.mark.parametrize("kind", range(1, 8))
def test_headers_of_comments_take_no_time(kind):
    "A row of # is one comment, however it might be taken apart."
    start = time.perf_counter()
    for junk in (b"#" * 60_000, b"# " * 30_000, b"#\n" * 30_000, b" " * 60_000, b"9" * 60_000, b"#\r" * 30_000):
        with pytest.raises(TgfrError):
            read_image(b"P%d\n" % kind + junk, "x")
    assert time.perf_counter() - start < 5


def test_a_verification_set_of_a_12_bit_camera_is_the_same_photos():
    shades = np.repeat(np.arange(256)[None], 4, 0)
    np.testing.assert_array_equal(
        read_image(netpbm("P5", np.rint(shades / 255 * 4095), 4095), size=None)[..., 0], shades
    )


# ---- endings and kinds


def test_no_picture_of_a_folder_is_passed_over(tmp_path):
    jpeg = encode_jpeg(NOISE)
    for name in ("1.jpg", "2.JPG", "3.jfif", "4.JPE", "5", "6.heic", "7.jpg_large"):
        (tmp_path / name).write_bytes(jpeg)  # 6: as some phones name it
    for name, kind in (
        ("a.tif", "TIFF"),
        ("b.TIFF", "TIFF"),
        ("c.gif", "GIF"),
        ("d.jp2", "JPEG2000"),
        ("e.avif", "AVIF"),
        ("f", "GIF"),
    ):
        Pillow.fromarray(NOISE).save(tmp_path / name, kind)
    (tmp_path / "g.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    for name in (".hidden.jpg", "._1.jpg"):
        (tmp_path / name).write_bytes(jpeg)
    (
        (tmp_path / "names.txt").write_text("P is for photo"),
        (tmp_path / "pairs.csv").write_text("1,2"),
        (tmp_path / "empty").write_bytes(b""),
    )
    (
        (tmp_path / "sub").mkdir(),
        (tmp_path / "sub/8.jfif").write_bytes(jpeg),
        (tmp_path / "sub/9.tif").write_bytes(b"II*\0"),
    )
    (tmp_path / "notes").mkdir(), (tmp_path / ".git").mkdir(), (tmp_path / ".git/x.jpg").write_bytes(jpeg)
    found, left = list_pictures(tmp_path)
    assert [p.name for p in found] == ["1.jpg", "2.JPG", "3.jfif", "4.JPE", "5", "6.heic", "7.jpg_large"]
    assert [name for name, _ in left] == ["a.tif", "b.TIFF", "c.gif", "d.jp2", "e.avif", "f", "g.heic", "sub/"]
    assert [why.partition("(")[2].partition(")")[0] for _, why in left[:-1]] == [
        "TIFF",
        "TIFF",
        "GIF",
        "JPEG 2000",
        "AVIF",
        "GIF",
        "HEIC",
    ] and "2 pictures" in left[-1][1]
    deep, more = list_pictures(tmp_path, deep=True)
    assert (
        [str(p.relative_to(tmp_path)) for p in deep[-1:]] == ["sub/8.jfif"]
        and more[-1][0] == "sub/9.tif"
        and len(deep) == 8
    )


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "AVIF", "JPEG2000"])
def test_a_picture_of_another_kind_under_a_known_name_is_called_what_it_is(kind, tmp_path):
    Pillow.fromarray(NOISE).save(tmp_path / "1.jpg", kind)
    with pytest.raises(TgfrError, match=f"{kind[:4]}.*convert it to JPEG or PNG"):
        read_image(tmp_path / "1.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "PPM"])
def test_what_is_read_is_known_by_its_first_bytes(kind):
    Pillow.fromarray(NOISE).save(file := io.BytesIO(), kind)
    assert picture_kind(file.getvalue()[:32]) == "" and picture_kind(b"not a picture at all, no") is None


# ---- work


def progressive(side: int = 64) -> bytes:
    return cv2.imencode(".jpg", np.full((side, side, 3), 120, np.uint8), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()


def test_scans_times_pixels_are_bounded(monkeypatch):
    "With the limit lowered to the photo's own size, so that the input is harmless."
    usual = progressive()
    last = usual[usual.rindex(b"\xff\xda") : -2]
    assert read_image(usual, size=None, pixels=64 * 64).shape == (64, 64, 3)
    many = usual[:-2] + 5 * last + b"\xff\xd9"
    assert read_image(many, size=None, messages=[]).shape == (64, 64, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(TgfrError, match="64 x 64 pixels in 11 scans or more: too much work"):
        read_image(many, size=None, pixels=64 * 64)


def test_scans_are_counted_where_they_are():
    "A thumbnail, a second picture behind the first and chance bytes in a segment are no scans."
    jpeg = encode_jpeg(NOISE)
    segment = b"\xff\xe1" + (2 + 600).to_bytes(2, "big") + 150 * b"\xff\xda\x00\x02"
    assert jpeg_scans(jpeg[:2] + segment + jpeg[2:] + 50 * b"\xff\xda\x00\x02", 1000) == 1
    assert jpeg_scans(progressive(), 1000) == 10 and jpeg_scans(progressive(), 4) == 4
    assert jpeg_scans(b"\xff\xd8" + 30_000 * b"\xff\xfe\x00\x02", 77) == 77  # segments without end
    assert read_image(jpeg[:2] + segment + jpeg[2:], size=None, pixels=112 * 112).shape == (112, 112, 3)


@pytest.mark.parametrize("part", [b"IHDR", b"IDAT", b"IEND"])
def test_a_part_of_a_png_is_believed_only_where_its_bytes_are(part, monkeypatch):
    "OpenCV 5 takes memory for what a length claims; no such file is given to it here."
    Pillow.fromarray(NOISE).save(file := io.BytesIO(), "PNG")
    data = bytearray(file.getvalue())
    at = data.index(part) - 4
    assert read_image(bytes(data) + b"behind its end", size=None).shape == (112, 112, 3)
    data[at : at + 4] = (len(data) + 99).to_bytes(4, "big")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(TgfrError, match="cut-off PNG|not the beginning"):
        read_image(bytes(data), "x")


# ---- what decoders say


def damaged() -> bytes:
    data = bytearray(encode_jpeg(NOISE))
    data[4000:4064] = bytes(64)
    return bytes(data)


def test_libjpegs_word_is_told_with_a_name(capfd):
    said = []
    assert read_image(damaged(), "7/3", messages=said).shape == (112, 112, 3) and "Corrupt JPEG data" in said[0]
    with pytest.warns(UserWarning, match="photo 7/3 is damaged inside, and used: Corrupt JPEG data"):
        read_image(damaged(), "7/3")
    quiet = []
    read_image(encode_jpeg(NOISE), messages=quiet)
    for bad in (encode_jpeg(NOISE)[:3000], b"\x89PNG\r\n\x1a\n" + bytes(50), b"P5 9 9 255 1"):
        with pytest.raises(TgfrError):
            read_image(bad)
    assert not quiet and capfd.readouterr().err == ""


def test_other_words_still_reach_the_terminal(capfd):
    said = []
    with decoder_messages(said):
        os.write(2, b"from another thread\nCorrupt JPEG data: made up\n")
    assert capfd.readouterr().err == "from another thread\n" and said == ["Corrupt JPEG data: made up"]


def test_threads_keep_their_photos_apart(capfd):
    "Eight threads, half of them with a damaged photo, while another one writes to the terminal."
    good, bad, heard, done = encode_jpeg(NOISE), damaged(), {k: [] for k in range(8)}, threading.Event()

    def read(k):
        for _ in range(50):
            read_image(bad if k % 2 else good, messages=(said := []))
            heard[k].append(len(said))

    def write():
        while not done.is_set():
            os.write(2, b"line\n"), time.sleep(0.001)

    threads, writer = [threading.Thread(target=read, args=(k,)) for k in heard], threading.Thread(target=write)
    writer.start(), [t.start() for t in threads], [t.join() for t in threads], done.set(), writer.join()
    assert all(counts == [k % 2] * 50 for k, counts in heard.items())
    assert set(capfd.readouterr().err.splitlines()) == {"line"}


def test_a_closed_terminal_is_no_obstacle():
    kept = os.dup(2)
    try:
        os.close(2)
        assert read_image(encode_jpeg(NOISE)).shape == (112, 112, 3)
    finally:
        os.dup2(kept, 2), os.close(kept)


MASKS = {
    "RGBX": ((0xFF, 0xFF00, 0xFF0000), (0, 1, 2, 3)),
    "XBGR": ((0xFF000000, 0xFF0000, 0xFF00), (3, 2, 1, 0)),
    "BGRX": ((0xFF0000, 0xFF00, 0xFF), (2, 1, 0, 3)),
    "XRGB": ((0xFF00, 0xFF0000, 0xFF000000), (3, 0, 1, 2)),
}


def bmp(bits: int, kind: int, data: bytes, width: int, height: int, masks: tuple = (), size: int = 40) -> bytes:
    "A BMP by hand; newer headers hold the masks, behind the oldest they follow."
    head = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, kind, len(data), 0, 0, 0, 0) + struct.pack(
        f"<{len(masks)}I", *masks
    )
    head = head.ljust(size, b"\0")
    return struct.pack("<2sIHHI", b"BM", 14 + len(head) + len(data), 0, 0, 14 + len(head)) + head + data


@pytest.mark.parametrize("size", [40, 56, 108, 124])
@pytest.mark.parametrize("order", MASKS)
def test_a_bmp_with_masks_is_read_by_them(order, size):
    "Pillow #2534 (GIMP), #3444, #6435, PR 2221: OpenCV 5 takes red for alpha, Pillow refuses some."
    colours = rng("bmp").integers(0, 256, (5, 3, 3), np.uint8)
    masks, places = MASKS[order]
    values = np.concatenate([colours, np.full((5, 3, 1), 7, np.uint8)], 2)[..., list(places)]
    alpha = 0xFFFFFFFF ^ sum(masks)
    for rows, height in (values[::-1], 5), (values, -5):
        found = read_image(
            bmp(32, 3, rows.tobytes(), 3, height, masks if size == 40 else (*masks, alpha), size), size=None
        )
        np.testing.assert_array_equal(found, colours)


@pytest.mark.parametrize(
    "kind, masks, parts",
    [(0, (), (31, 31, 31)), (3, (0xF800, 0x7E0, 0x1F), (31, 63, 31)), (3, (0x7C00, 0x3E0, 0x1F), (31, 31, 31))],
)
def test_white_of_a_bmp_of_16_bits_is_white(kind, masks, parts):
    colours = rng("bmp 16").integers(0, np.array(parts) + 1, (4, 3, 3))
    colours[0, 0], colours[0, 1] = parts, 0
    low = [(mask & -mask).bit_length() - 1 for mask in masks or (0x7C00, 0x3E0, 0x1F)]
    rows = np.zeros((4, 4), "<u2")  # rows of three pixels fill four
    rows[:, :3] = sum(colours[..., k] << low[k] for k in range(3))
    found = read_image(bmp(16, kind, rows[::-1].tobytes(), 3, 4, masks), size=None)
    np.testing.assert_array_equal(found, np.rint(255 * colours / parts))


@pytest.mark.parametrize(
    "data, said",
    [
        (bmp(32, 3, bytes(40), 3, 4, (0xFF, 0xFF00, 0xFF0000)), "damaged or cut-off image of 3 x 4"),
        (bmp(32, 3, bytes(48), 3, 4, (0xFF, 0, 0xFF0000)), "masks of colours 0xff, 0x0"),
        (bmp(16, 3, bytes(48), 3, 4, (0xFF, 0xFF00, 0xFF0000)), "expected some bits of 16"),
        (bmp(32, 3, bytes(48), 1 << 20, 1 << 20, (0xFF, 0xFF00, 0xFF0000)), "more than the"),
        (bmp(32, 3, bytes(48), -3, -4, (0xFF, 0xFF00, 0xFF0000)), "or none"),
    ],
)
def test_a_bmp_with_masks_that_is_none(data, said):
    with pytest.raises(TgfrError, match=said):
        read_image(data)


def test_sixteen_bits_of_either_order():
    "scikit-image PR 97, Pillow #7301: pictures of 16 bits with the higher byte first."
    values = rng("order").integers(0, 65536, (4, 5))
    expected = np.repeat((values >> 8)[..., None], 3, 2)
    for kind in ">u2", "<u2":
        np.testing.assert_array_equal(read_image(values.astype(kind), size=None), expected)
    np.testing.assert_array_equal(
        read_image(Pillow.frombytes("I;16B", (5, 4), values.astype(">u2").tobytes()), size=None), expected
    )

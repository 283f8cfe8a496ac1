"""IJB meta files, verification sets and pair lists: what is read, and how each fault is named."""

import pickle
import re
import shutil
import struct
import tracemalloc

import numpy as np
import pyarrow.parquet
import pytest
from hostile import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgfr.cli import main
from tgfr.core import TgfrError, rng
from tgfr.data.faces import encode_jpeg, read_image
from tgfr.evaluation.simulated_ijb import SIZES, simulate_ijb
from tgfr.formats.ijb_files import IjbFiles, prepare_ijb, read_images, read_pairs, read_points, read_subjects
from tgfr.formats.pairs import read_bin, read_lfw_pairs, read_pairs_list

POINTS = "38.1 51.2 73.3 51.4 56.5 71.6 41.7 92.8 70.9 92.0 .9"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return simulate_ijb("IJBB", tmp_path_factory.mktemp("ijbb"), scale=0.005, width=8)[0]


def saved(folder, text, name="file.txt"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "Empty"),
        ("\n", "line 1: invalid value '' for first"),
        ("3 7 0\n3 9 1 4\n", "line 2: Expected 3 columns, got 4"),
        ("3 7 0\n3  9 1\n", "line 2: Expected 3 columns, got 4"),
        ("3 7 0\n\n3 9 1\n", "line 2"),
        ("3 7 0\n3 x 1\n", "line 2: invalid value 'x' for second, expected int32"),
        ("3 7 0\n3 9 2\n", "line 2: label 2, expected 0 or 1"),
        ("3 7 0\n3 9 -1\n", "line 2: label -1"),
        ("3 7 0\n99999999999 9 1\n", "line 2: invalid value '99999999999' for first"),
        ("3 7 0\n3 8 1\n", "line 2: template 8, which no image belongs to"),
        ("3 7 0\n-3 9 1\n", "line 2: template -3"),
        ("3 7 0\n3 9 1\n3 7 0\n3 7 1\n", "line 3: the pair 3 7 for the second time; 1 more rows like it"),
        ("3 7 0\n9 9 1\n", "line 2: the pair of template 9 with itself"),
        ("3 7 nan\n", "line 1: invalid value 'nan' for genuine"),
        (b"\xff\xfe\x00\x01", "Expected 3 columns"),
        ("3,7,0\n", "separated by one space"),
    ],
)
def test_pairs_name_the_line(tmp_path, text, said):
    with pytest.raises(TgfrError) as e:
        read_pairs(saved(tmp_path, text), np.int32([3, 7, 9]))
    assert str(tmp_path / "file.txt") in str(e.value) and said in str(e.value)


def test_a_late_fault_is_found_by_its_line(tmp_path):
    "Far behind the first block that the threaded reader sees."
    rows = [f"{i} {i + 1} 0" for i in range(300_000)]
    rows[250_000] = "250000 x 0"
    with pytest.raises(TgfrError, match="line 250001: invalid value 'x'"):
        read_pairs(saved(tmp_path, "\n".join(rows)))


def test_what_is_harmless_is_read(tmp_path):
    "Windows line ends, no line end at the end, ids of any size."
    pairs = read_pairs(saved(tmp_path, "3 2000000000 0\r\n3 9 1"), np.int32([3, 9, 2_000_000_000]))
    assert pairs.second.tolist() == [2_000_000_000, 9] and pairs.genuine.tolist() == [False, True]
    assert len(read_pairs(saved(tmp_path, "3 7 0\n3 7 0\n"), strict=False)) == 2


@pytest.mark.parametrize(
    "points, faces, said",
    [
        (f"1.jpg {POINTS}\n2.jpg {POINTS}\n", "1.jpg 3 1\n", "2 rows, but"),
        (f"1.jpg {POINTS}\n", "2.jpg 3 1\n", "line 1: image 2.jpg, but"),
        (f"1.jpg {POINTS.replace('71.6', 'inf')}\n", "1.jpg 3 1\n", "line 1: a number that is not finite"),
        (f"1.jpg {POINTS}\n1.jpg {POINTS}\n", "1.jpg 3 1\n1.jpg 3 1\n", "line 2: image 1.jpg for the second time"),
        (f"../1.jpg {POINTS}\n", "../1.jpg 3 1\n", "line 1: the name '../1.jpg'"),
        (f"/etc/1.jpg {POINTS}\n", "/etc/1.jpg 3 1\n", "line 1"),
        (f"1.jpg {POINTS}\n", "1.jpg -3 1\n", "line 1: template -3, expected 0 or more"),
        (f"1.jpg {POINTS}\n", "1.jpg 3 1.5\n", "line 1: invalid value '1.5' for media"),
        ("1.jpg 1 2 3\n", "1.jpg 3 1\n", "line 1: Expected 12 columns, got 4"),
    ],
)
def test_images_name_the_line(tmp_path, points, faces, said):
    with pytest.raises(TgfrError) as e:
        read_images(saved(tmp_path, points, "a.txt"), saved(tmp_path, faces, "b.txt"))
    assert said in str(e.value) and (".txt" in str(e.value))


@pytest.mark.parametrize(
    "text, said",
    [
        ("T,S\n3,40\n3,41\n", "line 3: template 3 of subject 41, on line 2 of subject 40"),
        ("3,40,a\n3,40,b\n", "line 1: '3,40,a', expected a line that names"),
        ("T,S,F\n3,40,a\n3,40,a\n", "line 3: the row of template 3 for the second time"),
        ("T,S\n5,40\n", "line 2: template 5, which no image"),
        ("T,S\n3\n", "line 2: Expected 2 columns, got 1"),
        ("T,S\n", "no rows"),
        ("T\n3\n", "names the columns"),
        ("T,S\n3,x\n", "line 2: invalid value 'x' for subject"),
    ],
)
def test_galleries_name_the_line(tmp_path, text, said):
    with pytest.raises(TgfrError) as e:
        read_subjects(saved(tmp_path, text), "G1", np.int32([3, 7, 9]), strict="a\n3,40,a" in text)
    assert said in str(e.value)


@given(st.binary(max_size=200))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_file_escapes_as_another_error(tmp_path, data):
    "Whatever the bytes: columns, or a TgfrError."
    path = saved(tmp_path, data)
    for read in (read_pairs, read_points, read_pairs_list, read_lfw_pairs, read_bin, lambda p: read_subjects(p, "G1")):
        try:
            read(path)
        except TgfrError as e:
            assert "file.txt" in str(e)


def test_a_set_and_its_parquet_form(files, tmp_path):
    sizes, images = SIZES["IJBB"].scaled(0.005), files.images()
    assert (
        len(images) == sizes.images
        and len(files.pairs()) == sizes.genuine + sizes.impostors
        and [len(g) for g in files.galleries()] == list(sizes.galleries.values())
    )
    other = prepare_ijb(files.folder.parent, tmp_path)
    again = IjbFiles.open(tmp_path)
    assert again == other and again.images().name.equals(images.name)
    for what in "points", "score", "template", "media":
        np.testing.assert_array_equal(getattr(again.images(), what), getattr(images, what))
    for what in "first", "second", "genuine":
        np.testing.assert_array_equal(getattr(again.pairs(), what), getattr(files.pairs(), what))
    for one, two in zip([*again.galleries(), again.probe()], [*files.galleries(), files.probe()]):
        assert one.name == two.name and (one.subject == two.subject).all()
    table = pyarrow.parquet.read_table(path := again.path("template_pair_label.parquet"))
    pyarrow.parquet.write_table(table.drop_columns("genuine"), path)
    with pytest.raises(TgfrError, match="no column genuine|not a readable"):
        again.pairs()
    path.write_bytes(b"PAR1")
    with pytest.raises(TgfrError, match="not a readable Parquet"):
        again.pairs()


def test_prepare_on_the_command_line(files, tmp_path, capsys, refusal):
    main(["prepare", "ijb", str(files.folder), "--out", str(tmp_path)])
    assert str(tmp_path / "IJBB") in capsys.readouterr().out and len(IjbFiles.open(tmp_path).pairs()) == len(
        files.pairs()
    )
    lfw = "1 1\nAda_L 1 2\nAda_L 1 Bob_M 3\n"
    photo = encode_jpeg(np.full((112, 112, 3), 90, np.uint8))
    for source, columns, same in (
        (saved(tmp_path, lfw, "pairs.txt"), ["first", "second", "same", "fold"], [True, False]),
        (saved(tmp_path, "5_1 5_2 1\n5_1 6_1 0\n", "list.txt"), ["first", "second", "same"], [True, False]),
        (
            saved(tmp_path, pickle.dumps(([photo] * 4, [True, False])), "tiny.bin"),
            ["image", "photo_id", "same"],
            [True, True, False, False],
        ),
    ):
        main(["prepare", "ijb", str(source), "--out", str(tmp_path / "out")])
        found = pyarrow.parquet.read_table(tmp_path / "out" / f"{source.stem}.parquet")
        assert found.column_names == columns and found["same"].to_pylist() == same
    for args, said in (
        (["--photos", "x"], "--photos: has no meaning"),
        ([], "expected the numbers of folds|line 1|no IJB set|Expected 3"),
    ):
        err = refusal("prepare", "ijb", str(saved(tmp_path, "?", "no.txt")), "--out", str(tmp_path / "no"), *args)
        assert re.search(said, err) and not (tmp_path / "no" / "no.parquet").exists()


def test_two_sets_in_one_folder(files, tmp_path):
    for name in "IJBB", "IJBC":
        (tmp_path / name / "meta").mkdir(parents=True)
        (tmp_path / name / "meta" / f"{name.lower()}_face_tid_mid.txt").write_text("1.jpg 3 1\n")
    with pytest.raises(TgfrError, match="two sets, name one of"):
        IjbFiles.open(tmp_path)
    assert IjbFiles.open(tmp_path / "IJBC").name == "IJBC"
    with pytest.raises(TgfrError, match="no such file"):
        IjbFiles.open(tmp_path / "IJBC").images()


def test_real_galleries(shared_data):
    for name, subjects in ("G1", 1772), ("G2", 1759):
        found = read_subjects(shared_data / "ijb" / f"ijbc_1N_gallery_{name}.csv", name)
        assert len(found) == len(np.unique(found.subject)) == subjects


def test_real_pairs_txt_and_bin(shared_data):
    pairs = read_lfw_pairs(shared_data / "formats" / "lfw_pairs.txt")
    assert (len(pairs), pairs.same.sum()) == (6000, 3000) and np.bincount(pairs.fold).tolist() == [600] * 10
    found = read_bin(shared_data / "formats" / "small_lfw.bin")
    assert len(found.images) == 2 * len(found) and all(
        read_image(image).shape == (112, 112, 3) for image in found.images
    )
    assert found.to_dataset().num_rows == len(found.images)


@pytest.mark.parametrize("protocol", range(6))
def test_bin_of_every_protocol(tmp_path, protocol):
    value = ([b"one", np.frombuffer(b"two", np.uint8)[:, None], b"three", b"four"], [True, np.bool_(False)])
    found = read_bin(saved(tmp_path, pickle.dumps(value, protocol)))
    assert found.images == [b"one", b"two", b"three", b"four"] and found.same.tolist() == [True, False]


@pytest.mark.parametrize(
    "value, said",
    [
        ([b"a", b"b"], "images and labels"),
        (([b"a"], [True]), "1 images for 1 labels"),
        (([b"a", "b"], [True]), "image 1 is str"),
        (([b"a", b""], [True]), "image 1 is bytes"),
        (([b"a", b"b"], [2]), "truth value"),
        (([b"a", b"b"], []), "truth value"),
        (([b"a", np.zeros(3)], [True]), "image 1 is"),
        (({}, [True]), "images and labels"),
        ((print, [True]), "not a pickle of plain values"),
    ],
)
def test_bin_that_is_none(tmp_path, value, said):
    with pytest.raises(TgfrError, match=said):
        read_bin(saved(tmp_path, pickle.dumps(value)))


def by_memo(*steps: bytes) -> bytes:
    return b"\x80\x04" + b"".join(steps) + b"."


PHOTO = encode_jpeg(np.full((16, 16, 3), 90, np.uint8))
DTYPE = b"cnumpy\ndtype\nC\x02u1\x85R"
CLAIMED = {  # small files that claim more than is in them
    "photos of a number": by_memo(
        DTYPE,
        b"\x940(](",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01M\xe8\x03\x85h\x00\x89M\xe8\x03tb"
        * 4,
        b"e](\x88\x89et",
    ),
    "labels of a number": by_memo(
        b"(]", DTYPE, b"\x940cnumpy.core.numeric\n_frombuffer\n(M\xe8\x03h\x00M\xe8\x03\x85C\x01CtRt"
    ),
    "one photo a hundred thousand times": by_memo(
        b"(](B",
        struct.pack("<I", 1 << 16),
        PHOTO.ljust(1 << 16, b"\0"),
        b"\x94",
        b"h\x00" * 99_999,
        b"e](",
        b"\x88" * 50_000,
        b"et",
    ),
    "labels in lists": by_memo(b"(](C\x01aC\x01be](](\x88\x89eet"),
    "labels shared": by_memo(b"(](C\x01aC\x01be](](\x88e\x94", b"h\x00" * 99, b"et"),
    "photos of nothing": by_memo(
        DTYPE, b"\x940(cnumpy.core.numeric\n_frombuffer\n(C\x00h\x00J\x00\x00\x00\x01K\x00\x86C\x01CtR](\x88et"
    ),
    "a label of a million digits": by_memo(
        b"(](C\x01aC\x01be](\x8b", struct.pack("<I", 400_000), b"\x07" * 400_000, b"et"
    ),
}


@pytest.mark.parametrize("case", CLAIMED)
def test_a_bin_that_claims_what_it_has_not(case, tmp_path):
    path = saved(tmp_path, CLAIMED[case])
    tracemalloc.start()
    try:
        with pytest.raises(TgfrError, match="file.txt") as caught:
            read_bin(path)
        assert (
            tracemalloc.get_traced_memory()[1] < 20 << 20
            and "\n" not in str(caught.value)
            and len(str(caught.value)) < 400
        )
    finally:
        tracemalloc.stop()


def test_one_photo_in_many_pairs(tmp_path):
    "Honest lists name a photo in several pairs; pickle then keeps it once."
    photos = [PHOTO, PHOTO + b"2", np.frombuffer(PHOTO, np.uint8)] * 20
    found = read_bin(saved(tmp_path, pickle.dumps((photos, [True] * 30))))
    assert len(found) == 30 and found.images[:3] == [PHOTO, PHOTO + b"2", PHOTO]


@pytest.mark.parametrize(
    "text",
    [
        b"TEMPLATE_ID,SUBJECT_ID,FILENAME\n1,2,caf\xe9.jpg\n3,4,\xff\xfe\n",
        b"TEMPLATE_ID,SUBJECT_ID,\xff\n1,2,a\n3,4,b\n",
    ],
)
def test_bytes_that_are_no_text_in_columns_nobody_reads(text, tmp_path):
    found = read_subjects(saved(tmp_path, text), "G1")
    assert found.template.tolist() == [1, 3] and found.subject.tolist() == [2, 4]
    with pytest.raises(TgfrError, match="line 3: the row of template 1 for the second time"):
        read_subjects(saved(tmp_path, b"A,B,C\n1,2,\xff\n1,2,\xff\n"), "G1")


@pytest.mark.parametrize(
    "read, text",
    [
        (read_points, b"caf\xe9.jpg " + POINTS.encode() + b"\n"),
        (read_pairs_list, b"caf\xe9_1 b_1 0\n"),
        (read_subjects, b"A,B\n\xff,2\n"),
    ],
)
def test_bytes_that_are_no_text_in_columns_that_are_read(read, text, tmp_path):
    with pytest.raises(TgfrError, match="file.txt") as caught:
        read(saved(tmp_path, text), **{"name": "G1"} if read is read_subjects else {})
    assert "\n" not in str(caught.value)


def test_links_out_of_a_set(files, tmp_path):
    shutil.copytree(files.folder, tmp_path / "IJBB")
    (tmp_path / "IJBB/loose_crop").mkdir(exist_ok=True), (tmp_path / "private").mkdir()
    (tmp_path / "way").symlink_to("IJBB")
    assert IjbFiles.open(tmp_path / "way").crops.is_dir()  # its user named it
    (tmp_path / "IJBB/loose_crop/1.jpg").symlink_to("/etc/hostname")
    with pytest.raises(TgfrError, match="1.jpg: a symbolic link out of"):
        _ = IjbFiles.open(tmp_path / "IJBB").crops
    shutil.rmtree(tmp_path / "IJBB/loose_crop")
    (tmp_path / "IJBB/loose_crop").symlink_to("../private")
    with pytest.raises(TgfrError, match="loose_crop: a symbolic link out of .*--points"):
        _ = IjbFiles.open(tmp_path / "IJBB").crops
    (tmp_path / "IJBB/meta/ijbb_other.txt").symlink_to("/etc/hostname")
    with pytest.raises(TgfrError, match="ijbb_other.txt: a symbolic link out of"):
        IjbFiles.open(tmp_path / "IJBB")
    (tmp_path / "IJBB/meta").rename(tmp_path / "private/meta"), (tmp_path / "IJBB/meta").symlink_to("../private/meta")
    with pytest.raises(TgfrError, match="meta: a symbolic link out of"):
        IjbFiles.open(tmp_path / "IJBB")


def fuzz(tmp_path, rounds):
    "Damaged verification sets: our error in one line, or photos that are in the file, in memory bounded by it."
    draw, path, taken = rng(5, "bin"), tmp_path / "some.bin", 0
    photos = [encode_jpeg(np.full((8, 8, 3), 20 * k, np.uint8)) for k in range(4)]
    whole = [
        pickle.dumps(
            ([photos[0], photos[1], np.frombuffer(photos[2], np.uint8), photos[3]], [True, np.bool_(False)]), protocol
        )
        for protocol in range(6)
    ]
    tracemalloc.start()
    for i in range(rounds):
        data = damaged(whole[i % 6], draw.integers(1, 6), draw.integers)
        if draw.random() < 0.2:
            data = data[: draw.integers(len(data))]
        path.write_bytes(data)
        try:
            found = read_bin(path)
        except TgfrError as e:
            assert "some.bin" in str(e) and "\n" not in str(e) and len(str(e)) < 600
        else:
            taken += sum(map(len, found.images)) <= 64 * len(data)
    assert rounds / 20 < taken < rounds and tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_damaged_sets(tmp_path):
    fuzz(tmp_path, 300)


@pytest.mark.slow
def test_many_damaged_sets(tmp_path):
    fuzz(tmp_path, 10_000)


def test_a_photo_beside_itself_in_pairs_txt(tmp_path):
    "insightface #620: a list that somebody made holds `C C2.jpg C2.jpg`."
    with pytest.raises(TgfrError, match="line 3: 'C 2 2', a photo with itself"):
        read_lfw_pairs(saved(tmp_path, "1 2\nC 1 2\nC 2 2\nA 1 C 1\nB 1 C 2\n"))


def test_pairs_the_other_way_round_are_told(tmp_path, capsys):
    "insightface #620: lists that somebody made compare two photos twice."
    assert len(read_pairs(saved(tmp_path, "3 7 0\n3 9 1\n7 3 0\n"))) == 3
    assert "1 of 3 pairs stand in it before, the other way round" in " ".join(capsys.readouterr().err.split())
    read_pairs(saved(tmp_path, "3 7 0\n3 9 1\n"))
    assert not capsys.readouterr().err

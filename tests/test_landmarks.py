"Five points, the transform to the template, the crop, and the detector."
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgfr.core import TgfrError, rng
from tgfr.data.faces import read_image
from tgfr.data.landmarks import FIVE_POINTS, YuNet, align, similarity

SIZES = st.floats(-200, 200)


@given(SIZES, SIZES, st.floats(-3.1, 3.1), st.floats(.05, 20))
def test_similarity_undoes_any_similarity(x, y, angle, scale):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = FIVE_POINTS @ turn.T + (x, y)
    matrix = similarity(points)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], FIVE_POINTS, atol=1e-6)


@given(st.integers(0, 1000))
def test_no_other_similarity_is_nearer(seed):
    draw = rng("similarity", seed)
    points = FIVE_POINTS + draw.normal(0, 10, (5, 2))
    matrix = similarity(points)
    def error(m): return ((points @ m[:, :2].T + m[:, 2] - FIVE_POINTS) ** 2).sum()
    for a, b, x, y in draw.normal(0, .01, (20, 4)): assert error(matrix) <= error(matrix + [[a, -b, x], [b, a, y]]) + 1e-9
    np.testing.assert_allclose(similarity(np.stack([FIVE_POINTS, points]))[1], matrix)
    assert abs(matrix[0, 0] - matrix[1, 1]) < 1e-9 and abs(matrix[0, 1] + matrix[1, 0]) < 1e-9  # never a mirror


def test_template_is_the_published_one():
    np.testing.assert_allclose(FIVE_POINTS, [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)])


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.inf), np.zeros((3, 2)), np.zeros(10), np.zeros((1, 2, 5, 2))])
def test_points_that_are_none(points):
    with pytest.raises(TgfrError, match="expected"): similarity(points)


@pytest.mark.parametrize("scale", [1, 3, 9])
@pytest.mark.parametrize("size", [112, 56])
def test_align_brings_a_mark_to_its_place(scale, size):
    image = np.zeros((112 * scale + 40, 112 * scale + 90, 3), np.uint8)
    points = FIVE_POINTS * scale + (60, 20)
    cv2.circle(image, np.rint(points[2]).astype(int).tolist(), 2 * scale, (255, 255, 255), -1)
    crop = align(image, points, size)[..., 0].astype(float)
    y, x = np.mgrid[:size, :size]
    assert crop.shape == (size, size) and np.hypot((crop * x).sum() / crop.sum() - FIVE_POINTS[2, 0] * size / 112, (crop * y).sum() / crop.sum() - FIVE_POINTS[2, 1] * size / 112) < .75


def test_align_without_reduction_is_one_warp():
    image = cv2.resize(rng("align").integers(0, 256, (9, 9, 3), np.uint8), (150, 130), interpolation=cv2.INTER_CUBIC)
    points = FIVE_POINTS * 1.2 + 3
    np.testing.assert_array_equal(align(image, points), cv2.warpAffine(image, similarity(points), (112, 112), borderValue=0))
    np.testing.assert_array_equal(align(image, points), align(image, points, antialias=False))
    with pytest.raises(TgfrError): align(image, points, 0)


def test_detector_files_that_are_none(tmp_path):
    with pytest.raises(TgfrError, match="no such file"): YuNet(tmp_path / "nowhere.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(TgfrError, match="no YuNet detector") as error: YuNet(tmp_path / "junk.onnx")
    assert "\n" not in str(error.value)


def test_yunet_finds_real_faces(shared_data):
    detector = YuNet(shared_data / "weights/yunet_n_dynamic.onnx")
    assert detector.detect(np.zeros((50, 80, 3), np.uint8)) == []
    for path in sorted((shared_data / "raw_mm_celeba_hq/image").glob("*.jpg"))[:20]:  # aligned crops: the points lie at the template
        image = read_image(path)
        face = detector.detect(image)[0]
        assert np.abs(face.points - FIVE_POINTS).mean() < 8 and .6 <= face.score <= 1
        large = cv2.copyMakeBorder(cv2.resize(image, (900, 900), interpolation=cv2.INTER_CUBIC), 100, 200, 300, 50, cv2.BORDER_CONSTANT)
        found = detector.detect(large)[0]
        assert np.abs((found.points - (300, 100)) * 112 / 900 - FIVE_POINTS).mean() < 8
        again = detector.detect(align(large, found.points))[0]
        assert np.abs(again.points - FIVE_POINTS).mean() < 6


def test_main_face_is_the_large_one_in_the_middle(shared_data):
    detector, image = YuNet(shared_data / "weights/yunet_n_dynamic.onnx"), read_image(shared_data / "raw_mm_celeba_hq/image/10044.jpg")
    scene = np.zeros((224, 400, 3), np.uint8)
    scene[:112, :112], scene[56:168, 144:256] = image, image
    faces = detector.detect(scene)
    assert len(faces) == 2 and abs(faces[0].points[2, 0] - 200) < 15

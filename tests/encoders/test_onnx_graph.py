"""An ONNX file that is not trusted: versions, external data, limits, repairs of mxnet's exports."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import noise
from onnx import TensorProto, helper, numpy_helper
from onnx_models import make, node

from tgfr.core import TgfrError
from tgfr.encoders import onnx_graph
from tgfr.encoders.onnx_encoder import OnnxEncoder
from tgfr.encoders.pretrained_faces import load_encoder


def external(path, location, data=None):
    model = onnx.load(make(path))
    tensor = next(t for t in model.graph.initializer if t.name == "linear.w")
    if data is not None:
        data.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(location))
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    path = external(inside / "m.onnx", "weights.bin", inside / "weights.bin")
    good, images = OnnxEncoder(path), noise(2)
    whole = OnnxEncoder(make(tmp_path / "m.onnx"))
    assert torch.equal(good.encode(images).embedding, whole.encode(images).embedding)
    good.save(tmp_path / "saved")
    assert load_encoder(tmp_path / "saved").content_digest == good.content_digest
    secret = tmp_path / "secret.bin"
    for location in ("../secret.bin", secret, "x/../../secret.bin"):
        with pytest.raises(TgfrError, match="outside its folder"):
            OnnxEncoder(external(inside / "m.onnx", location, secret))
    (inside / "link.bin").symlink_to(secret)
    with pytest.raises(TgfrError, match="outside its folder"):
        OnnxEncoder(external(inside / "m.onnx", "link.bin"))
    with pytest.raises(TgfrError, match="missing"):
        OnnxEncoder(external(inside / "m.onnx", "nothing.bin"))
    with pytest.raises(TgfrError, match="missing"):
        OnnxEncoder(external(inside / "m.onnx", ""))


def test_size_is_looked_at_before_reading(tmp_path):
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(3 << 30)  # sparse: takes no room
    with pytest.raises(TgfrError, match="more than"):
        OnnxEncoder(tmp_path / "m.onnx")
    with pytest.raises(TgfrError, match="no such file"):
        OnnxEncoder(tmp_path / "n.onnx")


def mxnet(path, slopes=None, spatial=False, size=64, opset=8):
    "64 channels on 64x64: slopes of shape (64,) would run along the width."
    draw, options = np.random.default_rng(0), {"spatial": 0} if spatial else {}
    weights = {
        "w": draw.normal(size=(64, 3, 3, 3)) / 5,
        "p": draw.uniform(0, 2, 64).reshape(slopes or (64, 1, 1)),
        "fc": draw.normal(size=(64, 40)),
        **{k: draw.uniform(0.5, 1, 64) for k in "gbmv"},
    }
    nodes = [
        node("Conv", ["photo", "w"], ["c"], pads=[1] * 4, strides=[112 // size] * 2),
        node("PRelu", ["c", "p"], ["r"]),
        node("BatchNormalization", ["r", *"gbmv"], ["n"], **options),
        node("MaxPool", ["n"], ["pool"], kernel_shape=[size // 8] * 2, strides=[size // 8] * 2),
        node("GlobalAveragePool", ["pool"], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("MatMul", ["flat", "fc"], ["fc1"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("photo", [1, 3, 64, 64]), ("fc1", [1, 40]))
    ]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4), path)
    return path


def test_exports_of_mxnet_are_repaired(tmp_path):
    right, images = OnnxEncoder(mxnet(tmp_path / "right.onnx")), noise(3, 64)
    for slopes, spatial, words in (
        ((64,), False, "flat PRelu slopes"),
        (None, True, "spatial=0"),
        ((64,), True, "spatial=0"),
    ):
        encoder = OnnxEncoder(mxnet(tmp_path / "m.onnx", slopes, spatial))
        torch.testing.assert_close(encoder.encode(images).embedding, right.encode(images).embedding)
        assert words in encoder.preparation and encoder.content_digest != right.content_digest


@pytest.mark.parametrize(
    "stamp,words",
    [
        ({"ir_version": 14}, "IR version 14, onnxruntime reads IR versions up to"),
        ({"ir_version": 99}, "IR version 99"),
        ({"opset": 28}, "opset 28, onnxruntime reads opsets up to"),
        ({"opset": 99}, "opset 99"),
    ],
)
def test_newer_versions_are_refused_in_one_sentence(tmp_path, stamp, words):
    model = onnx.load(make(tmp_path / "m.onnx"))
    model.ir_version = stamp.get("ir_version", model.ir_version)
    model.opset_import[0].version = stamp.get("opset", 17)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(TgfrError, match=words) as error:
        OnnxEncoder(tmp_path / "m.onnx")
    assert (
        "install a newer onnxruntime" in str(error.value)
        and onnxruntime.__version__ in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize("location", ["a" * 300, "a" * 10_000, "zero\0byte", "x/" * 3000])
def test_names_that_no_file_can_have(tmp_path, location):
    with pytest.raises(TgfrError, match="m.onnx: its external data .*(no name that a file can have|missing)") as error:
        OnnxEncoder(external(tmp_path / "m.onnx", location))
    assert len(str(error.value)) < 400


def test_external_data_that_is_not_there(tmp_path):
    path = external(tmp_path / "m.onnx", "weights.bin", tmp_path / "weights.bin")
    for key, value in (("length", "99999999999"), ("offset", "-1"), ("length", "many")):
        model = onnx.load(path, load_external_data=False)
        next(t for t in model.graph.initializer if t.external_data).external_data.add(key=key, value=value)
        (tmp_path / "n.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(TgfrError, match="not whole|no numbers"):
            OnnxEncoder(tmp_path / "n.onnx")


def test_each_tensor_counts_towards_the_limit(tmp_path, monkeypatch):
    "Many tensors that share one file take its size many times."
    model, path = (
        onnx.load(external(tmp_path / "m.onnx", "weights.bin", tmp_path / "weights.bin"), load_external_data=False),
        tmp_path / "m.onnx",
    )
    stored = next(t for t in model.graph.initializer if t.external_data)
    for i in range(50):
        model.graph.initializer.append(stored)
        model.graph.initializer[-1].name = f"copy {i}"
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", path.stat().st_size + 20 * (tmp_path / "weights.bin").stat().st_size)
    with pytest.raises(TgfrError, match="with its external data, more than"):
        OnnxEncoder(path)

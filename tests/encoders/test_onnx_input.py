"""The input of an ONNX model: its batch is made free, and a norm beside unit embeddings is multiplied in."""

import numpy as np
import onnx
import pytest
import torch
from conftest import noise
from onnx import TensorProto, helper
from onnx_models import CHANNELS, EMBEDDING, by_hand, make

from tgfr.core import TgfrError
from tgfr.encoders.backbones import save_encoder
from tgfr.encoders.onnx_encoder import OnnxEncoder
from tgfr.encoders.pretrained_faces import load_encoder


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("head", ["reshape", "full", "flatten"])
def test_batch_becomes_free(tmp_path, head, batch):
    path, images = make(tmp_path / "m.onnx", batch, head=head), noise(21)
    encoder = OnnxEncoder(path, batch=8)
    out = encoder.encode(images)
    assert encoder.batch == 8 and out.embedding.dtype == out.regions.dtype == torch.float32
    assert (
        out.embedding.shape == (21, EMBEDDING)
        and out.regions.shape == (21, CHANNELS, 14, 14)
        and encoder.config.regions == (CHANNELS, 14, 14)
    )
    np.testing.assert_allclose(out.embedding.numpy(), by_hand(path, images), rtol=1e-3, atol=1e-4)
    again = OnnxEncoder(path).encode(images)
    torch.testing.assert_close(again.embedding, out.embedding, rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder.encode(images).regions, out.regions)  # deterministic
    assert encoder.encode(images[:2], regions=False).regions is None


def apart(path, to, divide=True, maker="ReduceL2"):
    "The same model with a second output (N, 1), and where asked the embedding divided by it."
    model = onnx.load(path)
    options = dict(axes=[1], keepdims=1) if maker == "ReduceL2" else {}
    if maker != "ReduceL2":
        model.graph.node.append(helper.make_node("ReduceMean", ["embedding"], ["mean_of"], axes=[1], keepdims=1))
    model.graph.node.append(
        helper.make_node(maker, ["embedding" if maker == "ReduceL2" else "mean_of"], ["length"], **options)
    )
    if divide:
        model.graph.node.extend(
            [
                helper.make_node("ReduceL2", ["embedding"], ["l2"], axes=[1], keepdims=1),
                helper.make_node("Div", ["embedding", "l2"], ["direction"]),
            ]
        )
    out = model.graph.output[0]
    second = helper.make_tensor_value_info(
        "length", TensorProto.FLOAT, [out.type.tensor_type.shape.dim[0].dim_value or "N", 1]
    )
    if divide:
        out.name = "direction"
    model.graph.output.insert(0, second)  # the norm first: the embedding is found all the same
    onnx.save(model, to)
    return to


@pytest.mark.parametrize("batch", [1, "N"])
def test_direction_and_norm_are_put_together(tmp_path, batch):
    path, images = make(tmp_path / "m.onnx", batch), noise(5)
    whole, found = OnnxEncoder(path), OnnxEncoder(apart(path, tmp_path / "apart.onnx"))
    assert (whole.norm, found.norm, found.config.embedding) == (None, "length", EMBEDDING)
    torch.testing.assert_close(found.encode(images).embedding, whole.encode(images).embedding, rtol=1e-3, atol=1e-4)
    tapped = found.encode(images, styles=("stem",))
    torch.testing.assert_close(tapped.embedding, whole.encode(images).embedding, rtol=1e-3, atol=1e-4)
    save_encoder(found, tmp_path / "saved")
    assert (
        load_encoder(tmp_path / "saved").norm == "length"
        and load_encoder(tmp_path / "saved").content_digest == found.content_digest
    )


def test_other_second_outputs_are_not_read(tmp_path):
    "A norm beside an embedding that has its length already, and a quality that is no norm."
    path, images = make(tmp_path / "m.onnx"), noise(3)
    raw = OnnxEncoder(apart(path, tmp_path / "raw.onnx", divide=False))
    assert raw.norm is None
    torch.testing.assert_close(raw.encode(images).embedding, OnnxEncoder(path).encode(images).embedding)
    quality = OnnxEncoder(apart(path, tmp_path / "quality.onnx", maker="Sigmoid"))
    assert quality.norm is None
    torch.testing.assert_close(quality.encode(images).norm, torch.ones(3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options,match",
    [
        (dict(embedding=4), r"not a face model: output shape \(1, 4\)"),
        (dict(shape=[1, 1, 112, 112]), "not a face model: input"),
        (dict(shape=[1, 3, 112, 96]), "H = W"),
        (dict(shape=[1, 3, 10**6, 10**6]), "up to 1024"),
        (dict(kind=TensorProto.FLOAT16), "valid|bound to different types"),
    ],
    ids=["few", "grey", "oblong", "huge", "half"],
)
def test_no_face_model(tmp_path, options, match):
    with pytest.raises(TgfrError, match=match):
        OnnxEncoder(make(tmp_path / "m.onnx", **options))


def test_detector_is_refused(shared_data):
    with pytest.raises(TgfrError, match="yunet"):
        OnnxEncoder(shared_data / "weights" / "yunet_n_dynamic.onnx")

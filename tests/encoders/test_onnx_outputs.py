"""Which output of an ONNX model is the embedding. Right is the same network without the change."""

import json

import numpy as np
import onnx
import pytest
import torch
from conftest import noise
from onnx import TensorProto, helper
from onnx_models import after, make, node

from tgfr import cli
from tgfr.core import TgfrError
from tgfr.encoders.onnx_encoder import OnnxEncoder
from tgfr.encoders.pretrained_faces import load_encoder


def linear(name, width, source="before"):
    return (
        [lambda _: node("MatMul", [source, f"{name}.w"], [name]), lambda kept: node("Identity", ["before"], [kept])],
        {f"{name}.w": np.random.default_rng(0).normal(size=(40, width)).astype(np.float32)},
        {name: [1, width]},
    )


@pytest.mark.parametrize(
    "name,width",
    [("scores", 64), ("out", 1000), ("out", 8631), ("landmarks", 64), ("fc1", 212), ("points", 136), ("prob", 100)],
)
def test_scores_and_points_are_no_embeddings(tmp_path, name, width):
    path = after(make(tmp_path / "a.onnx"), tmp_path / "m.onnx", *linear(name, width))
    model = onnx.load(path)
    both = [model.graph.output[1], model.graph.output[0]]
    del model.graph.output[:]
    model.graph.output.extend(both)  # the other one first
    onnx.save(model, path)
    encoder = OnnxEncoder(path)
    assert encoder.config.embedding == 40
    torch.testing.assert_close(
        encoder.encode(noise(2)).embedding, OnnxEncoder(tmp_path / "a.onnx").encode(noise(2)).embedding
    )
    del model.graph.output[1:]
    onnx.save(model, path)
    with pytest.raises(TgfrError, match=rf"m.onnx: not a face model: {name} \(1, {width}\)|40"):
        assert OnnxEncoder(path).config.embedding == 40 or width == 64


def test_probabilities_are_no_embedding(tmp_path):
    for nodes in (
        [lambda name: node("Softmax", ["before"], [name])],
        [
            lambda name: node("Exp", ["before"], ["e"]),
            lambda name: node("ReduceSum", ["e", "axis"], ["sum"]),
            lambda name: node("Div", ["e", "sum"], [name]),
        ],
    ):
        with pytest.raises(TgfrError, match="probabilities"):
            OnnxEncoder(after(make(tmp_path / "a.onnx"), tmp_path / "m.onnx", nodes, {"axis": np.array([1])}))


def test_several_candidates_are_listed_and_chosen(tmp_path, refusal, capsys):
    path = after(
        make(tmp_path / "a.onnx"),
        tmp_path / "m.onnx",
        [
            lambda name: node("MatMul", ["flat", "w"], ["second"]),
            lambda name: node("Flatten", ["mean"], ["flat"]),
            lambda name: node("Identity", ["before"], [name]),
        ],
        {"w": np.ones((8, 48), np.float32)},
        {"second": [1, 48]},
    )
    model = onnx.load(path)
    model.graph.node.sort(key=lambda n: n.op_type == "MatMul")
    onnx.save(model, path)
    with pytest.raises(
        TgfrError,
        match=r"several of its outputs may be the embedding: embedding \(1, 40\), second \(1, 48\); name one by "
        "--output",
    ):
        OnnxEncoder(path)
    assert "several of its outputs" in refusal("convert", str(path), "--to", str(tmp_path / "new"))
    assert [OnnxEncoder(path, output=name).config.embedding for name in ("embedding", "second")] == [40, 48]
    assert load_encoder(f"{path}:second").config.embedding == 48
    cli.main(["convert", str(path), "--to", str(tmp_path / "out"), "--output", "second"])
    saved = load_encoder(tmp_path / "out")
    assert saved.config.embedding == 48 and saved.content_digest == OnnxEncoder(path, output="second").content_digest
    (tmp_path / "m.onnx.json").write_text(json.dumps({"output": "second"}))
    assert OnnxEncoder(path).config.embedding == 48
    with pytest.raises(TgfrError, match="output 'nobody' is no vector"):
        OnnxEncoder(path, output="nobody")
    with pytest.raises(TgfrError, match="output: names a tensor of an .onnx file"):
        load_encoder(tmp_path / "out", output="second")


@pytest.mark.parametrize("shape", [[1, 40, 1, 1], [1, 1, 40], [1, 40, 1], [40], ["n", 40, 1, 1]])
def test_embeddings_of_other_ranks(tmp_path, shape):
    target = [-1 if d == "n" else d for d in shape]
    path = after(
        make(tmp_path / "a.onnx"),
        tmp_path / "m.onnx",
        [lambda name: node("Reshape", ["before", "form"], [name])],
        {"form": np.array(target)},
    )
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, shape))
    onnx.save(model, path)
    torch.testing.assert_close(
        OnnxEncoder(path).encode(noise(3)).embedding,
        OnnxEncoder(tmp_path / "a.onnx").encode(noise(3)).embedding,
        rtol=1e-3,
        atol=1e-4,
    )


def test_unit_vector_and_vector_give_the_vector(tmp_path):
    nodes = [
        lambda name: node("LpNormalization", ["before"], ["unit"], axis=1),
        lambda name: node("Identity", ["before"], [name]),
    ]
    path = after(make(tmp_path / "a.onnx"), tmp_path / "m.onnx", nodes, outputs={"unit": [1, 40]})
    assert OnnxEncoder(path).encode(noise(2)).norm.std() > 0

"""Chance, company and work of an ONNX graph: what is refused, and what is run singly."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from conftest import noise
from onnx import TensorProto, helper, numpy_helper
from onnx_models import after, make, node, same

from tgfr.core import TgfrError
from tgfr.data.faces import read_image
from tgfr.encoders import onnx_checks
from tgfr.encoders.onnx_encoder import OnnxEncoder


@pytest.fixture(scope="module")
def mobile(shared_data):
    return shared_data / "weights" / "MobileFaceNet.onnx"


@pytest.fixture(scope="module")
def faces(shared_data):
    from tgfr.data.datasets import load_faces

    dataset = load_faces(shared_data / "celeba_hq", "validation").select(range(0, 1600, 50))
    return np.stack([read_image(cell, size=112) for cell in dataset["image"]])


ALIVE = {
    "Dropout": (
        [lambda name: node("Dropout", ["before", "ratio", "train"], [name], name="drop")],
        {"ratio": np.float32(0.4), "train": np.array(True)},
    ),
    "RandomNormalLike": (
        [
            lambda name: node("RandomNormalLike", ["before"], ["chance"]),
            lambda name: node("Add", ["before", "chance"], [name]),
        ],
        {},
    ),
    "RandomUniform": (
        [
            lambda name: node("RandomUniform", [], ["chance"], shape=[1, 128]),
            lambda name: node("Add", ["before", "chance"], [name]),
        ],
        {},
    ),
    "Bernoulli": (
        [
            lambda name: node("Sigmoid", ["before"], ["p"]),
            lambda name: node("Bernoulli", ["p"], ["chance"], dtype=1),
            lambda name: node("Mul", ["before", "chance"], [name]),
        ],
        {},
    ),
    "BatchNormalization": (
        [
            lambda name: node(
                "BatchNormalization",
                ["before", "g", "b", "g", "g"],
                [name, "running_mean", "running_var"],
                training_mode=1,
            )
        ],
        {"g": np.ones(128, np.float32), "b": np.zeros(128, np.float32)},
    ),
    "statistics": (
        [
            lambda name: node("ReduceMean", ["before", "axis"], ["of_all"], keepdims=1),
            lambda name: node("Sub", ["before", "of_all"], ["less"]),
            lambda name: node("Add", ["less", "one"], [name]),
        ],
        {"one": np.float32(1), "axis": np.array([0])},
    ),
}


def free(path, to):
    "The same model that says it takes any number of photos."
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    for t in (a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute):
        if list(numpy_helper.to_array(t).reshape(-1)) == [1, -1]:
            t.CopyFrom(numpy_helper.from_array(np.array([-1, 128])))
    onnx.save(model, to)
    return to


@pytest.mark.parametrize("how", ALIVE)
@pytest.mark.parametrize("batch", ["one", "free"])
def test_what_depends_on_chance_or_company_is_refused(tmp_path, mobile, how, batch):
    source = mobile if batch == "one" else free(mobile, tmp_path / "free.onnx")
    nodes, weights = ALIVE[how]
    with pytest.raises(TgfrError, match=r"m.onnx: .*(training mode|random|photos beside).*model.eval\(\)"):
        OnnxEncoder(after(source, tmp_path / "m.onnx", nodes, weights))


def test_chance_without_a_name_is_found_by_running_twice(tmp_path):
    "A generator in a graph inside a node, of a kind that no list names: here the list is emptied."
    path = after(make(tmp_path / "a.onnx"), tmp_path / "m.onnx", *ALIVE["RandomNormalLike"])
    kept, onnx_checks._RANDOM = onnx_checks._RANDOM, ()
    try:
        with pytest.raises(TgfrError, match="another embedding of the same photo each time"):
            OnnxEncoder(path)
    finally:
        onnx_checks._RANDOM = kept


def test_asleep_is_taken(tmp_path, mobile, faces):
    nodes, weights = ALIVE["Dropout"]
    for changed in ({"train": np.array(False)}, {"ratio": np.float32(0)}):
        assert (
            same(
                OnnxEncoder(after(mobile, tmp_path / "m.onnx", nodes, weights | changed)),
                OnnxEncoder(mobile),
                faces[:2],
            )
            > 0.01
        )  # the default -1..1, as the changed file is not known
    kept = OnnxEncoder(
        after(
            make(tmp_path / "a.onnx"),
            tmp_path / "unused.onnx",
            [
                lambda name: node("RandomNormalLike", ["before"], ["unread"]),
                lambda name: node("Identity", ["before"], [name]),
            ],
        )
    )
    torch.testing.assert_close(
        kept.encode(noise(2)).embedding, OnnxEncoder(tmp_path / "a.onnx").encode(noise(2)).embedding
    )


def test_a_network_of_torch_in_training_mode(tmp_path):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 8),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 64),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, mode in (("train", torch.onnx.TrainingMode.TRAINING), ("eval", torch.onnx.TrainingMode.EVAL)):
            torch.onnx.export(
                network,
                torch.zeros(2, 3, 112, 112),
                tmp_path / f"{name}.onnx",
                training=mode,
                dynamo=False,
                dynamic_axes={"photo": {0: "n"}},
                input_names=["photo"],
                do_constant_folding=False,
            )
    with pytest.raises(TgfrError, match="BatchNormalization .* is in training mode"):
        OnnxEncoder(tmp_path / "train.onnx", region=None)
    assert OnnxEncoder(tmp_path / "eval.onnx", region=None).batch == 16


def test_quantisation_by_batch_is_run_singly(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = make(tmp_path / "a.onnx", batch="N", head="flatten")
    quantize_dynamic(path, tmp_path / "q.onnx", weight_type=QuantType.QUInt8)
    encoder, images = OnnxEncoder(tmp_path / "q.onnx"), noise(3)
    alone = torch.cat([encoder.encode(images[i : i + 1]).embedding for i in range(3)])
    assert encoder.batch == 1 and torch.equal(encoder.encode(images).embedding, alone)


def looped(kind):
    "A loop of one round, which harms nobody."
    value = lambda name, type=TensorProto.FLOAT, shape=(): helper.make_tensor_value_info(name, type, shape)
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Identity", ["in"], ["out"])],
        "body",
        [value("i", TensorProto.INT64), value("go", TensorProto.BOOL), value("in", shape=None)],
        [value("on", TensorProto.BOOL), value("out", shape=None)],
    )
    step = helper.make_graph(
        [node("Identity", ["in"], ["out"])], "step", [value("in", shape=None)], [value("out", shape=None)]
    )
    if kind == "Loop":
        return [lambda name: node("Loop", ["one", "true", "before"], [name], body=body)]
    if kind == "Scan":
        return [lambda name: node("Scan", ["before"], [name], body=step, num_scan_inputs=1)]
    inner = helper.make_graph(
        [node("Loop", ["one", "true", "before"], ["looped"], body=body)], "then", [], [value("looped", shape=None)]
    )
    plain = helper.make_graph([node("Identity", ["before"], ["same"])], "else", [], [value("same", shape=None)])
    return [lambda name: node("If", ["true"], [name], then_branch=inner, else_branch=plain)]


@pytest.mark.parametrize("kind", ["Loop", "Scan", "If"])
def test_loops_are_refused(tmp_path, kind):
    path = after(
        make(tmp_path / "a.onnx"), tmp_path / "m.onnx", looped(kind), {"one": np.array(1), "true": np.array(True)}
    )
    with pytest.raises(TgfrError, match="m.onnx: holds a (Loop|Scan).*whose work nothing bounds"):
        OnnxEncoder(path)


def test_bounds_are_named(tmp_path, monkeypatch):
    path = make(tmp_path / "m.onnx")
    for name, value, words in (
        ("MAX_NODES", 5, "10 nodes, more than the 5"),
        ("MAX_NUMBERS", 1000, "numbers for one photo, more than the 1,000"),
        ("MAX_WORK", 1e4, "multiplications for one photo, more than the 1e"),
    ):
        with monkeypatch.context() as change:
            change.setattr(onnx_checks, name, value)
            with pytest.raises(TgfrError, match=words):
                OnnxEncoder(path)
    assert OnnxEncoder(path).batch == 16


@pytest.mark.parametrize(
    "op,inputs,weights",
    [
        ("Expand", ["one", "times"], {"one": np.float32([1]), "times": np.array([1 << 20, 1 << 20])}),
        ("ConstantOfShape", ["times"], {"times": np.array([1 << 40])}),
        ("Tile", ["one", "times"], {"one": np.float32([1]), "times": np.array([1 << 40])}),
        ("Range", ["from", "to", "one"], {"from": np.float32(0), "to": np.float32(1e12), "one": np.float32(1)}),
    ],
)
def test_much_out_of_little_is_refused_before_it_runs(tmp_path, monkeypatch, op, inputs, weights):
    "A constant of a few bytes that is spread over terabytes; no session is opened for it."
    path = after(
        make(tmp_path / "a.onnx"),
        tmp_path / "m.onnx",
        [
            lambda name: node(op, inputs, ["much"]),
            lambda name: node("ReduceMax", ["much"], ["largest"], keepdims=0),
            lambda name: node("Add", ["before", "largest"], [name]),
        ],
        weights,
    )

    def never(*args, **kwargs):
        raise AssertionError("it was opened")

    monkeypatch.setattr("tgfr.encoders.onnx_encoder.open_session", never)
    with pytest.raises(TgfrError, match="m.onnx: much has the shape .* more than the 268,435,456"):
        OnnxEncoder(path)

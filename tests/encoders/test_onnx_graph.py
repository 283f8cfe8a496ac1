"What an ONNX file says of itself: preparation, chance, which output, versions, repairs, bounds. The right values are those of the same network without the change."

import json
import shutil
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import noise
from onnx import TensorProto, helper, numpy_helper
from test_onnx_encoder import external, make

from tgfr import cli
from tgfr.core import TgfrError
from tgfr.data.faces import read_image
from tgfr.encoders import onnx_graph
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.onnx_encoder import OnnxEncoder
from tgfr.encoders.preparation import preparation_check
from tgfr.encoders.pretrained_faces import convert_encoder, load_encoder

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # of MobileFaceNet
PER_CHANNEL = (1, 3, 1, 1)
node = helper.make_node


def before(path, to, nodes, weights, shape=(1, 3, 112, 112), kind=TensorProto.FLOAT, free=False):
    "The model with nodes before its first one: they read `pixels` and make `prepared`."
    model = onnx.load(path)
    graph, old = model.graph, model.graph.input[0].name
    for n in graph.node:
        for i, name in enumerate(n.input):
            if name == old:
                n.input[i] = "prepared"
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    for n in reversed(nodes):
        graph.node.insert(0, n)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", kind, ["n" if free else shape[0], *shape[1:]]))
    onnx.save(model, to)
    return to


def after(path, to, nodes, weights=(), outputs=None, opset=None):
    "The model with nodes behind its embedding, which they read as `before` and make anew under its name."
    model = onnx.load(path)
    name = model.graph.output[0].name
    for n in model.graph.node:
        for i, made in enumerate(n.output):
            if made == name:
                n.output[i] = "before"
    model.graph.node.extend(n(name) for n in nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in dict(weights).items())
    for extra, shape in (outputs or {}).items():
        model.graph.output.append(helper.make_tensor_value_info(extra, TensorProto.FLOAT, shape))
    if opset:
        model.opset_import[0].version = opset
    onnx.save(model, to)
    return to


@pytest.fixture(scope="module")
def mobile(shared_data):
    return shared_data / "weights" / "MobileFaceNet.onnx"


@pytest.fixture(scope="module")
def faces(shared_data):
    from tgfr.data.datasets import load_faces

    dataset = load_faces(shared_data / "celeba_hq", "validation").select(range(0, 1600, 50))
    return np.stack([read_image(cell, size=112) for cell in dataset["image"]])


# what the graph says about preparation

SUB, DIV = (MEAN * 255).reshape(PER_CHANNEL), (STD * 255).reshape(PER_CHANNEL)
FORMS = {
    "sub mul": ([node("Sub", ["pixels", "m"], ["a"]), node("Mul", ["a", "s"], ["prepared"])], {"m": SUB, "s": 1 / DIV}),
    "sub div": ([node("Sub", ["pixels", "m"], ["a"]), node("Div", ["a", "s"], ["prepared"])], {"m": SUB, "s": DIV}),
    "mul add, constants first": (
        [node("Mul", ["s", "pixels"], ["a"]), node("Add", ["m", "a"], ["prepared"])],
        {"m": -SUB / DIV, "s": 1 / DIV},
    ),
    "through identity and cast": (
        [
            node("Identity", ["pixels"], ["i"]),
            node("Cast", ["i"], ["c"], to=TensorProto.FLOAT),
            node("Identity", ["m"], ["mm"]),
            node("Sub", ["c", "mm"], ["a"]),
            node("Constant", [], ["s"], value=numpy_helper.from_array(1 / DIV)),
            node("Mul", ["a", "s"], ["prepared"]),
        ],
        {"m": SUB},
    ),
    "batch normalisation": (
        [node("BatchNormalization", ["pixels", "g", "b", "m", "v"], ["prepared"], epsilon=1e-12)],
        {"g": np.ones(3, np.float32), "b": np.zeros(3, np.float32), "m": MEAN * 255, "v": (STD * 255) ** 2},
    ),
    "1x1 convolution": (
        [node("Conv", ["pixels", "w", "b"], ["prepared"])],
        {"w": np.diag(1 / (STD * 255)).reshape(3, 3, 1, 1).astype(np.float32), "b": -MEAN / STD},
    ),
    "shapes computed": (
        [
            node("Reshape", ["m", "shape"], ["mm"]),
            node("Sub", ["pixels", "mm"], ["a"]),
            node("Mul", ["a", "s"], ["prepared"]),
        ],
        {"m": MEAN * 255, "shape": np.array(PER_CHANNEL), "s": 1 / DIV},
    ),
    "0..1": (
        [node("Sub", ["pixels", "m"], ["a"]), node("Div", ["a", "s"], ["prepared"])],
        {"m": MEAN.reshape(PER_CHANNEL), "s": STD.reshape(PER_CHANNEL)},
    ),
    "-1..1 to 0..1 to its own": (
        [
            node("Mul", ["pixels", "h"], ["a"]),
            node("Add", ["a", "h"], ["b"]),
            node("Sub", ["b", "m"], ["c"]),
            node("Div", ["c", "s"], ["prepared"]),
        ],
        {"h": np.float32(0.5), "m": MEAN.reshape(PER_CHANNEL), "s": STD.reshape(PER_CHANNEL)},
    ),
    "blue first, gather": (
        [
            node("Gather", ["pixels", "o"], ["g"], axis=1),
            node("Sub", ["g", "m"], ["a"]),
            node("Mul", ["a", "s"], ["prepared"]),
        ],
        {"o": np.array([2, 1, 0]), "m": SUB, "s": 1 / DIV},
    ),
    "blue first, slice": (
        [
            node("Slice", ["pixels", "from", "to", "axis", "step"], ["g"]),
            node("Sub", ["g", "m"], ["a"]),
            node("Mul", ["a", "s"], ["prepared"]),
        ],
        {
            "from": np.array([2]),
            "to": np.array([-4]),
            "axis": np.array([1]),
            "step": np.array([-1]),
            "m": SUB,
            "s": 1 / DIV,
        },
    ),
    "blue first, split": (
        [
            node("Split", ["pixels", "parts"], ["r", "g", "b"], axis=1),
            node("Concat", ["b", "g", "r"], ["x"], axis=1),
            node("Sub", ["x", "m"], ["a"]),
            node("Mul", ["a", "s"], ["prepared"]),
        ],
        {"parts": np.array([1, 1, 1]), "m": SUB, "s": 1 / DIV},
    ),
    "normalised, then exchanged": (
        [
            node("Sub", ["pixels", "m"], ["a"]),
            node("Mul", ["a", "s"], ["c"]),
            node("Gather", ["c", "o"], ["prepared"], axis=1),
        ],
        {"o": np.array([2, 1, 0]), "m": SUB[:, ::-1].copy(), "s": 1 / DIV[:, ::-1]},
    ),
}
LAST = {
    "transpose first": [
        node("Transpose", ["pixels"], ["t"], perm=[0, 3, 1, 2]),
        node("Sub", ["t", "m"], ["a"]),
        node("Mul", ["a", "s"], ["prepared"]),
    ],
    "transpose last": [
        node("Sub", ["pixels", "ml"], ["a"]),
        node("Mul", ["a", "sl"], ["b"]),
        node("Transpose", ["b"], ["prepared"], perm=[0, 3, 1, 2]),
    ],
}


def same(encoder, other, photos):
    return torch.nn.functional.cosine_similarity(encoder.encode(photos).embedding, other.encode(photos).embedding).min()


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_that_prepares_photos_gives_the_same_embeddings(tmp_path, mobile, faces, form):
    encoder, right = OnnxEncoder(before(mobile, tmp_path / "m.onnx", *FORMS[form])), OnnxEncoder(mobile)
    assert same(encoder, right, faces[:4]) > 0.9999 and encoder.region == right.region and encoder.batch == 16
    assert "its graph begins with" in encoder.preparation and encoder.config.channels == (
        "BGR" if "exchanged" in form or "blue" in form else "RGB"
    )
    encoder.save(tmp_path / "saved")
    again = load_encoder(tmp_path / "saved")
    assert (
        again.content_digest == encoder.content_digest
        and again.config == encoder.config
        and again.preparation == encoder.preparation
    )


@pytest.mark.parametrize("form", LAST)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
def test_channels_last_and_bytes(tmp_path, mobile, faces, form, kind):
    nodes, weights = (
        LAST[form],
        {"m": SUB, "s": 1 / DIV, "ml": SUB.reshape(1, 1, 1, 3), "sl": 1 / DIV.reshape(1, 1, 1, 3)},
    )
    nodes = [
        node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
        *[
            helper.make_node(
                n.op_type,
                ["real" if i == "pixels" else i for i in n.input],
                n.output,
                **{a.name: helper.get_attribute_value(a) for a in n.attribute},
            )
            for n in nodes
        ],
    ]
    encoder = OnnxEncoder(before(mobile, tmp_path / "m.onnx", nodes, weights, (1, 112, 112, 3), kind))
    assert same(encoder, OnnxEncoder(mobile), faces[:4]) > 0.9999 and encoder.config.std == (1 / 255,) * 3


def test_batch_normalisation_of_the_network_itself_changes_nothing(tmp_path, mobile):
    "Statistics of -1..1 may be the network's first layer: what was the default stays the default, and its fingerprint."
    bn = (
        [node("BatchNormalization", ["pixels", "g", "b", "m", "v"], ["prepared"])],
        {
            "g": np.ones(3, np.float32),
            "b": np.zeros(3, np.float32),
            "m": np.float32([-0.1, -0.05, 0]),
            "v": np.float32([0.25, 0.3, 0.25]),
        },
    )
    encoder = OnnxEncoder(before(mobile, tmp_path / "m.onnx", *bn))
    assert (encoder.config.mean, encoder.config.std, encoder.config.source) == (
        (0.5,) * 3,
        (0.5,) * 3,
        "default of the insightface models",
    ) and "a guess" in encoder.preparation


def test_a_word_that_contradicts_the_graph_is_refused(tmp_path, mobile, faces):
    path = before(mobile, tmp_path / "m.onnx", *FORMS["sub mul"])
    beside = tmp_path / "m.onnx.json"
    for wrong in ({"mean": [0.5] * 3, "std": [0.5] * 3}, {"mean": [0, 0, 0], "std": [1, 1, 1]}, {"std": [0.5] * 3}):
        beside.write_text(json.dumps(wrong))
        with pytest.raises(
            TgfrError,
            match=r"m.onnx: its graph begins with Sub, Mul.*wants photos 0..255; m.onnx.json says mean.*twice",
        ):
            OnnxEncoder(path)
    beside.write_text(json.dumps({"channels": "BGR"}))
    with pytest.raises(TgfrError, match=r"m.onnx: its graph.*means of RGB photos; m.onnx.json says channels BGR"):
        OnnxEncoder(path)
    beside.write_text(
        json.dumps({"channels": "RGB", "mean": [0, 0, 0], "std": [1 / 255] * 3})
    )  # the same in other words
    assert same(OnnxEncoder(path), OnnxEncoder(mobile), faces[:2]) > 0.9999
    beside.unlink()
    with pytest.raises(TgfrError, match="m.onnx: its graph.*the caller says mean"):
        OnnxEncoder(path, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_the_known_file_keeps_its_fingerprint(mobile):
    "Stores made before graphs were read stay valid."
    encoder = OnnxEncoder(mobile)
    assert (
        encoder.content_digest == "56c1eb07ea537004"
        and "table of known files" in encoder.preparation
        and "guess" not in encoder.preparation
    )


# checked on photos


def feeds(mobile, channels, mean, std):
    return OnnxEncoder(mobile, region=None, channels=channels, mean=mean, std=std)


def poor(photos, size):
    import cv2

    return np.stack(
        [
            cv2.resize(
                cv2.resize(p, (size, size), interpolation=cv2.INTER_AREA), (112, 112), interpolation=cv2.INTER_CUBIC
            )
            for p in photos
        ]
    )


def test_photos_tell_a_wrong_preparation(mobile, faces):
    right = feeds(mobile, "RGB", tuple(map(float, MEAN)), tuple(map(float, STD)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for photos in (faces, poor(faces, 32), poor(faces, 16)):
            assert preparation_check(right, photos).better is None
    for wrong in (((0,) * 3, (1,) * 3), ((0,) * 3, (1 / 255,) * 3)):
        for photos in (faces, poor(faces, 16)):
            with pytest.warns(UserWarning, match="clearly better"):
                preparation_check(feeds(mobile, "RGB", *wrong), photos)
    turned = feeds(mobile, "BGR", tuple(map(float, MEAN[::-1])), tuple(map(float, STD[::-1])))
    for photos in (faces, poor(faces, 16)):
        with pytest.warns(UserWarning, match="fed RGB, with ImageNet's statistics"):
            preparation_check(turned, photos)


def test_photos_of_people_tell_more(mobile, shared_data):
    from tgfr.data.datasets import load_faces

    dataset = load_faces(shared_data / "celeba_hq", "validation")
    places = {}
    for row, person in enumerate(dataset["identity"]):
        places.setdefault(person, []).append(row)
    rows = [row for found in list(places.values())[:60] if len(found) > 1 for row in found[:2]]
    photos, people = (
        np.stack([read_image(dataset[row]["image"], size=112) for row in rows]),
        [dataset[row]["identity"] for row in rows],
    )
    assert preparation_check(OnnxEncoder(mobile, region=None), photos, people).better is None
    with pytest.warns(UserWarning, match="clearly better"):
        preparation_check(feeds(mobile, "RGB", (0,) * 3, (1 / 255,) * 3), photos, people)


def test_vectors_that_are_no_embeddings_are_all_alike(tmp_path, mobile, faces):
    "As of points of a face: a mean shape, and little of the photo."
    path = after(
        mobile,
        tmp_path / "m.onnx",
        [lambda name: node("Add", ["before", "mean"], [name])],
        {"mean": np.float32([50] * 128)},
    )
    with pytest.warns(UserWarning, match="nearly the same vector"):
        preparation_check(OnnxEncoder(path, region=None), faces)


# chance and company

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
    kept, onnx_graph._RANDOM = onnx_graph._RANDOM, ()
    try:
        with pytest.raises(TgfrError, match="another embedding of the same photo each time"):
            OnnxEncoder(path)
    finally:
        onnx_graph._RANDOM = kept


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


# which output


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
        match=r"several of its outputs may be the embedding: embedding \(1, 40\), second \(1, 48\); name one by --output",
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


# half precision, repairs, versions


def test_half_precision_has_regions_and_styles(tmp_path, kind=TensorProto.FLOAT16):
    whole, model = OnnxEncoder(make(tmp_path / "a.onnx")), onnx.load(tmp_path / "a.onnx")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for t in model.graph.initializer:
        if t.data_type == TensorProto.FLOAT:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(dtype), t.name))
    for n in model.graph.node:
        for i, name in enumerate(n.input):
            if name == "photo":
                n.input[i] = "narrow"
        for i, name in enumerate(n.output):
            if name == "embedding":
                n.output[i] = "narrow embedding"
    model.graph.node.insert(0, node("Cast", ["photo"], ["narrow"], to=kind))
    model.graph.node.append(node("Cast", ["narrow embedding"], ["embedding"], to=TensorProto.FLOAT))
    onnx.save(model, tmp_path / "m.onnx")
    encoder, images = OnnxEncoder(tmp_path / "m.onnx"), noise(3)
    out, right = encoder.encode(images, styles=("stem",)), whole.encode(images, styles=("stem",))
    assert encoder.region == "sum" and out.regions.dtype == out.styles.dtype == torch.float32
    for a, b in ((out.embedding, right.embedding), (out.regions, right.regions), (out.styles, right.styles)):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


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


# what is claimed, and what it would cost


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
    monkeypatch.setattr(onnx_graph, "LIMIT", path.stat().st_size + 20 * (tmp_path / "weights.bin").stat().st_size)
    with pytest.raises(TgfrError, match="with its external data, more than"):
        OnnxEncoder(path)


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
        ("NODES", 5, "10 nodes, more than the 5"),
        ("MOST", 1000, "numbers for one photo, more than the 1,000"),
        ("WORK", 1e4, "multiplications for one photo, more than the 1e"),
    ):
        with monkeypatch.context() as change:
            change.setattr(onnx_graph, name, value)
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


def test_unknown_work_runs_under_a_clock(tmp_path, monkeypatch):
    "The shape of what `NonZero` finds is known only when it ran; the first run is ended where its time is over."
    nodes = [
        lambda name: node("NonZero", ["before"], ["where"]),
        lambda name: node("Cast", ["where"], ["real"], to=TensorProto.FLOAT),
        lambda name: node("ReduceMax", ["real"], ["most"], keepdims=0),
        lambda name: node("Mul", ["most", "zero"], ["nothing"]),
        lambda name: node("Add", ["before", "nothing"], [name]),
    ]
    path = after(make(tmp_path / "a.onnx"), tmp_path / "m.onnx", nodes, {"zero": np.float32(0)})
    torch.testing.assert_close(
        OnnxEncoder(path).encode(noise(1)).embedding, OnnxEncoder(tmp_path / "a.onnx").encode(noise(1)).embedding
    )
    calls = []

    def late(call, stop, seconds, told):
        calls.append(told)
        raise TgfrError(f"{told} was not done")

    monkeypatch.setattr(onnx_graph, "watched", late)
    with pytest.raises(TgfrError, match="m.onnx: .* was not done"):
        OnnxEncoder(path)


# told by every command, kept in the store


def test_commands_say_how_photos_go_in(tmp_path, capsys, shared_data, mobile):
    import pickle

    import pyarrow.parquet as pq

    rows = (
        pq.read_table(shared_data / "celeba_hq/validation-00000-of-00001.parquet", columns=["image"])
        .slice(0, 40)
        .to_pylist()
    )
    (tmp_path / "few.bin").write_bytes(pickle.dumps(([r["image"]["bytes"] for r in rows], [True, False] * 10)))
    path = tmp_path / "m.onnx"
    model = onnx.load(mobile)
    model.producer_name = "not the known file"
    onnx.save(model, path)
    cli.main(
        ["verify", str(tmp_path / "few.bin"), "--encoder", str(path), "--out", str(tmp_path / "a"), "--folds", "2"]
    )
    said = capsys.readouterr().err
    assert (
        said.count("photos go in as RGB, scaled to -1..1") == 1
        and "a guess, default of the insightface models" in said
        and "is fed" not in said
    )
    assert "a guess" in FeatureStore.open(tmp_path / "a/features/few").meta["preparation"]
    shutil.copy(path, tmp_path / "n.onnx")
    (tmp_path / "n.onnx.json").write_text(json.dumps({"mean": [0] * 3, "std": [1 / 255] * 3}))
    cli.main(
        [
            "verify",
            str(tmp_path / "few.bin"),
            "--encoder",
            str(tmp_path / "n.onnx"),
            "--out",
            str(tmp_path / "b"),
            "--folds",
            "2",
        ]
    )
    said = capsys.readouterr().err
    assert "n.onnx.json" in said and said.count("warning: n is fed RGB, scaled to 0..255, but") == 1
    convert_encoder(path, tmp_path / "saved")
    capsys.readouterr()
    assert "a guess" in load_encoder(tmp_path / "saved").preparation and "a guess" in capsys.readouterr().err

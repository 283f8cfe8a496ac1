"""How images go in, by the graph's first nodes and by photos. Right is the same network without the change."""

import json
import shutil
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import after, node, same

from tgfr import cli
from tgfr.core import TgfrError
from tgfr.data.faces import read_image
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.onnx_encoder import OnnxEncoder
from tgfr.encoders.preparation import preparation_check
from tgfr.encoders.pretrained_faces import convert_encoder, load_encoder

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # of MobileFaceNet


PER_CHANNEL = (1, 3, 1, 1)


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


@pytest.fixture(scope="module")
def mobile(shared_data):
    return shared_data / "weights" / "MobileFaceNet.onnx"


@pytest.fixture(scope="module")
def faces(shared_data):
    from tgfr.data.datasets import load_faces

    dataset = load_faces(shared_data / "celeba_hq", "validation").select(range(0, 1600, 50))
    return np.stack([read_image(cell, size=112) for cell in dataset["image"]])


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

"ONNX face models: free batch, choice of regions, preprocessing, hostile files, the real MobileFaceNet."

import json

import numpy as np
import onnx
import pytest
import torch
from conftest import noise
from onnx import TensorProto, helper, numpy_helper

from tgfr.core import TgfrError
from tgfr.encoders.backbones import IResNet, save_encoder, style
from tgfr.encoders.onnx_encoder import OnnxEncoder
from tgfr.encoders.pretrained_faces import load_encoder

CHANNELS, EMBEDDING = 6, 40


def save_graph(path, nodes, inputs, outputs, weights=(), kind=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, kind, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        list(weights),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def make(
    path,
    batch=1,
    size=112,
    head="reshape",
    residual=True,
    embedding=EMBEDDING,
    shape=None,
    extra=False,
    kind=TensorProto.FLOAT,
):
    "A small face model: stem /4, down to /8, a block, down to /16, mean, linear. `shape`: what the file says of its input."
    draw, nodes, weights = np.random.default_rng(0), [], []
    inside = 3 if shape is None else shape[1] if isinstance(shape[1], int) else 3
    store = lambda name, value: weights.append(numpy_helper.from_array(value, name)) or name

    def node(op, inputs, name, **options):
        nodes.append(helper.make_node(op, inputs, [name], **options))
        return name

    def conv(x, name, inside, outside, side, stride):
        weight = store(name + ".w", draw.normal(0, 0.3, (outside, inside, side, side)).astype(np.float32))
        return node("Conv", [x, weight], name, kernel_shape=[side] * 2, strides=[stride] * 2, pads=[side // 2] * 4)

    x = conv(conv("photo", "stem", inside, 4, 5, 4), "down", 4, CHANNELS, 3, 2)
    inner = conv(node("Relu", [x], "inner.relu"), "inner.conv", CHANNELS, CHANNELS, 3, 1)
    x = node("Add", [x, inner], "sum") if residual else inner
    x = node("GlobalAveragePool", [conv(node("Relu", [x], "after.relu"), "down2", CHANNELS, 8, 3, 2)], "mean")
    if head == "map":
        conv(x, "embedding", 8, embedding, 1, 1)
    else:
        x = conv(x, "linear", 8, embedding, 1, 1)
        if head == "flatten":
            node("Flatten", [x], "embedding")
        else:
            target = (
                {"reshape": [batch, -1], "full": [batch, embedding]}[head]
                if isinstance(batch, int)
                else [-1, embedding]
            )
            store("shape", np.array(target)), node("Reshape", [x, "shape"], "embedding")
    out = [("mean", [batch, 8, 1, 1])] * extra + [
        ("embedding", [batch, embedding] if head != "map" else [batch, embedding, 1, 1])
    ]
    return save_graph(path, nodes, [("photo", shape or [batch, 3, size, size])], out, weights, kind)


def by_hand(path, images):
    "What the model itself says, one photo at a time, prepared by hand."
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return np.concatenate(
        [
            session.run(
                ["embedding"], {"photo": ((image / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype(np.float32)}
            )[0]
            for image in images
        ]
    )


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


def test_regions(tmp_path):
    path = make(tmp_path / "m.onnx")
    assert OnnxEncoder(path).region == "sum"
    assert OnnxEncoder(make(tmp_path / "plain.onnx", residual=False)).region == "after.relu"
    stem = OnnxEncoder(path, region="stem")
    assert stem.config.regions == (4, 28, 28) and stem.encode(noise(2)).regions.shape == (2, 4, 28, 28)
    none = OnnxEncoder(path, region=None)
    assert none.config.regions is None and none.encode(noise(2)).regions is None
    assert OnnxEncoder.candidates(path) == [
        ("stem", (4, 28, 28)),
        ("down", (6, 14, 14)),
        ("inner.relu", (6, 14, 14)),
        ("inner.conv", (6, 14, 14)),
        ("sum", (6, 14, 14)),
        ("after.relu", (6, 14, 14)),
        ("down2", (8, 7, 7)),
    ]
    with pytest.raises(TgfrError, match="'mean' is no map.*sum"):
        OnnxEncoder(path, region="mean")
    with pytest.raises(TgfrError, match="no map of 15x15"):
        OnnxEncoder(make(tmp_path / "odd.onnx", size=120 + 4))


def test_styles(tmp_path):
    path, images = make(tmp_path / "m.onnx"), noise(11)
    encoder, names = OnnxEncoder(path, batch=4), ("stem", "sum", "stem")
    out, plain = encoder.encode(images, styles=names), encoder.encode(images)
    assert out.styles.shape == (11, encoder.style_width(names), 2) == (11, 14, 2) and plain.styles is None
    torch.testing.assert_close(out.embedding, plain.embedding), torch.testing.assert_close(out.regions, plain.regions)
    stem = OnnxEncoder(path, region="stem").encode(images).regions
    for columns in (slice(0, 4), slice(10, 14)):
        torch.testing.assert_close(out.styles[:, columns], style(stem))
    torch.testing.assert_close(out.styles[:, 4:10], style(plain.regions))
    alone = OnnxEncoder(path, region=None).encode(images[:1], regions=False, styles=["down2"])
    assert alone.regions is None and alone.styles.shape == (1, 8, 2)
    again = OnnxEncoder(path)
    assert again.content_digest == encoder.content_digest  # which styles were asked for is no part of the encoder
    for wrong in (("stage2",), ("mean",), "stem", ("embedding",)):
        with pytest.raises(TgfrError, match="m.onnx: styles.*its last maps are .*down2"):
            encoder.encode(images, styles=wrong)


def test_other_sizes_and_outputs(tmp_path):
    encoder = OnnxEncoder(make(tmp_path / "m.onnx", size=64, extra=True))
    assert (
        encoder.config.size == 64
        and encoder.config.regions == (CHANNELS, 8, 8)
        and encoder.config.embedding == EMBEDDING
    )
    free = make(tmp_path / "free.onnx", "N", shape=["N", 3, "H", "W"])
    assert OnnxEncoder(free).config.size == 112 and OnnxEncoder(free, size=80).config.regions == (CHANNELS, 10, 10)
    with pytest.raises(TgfrError, match="size says 96"):
        OnnxEncoder(make(tmp_path / "n.onnx"), size=96)
    with pytest.raises(TgfrError, match=r"\(B, 64, 64, 3\)"):
        encoder.encode(noise(2))


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


def test_a_batch_that_stays_fixed_is_run_singly(tmp_path):
    path, model = tmp_path / "m.onnx", onnx.load(make(tmp_path / "a.onnx"))
    reshape = next(n for n in model.graph.node if n.op_type == "Reshape")
    start = numpy_helper.from_array(
        np.array([1, EMBEDDING]), "start"
    )  # the shape is computed: (1, E) again, out of reach of the edit
    model.graph.initializer.append(start)
    model.graph.node.insert(0, helper.make_node("Identity", ["start"], ["computed"]))
    reshape.input[1] = "computed"
    onnx.save(model, path)
    encoder, images = OnnxEncoder(path), noise(3)
    assert encoder.batch == 1
    np.testing.assert_allclose(encoder.encode(images).embedding.numpy(), by_hand(path, images), rtol=1e-3, atol=1e-4)


def test_preprocessing_and_its_source(tmp_path):
    path, images = make(tmp_path / "m.onnx"), noise(2)
    default = OnnxEncoder(path)
    assert default.config.mean == (0.5,) * 3 and "insightface" in default.config.source and default.config.name == "m"
    flipped = OnnxEncoder(path, channels="BGR")
    assert flipped.config.source == "given by the caller" and flipped.content_digest != default.content_digest
    torch.testing.assert_close(flipped.encode(images[..., ::-1].copy()).embedding, default.encode(images).embedding)
    (tmp_path / "m.onnx.json").write_text(
        json.dumps({"channels": "BGR", "mean": [0, 0, 0], "std": [1, 1, 1], "name": "MagFace", "region": "down"})
    )
    beside = OnnxEncoder(path)
    assert (beside.config.channels, beside.config.std, beside.config.name, beside.region) == (
        "BGR",
        (1.0, 1.0, 1.0),
        "MagFace",
        "down",
    )
    assert (
        beside.config.source == "m.onnx.json"
        and OnnxEncoder(path, channels="RGB", region="sum").config.channels == "RGB"
    )
    for wrong, match in (
        ({"chanels": "RGB"}, "chanels"),
        ({"channels": "GRB"}, "channels"),
        ({"std": [1, 1]}, "std"),
        ([], "m.onnx.json"),
        ({"size": 96}, "size says 96"),
    ):
        (tmp_path / "m.onnx.json").write_text(json.dumps(wrong))
        with pytest.raises(TgfrError, match=match):
            OnnxEncoder(path)
    with pytest.raises(TgfrError, match="options: colour unknown"):
        OnnxEncoder(make(tmp_path / "n.onnx"), colour="RGB")


def test_round_trip_and_load_encoder(tmp_path):
    path, images = make(tmp_path / "m.onnx"), noise(3)
    for options in (
        {},
        {"region": None},
        {"region": "down", "channels": "BGR", "mean": (0, 0, 0), "std": (1, 1, 1), "name": "x", "source": "a paper"},
    ):
        encoder = OnnxEncoder(path, **options)
        save_encoder(encoder, tmp_path / "saved")
        again = load_encoder(tmp_path / "saved")
        assert (
            again.config == encoder.config
            and again.region == encoder.region
            and again.content_digest == encoder.content_digest
        )
        a, b = again.encode(images), encoder.encode(images)
        assert torch.equal(a.embedding, b.embedding) and (
            a.regions is b.regions is None or torch.equal(a.regions, b.regions)
        )
    assert load_encoder(str(path)).config == OnnxEncoder(path).config
    network = IResNet((1, 1, 1, 1), 4, 32, 64)
    save_encoder(network, tmp_path / "torch")
    assert (
        isinstance(load_encoder(tmp_path / "torch"), IResNet)
        and load_encoder(tmp_path / "torch").content_digest == network.content_digest
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir(), (tmp_path / "text" / "config.json").write_text('{"kind": "lstm"}')
    for spec in ("iresnet18", tmp_path / "empty", tmp_path / "text", tmp_path / "nowhere"):
        with pytest.raises(TgfrError, match="accepted"):
            load_encoder(spec)
    (tmp_path / "saved" / "config.json").write_text('{"kind": "onnx"}')
    with pytest.raises(TgfrError, match="keys"):
        load_encoder(tmp_path / "saved")


# files that are not what they say


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x08\x08" * 50, bytes(range(256)) * 40, b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x0f"],
    ids=range(6),
)
def test_no_onnx(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(TgfrError, match="m.onnx"):
        OnnxEncoder(tmp_path / "m.onnx")


def test_cut_short(tmp_path):
    whole = make(tmp_path / "a.onnx").read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        (tmp_path / "m.onnx").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(TgfrError, match="m.onnx"):
            OnnxEncoder(tmp_path / "m.onnx")


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


def test_other_graphs(tmp_path):
    mean = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Flatten", ["m"], ["y"]),
    ]
    with pytest.raises(TgfrError, match="channels last"):
        OnnxEncoder(save_graph(tmp_path / "nhwc.onnx", mean, [("x", [1, 112, 112, 3])], [("y", [1, 336])]))
    with pytest.raises(TgfrError, match=r"one input \(N, 3, H, W\)"):
        OnnxEncoder(
            save_graph(
                tmp_path / "two.onnx",
                [helper.make_node("Add", ["a", "b"], ["y"])],
                [("a", [1, 64]), ("b", [1, 64])],
                [("y", [1, 64])],
            )
        )
    custom = [helper.make_node("Magic", ["x"], ["y"], domain="nobody")]
    with pytest.raises(TgfrError, match="custom.onnx"):
        OnnxEncoder(save_graph(tmp_path / "custom.onnx", custom, [("x", [1, 3, 112, 112])], [("y", [1, 64])]))
    liar = [helper.make_node("Flatten", ["x"], ["y"])]  # says 64 numbers, gives 37,632
    with pytest.raises(TgfrError, match="liar.onnx"):
        OnnxEncoder(save_graph(tmp_path / "liar.onnx", liar, [("x", [1, 3, 112, 112])], [("y", [1, 64])]))


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


def test_arguments(tmp_path):
    with pytest.raises(TgfrError, match="batch"):
        OnnxEncoder(make(tmp_path / "m.onnx"), batch=0)
    with pytest.raises(TgfrError, match="no photo"):
        OnnxEncoder(tmp_path / "m.onnx").encode(noise(0))


# the real one


def test_mobilefacenet(shared_data):
    encoder = OnnxEncoder(shared_data / "weights" / "MobileFaceNet.onnx")
    assert (
        encoder.region == "/features/features.11/Add_output_0"
        and encoder.config.regions == (128, 14, 14)
        and encoder.config.embedding == 128
    )
    assert (
        encoder.config.mean == (0.485, 0.456, 0.406)
        and encoder.config.source == "table of known files"
        and encoder.batch > 1
    )
    out, images = encoder.encode(images := noise(5)), images
    one = encoder.encode(images[3:4])
    torch.testing.assert_close(out.embedding[3], one.embedding[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.regions[3], one.regions[0], rtol=1e-3, atol=1e-3)
    tapped = encoder.encode(images, styles=(encoder.region,))
    torch.testing.assert_close(tapped.styles, style(out.regions), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(tapped.embedding, out.embedding, rtol=1e-3, atol=1e-4)


def test_mobilefacenet_knows_people(shared_data):
    import cv2

    encoder, people = (
        OnnxEncoder(shared_data / "weights" / "MobileFaceNet.onnx", region=None),
        sorted((shared_data / "orl").glob("s*"))[:10],
    )
    faces = [
        cv2.cvtColor(cv2.resize(cv2.imread(str(f), 0), (112, 112)), cv2.COLOR_GRAY2RGB)
        for p in people
        for f in sorted(p.glob("*.pgm"))[:4]
    ]
    score = torch.nn.functional.normalize(encoder.encode(np.stack(faces)).embedding)
    score, person = score @ score.T, torch.arange(len(faces)) // 4
    same = person[:, None] == person
    assert score[same & ~torch.eye(len(faces), dtype=torch.bool)].mean() > score[~same].mean() + 0.2


def test_detector_is_refused(shared_data):
    with pytest.raises(TgfrError, match="yunet"):
        OnnxEncoder(shared_data / "weights" / "yunet_n_dynamic.onnx")

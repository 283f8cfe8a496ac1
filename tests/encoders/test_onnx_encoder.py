"""ONNX face models as frozen encoders: regions, styles, sizes, and files that are not what they say."""

import numpy as np
import onnx
import pytest
import torch
from conftest import noise
from onnx import TensorProto, helper, numpy_helper
from onnx_models import CHANNELS, EMBEDDING, by_hand, make, node, save_graph

from tgfr.core import TgfrError
from tgfr.encoders.backbones import IResNet, save_encoder, style
from tgfr.encoders.onnx_encoder import OnnxEncoder
from tgfr.encoders.pretrained_faces import load_encoder


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


def test_arguments(tmp_path):
    with pytest.raises(TgfrError, match="batch"):
        OnnxEncoder(make(tmp_path / "m.onnx"), batch=0)
    with pytest.raises(TgfrError, match="no photo"):
        OnnxEncoder(tmp_path / "m.onnx").encode(noise(0))


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

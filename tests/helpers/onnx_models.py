"""Small ONNX face models, and models with nodes before or after them."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

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
    """A small face model: stem /4, down to /8, a block, down to /16, mean, linear. `shape`: what the file says of its
    input."""
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


node = helper.make_node


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


def same(encoder, other, photos):
    return torch.nn.functional.cosine_similarity(encoder.encode(photos).embedding, other.encode(photos).embedding).min()

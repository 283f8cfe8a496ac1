"""A graph whose work is not known before runs under a clock."""

import numpy as np
import pytest
import torch
from conftest import noise
from onnx import TensorProto
from onnx_models import after, make, node

from tgfr.core import TgfrError
from tgfr.encoders import onnx_sessions
from tgfr.encoders.onnx_encoder import OnnxEncoder


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

    def late(call, stop, seconds, what):
        calls.append(what)
        raise TgfrError(f"{what} was not done")

    monkeypatch.setattr(onnx_sessions, "run_with_timeout", late)
    with pytest.raises(TgfrError, match="m.onnx: .* was not done"):
        OnnxEncoder(path)

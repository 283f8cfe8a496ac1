"""What is said beside an ONNX file of how its images are prepared."""

import json

import pytest
import torch
from conftest import noise
from onnx_models import make

from tgfr.core import TgfrError
from tgfr.encoders.onnx_encoder import OnnxEncoder


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

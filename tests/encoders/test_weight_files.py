"""Weights in safetensors files."""

import pytest
import torch

from tgfr.core import TgfrError
from tgfr.encoders.weight_files import read_weights, write_weights


def test_read_weights(tmp_path):
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)}
    write_weights(tmp_path / "w.safetensors", {"a": torch.ones(2, 3).T.contiguous().T.half(), "b": torch.tensor(4)})
    found = read_weights(tmp_path / "w.safetensors", expected)
    assert found["a"].dtype == torch.float32 and found["b"].item() == 4 and list(found) == ["a", "b"]
    with pytest.raises(TgfrError, match=r"missing: c; unknown: b; misshapen: a \(2, 3\) for \(3, 2\)"):
        read_weights(tmp_path / "w.safetensors", {"a": torch.zeros(3, 2), "c": torch.zeros(1)})
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(TgfrError, match="not a readable safetensors file"):
            read_weights(path, expected)
    write_weights(tmp_path / "w.safetensors", {f"k{i}": torch.zeros(1) for i in range(20)})
    with pytest.raises(TgfrError, match="k19 and 8 more"):
        read_weights(tmp_path / "w.safetensors", {"k": torch.zeros(1)})

"""IR and IR-SE: shapes of every depth."""

import pytest
import torch

from tgfr.encoders.ir import IR


@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize(
    "depth,blocks,wide", [(18, 8, 1), (34, 16, 1), (50, 24, 1), (101, 49, 1), (152, 50, 4), (200, 66, 4)]
)
def test_shapes_of_every_ir(depth, blocks, wide, se):
    with torch.device("meta"):
        network = IR(depth, se=se).eval()
        maps = network.stages(torch.empty(2, 3, 112, 112))
    assert (
        len(network.body) == blocks
        and network.embed(maps["stage4"]).shape == (2, 512)
        and network.style_width(("stage2", "stage3")) == 384 * wide
    )
    assert [tuple(m.shape) for m in maps.values()] == [
        (2, 64 * wide, 56, 56),
        (2, 128 * wide, 28, 28),
        (2, 256 * wide, 14, 14),
        (2, 512 * wide, 7, 7),
    ]
    keys = network.state_dict()
    last = f"body.{blocks - 1}.res_layer." + ("7" if wide == 4 else "4") + ".weight"
    assert tuple(keys[last].shape) == (
        (2048, 512, 1, 1) if wide == 4 else (512, 512, 3, 3)
    )  # a bottleneck works with a quarter of the channels
    assert ("body.0.res_layer.se_block.fc1.weight" in keys) == se
    assert ("body.0.shortcut_layer.0.weight" in keys) == (wide == 4)  # 64 to 64 channels: plain subsampling
    if depth == 101:
        assert [sum(network.shape["layers"][:i]) - 1 for i in (2, 3)] == [
            15,
            45,
        ]  # the blocks CAFace takes its styles from

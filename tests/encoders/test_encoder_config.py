"""Images in the order and scaling of an encoder."""

import numpy as np
import pytest
from conftest import noise

from tgfr.core import TgfrError
from tgfr.encoders.encoder_config import EncoderConfig, preprocess


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((112, 112, 3), np.uint8), np.zeros((1, 112, 112, 3), np.float32), np.zeros((1, 3, 112, 112), np.uint8)],
)
def test_preprocess_refuses(wrong):
    with pytest.raises(TgfrError, match="images"):
        preprocess(wrong, EncoderConfig("x", 512, None))


def test_preprocess_orders_and_scales():
    photos = noise(2, 16)
    config = EncoderConfig("x", 512, None, 16, "BGR", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    expected = (photos[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    np.testing.assert_allclose(preprocess(photos, config).numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    for wrong in (
        dict(channels="GBR"),
        dict(mean=(0.5, 0.5)),
        dict(std=(0.5, 0, 0.5)),
        dict(std=0.5),
        dict(mean=("a", 0, 0)),
        dict(mean=(float("nan"),) * 3),
    ):
        with pytest.raises(TgfrError, match=next(iter(wrong))):
            EncoderConfig("x", 512, None, **wrong)

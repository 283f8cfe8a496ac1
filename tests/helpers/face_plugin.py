"""A plug-in with two face encoders, as a user may write one: a network with weights, and one that needs none."""

import torch
from torch import nn

from tgfr.encoders.backbones import FACE_ENCODERS, STAGES, FaceEncoder
from tgfr.encoders.encoder_config import EncoderConfig
from tgfr.encoders.features import ImageFeatures


@FACE_ENCODERS.register("strided")
class Strided(FaceEncoder):
    "Four strided convolutions and a linear layer."

    kind = "strided"

    def __init__(self, width=2, embedding=16, size=112, **config):
        super().__init__()
        self.shape = dict(width=width)
        name, regions = config.pop("name", "strided"), (width, size // 8, size // 8)
        self.config = EncoderConfig(name, embedding, regions, size, **config)
        self.widths = (width,) * 4
        self.convs = nn.ModuleList(nn.Conv2d(width if i else 3, width, 3, 2, 1) for i in range(4))
        self.linear = nn.Linear(width * (size // 16) ** 2, embedding)

    def stages(self, x):
        maps = {}
        for name, conv in zip(STAGES, self.convs):
            maps[name] = x = conv(x)
        return maps

    def embed(self, x):
        return self.linear(x.flatten(1))


@FACE_ENCODERS.register("means")
class Means:
    "Mean colours of the four quarters."

    config = EncoderConfig("means", 12, None)

    def encode(self, images, regions=True, styles=()):
        pixels = torch.as_tensor(images).float().permute(0, 3, 1, 2)
        return ImageFeatures(pixels.unflatten(3, (2, 56)).unflatten(2, (2, 56)).mean((3, 5)).flatten(1))

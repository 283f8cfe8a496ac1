"""A quick encoder, photos, and the files of a feature store."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value

from tgfr.core import rng
from tgfr.data.degradation import Degradation
from tgfr.data.faces import encode_jpeg
from tgfr.encoders.features import ImageFeatures

DEGRADATIONS = [Degradation(), Degradation(32), Degradation(16, noise=8)]


@dataclass(frozen=True)
class Config:
    name: str = "tiny"
    embedding: int = 12
    regions: tuple | None = (3, 2, 2)
    size: int = 112


class Tiny:
    "Means of the four quarters; `seen` counts photos, `nap` makes a batch last, `after` ends it."

    def __init__(self, nap=0.0, after=None, **config):
        self.config, self.seen, self.nap, self.after = Config(**config), 0, nap, after

    def encode(self, images: np.ndarray) -> ImageFeatures:
        assert images.dtype == np.uint8 and images.shape[1:] == (self.config.size, self.config.size, 3)
        if self.after is not None and self.seen >= self.after:
            raise KeyboardInterrupt
        time.sleep(self.nap)
        self.seen += len(images)
        half = self.config.size // 2
        regions = (
            torch.from_numpy(images)
            .permute(0, 3, 1, 2)
            .float()
            .unflatten(3, (2, half))
            .unflatten(2, (2, half))
            .mean((3, 5))
            / 255
        )
        return ImageFeatures(regions.flatten(1), regions)


def photos(n: int = 21) -> Dataset:
    rows = [
        {
            "image": {"bytes": encode_jpeg(rng("photo", i).integers(0, 256, (112, 112, 3), np.uint8)), "path": None},
            "photo_id": f"{i // 4}/{i % 4}",
        }
        for i in range(n)
    ]
    return Dataset.from_list(rows, features=Features({"image": Image(decode=False), "photo_id": Value("string")}))


def files(folder: Path) -> dict:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.*")) if p.name != ".lock"}


ENCODE = """
import sys
from pathlib import Path

from tiny_store import *

from tgfr.encoders.face_features import encode_faces

encoder = Tiny(nap=float(sys.argv[2]))
encode_faces(photos(), encoder, DEGRADATIONS, Path(sys.argv[1]), batch=4)
print(encoder.seen)
"""

"""Training photos from Parquet with augmentation, photos a second: one item after the other with Pillow and torch
against ours. Prints a markdown table."""

import io
import tempfile
from functools import partial

import numpy as np
import torch
from measure import compare, timed
from PIL import Image, ImageOps

from tgfr.core import rng
from tgfr.data.augmentations import augment
from tgfr.data.datasets import load_faces
from tgfr.data.faces import read_image
from tgfr.encoders.encoder_config import EncoderConfig, preprocess

PHOTOS = 1000


def ours(dataset):
    "Batches of 128 as the encoder takes them."
    for rows in dataset.select_columns(["image"]).iter(128):
        photos = np.stack([augment(read_image(image), rng(0, "augment", i)) for i, image in enumerate(rows["image"])])
        yield preprocess(torch.from_numpy(photos), EncoderConfig("any", 512, (256, 14, 14)))


def loop(dataset):
    "An item at a time: decode with Pillow, flip, grey, to a tensor; then a stack of 128."
    batch = []
    for i in range(len(dataset)):
        image = Image.open(io.BytesIO(dataset[i]["image"]["bytes"])).convert("RGB")
        if np.random.rand() < 0.5:
            image = ImageOps.mirror(image)
        if np.random.rand() < 0.2:
            image = ImageOps.grayscale(image).convert("RGB")
        batch.append((torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5)
        if len(batch) == 128 or i + 1 == len(dataset):
            yield torch.stack(batch)
            batch = []


def run(f, repeats):
    with tempfile.TemporaryDirectory() as folder:
        load_faces(f"synthetic:people={PHOTOS // 10},photos=10").to_parquet(f"{folder}/photos.parquet")
        dataset = load_faces(f"{folder}/photos.parquet")
        found = timed(lambda: float(sum(len(batch) for batch in f(dataset))), repeats)
    return found | {"note": f"{PHOTOS / found['wall']:,.0f} photos a second"}


if __name__ == "__main__":
    compare(
        __file__,
        f"Data loading: {PHOTOS:,} photos of 112 px from Parquet, augmented, as batches of 128",
        {"one process": {"textbook loop": partial(run, loop), "ours": partial(run, ours)}},
    )

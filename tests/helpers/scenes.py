"""Videos for the tests: people who look different, clips of them, a detector that knows the clip, an encoder without
weights."""

import cv2
import numpy as np
import torch

from tgfr.data.degradation import Degradation
from tgfr.data.face_detection import Face
from tgfr.data.faces import read_image
from tgfr.data.landmarks import ARCFACE_TEMPLATE
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.encoder_config import EncoderConfig
from tgfr.encoders.features import ImageFeatures

FACES = [read_image(cell) for cell in synthetic_faces(people=3, photos=1)["image"]]
MEAN = np.stack([read_image(cell, size=16) for cell in synthetic_faces(people=20, photos=1, first=50)["image"]]).mean(0)


class Pixels:
    "An encoder without weights; people who look different are far apart."

    config = EncoderConfig("pixels", 16 * 16 * 3, None)

    def encode(self, crops, styles=()):
        return ImageFeatures(
            torch.from_numpy(
                np.stack([(cv2.resize(c, (16, 16), interpolation=cv2.INTER_AREA) - MEAN).ravel() / 255 for c in crops])
            ).float()
        )


class Scripted:
    "A detector that knows the clip, and that a picture of 112 px is a face."

    def __init__(self, script):
        self.script = iter(script)

    def detect(self, image):
        return (
            [Face(np.array([10.0, 10, 90, 90]), ARCFACE_TEMPLATE, 1.0)]
            if image.shape == (112, 112, 3)
            else next(self.script)
        )


def scene(k, places):
    "A picture with faces at {person: (x, y)}, and what a detector would say of it."
    picture, found = np.full((170, 300, 3), 100, np.uint8), []
    for person, (x, y) in places.items():
        picture[y : y + 80, x : x + 80] = cv2.resize(
            Degradation(size=20 + k % 3 * 30, noise=4)(FACES[person], k), (80, 80), interpolation=cv2.INTER_AREA
        )
        found.append(
            Face(np.array([x + 10.0, y + 10, 60, 65]), ARCFACE_TEMPLATE * 80 / 112 + (x, y), 0.7 + 0.01 * (k % 20))
        )
    return picture, found[::-1] if k % 2 else found


def write(path, pictures, codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, pictures[0].shape[1::-1])
    assert writer.isOpened()
    for picture in pictures:
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def picture_file(path, picture):
    cv2.imwrite(str(path), picture[..., ::-1])
    return path


def stills(folder, pictures):
    "A folder of pictures, given as (number, picture)."
    folder.mkdir()
    for number, picture in pictures:
        picture_file(folder / f"{number}.png", picture)
    return folder


def shots(count=40):
    return [Degradation(size=12 + 20 * (k % 5), noise=6)(FACES[0], k) for k in range(count)]

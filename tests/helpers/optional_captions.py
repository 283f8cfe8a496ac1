"""Models that can do without captions, their scores by hand, and photos of which some have no caption."""

import math

import datasets
import numpy as np
import torch

from tgfr.core import seed_everything
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.fusion.model import TGFR, ModelConfig, token_ids


def shaken(model):
    "The model with other weights, for an untrained one leaves faces as they are."
    seed_everything(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def evidence(captions, embedding=32, regions=(16, 14, 14), dim=16, fusion="evidence"):
    seed_everything(0)
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=dim, embedding=12)
    model = shaken(TGFR(ModelConfig(embedding, regions, dim, fusion), text))
    if fusion == "evidence":
        model.fusion.counter.learn([token_ids(text.tokenize(row)).reshape(1, -1) for row in captions if row])
        words = model.image_head.words
        words.learn([(torch.randn(40, len(words.mean)), torch.rand(40, words.weight.shape[1]))])
        model.fusion.weights.copy_(torch.tensor([0.04, 0.3, 0.05, 0.1, 0.2]))
        model.fusion.power.fill_(0.7)
    return model


def image_only_part(model):
    "The image-only head inside of a model with the fusion `evidence`, as a model of its own."
    config = model.config
    head = TGFR(ModelConfig(config.embedding, config.regions, config.dim, "residual", use_captions=False)).eval()
    head.image_head.load_state_dict(model.image_head.state_dict(), strict=False)
    head.fusion.load_state_dict(model.fusion.face.state_dict())
    return head


def score_by_hand(gallery, probe, fusion):
    "Cosine of the faces, then what captions say of the other side, entry by entry."
    g, p, face = np.asarray(gallery, float), np.asarray(probe, float), fusion.face.width
    grown = math.exp(fusion.growth.item() * (g[-1] + p[-1]))
    cross, words, *captions = fusion.weights.double().tolist()
    sentences, persons, tfidf = (weight * grown for weight in captions)
    parts = [(0, 1, cross), (1, 0, cross), (2, 2, sentences), (3, 3, persons)]
    told = 0.0
    for a, b, weight in parts:
        for k in range(fusion.terms):
            told += weight * g[face + a * fusion.terms + k] * p[face + b * fusion.terms + k]
    said, tokens = face + 4 * fusion.terms, fusion.widths[-1]
    for k in range(said, said + tokens):
        told += tfidf * g[k] * p[k] + words * (g[k] * p[k + tokens] + g[k + tokens] * p[k])
    cosine = g[:face] @ p[:face] / np.sqrt(g[:face] @ g[:face] * (p[:face] @ p[:face]))
    return cosine + told * np.exp(fusion.power.item() * (g[-2] + p[-2]))


def with_captions(faces: datasets.Dataset, captions: list[list[str]]) -> datasets.Dataset:
    "The same photos with other captions."
    columns = {name: faces[name][:] for name in faces.column_names} | {"captions": captions}
    return datasets.Dataset.from_dict(columns, features=faces.features)


def partly_captioned(people: int, photos: int) -> datasets.Dataset:
    "Synthetic faces of which every fourth has no caption, beginning with the second."
    faces = synthetic_faces(people=people, photos=photos)
    return with_captions(faces, [[] if i % 4 == 1 else row for i, row in enumerate(faces["captions"])])

"What a user may write against tgfr: checked by mypy and pyright in test_types, never run."

from pathlib import Path

import numpy as np
import torch

from tgfr.encoders.encoder_config import EncoderConfig, preprocess
from tgfr.encoders.features import ImageFeatures
from tgfr.encoders.pretrained_faces import load_encoder
from tgfr.evaluation.metrics import Metric, auc, eer, tpr_at_fpr
from tgfr.evaluation.results import Condition, Report, ResultRow
from tgfr.fusion.model import TGFR, Fused, ModelConfig
from tgfr.sets.pooling import FaceSet, SetFusion, build_set_fusion


def prepared(folder: Path, photos: np.ndarray) -> torch.Tensor:
    config: EncoderConfig = load_encoder(folder).config
    assert photos.shape[1:] == (config.size, config.size, 3)
    return preprocess(photos, config)


def templates(model: TGFR, photos: ImageFeatures, captions: list[str]) -> torch.Tensor:
    shape: ModelConfig = model.config
    fused: Fused = model(photos, model.encode_captions(captions))
    assert fused.embedding is not None and shape.use_captions
    return fused.embedding


def fuse(embedding: torch.Tensor) -> torch.Tensor:
    fusion: SetFusion = build_set_fusion("norm-squared", embedding.shape[-1])
    return fusion.fuse(FaceSet(embedding, torch.ones(embedding.shape[:2], dtype=torch.bool)))


def evaluate(genuine: np.ndarray, impostor: np.ndarray) -> dict[str, float]:
    rates: np.ndarray = tpr_at_fpr(genuine, impostor, fprs=[1e-3])
    return {"TPR": float(rates[0]), "EER": eer(genuine, impostor), "AUC": auc(genuine, impostor)}


def best(path: str) -> tuple[str, float]:
    report: Report = Report.from_json(path)
    metric: Metric = report.metrics[0]
    row: ResultRow = max(report.results, key=lambda row: row.values[metric])
    condition: Condition = row.condition
    return f"{row.system}, {condition.label}", row.values[metric]


model: TGFR = TGFR.load("model")
print(best("report.json"), evaluate(np.ones(3), np.zeros(3)), fuse(torch.ones(1, 2, 4)))

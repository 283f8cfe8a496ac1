"""Small training runs as a script: `small_run.py FOLDER EPOCHS CASES`, cases as JSON {name: [stage, changes of the
recipe]}; used for two processes and for kill and resume.

Features and people are made up; dropout is off, so that one process and two can be compared."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tgfr.core import rng, seed_everything
from tgfr.encoders.feature_store import FeatureStore
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.training.batches import FaceBatches
from tgfr.training.caption_evidence import EvidenceObjective, PairBatches
from tgfr.training.loop import build_accelerator, fit
from tgfr.training.objectives import AlignObjective, FuseObjective
from tgfr.training.recipes import build_recipe

WORDS = "she he has wavy black blond hair a beard big nose smiles wears glasses and is young old".split()


def made_up(photos=24, people=6, seed=0):
    "A stand-in for a feature store, identities and captions."
    draw = rng(seed, "small run")
    embedding = draw.normal(size=(2, photos, 16)).astype("f")
    regions = draw.normal(size=(2, photos, 8, 7, 7)).astype("f")
    store = FeatureStore(Path("made up"), embedding, regions, ["112px", "16px"], {"fingerprint": "made up"})
    captions = []
    for _ in range(photos):
        captions.append([" ".join(draw.choice(WORDS, draw.integers(1, 9))) for _ in range(draw.integers(1, 5))])
    return store, np.arange(photos) % people, captions


def objective_and_batches(stage, recipe):
    "What `fit` takes, the same in every process."
    store, identity, captions = made_up()
    seed_everything(0)
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=recipe.dim, embedding=12)
    fusion = {"fuse": recipe.fusion, "evidence": "evidence", "align": None}[stage]
    model = TGFR(ModelConfig(16, (8, 7, 7), recipe.dim, fusion), text)
    if stage == "evidence":
        objective = EvidenceObjective(model, 2, 6, recipe)
    else:
        objective = (FuseObjective if stage == "fuse" else AlignObjective)(model, 6, recipe)
    for module in objective.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    if stage == "evidence":
        faces, half = 0.1 * rng(0, "faces").normal(size=(2, 24, 8)).astype("f"), np.arange(24) % 6 // 3
        captions = [row if i % 5 else [] for i, row in enumerate(captions)]
        pairs = PairBatches(store, identity, captions, np.arange(24), text, (112, 16), 3, faces=faces, half=half)
        return objective, pairs
    return objective, FaceBatches(
        store, identity, captions, np.arange(24), text, recipe.captions_per_image if stage == "fuse" else 1
    )


def epochs_done(run) -> int:
    "Epochs that a run directory has finished."
    return json.loads((run / "run.json").read_text())["epoch"] if (run / "run.json").is_file() else 0


def same_end(folder):
    "The weights of the run that was killed and resumed are those of the whole one, to the bit."
    whole, killed = (load_file(folder / name / "1.safetensors") for name in ("whole", "killed"))
    for key, value in whole.items():
        assert torch.equal(killed[key], value), key


def small_run(folder, stage, epochs=1, changes=None):
    "A run whose weights end in a file named after the number of processes, which hold the same buffers at every step."
    torch.set_num_threads(1)  # as in processes of its own, to the bit
    recipe = build_recipe(
        "ours",
        **dict(dim=16, batch_align=12, batch_fuse=12, batch_evidence=12, captions_per_image=3)
        | dict(epochs_align=epochs, epochs_fuse=epochs, epochs_evidence=epochs)
        | (changes or {}),
    )
    accelerator, (objective, batches), buffers = build_accelerator(), objective_and_batches(stage, recipe), {}
    if not accelerator.is_main_process:
        for buffer in objective.buffers():
            buffer += 1  # those of the main process count
    objective.register_forward_hook(
        lambda module, *_: buffers.update({k: v.clone() for k, v in module.named_buffers()})
    )
    fit(objective, batches, recipe, stage, folder / "run", accelerator=accelerator)
    for name, value in buffers.items():
        for row in accelerator.gather(value[None]):
            assert torch.equal(row, value), name
    if accelerator.is_main_process:
        save_file(
            {k: v.contiguous() for k, v in objective.state_dict().items()},
            folder / f"{accelerator.num_processes}.safetensors",
        )


if __name__ == "__main__":
    for name, (stage, changes) in json.loads(sys.argv[3]).items():
        small_run(Path(sys.argv[1]) / name, stage, int(sys.argv[2]), changes)

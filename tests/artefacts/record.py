"""Ran once, at commit ed0ec0a, with the names of that time: wrote the files of `v0/`, which `test_artefacts.py` opens."""

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, "tests")
from small_run import made_up  # noqa: E402

from tgfr.cli import main
from tgfr.core import seed_everything
from tgfr.data.embed import embed_folder
from tgfr.data.faces import Degradation, read_image
from tgfr.data.features import FeatureStore, encode_faces
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.text import build_text_encoder
from tgfr.encoders.weights import load_encoder
from tgfr.evaluation.scoring import embed_photos
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.sets.pooling import face_set
from tgfr.sets.weights import load_set_fusion
from tgfr.training.batches import FaceBatches
from tgfr.training.loop import fit, make_accelerator
from tgfr.training.objectives import AlignObjective, FuseObjective
from tgfr.training.recipes import make_recipe

torch.set_num_threads(1)
v0, work = Path(sys.argv[1]), Path(sys.argv[2])
DATA = "synthetic:people=10,photos=3"
seed_everything(0)
save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32).eval(), v0 / "encoder")
E = ["--encoder", str(v0 / "encoder")]
TINY = ["--set", "dim=16", "epochs_encode=1", "epochs_align=1", "epochs_fuse=1", "batch_align=8", "batch_fuse=8"]


def small(stage, recipe):
    "An objective and its batches, as in tests/helpers/small_run.py but with the small image head."
    store, identity, captions = made_up()
    seed_everything(0)
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=recipe.dim, embedding=12)
    config = ModelConfig(16, (8, 7, 7), recipe.dim, recipe.fusion if stage == "fuse" else None, True, False)
    objective = (FuseObjective if stage == "fuse" else AlignObjective)(TGFR(config, text), 6, recipe)
    for module in objective.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    return objective, FaceBatches(
        store, identity, captions, np.arange(24), text, recipe.captions if stage == "fuse" else 1
    )


def keep(source, target, names):
    for pattern in names:
        for path in Path(source).glob(pattern):
            to = v0 / target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


main(
    [
        "demo",
        "--data",
        DATA,
        *E,
        "--out",
        f"{work}/demo",
        "--recipe",
        "demo",
        *TINY,
        "--replicates",
        "20",
        "--probe-size",
        "112",
        "16",
    ]
)
keep(work / "demo", "demo", ["report.json", "config.yaml", "model/**/*.*"])
main(["train", "demo", "--data", DATA, *E, "--out", f"{work}/train", *TINY, "--set", "fusion=fcfm", "residual=False"])
keep(
    work / "train", "train", ["config.yaml", "model/**/*.*", "runs/*/metrics.jsonl", "runs/*/run.json", "runs/*/*.yaml"]
)
main(["train", "demo", "--data", DATA, *E, "--out", f"{work}/image", *TINY, "--set", "residual=False", "--no-words"])
keep(work / "image", "image-only", ["config.yaml", "model/**/*.*"])
for task in ("verification", "retrieval"):
    main(
        [
            "evaluate",
            f"{work}/demo/model",
            "--data",
            DATA,
            *E,
            "--task",
            task,
            "--out",
            f"{work}/{task}",
            "--probe-size",
            "112",
            "16",
            "--replicates",
            "20",
            "--no-card",
        ]
    )
    keep(work / task, f"evaluate-{task}", ["report.json"])
main(
    [
        "evaluate",
        f"{work}/demo/model",
        "--data",
        DATA,
        *E,
        "--pairs",
        "3",
        "--against",
        f"{work}/image/model",
        "--out",
        f"{work}/pairs",
        "--probe-size",
        "112",
        "16",
        "--replicates",
        "20",
        "--no-card",
    ]
)
keep(work / "pairs", "evaluate-pairs", ["report.json", "pairs.txt"])
main(
    [
        "ablate",
        "--data",
        DATA,
        *E,
        "--out",
        f"{work}/ablate",
        "--recipe",
        "demo",
        "--variants",
        "no stage 1",
        *TINY,
        "--probe-size",
        "112",
        "16",
        "--replicates",
        "20",
    ]
)
keep(work / "ablate", "ablate", ["report.json"])
main(
    [
        "sets",
        "--data",
        DATA,
        *E,
        "--out",
        f"{work}/sets",
        "--fusions",
        "quality",
        "average",
        "caface",
        "--images",
        "1",
        "4",
        "--replicates",
        "20",
        "--set",
        "epochs_sets=1",
        "batch_sets=4",
    ]
)
keep(
    work / "sets",
    "sets",
    [
        "report.json",
        "config.yaml",
        "fusions/**/*.*",
        "quality/*.*",
        "caface/*.*",
        "*/config.json",
        "*/model.safetensors",
        "*/README.md",
    ],
)
faces = synthetic_faces(people=1, photos=8)
(work / "pictures").mkdir()
for k, row in enumerate(faces):
    (work / f"pictures/{k:02}.jpg").write_bytes(row["image"]["bytes"])
keep(work / "pictures", "pictures", ["*.jpg"])
embed_folder(v0 / "pictures", load_encoder(v0 / "encoder"), v0 / "store", styles=("stage2", "stage3"))
photos = synthetic_faces(people=3, photos=2)
encode_faces(photos, load_encoder(v0 / "encoder"), [Degradation(), Degradation(size=16)], v0 / "features")
main(["fuse", str(v0 / "pictures"), *E, "--out", f"{work}/fuse", "--fusion", "norm-squared"])
keep(work / "fuse", "fuse", ["fuse.json", "template.safetensors"])
main(["fuse", str(v0 / "pictures"), *E, "--out", f"{work}/caface", "--fusion", str(v0 / "sets/fusions/caface")])
keep(work / "caface", "fuse-caface", ["fuse.json", "template.safetensors", "state.safetensors"])
main(
    [
        "ijb",
        "--simulate",
        "IJBB",
        "--scale",
        "0.003",
        "--out",
        f"{work}/ijb",
        "--replicates",
        "10",
        "--fusion",
        "N1D1F0",
        "average",
    ]
)
keep(work / "ijb", "ijb", ["report.json", "points.csv"])
photos.to_parquet(work / "train-00000-of-00001.parquet")
main(["audit", str(work / "train-00000-of-00001.parquet"), "--out", str(v0 / "audit.json")])

# a run that was stopped after one epoch of two, and how it ends
recipe = make_recipe(
    "ours",
    dim=16,
    batch_align=12,
    batch_fuse=12,
    epochs_align=2,
    epochs_fuse=2,
    captions=3,
    residual=False,
    fusion="linear",
)
sums = {}
for stage in ("align", "fuse"):
    for folder, stop in ((work / f"whole-{stage}", None), (v0 / f"killed-{stage}", 1)):
        objective, batches = small(stage, recipe)
        fit(objective, batches, recipe, stage, folder, accelerator=make_accelerator(), stop_after=stop)
        if stop is None:
            ends = {f"end.{stage}.{k}": v.double() for k, v in objective.state_dict().items()}
            sums |= {k: torch.stack([v.sum(), v.abs().sum()]) for k, v in ends.items()}

expected = sums
store = FeatureStore.open(v0 / "features")
expected["features.embedding"] = torch.from_numpy(np.array(store.embedding, np.float32))
captions = photos["captions"][:]
for name in ("demo", "train", "image-only"):
    model = TGFR.load(v0 / name / "model")
    for mode, found in embed_photos(model, store, captions, progress=False).items():
        expected[f"{name}.{mode}"] = torch.as_tensor(np.array(found["fused"], np.float32)).contiguous()
crops = np.stack([read_image(v0 / f"pictures/{k:02}.jpg") for k in range(8)])
images = load_encoder(v0 / "encoder").encode(crops, styles=("stage2", "stage3"))
expected["encoder.embedding"] = images.embedding
for name in ("quality", "caface"):
    fusion = load_set_fusion(v0 / f"sets/fusions/{name}")
    with torch.inference_mode():
        template = fusion(face_set([images]))
    expected[f"set.{name}"] = template.contiguous()
save_file({k: v.detach().contiguous().clone() for k, v in expected.items()}, v0 / "expected.safetensors")

"""What earlier versions saved still opens and means the same: `v0/` was written by `record.py` at commit ed0ec0a."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_run import made_up

from tgfr.cli import main
from tgfr.core import read_json, seed_everything
from tgfr.data.faces import Degradation, read_image
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.feature_store import FeatureStore, encode_faces
from tgfr.encoders.pretrained_faces import load_encoder
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.evaluation.scoring import embed_photos
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.report.tables import results_table
from tgfr.sets.caface_state import load_state
from tgfr.sets.checkpoints import load_set_fusion
from tgfr.sets.pooling import face_set
from tgfr.training.batches import FaceBatches
from tgfr.training.loop import fit, make_accelerator
from tgfr.training.objectives import AlignObjective, FuseObjective
from tgfr.training.recipes import make_recipe, read_recipe

V0 = Path(__file__).parent / "v0"
DATA = "synthetic:people=10,photos=3"
ENCODER = ["--encoder", str(V0 / "encoder")]


@pytest.fixture(scope="module")
def expected():
    return load_file(V0 / "expected.safetensors")


def close(value, recorded):
    torch.testing.assert_close(torch.as_tensor(np.array(value)), recorded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["demo", "train", "image-only"])
def test_a_saved_model_embeds_as_before(name, expected):
    model = TGFR.load(V0 / name / "model")
    store = FeatureStore.open(V0 / "features")
    modes = embed_photos(model, store, synthetic_faces(people=3, photos=2)["captions"][:], progress=False)
    assert {f"{name}.{mode}" for mode in modes} == {key for key in expected if key.startswith(f"{name}.")}
    for mode, parts in modes.items():
        close(parts["fused"], expected[f"{name}.{mode}"])


def test_a_saved_encoder_encodes_as_before(expected):
    crops = np.stack([read_image(V0 / f"pictures/{k:02}.jpg") for k in range(8)])
    close(load_encoder(V0 / "encoder").encode(crops).embedding, expected["encoder.embedding"])


def test_a_feature_store_is_found_again_not_made_anew(tmp_path):
    shutil.copytree(V0 / "features", tmp_path / "features")
    encoder = load_encoder(V0 / "encoder")
    encoder.encode = None  # nothing is encoded
    photos = synthetic_faces(people=3, photos=2)
    store = encode_faces(photos, encoder, [Degradation(), Degradation(size=16)], tmp_path / "features")
    assert len(store) == 6
    assert len(FeatureStore.open(V0 / "store")) == 8


@pytest.mark.parametrize("name", ["quality", "caface"])
def test_a_saved_set_fusion_fuses_as_before(name, expected):
    images = load_encoder(V0 / "encoder").encode(
        np.stack([read_image(V0 / f"pictures/{k:02}.jpg") for k in range(8)]), styles=("stage2", "stage3")
    )
    with torch.inference_mode():
        close(load_set_fusion(V0 / "sets/fusions" / name)(face_set([images])), expected[f"set.{name}"])


def test_a_state_of_caface_is_gone_on_from(tmp_path):
    fusion = V0 / "sets/fusions/caface"
    assert load_state(V0 / "fuse-caface/state.safetensors", load_set_fusion(fusion)).ledger.frames.shape == (8,)
    state = ["--state", str(V0 / "fuse-caface/state.safetensors")]
    main(["fuse", str(V0 / "pictures"), *ENCODER, "--fusion", str(fusion), "--out", str(tmp_path), *state])
    kept, again = (load_file(folder / "template.safetensors") for folder in (V0 / "fuse-caface", tmp_path))
    for name, value in kept.items():
        close(again[name], value)


def small(stage, recipe):
    "An objective and its batches, as `record.py` made them."
    store, identity, captions = made_up()
    seed_everything(0)
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=recipe.dim, embedding=12)
    config = ModelConfig(16, (8, 7, 7), recipe.dim, recipe.fusion if stage == "fuse" else None, True, False)
    objective = (FuseObjective if stage == "fuse" else AlignObjective)(TGFR(config, text), 6, recipe)
    for module in objective.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
    captions_at_once = recipe.captions if stage == "fuse" else 1
    return objective, FaceBatches(store, identity, captions, np.arange(24), text, captions_at_once)


@pytest.mark.parametrize("stage", ["align", "fuse"])
def test_a_stopped_run_ends_as_it_would_have(stage, tmp_path, expected, one_thread):
    torch.set_num_threads(1)
    shutil.copytree(V0 / f"killed-{stage}", tmp_path / "run")
    changes = dict(dim=16, batch_align=12, batch_fuse=12, epochs_align=2, epochs_fuse=2, fusion="linear")
    recipe = make_recipe("ours", **changes, captions=3, residual=False)
    objective, batches = small(stage, recipe)
    rows = fit(objective, batches, recipe, stage, tmp_path / "run", accelerator=make_accelerator())
    first = json.loads((V0 / f"killed-{stage}/metrics.jsonl").read_text().splitlines()[0])
    assert len(rows) == 2 and rows[0] == first, "the first epoch is kept"
    prefix = f"end.{stage}."
    ends = {key.removeprefix(prefix): value for key, value in expected.items() if key.startswith(prefix)}
    weights = {key: value.double() for key, value in objective.state_dict().items()}
    assert ends and ends.keys() == weights.keys()
    for key, recorded in ends.items():
        sums = torch.stack([weights[key].sum(), weights[key].abs().sum()])
        torch.testing.assert_close(sums, recorded, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["demo", "train", "image-only"])
def test_recipes_of_runs_are_read(name):
    recipe = read_recipe(V0 / name / "config.yaml")
    assert (recipe.dim, recipe.batch_align, recipe.text) == (16, 8, "lstm")
    assert recipe.fusion == ("fcfm" if name == "train" else "residual")


REPORTS = sorted(path.parent.name for path in V0.glob("*/report.json"))


@pytest.mark.parametrize("name", REPORTS)
def test_reports_are_read(name):
    report = read_json(V0 / name / "report.json")
    keys, probes = results_table(report)
    assert keys and all(line.cells for lines in probes.values() for line in lines)


def test_an_old_model_is_evaluated_to_the_same_values(tmp_path):
    tail = ["--out", str(tmp_path), "--probe-size", "112", "16", "--replicates", "20", "--no-card"]
    main(["evaluate", str(V0 / "demo/model"), "--data", DATA, *ENCODER, *tail])
    before, after = (
        read_json(folder / "report.json")["results"] for folder in (V0 / "evaluate-verification", tmp_path)
    )
    assert [row["system"] for row in before] == [row["system"] for row in after]
    for old, new in zip(before, after):
        assert old["values"].keys() == new["values"].keys()
        for key, value in old["values"].items():
            assert new["values"][key] == pytest.approx(value, abs=0.02), (old["system"], key)

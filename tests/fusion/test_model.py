"""The saved model: a plug-in's fusion, with and without its plug-in, and the keys of older versions."""

import subprocess
import sys

import pytest
import torch
from small_run import made_up

from tgfr.core import TgfrError, load_plugin, read_json, seed_everything, write_json
from tgfr.encoders.features import ImageFeatures, l2_normalize
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.fusion.fcfm import list_fusions
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.training.batches import FaceBatches
from tgfr.training.loop import fit
from tgfr.training.objectives import FuseObjective
from tgfr.training.recipes import build_recipe

PLUGIN = """
import torch
from tgfr.fusion.fcfm import register_fusion


@register_fusion("gated")
class Gated(torch.nn.Module):
    needs_regions = False

    def __init__(self, dim, regions=None, use_captions=True):
        super().__init__()
        self.width, self.use_captions = dim, use_captions
        self.gate = torch.nn.Linear(dim, dim)

    def forward(self, image, text=None):
        gate = self.gate(image.embedding).sigmoid()
        return gate * image.embedding + (1 - gate) * text.sentence if self.use_captions else image.embedding
"""

LOAD = """
import sys
from tgfr.core import TgfrError, load_plugins
from tgfr.fusion.model import TGFR

load_plugins(sys.argv[2:])
try:
    print("loaded", TGFR.load(sys.argv[1]).fusion.width)
except TgfrError as e:
    print(e)
"""


@pytest.fixture
def plugin(tmp_path, own_registrations):
    "The file of a fusion that is not part of tgfr, loaded for one test."
    path = tmp_path / "my_fusion.py"
    path.write_text(PLUGIN)
    load_plugin(path)
    return path


def load(*arguments) -> str:
    "What a new process says."
    command = [sys.executable, "-c", LOAD, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_plugins_fusion_trains_saves_and_loads_in_a_new_process(tmp_path, plugin):
    assert list_fusions()[-1] == "gated"
    recipe = build_recipe("ours", dim=16, fusion="gated", batch_fuse=12, epochs_fuse=1)
    store, identity, captions = made_up()
    seed_everything(0)
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=16, embedding=12)
    objective = FuseObjective(TGFR(ModelConfig(16, (8, 7, 7), 16, "gated"), text), 6, recipe)
    before = objective.model.fusion.gate.weight.detach().clone()
    fit(objective, FaceBatches(store, identity, captions, range(24), text), recipe, "fuse", tmp_path / "run")
    assert not torch.equal(objective.model.fusion.gate.weight, before)
    objective.model.save(tmp_path / "model")
    assert read_json(tmp_path / "model/config.json")["plugin"] == "my_fusion.py"
    assert "my_fusion.py" in (tmp_path / "model/README.md").read_text()
    assert load(tmp_path / "model", plugin) == "loaded 16\n"
    told = load(tmp_path / "model")
    assert "the fusion 'gated' comes from the plug-in 'my_fusion.py', which is not loaded; load it first" in told


def test_a_recipe_with_an_unknown_fusion_names_the_plugin_option():
    with pytest.raises(TgfrError, match="fusion='gated': not one of concat.*--plugin"):
        build_recipe("ours", fusion="gated")


def test_a_model_of_an_earlier_version_loads(tmp_path):
    model = TGFR(ModelConfig(8, (16, 4, 4), 8, "concat", use_captions=False)).eval()
    model.save(tmp_path)
    config = read_json(tmp_path / "config.json")
    assert "plugin" not in config
    config["words"], config["residual"] = config.pop("use_captions"), config.pop("residual_head")
    write_json(tmp_path / "config.json", config)
    again = TGFR.load(tmp_path)
    assert again.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("fusion", ["residual", "evidence"])
def test_the_frozen_face_is_weighed_in_a_saved_model_and_left_out_of_an_older_one(tmp_path, fusion):
    "Its part is the unit embedding in the shared space, faded by its cosine with the corrected face."
    seed_everything(0)
    captions = ["a man", "a woman", "old", "young"]
    text = build_text_encoder("lstm", captions, dim=16, embedding=12)
    model = TGFR(ModelConfig(32, (8, 7, 7), 16, fusion), text).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    photos = ImageFeatures(torch.randn(4, 32), torch.randn(4, 8, 7, 7))

    def embed(model):
        with torch.no_grad():
            return model(photos, text.tokenize(captions), torch.ones(4, dtype=torch.long)).embedding

    plain = embed(model)
    model.weigh_frozen(1.5, 3.0)
    weighed = embed(model)
    frozen = l2_normalize(photos.embedding @ model.image_head.carrier.T)
    left = (plain[:, :16] * frozen).sum(-1, keepdim=True).clamp_min(0) ** 3
    torch.testing.assert_close(weighed[:, 32:48], 1.5 * left * frozen)
    torch.testing.assert_close(torch.cat([weighed[:, :32], weighed[:, 48:]], -1), plain)
    model.save(tmp_path)
    again = TGFR.load(tmp_path)
    assert again.fusion.width == weighed.shape[1]
    torch.testing.assert_close(embed(again), weighed)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {k: v for k, v in config.items() if not k.startswith("frozen_")})
    torch.testing.assert_close(embed(TGFR.load(tmp_path)), plain)


@pytest.mark.parametrize("changes", [{"fusion": "fcfm"}, {"residual_head": False}, {"fusion": None}])
def test_a_weight_of_the_frozen_face_needs_the_residual_form(changes):
    with pytest.raises(TgfrError, match="frozen_weight=1.5: expected 0, or more in the residual form"):
        ModelConfig(**{"embedding": 32, "regions": (8, 7, 7), "frozen_weight": 1.5} | changes)

"""Objectives: losses of one's own from a plug-in, and the matching losses of the chapter are those that train."""

import pytest
import torch
from small_run import objective_and_batches

from tgfr.core import TgfrError, load_plugin
from tgfr.losses.contrastive import global_loss, list_losses, same_id_mask, sentence_loss, word_region_loss
from tgfr.training.loop import fit
from tgfr.training.objectives import _caption_key
from tgfr.training.recipes import build_recipe

PLUGIN = """
import torch
from tgfr.losses.contrastive import register_loss


@register_loss("spread-out")
def spread_out(out, batch):
    return (out.image.embedding @ out.image.embedding.T).square().mean()


@register_loss("centres")
class Centres(torch.nn.Module):
    def __init__(self, dim, classes):
        super().__init__()
        self.centre = torch.nn.Parameter(torch.randn(classes, dim))

    def forward(self, out, batch):
        return (out.image.embedding - self.centre[batch.label]).square().mean()
"""


@pytest.fixture
def plugin(tmp_path, own_registrations):
    "A file with two losses, loaded for one test."
    path = tmp_path / "my_losses.py"
    path.write_text(PLUGIN)
    load_plugin(path)
    return path


@pytest.mark.parametrize("stage", ["align", "fuse"])
def test_losses_of_a_plugin_train(tmp_path, plugin, stage):
    assert {"spread-out", "centres"} <= set(list_losses())
    small = dict(dim=16, batch_align=12, batch_fuse=12, epochs_align=2, epochs_fuse=2)
    weights = []
    for extra in ("", "spread-out:0.5,centres"):
        recipe = build_recipe("ours", extra_losses=extra, **small)
        objective, batches = objective_and_batches(stage, recipe)
        start = {k: v.clone() for k, v in objective.state_dict().items()}
        *_, row = fit(objective, batches, recipe, stage, tmp_path / (extra or "none"))
        weights.append(objective.model.image_head.correction[-1].weight.detach())
    assert not torch.equal(*weights)
    assert row["extra_spread-out"] > 0 and row["extra_centres"] > 0
    name = "extra.modules_by_name.centres.centre"
    assert not torch.equal(objective.state_dict()[name], start[name])


@pytest.mark.parametrize(
    ("extra", "said"),
    [("nosuch", "loss 'nosuch': not one of"), ("nosuch:a", "'a' is no weight"), ("x:nan", "no weight")],
)
def test_wrong_extra_losses_are_named(extra, said):
    with pytest.raises(TgfrError, match=said):
        build_recipe("ours", extra_losses=extra)


@pytest.mark.parametrize("scales", [(10.0, 10.0, 10.0), (3.0, 5.0, 7.0)])
def test_what_is_taught_is_what_trains(scales):
    "The objective's losses are those of the chapter, to the bit."
    names = ("word", "sentence", "global")
    recipe = build_recipe("ours", dim=16, **{f"logit_scale_{name}": s for name, s in zip(names, scales)})
    objective, batches = objective_and_batches("align", recipe)
    batch = next(batches.epoch("align", 0, 12))
    losses = objective.eval()(batch)
    out = objective.model(batch.photos, batch.tokens, batch.counts)
    face, text = out.image.embedding, out.text
    same_caption = same_id_mask(_caption_key(batch.tokens))
    gammas = (4.0, 5.0, scales[0])
    taught = {
        "word": word_region_loss(out.image.regions, text.words, text.mask, same_caption, gammas=gammas),
        "sentence": sentence_loss(face, text.sentence, batch.label, scales[1], same_caption),
        "global": global_loss(face, text.sentence, scales[2], same_caption),
    }
    for name, value in taught.items():
        assert torch.equal(losses[name], value) and value.isfinite(), name

"""Which variants of an ablation continue whose training."""

from dataclasses import replace

from tgfr.training.recipes import build_recipe
from tgfr.workflows import ablate


def test_a_variant_of_evidence_shares_the_image_only_head_it_would_have_trained():
    ours = build_recipe("ours")
    recipes = {"ours": ours} | {name: replace(ours, **changes) for name, changes in ablate.ABLATIONS.items()}
    recipes["longer"] = replace(ours, fusion="evidence", epochs_fuse=9)
    recipes["longer, alone"] = replace(recipes["longer"], cross_fit=False)
    recipes["linear, longer"] = replace(ours, fusion="linear", epochs_fuse=9)
    start = {name: ablate._shared_start(recipe, recipes) for name, recipe in recipes.items()}
    assert start["evidence"] == start["no cross-fitting"] == start["evidence from one caption"] == "ours"
    assert start["longer"] == start["longer, alone"] == "longer"  # its image-only head has another epoch
    assert start["linear"] == start["linear, longer"] == "ours"  # stage 1 is the same
    assert start["no word loss"] == "no word loss"

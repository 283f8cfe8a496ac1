"""Recipes: names of fields today and before, what an old config.yaml and an old run mean."""

import subprocess
import sys
from pathlib import Path

import pytest

from tgfr.core import TgfrError
from tgfr.training.loop import stage_recipe
from tgfr.training.recipes import (
    ADDED_FIELDS,
    RECIPES,
    RENAMED_FIELDS,
    Recipe,
    build_recipe,
    paper_lstm,
    parse_settings,
    read_recipe,
    recipe_text,
    resolve_recipe,
    write_recipe,
)
from tgfr.training.set_fusion import SetRecipe, quick_sets

OLD = """text: lstm
text_spread: 0.1
residual: false
sizes: [112, 16]
captions: 2
lambda_keep: 3.0
"""  # as a version before the renaming wrote it; temperatures were no fields


def test_an_old_config_means_what_it_meant(tmp_path):
    (tmp_path / "config.yaml").write_text(OLD)
    recipe = read_recipe(tmp_path / "config.yaml")
    assert recipe == Recipe(
        text_init_range=0.1,
        residual_head=False,
        train_resolutions=(112, 16),
        captions_per_image=2,
        lambda_clean_consistency=3.0,
    )
    assert (recipe.logit_scale_word, recipe.logit_scale_sentence, recipe.logit_scale_global) == (10, 10, 10)
    write_recipe(tmp_path / "new.yaml", recipe)
    assert not set(RENAMED_FIELDS["Recipe"]) & {line.split(":")[0] for line in Path(tmp_path / "new.yaml").open()}
    assert read_recipe(tmp_path / "new.yaml") == recipe


def test_the_text_of_a_recipe_is_that_of_the_first_version():
    assert recipe_text(Recipe(captions_per_image=2)).startswith(
        "Recipe(text='lstm', text_length=40, text_pooling='mean', "
    )
    text = recipe_text(paper_lstm())
    assert all(f" {old}=" in text for old in RENAMED_FIELDS["Recipe"])
    assert not any(name in text for name in (*ADDED_FIELDS, *RENAMED_FIELDS["Recipe"].values()))
    assert "logit_scale_word=9.0" in recipe_text(Recipe(logit_scale_word=9.0))


def test_old_names_are_settings_too(capsys):
    assert parse_settings(["captions=2", "residual=False"]) == {"captions_per_image": 2, "residual_head": False}
    told = capsys.readouterr()
    assert "--set captions: this field is now called captions_per_image" in told.out + told.err
    assert build_recipe("ours", captions=2) == build_recipe("ours", captions_per_image=2)
    with pytest.raises(TgfrError, match="captions_per_image: given twice"):
        parse_settings(["captions=2", "captions_per_image=3"])
    with pytest.raises(TgfrError, match="captions and captions_per_image are the same"):
        build_recipe("ours", captions_per_image=2, captions=2)


def test_resolve_recipe_takes_a_name_a_file_or_a_value(tmp_path):
    for name in RECIPES:
        text = "some/model" if name.endswith("-transformer") else None
        recipe = resolve_recipe(name, ["dim=64"], text=text, seed=3)
        assert (recipe.dim, recipe.seed) == (64, 3)
        write_recipe(tmp_path / "config.yaml", recipe)
        assert resolve_recipe(tmp_path / "config.yaml") == resolve_recipe(recipe) == recipe
    assert resolve_recipe(quick_sets(), ["batch_sets=8"], seed=1) == quick_sets(batch_sets=8, seed=1)


def test_a_stage_is_named():
    stage = stage_recipe(Recipe(epochs_fuse=3, batch_fuse=8), "fuse")
    assert (stage.epochs, stage.batch, set(stage.rates)) == (3, 8, {"heads", "text", "margin", "evidence"})
    assert stage_recipe(SetRecipe(), "sets").rates == {"heads": 1e-3}
    with pytest.raises(TgfrError, match="stage 'sets': Recipe has encode, align, fuse, evidence"):
        stage_recipe(Recipe(), "sets")


def test_recipes_need_nothing_but_their_module():
    "A new process that imports nothing else knows every recipe's fusion."
    code = "from tgfr.training.recipes import build_recipe; print(build_recipe('evidence').fusion)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "evidence\n"

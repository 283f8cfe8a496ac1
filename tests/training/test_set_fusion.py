"""Training of set fusions: losses and gradients as recorded, honest sampling, two processes equal one, a killed run
resumes to the same end."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import kill_when, needs_kill, python, run_two
from safetensors.torch import load_file, save_file
from small_run import epochs_done, same_end

from tgfr.core import TgfrError, rng, seed_everything
from tgfr.encoders.features import ImageFeatures, l2_normalize
from tgfr.encoders.record_features import RecordFeatures
from tgfr.formats.records import Record, write_records
from tgfr.sets.caface import CAFace
from tgfr.sets.pooling import FaceSet, ScalarQuality
from tgfr.sets.set_features import identity_centres
from tgfr.training.loop import build_accelerator, fit, learning_rate
from tgfr.training.set_fusion import (
    SetObjective,
    SetPairBatch,
    SetPairBatches,
    SetRecipe,
    cosine_loss,
    draw_groups,
    group_templates,
    quick_sets,
    train_set_fusion,
)

HERE = Path(__file__).parent


@pytest.mark.golden("caface_cossim")
def test_golden_cosine_loss(golden):
    for detach in (0, 1):
        for mean in (0, 1):
            x, y = golden.i["x"].clone().requires_grad_(), golden.i["y"].clone().requires_grad_()
            loss = cosine_loss(x, y.detach() if detach else y)
            if mean:
                loss = loss.mean()
            case = f"d{detach}a{mean}"
            golden.check(f"loss.{case}", loss)
            golden.check(f"cossim.{case}", 1 - loss)
            loss.sum().backward()
            golden.check(f"gx.{case}", x.grad)
            if f"gy.{case}" in golden.o:
                golden.check(f"gy.{case}", y.grad)


@pytest.mark.golden("caface_loss_*")
def test_golden_losses(golden):
    model, train = golden.caface(), golden.path.stem.endswith("train")
    model.train(train)
    for block in model.cn.blocks:
        block.drop = 0
    embedding, styles = model.config["embedding"], model.config["styles"]
    rows = torch.cat([golden.i["images"], golden.i["extra"]], 1).requires_grad_()

    def group(x):
        return FaceSet(
            x[..., :embedding], torch.ones(x.shape[:2], dtype=torch.bool), x[..., embedding:].unflatten(-1, (styles, 2))
        )

    batch = SetPairBatch(*(group(x) for x in rows.chunk(2, 1)), golden.i["labels"])
    recipe = SetRecipe(
        lambda_centre=golden.meta["lambdas"][0], lambda_memory=golden.meta["lambdas"][1], memory_by_batch=True
    )
    losses = SetObjective(model, golden.i["center"], recipe)(batch)
    golden.check("cos_loss", losses["centre"])
    golden.check("mem_loss", losses["memory"])
    golden.check("loss", sum(losses.values()))
    if train:
        ours = {"norm_emb.norm_bn": model.norm.norm_bn, "style_maker.bn": model.sim.bn}
        for name in (k for k in golden.o if k.startswith("bn_after.")):
            layer, _, what = name.removeprefix("bn_after.").rpartition(".")
            golden.check(name, getattr(ours[layer], what))
    templates = group_templates(model, batch.first, batch.second)
    for g, group_of in enumerate(templates.prefixes, 1):
        for k, template in enumerate(group_of):
            golden.check(f"agg{g}.{k}", template)
    golden.check("single_aggregated", templates.single)
    golden.check("memory_aggregated", templates.memory)
    if train:
        return gradients(golden, model, losses, rows)
    # in evaluation the original cuts the first group's state off from the gradient of the sequence
    first, second = model.compress(batch.first), model.compress(batch.second)
    state = model.cluster(first)[1]
    constant = state.map(torch.Tensor.detach)
    memory = model.readout(constant + model.cluster(second)[1]).embedding
    centre = golden.i["center"][batch.label]
    terms = [torch.stack([cosine_loss(x, centre) for x in group]).mean() for group in templates.prefixes]
    terms += [cosine_loss(x, centre).mean() for x in (templates.single, memory)]
    losses = {"centre": sum(terms) / 4, "memory": cosine_loss(memory, templates.single).mean() / len(centre)}
    gradients(golden, model, losses, rows)


def gradients(golden, model, losses, rows):
    "Gradients of inputs and parameters, by the published names."
    from tgfr.sets.checkpoints import PUBLISHED_MODULES

    sum(losses.values()).backward()
    for name, value in zip(
        ("grad_images", "grad_extra"),
        torch.split(rows.grad, [golden.i["images"].shape[1], golden.i["extra"].shape[1]], 1),
    ):
        np.testing.assert_allclose(
            value, golden.o[name], rtol=1e-3, atol=1e-4 * golden.o[name].abs().max(), err_msg=name
        )
    recorded, seen = load_file(golden.path), 0
    for name in (k for k in recorded if k.startswith(("gparam.", "gsample.", "gnorm."))):
        kind, _, key = name.partition(".")
        start = next(p for p in PUBLISHED_MODULES if key.startswith(p))
        found = model.get_parameter(PUBLISHED_MODULES[start] + key.removeprefix(start)).grad
        if kind == "gsample":
            found = found.flatten()[:: max(1, found.numel() // 1024)][: len(recorded[name])]
        expected, largest = recorded[name].double(), recorded["gnorm." + key].double()
        np.testing.assert_allclose(
            (found.norm() if kind == "gnorm" else found).double().reshape(expected.shape),
            expected,
            rtol=1e-3,
            atol=float(1e-4 * largest + 1e-7),
            err_msg=name,
        )
        seen += 1
    assert seen > 60


def made_up(people=8, photos=3, variants=5, E=16, S=6):
    "A stand-in for a feature store, identities, people and centres."
    draw, n = rng(0, "set training"), people * photos
    embedding, styles = (
        torch.from_numpy(draw.normal(size=shape)).float() for shape in ((variants, n, E), (variants, n, S, 2))
    )
    store = SimpleNamespace(
        variants=[f"augmentation {k}" for k in range(variants)],
        meta={"fingerprint": "made up"},
        embedding=embedding,
        batch=lambda v, r: ImageFeatures(embedding[v, r], styles=styles[v, r]),
    )
    identity = draw.permutation(np.arange(n) % people) * 3
    return store, identity, np.arange(people) * 3, l2_normalize(torch.from_numpy(draw.normal(size=(people, E))).float())


RECIPE = quick_sets(images=8, epochs_sets=1, batch_sets=8, lr_heads=1e-2)


def small_model():
    model = CAFace(16, 6, style_width=8, norm_width=8, heads=4, drop=0.0)
    torch.nn.init.normal_(model.sim.cfc)  # at zero, as they start, the styles say nothing in the first step
    return model


def test_groups_are_of_their_person_and_of_few_photos():
    store, identity, people, _ = made_up()
    of = {tuple(row.tolist()): (v, r) for v, rows in enumerate(store.embedding) for r, row in enumerate(rows)}
    batches = SetPairBatches(store, identity, people, images=32)
    for batch in batches.epoch("sets", 1, 8):
        for group in (batch.first, batch.second):
            assert group.mask.shape == (8, 16) and group.mask.all()
            for person, images in zip(batch.label, group.embedding):
                rows = [of[tuple(image.tolist())][1] for image in images]
                assert {identity[r] for r in rows} == {people[person]} and len(set(rows)) <= 3
                assert sum(a != b for a, b in zip(rows, rows[1:])) <= 2  # runs, not a shuffle


def test_an_epoch_brings_each_person_once_for_each_photo():
    store, identity, people, _ = made_up()
    batches = SetPairBatches(store, identity, people, images=8)
    labels = [torch.cat([b.label for b in batches.epoch("sets", epoch, 8)]) for epoch in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])
    assert torch.bincount(labels[0]).tolist() == [3] * 8


@pytest.mark.parametrize("images", [4, 6, 16, 40])
def test_cuts_fall_anywhere_and_draws_are_even(images):
    which, variant = draw_groups(np.full(3000, 10**9), images, np.full(7, 1 / 7), rng(0))
    cuts = (np.diff(which, axis=2) != 0).reshape(-1, images - 1)
    most = max(images // 4, 3) - 1
    assert sorted(np.unique(cuts.sum(1))) == list(range(min(most, images - 1)))
    places = cuts[:, : images - 2].mean(0)
    assert places.min() > 0.7 * places.mean() and not cuts[:, images - 2].any()  # the published cuts lie in 1 .. n-2
    assert np.bincount(variant.ravel()).min() > 0.9 * variant.size / 7


def test_wrong_use():
    store, identity, people, centres = made_up()
    for call, reason in (
        (lambda: SetPairBatches(store, identity, people, images=7), "even number"),
        (lambda: SetPairBatches(store, identity, people[:-1]), "no centre"),
        (lambda: SetPairBatches(SimpleNamespace(variants=["112px"]), identity, people), "no stored augmentation"),
        (lambda: SetRecipe(schedule="up"), "not one of steps"),
        (lambda: SetRecipe(lr_heads=float("nan")), "lr_heads=nan: expected a finite number above 0"),
        (lambda: SetRecipe(epochs_sets=0), "epochs_sets=0: expected an integer of at least 1"),
        (lambda: next(SetPairBatches(store, identity, people).epoch("sets", 0, 9, 0, 2)), "does not divide"),
        (lambda: train_set_fusion("norm", store, identity, people, centres, RECIPE, "nowhere"), "nothing to learn"),
    ):
        with pytest.raises(TgfrError, match=reason):
            call()


def test_centres_are_means_of_directions_over_photos_and_mirror_images():
    draw = rng(0, "centres")
    embedding = draw.normal(size=(3, 10, 4)).astype(np.float16)

    class Store(SimpleNamespace):
        def __len__(self):
            return 10

    store, identity = (
        Store(embedding=embedding, variants=["112px", "augmentation 0", "mirrored"], folder="x"),
        np.array([7, 2] * 5),
    )
    people, centres = identity_centres(store, identity, block=3)
    assert people.tolist() == [2, 7]
    for person, centre in zip(people, centres):
        images = torch.from_numpy(embedding[[0, 2]][:, identity == person].reshape(-1, 4).astype("f"))
        torch.testing.assert_close(centre, l2_normalize(l2_normalize(images).mean(0)))
    with pytest.raises(TgfrError, match="no variant"):
        identity_centres(store, identity, ("112px", "turned"))


def test_steps_schedule_is_the_published_one():
    recipe = SetRecipe()
    rates = [learning_rate(recipe, "sets", "heads", epoch, 10) for epoch in (0, 5.99, 6, 8.9, 9, 9.9)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_scalar_quality_trains_by_the_same_objective():
    store, identity, people, centres = made_up()
    model = ScalarQuality(16)
    batch = next(SetPairBatches(store, identity, people, images=8).epoch("sets", 0, 8))
    losses = SetObjective(model, centres, RECIPE)(batch)
    assert set(losses) == {"centre"}
    losses["centre"].backward()
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name != "network.2.bias")


def test_training_from_record_files_is_training_from_the_store(tmp_path):
    store, identity, people, centres = made_up()
    rows = (
        torch.cat([store.embedding, store.batch(np.arange(5)[:, None], np.arange(24)[None]).styles.flatten(2)], 2)
        .transpose(0, 1)
        .numpy()
    )
    write_records(
        tmp_path / "train.rec",
        [Record(np.array([identity[k]], "f"), k, 0, row.astype("<f4").tobytes()) for k, row in enumerate(rows)],
    )
    records = RecordFeatures(tmp_path / "train.rec", 16, 6, "float32")
    assert records.identity.tolist() == identity.tolist()
    weights = []
    for source in (store, records):
        seed_everything(0)
        weights.append(
            train_set_fusion(
                small_model(), source, records.identity, people, centres, RECIPE, tmp_path / type(source).__name__
            ).state_dict()
        )
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key])


def small_run(folder, epochs=1, accelerator=None):
    "A run whose weights end in a file named after the number of processes."
    torch.set_num_threads(1)
    seed_everything(0)
    store, identity, people, centres = made_up()
    accelerator = accelerator or build_accelerator(cpu=True)
    run = folder / f"run{accelerator.num_processes}"
    model = train_set_fusion(
        small_model(),
        store,
        identity,
        people,
        centres,
        replace(RECIPE, epochs_sets=epochs),
        run,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        save_file(model.state_dict(), folder / f"{accelerator.num_processes}.safetensors")


def test_two_processes_equal_one(tmp_path):
    small_run(tmp_path)
    run_two(__file__, tmp_path, 1)
    one, two = (
        load_file(tmp_path / f"{n}.safetensors") for n in (1, 2)
    )  # the second file exists only if two processes ran
    seed_everything(0)
    before = small_model().state_dict()
    unseen = {
        "agn.2.fc2.bias",
        "cn.norm_tokens.bias",
        "cn.q_proj.bias",
        "sim.linear.bias",
        "sim.bn.running_mean",
    }  # a softmax or a batch norm undoes them: Adam would compare rounding
    for key in (k for k in one if k not in unseen and one[k].is_floating_point()):
        moved, differs = (one[key] - before[key]).norm(), (one[key] - two[key]).norm()
        assert moved > 0 and differs < 0.02 * moved, f"{key}: moved {moved:.1e}, differs {differs:.1e}"


@needs_kill
def test_a_killed_run_resumes_to_the_same_end(tmp_path):
    small_run(tmp_path / "whole", 3)
    kill_when(lambda: epochs_done(tmp_path / "killed/run1") >= 1, python(__file__, tmp_path / "killed", 3))
    small_run(tmp_path / "killed", 3)
    same_end(tmp_path)
    with pytest.raises(TgfrError, match="another recipe"):
        store, identity, people, centres = made_up()
        fit(
            SetObjective(small_model(), centres, RECIPE),
            SetPairBatches(store, identity, people, images=8),
            RECIPE,
            "sets",
            tmp_path / "whole/run1",
        )


if __name__ == "__main__":
    small_run(Path(sys.argv[1]), int(sys.argv[2]), build_accelerator())

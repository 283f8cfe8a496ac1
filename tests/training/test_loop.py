"""Training: every tensor learns, two processes equal one, a killed run resumes to the same end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from accelerate.utils import AutocastKwargs
from processes import kill_when, killed_at, limited, needs_kill, python, run_two
from safetensors.torch import load_file
from small_run import epochs_done, made_up, objective_and_batches, same_end, small_run

from tgfr.core import TgfrError, rng
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.training import objectives
from tgfr.training.batches import CaptionTable, FaceBatches
from tgfr.training.face_encoder import PhotoBatches
from tgfr.training.loop import build_accelerator, fit, learning_rate
from tgfr.training.objectives import AlignObjective, SyncBatchNorm, clean_consistency_loss
from tgfr.training.recipes import RECIPES, build_recipe

HERE = Path(__file__).parent
SMALL = build_recipe("ours", dim=16, batch_align=12, batch_fuse=12, epochs_align=1, epochs_fuse=1, captions_per_image=3)


EVERY = {f"lambda_{name}": 0.5 for name in ("clip", "soft_clip", "cmpm", "cmpc")} | {
    "focal": 2.0,
    "identity": "adaface",
}
CASES = {
    "align": ("align", {}),
    "align with every loss": ("align", EVERY),
    "align without word loss": ("align", {"lambda_word": 0.0}),
    "residual": ("fuse", {}),
    "linear": ("fuse", {"fusion": "linear"}),
    "concat": ("fuse", {"fusion": "concat"}),
    "evidence": ("evidence", {}),
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    "Where two processes have run all cases."
    folder = tmp_path_factory.mktemp("two")
    run_two(HERE.parent / "helpers/small_run.py", folder, 1, json.dumps(CASES))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(tmp_path, two_processes, case):
    stage, changes = CASES[case]
    small_run(tmp_path, stage, changes=changes)
    one, two = (
        load_file(tmp_path / "1.safetensors"),
        load_file(two_processes / case / "2.safetensors"),
    )  # the second file exists only if two processes ran
    start = objective_and_batches(stage, replace(SMALL, **changes))[0].state_dict()
    assert any((one[k] - start[k]).abs().max() > 1e-4 for k in one if one[k].is_floating_point())
    for key in one:
        if key.endswith("attention.query.bias"):
            continue  # a softmax over queries does not see it: Adam would compare rounding errors
        close = (
            dict(rtol=1e-6, atol=0) if key in ("image_id.mean", "image_id.std") else dict(rtol=1e-3, atol=2e-5)
        )  # running statistics of all processes
        torch.testing.assert_close(two[key], one[key], **close, msg=lambda m, key=key: f"{key}: {m}")


@needs_kill
def test_killed_run_resumes_to_the_same_end(tmp_path):
    small_run(tmp_path / "whole", "fuse", 6)
    for wanted in (1, 3):
        kill_when(
            lambda wanted=wanted: epochs_done(tmp_path / "killed/run") >= wanted,
            python(HERE.parent / "helpers/small_run.py", tmp_path, 6, '{"killed": ["fuse", {}]}'),
        )
    small_run(tmp_path / "killed", "fuse", 6)
    same_end(tmp_path)
    rows = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (tmp_path / name / "run/metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 6


def test_another_recipe_is_refused(tmp_path):
    objective, batches = objective_and_batches("fuse", SMALL)
    fit(objective, batches, SMALL, "fuse", tmp_path)
    with pytest.raises(TgfrError, match="another recipe"):
        fit(*objective_and_batches("fuse", SMALL), replace(SMALL, lambda_clean_consistency=1.0), "fuse", tmp_path)


def trained(folder, epochs=3, **how):
    "A run that is the same in each call; three epochs, of which the last is the best."
    recipe = replace(SMALL, epochs_fuse=3)
    objective, batches = objective_and_batches("fuse", recipe)
    fit(objective, batches, recipe, "fuse", folder, stop_after=epochs, **how)
    return {k: v.clone() for k, v in objective.model.state_dict().items()}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


DAMAGE = {  # how, and the file that is named
    **{
        f"{name} flipped": (
            lambda run, name=name: flip(run / "state-2" / name),
            f"state-2: {name} missing or not what was written",
        )
        for name in ("model.safetensors", "optimizer.bin", "random_states_0.pkl")
    },
    "state gone": (lambda run: shutil.rmtree(run / "state-2"), "state-2: is not there"),
    "optimizer gone": (lambda run: (run / "state-2/optimizer.bin").unlink(), "state-2: optimizer.bin missing"),
    "state of an earlier version cut": (
        lambda run: ((run / "state-2/checksums.json").unlink(), (run / "state-2/optimizer.bin").write_bytes(b"PK")),
        "state-2: cannot be loaded",
    ),
    **{
        f"run.json {text[:12]}": (lambda run, text=text: (run / "run.json").write_text(text), "run.json: ")
        for text in (
            "null",
            "[]",
            "{}",
            "",
            '{"mark": 1',
            '{"mark": "x", "epoch": 2, "metrics": [1, 2]}',
            '{"mark": "x", "epoch": 2, "metrics": []}',
            '{"mark": "x", "epoch": [], "metrics": [{"epoch": 1}]}',
        )
    },
    "a number in run.json": (
        lambda run: (run / "run.json").write_text(
            (run / "run.json").read_text().replace('"id_fused": 1', '"id_fused": 2', 1)
        ),
        "run.json: damaged",
    ),
}


@pytest.fixture(scope="module")
def two_of_three(tmp_path_factory):
    "A run that stopped after its second epoch."
    trained(folder := tmp_path_factory.mktemp("two of three") / "run", 2)
    return folder


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_run_is_one_sentence_with_what_to_do(tmp_path, two_of_three, how):
    shutil.copytree(two_of_three, run := tmp_path / "run")
    spoil, said = DAMAGE[how]
    spoil(run)
    for _ in range(2):
        with pytest.raises(TgfrError, match=said) as found:
            trained(run)
        assert "\n" not in str(found.value) and ("to train" in str(found.value) or "not valid JSON" in str(found.value))


@pytest.mark.parametrize("how", ["flipped", "gone", "cut"])
def test_damaged_best_weights_are_named(tmp_path, how):
    trained(tmp_path / "run")
    best = tmp_path / "run/best-3.safetensors"
    {"flipped": flip, "gone": Path.unlink, "cut": lambda p: p.write_bytes(p.read_bytes()[:999])}[how](best)
    with pytest.raises(TgfrError, match=r"best-3.safetensors: .*; remove .*run to train this run anew"):
        trained(tmp_path / "run")


def test_a_finished_run_does_not_need_its_state_and_what_a_kill_left_goes(tmp_path, capsys):
    weights = trained(tmp_path / "run")
    assert {p.stat().st_mode & 0o77 for p in (tmp_path / "run/state-3").iterdir() if p.name != "checksums.json"} == {0}
    flip(tmp_path / "run/state-3/optimizer.bin")
    (
        (tmp_path / "run/state-2").mkdir(),
        shutil.copy(tmp_path / "run/best-3.safetensors", tmp_path / "run/best-1.safetensors"),
    )
    (tmp_path / "run/.run.json.999999999.tmp").touch()
    for name, value in trained(tmp_path / "run").items():
        assert torch.equal(value, weights[name])
    assert "state-3: optimizer.bin missing or not what was written; the run is finished" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "best-3.safetensors",
        "metrics.jsonl",
        "run.json",
        "state-3",
    ]


@needs_kill
def test_killed_at_any_file_operation_and_resumed_to_the_same_end(tmp_path, one_thread):
    weights, kills = trained(tmp_path / "whole", 2), 0
    for at in range(1, 99, 7):
        if not killed_at(at, lambda folder: trained(folder, 2), tmp_path / f"{at}"):
            break
        for name, value in trained(tmp_path / f"{at}", 2).items():
            assert torch.equal(value, weights[name]), (at, name)
        assert sorted(p.name for p in (tmp_path / f"{at}").iterdir()) == [
            "best-2.safetensors",
            "metrics.jsonl",
            "run.json",
            "state-2",
        ]
        kills += 1
    assert kills > 3


def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path):
    with pytest.raises(TgfrError, match="state-1: cannot be written, there is no room left"):
        limited(lambda: trained(tmp_path / "full", 2))
    weights = trained(tmp_path / "whole", 2)
    for name, value in trained(tmp_path / "full", 2).items():
        assert torch.equal(value, weights[name])


def test_what_is_not_trained_belongs_to_the_run_too(tmp_path):
    "A frozen layer replaced under its name, a photo replaced under its name, a person renamed: another run."

    def run(change=0.0):
        objective, batches = objective_and_batches("fuse", SMALL)
        frozen = next(p for name, p in objective.named_parameters() if "text_encoder" in name)
        frozen.requires_grad_(False).add_(change)
        fit(objective, batches, SMALL, "fuse", tmp_path)

    run()
    run()
    with pytest.raises(TgfrError, match="another recipe, other data or another model"):
        run(0.5)

    def photos(*content, people=(0, 0, 1)):
        return PhotoBatches(
            {"image": [{"bytes": c, "path": None} for c in content], "identity": people, "photo_id": ["a", "b", "c"]},
            SimpleNamespace(config=SimpleNamespace(size=64)),
            (64,),
        )

    marks = [photos(b"x", b"y", b"z"), photos(b"x", b"y", b"w"), photos(b"x", b"y", b"z", people=(0, 1, 1))]
    assert (
        len({b.content_digest for b in marks}) == 3
        and photos(b"x", b"y", b"z").content_digest == marks[0].content_digest
    )


class Rows:
    "Batches of random rows, shared among processes or parts."

    content_digest, x = "rows", torch.arange(96.0).view(24, 4).sin()

    def steps(self, batch):
        return 24 // batch

    def epoch(self, stage, epoch, batch, rank=0, world=1):
        for a in range(0, 24, batch):
            yield self.x[a + rank * batch // world : a + (rank + 1) * batch // world]


def test_accumulated_parts_are_one_batch(tmp_path):
    "A mean over rows does not care in how many parts it is taken."

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.model, self.seen = torch.nn.Linear(4, 2), []

        def forward(self, x):
            self.seen.append(len(x))
            return {"square": self.model(x).square().mean()}

    weights, losses = [], []
    for parts in (1, 2, 4):
        toy = Toy()
        losses.append(
            [
                row["square"]
                for row in fit(
                    toy, Rows(), replace(SMALL, accumulate=parts, epochs_fuse=2), "fuse", tmp_path / str(parts)
                )
            ]
        )
        weights.append(toy.model.weight.detach())
        assert set(toy.seen) == {12 // parts}
    for w, loss in zip(weights[1:], losses[1:]):
        torch.testing.assert_close(w, weights[0], rtol=1e-4, atol=1e-6)
        assert loss == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("margins", ["adamw", "sgd"])
def test_scaled_gradients_take_the_same_steps(tmp_path, monkeypatch, margins):
    "What float16 does to the gradients, in float32: a power of two on the loss, off again before each step."
    recipe, weights = replace(SMALL, margin_optimizer=margins, epochs_fuse=2), []
    for scaled in (False, True):
        accelerator, (objective, batches) = build_accelerator(), objective_and_batches("fuse", recipe)
        if scaled:
            accelerator.scaler, accelerator.native_amp, accelerator.autocast_handler = (
                torch.amp.GradScaler("cpu"),
                True,
                AutocastKwargs(enabled=False),
            )
            monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
        fit(objective, batches, recipe, "fuse", tmp_path / str(scaled), accelerator=accelerator)
        weights.append(objective.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name


@pytest.mark.parametrize("stage", ["align", "fuse"])
def test_every_tensor_learns(stage):
    objective, batches = objective_and_batches(stage, SMALL)
    for module in objective.modules():  # layers that start at zero hide what lies before them for one step
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.1)
    before = {k: v.clone() for k, v in objective.named_parameters()}
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    for batch in batches.epoch(stage, 0, 12):
        sum(objective(batch).values()).backward()
        assert [k for k, p in objective.named_parameters() if p.grad is None] == []
        optimizer.step(), optimizer.zero_grad()
    still = {k for k, v in objective.named_parameters() if torch.equal(v, before[k])}
    assert still == set(), "no gradient reached these"


def test_captions_belong_to_their_photos():
    store, identity, _ = made_up()
    captions = [[f"photo{row} caption{k}" for k in range(1 + row % 4)] for row in range(24)]
    text = build_text_encoder("lstm", [c for row in captions for c in row], dim=16)
    batches = FaceBatches(store, identity, captions, np.arange(24), text, captions_per_image=3)
    words = {i + 2: w for i, w in enumerate(text.vocabulary.words)}
    seen = 0
    for batch in batches.epoch("fuse", 3, 8):
        rows = [int((store.embedding[0] == clean.numpy()).all(1).nonzero()[0][0]) for clean in batch.clean]
        owner = [row for row, count in zip(rows, batch.counts) for _ in range(count)]
        said = [words[int(ids[0])] for ids in batch.tokens["ids"]]
        assert said == [f"photo{row}" for row in owner]
        for row, count in zip(rows, batch.counts):
            assert 1 <= count <= min(3, len(captions[row]))
        seen += len(said)
    assert seen > 24


def test_an_epoch_sees_each_photo_once_and_repeats_itself():
    _, batches = objective_and_batches("fuse", SMALL)
    order = [torch.cat([b.clean for b in batches.epoch("fuse", epoch, 8)]) for epoch in (0, 0, 1)]
    assert torch.equal(order[0], order[1]) and not torch.equal(order[0], order[2])
    assert len(order[0].unique(dim=0)) == 24


def test_caption_draws_are_even():
    table = CaptionTable([["a", "b", "c", "d"]])
    drawn = np.array([c for seed in range(400) for c in table.pick(np.array([0]), 1, rng(seed))[0]])
    assert all(60 <= (drawn == c).sum() <= 140 for c in "abcd")


def test_identical_captions_are_no_negatives():
    objective, batches = objective_and_batches("align", SMALL)
    batch = next(batches.epoch("align", 0, 12))
    same = replace(batch, tokens={k: v[:1].expand_as(v) for k, v in batch.tokens.items()}, label=torch.arange(12) % 6)
    losses = objective.eval()(same)
    assert losses["sentence"].abs() < 1e-5 and losses["global"].abs() < 1e-5


def test_keep_loss_is_zero_for_clean_faces():
    objective, batches = objective_and_batches("align", SMALL)
    batch = next(batches.epoch("align", 0, 12))
    face = objective.model.image_head.project_frozen(batch.clean)
    assert clean_consistency_loss(face, objective.model, batch.clean).abs() < 1e-5
    assert isinstance(objective, AlignObjective)


def test_schedules_end_low():
    for name in RECIPES:
        recipe = build_recipe(name, **{"text": "some/transformer"} if name.endswith("-transformer") else {})
        rates = [
            learning_rate(recipe, "fuse", "heads", done, recipe.epochs_fuse)
            for done in np.linspace(0.2 * recipe.epochs_fuse, recipe.epochs_fuse - 1e-3, 20)
        ]
        assert all(a >= b for a, b in zip(rates, rates[1:])) and rates[-1] < rates[0]


def test_trackers_hear_every_epoch(tmp_path):
    "What `log_with` names was accepted and told nothing: now each epoch's metrics reach it, as metrics.jsonl has them."
    heard = []

    class Listener(GeneralTracker):
        name, requires_logging_directory, tracker, main_process_only = "listener", False, None, True

        def store_init_configuration(self, values):
            heard.append(values)

        def log(self, values, step=None, **more):
            heard.append((step, values))

    objective, batches = objective_and_batches("align", SMALL)
    accelerator = build_accelerator(log_with=Listener())
    rows = fit(objective, batches, SMALL, "align", tmp_path / "one", accelerator=accelerator)
    config, *logged = heard
    assert config["dim"] == SMALL.dim and [step for step, _ in logged] == [row["epoch"] for row in rows]
    for (_, values), row in zip(logged, rows):
        assert values == {f"one/align/{k}": v for k, v in row.items() if k != "stage"}


def test_sync_batch_norm_alone_is_batch_norm():
    ours, theirs, x = SyncBatchNorm(4), torch.nn.BatchNorm1d(4), torch.randn(6, 4)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_sync_batch_norm_in_other_precision(monkeypatch, kind):
    "Squares of such numbers are no float16; the other process is one without rows."
    monkeypatch.setattr(objectives, "_world", lambda: 2), monkeypatch.setattr(objectives._Sum, "apply", lambda x: x)
    x = (1000 + 100 * torch.randn(64, 4)).to(kind)
    ours, theirs = (
        norm(4).to(torch.promote_types(kind, torch.float32)) for norm in (SyncBatchNorm, torch.nn.BatchNorm1d)
    )
    y = ours(x)
    assert y.dtype == kind
    torch.testing.assert_close(y, theirs(x.to(ours.weight.dtype)).to(kind), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-3, atol=0)


def test_caption_keys_are_whole_numbers_of_the_words_alone():
    draw = rng(0, "captions")
    captions = {tuple(draw.integers(1, 4, draw.integers(1, 7)).tolist()) for _ in range(2000)}

    def key(width, padding):
        return objectives._caption_key(
            {
                "ids": torch.tensor([[*c, *[padding] * (width - len(c))] for c in captions]),
                "lengths": torch.tensor([len(c) for c in captions]),
            }
        )

    class Whole(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            assert not (torch.is_tensor(out) and out.is_floating_point()), function
            return out

    with Whole():
        keys = key(8, 0)
    assert keys.dtype == torch.int64 and len(keys.unique()) == len(captions) > 500
    assert torch.equal(key(20, 1), keys)


def test_a_batch_that_does_not_divide_is_refused():
    _, faces = objective_and_batches("fuse", SMALL)
    photos = PhotoBatches(
        {"image": [None] * 24, "identity": [0, 1] * 12, "photo_id": [str(i) for i in range(24)]},
        SimpleNamespace(config=SimpleNamespace(size=64)),
        (64,),
    )
    for batches, field in ((faces, "batch_align and batch_fuse"), (photos, "batch_encode")):
        with pytest.raises(TgfrError, match="does not divide into 5 shares"):
            next(batches.epoch("fuse", 0, 12, 0, 5))
        with pytest.raises(TgfrError, match=f"only 24 photos to train on.*make {field} of the recipe smaller"):
            batches.steps(25)


def test_a_score_that_is_no_number_is_never_the_best(tmp_path, capsys):
    "pytorch-lightning #2636, #1008: NaN first, and no later score was better."
    scores, weights = iter([float("nan"), 0.5, 0.3]), []

    def validate(model):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"score": next(scores)}

    recipe = replace(SMALL, epochs_align=3)
    objective, batches = objective_and_batches("align", recipe)
    fit(objective, batches, recipe, "align", tmp_path / "run", validate, stop_after=2)
    assert "the score of epoch 1 is no number" in capsys.readouterr().err
    objective, batches = objective_and_batches("align", recipe)
    fit(objective, batches, recipe, "align", tmp_path / "run", validate)
    assert (tmp_path / "run/best-2.safetensors").is_file()
    for name, value in objective.model.state_dict().items():
        assert torch.equal(value, weights[1][name])


def test_photos_given_by_a_path_train_an_encoder(tmp_path):
    "huggingface/datasets PR 8254: `bytes` is None where a photo lies beside the file."
    faces = synthetic_faces(people=3, photos=2, size=32)
    for name, cell in zip(faces["photo_id"], faces["image"]):
        (tmp_path / f"{name.replace('/', '_')}.png").write_bytes(cell["bytes"])
    cells = [{"bytes": None, "path": str(tmp_path / f"{name.replace('/', '_')}.png")} for name in faces["photo_id"]]
    beside = faces.remove_columns("image").add_column("image", cells, feature=faces.features["image"])
    encoder = IResNet((1, 1, 1, 1), width=4, embedding=8, size=32)
    whole, other = (next(PhotoBatches(some, encoder, (32, 16)).epoch("encode", 0, 6)) for some in (faces, beside))
    assert torch.equal(whole[0], other[0]) and torch.equal(whole[1], other[1])


@pytest.mark.parametrize(
    "photos, batch, parts, expected",
    [
        (20_000, 256, 1, 256),  # many photos: as it was wished
        (430, 256, 1, 24),  # 17 steps of an epoch
        (100, 256, 1, 8),
        (6, 256, 1, 6),
        (1, 256, 1, 2),  # too few: an error, not one photo a step
        (430, 256, 3, 24),
        (5, 256, 2, 4),
        (100, 4, 1, 4),
    ],
)
def test_few_photos_are_trained_on_in_smaller_steps(photos, batch, parts, expected):
    store, identity, captions = made_up()
    batches = FaceBatches(store, identity, captions, np.arange(24), None)
    batches.rows = np.arange(photos)
    found = batches.largest_batch(batch, parts)
    assert found == expected and found % parts == 0
    if photos == 1:
        with pytest.raises(TgfrError, match="only 1 photos"):
            batches.steps(found)

"""The command line: help is enough, bad input is one clear line and code 2, bad photos among good ones are named and
counted."""

import functools
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tgfr.cli import COMMANDS, RENAMED, docments, flag_of, function_of, join_options, main, options_of
from tgfr.core import TgfrError
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.training.recipes import parse_settings

TGFR = [Path(sys.executable).parent / "tgfr"]
TINY = [
    "--set",
    "dim=16",
    "epochs_encode=1",
    "epochs_align=1",
    "epochs_fuse=1",
    "batch_align=8",
    "batch_fuse=8",
    "--replicates",
    "10",
    "--probe-size",
    "112",
    "16",
]


def tgfr(*args, cwd=None):
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([*TGFR, *map(str, args)], capture_output=True, text=True, env=env, cwd=cwd, timeout=300)


def refused(run, *said):
    "One line on stderr with all of `said`, code 2, no traceback."
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    last = run.stderr.strip().splitlines()[-1]
    for part in said:
        assert part in last, run.stderr


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(people=10, photos=3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32), folder)
    return folder


def parquet(dataset, folder, name="photos.parquet"):
    dataset.to_parquet(str(folder / name))
    return folder / name


@pytest.mark.parametrize("args", [[], *([name] for name in COMMANDS)])
def test_help(args):
    run = tgfr(*args, "--help")
    assert run.returncode == 0 and all(name in run.stdout for name in (args or COMMANDS))
    if args == ["demo"]:
        assert all(flag in run.stdout for flag in ("--data", "--encoder", "--text", "--probe-size", "--out", "--set"))


def test_wrong_flag_and_command(tmp_path):
    assert tgfr("demo", "--no-such-flag").returncode == 2
    assert tgfr("fly").returncode == 2


def test_help_into_a_pipe_that_closes():
    run = subprocess.run(f"{TGFR[0]} fuse --help | head -1", shell=True, capture_output=True, text=True, timeout=60)
    assert run.stdout.startswith("usage: tgfr fuse [-h] [OPTIONS] SOURCE") and not run.stderr


def test_a_log_gets_lines_where_a_terminal_has_a_bar(monkeypatch, capsys):
    from tgfr import core

    monkeypatch.setattr(core, "LOG_SECONDS", 0)
    assert list(core.progress_bar(iter("abc"), "reading", done=1200, total=1203)) == list("abc")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1,201 of 1,203",
        "reading: 1,202 of 1,203",
        "reading: 1,203 of 1,203",
    ]


def test_missing_folder(tmp_path):
    refused(tgfr("demo", "--data", "/no/such/folder", "--out", tmp_path), "/no/such/folder")


def test_probe_size_zero(tmp_path):
    refused(tgfr("demo", "--probe-size", "0", "--out", tmp_path), "size", "0")


def test_unknown_encoder(tmp_path):
    refused(tgfr("demo", "--encoder", "facenet9000", "--out", tmp_path), "facenet9000")


def test_unknown_recipe_field(tmp_path):
    refused(tgfr("demo", "--set", "epoch=3", "--out", tmp_path), "no field epoch")


def test_unknown_text_encoder(tmp_path, faces, encoder):
    refused(
        tgfr(
            "demo",
            "--data",
            parquet(faces, tmp_path),
            "--encoder",
            encoder,
            "--text",
            "/no/such/bert",
            "--out",
            tmp_path / "out",
        ),
        "/no/such/bert",
    )


def test_onnx_that_is_no_face_model(tmp_path):
    x, y = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 7]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7]),
    )
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    onnx.save(model, tmp_path / "relu.onnx")
    refused(tgfr("demo", "--encoder", tmp_path / "relu.onnx", "--out", tmp_path / "out"), "relu.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    refused(tgfr("demo", "--encoder", tmp_path / "text.onnx", "--out", tmp_path / "out"), "text.onnx")


@pytest.mark.parametrize("column", ["image", "identity", "photo_id", "captions"])
def test_parquet_without_a_column(tmp_path, faces, column):
    refused(
        tgfr("demo", "--data", parquet(faces.remove_columns(column), tmp_path), "--out", tmp_path / "out"),
        "photos.parquet",
        column,
    )


def test_no_readable_image(tmp_path, faces):
    broken = faces.map(lambda row: {"image": {"bytes": b"no photo", "path": None}})
    refused(tgfr("demo", "--data", parquet(broken, tmp_path), "--out", tmp_path / "out"), "no readable image")


def test_empty_captions_everywhere(tmp_path, faces):
    refused(
        tgfr(
            "demo",
            "--data",
            parquet(faces.map(lambda row: {"captions": ["", "  "]}), tmp_path),
            "--out",
            tmp_path / "out",
        ),
        "captions",
        "empty",
    )


def test_bad_photos_among_good_ones_are_named_and_counted(tmp_path, faces, encoder):
    def spoil(row, i):
        if i == 4:
            row["image"] = {"bytes": row["image"]["bytes"][:40], "path": None}
        if i == 7:
            row["captions"] = [""]
        return row

    data = parquet(faces.map(spoil, with_indices=True, features=faces.features), tmp_path)
    run = tgfr("demo", "--data", data, "--encoder", encoder, "--out", tmp_path / "out", "--recipe", "demo", *TINY)
    assert run.returncode == 0, run.stderr
    said = " ".join(run.stderr.split())
    assert faces["photo_id"][4] in said and faces["photo_id"][7] in said and "2 photos left out" in said
    assert {"report.html", "report.json", "model"} <= {p.name for p in (tmp_path / "out").iterdir()}
    again = tgfr("demo", "--data", data, "--encoder", encoder, "--out", tmp_path / "out", "--recipe", "demo", *TINY)
    assert again.returncode == 0 and "align 1/1" not in again.stderr, "a finished run is not trained again"


def test_same_seed_same_report(tmp_path, encoder):
    results = []
    for name in "ab":
        run = tgfr(
            "demo", "--data", "synthetic:people=10,photos=3", "--encoder", encoder, "--out", tmp_path / name, *TINY
        )
        assert run.returncode == 0, run.stderr
        results.append(json.loads((tmp_path / name / "report.json").read_text())["results"])
    assert results[0] == results[1]
    # 2 sizes; 2 systems without words, 6 with one caption and all, evidence also with those of one side and none
    assert len(results[0]) == 2 * (2 + 6 * 2 + 5)


def test_a_trained_model_is_kept_with_its_recipe_and_evaluated(tmp_path, encoder):
    from tgfr.training.recipes import read_recipe

    data = ["--data", "synthetic:people=10,photos=3", "--encoder", encoder]
    assert (run := tgfr("train", "demo", *data, *TINY[:-5], "--out", tmp_path)).returncode == 0, run.stderr
    assert read_recipe(tmp_path / "config.yaml").dim == 16
    about = (tmp_path / "config.yaml").read_text().splitlines()[:4]
    assert (
        about[:2] == ["# data: synthetic:people=10,photos=3", f"# encoder: {encoder}"]
        and about[2].startswith("# face encoder: ")
        and ", fingerprint " in about[2]
        and about[3] == "# words: yes"
    )
    again = tgfr("train", tmp_path / "config.yaml", *data, "--out", tmp_path)
    assert again.returncode == 0, "a run that is finished is read, not refused: " + again.stderr
    judged = tgfr("evaluate", tmp_path / "model", *data, "--out", tmp_path / "judged", *TINY[-5:])
    assert judged.returncode == 0 and (tmp_path / "judged" / "report.html").is_file(), judged.stderr
    said, card = "10 of the 10 people evaluated here were in the training", (tmp_path / "model/README.md").read_text()
    assert said in " ".join(judged.stdout.split()) and said in card and "TPR@FPR=1e-3: " in card, (
        "whom it was trained on, and rates that so few pairs cannot tell, are no result"
    )
    assert "epochs_fuse: 1" in card and str(encoder.parent) not in card and "{'" not in card
    others = tgfr(
        "evaluate",
        tmp_path / "model",
        "--data",
        "synthetic:people=10,photos=3,seed=1",
        *data[2:],
        "--out",
        tmp_path / "others",
        *TINY[-5:],
    )
    assert (
        "in the training" not in others.stdout + (tmp_path / "model/README.md").read_text() and others.returncode == 0
    ), others.stderr


def test_a_killed_run_has_its_recipe_and_a_refused_one_leaves_it(tmp_path, encoder, monkeypatch):
    from tgfr.training.recipes import build_recipe, read_recipe
    from tgfr.workflows import compare
    from tgfr.workflows.train import train

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare.Trainer, "train", killed)
    for dim, kept in (16, 16), (24, 24), (32, 24):
        with pytest.raises(KeyboardInterrupt):
            recipe = build_recipe("demo", dim=dim)
            train(recipe, "synthetic:people=10,photos=3", str(encoder), tmp_path, image_only=True)
        assert read_recipe(tmp_path / "config.yaml").dim == kept, "an epoch that is kept keeps its recipe"
        if dim == 24:
            (
                (tmp_path / "runs/residual-image").mkdir(parents=True),
                (tmp_path / "runs/residual-image/run.json").write_text("{}"),
            )
    assert "# words: no" in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize(
    "setting, said",
    [
        ("epochs_fuse=None", "'None' is no int; the default is 6"),
        ("lr_heads=None", "'None' is no float"),
        ("text=None", "'None' is no str; the default is 'lstm'"),
        ("residual=None", "'None' is no bool"),
        ("sizes=None", "'None' is no tuple"),
        ("lr_heads=nan", "recipe ours: lr_heads=nan: expected a finite number above 0"),
        ("lr_text=inf", "lr_text=inf"),
        ("lr_margin=0", "lr_margin=0.0"),
        ("batch_encode=0", "batch_encode=0: expected an integer of at least 1"),
        ("epochs_encode=0", "epochs_encode=0"),
        ("text_dropout=1", "from 0 to below 1"),
        ("text_layers=-1", "text_layers=-1: expected None or an integer of at least 0"),
        ("weight_decay=-1", "weight_decay"),
        ("focal=-inf", "focal"),
        ("lambda_keep=nan", "lambda_clean_consistency"),
        ("clip_text=0", "above 0"),
        ("scale=0", "scale=0.0"),
        ("margin=-1", "margin=-1.0"),
        ("seed=-1", "seed=-1"),
        ("sizes=112,1", "train_resolutions=(112, 1): expected integers of at least 2"),
        ("sizes=", "'' is no tuple"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, said):
    from tgfr.training.recipes import build_recipe

    with pytest.raises(TgfrError) as error:
        build_recipe("ours", **parse_settings((setting,)))
    assert said in str(error.value)


def test_every_field_of_a_recipe_is_looked_at():
    "Whatever stands in a file: another kind of value, or a number that is none, is refused by the field's name."
    from dataclasses import fields

    from tgfr.training.recipes import Recipe, build_recipe

    wrong = {
        int: (None, True, "x", math.nan, -1, 1.5, (1,)),
        float: (None, True, "x", math.nan, math.inf, -1.0, (1.0,)),
        str: (None, 5, True, ("lstm",)),
        bool: (None, 0, "True"),
        tuple: (None, 112, [112], (112, "32"), (112.0, 32), (1,), ()),
        type(None): ("x", True, -1, 1.5, ()),
    }
    for f in fields(Recipe):
        for value in wrong[type(f.default)]:
            with pytest.raises(TgfrError, match=rf"recipe ours: {f.name}="):
                build_recipe("ours", **{f.name: value})
    assert parse_settings(("text_layers=None", "residual=False", "sizes=64,16", "lr_text=1e-4")) == {
        "text_layers": None,
        "residual_head": False,
        "train_resolutions": (64, 16),
        "lr_text": 1e-4,
    }


@pytest.mark.parametrize(
    "text, said",
    [
        ("lr_heads: .nan", "lr_heads=nan: expected a finite number above 0"),
        ("epochs_fuse: null", "epochs_fuse=None"),
        ("text: null", "text=None: expected a text"),
        ("batch_fuse: 0", "batch_fuse=0"),
        ("sizes: [112, small]", "train_resolutions=(112, 'small'): expected integers"),
        ("sizes: 112", "train_resolutions=112: expected integers"),
        ("1: 2\na: 3", "fields: 1, a unknown"),
        ("residual: 1", "residual_head=1: expected True or False"),
    ],
)
def test_files_of_recipes_are_looked_at_alike(tmp_path, text, said):
    from tgfr.training.recipes import read_recipe

    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(TgfrError) as error:
        read_recipe(tmp_path / "r.yaml")
    assert said in str(error.value) and str(tmp_path / "r.yaml") in str(error.value)


def test_bad_recipes(tmp_path, encoder):
    data = ["--data", "synthetic:people=10,photos=3", "--encoder", encoder, "--out", tmp_path]
    (tmp_path / "wrong.yaml").write_text("epochs_fuse: many\n")
    refused(tgfr("train", "ours", *data, "--set", "epochs_fuse=None"), "--set epochs_fuse=None")
    refused(tgfr("train", "theirs", *data), "theirs", "ours")
    refused(tgfr("train", tmp_path / "wrong.yaml", *data), "wrong.yaml", "epochs_fuse", "'many'")
    refused(tgfr("train", tmp_path / "missing.yaml", *data), "missing.yaml")
    refused(tgfr("ablate", *data, "--variants", "no luck"), "no luck", "no word loss")


def test_an_option_given_again_adds_or_is_refused(tmp_path, monkeypatch):
    """The report's right answer (tyro keeps the last alone): both settings hold; of two seeds none is dropped in
    silence."""
    from tgfr.workflows import train

    resolve, seen = train.resolve_recipe, []

    def resolved(*args, **options):
        seen.append(resolve(*args, **options))
        raise TgfrError("enough")

    monkeypatch.setattr(train, "resolve_recipe", resolved)
    given = "train ours --set dim=64 --data d --set=epochs_fuse=2 captions=3 --encoder e --seed 7"
    for args in (given, "train --data d --encoder e --text gru ours"):
        with pytest.raises(SystemExit):
            main(args.split())
    recipe = seen[0]
    assert (recipe.dim, recipe.epochs_fuse, recipe.captions_per_image, recipe.seed) == (64, 2, 3, 7)
    assert seen[1].text == "gru"


@pytest.mark.parametrize(
    "args, said",
    [
        (["demo", "--seed", "1", "--seed", "2"], "--seed: given twice"),
        (["demo", "--probe-size"], "--probe-size: expected at least one value"),
        (["train", "ours", "--data", "d", "--encoder", "e", "--set"], "--set: expected"),
        (
            ["train", "ours", "--data", "d", "--encoder", "e", "--words", "--no-words"],
            "--no-image-only and --image-only",
        ),
        (["demo", "--seed", "1", "--set", "seed=2"], "--seed and --set seed=2"),
        (["demo", "--set", "dim=8", "--set", "dim=9"], "--set dim: given twice"),
        (
            ["train", "ours-transformer", "--data", "d", "--encoder", "e"],
            "expected the name or path of a pretrained text model (--text)",
        ),
        (
            ["train", "ours-transformer", "--data", "d", "--encoder", "e", "--text", "lstm"],
            "found 'lstm', a recurrent one",
        ),
        (["ablate", "--data", "d", "--encoder", "e", "--recipe", "ours-transformer"], "ours-transformer: expected"),
        (["train", "ours", "--data", "d", "--encoder", "e", "--text", "bert-base-uncased"], "take ours-transformer"),
        (["verify", "--encoder", "e"], "sets: expected at least one .bin file"),
        (["demo", "--data", "no\x1b[2Jsuch"], r"no\x1b[2Jsuch"),
    ],
)
def test_what_was_asked_for_is_done_or_refused(args, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(args)
    heard = capsys.readouterr().err
    assert left.value.code == 2 and said in " ".join(heard.split()) and "\x1b[2J" not in heard


def test_text_seed_and_split_are_options_of_every_command_that_has_them(tmp_path, faces, encoder):
    def parameters(name):
        return set(inspect.signature(function_of(name)).parameters)

    for name in ("demo", "train", "ablate"):
        assert {"text", "seed", "set_"} <= parameters(name)
    for name in ("sets", "evaluate", "ijb", "prepare"):
        assert "seed" in parameters(name)
    for name in ("train", "validation"):
        parquet(faces, tmp_path, f"{name}-00000-of-00001.parquet")
    run = tgfr("train", "demo", "--data", tmp_path, "--encoder", encoder, *TINY[:-5], "--out", tmp_path / "out")
    assert run.returncode == 0 and "# data:" in (tmp_path / "out/config.yaml").read_text(), run.stderr
    assert f"{tmp_path}, split train" in (tmp_path / "out/config.yaml").read_text(), "the split that demo trains on too"


def test_python_m_acts():
    for module in ("tgfr", "tgfr.cli"):
        command = [sys.executable, "-m", module, "info", "--json"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0 and json.loads(run.stdout)["versions"]["tgfr"]


def test_version():
    from tgfr import __version__

    assert tgfr("--version").stdout == f"tgfr {__version__}\n"


def test_help_starts_at_once():
    "Without torch, in less than 0.4 s of CPU."
    code = """
import sys, time
from tgfr.cli import main
main(["--help"])
heavy = {"torch", "transformers", "datasets", "matplotlib", "scipy"} & set(sys.modules)
print(sorted(heavy), time.process_time(), file=sys.stderr)
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60) for _ in range(3)]
    assert all(run.stderr.startswith("[] ") for run in runs), runs[0].stderr
    assert min(float(run.stderr.split()[1]) for run in runs) < 0.4


def test_an_unknown_command_is_one_line():
    refused(tgfr("evalute"), "evalute: no such command; perhaps you meant evaluate")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is(command):
    "Each parameter of a command's function has a comment, and a kind that words can be; none has two flags."
    function = function_of(command)
    told = docments(function)
    hidden = [name for name in inspect.signature(function).parameters if name not in told]
    assert hidden == [], "options without help"
    assert len({flag_of(name) for name in told}) == len(told)
    fields = options_of(function).__dataclass_fields__
    assert list(fields)[-1] == "plugin"
    for old, new in RENAMED.get(command, {}).items():
        name = new.removeprefix("--no-").removeprefix("--").replace("-", "_")
        assert name in fields, f"{old} is called {new}, which is no option"


OLD_FLAGS = [(command, old, new) for command, flags in RENAMED.items() for old, new in flags.items()]


@pytest.mark.parametrize("command, old, new", OLD_FLAGS)
def test_every_old_flag_stands_for_the_new_and_one_line_says_so(command, old, new, capsys):
    options = options_of(function_of(command))
    assert join_options(command, options, [old, "1"]) == [new, "1"]
    assert capsys.readouterr().err == f"{old} is called {new} now\n"
    assert join_options(command, options, [f"{old}=1"]) == [new, "1"]
    with pytest.raises(TgfrError, match=f"{new}: given twice|{new}: expected at least one value"):
        join_options(command, options, [old, new])
    flags = {flag_of(name) for name in options.__dataclass_fields__}
    assert old.replace("--no-", "--") not in flags, "hidden: help shows the new flag alone"


def test_sets_takes_its_old_flags_together(monkeypatch, capsys):
    from tgfr.workflows import compare_fusions

    given = {}

    def noted(*args, **options):
        given.update(options)

    monkeypatch.setattr(compare_fusions, "compare_fusions", functools.wraps(compare_fusions.compare_fusions)(noted))
    main("sets --data d --encoder e.onnx --poor augmentations --count 16 --images 1 2 --images 4".split())
    assert given["degradation"] == "augmentations" and given["augmentations"] == 16
    assert given["set_sizes"] == (1, 2, 4)
    names = [line.split()[0] for line in capsys.readouterr().err.splitlines() if "is called" in line]
    assert names == ["--poor", "--count", "--images", "--images"]


def test_an_old_flag_works_and_names_the_new(capsys, tmp_path):
    main(["info", "--json"])
    with pytest.raises(SystemExit):
        main(["train", "ours", "--data", str(tmp_path / "nowhere"), "--encoder", "e", "--no-words"])
    said = capsys.readouterr().err
    assert "--no-words is called --image-only now" in said


def test_a_plug_in_is_loaded_before_its_command(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath('loaded').touch()\n")
    monkeypatch.chdir(tmp_path)
    main(["info", "--plugin", "mine.py"])
    assert (tmp_path / "loaded").is_file()
    with pytest.raises(SystemExit) as left:
        main(["info", "--plugin", "missing.py"])
    assert left.value.code == 2

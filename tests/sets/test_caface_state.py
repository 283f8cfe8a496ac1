"""A state counts no frame twice: repeated, killed, renamed, in part, in its own folder; merged states share none."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes import shots, stills

from tgfr.cli import main
from tgfr.core import TgfrError, read_json, rng, seed_everything
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.sets.caface_state import FILE_NAMES, Ledger, load_state, merge, save_state
from tgfr.sets.checkpoints import load_set_fusion, save_set_fusion
from tgfr.sets.pooling import build_set_fusion
from tgfr.workflows.fuse_video import fuse_video

SHOTS = shots(24)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "An encoder, a CAFace, and folders of pictures: a, b, and more (b with four of another time)."
    folder = tmp_path_factory.mktemp("home")
    seed_everything(0)
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32), folder / "encoder")
    model = build_set_fusion("caface", 32, styles=24).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    save_set_fusion(model, folder / "caface")
    for name, part in (("a", range(10)), ("b", range(10, 20)), ("more", range(10, 24))):
        stills(folder / name, ((k, SHOTS[k]) for k in part))
    return folder


@pytest.fixture
def fuse(home, tmp_path):
    "Call it: a source, its folder of results, an earlier state."

    def call(source, out, state=None):
        return fuse_video(
            home / source, home / "encoder", fusion=home / "caface", out=tmp_path / out, chunk=5, state=state
        )

    return call


def count(path, home):
    return int(load_state(path, load_set_fusion(home / "caface")).count)


def same(one, other):
    "Whether two states are one, to the bit."
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_repeated_in_its_own_folder(fuse, home, tmp_path, capsys):
    own = tmp_path / "own/state.safetensors"
    fuse("a", "own")
    once = fuse("b", "own", own)
    shutil.copytree(tmp_path / "own", tmp_path / "once")
    capsys.readouterr()
    again = fuse("b", "own", own)
    assert (
        count(own, home) == 20
        and same(own, tmp_path / "once/state.safetensors")
        and "already in the state" in capsys.readouterr().err
    )
    assert {k: v for k, v in again.items() if k != "run"} == {k: v for k, v in once.items() if k != "run"}
    assert same(tmp_path / "own/template.safetensors", tmp_path / "once/template.safetensors")
    older = fuse("a", "own", own)  # not the last, but in it
    assert (
        count(own, home) == 20
        and "all 10 of the person are already in the state" in older["summary"][0]
        and "already in the state" in capsys.readouterr().err
    )
    torch.testing.assert_close(
        load_file(tmp_path / "own/template.safetensors")["caface"],
        load_file(tmp_path / "once/template.safetensors")["caface"],
    )


def test_a_copy_and_a_part_are_known(fuse, home, tmp_path):
    fuse("a", "one"), fuse("b", "two", tmp_path / "one/state.safetensors")
    shutil.copytree(home / "b", home / "renamed", dirs_exist_ok=True)
    fuse("renamed", "three", tmp_path / "two/state.safetensors")
    assert count(tmp_path / "three/state.safetensors", home) == 20
    report = fuse("more", "four", tmp_path / "two/state.safetensors")
    assert count(tmp_path / "four/state.safetensors", home) == 24 and any(
        "10 of the 14 frames are already in the state" in line for line in report["summary"]
    )
    assert [row["weight"] > 0 for row in report["frames"]] == [False] * 10 + [True] * 4 and len(
        load_file(tmp_path / "four/state.safetensors")["frames"]
    ) == 24


def test_merged_states_share_no_frame(fuse, home, tmp_path):
    model = load_set_fusion(home / "caface")
    fuse("a", "one"), fuse("b", "two"), fuse("more", "three")
    one, two, three = (load_state(tmp_path / name / "state.safetensors", model) for name in ("one", "two", "three"))
    both = merge(one, two)
    assert int(both.count) == 20 and len(both.ledger.frames) == 20
    with pytest.raises(TgfrError, match="10 frames are in more than one of them"):
        merge(both, three)
    save_state(tmp_path / "both", both, model)
    with pytest.raises(TgfrError, match="10 frames"):
        merge(load_state(tmp_path / "both", model), two)


def test_an_older_state_opens_and_says_what_it_does_not_know(fuse, home, tmp_path, capsys):
    model = load_set_fusion(home / "caface")
    fuse("a", "one")
    state = load_state(tmp_path / "one/state.safetensors", model)
    save_file(
        {stored: getattr(state, name) for name, stored in FILE_NAMES.items()},
        tmp_path / "old",
        {"model": model.content_digest},
    )
    assert load_state(tmp_path / "old", model).ledger is None
    fuse("b", "two", tmp_path / "old")
    assert (
        "does not say what is in it" in capsys.readouterr().err
        and count(tmp_path / "two/state.safetensors", home) == 20
    )
    fuse("b", "two", tmp_path / "two/state.safetensors")
    ledger = load_state(tmp_path / "two/state.safetensors", model).ledger
    assert count(tmp_path / "two/state.safetensors", home) == 20 and not ledger.whole and len(ledger.frames) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"frames": torch.zeros(3)},
        {"frames": torch.zeros(2, 2, dtype=torch.int64)},
        {"count": torch.tensor(3)},
        {"before.mass": torch.zeros(1, 3)},
        {"mass": torch.full((1, 4), torch.nan)},
        {"count": torch.tensor([-1])},
    ],
    ids=str,
)
def test_a_damaged_ledger_is_refused(fuse, home, tmp_path, change):
    model = load_set_fusion(home / "caface")
    save_state(tmp_path / "state", model.init(), model, Ledger(np.arange(3), before=model.init(), known=1))
    save_file(
        load_file(tmp_path / "state") | change,
        tmp_path / "bad",
        {"model": model.content_digest, "known": "1", "whole": "True"},
    )
    with pytest.raises(TgfrError, match="bad"):
        load_state(tmp_path / "bad", model)


def test_a_removed_folder_is_an_error(fuse, tmp_path, monkeypatch):
    import tgfr.workflows.fuse_video

    page = tgfr.workflows.fuse_video.write_page
    monkeypatch.setattr(
        tgfr.workflows.fuse_video, "write_page", lambda out, *rest: (shutil.rmtree(out), page(out, *rest))
    )
    with pytest.raises(TgfrError, match="template.safetensors, state.safetensors removed while"):
        fuse("a", "gone")


KILLED = textwrap.dedent("""
    import os, sys
    at, out = int(sys.argv[1]), os.path.realpath(sys.argv[2])
    seen = 0
    def hook(event, args):
        global seen
        if event not in ("open", "os.rename", "os.remove", "os.mkdir") or not args: return
        if not str(args[0]).startswith(out): return
        seen += 1
        if seen == at: os.kill(os.getpid(), 9)
    from tgfr.cli import main
    import tgfr.workflows.fuse_video
    sys.addaudithook(hook)
    main(sys.argv[3:])
    print(seen)
""")


def kills(home, folder, number):
    "Kill the second run at some of its file operations, go on, and compare with the unbroken one."

    def command(source, out, *more):
        return [
            "fuse",
            str(home / source),
            "--encoder",
            str(home / "encoder"),
            "--fusion",
            str(home / "caface"),
            "--chunk",
            "5",
            "--out",
            str(out),
            *more,
        ]

    def run(at, out):
        more = command("b", out, "--state", str(out / "state.safetensors"))
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(at), str(out), *more],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    main(command("a", folder / "first"))
    shutil.copytree(folder / "first", folder / "whole")
    last = int(run(0, folder / "whole").stdout.split()[-1])
    found = []
    for k, at in enumerate(rng("kills").choice(np.arange(1, last + 1), number, replace=number > last)):
        shutil.copytree(folder / "first", out := folder / f"kill{k}")
        died = run(int(at), out).returncode == -signal.SIGKILL
        main(command("b", out, "--state", str(out / "state.safetensors")))
        report, whole = read_json(out / "fuse.json"), read_json(folder / "whole/fuse.json")
        frames = [{key: row[key] for key in row} for row in report["frames"]]
        found.append(
            (
                died,
                same(out / "state.safetensors", folder / "whole/state.safetensors")
                and same(out / "template.safetensors", folder / "whole/template.safetensors")
                and frames == whole["frames"]
                and report["summary"] == whole["summary"],
            )
        )
    return found


def test_killed_and_run_again(home, tmp_path, one_thread):
    assert kills(home, tmp_path, 3) == [(True, True)] * 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_places(home, tmp_path, one_thread):
    assert kills(home, tmp_path, 20) == [(True, True)] * 20

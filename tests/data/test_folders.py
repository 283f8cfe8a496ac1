"""One process in a folder, nothing half written left behind, a sentence where nothing can be written, and faces for
their owner alone."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from processes import finish, kill_when, limited, needs_kill, python, wait_for
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tgfr.cli import main
from tgfr.core import TgfrError, atomic_write, write_json, writing
from tgfr.data import folders
from tgfr.data.folders import folder_lock, one_at_a_time, remove_leftovers
from tgfr.encoders.weight_files import read_weights, write_weights
from tgfr.evaluation.simulated_ijb import simulate_ijb

needs_locks = pytest.mark.skipif(folders.fcntl is None, reason="needs file locks")
HOLD = """
import sys, time
from tgfr.data.folders import folder_lock
with folder_lock(sys.argv[1], sys.argv[2] == "wait"):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


@needs_kill
@needs_locks
@pytest.mark.parametrize("wait", [False, True])
def test_a_second_process_is_refused_or_waits_and_a_kill_frees(tmp_path, wait, capsys):
    first = python("-c", HOLD, tmp_path, "wait" if wait else "refuse", 600)
    assert first.stdout.readline() == "held\n"
    if wait:
        second = python("-c", HOLD, tmp_path, "wait", 0)
        assert f"process {first.pid} is at work there; waiting" in second.stderr.readline()
        assert second.poll() is None
    else:
        with (
            pytest.raises(
                TgfrError,
                match=f"{tmp_path}: process {first.pid} is at work there; wait until it ends, or choose another folder",
            ),
            folder_lock(tmp_path),
        ):
            pass
    first.send_signal(signal.SIGKILL), first.communicate()
    if wait:
        assert finish(second) == ["held\n"]
    with folder_lock(tmp_path, wait):
        assert os.listdir(tmp_path) == [".lock" if wait else ".run.lock"]
    assert os.listdir(tmp_path) == [".lock"] * wait


def test_a_refused_job_leaves_nothing_and_one_in_another_folder_runs(tmp_path):
    @one_at_a_time()
    def job(number, out=tmp_path / "new" / "run"):
        if number < 0:
            raise TgfrError("number")
        write_json(Path(out) / "n.json", number)

    with pytest.raises(TgfrError, match="number"):
        job(-1)
    assert list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path):
        job(3)
    assert os.listdir(tmp_path / "new" / "run") == ["n.json"]
    (tmp_path / "file").touch()
    with pytest.raises(TgfrError, match="file: is no folder"):
        job(1, tmp_path / "file")


@needs_locks
def test_of_several_processes_of_a_run_the_main_one_locks(tmp_path, monkeypatch):
    with folder_lock(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with folder_lock(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(TgfrError, match="at work"), folder_lock(tmp_path):
            pass


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_folder_that_goes_while_a_job_works_is_no_success(tmp_path, how):
    with pytest.raises(TgfrError, match="was removed or replaced while this ran"), folder_lock(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
        if how == "replaced":
            (tmp_path / "run").mkdir()


def test_leftovers_of_the_dead_go_and_nothing_else(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / "model").mkdir()
    gone = [
        tmp_path / f".template.safetensors.{dead.pid}.tmp",
        tmp_path / "model" / f".clip.mp4.{dead.pid}.tmp.mp4",
        tmp_path / f".old.{os.getpid()}.tmp",
    ]
    kept = [
        tmp_path / f".report.html.{os.getpid()}.tmp",
        tmp_path / ".notes.tmp",
        tmp_path / f"a.{dead.pid}.tmp",
        tmp_path / f".a.{dead.pid}.txt",
    ]
    for path in (*gone, *kept):
        path.write_text("x")
    os.utime(gone[2], (1e9, 1e9))  # of a process that had our number long ago
    remove_leftovers(tmp_path)
    assert [p.exists() for p in (*gone, *kept)] == [False] * 3 + [True] * 4


FAULTS = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), "no room left"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "no room left"),
    "arrow": (
        pa.ArrowIOError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
        "no room left",
    ),
    "torch": (
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 5967488 vs 5967380"),
        "no room left",
    ),
    "rights": (PermissionError(errno.EACCES, "Permission denied"), "choose a folder that may be written to"),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), "choose a folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_written_is_one_sentence(tmp_path, fault):
    error, said = FAULTS[fault]
    with (
        pytest.raises(TgfrError, match=f"x.json: cannot be written, .*{said}") as found,
        atomic_write(tmp_path / "x.json") as tmp,
    ):
        tmp.write_text("half")
        raise error
    assert "\n" not in str(found.value) and list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (
        RuntimeError("a defect"),
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/photo.jpg"),
        KeyError("x"),
    ):
        with pytest.raises(type(error)), writing(tmp_path / "x"):
            raise error
    (tmp_path / "file").touch()
    with pytest.raises(TgfrError, match="cannot be written, choose a folder"):
        write_json(tmp_path / "file" / "x.json", 1)
    with (
        pytest.raises(TgfrError, match="its folder was removed meanwhile"),
        atomic_write(tmp_path / "run" / "x.json") as tmp,
    ):
        shutil.rmtree(tmp.parent)


def test_libraries_that_write_are_understood_when_the_disk_is_full(tmp_path):
    "The same four libraries as in a run, each in its own words."
    big, table = torch.randn(100, 100), pa.table({"x": np.random.default_rng(0).random(10_000)})
    writers = {
        "torch": lambda p: torch.save({"a": big}, p),
        "arrow": lambda p: pq.write_table(table, p),
        "safetensors": lambda p: save_file({"a": big}, p),
        "text": lambda p: p.write_text("x" * 30_000),
    }
    for name, write in writers.items():

        def job(path=tmp_path / name, write=write):
            with atomic_write(path) as tmp:
                write(tmp)

        with pytest.raises(TgfrError, match=f"{name}: cannot be written, there is no room left"):
            limited(job)
        assert list(tmp_path.iterdir()) == []


def test_a_command_on_a_full_disk_says_one_line(tmp_path, refusal):
    said = []
    limited(
        lambda: said.append(
            refusal("ijb", "--simulate", "IJBB", "--scale", ".003", "--replicates", "0", "--out", str(tmp_path / "ijb"))
        )
    )
    assert "cannot be written, there is no room left" in said[0] or "could not be reserved" in said[0]
    assert "Traceback" not in said[0]


@needs_kill
@needs_locks
def test_a_command_is_refused_where_another_is_at_work(tmp_path, refusal):
    other = python("-c", HOLD, tmp_path, "refuse", 600)
    try:
        wait_for(lambda: (tmp_path / ".run.lock").is_file() and (tmp_path / ".run.lock").read_text(), other)
        said = refusal("ijb", "--simulate", "IJBB", "--scale", ".003", "--out", str(tmp_path))
        assert f"process {other.pid} is at work there" in said and os.listdir(tmp_path) == [".run.lock"]
    finally:
        kill_when(lambda: True, other)


@pytest.mark.parametrize("how", ["bit", "page"])
def test_ijb_names_the_rows_of_a_damaged_store(tmp_path, refusal, how):
    files, store = simulate_ijb("IJBB", tmp_path, scale=0.003, width=16)
    path = store / "embedding.npy"
    data = bytearray(path.read_bytes())
    data[2000:6096] = bytes([data[2000] ^ 1]) + data[2001:6096] if how == "bit" else bytes(4096)
    path.write_bytes(data)
    said = refusal(
        "ijb", str(files.folder), "--features", str(store), "--replicates", "0", "--out", str(tmp_path / "run")
    )
    assert f"{store}: embedding of rows 0 to" in said and "is not what was written" in said
    assert not (tmp_path / "run").exists()


def test_a_finished_command_leaves_no_lock_and_a_private_report(tmp_path):
    main(["ijb", "--simulate", "IJBB", "--scale", ".003", "--replicates", "0", "--out", str(tmp_path)])
    assert not (tmp_path / ".run.lock").exists()
    for name in ("report.html", "report.json", "roc.png"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600, name


WEIGHTS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor(4),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "yes": torch.tensor([True, False]),
    "": torch.zeros(2),
    "none": torch.zeros(0, 3),
}


def test_each_byte_of_saved_weights_counts(tmp_path):
    """Every byte of a file, one bit turned: named, unless it is the name under which checksums stand, or a space at the
    end of the head."""
    write_weights(tmp_path / "w", {k: v for k, v in WEIGHTS.items() if k}, {"model": "0a1b"})
    whole = (tmp_path / "w").read_bytes()
    expected = {k: v for k, v in WEIGHTS.items() if k}
    for name, value in read_weights(tmp_path / "w", expected).items():
        assert torch.equal(value, expected[name])
    silent = []
    for place in range(len(whole)):
        (tmp_path / "w").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(TgfrError):
            read_weights(tmp_path / "w", expected)
            silent.append(place)
    key = whole.index(b'"crc32"')
    assert set(silent) <= set(range(key + 1, key + 6)), [whole[s - 5 : s + 5] for s in silent]


def test_weights_of_others_are_read_and_the_same_weights_are_the_same_bytes(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "other")
    assert read_weights(tmp_path / "other", {"a": torch.zeros(2)})["a"].tolist() == [1, 1]
    about = {"model": "x", "frames": json.dumps([1, 2]), "more": "y"}
    for k in range(8):
        write_weights(tmp_path / f"{k}", WEIGHTS, about)
    assert len({(tmp_path / f"{k}").read_bytes() for k in range(8)}) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert {k: v for k, v in file.metadata().items() if k != "crc32"} == about
    for name, value in load_file(tmp_path / "0").items():
        assert torch.equal(value, WEIGHTS[name])
    assert (tmp_path / "0").stat().st_mode & 0o044 == 0o044
    write_weights(tmp_path / "0", WEIGHTS, private=True)
    assert (tmp_path / "0").stat().st_mode & 0o777 == 0o600


def test_tensors_that_share_memory_are_saved(tmp_path):
    "safetensors #202, #308: tied weights, slices, and convolutions with channels last."
    whole, conv = torch.arange(12.0).view(3, 4), torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    weights = {
        "whole": whole,
        "again": whole,
        "turned": whole.T,
        "part": whole[:, 1:3],
        "row": whole[1],
        "conv": conv.weight,
    }
    write_weights(tmp_path / "w", weights)
    found = load_file(tmp_path / "w")
    for name, value in weights.items():
        assert torch.equal(found[name], value), name

"Other processes for the tests: Python started, two that work together, one that is killed when it has come so far."

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

try:
    import resource
except ImportError:
    resource = None  # Windows

HERE = Path(__file__).parent
needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")


def python(*command) -> subprocess.Popen:
    "Python with one thread, on the CPU, which can import what lies beside the tests."
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes: subprocess.Popen, seconds: float = 300) -> list[str]:
    "What each printed; a failure with what it said."
    try:
        found = [p.communicate(timeout=seconds) for p in processes]
    finally:
        for p in processes:
            p.kill()
    for p, (_, said) in zip(processes, found):
        assert p.returncode == 0, said
    return [printed for printed, _ in found]


def run_two(*command) -> None:
    "`python COMMAND` in two processes that see each other (gloo)."
    finish(python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *command))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    "Until something is so; a failure where the process ends before."
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < end, "waited in vain"
        time.sleep(0.005)


def kill_when(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    "SIGKILL in the middle of the work."
    try:
        wait_for(condition, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL, "it ended before it could be killed"
    finally:
        process.kill()


def killed_at(number: int, job: Callable, folder: Path) -> bool:
    """Whether a forked child (see the fixture `one_thread`) that does `job(folder)` came to its `number`-th file
    operation below the folder, at which it gets SIGKILL."""
    if (child := os.fork()) == 0:
        count = itertools.count(1)

        def hook(event, args):
            if (
                event in ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree")
                and str(args[0]).startswith(str(folder))
                and next(count) == number
            ):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        code = 1
        try:
            job(folder), (code := 0)
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"it failed before operation {number}"
    return os.WIFSIGNALED(status)


def limited(job: Callable) -> None:
    "Do it where files have at most 20,000 bytes, which is what a full disk looks like from inside."
    if resource is None:
        pytest.skip("needs POSIX limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        job()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

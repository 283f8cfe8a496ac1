"""Types that a user's own checker sees: every public parameter and result is annotated, and a user's script is clean
under `mypy --strict` and pyright, which see each fault put into it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from style import unannotated
from sync import BIN, ROOT

SCRIPT = Path(__file__).parent / "user_script.py"
FAULTS = {  # a line more in the script, and what is wrong in it
    'wrong: str = TGFR.load("model")': "TGFR",
    "build_set_fusion(1, 512)": "build_set_fusion",
    "build_set_fusion('norm-squared', 'wide')": "build_set_fusion",
    "Report.from_json(1)": "from_json",
    "EncoderConfig(name='a', embedding='512', regions=None)": "embedding",
    "Report('a').conflig": "conflig",
    "eer([0.5], impostor_score=[0.1])": "impostor_score",
}


def test_public_functions_are_annotated():
    assert unannotated(ROOT / "tgfr") == []


def test_missing_annotations_are_seen(tmp_path):
    source = """
def full(a: int, *b: int, c: int = 1, **d: int) -> int: pass
def none(a, /, b, *c, d=1, **e): pass
def _own(a): pass
class A:
    def __init__(self, a): pass
    def method(self, a: int): pass
    @staticmethod
    def static(a) -> None: pass
    @classmethod
    def made(cls, a: int) -> "A": pass
    def __call__(self, a: int) -> int: pass
    def _own(self, a): pass
    @property
    def value(self): pass
"""
    (tmp_path / "a.py").write_text(source)
    assert [message.partition(": ")[2] for message in unannotated(tmp_path)] == [
        "none: a, b, d, c, e, its result",
        "A.__init__: a",
        "A.method: its result",
        "A.static: a",
        "A.value: its result",
    ]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> tuple[Path, dict[int, str]]:
    "A script with faults at its end, and the word that a message about each line has."
    path = tmp_path_factory.mktemp("types") / "faulty.py"
    text = SCRIPT.read_text(encoding="utf-8")
    path.write_text(text + "\n".join(FAULTS) + "\n", encoding="utf-8")
    return path, dict(enumerate(FAULTS.values(), text.count("\n") + 1))


def check_seen(messages: dict[int, str], wanted: dict[int, str]) -> None:
    "There is a message for each faulty line, about what is wrong in it, and none for another."
    assert messages.keys() == wanted.keys(), messages
    for line, word in wanted.items():
        assert word in messages[line]


@pytest.fixture(scope="module")
def mypy(request, tmp_path_factory):
    "Runs `mypy --strict` on files as on a user's, whose checker says nothing of installed packages themselves."
    cache = getattr(request.config, "cache", None)  # reading torch anew takes a minute
    folder = cache.mkdir("mypy") if cache else tmp_path_factory.mktemp("mypy")
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={folder}", "--config-file=", "--no-error-summary"]

    def run(*files: Path) -> list[str]:
        command = [sys.executable, "-m", "mypy", *options, *map(str, files)]
        env = os.environ | {"MYPYPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if ": note: " not in line]

    return run


@pytest.mark.timeout(1800)
def test_a_users_script_is_clean_under_mypy(mypy, faulty):
    assert mypy(SCRIPT) == []
    path, wanted = faulty
    lines = [line.split(":", 2) for line in mypy(path)]
    check_seen({int(number): message for _, number, message in lines}, wanted)


@pytest.fixture(scope="module")
def pyright(tmp_path_factory):
    "Runs pyright on a file; message by line."
    command = BIN / "pyright"
    if not (command.is_file() or shutil.which("pyright")):
        pytest.skip("pyright is not installed: pip install '.[dev]'")

    def run(file: Path) -> dict[int, str]:
        folder = tmp_path_factory.mktemp("pyright")
        shutil.copy(file, folder)
        config = {"include": [file.name], "extraPaths": [str(ROOT)], "reportUnusedExpression": False}
        (folder / "pyrightconfig.json").write_text(json.dumps(config))
        options = ["--outputjson", "--pythonpath", sys.executable, "--project", str(folder)]
        env = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
        done = subprocess.run([str(command), *options], env=env, capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert report["summary"]["filesAnalyzed"] == 1, done.stdout + done.stderr
        diagnostics = report["generalDiagnostics"]
        return {d["range"]["start"]["line"] + 1: d["message"] for d in diagnostics if d["severity"] == "error"}

    return run


def test_a_users_script_is_clean_under_pyright(pyright, faulty):
    assert pyright(SCRIPT) == {}
    path, wanted = faulty
    check_seen(pyright(path), wanted)

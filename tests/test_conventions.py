"""The house is in order: notebooks, library and README in step, notebooks clean, ruff satisfied, and what
CONTRIBUTING says of rooms, names and lines. Each rule is a function, and is shown what it forbids."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
from style import STYLE, faults, measure
from sync import BIN, ROOT, notebooks, out_of_step, unformatted

ROOMS = "data formats encoders losses fusion sets evaluation training report workflows".split()
LOOSE = {"tgfr.core": "00_core", "tgfr.hub": "11_hub", "tgfr.recognizer": "12_recognizer", "tgfr.cli": "13_cli"}
WHOLE_HOUSE = ("artefacts", "packaging")  # folders of tests that belong to no room; so do files directly in tests/
MAX_LINES = 450
BANNED = {  # names given no more, and what is said instead
    "Judge": "AllPairsEvaluator",
    "SetJudge": "SetEvaluator",
    "judge": "evaluate",
    "fingerprint": "digest (stored files keep the key)",
    "set_aside": "split_people",
    "OnnxFace": "OnnxEncoder",
    "RnnText": "RNNTextEncoder",
    "TransformerText": "TransformerTextEncoder",
    "IBlock": "IBasicBlock",
    "Sighting": "Detection",
    "Followed": "TrackingResult",
    "Running": "OnlineFusion",
    "in_a_line": "one_line",
    "check_names": "check_choices",
    "load_built": "load_module",
    "say": "log",
    "conclude": "save_report",
    "note_training": "record_training_images",
    "seen_people": "identity_overlap",
    "weightless_fusion": "parameter_free_fusion",
    "likeness": "similarity",
}


@dataclass(frozen=True)
class Module:
    "A module of the library, as the rules see it."

    name: str  # tgfr.data.faces
    notebook: str  # 01_data/02_faces
    source: str = ""

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)


def library() -> list[Module]:
    "The modules of the library, each with the notebook that its own head names."
    modules = []
    for path in sorted((ROOT / "tgfr").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        head = re.search(r"File to edit: (?:\.\./)+nbs/(.+)\.ipynb", source)
        if head:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            modules.append(Module(name, head[1], source))
    return modules


def test_every_module_has_its_notebook():
    "Nothing is in the library but what a notebook makes, and every notebook with a number is a module."
    generated = ("_modidx.py", "__init__.py", "__main__.py")
    files = [path for path in (ROOT / "tgfr").rglob("*.py") if path.name not in generated]
    assert len(library()) == len(files) > 100


# Notebooks, library and README


def test_library_and_readme_come_from_the_notebooks():
    assert out_of_step() == [], "run `make sync`"


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_is_clean(path):
    assert unclean(json.loads(path.read_text(encoding="utf-8"))) == [], "run `make sync`"


def unclean(notebook: dict) -> list[str]:
    "What a run leaves in a notebook and is not kept."
    messages = [f"metadata {name}" for name in notebook["metadata"] if name != "kernelspec"]
    for cell in notebook["cells"]:
        if cell["metadata"] or cell.get("execution_count") is not None:
            messages.append(f"metadata of {cell['id']}")
        if any(output.get("output_type") == "error" for output in cell.get("outputs", [])):
            messages.append(f"error in {cell['id']}")
    return messages


def test_unclean_notebooks_are_seen():
    error = {"output_type": "error"}
    cells = [{"id": "a", "metadata": {"x": 1}}, {"id": "b", "metadata": {}, "execution_count": 1, "outputs": [error]}]
    seen = unclean({"metadata": {"kernelspec": {}, "toc": {}}, "cells": cells})
    assert seen == ["metadata toc", "metadata of a", "metadata of b", "error in b"]


def test_exported_cells_are_formatted():
    cells = {str(path.relative_to(ROOT)): unformatted(path) for path in notebooks()}
    assert {path: ids for path, ids in cells.items() if ids} == {}, "run `make sync`"


def test_unformatted_cells_are_seen(tmp_path):
    sources = {"a": "#| export\nx = {'a':1}", "b": '#| export\nx = {"a": 1}', "c": "x = {'a':1}"}
    cells = [{"id": name, "cell_type": "code", "source": [source]} for name, source in sources.items()]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    assert unformatted(tmp_path / "n.ipynb") == ["a"]


# Lines


def test_one_move_a_line():
    """No walrus inside a call, no comprehension inside another, one statement a line, 120 columns; shares as
    `tools/style.py` counts them."""
    assert faults(ROOT / "tgfr") == []
    counts = measure(ROOT / "tgfr")
    assert counts["over 100 columns, %"] < STYLE["over 100 columns, %"] == 7
    assert counts["comprehensions per 1,000 lines"] < STYLE["comprehensions per 1,000 lines"] == 40


@pytest.mark.parametrize("folder", ["tools", "docs", "benchmarks", "tests/helpers"])
def test_one_move_a_line_beside_the_library(folder):
    assert faults(ROOT / folder) == []


BAD = {
    "f(a := 1)": "a walrus inside a call",
    "f(k=(a := 1))": "a walrus inside a call",
    "b = [[x for x in y] for y in z]": "a comprehension inside a comprehension",
    "if b: c = 1": "more than one statement on a line",
    "d = 1; e = 2": "more than one statement on a line",
    "try: f()\nfinally:\n    g()": "more than one statement on a line",
    f"x = '{'x' * 116}'": "more than 120 columns",
    f"x = 1  # {'x' * 112}": "more than 120 columns",
}
GOOD = ["g = [h for h in b if (i := h)]", "if (a := f()):\n    b = 1", f"x = '{'x' * 114}'", "a, b = 1, 2"]
GOOD.append(f"__all__ = ['{'x' * 120}']")  # wrapped by nbdev


def test_faults_of_style_are_seen(tmp_path):
    for line, fault in BAD.items():
        (tmp_path / "a.py").write_text(f"z = 1\n{line}\n")
        assert faults(tmp_path) == [f"a.py:2: {fault}"]
    (tmp_path / "a.py").write_text("\n".join(GOOD))
    assert faults(tmp_path) == []


def test_shares_of_style_are_counted(tmp_path):
    lines = ["x = 1"] * 90 + [f"x = '{'x' * 100}'"] * 8 + ["x = [y for y in z]", "x = {y for y in z}"]
    (tmp_path / "a.py").write_text("\n".join(lines))
    counts = measure(tmp_path)
    assert counts["lines"] == 100 and counts["over 100 columns, %"] == 8 and counts["over 120 columns, %"] == 0
    assert counts["comprehensions per 1,000 lines"] == 20


def ruff(*arguments, text: str | None = None) -> str:
    "What `ruff check` says; nothing where all is well."
    command = [BIN / "ruff", "check", "--output-format", "concise", "--quiet", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True).stdout


def test_ruff():
    assert ruff(".") == ""


@pytest.mark.parametrize("name", ["nbs/some.ipynb", "tests/some.py", "tools/some.py", "benchmarks/some.py"])
def test_ruff_sees_wide_lines_outside_the_library(name):
    source = f"x = '{'x' * 120}'\n"
    if name.endswith(".ipynb"):
        cell = {"id": "a", "cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
        document = {"cells": [cell | {"source": [source]}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        source = json.dumps(document)
    assert "E501" in ruff("--stdin-filename", name, "-", text=source)


# Modules


@pytest.mark.parametrize("module", library(), ids=lambda module: module.name)
def test_module_is_short_and_documented(module):
    assert too_long(module) == ""
    assert undocumented(importlib.import_module(module.name)) == []


def too_long(module: Module) -> str:
    lines = len(module.source.splitlines())
    return f"{module.notebook}: {lines} lines, at most {MAX_LINES}" if lines > MAX_LINES else ""


def undocumented(module) -> list[str]:
    "The module's own public names, and the methods of its classes, that have no docstring."
    names = [] if module.__doc__ else [module.__name__]
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if not (inspect.isfunction(thing) or inspect.isclass(thing)):
            continue
        if not inspect.getdoc(thing):
            names.append(name)
        members = vars(thing) if inspect.isclass(thing) else {}
        for member, value in members.items():
            is_method = inspect.isfunction(value) or isinstance(value, (property, classmethod, staticmethod))
            if is_method and not member.startswith("_") and not inspect.getdoc(getattr(thing, member)):
                names.append(f"{name}.{member}")
    return names


def test_long_and_undocumented_modules_are_seen():
    assert too_long(Module("tgfr.a", "01_a", "\n" * 450)) == ""
    assert too_long(Module("tgfr.a", "01_a", "\n" * 451)) == "01_a: 451 lines, at most 450"
    bad = type(sys)("bad")
    source = """
class A:
    def b(self): pass
    @property
    def c(self): pass
    @classmethod
    def d(cls): pass
    @staticmethod
    def e(): "Does."
    def _f(self): pass
def g(): pass
def h(): "Does."
def _i(): pass
"""
    exec(source, vars(bad))
    assert undocumented(bad) == ["bad", "A", "A.b", "A.c", "A.d", "g"]


def imports(module: Module, known: set[str]) -> Iterator[tuple[str, str]]:
    """The modules among `known` that a module imports, anywhere in it, and the names it takes from them: imported by
    name, or as an attribute of the module."""
    aliases = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                aliases[name.asname or name.name] = name.name
        elif isinstance(node, ast.ImportFrom):
            package = module.name.split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *filter(None, [node.module])])
            for name in node.names:
                if f"{source}.{name.name}" in known:
                    aliases[name.asname or name.name] = f"{source}.{name.name}"
                elif source in known:
                    yield source, name.name
    for source in aliases.values():
        if source in known:
            yield source, ""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            source = aliases.get(ast.unparse(node.value))
            if source in known:
                yield source, node.attr


def early_imports(modules: list[Module]) -> list[str]:
    "Imports from a notebook that is read later, or from the notebook itself."
    place = {module.name: module.notebook for module in modules}
    messages = []
    for module in modules:
        for source, name in imports(module, set(place)):
            if place[source] >= module.notebook:
                messages.append(f"{module.notebook} imports {name} of {place[source]}, which is read later")
    return messages


def private_imports(modules: list[Module]) -> list[str]:
    "Private names that a module takes from another."
    known = {module.name for module in modules}
    messages = []
    for module in modules:
        for source, name in imports(module, known):
            if name.startswith("_") and not name.startswith("__"):
                messages.append(f"{module.notebook} imports {name} of {source}")
    return messages


def test_imports_follow_the_reading_order():
    assert early_imports(library()) == []


def test_no_private_name_is_imported_from_another_module():
    assert private_imports(library()) == []


def test_imports_of_all_kinds_are_seen():
    first = Module("tgfr.data.a", "01_data/01_a", "from ..sets import b\nb._c\nb.__doc__")
    lines = ["from ..data.a import x, _y", "import tgfr.data.a", "tgfr.data.a._z", "import tgfr.core as c", "c._u"]
    lines.append("def f():\n    from tgfr.core import _v")
    second = Module("tgfr.sets.b", "06_sets/02_b", "\n".join(lines))
    core = Module("tgfr.core", "00_core", "import numpy as np\nfrom pathlib import _x\nnp._x")
    house = [core, first, second]
    late = "which is read later"
    assert early_imports(house) == [
        f"01_data/01_a imports {name} of 06_sets/02_b, {late}" for name in ("", "_c", "__doc__")
    ]
    taken = [message.removeprefix("06_sets/02_b imports ") for message in private_imports(house)[1:]]
    assert private_imports(house)[0] == "01_data/01_a imports _c of tgfr.sets.b"
    assert sorted(taken) == ["_u of tgfr.core", "_v of tgfr.core", "_y of tgfr.data.a", "_z of tgfr.data.a"]


def misplaced(modules: list[Module]) -> list[str]:
    """Modules that are no room's and not loose ones, in a folder with another number or name than their room's, or
    in a notebook of another name than their own; leaf names that occur twice."""
    messages = []
    folders = {f"tgfr.{room}": f"{number:02}_{room}" for number, room in enumerate(ROOMS, 1)}
    for module in modules:
        folder, _, notebook = module.notebook.rpartition("/")
        if module.name in LOOSE:
            fits = module.notebook == LOOSE[module.name]
        else:
            room = folders.get(module.name.rpartition(".")[0])
            fits = folder == room and re.fullmatch(rf"\d\d_{module.leaf}", notebook) is not None
        if not fits:
            messages.append(f"{module.name} from {module.notebook}")
    leaves = [module.leaf for module in modules]
    return messages + [f"{leaf} twice" for leaf in sorted(set(leaves)) if leaves.count(leaf) > 1]


def doubled_numbers(folder: Path) -> list[str]:
    "Entries of a folder of notebooks, and of the folders in it, that begin with the number of another."
    messages = []
    for inside in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
        named = sorted(path.name for path in inside.iterdir() if path.name[0].isdigit())
        numbers = [name.split("_")[0] for name in named]
        messages += [f"{inside.name}/{name}" for name, number in zip(named, numbers) if numbers.count(number) > 1]
        messages += [f"{inside.name}/{name}" for name, number in zip(named, numbers) if not number.isdigit()]
    return messages


def test_each_room_leaf_and_number_is_there_once():
    assert misplaced(library()) == []
    assert {module.name.split(".")[1] for module in library()} == {*ROOMS, "core", "hub", "recognizer", "cli"}
    assert doubled_numbers(ROOT / "nbs") == []


def test_misplaced_modules_and_doubled_numbers_are_seen(tmp_path):
    good = [Module("tgfr.core", "00_core"), Module("tgfr.data.faces", "01_data/02_faces")]
    bad = {
        "tgfr.commands": "11_commands",  # a loose one more
        "tgfr.alignment.fcam": "05_alignment/01_fcam",  # no room
        "tgfr.data.text": "03_encoders/01_text",  # another room's
        "tgfr.losses.a": "05_losses/01_a",  # another number
        "tgfr.sets.b": "06_sets/01_c",  # another name
        "tgfr.sets.d": "06_sets/1b_d",
        "tgfr.hub": "13_hub",
    }
    house = [*good, *(Module(name, notebook) for name, notebook in bad.items())]
    assert misplaced(good) == [] and len(misplaced(house)) == len(bad)
    assert misplaced([*good, Module("tgfr.formats.faces", "02_formats/01_faces")]) == ["faces twice"]
    for name in ("00_core.ipynb", "01_data/01_a.ipynb", "01_data/02_b.ipynb", "01_data/02_c.ipynb", "11b_x.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert doubled_numbers(tmp_path) == [f"{tmp_path.name}/11b_x.ipynb", "01_data/02_b.ipynb", "01_data/02_c.ipynb"]


# Tests


def homeless(tests: Path, modules: list[Module]) -> list[str]:
    "Files of tests in a room's folder that name no module of that room; folders that are no room."
    names = {module.name for module in modules}
    messages = []
    for path in sorted(tests.rglob("test_*.py")):
        folder = path.relative_to(tests).parent
        if folder == Path() or folder.parts[0] in WHOLE_HOUSE:
            continue
        if ".".join(["tgfr", *folder.parts, path.stem.removeprefix("test_")]) not in names:
            messages.append(str(path.relative_to(tests)))
    return messages


def test_tests_mirror_the_package():
    assert homeless(ROOT / "tests", library()) == []


def test_homeless_tests_are_seen(tmp_path):
    for name in ("test_cli.py", "data/test_faces.py", "packaging/test_x.py", "data/test_pages.py", "old/test_faces.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    house = [Module("tgfr.data.faces", "01_data/02_faces")]
    assert homeless(tmp_path, house) == ["data/test_pages.py", "old/test_faces.py"]


# Names


def given_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    "The names that a module gives: to functions, classes, parameters, variables and attributes."
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias):
            yield node.lineno, node.asname or node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def banned(modules: list[Module]) -> list[str]:
    "`notebook:line: name` of each name given that is banned, alone or as a word of a longer one."
    messages = []
    for module in modules:
        for line, name in given_names(module.tree):
            words = {name, name.lstrip("_"), *name.split("_")}
            messages += [f"{module.name}:{line}: {name}, say {BANNED[word]}" for word in sorted(words & BANNED.keys())]
    return messages


def test_no_banned_name_is_given():
    assert banned(library()) == []


def test_banned_names_are_seen():
    source = """
from x import y as say
class Judge:
    fingerprint: str
def in_a_line(judge=1): self.set_aside = 1
for _say in z: pass
text_fingerprint = 1
"""
    fine = "x.fingerprint\nf(fingerprint=1)\nmeta['fingerprint']\nessay = judgement = 1"
    seen = [message.split(", say")[0].partition(": ")[2] for message in banned([Module("tgfr.a", "01_a", source)])]
    names = ["say", "Judge", "fingerprint", "in_a_line", "judge", "set_aside", "_say", "text_fingerprint"]
    assert sorted(seen) == sorted(names)
    assert banned([Module("tgfr.a", "01_a", fine)]) == []


# Repeats


class Nameless(ast.NodeTransformer):
    "Names and constants do not count."

    def visit_Name(self, node):
        return ast.Name("x")

    def visit_arg(self, node):
        return ast.arg("x")

    def visit_Constant(self, node):
        return ast.Constant(type(node.value).__name__)


def may_repeat(statement: ast.stmt) -> bool:
    "Imports, fields and docstrings may stand twice."
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, (ast.Import, ast.ImportFrom, ast.AnnAssign))


def runs_of(body: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    "One to three statements in a row."
    for width in (1, 2, 3):
        for start in range(len(body) + 1 - width):
            yield body[start : start + width]


def twins(sources: dict[str, str], min_nodes: int = 120) -> list[list[str]]:
    "Where one to three statements in a row, of `min_nodes` or more, stand twice but for names and constants."
    places = defaultdict(set)
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            body = getattr(node, "body", None)
            if not isinstance(body, list):
                continue
            for run in runs_of([statement for statement in body if not may_repeat(statement)]):
                if sum(1 for statement in run for _ in ast.walk(statement)) >= min_nodes:
                    key = "".join(ast.dump(Nameless().visit(deepcopy(statement))) for statement in run)
                    places[key].add(f"{name}:{run[0].lineno}")
    return [sorted(found) for found in places.values() if len(found) > 1]


def test_no_logic_stands_twice():
    sources = {}
    for folder in ("tgfr", "benchmarks", "docs", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "_modidx.py":
                sources[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    assert twins(sources) == []


def test_repeats_are_seen():
    once = """def f(a, b):
    c = [g(i, 2 * a) for i in range(b) if i % 2]
    while c: a += c.pop() * h(b, c[-1] if c else 0)
    return a
"""
    renamed = re.sub(r"\b[abci]\b", r"other_\g<0>", once).replace("2", "7")
    assert twins({"one": once}, 45) == [] and ["one:1", "two:1"] in twins({"one": once, "two": renamed}, 45)
    longer = once + once.replace("def f", "def g").replace("2 * a", "2 * a + 1")
    assert twins({"one": longer}, 45) == [] or ["one:1", "one:5"] not in twins({"one": longer}, 45)


def test_installed_without_extras_imports():
    subprocess.run([sys.executable, "-c", "import tgfr.cli"], check=True)

"""The house is in order: notebooks, library and README in step, notebooks clean, ruff satisfied."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections import defaultdict
from copy import deepcopy

import pytest
from style import STYLE, faults, measure
from sync import BIN, ROOT, notebooks, out_of_step, unformatted


def test_library_and_readme_come_from_the_notebooks():
    assert out_of_step() == [], "run `make sync`"


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_is_clean(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert set(nb["metadata"]) <= {"kernelspec"}, "run `make sync`"
    for cell in nb["cells"]:
        assert cell["metadata"] == {} and cell.get("execution_count") is None, "run `make sync`"
        assert not any(o.get("output_type") == "error" for o in cell.get("outputs", []))


def test_exported_cells_are_formatted():
    cells = {str(path.relative_to(ROOT)): unformatted(path) for path in notebooks()}
    assert {path: ids for path, ids in cells.items() if ids} == {}, "run `make sync`"


def test_one_move_a_line():
    """No walrus inside a call, no comprehension inside another, one statement a line; shares as `tools/style.py`
    counts them."""
    assert faults(ROOT / "tgfr") == []
    counts = measure(ROOT / "tgfr")
    assert counts["over 100 columns, %"] < STYLE["over 100 columns, %"]
    assert counts["comprehensions per 1,000 lines"] < STYLE["comprehensions per 1,000 lines"]


def test_the_count_of_style_sees_what_it_forbids(tmp_path):
    bad = "f(a := 1)\nb = [[x for x in y] for y in z]\nif b: c = 1\nd = 1; e = 2\ng = [h for h in b if (i := h)]\n"
    (tmp_path / "bad.py").write_text(bad)
    assert [fault.partition(" ")[0] for fault in faults(tmp_path)] == [
        "bad.py:1:",
        "bad.py:2:",
        "bad.py:3:",
        "bad.py:4:",
    ]


def test_ruff():
    run = subprocess.run([BIN / "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "tgfr").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_module_is_short_and_documented(path):
    if path.name in ("_modidx.py", "__init__.py", "__main__.py"):
        return
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, "a module has at most 450 lines"
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert module.__doc__
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert inspect.getdoc(thing), f"{name} has no docstring"
        parts = vars(thing) if inspect.isclass(thing) else {}
        for part in (
            p
            for p in parts
            if not p.startswith("_") and (inspect.isfunction(parts[p]) or isinstance(parts[p], (property, classmethod)))
        ):
            assert inspect.getdoc(getattr(thing, part)), f"{name}.{part} has no docstring"


def notebook_of() -> dict[str, str]:
    "Each module and the notebook it is exported from, as in the file's own head."
    heads = {
        path: re.search(r"File to edit: (?:\.\./)+nbs/(.+)\.ipynb", path.read_text(encoding="utf-8"))
        for path in (ROOT / "tgfr").rglob("*.py")
    }
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): head[1] for path, head in heads.items() if head}


def imports(module: str) -> list[tuple[str, str]]:
    "The modules of ours that a module imports, anywhere in it, and the names it takes from them."
    taken = []
    for node in ast.walk(ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        source = ".".join([*module.split(".")[: -node.level], node.module or ""]) if node.level else node.module
        taken += [(source, name.name) for name in node.names]
    return taken


def test_imports_follow_the_reading_order():
    place = notebook_of()
    for module, notebook in place.items():
        for source, name in imports(module):
            if source not in place:
                continue
            assert place[source] < notebook, (
                f"{module} ({notebook}) imports {name} from {source} ({place[source]}), which is read later"
            )


def test_no_private_name_is_imported_from_another_module():
    place = notebook_of()
    assert [
        (module, source, name)
        for module in place
        for source, name in imports(module)
        if source in place and name.startswith("_")
    ] == []


def test_each_room_leaf_and_number_is_there_once():
    place = notebook_of()
    rooms = "data formats encoders losses fusion sets evaluation training report workflows".split()
    loose = [module for module in place if module.count(".") == 1]
    assert sorted(loose) == ["tgfr.cli", "tgfr.core", "tgfr.hub"]
    assert {module.split(".")[1] for module in place} == {*rooms, "core", "hub", "cli"}
    leaves = [module.rpartition(".")[2] for module in place]
    assert sorted(leaves) == sorted(set(leaves)), "no leaf name twice"
    assert [
        name
        for name in rooms
        for module, nb in place.items()
        if module.startswith(f"tgfr.{name}.") and nb.split("/")[0][3:] != name
    ] == []
    for folder in {path.parent for path in notebooks()}:
        numbers = [name.split("_")[0] for path in folder.iterdir() if (name := path.name)[0].isdigit()]
        assert len(numbers) == len(set(numbers)), f"{folder.name}: a number twice"


class Nameless(ast.NodeTransformer):
    "Names and constants do not count."

    def visit_Name(self, node):
        return ast.Name("x")

    def visit_arg(self, node):
        return ast.arg("x")

    def visit_Constant(self, node):
        return ast.Constant(type(node.value).__name__)


def twins(sources: dict[str, str], least: int = 120) -> list[list[str]]:
    """Where one to three statements in a row, of `least` syntax nodes or more, stand twice but for names and
    constants. Imports, fields and docstrings may."""

    def may(s):
        return (
            isinstance(s, (ast.Import, ast.ImportFrom, ast.AnnAssign))
            or isinstance(s, ast.Expr)
            and isinstance(s.value, ast.Constant)
        )

    found = defaultdict(set)
    for name, source in sources.items():
        bodies = [node.body for node in ast.walk(ast.parse(source)) if isinstance(getattr(node, "body", None), list)]
        for body in ([s for s in body if not may(s)] for body in bodies):
            for run in (body[k : k + width] for width in (1, 2, 3) for k in range(len(body) + 1 - width)):
                if sum(1 for s in run for _ in ast.walk(s)) >= least:
                    found["".join(ast.dump(Nameless().visit(deepcopy(s))) for s in run)].add(f"{name}:{run[0].lineno}")
    return [sorted(places) for places in found.values() if len(places) > 1]


def test_no_logic_stands_twice():
    once = """def f(a, b):
    c = [g(i, 2 * a) for i in range(b) if i % 2]
    while c: a += c.pop() * h(b, c[-1] if c else 0)
    return a
"""
    renamed = re.sub(r"\b[abci]\b", r"other_\g<0>", once).replace("2", "7")
    assert twins({"one": once}, 45) == [] and ["one:1", "two:1"] in twins({"one": once, "two": renamed}, 45)
    assert (
        twins(
            {
                str(p.relative_to(ROOT)): p.read_text(encoding="utf-8")
                for part in ("tgfr", "benchmarks", "docs")
                for p in (ROOT / part).rglob("*.py")
                if p.name != "_modidx.py"
            }
        )
        == []
    )


def test_installed_without_extras_imports():
    subprocess.run([sys.executable, "-c", "import tgfr.cli"], check=True)

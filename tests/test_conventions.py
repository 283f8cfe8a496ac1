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
from sync import BIN, ROOT, notebooks, out_of_step


def test_library_and_readme_come_from_the_notebooks():
    assert out_of_step() == [], "run `make sync`"


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_is_clean(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert set(nb["metadata"]) <= {"kernelspec"}, "run `make sync`"
    for cell in nb["cells"]:
        assert cell["metadata"] == {} and cell.get("execution_count") is None, "run `make sync`"
        assert not any(o.get("output_type") == "error" for o in cell.get("outputs", []))


def test_ruff():
    run = subprocess.run([BIN / "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "tgfr").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_module_is_short_and_documented(path):
    if path.name in ("_modidx.py", "__init__.py"): return
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450, "a module has at most 450 lines"
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert module.__doc__
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__: continue
        if inspect.isfunction(thing) or inspect.isclass(thing): assert inspect.getdoc(thing), f"{name} has no docstring"
        parts = vars(thing) if inspect.isclass(thing) else {}
        for part in (p for p in parts if not p.startswith("_") and (inspect.isfunction(parts[p]) or isinstance(parts[p], (property, classmethod)))):
            assert inspect.getdoc(getattr(thing, part)), f"{name}.{part} has no docstring"


def test_nothing_flows_back():
    rooms = ["core", "data", "encoders", "alignment", "fusion", "sets", "evaluation", "training"]
    for path in (ROOT / "tgfr").rglob("*.py"):
        own = path.relative_to(ROOT / "tgfr").parts[0].removesuffix(".py")
        if own not in rooms: continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            if not isinstance(node, ast.ImportFrom) or not (node.level or module.startswith("tgfr")): continue
            inside = node.level == 1 and len(path.relative_to(ROOT / "tgfr").parts) > 1
            target = own if inside else module.removeprefix("tgfr.").split(".")[0]
            assert target in rooms[:rooms.index(own) + 1], f"{path}: imports {module} from a later room"


class Nameless(ast.NodeTransformer):
    "Names and constants do not count."
    def visit_Name(self, node): return ast.Name("x")
    def visit_arg(self, node): return ast.arg("x")
    def visit_Constant(self, node): return ast.Constant(type(node.value).__name__)


def twins(sources: dict[str, str], least: int = 120) -> list[list[str]]:
    "Where one to three statements in a row, of `least` syntax nodes or more, stand twice but for names and constants. Imports, fields and docstrings may."
    def may(s): return isinstance(s, (ast.Import, ast.ImportFrom, ast.AnnAssign)) or isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)
    found = defaultdict(set)
    for name, source in sources.items():
        bodies = [node.body for node in ast.walk(ast.parse(source)) if isinstance(getattr(node, "body", None), list)]
        for body in ([s for s in body if not may(s)] for body in bodies):
            for run in (body[k:k + width] for width in (1, 2, 3) for k in range(len(body) + 1 - width)):
                if sum(1 for s in run for _ in ast.walk(s)) >= least: found["".join(ast.dump(Nameless().visit(deepcopy(s))) for s in run)].add(f"{name}:{run[0].lineno}")
    return [sorted(places) for places in found.values() if len(places) > 1]


def test_no_logic_stands_twice():
    once = "def f(a, b):\n    c = [g(i, 2 * a) for i in range(b) if i % 2]\n    while c: a += c.pop() * h(b, c[-1] if c else 0)\n    return a\n"
    renamed = re.sub(r"\b[abci]\b", r"other_\g<0>", once).replace("2", "7")
    assert twins({"one": once}, 45) == [] and ["one:1", "two:1"] in twins({"one": once, "two": renamed}, 45)
    assert twins({str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for part in ("tgfr", "benchmarks", "docs") for p in (ROOT / part).rglob("*.py") if p.name != "_modidx.py"}) == []


def test_installed_without_extras_imports():
    subprocess.run([sys.executable, "-c", "import tgfr.cli"], check=True)

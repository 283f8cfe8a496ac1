"""The house is in order: notebooks, library and README in step, notebooks clean, ruff satisfied."""
import ast
import json
import subprocess
import sys

import pytest
from house import BIN, ROOT, notebooks, out_of_step


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
    text = path.read_text(encoding="utf-8")
    if path.name in ("_modidx.py", "__init__.py"): return
    assert len(text.splitlines()) <= 350, "a module has at most 350 lines"
    for node in ast.parse(text).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"): continue
        assert ast.get_docstring(node), f"{node.name} has no docstring"
        for part in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"): assert ast.get_docstring(part), f"{node.name}.{part.name} has no docstring"


def test_nothing_flows_back():
    rooms = ["core", "data", "encoders", "alignment", "fusion", "evaluation", "training"]
    for path in (ROOT / "tgfr").rglob("*.py"):
        own = path.relative_to(ROOT / "tgfr").parts[0].removesuffix(".py")
        if own not in rooms: continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            if not isinstance(node, ast.ImportFrom) or not (node.level or module.startswith("tgfr")): continue
            inside = node.level == 1 and len(path.relative_to(ROOT / "tgfr").parts) > 1
            target = own if inside else module.removeprefix("tgfr.").split(".")[0]
            assert target in rooms[:rooms.index(own) + 1], f"{path}: imports {module} from a later room"


def test_installed_without_extras_imports():
    subprocess.run([sys.executable, "-c", "import tgfr.cli"], check=True)

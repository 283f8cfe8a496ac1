"""Count what makes lines hard to read, in the library or any folder: `python tools/style.py [FOLDER]`."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

STYLE = {"over 100 columns, %": 7, "comprehensions per 1,000 lines": 40}  # limits that tests/test_conventions.py holds
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


def modules(folder: Path) -> list[Path]:
    "The Python files of a folder, without the index that nbdev writes."
    generated = ("_modidx.py", "__init__.py", "__main__.py")
    return sorted(path for path in Path(folder).rglob("*.py") if path.name not in generated)


def measure(folder: Path) -> dict[str, float]:
    "Lines, shares of wide lines, and comprehensions, walruses and tuple assignments per 1,000 lines."
    sources = [path.read_text(encoding="utf-8") for path in modules(folder)]
    lines = [line for source in sources for line in source.splitlines()]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]

    def share(columns):
        return 100 * sum(len(line) > columns for line in lines) / len(lines)

    def rate(test):
        return 1000 * sum(map(test, nodes)) / len(lines)

    return {
        "lines": len(lines),
        "over 100 columns, %": share(100),
        "over 120 columns, %": share(120),
        "comprehensions per 1,000 lines": rate(lambda node: isinstance(node, COMPREHENSIONS)),
        "walruses per 1,000 lines": rate(lambda node: isinstance(node, ast.NamedExpr)),
        "tuple assignments per 1,000 lines": rate(_is_tuple_assignment),
    }


def _is_tuple_assignment(node) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)


def faults(folder: Path) -> list[str]:
    "`file:line: what`: walruses in calls, comprehensions in comprehensions, second statements, lines over 120 columns."
    messages = []
    for path in modules(folder):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        by_line = {}
        for node in ast.walk(tree):
            for line, what in _faults_of(node):
                by_line.setdefault(line, what)
        listed = _lines_of_all(tree)
        for number, line in enumerate(source.splitlines(), 1):
            if len(line) > 120 and number not in listed:
                by_line[number] = "more than 120 columns"
        messages += [f"{path.relative_to(folder)}:{line}: {what}" for line, what in sorted(by_line.items())]
    return messages


def _lines_of_all(tree: ast.Module) -> range:
    "The lines of `__all__`, which nbdev wraps."
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return range(node.lineno, node.end_lineno + 1)
    return range(0)


def _faults_of(node) -> Iterator[tuple[int, str]]:
    "Line and name of each fault that begins at a node."
    inner = [child for child in ast.walk(node) if child is not node]
    if isinstance(node, ast.Call):
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if isinstance(argument, ast.NamedExpr):
                yield argument.lineno, "a walrus inside a call"
    if isinstance(node, COMPREHENSIONS) and any(isinstance(child, COMPREHENSIONS) for child in inner):
        yield node.lineno, "a comprehension inside a comprehension"
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if not isinstance(body, list):
            continue
        taken = getattr(node, "lineno", None)
        for statement in body:
            if statement.lineno == taken:
                yield taken, "more than one statement on a line"
            taken = statement.end_lineno


def unannotated(folder: Path) -> list[str]:
    "`file:line: function: what`: parameters and results of public functions and methods that have no annotation."
    messages = []
    for path in modules(folder):
        for name, function in _public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            missing = _missing(function, is_method="." in name)
            if missing:
                messages.append(f"{path.relative_to(folder)}:{function.lineno}: {name}: {', '.join(missing)}")
    return messages


def _public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    "The functions that a user may call, methods as `Class.method`."
    for node in tree.body:
        if isinstance(node, FUNCTIONS) and node.name[0] != "_":
            yield node.name, node
        if not isinstance(node, ast.ClassDef) or node.name[0] == "_":
            continue
        for member in node.body:
            if isinstance(member, FUNCTIONS) and (member.name[0] != "_" or member.name in ("__init__", "__call__")):
                yield f"{node.name}.{member.name}", member


def _missing(function: ast.FunctionDef, is_method: bool) -> list[str]:
    "What of a function has no annotation."
    given = function.args
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    parameters = [*given.posonlyargs, *given.args][1 if is_method and not static else 0 :]
    parameters += [p for p in (*given.kwonlyargs, given.vararg, given.kwarg) if p]
    missing = [p.arg for p in parameters if p.annotation is None]
    if function.returns is None and function.name != "__init__":
        missing.append("its result")
    return missing


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tgfr")
    for name, value in measure(folder).items():
        print(f"{name:<36} {value:>10,.1f}")
    for fault in faults(folder):
        print(fault)

"""Count what makes lines hard to read, in the library or any folder: `python tools/style.py [FOLDER]`."""

import ast
import sys
from pathlib import Path

STYLE = {"over 100 columns, %": 7, "comprehensions per 1,000 lines": 40}  # limits that tests/test_conventions.py holds
COMPREHENSIONS = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp


def modules(folder: Path) -> list[Path]:
    "The Python files of a folder, without the index that nbdev writes."
    return sorted(
        path for path in Path(folder).rglob("*.py") if path.name not in ("_modidx.py", "__init__.py", "__main__.py")
    )


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
    told = []
    for path in modules(folder):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {}
        for node in ast.walk(tree):
            for line, what in _faults_of(node):
                found.setdefault(line, what)
        listing = next(
            (n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"), None
        )
        names = range(listing.lineno, listing.end_lineno + 1) if listing else ()  # wrapped by nbdev
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if len(line) > 120 and number not in names:
                found[number] = "more than 120 columns"
        told += [f"{path.relative_to(folder)}:{line}: {what}" for line, what in sorted(found.items())]
    return told


def _faults_of(node):
    "Line and name of each fault that begins at a node."
    inner = [child for child in ast.walk(node) if child is not node]
    if isinstance(node, ast.Call):
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if isinstance(argument, ast.NamedExpr):
                yield argument.lineno, "a walrus inside a call"
    if isinstance(node, COMPREHENSIONS) and any(isinstance(child, COMPREHENSIONS) for child in inner):
        yield node.lineno, "a comprehension inside a comprehension"
    for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
        if not isinstance(body, list):
            continue
        starts = [statement.lineno for statement in body]
        if len(starts) > len(set(starts)) or hasattr(node, "lineno") and node.lineno in starts:
            yield starts[0], "more than one statement on a line"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tgfr")
    for name, value in measure(folder).items():
        print(f"{name:<36} {value:>10,.1f}")
    for fault in faults(folder):
        print(fault)

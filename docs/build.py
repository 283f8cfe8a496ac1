"""The documentation as one static site, `make docs`: every notebook, data card and note, from stored outputs.
Nothing is executed or imported."""

import ast
import io
import json
import re
import shutil
import sys
import tokenize
from pathlib import Path

from fastcore.nbio import mk_cell, write_nb
from nbdev.doclinks import nbglob
from nbdev.process import NBProcessor, Processor
from nbdev.processors import hide_, hide_line, strip_ansi
from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).parent.parent
NOTES = {
    "docs/glossary.md": "glossary.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def text(node) -> str:
    return "" if node is None else ast.unparse(node)


def hint(node) -> str:
    "A type, without what only the command line reads and without the quotes of a forward reference."
    if isinstance(node, ast.Subscript) and text(node.value).split(".")[-1] in ("Annotated", "Positional"):
        return hint(getattr(node.slice, "elts", [node.slice])[0])
    return text(node).strip("'")


def prose(words: str) -> str:
    "A comment or docstring as markdown: outside backticks nothing but `$` means anything."
    escape = str.maketrans({c: "\\" + c for c in "<*[|"})
    return "`".join(part if i % 2 else part.translate(escape) for i, part in enumerate(words.split("`")))


def parameters(node) -> list[tuple]:
    """(name with its stars, type, default, line of its comment, string below) of a function's parameters or a
    dataclass's fields."""
    if isinstance(node, ast.ClassDef):
        init = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
        if init or not any("dataclass" in text(d) for d in node.decorator_list):
            return parameters(init[0]) if init else []
        below = [
            b.value.value if isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant) else ""
            for b in [*node.body[1:], ast.Pass()]
        ]
        return [
            (f.target.id, hint(f.annotation), text(f.value), f.end_lineno, b)
            for f, b in zip(node.body, below)
            if isinstance(f, ast.AnnAssign)
        ]
    args, plain = node.args, node.args.posonlyargs + node.args.args
    found = [("", a, d) for a, d in zip(plain, [None] * (len(plain) - len(args.defaults)) + args.defaults)]
    found += (
        [("*", args.vararg, None)] * bool(args.vararg)
        + [("", a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults)]
        + [("**", args.kwarg, None)] * bool(args.kwarg)
    )
    return [
        (stars + a.arg, hint(a.annotation), text(d), a.lineno * (a.lineno < node.body[0].lineno), "")
        for stars, a, d in found
        if a.arg not in ("self", "cls")
    ]


def table(node, comments: dict[int, str]) -> str:
    "Type, default and comment of each parameter; empty where no comment says anything."

    def code(words):
        return f"`{words}`".replace("|", "\\|") if words else ""

    found = parameters(node)
    last = {line: name for name, _, _, line, _ in found}  # a comment behind several parameters is about the last
    rows = [
        (
            f"**{prose(name)}**",
            code(kind),
            code(default),
            prose(below or (comments.get(line, "") if last[line] == name else "")),
        )
        for name, kind, default, line, below in found
    ]
    if (
        (returns := getattr(node, "returns", None))
        and returns.lineno < node.body[0].lineno
        and returns.lineno in comments
    ):
        rows.append(("returns", code(hint(returns)), "", prose(comments[returns.lineno])))
    if not any(row[-1] for row in rows):
        return ""
    columns = [
        column for column in zip(("parameter", "type", "default", "meaning"), ("---",) * 4, *rows) if any(column[2:])
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in zip(*columns))


def entry(node, comments: dict[int, str], kind: str, fence: str = ":::::") -> str:
    """A definition as a directive of Sphinx's Python domain: signature, docstring, table, and the public methods of
    a class."""
    shown, decorators, returns = (
        table(node, comments),
        {text(d).split("(")[0] for d in node.decorator_list},
        hint(getattr(node, "returns", None)),
    )
    if decorators & {"property", "functools.cached_property", "cached_property"}:
        kind, signature, options = "property", "", [f":type: {returns}"] * bool(returns)
    else:
        arguments = [
            name + (f": {kind}" if kind and not shown else "") + (f"={default}" if default else "")
            for name, kind, default, *_ in parameters(node)
        ]
        signature, options = (
            f"({', '.join(arguments)})" + (f" -> {returns}" if returns else ""),
            [f":{d}:" for d in ("classmethod", "staticmethod") if d in decorators],
        )
    members = (
        [
            entry(f, comments, "method", fence[1:])
            for f in node.body
            if isinstance(f, ast.FunctionDef) and f.name[0] != "_"
        ]
        if kind == "class"
        else []
    )
    return "\n".join(
        [
            f"{fence}{{py:{kind}}} {node.name}{signature}",
            *options,
            "",
            prose(ast.get_docstring(node) or ""),
            "",
            shown,
            "",
            *members,
            fence,
            "",
        ]
    )


def interface(source: str) -> str:
    "The public definitions and constants of an exported cell."
    comments, found = (
        {
            t.start[0]: t.string.lstrip("# ")
            for t in tokenize.generate_tokens(io.StringIO(source).readline)
            if t.type == tokenize.COMMENT
        },
        [],
    )
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
            found.append(entry(node, comments, "class" if isinstance(node, ast.ClassDef) else "function"))
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        names = [
            n.id
            for target in getattr(node, "targets", [getattr(node, "target", None)])
            for n in ast.walk(target)
            if isinstance(n, ast.Name) and n.id[0] != "_"
        ]
        value = f":value: {json.dumps(text(node.value))}\n" if len(names) == 1 and len(text(node.value)) <= 80 else ""
        comment = prose(comments.get(node.lineno) or comments.get(node.end_lineno, ""))
        found += [f":::::{{py:data}} {name}\n{value}\n{comment}\n:::::\n" for name in names]
    return "\n".join(found)


class Pages(Processor):
    """An exported cell becomes its interface and, folded, its source (nbdev's own processor would execute it); of
    one with `echo: false` only the output is shown."""

    def begin(self):
        cells, self.nb.cells = self.nb.cells, []
        for cell in cells:
            if "default_exp" in cell.directives_:
                self.nb.cells.append(
                    mk_cell(f":::{{py:module}} tgfr.{cell.directives_['default_exp']}\n:::", "markdown")
                )
            elif "export" in cell.directives_:
                if found := interface(cell.source):
                    self.nb.cells.append(mk_cell(found, "markdown"))
                if body := [
                    node for node in ast.parse(cell.source).body if not isinstance(node, (ast.Import, ast.ImportFrom))
                ]:
                    names = ", ".join(node.name for node in body if hasattr(node, "name"))
                    cell.metadata |= {
                        "tags": ["hide-input"],
                        "mystnb": {"code_prompt_show": f"Source of {names}" if names else "Source"},
                    }
                    self.nb.cells.append(cell)
            else:
                if cell.directives_.get("echo") == "false":
                    cell.metadata |= {"tags": ["remove-input"]}
                self.nb.cells.append(cell)
        for cell in self.nb.cells:
            cell.setdefault("directives_", {})


def modules() -> str:
    "A page that lists each module with its notebook, lines and public names."
    rows = []
    for path in sorted(p for p in (ROOT / "tgfr").rglob("*.py") if p.name[0] != "_"):
        source = path.read_text(encoding="utf-8")
        names = next(
            ast.literal_eval(node.value)
            for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        )
        notebook = re.search(r"File to edit: (?:\.\./)+nbs/(.+)\.ipynb", source)[1]
        rows.append((".".join(path.relative_to(ROOT).with_suffix("").parts), notebook, source.count("\n"), len(names)))
    total = ("**all**", f"{len(rows)} notebooks", sum(r[2] for r in rows), sum(r[3] for r in rows))
    body = [
        f"| `{module}` | [{notebook}]({notebook}.ipynb) | {lines:,} | {names} |"
        for module, notebook, lines, names in rows
    ] + ["| {} | {} | {:,} | {} |".format(*total)]
    return "\n".join(
        [
            "# Modules",
            "",
            "The exported library, a module a notebook. `tests/test_conventions.py` keeps each below 450 lines.",
            "",
            "| module | notebook | lines | public names |",
            "|---|---|---:|---:|",
            *body,
            "",
        ]
    )


def stage(folder: Path) -> None:
    "Everything the site is made of, in `folder`: rooms in reading order, the index with the table of contents."
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        ROOT / "nbs", folder, ignore=shutil.ignore_patterns(".*", "*.ipynb", "runs")
    )  # what the tutorials computed is no page
    shutil.copytree(ROOT / "data_cards", folder / "data_cards")
    for source, page in NOTES.items():
        if (ROOT / source).is_file():
            shutil.copy(ROOT / source, folder / page)
    (folder / "modules.md").write_text(modules(), encoding="utf-8")
    rooms = {"Tutorials": [], "Core": []}
    for path in sorted(nbglob(ROOT / "nbs", as_path=True)):
        page = path.relative_to(ROOT / "nbs")
        (pages := NBProcessor(path, [hide_, hide_line, strip_ansi, Pages])).process()
        if page.stem == "index":
            index = pages.nb
            continue
        room = (
            page.parts[0].split("_")[-1].capitalize()
            if len(page.parts) > 1
            else "Core"
            if page.stem.startswith("00")
            else "Hub, commands, results"
        )
        rooms.setdefault(room, []).append(str(page.with_suffix("")))
        write_nb(pages.nb, folder / page)
    rooms["Hub, commands, results"] = rooms.pop("Hub, commands, results")  # after the rooms they use
    rooms["Data cards"] = sorted(f"data_cards/{p.stem}" for p in (folder / "data_cards").glob("*.md"))
    rooms["Project"] = [
        page.removesuffix(".md") for page in (*NOTES.values(), "modules.md") if (folder / page).is_file()
    ]
    for caption, pages in rooms.items():
        if pages:
            listing = [":::{toctree}", ":hidden:", f":caption: {caption}", *pages, ":::"]
            index.cells.append(mk_cell("\n".join(listing), "markdown"))
    write_nb(index, folder / "index.ipynb")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_docs"
    staged = out.with_name("_proc")
    stage(staged)
    made = staged / ".sphinx/html"  # myst-nb leaves a folder beside what it makes
    options = ["-q", "-W", "--keep-going", "-j", "2", "-c", str(ROOT / "docs"), "-d", str(staged / ".sphinx/trees")]
    failed = sphinx([*options, str(staged), str(made)])
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(made, out)
    sys.exit(failed)

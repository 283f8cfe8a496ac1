"""Notebooks to library and README, and whether the committed ones are in step: `python tools/sync.py --write`."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from nbdev.doclinks import nbglob

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def notebooks() -> list[Path]:
    "All notebooks, in reading order."
    return sorted(nbglob(ROOT / "nbs", as_path=True))


def readme() -> str:
    "README.md as made from nbs/index.ipynb: its markdown, the tables its cells make, and other visible code."
    parts = ["<!-- made from nbs/index.ipynb by `make sync`: edit the notebook -->"]
    for cell in json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source.startswith("#| echo: false"):
            parts += ["".join(o["data"]["text/markdown"]).rstrip() for o in cell["outputs"]]
        elif not source.startswith("#| hide"):
            parts.append(f"```python\n{source}\n```")
    text = "\n\n".join(parts) + "\n"
    text = re.sub(r"\]\((?!\w+:|#)", "](nbs/", text)  # links of the notebook, seen from the project's folder
    return text.replace("](nbs/../", "](")


def export(to: Path) -> None:
    "Export the library to the folder `to`."
    paths = [str(path) for path in notebooks()]
    code = f"from nbdev.export import nb_export\nfor path in {paths!r}: nb_export(path, lib_path={str(to)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def formatted(source: str) -> str:
    "An exported cell as `ruff format` writes it; a cell that does not parse stays as it is."
    command = [BIN / "ruff", "format", "--stdin-filename", str(ROOT / "cell.py"), "-"]
    run = subprocess.run(command, input=source, capture_output=True, text=True, cwd=ROOT)
    return run.stdout.rstrip("\n") if run.returncode == 0 else source


def unformatted(path: Path, mend: bool = False) -> list[str]:
    "Ids of the exported cells of a notebook that `ruff format` would change; with `mend` it does."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    changed = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or not re.match(r"#\| *export", source):
            continue
        if (better := formatted(source)) != source:
            cell["source"] = better.splitlines(keepends=True)
            changed.append(cell["id"])
    if changed and mend:
        text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    return changed


def write() -> None:
    "Format exported cells; bring the library, the notebooks' metadata and README into step."
    for path in notebooks():
        unformatted(path, mend=True)
    subprocess.run([BIN / "nbdev-export"], check=True, cwd=ROOT)
    subprocess.run([BIN / "nbdev-clean"], check=True, cwd=ROOT)
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")


def library(folder: Path) -> dict[str, str]:
    "Text of each exported module below `folder`; the way to its notebook, which depends on the folder, is left out."

    def text(p):
        return re.sub(r"(\.\./)+\S*?nbs/", "nbs/", p.read_text(encoding="utf-8"))

    return {
        str(p.relative_to(folder)): text(p)
        for p in folder.rglob("*.py")
        if p.name not in ("_modidx.py", "__init__.py", "__main__.py")
    }


def out_of_step() -> list[str]:
    "What differs from the notebooks: modules, README."
    with tempfile.TemporaryDirectory() as tmp:
        export(Path(tmp) / "tgfr")
        fresh, kept = library(Path(tmp) / "tgfr"), library(ROOT / "tgfr")
    wrong = [f"tgfr/{name}" for name in sorted(fresh.keys() | kept.keys()) if fresh.get(name) != kept.get(name)]
    return wrong + ([] if (ROOT / "README.md").read_text(encoding="utf-8") == readme() else ["README.md"])


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    sys.exit(f"out of step with the notebooks: {wrong}" if (wrong := out_of_step()) else 0)

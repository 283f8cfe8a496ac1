"""`make bench`: run every script of this folder and write one table, RESULTS.md, with the machine named. Scripts
print Markdown; further arguments go to all of them."""

import datetime
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from measure import machine

HERE = Path(__file__).parent


def main():
    scripts = sorted(p for p in HERE.glob("*.py") if p.stem not in ("run", "measure"))
    parts, failed = [], []
    for script in scripts:
        print(f"{script.name} ...", file=sys.stderr, flush=True)
        run = subprocess.run(
            [sys.executable, script, *sys.argv[1:]],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HERE)},
        )
        parts.append(run.stdout.strip() or f"`{script.name}` printed nothing")
        if run.returncode:
            failed.append(script.name)
    packages = ", ".join(f"{p} {version(p)}" for p in ("tgfr", "torch", "numpy"))
    how = "Medians of several runs, each contender in a process of its own."
    head = f"# Speed and memory\n\nWritten by `make bench` on {datetime.date.today()}: {machine()}; {packages}. {how}"
    text = "\n\n".join([head, *parts]) + "\n"
    print(text)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; RESULTS.md is as it was")
    (HERE / "RESULTS.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

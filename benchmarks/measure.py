"""How the benchmarks measure: each contender in a process of its own, medians of several runs, memory above the
start."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from tgfr.core import peak_memory


def timed(f: Callable[[], float | None], repeats: int) -> dict:
    """Medians of wall and CPU seconds over `repeats` calls (after one that warms up, if there are several), memory
    above the start in MB, and what `f` gave last."""
    start, wall, cpu = peak_memory(), [], []
    for _ in range(repeats + (repeats > 1)):
        w, c = time.perf_counter(), time.process_time()
        value = f()
        wall.append(time.perf_counter() - w), cpu.append(time.process_time() - c)
    wall, cpu = (x[1:] or x for x in (wall, cpu))
    return dict(
        wall=statistics.median(wall),
        cpu=statistics.median(cpu),
        memory=1024 * (peak_memory() - start),
        runs=len(wall),
        value=value,
    )


def one(script: str, *args, threads: int):
    "What `script --one ARGS` prints last, as JSON, in a process of its own."
    run = subprocess.run(
        [sys.executable, script, "--one", *map(str, args)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def compare(
    script: str,
    title: str,
    cases: dict[str, dict[str, Callable[[int], dict]]],
    slow: tuple[str, ...] = (),
    tolerance: float = 1e-4,
) -> None:
    """Run `script --one CASE NAME` for each case and contender, and print a Markdown section.

    A contender takes a number of repeats and returns `timed(...)`. The first of each case is what the others are
    compared with; their values must agree to `tolerance`. A case named in `slow` runs its first contender once."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median counts (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases), help="which (default: all)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # the process that measures
    args = parser.parse_args()
    if args.one:
        print(json.dumps(cases[args.one[0]][args.one[1]](args.repeats)))
        return
    print(f"### {title}\n\n{args.threads} threads. Ratio: CPU time of the first line of a case to this one.\n")
    print("| case | | wall s | CPU s | ratio | memory above start, MB | runs |\n|---|---|---:|---:|---:|---:|---:|")
    for case in args.cases:
        found = {}
        for k, name in enumerate(cases[case]):
            found[name] = one(
                script, case, name, "--repeats", 1 if k == 0 and case in slow else args.repeats, threads=args.threads
            )
        first, *_ = found.values()
        for name, r in found.items():
            if None not in (first["value"], r["value"]) and abs(first["value"] - r["value"]) > tolerance * abs(
                first["value"]
            ):
                sys.exit(f"{case}: {next(iter(found))} gives {first['value']}, {name} {r['value']}")
            note = f" ({r['note']})" if r.get("note") else ""
            print(
                f"| {case} | {name}{note} | {r['wall']:.2f} | {r['cpu']:.2f} | {first['cpu'] / r['cpu']:.1f} "
                f"| {r['memory']:.0f} | {r['runs']} |",
                flush=True,
            )
    print()


def machine() -> str:
    "What it ran on."
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )

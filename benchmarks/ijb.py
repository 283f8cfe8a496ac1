"""IJB-B and IJB-C at full size: ours against the loops of the usual scripts, stage by stage. Prints markdown tables.

`python benchmarks/ijb.py`: simulates each set (1.3 and 2.6 GB on disk while it runs), evaluates it both ways, each
in a process of its own, and shows how cost grows with pairs."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine, one
from sklearn.metrics import roc_curve

from tgfr.core import peak_memory
from tgfr.encoders.feature_store import FeatureStore
from tgfr.evaluation.ijb import IjbProtocol, bootstrap_subjects, evaluate_ijb
from tgfr.evaluation.metrics import split_scores, tpr_at_fpr
from tgfr.evaluation.templates import pair_scores
from tgfr.formats.ijb_files import IjbFiles

STAGES = ("reading", "pooling", "1:1 scores", "1:1 figures", "1:N")
FPRS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def ours(folder, share):
    start, cpu = peak_memory(), time.process_time()
    protocol = IjbProtocol.read(IjbFiles.open(folder))
    store = FeatureStore.open(folder / "features")
    templates = protocol.pool(store.embedding, "N1D1F0")
    result = evaluate_ijb(protocol, templates, "N1D1F0")
    seconds, used, memory = dict(protocol.seconds), time.process_time() - cpu, peak_memory()
    before = time.perf_counter()
    evaluate_ijb(protocol, templates, "N1D1F0", bootstrap=bootstrap_subjects(protocol))
    extra = time.perf_counter() - before - sum(seconds[s] for s in STAGES[2:])
    metrics = result.verification.value | result.identification.value
    value = {str(metric): x for metric, x in metrics.items()}
    return dict(
        seconds=seconds,
        cpu=used,
        start=start,
        memory=memory,
        intervals=extra,
        with_intervals=peak_memory(),
        value=value,
        features=store.embedding.nbytes / 2**30,
    )


def loops(folder, share):
    "Text by numpy, a full scan for each template, pairs in batches, a whole ROC, a sort for each probe."
    start, cpu, seconds, clock, value = peak_memory(), time.process_time(), {}, time.perf_counter(), {}

    def done(stage, scale=1):
        nonlocal clock
        seconds[stage], clock = (time.perf_counter() - clock) * scale, time.perf_counter()

    files = IjbFiles.open(folder)
    faces = np.loadtxt(files.path("face_tid_mid.txt"), dtype=str)
    detector = np.loadtxt(files.path("name_5pts_score.txt"), dtype=str)[:, -1].astype(np.float32)
    template, media = faces[:, 1].astype(int), faces[:, 2].astype(int)
    pairs = np.loadtxt(files.path("template_pair_label.txt"), dtype=int)
    csvs = [
        np.loadtxt(path, dtype=str, delimiter=",", skiprows=1)[:, :2].astype(int)
        for path in sorted((files.folder / "meta").glob("*_1N_*.csv"))
    ]
    done("reading")

    features = np.load(folder / "features" / "embedding.npy")[:, 0] * detector[:, None]
    ids = np.unique(template)
    templates = np.zeros((len(ids), features.shape[1]), np.float32)
    for row, t in enumerate(ids):
        mine = np.where(template == t)[0]
        for m in np.unique(media[mine]):
            templates[row] += features[mine[media[mine] == m]].mean(0)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    done("pooling")

    place = np.zeros(ids.max() + 1, int)
    place[ids] = np.arange(len(ids))
    count = max(1, int(len(pairs) * share))
    scores = np.zeros(len(pairs), np.float32)
    for a in range(0, count, 100_000):
        some = slice(a, min(a + 100_000, count))
        scores[some] = np.sum(templates[place[pairs[some, 0]]] * templates[place[pairs[some, 1]]], axis=1)
    done("1:1 scores", len(pairs) / count)
    for a in range(count, len(pairs), 1 << 20):  # what was not timed
        rest = slice(a, min(a + (1 << 20), len(pairs)))
        scores[rest] = np.einsum("pe,pe->p", templates[place[pairs[rest, 0]]], templates[place[pairs[rest, 1]]])

    clock = time.perf_counter()
    fpr, tpr, _ = roc_curve(pairs[:, 2], scores, drop_intermediate=False)
    for f in FPRS:
        value[f"{f:g}"] = float(tpr[fpr <= f].max())
    done("1:1 figures")

    *galleries, probe = [dict(rows.tolist()) for rows in csvs]
    probes, who = np.array(sorted(probe)), np.array([probe[t] for t in sorted(probe)])
    ranks = []
    for gallery in galleries:
        theirs, subjects = np.array(sorted(gallery)), np.array([gallery[t] for t in sorted(gallery)])
        similarity, found = templates[place[probes]] @ templates[place[theirs]].T, []
        for p in range(len(probes)):
            order = np.argsort(similarity[p])[::-1]
            if who[p] in subjects:
                found.append(np.where(subjects[order] == who[p])[0][0])
        ranks.append(np.mean(np.array(found) == 0))
    value["rank-1"] = float(np.mean(ranks))
    done("1:N")
    return dict(seconds=seconds, cpu=time.process_time() - cpu, start=start, memory=peak_memory(), value=value)


def growth(folder, share):
    "Seconds for pair scores and figures of 10^5, 10^6 and 10^7 pairs of 20,000 templates."
    draw, rows = np.random.default_rng(0), []
    templates = draw.standard_normal((20_000, 512), np.float32) / 512**0.5
    for pairs in (10**5, 10**6, 10**7):
        first, second, labels = (
            draw.integers(3000, size=pairs),
            draw.integers(3000, 20_000, size=pairs),
            draw.random(pairs) < 1e-3,
        )
        start = time.perf_counter()
        scores = pair_scores(templates, first, second)
        scored = time.perf_counter()
        tpr_at_fpr(*split_scores(scores, labels), FPRS)
        figured, some = time.perf_counter(), min(pairs, 10**6)
        for a in range(0, some, 100_000):
            np.sum(templates[first[a : a + 100_000]] * templates[second[a : a + 100_000]], axis=1)
        looped = (time.perf_counter() - figured) * pairs / some
        start_roc = time.perf_counter()
        roc_curve(labels, scores)
        rows.append([pairs, scored - start, figured - scored, looped, time.perf_counter() - start_roc])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", choices=["IJBB", "IJBC"], nargs="+", default=["IJBB", "IJBC"], help="sets (default: both)"
    )
    parser.add_argument("--scale", type=float, default=1, help="of the sets (default: 1)")
    parser.add_argument(
        "--share",
        type=float,
        default=0.1,
        help="share of the pairs that the loop scores; its time is scaled up (default: 0.1)",
    )
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument(
        "--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS
    )  # the process that measures
    args = parser.parse_args()
    if args.one:
        print(json.dumps({"ours": ours, "loops": loops, "growth": growth}[args.one[0]](Path(args.one[1]), args.share)))
        return
    print(
        f"{machine()}, {args.threads} threads, load {os.getloadavg()[0]:.1f} at the start; "
        "wall seconds, one run each.\n"
    )
    for size in args.size:
        with tempfile.TemporaryDirectory() as folder:
            call = f"simulate_ijb({size!r}, {folder!r}, scale={args.scale})"
            made = f"from tgfr.evaluation.simulated_ijb import simulate_ijb; {call}"
            subprocess.run([sys.executable, "-c", made], check=True)
            a, b = (
                one(__file__, name, folder, "--share", args.share, threads=args.threads) for name in ("ours", "loops")
            )
        for f, key in [(f"{f:g}", f"TPR@FPR=1e-{k}") for f, k in zip(FPRS, range(6, 0, -1))] + [("rank-1", "rank-1")]:
            if abs(a["value"][key] - b["value"][f]) > 2e-3:
                sys.exit(f"{size} {key}: ours {a['value'][key]}, the loops {b['value'][f]}")
        scaled = f" at scale {args.scale:g}" if args.scale != 1 else ""
        print(f"## {size}, simulated{scaled}\n\n| stage | ours | loops |\n|---|---:|---:|")
        for stage in STAGES:
            part = f" (from {args.share:.0%} of the pairs)" if stage == "1:1 scores" and args.share < 1 else ""
            print(f"| {stage} | {a['seconds'][stage]:.2f} | {b['seconds'][stage]:.1f}{part} |")
        ours_took, loops_took = sum(a["seconds"][s] for s in STAGES), sum(b["seconds"].values())
        print(f"| **all** | **{ours_took:.2f}** | **{loops_took:.1f}** |")
        print(f"| CPU seconds | {a['cpu']:.1f} | {b['cpu']:.0f} without the pairs scaled up |")
        print(f"| peak memory, GB | {a['memory']:.2f} | {b['memory']:.2f} |")
        print(f"| 200 draws for intervals, more | {a['intervals']:.2f} (peak {a['with_intervals']:.2f} GB) | |\n")
        print(
            f"Features {a['features']:.2f} GB on disk; Python with libraries alone holds {a['start']:.2f} GB. "
            "All values agree.\n"
        )
    print(
        "## Pairs of 20,000 templates\n\n| pairs | scores | metrics | scores, loop | metrics, whole ROC |\n"
        "|---:|---:|---:|---:|---:|"
    )
    for pairs, *seconds in one(__file__, "growth", ".", threads=args.threads):
        print(f"| {pairs:,} | " + " | ".join(f"{s:.2f}" for s in seconds) + " |")


if __name__ == "__main__":
    main()

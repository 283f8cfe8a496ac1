"""Word-region and sentence loss, forward and backward: the textbook loop against ours. Prints a markdown table.

`python benchmarks/losses.py`: 256 dimensions, 22 words, 14x14 regions, B = 32 and 128, each measured in a process of its own."""
import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

D, T, SIDE = 256, 22, 14


def batch(B):
    "Unit regions, words, globals and sentences of a batch, and its identities; gradients wanted."
    import torch
    import torch.nn.functional as F
    torch.manual_seed(0)
    shapes = (B, D, SIDE, SIDE), (B, D, T), (B, D), (B, D)
    return [F.normalize(torch.randn(shape), dim=1).requires_grad_() for shape in shapes], torch.arange(B) // 2


def ours(regions, words, g, s, identity):
    from tgfr.alignment.losses import sentence_loss, word_region_loss
    return word_region_loss(regions, words) + sentence_loss(g, s, identity)


def loop(regions, words, g, s, identity):
    "The same as the formulas read: one caption after the other, contexts and all."
    import torch
    import torch.nn.functional as F
    columns, R = [], regions.flatten(2)
    for word in words:
        share = torch.softmax(word.T @ R, 1)
        context = torch.softmax(4 * share, 2) @ R.transpose(1, 2)
        columns.append(torch.logsumexp(5 * F.cosine_similarity(word.T[None], context, dim=2), 1))
    S, pairs = 10 * torch.stack(columns, 1), torch.arange(len(words))
    cosines = 10 * F.cosine_similarity(g[:, None], s[None], dim=2)
    cosines = cosines.masked_fill((identity[:, None] == identity) & (pairs[:, None] != pairs), -torch.inf)
    return sum(F.cross_entropy(logits, pairs) for logits in (S, S.T, cosines, cosines.T))


def peak():
    "Most memory this process ever held, MB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measure(f, B, repeats):
    "Medians of wall and CPU seconds over `repeats` (after one that warms up, if there are several), and the memory above the start, as a dict."
    import torch
    tensors, identity = batch(B)
    f(*(t[:2] for t in tensors), identity[:2]).backward()  # libraries load, threads start
    start, wall, cpu = peak(), [], []
    for _ in range(repeats + (repeats > 1)):
        for t in tensors: t.grad = None
        w, c = time.perf_counter(), time.process_time()
        loss = f(*tensors, identity)
        loss.backward()
        wall.append(time.perf_counter() - w), cpu.append(time.process_time() - c)
    wall, cpu = (x[1:] or x for x in (wall, cpu))
    return dict(wall=statistics.median(wall), cpu=statistics.median(cpu), memory=peak() - start, loss=loss.item(), threads=torch.get_num_threads(), torch=torch.__version__)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 128], help="batch sizes (default: 32 128)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each; the loop above B=64 runs once (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "B"), help=argparse.SUPPRESS)  # the process that measures
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure({"loop": loop, "ours": ours}[args.one[0]], int(args.one[1]), args.repeats)))
        return
    rows, environment = [], os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    for B in args.sizes:
        for name in ("loop", "ours"):
            command = [sys.executable, __file__, "--one", name, str(B), "--repeats", str(1 if name == "loop" and B > 64 else args.repeats)]
            rows.append((name, B, json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)))
        (_, _, expected), (_, _, found) = rows[-2:]
        if abs(expected["loss"] - found["loss"]) > 1e-4 * abs(expected["loss"]): sys.exit(f"B={B}: the loop gives {expected['loss']}, ours {found['loss']}")
    print(f"Word-region + sentence loss, forward and backward; D={D}, {T} words, {SIDE}x{SIDE} regions; {rows[0][2]['threads']} threads of {os.cpu_count()} cores, "
          f"{platform.machine()}, torch {rows[0][2]['torch']}; medians.\n")
    print("| B | | wall s | CPU s | peak memory above start, MB |\n|---:|---|---:|---:|---:|")
    for name, B, r in rows: print(f"| {B} | {name} | {r['wall']:.2f} | {r['cpu']:.2f} | {r['memory']:.0f} |")


if __name__ == "__main__":
    main()

"""CAFace of the published size over many sets and over long ones: one set at a time against ours, a stream, and its
memory. Prints a markdown table."""

from functools import partial

import numpy as np
import torch
from measure import compare, timed

from tgfr.core import rng
from tgfr.sets.caface import CAFace, fuse_sets
from tgfr.sets.caface_state import fuse_sharded, fuse_stream
from tgfr.sets.pooling import FaceSet, fuse_ragged

E, S, SETS, IMAGES = 512, 384, 12_115, 227_630  # IJB-B has as many templates and images


def model():
    "CAFace with random weights, in eval mode."
    torch.manual_seed(0)
    caface = CAFace(E, S).eval()
    caface.norm.norm_bn.running_mean.fill_(13.0)
    return caface


def images(n):
    "Features and styles of `n` images, float16 as a store keeps them."
    draw = rng("benchmark sets")
    return [draw.random((n, *shape), np.float32).astype(np.float16) for shape in ((E,), (S, 2))]


def one_set(embedding, styles):
    return FaceSet(
        torch.from_numpy(embedding).float()[None],
        torch.ones(1, len(embedding), dtype=torch.bool),
        torch.from_numpy(styles).float()[None],
    )


def sizes():
    "Set sizes with a heavy tail: most sets have a few images, some have hundreds."
    share = rng("sizes").lognormal(0, 1.6, SETS)
    counts = np.maximum(1, np.floor(share * IMAGES / share.sum())).astype(int)
    rest = IMAGES - counts.sum()
    counts[np.argsort(-counts)[: abs(rest)]] += np.sign(rest)  # the largest take it
    return counts


def each(caface, embedding, template, styles):
    "A loop over sets, which lie one after the other."
    ends = np.flatnonzero(np.diff(template, append=-1)) + 1
    with torch.no_grad():
        return None, torch.cat([caface.fuse(one_set(embedding[a:b], styles[a:b])) for a, b in zip([0, *ends], ends)])


def ragged(f, repeats):
    caface, template, (embedding, styles) = model(), np.repeat(np.arange(SETS), sizes()), images(IMAGES)
    f(caface, embedding[:300], template[:300], styles[:300])  # libraries load, threads start
    return timed(lambda: float(f(caface, embedding, template, styles)[1].double().square().sum()), repeats)


def stream(total, at_once, repeats):
    "One set of `total` images in chunks of 256. They come from a small pool, so that what is measured is the fusion."
    caface, whole = model(), one_set(*images(total if at_once else 1024))
    chunks = []
    for a in range(0, whole.mask.shape[1], 256):
        chunk = slice(a, a + 256)
        chunks.append(FaceSet(whole.embedding[:, chunk], whole.mask[:, chunk], whole.styles[:, chunk]))
    fuse_stream(caface, chunks[:2])

    @torch.no_grad()
    def read():
        if at_once:
            return fuse_sets(caface, whole, chunk=256).embedding.double().square().sum().item()
        state = fuse_stream(caface, (chunks[k % 4] for k in range(-(-total // 256))))
        return caface.readout(state).embedding.double().square().sum().item()

    return timed(read, repeats)


if __name__ == "__main__":
    cases = {
        f"{SETS:,} sets of 1 to {sizes().max():,} images, {IMAGES:,} in all": {
            "one set at a time": partial(ragged, each),
            "buckets (`fuse_ragged`)": partial(ragged, fuse_ragged),
            "chunks (`fuse_sharded`)": partial(ragged, fuse_sharded),
        }
    }
    many = tuple(cases)
    cases["8,192 images of one set"] = {"a stream of chunks of 256": partial(stream, 8192, False)}
    cases["8,192 images of one set, in memory"] = {"all chunks of 256 side by side": partial(stream, 8192, True)}
    long = tuple(f"stream of {n:,} images" for n in (10**3, 10**4, 10**5, 10**6))
    cases |= {
        name: {"a stream of chunks of 256": partial(stream, n, False)}
        for name, n in zip(long, (10**3, 10**4, 10**5, 10**6))
    }
    compare(
        __file__,
        f"CAFace ({E} numbers, {S} styles, 4 centres). "
        "The published code needs 0.35 s for 8,192 images in chunks of 256 on two such cores",
        cases,
        slow=(*many, *long),
    )

"""How often 95 % intervals hold the truth, and how often chance sets an asterisk: `python
benchmarks/interval_coverage.py` prints the table that the form of intervals was chosen by.

People are directions on a sphere, their photos lie around them, some people's farther than others'. The scores of
two such photos of different people are known exactly, so the truth is known."""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta

from tgfr.core import rng
from tgfr.evaluation.bootstrap import PersonBootstrap, Verification
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.results import Condition, result_rows

FPRS = (1e-2, 1e-3, 1e-4)
KEYS = (*(Metric("TPR", fpr) for fpr in (1e-2, 1e-3, 1e-4)), Metric("EER"), Metric("AUC"))


@dataclass(frozen=True)
class World:
    "A population of people."

    width: int = 64  # of an embedding
    spread: float = 0.8  # of a person's photos, by the median
    uneven: float = 0.3  # by how much people differ in that, on the log scale

    @property
    def impostors(self):
        "The cosine of two independent directions, exactly."
        half = (self.width - 1) / 2
        return beta(half, half, -1, 2)

    def people(self, draw, count) -> tuple[np.ndarray, np.ndarray]:
        "Where people are (P, E), and how far their photos spread (P,)."
        centre = draw.normal(size=(count, self.width))
        spread = self.spread * np.exp(self.uneven * draw.normal(size=count))
        return centre / np.linalg.norm(centre, axis=1, keepdims=True), spread

    def photos(self, draw, people, each) -> np.ndarray:
        "Embeddings of people's photos (P, each, E): what one system of a given goodness sees."
        centre, spread = people
        noise = draw.normal(size=(len(centre), each, self.width))
        x = centre[:, None] + spread[:, None, None] * noise / self.width**0.5
        return (x / np.linalg.norm(x, axis=2, keepdims=True)).astype(np.float32)

    def truth(self, people=100_000) -> dict[str, float]:
        "Each figure over all people there could be."
        draw = rng("coverage", "truth")
        x = self.photos(draw, self.people(draw, people), 2)
        genuine = np.sort((x[:, 0] * x[:, 1]).sum(axis=1))

        def missed(threshold):
            return np.searchsorted(genuine, threshold, "right") / len(genuine)

        equal = brentq(lambda threshold: self.impostors.sf(threshold) - missed(threshold), 0, 0.9)
        tpr = [1 - missed(self.impostors.isf(fpr)) for fpr in FPRS]
        return dict(zip(KEYS, (*tpr, self.impostors.sf(equal), self.impostors.cdf(genuine).mean())))


def judged(world: World, systems: int, people: int, photos: int, seed: int, replicates: int) -> list[Verification]:
    "Equally good systems on one sample of people."
    draw = rng("coverage", people, photos, seed)
    who, plan = world.people(draw, people), PersonBootstrap(np.repeat(np.arange(people), photos), replicates, seed)
    seen = [world.photos(draw, who, photos).reshape(-1, world.width) for _ in range(systems)]
    return [plan.evaluate(x @ x.T, FPRS) for x in seen]


@dataclass
class Share:
    "How often something was so."

    times: int = 0
    of: int = 0

    def add(self, so: bool) -> None:
        self.times, self.of = self.times + bool(so), self.of + 1

    def __float__(self):
        return self.times / self.of if self.of else float("nan")


def coverage(
    people: int, photos: int = 4, samples: int = 200, systems: int = 2, replicates: int = 200, world: World = World()
) -> dict[str, dict[str, float]]:
    """Over samples of people, by figure: `held`, intervals that hold the truth; `percentile`, those of plain
    percentiles; `star`, asterisks between two equally good systems, each difference alone; `any star`, tables of
    all systems with at least one; `shown`, intervals that were not withheld."""
    truth = world.truth()
    shares = {}
    for key in KEYS:
        shares[key] = {what: Share() for what in ("held", "percentile", "star", "any star", "shown")}
    for seed in range(samples):
        results = judged(world, systems, people, photos, seed, replicates)
        rows = result_rows({(f"system {k}", Condition("photos")): r for k, r in enumerate(results)}, "system 0")
        for key in KEYS:
            share = shares[key]
            for r in results:
                share["shown"].add(not r.withheld(key))
                if not r.withheld(key):
                    share["held"].add(r.interval(key)[0] <= truth[key] <= r.interval(key)[1])
                low, high = np.quantile(r.samples[key], [0.025, 0.975])
                share["percentile"].add(low <= truth[key] <= high)
            for r in results[1:]:
                _, low, high = r.difference(results[0], key)
                share["star"].add(low > 0 or high < 0)
            share["any star"].add(any(row.significant(key) for row in rows[1:]))
    rates = {}
    for key in KEYS:
        rates[str(key)] = {what: float(share) for what, share in shares[key].items()}
    return rates


def main() -> None:
    "Print the tables."
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--samples", type=int, default=200, help="samples of people of each size (default: 200)")
    parser.add_argument(
        "--people", type=int, nargs="+", default=[10, 20, 30, 60, 100, 200, 500], help="people in a sample"
    )
    parser.add_argument("--photos", type=int, default=4, help="photos of each (default: 4)")
    parser.add_argument("--systems", type=int, default=2, help="equally good systems in a table (default: 2)")
    parser.add_argument("--replicates", type=int, default=500, help="draws of people (default: 500)")
    parser.add_argument("--uneven", type=float, default=0.3, help="by how much people differ (default: .3)")
    args = parser.parse_args()
    print(
        "held: 95 % intervals that hold the truth; in brackets those of plain percentiles. "
        "*: asterisks between two equally good systems, each alone / tables with at least one.\n"
    )
    print("| people x photos | " + " | ".join(map(str, KEYS)) + " |\n|---|" + "---|" * len(KEYS))
    for people in args.people:
        world = World(uneven=args.uneven)
        rates = coverage(people, args.photos, args.samples, args.systems, args.replicates, world)
        cells = [
            f"{rate['held']:.3f} ({rate['percentile']:.3f}) *{rate['star']:.3f} / {rate['any star']:.3f}"
            for rate in rates.values()
        ]
        print(f"| {people} x {args.photos} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

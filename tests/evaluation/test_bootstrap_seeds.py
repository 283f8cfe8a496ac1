"""Several seeds: pooled values and intervals against loops, and how often intervals contain what is true."""

import numpy as np
import pytest
from scipy.stats import t as student

from tgfr.core import TgfrError, rng
from tgfr.evaluation.bootstrap import Metrics, PersonBootstrap, Verification, pool_results, pool_seeds
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.results import Condition, result_rows

TPR = Metric("TPR", 1e-2)


def people_and_scores(seeds=3, people=14, photos=3):
    "A person for each photo, and score matrices of two systems with each seed."
    draw = rng("pooling", seeds)
    person = np.repeat(np.arange(people), photos)
    faces = draw.normal(size=(people, 8))[person]
    matrices = []
    for noise in (0.9, 0.7):
        for _ in range(seeds):
            x = faces + noise * draw.normal(size=faces.shape)
            matrices.append((x @ x.T).astype(np.float32))
    return person, matrices[:seeds], matrices[seeds:]


@pytest.mark.parametrize("seeds", [2, 3])
def test_pooled_replicates_are_the_loop(seeds):
    "People are drawn, all seeds are evaluated on them, seeds are drawn and averaged: written out for each replicate."
    person, worse, better = people_and_scores(seeds)
    bootstrap = PersonBootstrap(person, replicates=12)
    runs = [[bootstrap.evaluate(m) for m in system] for system in (worse, better)]
    pooled = [pool_seeds(run) for run in runs]
    shares = rng("seeds", seeds).multinomial(seeds, [1 / seeds] * seeds, 12)
    for metric in pooled[0].value:
        for of_system, run in zip(pooled, runs):
            assert of_system.value[metric] == pytest.approx(sum(r.value[metric] for r in run) / seeds)
            for k in range(12):
                drawn = [s for s in range(seeds) for _ in range(shares[k, s])]
                assert len(drawn) == seeds
                mean = sum(r.samples[metric][k] for r in run) / seeds
                mean_drawn = sum(run[s].samples[metric][k] for s in drawn) / seeds
                expected = mean + (seeds / (seeds - 1)) ** 0.5 * (mean_drawn - mean)
                assert of_system.samples[metric][k] == pytest.approx(expected)
        paired = pooled[1].drawn_difference(pooled[0], metric)
        np.testing.assert_allclose(paired, pooled[1].samples[metric] - pooled[0].samples[metric])
    assert isinstance(pooled[0], Verification) and pooled[0].pairs == runs[0][0].pairs


def test_one_seed_is_that_seed_and_other_draws_are_refused():
    person, (matrix, other), _ = people_and_scores(2)
    result = PersonBootstrap(person, replicates=5).evaluate(matrix)
    assert pool_seeds([result]) is result
    with pytest.raises(TgfrError, match="one bootstrap for all seeds"):
        pool_seeds([result, PersonBootstrap(person, replicates=5, seed=1).evaluate(other)])
    with pytest.raises(TgfrError, match="one bootstrap for both"):
        pool_seeds([result, PersonBootstrap(person, replicates=5).evaluate(other)]).difference(result, TPR)


def of_seeds(values, people=200, replicates=4000, spread=0.0):
    "One system with each seed, whose draws of people are common and spread as given."
    common = spread * rng("common", replicates).normal(size=replicates)
    return [Metrics({TPR: v}, {TPR: v + common}, "draws", people=people) for v in values]


def test_without_a_spread_of_people_the_interval_is_students():
    "Seeds alone: mean ± t(S-1) s / sqrt(S), the textbook's interval of a mean (here of a difference, which is symmetric)."
    values = np.array([0.50, 0.53, 0.49, 0.56])
    zero = pool_seeds(of_seeds(np.zeros(4) + 0.4, people=1e9))
    value, low, high = pool_seeds(of_seeds(values, people=1e9)).difference(zero, TPR)
    half = student.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert value == pytest.approx(values.mean() - 0.4)
    assert (low, high) == (pytest.approx(value - half, rel=0.03), pytest.approx(value + half, rel=0.03))


def test_without_a_spread_of_seeds_the_interval_is_that_of_people():
    for spread in (0.01, 0.05):
        alone, *_ = of_seeds([0.6], spread=spread)
        pooled = pool_seeds(of_seeds([0.6] * 3, spread=spread))
        assert pooled.interval(TPR) == pytest.approx(alone.interval(TPR))
        assert pooled.worth(TPR) == pytest.approx(200)


def test_the_interval_grows_with_the_spread_of_seeds():
    widths = []
    for apart in (0, 0.01, 0.03, 0.1):
        low, high = pool_seeds(of_seeds(0.5 + apart * np.array([-1, 0, 1]), spread=0.01)).interval(TPR)
        widths.append(high - low)
    assert widths == sorted(widths) and widths[-1] > 5 * widths[0]


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("apart", [0, 0.005, 0.02, 0.06])  # standard deviation of seeds; of people in a mean: .02
def test_intervals_contain_what_is_true(seeds, apart):
    """Studies of 150 people with known spreads of people, seeds, and of people's answers to a seed: values and
    differences of two systems. 1.96 unmended deviations reach .60 with two seeds that make all of the spread. The
    floors are those of the notebook, less two standard deviations of 400 studies."""
    draw, people, studies = rng("coverage", seeds, str(apart)), 150, 400
    weights = PersonBootstrap(np.repeat(np.arange(people), 2), replicates=150).weights / people
    right = np.zeros(2)
    for _ in range(studies):
        hard = 0.02 * people**0.5 * draw.normal(size=people)[:, None]
        pooled = []
        for level in (0.5, 0.6):
            answers = level + hard + 0.05 * draw.normal(size=(people, seeds)) + apart * draw.normal(size=seeds)
            pooled.append(pool_seeds([Metrics.of({TPR: weights @ x}, "", people=people) for x in answers.T]))
        low, high = pooled[0].interval(TPR)
        _, less, more = pooled[1].difference(pooled[0], TPR)
        right += [low <= 0.5 <= high, less <= 0.1 <= more]
    coverage = right / studies
    assert (coverage > {2: 0.84, 3: 0.89, 5: 0.915}[seeds]).all(), coverage
    assert coverage[0] < 0.99, coverage


def test_rows_of_seeds():
    "Rows hold the value of each seed, and simultaneous intervals that are no narrower than a single one."
    person, worse, better = people_and_scores(4)
    bootstrap, at = PersonBootstrap(person, replicates=40), Condition("16px", resolution=16)
    runs = []
    for pair in zip(worse, better):
        runs.append({(name, at): bootstrap.evaluate(m) for name, m in zip(("worse", "better"), pair)})
    pooled = pool_results(runs)
    first, second = result_rows(pooled, "worse")
    assert second.by_seed[TPR] == tuple(run["better", at].value[TPR] for run in runs)
    single = pooled["better", at].difference(pooled["worse", at], TPR)
    assert second.differences[TPR] == pytest.approx(single)
    many = pooled | {(f"more {k}", at): pooled["better", at] for k in range(3)}
    assert result_rows(many, "worse")[1].differences[TPR][1] <= single[1] + 1e-9
    assert not first.differences

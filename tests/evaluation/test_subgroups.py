"""Rates by group equal plain loops over pairs, on everything and on each draw of people."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import rng
from tgfr.evaluation.bootstrap import PersonBootstrap
from tgfr.evaluation.metrics import Metric
from tgfr.evaluation.subgroups import attribute_subgroups, evaluate_subgroups, subgroup_rates
from tgfr.report.subgroup_tables import subgroup_table


def plain(scores, person, weights, members, threshold):
    "TPR and FPR of one draw, pair by pair."
    passed, all_pairs = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for i in np.flatnonzero(members):
        for j in np.flatnonzero(members):
            if i == j:
                continue
            same = bool(person[i] == person[j])
            weight = weights[person[i]] * (1 if same else weights[person[j]])
            all_pairs[same] += weight
            passed[same] += weight * (scores[i, j] > threshold)
    return [passed[same] / all_pairs[same] if all_pairs[same] else np.nan for same in (True, False)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 8), st.sampled_from([0.01, 0.05, 0.3]))
def test_rates_equal_loops(seed, people, fpr):
    draw = rng(seed, "groups test")
    identity = np.repeat(np.arange(people), 3)
    scores, members = draw.normal(size=(3 * people, 3 * people)).round(1), draw.random(3 * people) < 0.7
    bootstrap = PersonBootstrap(identity, 5, seed)
    impostors = np.sort(scores[identity[:, None] != identity])[::-1]
    threshold = impostors[int(np.floor(fpr * len(impostors) * (1 + 1e-12)))]
    found = subgroup_rates(scores, bootstrap, {"some": members}, fpr)["some"]
    for k, weights in enumerate(bootstrap.weights.astype(float)):
        expected = plain(scores, identity, weights, members, threshold)
        got = [found.value[key] if k == 0 else found.samples[key][k - 1] for key in (Metric("TPR"), Metric("FPR"))]
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_everybody_has_the_rate_asked_for():
    identity = np.repeat(np.arange(40), 3)
    scores = rng("all").normal(size=(120, 120))
    bootstrap = PersonBootstrap(identity, 10)
    rates = subgroup_rates(scores, bootstrap, {"all": np.full(120, True)}, 0.01)["all"].value
    assert 0 <= 0.01 - rates[Metric("FPR")] < 1e-3 and rates[Metric("TPR")] == pytest.approx(
        bootstrap.evaluate(scores, [0.01]).value[Metric("TPR", 1e-2)]
    )


def test_a_group_without_pairs_is_not_a_number():
    identity = np.repeat(np.arange(4), 2)
    rates = subgroup_rates(
        rng("x").normal(size=(8, 8)),
        PersonBootstrap(identity, 5),
        {"one person": identity == 0, "one photo each": np.arange(8) % 2 == 0},
    )
    assert (
        np.isnan(rates["one person"].value[Metric("FPR")])
        and np.isnan(rates["one photo each"].value[Metric("TPR")])
        and not np.isnan(rates["one person"].value[Metric("TPR")])
    )


def test_groups_of_attributes():
    groups = attribute_subgroups(["Male Smiling"] * 12 + ["Smiling"] * 12 + [None] * 6)
    assert {name: int(members.sum()) for name, members in groups.items()} == {"Male": 12, "not Male": 12, "Smiling": 24}
    assert attribute_subgroups([None, ""]) == {}
    table = subgroup_table(
        evaluate_subgroups({"a": rng("t").normal(size=(30, 30))}, PersonBootstrap(np.arange(30) // 2, 5), groups)
    )
    assert [row[0] for row in table["rows"]] == list(groups) and all(
        len(row) == len(table["columns"]) for row in table["rows"]
    )
    assert [row[1:] for row in table["rows"]] == [
        [6, 12, "–", "–"],
        [6, 12, "–", "–"],
        table["rows"][2][1:],
    ] and "–" not in table["rows"][2], "ten people are the least"

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from audit.errors import AttackError, ImageSetError
from audit.stats.auc import auc, auc_interval
from audit.stats.controls import at_chance, nonmembers_labels, planted_leak
from audit.stats.permutation import permutation_test
from audit.stats.power import null_standard_error
from audit.stats.streams import stream
from tests.stats.common import binomial_slack, joined

RNG = np.random.default_rng(0)
LEAK = joined(RNG.normal(3, 1, 200), RNG.normal(0, 1, 200))


def shuffled_labels(scores, is_member, seed):
    """`at_chance` on labels that were mixed."""
    return at_chance("shuffled_labels", scores, stream(seed, "mixed").permutation(is_member))


def test_mixed_labels_hide_the_strongest_leak():
    control = shuffled_labels(*LEAK, seed=0)
    interval = auc_interval(LEAK[0], stream(0, "mixed").permutation(LEAK[1]))
    assert control.name == "shuffled_labels" and control.passed and abs(control.auc - 0.5) < 0.1
    assert (control.auc, control.low, control.high) == (interval.value, interval.low, interval.high)
    assert control.to_json() == {"name": "shuffled_labels", "auc": control.auc, "low": control.low, "high": control.high, "passed": True}


@pytest.mark.parametrize("sign", [1, -1])
def test_labels_that_still_know_something_fail(sign):
    control = at_chance("nonmembers_twice", sign * LEAK[0], LEAK[1])
    assert not control.passed and control.name == "nonmembers_twice"


@pytest.mark.parametrize(("z", "passed"), [(3.2, True), (3.4, False)])
def test_it_fails_beyond_the_999_range_and_not_before(z, passed):
    n = 1000
    se = np.sqrt((2 * n + 1) / (12 * n * n))
    places = np.arange(n, dtype=float)
    members, wins_missing = places.copy(), round(z * se * n * n)
    for i in range(n):  # the lowest members climb, each by at most n places, until the AUC is reached: one place, one more win
        climb = min(wins_missing, n - 1 - i)
        members[i] += climb
        wins_missing -= climb
    control = at_chance("x", *joined(members, places))
    assert (control.auc - 0.5) / se == pytest.approx(z, abs=0.01)
    assert control.passed is passed and control.low > 0.5  # the 95 % interval leaves 0.5 out both times


def test_constant_scores_are_chance():
    assert shuffled_labels(np.ones(40), np.arange(40) < 20, seed=0).passed


def test_few_images_have_no_interval():
    control = shuffled_labels([1.0, 2.0, 3.0], [True, False, False], seed=0)
    assert (control.low, control.high) == (None, None) and control.passed


def test_one_class_is_refused():
    with pytest.raises(ImageSetError):
        at_chance("x", [1.0, 2.0], [True, True])
    with pytest.raises(ImageSetError):
        planted_leak({"a": [1.0, 2.0]}, [True, True], "a", 2.0, 0)


def test_half_of_the_nonmembers_are_called_members():
    nonmembers = np.arange(301) >= 100
    labels = nonmembers_labels(nonmembers, 5)
    assert labels.dtype == bool and labels.shape == (301,) and labels.sum() == 100 and not labels[~nonmembers].any()
    assert np.array_equal(labels, nonmembers_labels(nonmembers, 5)) and not np.array_equal(labels, nonmembers_labels(nonmembers, 6))
    assert not np.array_equal(labels, nonmembers_labels(nonmembers, 5, "evaluation"))
    assert nonmembers_labels(np.ones(1, bool), 0).sum() == 0
    share = np.mean([nonmembers_labels(np.ones(10, bool), seed) for seed in range(2000)], axis=0)
    assert np.abs(share - 0.5).max() < 4.5 * 0.5 / np.sqrt(2000)  # 10 images looked at, 4.5 standard errors each


def attacks(rng, n, count=6):
    common = rng.normal(size=2 * n)
    return {f"a{j}": 0.7**0.5 * common + 0.3**0.5 * rng.normal(size=2 * n) for j in range(count)}


def test_a_planted_leak_has_the_promised_size_and_is_found():
    n, is_member = 2000, np.arange(4000) < 2000
    scores = attacks(np.random.default_rng(4), n, 2)
    control = planted_leak(scores, is_member, "a1", 2.2, seed=3, draws=199)
    assert control.auc == 0.5 + (2.2 + 3.09) * null_standard_error(n, n)
    assert control.to_json() == {"name": "planted_leak", "auc": control.auc, "low": None, "high": None, "passed": True, "p_value": 1 / 200}


def test_the_planted_scores_are_the_headlines_normal_scores(monkeypatch):
    seen = {}
    monkeypatch.setattr("audit.stats.controls.permutation_test", lambda *a: seen.update(scores=a[0], labels=a[1], rest=a[2:]) or permutation_test(*a))
    n = 400
    scores, is_member = {"b": LEAK[0], "lead": np.exp(5 * LEAK[0])}, LEAK[1]
    scores["lead"] = np.stack([scores["lead"], scores["b"]])
    control = planted_leak(scores, is_member, "lead", 2.0, seed=1, draws=99)
    called, rows = seen["labels"], seen["scores"]["lead"]
    assert called.sum() == 200 and 60 < (called & is_member).sum() < 140  # mixed: the real leak helps nobody
    assert seen["rest"] == (1, 99) and list(seen["scores"]) == ["b", "lead"]
    assert seen["scores"]["b"] is scores["b"] and np.array_equal(rows[1], scores["lead"][1])
    normal = norm.ppf((rankdata(scores["lead"][0]) - 0.5) / n)
    assert rows[0] == pytest.approx(normal + called * np.sqrt(2) * norm.ppf(control.auc), abs=1e-12)
    # normal scores shifted by √2·Φ⁻¹(A) have AUC A: 3 standard errors of one draw with 200 a side
    assert abs(auc(rows[0], called) - control.auc) < 3 * null_standard_error(200, 200)


def test_a_leak_that_is_not_found_fails_with_its_reason():
    scores, is_member = attacks(np.random.default_rng(4), 100), np.arange(200) < 100
    control = planted_leak(scores, is_member, "a0", -3.09, seed=0, draws=199)  # planted at AUC 0.5: nothing to find
    assert not control.passed and control.p_value > 0.05 and control.auc == 0.5
    assert control.to_json()["reason"] == f"a leak of AUC 0.500, which 999 audits of 1,000 find, was not found (p = {control.p_value:.2g})"


@pytest.mark.parametrize(("n", "passed"), [(20, True), (8, True), (2, False)])
def test_very_few_images_get_a_perfect_leak(n, passed):
    control = planted_leak({"a": np.arange(2.0 * n), "flat": np.zeros(2 * n)}, np.arange(2 * n) < n, "flat", 2.4, seed=0)
    assert control.auc == 1 and control.passed is passed  # of 4 images the best of 6 orders has p = 1/6


def test_the_headline_must_be_there():
    with pytest.raises(AttackError, match="loss has no scores"):
        planted_leak({"a": LEAK[0]}, LEAK[1], "loss", 2.0, 0)


@pytest.mark.slow
def test_one_audit_in_a_thousand_fails():
    runs = 4000
    failed = sum(not shuffled_labels(*LEAK, seed=s).passed for s in range(runs))
    assert failed <= 4 + 3 * 2 + 1  # mean 4, sd 2


@pytest.mark.slow
@pytest.mark.parametrize(("n", "runs"), [(100, 400), (500, 150)])
def test_the_planted_leak_is_found(n, runs):
    """On audits with a real leak or none, c from each audit's own test."""
    rng, is_member = np.random.default_rng(41), np.arange(2 * n) < n
    found = 0
    for run in range(runs):
        scores = attacks(rng, n)
        for values in scores.values():
            values[is_member] += 0.5 * (run % 2)
        c = permutation_test(scores, is_member, run, draws=399).critical_z
        found += planted_leak(scores, is_member, "a2", c, run, draws=399).passed
    assert found >= 0.99 * runs  # 99.9 % are promised


@pytest.mark.slow
def test_a_leak_at_the_80_percent_point_would_often_be_missed():
    """The control would cry in one sound report of five if it were planted at the audit's own detection limit; this also shows that it can fail."""
    rng, is_member, runs = np.random.default_rng(42), np.arange(200) < 100, 400
    found = 0
    for run in range(runs):
        scores = attacks(rng, 100)
        c = permutation_test(scores, is_member, run, draws=399).critical_z
        found += planted_leak(scores, is_member, "a2", c - 3.09 + 0.842, run, draws=399).passed
    assert abs(found / runs - 0.8) <= binomial_slack(0.8, runs)

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import kstest, rankdata

from audit.errors import AttackError, ImageSetError
from audit.stats.permutation import permutation_test, standardised_ranks
from tests.stats.common import IS_MEMBER, SCORES, A, B, binomial_slack, joined, two_classes


def naive_z(scores, is_member):
    """(rank z, tail z) by the formula, from scipy's ranks."""
    r, total = rankdata(scores), len(scores)
    m, n = is_member.sum(), (~is_member).sum()
    out = []
    for s in (r, np.log(1 - (r - 0.5) / total) ** 2):
        spread = np.sqrt(m * n / total * np.var(s, ddof=1))
        out.append(0.0 if np.ptp(r) == 0 else (s[is_member].sum() - m * s.mean()) / spread)
    return out


def test_published_vector():
    result = permutation_test({"loss": SCORES}, IS_MEMBER, seed=0)
    assert result.z["loss"] == pytest.approx({"rank": 2.124851, "tail": 1.852746}, abs=1e-6)
    assert (result.attack, result.score, result.draws) == ("loss", "rank", 9_999)
    assert rankdata(SCORES)[IS_MEMBER].sum() == 79.5
    # three standard errors of 9,999 draws around the exact p
    assert result.p_value == pytest.approx(189 / 11440, abs=binomial_slack(189 / 11440, 9_999))


def test_exact_p_of_the_published_vector():
    columns = standardised_ranks(SCORES, IS_MEMBER)
    observed = columns[IS_MEMBER].sum(axis=0).max()
    all_sets = np.array(list(combinations(range(16), 7)))
    largest = columns[all_sets].sum(axis=1).max(axis=1)
    assert len(all_sets) == 11440 and np.count_nonzero(largest >= observed - 1e-9) == 189


def test_z_has_mean_0_and_sd_1_over_all_label_sets():
    columns = standardised_ranks(*joined([1, 1, 5, 2], [0, 2, 2, 7, 3]))
    every = np.array([columns[list(c)].sum(axis=0) for c in combinations(range(9), 4)])
    assert every.mean(axis=0) == pytest.approx([0, 0], abs=1e-12) and every.std(axis=0) == pytest.approx([1, 1], abs=1e-12)


@given(two_classes)
def test_z_is_the_naive_one_and_only_the_order_matters(data):
    scores, is_member = data
    z = standardised_ranks(scores, is_member)[is_member].sum(axis=0)
    assert z == pytest.approx(naive_z(scores, is_member), abs=1e-9)
    assert np.array_equal(standardised_ranks(np.exp(scores), is_member), standardised_ranks(scores, is_member))


def brute(scores, is_member, seed, draws):
    """The whole test with one permutation at a time, from the same stream."""
    from audit.stats.streams import stream

    rng = stream(seed, "permutation")
    largest, lowest = [], []
    for _ in range(draws):
        labels = rng.permuted(is_member[None].astype(np.int8), axis=1)[0].astype(bool)
        z = [naive_z(s, labels) for s in scores.values()]
        largest.append(np.max(z))
        lowest.append(min(pair[0] for pair in z))
    return np.array(largest), np.array(lowest)


def test_every_field_is_the_naive_one():
    rng = np.random.default_rng(3)
    is_member = rng.random(40) < 0.4
    scores = {"weak": rng.normal(size=40).round(1), "leak": rng.normal(size=40) + 0.8 * is_member, "flat": np.zeros(40)}
    result = permutation_test(scores, is_member, seed=5, draws=999)
    largest, lowest = brute(scores, is_member, 5, 999)
    observed = {name: naive_z(s, is_member) for name, s in scores.items()}
    for name, pair in observed.items():
        assert list(result.z[name].values()) == pytest.approx(pair, abs=1e-9)
        assert result.p_values[name] == (1 + np.count_nonzero(largest >= max(pair) - 1e-9)) / 1000
    assert result.attack == "leak" and result.p_value == min(result.p_values.values()) == result.p_values["leak"]
    assert result.score == ("rank" if observed["leak"][0] >= observed["leak"][1] else "tail")
    assert result.critical_z == pytest.approx(np.sort(largest)[-50], abs=1e-9)
    assert result.lowest_rank_z == pytest.approx(min(pair[0] for pair in observed.values()), abs=1e-9)
    assert result.lowest_rank_point == pytest.approx(np.sort(lowest)[0], abs=1e-9)
    assert set(result.to_json()) == {"p_value", "attack", "score", "critical_z", "draws"}


@settings(max_examples=40, deadline=None)
@given(two_classes)
def test_exceeding_c_and_p_at_most_5_percent_are_one_statement(data):
    result = permutation_test({"a": data[0], "b": -data[0]}, data[1], seed=1, draws=99)
    largest = max(max(pair.values()) for pair in result.z.values())
    assert (largest > result.critical_z + 1e-9) == (result.p_value <= 0.05)
    assert 1 / 100 <= result.p_value <= 1


def test_the_block_size_changes_no_number(monkeypatch):
    scores = {"a": SCORES, "b": -SCORES}
    whole = permutation_test(scores, IS_MEMBER, seed=2, draws=199)
    monkeypatch.setattr("audit.stats.permutation.BLOCK_VALUES", 16 * 7)
    cut = permutation_test(scores, IS_MEMBER, seed=2, draws=199)
    assert (cut.p_value, cut.p_values) == (whole.p_value, whole.p_values) and cut.critical_z == pytest.approx(whole.critical_z, abs=1e-12)


def test_an_added_attack_sees_the_same_permutations():
    alone = permutation_test({"a": SCORES}, IS_MEMBER, seed=2)
    twice = permutation_test({"a": SCORES, "copy": SCORES}, IS_MEMBER, seed=2)
    assert twice.p_value == alone.p_value and twice.critical_z == alone.critical_z


def test_a_perfect_attack_never_has_p_0():
    scores, is_member = joined(np.arange(100, 160), np.arange(60))
    result = permutation_test({"a": scores}, is_member, seed=0)
    assert result.p_value == 1 / 10_000


def test_members_that_score_lower_are_below_the_lowest_point():
    rng = np.random.default_rng(0)
    scores, is_member = joined(rng.normal(-1, 1, 60), rng.normal(0, 1, 60))
    result = permutation_test({"reversed": scores, "noise": rng.normal(size=120)}, is_member, seed=0)
    assert result.lowest_rank_z == result.z["reversed"]["rank"] < result.lowest_rank_point < -2
    fair = permutation_test({"noise": rng.normal(size=120)}, is_member, seed=0)
    assert fair.lowest_rank_z > fair.lowest_rank_point


def test_a_few_members_far_above_are_seen_by_the_tail_score():
    rng = np.random.default_rng(1)
    a = rng.normal(size=300)
    a[:20] += 6
    result = permutation_test({"mix": joined(a, rng.normal(size=300))[0]}, np.arange(600) < 300, seed=0)
    assert result.score == "tail" and result.z["mix"]["tail"] > result.z["mix"]["rank"] and result.p_value < 0.01


def test_draws_by_size_and_limits():
    many = np.arange(20_001) % 2 == 0
    assert permutation_test({"a": np.arange(20_001.0)}, many, seed=0).draws == 1_999
    assert permutation_test({"a": SCORES}, IS_MEMBER, seed=0, draws=19).lowest_rank_point == -np.inf
    with pytest.raises(ValueError, match="at least 19"):
        permutation_test({"a": SCORES}, IS_MEMBER, seed=0, draws=18)


def test_bad_input():
    with pytest.raises(AttackError, match="No attack"):
        permutation_test({}, IS_MEMBER, seed=0)
    with pytest.raises(AttackError, match="NaN"):
        permutation_test({"a": [np.nan, *A[1:], *B]}, IS_MEMBER, seed=0)
    with pytest.raises(ImageSetError):
        permutation_test({"a": SCORES}, np.ones(16, bool), seed=0)


def correlated(rng, n, attacks=10, correlation=0.7):
    common = rng.normal(size=2 * n)
    return {f"a{j}": np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.normal(size=2 * n) for j in range(attacks)}


@pytest.mark.slow
def test_p_is_uniform_on_a_null():
    rng, runs, is_member = np.random.default_rng(21), 600, np.arange(100) < 50
    p = np.array([permutation_test(correlated(rng, 50), is_member, seed=i, draws=199).p_value for i in range(runs)])
    assert np.mean(p <= 0.05) <= 0.05 + binomial_slack(0.05, runs)
    assert kstest(p, "uniform").pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize(("n", "figure"), [(250, 0.80), (100, 0.32)])
def test_power_for_a_tail_leak_is_the_published_one(n, figure):
    """5 % of the members shifted by 5 sd in the first of 10 attacks, by half as much in the others."""
    rng, runs, is_member = np.random.default_rng(22), 300, np.arange(2 * n) < n
    hits = 0
    for i in range(runs):
        scores = correlated(rng, n)
        for j in range(10):
            scores[f"a{j}"][: round(0.05 * n)] += 5 if j == 0 else 2.5
        hits += permutation_test(scores, is_member, seed=i, draws=399).p_value <= 0.05
    assert abs(hits / runs - figure) <= np.sqrt(2) * binomial_slack(figure, runs)  # the figure was simulated too

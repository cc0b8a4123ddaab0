import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import t as student

from audit.errors import AttackError, ImageSetError
from audit.stats.auc import auc, auc_interval, auc_many, newcombe
from audit.stats.crossfit import cross_fitted_auc, fold_halves
from audit.stats.split import half_split
from tests.stats.common import binomial_slack, joined, naive_auc

labels = st.lists(st.booleans(), min_size=4, max_size=40).map(np.array).filter(lambda x: 2 <= sum(x) <= len(x) - 2)


def cut(scores, is_member, halves):
    """The argument of cross_fitted_auc for one fixed score: both halves of every repeat."""
    return [[(scores[part], is_member[part]) for part in (first, ~first)] for first in halves]


def naive(halves):
    """§3 by loops over pairs: (value, SE, m, n)."""
    values, variances = [], []
    for pair in halves:
        v, w = [], []
        for scores, is_member in pair:
            a, b = scores[is_member], scores[~is_member]
            values.append(naive_auc(scores, is_member))
            v += [np.mean([(x > y) + 0.5 * (x == y) for y in b]) for x in a]
            w += [np.mean([(x > y) + 0.5 * (x == y) for x in a]) for y in b]
        variances.append(np.var(v, ddof=1) / len(v) + np.var(w, ddof=1) / len(w))
    return np.mean(values), np.sqrt(np.mean(variances)), len(v), len(w)


@given(labels, st.integers(0, 4), st.integers(1, 4))
def test_every_repeat_is_a_half_split_and_the_first_is_the_audits(is_member, seed, repeats):
    halves = fold_halves(is_member, seed, repeats)
    assert halves.shape == (repeats, len(is_member)) and halves.dtype == bool
    assert np.array_equal(halves[0], half_split(is_member, seed))
    for side in (True, False):
        assert (halves[:, is_member == side].sum(axis=1) == (is_member == side).sum() // 2).all()
    assert np.array_equal(fold_halves(is_member, seed, repeats + 1)[:repeats], halves)  # each repeat has its own stream
    assert np.array_equal(fold_halves(~is_member, seed, repeats), halves)


def test_repeats_differ_and_keep_clusters_together():
    is_member = np.arange(120) < 60
    assert len(np.unique(fold_halves(is_member, 0), axis=0)) == 10
    clusters = np.arange(120) // 3
    halves = fold_halves(is_member, 0, clusters=clusters)
    assert (halves.reshape(10, 40, 3).sum(axis=2) % 3 == 0).all() and len(np.unique(halves, axis=0)) == 10
    assert np.array_equal(halves[0], half_split(is_member, 0, clusters))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 24), st.integers(10, 24), st.integers(1, 3), st.sampled_from([0, 0.8]))
def test_it_is_the_formula(seed, m, n, repeats, shift):
    rng = np.random.default_rng(seed)
    scores, is_member = joined(rng.normal(shift, 1, m).round(1), rng.normal(size=n).round(1))
    scores = [scores, scores**3 + rng.normal(size=m + n).round(1)]  # the two halves are judged by different settings
    pairs = [[(scores[k][part], is_member[part]) for k, part in enumerate((first, ~first))] for first in fold_halves(is_member, seed, repeats)]
    value, error, *counts = naive(pairs)
    spread = student.ppf(0.975, min(counts) - 2) * error / (value * (1 - value))
    low, high = expit(logit(value) - spread), expit(logit(value) + spread)
    if min(counts) * min(value, 1 - value) < 5:
        other = newcombe(value, *counts)
        low, high = min(low, other[0]), max(high, other[1])
    got = cross_fitted_auc(pairs)
    assert (got.value, got.low, got.high) == pytest.approx((value, low, high), abs=1e-12) and counts == [m, n]


@pytest.mark.parametrize("sign", [1, -1])
def test_near_0_and_1_the_interval_is_the_hull_with_newcombes(sign):
    rng = np.random.default_rng(0)
    scores, is_member = joined(rng.normal(2, 1, 50), rng.normal(size=50))
    pairs = cut(sign * scores, is_member, fold_halves(is_member, 0, 3))
    value, error, m, n = naive(pairs)
    assert 50 * min(value, 1 - value) < 5
    spread, other = student.ppf(0.975, 48) * error / (value * (1 - value)), newcombe(value, m, n)
    assert other[0] < expit(logit(value) - spread) - 1e-3 and other[1] > expit(logit(value) + spread) + 1e-3  # the logit interval lies inside
    got = cross_fitted_auc(pairs)
    assert (got.low, got.high) == pytest.approx(other, abs=1e-12)


def test_the_error_is_not_divided_by_the_repeats():
    rng = np.random.default_rng(3)
    scores, is_member = joined(rng.normal(0.5, 1, 80), rng.normal(size=80))
    widths = [(i := cross_fitted_auc(cut(scores, is_member, fold_halves(is_member, 1, r)))).high - i.low for r in (1, 10, 40)]
    assert widths == pytest.approx([widths[0]] * 3, rel=0.03)
    plain = auc_interval(scores, is_member)
    assert widths[2] == pytest.approx(plain.high - plain.low, rel=0.05)  # one fixed score on all images: about the interval of §1


def test_no_pair_crosses_halves():
    scores, is_member = joined(np.arange(20.0), np.arange(20.0) + 0.5)
    moved = [[(a, b), (c + 1e6, d)] for (a, b), (c, d) in cut(scores, is_member, fold_halves(is_member, 0))]
    assert cross_fitted_auc(moved) == cross_fitted_auc(cut(scores, is_member, fold_halves(is_member, 0)))


@pytest.mark.parametrize(("m", "n", "bound"), [(7, 7, 0.59038), (50, 50, 0.92888), (100, 200, 0.96378)])
def test_perfect_separation_has_the_exact_bound(m, n, bound):
    scores, is_member = joined(np.arange(m) + 1e4, np.arange(n))
    halves = fold_halves(is_member, 0)
    up, down = cross_fitted_auc(cut(scores, is_member, halves)), cross_fitted_auc(cut(-scores, is_member, halves))
    assert (up.value, up.low, up.high) == pytest.approx((1, bound, 1), abs=5e-6)
    assert (down.value, down.low, down.high) == pytest.approx((0, 0, 1 - bound), abs=5e-6)


def test_perfect_separation_counts_the_pairs_that_halves_hold():
    scores, is_member = joined(np.arange(10) + 1e4, np.arange(10))
    first = np.isin(np.arange(20), [0, 1, 2, 3, 4, 5, 6, 7, 10, 11])  # 8 against 2, and 2 against 8
    assert cross_fitted_auc(cut(scores, is_member, [first])).low == pytest.approx(0.025 ** (1 / 4), abs=1e-12)


def test_equal_scores_have_newcombes_interval():
    is_member = np.arange(100) < 50
    got = cross_fitted_auc(cut(np.ones(100), is_member, fold_halves(is_member, 0)))
    assert (got.value, got.low, got.high) == pytest.approx((0.5, 0.38967, 0.61033), abs=5e-6)


def test_few_images_have_a_value_and_no_interval():
    scores, is_member = joined(np.arange(4.0), np.arange(9.0))
    got = cross_fitted_auc(cut(scores, is_member, fold_halves(is_member, 0)))
    assert (got.low, got.high) == (None, None) and "needs 5 of each" in got.status and got.value < 0.5


def test_bad_input():
    with pytest.raises(ValueError, match="at least one repeat"):
        cross_fitted_auc([])
    with pytest.raises(ValueError, match="at least 1"):
        fold_halves(np.array([True, False]), 0, 0)
    one = (np.arange(4.0), np.array([True, True, False, False]))
    with pytest.raises(ImageSetError, match="same images in every repeat"):
        cross_fitted_auc([[one, one], [one, (np.arange(3.0), np.array([True, False, False]))]])
    with pytest.raises(ImageSetError, match="both"):
        cross_fitted_auc([[one, (np.arange(2.0), np.array([True, True]))]])
    with pytest.raises(AttackError, match="NaN"):
        cross_fitted_auc([[one, (np.array([np.nan, 1]), np.array([True, False]))]])


def audits(n, runs, seed, shift=0.0):
    """Simulated audits: 24 correlated settings, the best of one half judged on the other; 10 repeats. Yields (Interval, best AUC of the sweep on all images)."""
    rng, is_member = np.random.default_rng(seed), np.arange(2 * n) < n
    for run in range(runs):
        tables = rng.normal(size=(3, 2 * n, 1))
        sweep = (0.8**0.5 * tables + 0.2**0.5 * rng.normal(size=(3, 2 * n, 8))).transpose(0, 2, 1).reshape(24, 2 * n)
        sweep[:, is_member] += shift * np.linspace(0.2, 1, 24)[:, None]
        pairs = []
        for first in fold_halves(is_member, run):
            pairs.append([])
            for judged in (first, ~first):
                best = np.argmax(auc_many(sweep[:, ~judged], is_member[~judged]))
                pairs[-1].append((sweep[best, judged], is_member[judged]))
        yield cross_fitted_auc(pairs), max(auc(row, is_member) for row in sweep)


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 200])
def test_the_interval_of_a_selected_setting_holds_chance_on_a_null(n):
    runs = 800
    got = [(interval.low <= 0.5 <= interval.high, interval.value, best) for interval, best in audits(n, runs, seed=31)]
    covered, values, best = np.array(got).T
    assert covered.mean() >= 0.93 - binomial_slack(0.93, runs)
    assert abs(values.mean() - 0.5) <= 3 * values.std() / np.sqrt(runs)
    assert best.mean() > 0.5 + 3 * best.std() / np.sqrt(runs)  # choosing on the images that are judged is optimistic: there was something to correct


@pytest.mark.slow
def test_the_interval_holds_the_mean_auc_of_settings_chosen_in_this_way():
    runs = 600
    got = [interval for interval, _ in audits(60, runs, seed=32, shift=0.6)]
    truth = np.mean([i.value for i in got])  # what the interval is about
    assert np.mean([i.low <= truth <= i.high for i in got]) >= 0.93 - binomial_slack(0.93, runs) and truth > 0.58


def test_exact_copies_in_clusters_give_the_interval_of_the_originals():
    rng = np.random.default_rng(8)
    is_member = np.arange(60) < 25
    scores, halves = rng.normal(size=60) + is_member, fold_halves(is_member, 3, 4)
    once = cross_fitted_auc(cut(scores, is_member, halves))
    two = [np.repeat(x, 2) for x in (scores, is_member, np.arange(60))]
    pairs = [[tuple(x[np.repeat(part, 2)] for x in two) for part in (first, ~first)] for first in halves]
    found = cross_fitted_auc(pairs)
    assert (found.value, found.low, found.high) == pytest.approx((once.value, once.low, once.high), abs=1e-12)
    without = cross_fitted_auc([[half[:2] for half in pair] for pair in pairs])
    assert without.low > once.low + 0.02, "copies taken as images would claim more"


def test_a_half_without_near_duplicates_counts_its_images():
    rng = np.random.default_rng(8)
    is_member = np.arange(60) < 25
    clusters = np.arange(60)
    clusters[1] = 0  # one pair: each repeat has it in one of its halves
    scores, halves = rng.normal(size=60) + is_member, fold_halves(is_member, 3, 2, clusters)
    pairs = [[(scores[part], is_member[part], clusters[part]) for part in (first, ~first)] for first in halves]
    without = [[(s, m, None if len(np.unique(c)) == len(c) else c) for s, m, c in pair] for pair in pairs]
    assert any(half[2] is None for pair in without for half in pair) and any(half[2] is not None for pair in without for half in pair)
    assert cross_fitted_auc(without) == cross_fitted_auc(pairs)

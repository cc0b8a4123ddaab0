import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from audit.stats.roc import roc
from audit.stats.tpr import FPRS, band, clopper_pearson, resolution, tpr_at_fpr, tpr_points
from tests.stats.common import IS_MEMBER, SCORES, binomial_slack, joined, naive_bounds, naive_tpr, two_classes

HUNDRED = joined(np.arange(31, 131), np.arange(1, 101))
THOUSAND = joined(np.arange(301, 1301), np.arange(1, 1001))
TIES = joined(np.r_[np.arange(1, 31), np.full(20, 100)], np.arange(1, 51))


@pytest.mark.parametrize(
    ("data", "fpr", "tpr", "low", "high"),
    [
        (HUNDRED, 0.1, 0.40, 0.279091, 0.530164),
        (HUNDRED, 0.05, 0.35, 0.235750, 0.472029),
        (HUNDRED, 0.01, 0.31, 0, 0.423027),
        (THOUSAND, 0.1, 0.400, 0.363384, 0.437484),
        (THOUSAND, 0.01, 0.310, 0.279822, 0.341398),
        (THOUSAND, 0.001, 0.301, 0, 0.331580),
        (TIES, 0.1, 0.40, 0.258463, 0.548206),
    ],
)
def test_published_vectors(data, fpr, tpr, low, high):
    point = tpr_at_fpr(*data, fpr)
    assert (point.tpr, point.low, point.high) == pytest.approx((tpr, low, high), abs=1e-6)


def test_nine_nonmembers_show_an_upper_bound_and_no_value():
    point = tpr_at_fpr(SCORES, IS_MEMBER, 0.1)
    assert (point.tpr, point.low, point.resolution) == (None, None, "none") and point.high == pytest.approx(0.961362, abs=1e-6)
    low, high = band(SCORES, IS_MEMBER, [0.1])
    assert (low[0], high[0]) == pytest.approx((0, 0.961362), abs=1e-6)
    assert roc(SCORES, IS_MEMBER).tpr_at(0.1) == 3 / 7


@pytest.mark.parametrize(
    ("n", "fpr", "expected"),
    [
        (35, 0.1, "coarse"), (36, 0.1, "resolvable"), (10, 0.1, "coarse"), (9, 0.1, "none"),
        (367, 0.01, "coarse"), (368, 0.01, "resolvable"), (100, 0.01, "coarse"), (99, 0.01, "none"), (64, 0.01, "none"), (200, 0.01, "coarse"),
        (3687, 0.001, "coarse"), (3688, 0.001, "resolvable"), (1000, 0.001, "coarse"), (999, 0.001, "none"), (500, 0.001, "none"),
    ],
)  # fmt: skip
def test_resolution(n, fpr, expected):
    assert resolution(n, fpr) == expected


@pytest.mark.parametrize(("n", "fpr"), [(35, 0.1), (36, 0.1), (367, 0.01), (368, 0.01)])
def test_coarse_means_that_even_a_perfect_attack_has_lower_bound_0(n, fpr):
    point = tpr_at_fpr(*joined(np.full(200, 10_000.0), np.arange(n)), fpr)
    assert point.tpr == 1 and (point.low == 0) == (point.resolution == "coarse") and point.high == 1


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 100, 0, 0.036217), (1, 100, 0.000253, 0.054459), (5, 100, 0.016432, 0.112835), (10, 100, 0.049005, 0.176223), (30, 1000, 0.020330, 0.042551), (20, 20, 0.831567, 1)],
)
def test_clopper_pearson_vectors(k, n, low, high):
    assert clopper_pearson(k, n) == pytest.approx((low, high), abs=1e-6)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_is_scipys(kn):
    exact = binomtest(*kn).proportion_ci(0.95, "exact")
    assert clopper_pearson(*kn) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_clopper_pearson_refuses_nonsense(k, n):
    with pytest.raises(ValueError, match="expected"):
        clopper_pearson(k, n)


@settings(max_examples=60, deadline=None)
@given(two_classes, st.sampled_from([0.01, 0.1, 0.25, 0.3, 0.5, 0.9]))
def test_bounds_are_the_naive_ones(data, fpr):
    low, high = band(*data, [fpr])
    assert (low[0], high[0]) == pytest.approx(naive_bounds(*data, fpr), abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("fpr", [0.02, 0.1])
def test_bounds_are_the_naive_ones_at_a_real_size(fpr):
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=400), rng.normal(size=400).round(1)):
        is_member = np.arange(400) < 150
        point = tpr_at_fpr(scores + is_member, is_member, fpr)
        assert (point.low, point.high) == pytest.approx(naive_bounds(scores + is_member, is_member, fpr), abs=1e-7)


@given(two_classes, st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9]))
def test_value_is_the_best_threshold_and_never_exceeds_the_target(data, fpr):
    point = tpr_at_fpr(*data, fpr)
    value, achieved = naive_tpr(*data, fpr)
    assert achieved <= fpr + 1e-9
    assert point.tpr == (None if point.resolution == "none" else pytest.approx(value))


def test_strictly_above_so_ties_with_the_threshold_are_not_found():
    scores, is_member = joined(np.full(50, 7.0), np.r_[np.full(10, 7.0), np.zeros(90)])
    assert tpr_at_fpr(scores, is_member, 0.09).tpr == 0  # taking the tied ones would cost 10 % FPR
    assert tpr_at_fpr(scores, is_member, 0.1).tpr == 1


@pytest.mark.parametrize(("fpr", "n", "k"), [(0.1, 30, 3), (0.29, 100, 29), (0.57, 100, 57)])
def test_products_that_floating_point_misses(fpr, n, k):
    # members lie just below the k-th non-member: found only if k false alarms are allowed
    scores, is_member = joined(np.full(20, n - k + 0.5), np.arange(1, n + 1))
    assert tpr_at_fpr(scores, is_member, fpr).tpr == 1


@given(two_classes)
def test_value_and_bounds_rise_with_the_fpr(data):
    fprs = np.array([0.001, 0.01, 0.1, 0.2, 0.5, 0.9, 0.99])
    low, high = band(*data, fprs)
    assert (np.diff(low) >= -1e-7).all() and (np.diff(high) >= -1e-7).all() and (low <= high).all()
    found = [p.tpr for p in tpr_points(*data, fprs) if p.tpr is not None]
    assert found == sorted(found)


@given(two_classes)
def test_only_the_order_matters(data):
    scores, is_member = data
    assert tpr_points(np.exp(scores), is_member) == tpr_points(scores, is_member)


def test_points_are_the_single_ones_and_default_to_the_three_rates():
    points = tpr_points(*THOUSAND)
    assert [p.fpr for p in points] == list(FPRS) == [0.1, 0.01, 0.001]
    for point in points:
        alone = tpr_at_fpr(*THOUSAND, point.fpr)
        assert (alone.tpr, alone.low, alone.high) == pytest.approx((point.tpr, point.low, point.high), abs=1e-9)


def test_the_band_agrees_with_the_points_and_takes_no_fpr_at_all():
    low, high = band(*THOUSAND, FPRS)
    assert low == pytest.approx([p.low for p in tpr_points(*THOUSAND)]) and high == pytest.approx([p.high for p in tpr_points(*THOUSAND)])
    assert [len(x) for x in band(*THOUSAND, [])] == [0, 0]


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, math.nan])
def test_an_fpr_outside_0_and_1_is_refused(fpr):
    with pytest.raises(ValueError, match="between 0 and 1"):
        tpr_at_fpr(*HUNDRED, fpr)


@pytest.mark.parametrize("size", [1, 2, 5000])
def test_extremes_stay_numbers(size):
    for a, b in ((np.ones(size), np.zeros(3)), (np.zeros(size), np.ones(3)), (np.ones(size), np.ones(size)), (np.arange(size), np.arange(size) + 1e6)):
        for point in tpr_points(*joined(a, b), (0.5, 0.001, 1e-6, 0.999999)):
            assert 0 <= point.high <= 1 and (point.low is None or 0 <= point.low <= point.high)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "mu", "fpr", "figure"),
    [(200, 0.0, 0.1, 0.982), (50, 1.8124, 0.1, 0.982), (1000, 1.8124, 0.1, 0.95), (100, 1.8124, 0.01, 0.995), (500, 0.3583, 0.01, 0.987)],
)
def test_cover_is_the_published_one(n, mu, fpr, figure):
    rng, runs, hits = np.random.default_rng(11), 1000, 0
    truth = norm.cdf(norm.ppf(fpr) + mu)
    for _ in range(runs):
        low, high = band(*joined(rng.normal(mu, 1, n), rng.normal(0, 1, n)), [fpr])
        hits += low[0] <= truth <= high[0]
    # the figures come from 600 runs or more themselves: both errors count
    assert abs(hits / runs - figure) <= 3 * math.hypot(binomial_slack(figure, runs) / 3, binomial_slack(figure, 600) / 3)


@pytest.mark.slow
def test_the_value_is_as_optimistic_as_the_page_says():
    rng, runs = np.random.default_rng(12), 1000
    values = [tpr_at_fpr(*joined(rng.normal(0, 1, 100), rng.normal(0, 1, 100)), 0.01).tpr for _ in range(runs)]
    assert np.mean(values) == pytest.approx(0.020, abs=3 * np.std(values) / math.sqrt(runs) + 0.0005)  # (k+1)/(n+1) = 2/101

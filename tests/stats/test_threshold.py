import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score

from audit.errors import AttackError, ImageSetError
from audit.stats.threshold import ThresholdPoint, at_thresholds, calibrated_threshold, conformal_rank, guaranteed_rank, nonmembers_needed
from tests.stats.common import binomial_slack, joined, tied, two_classes

NAMES = ["fpr", "threshold", "tpr", "tpr_low", "tpr_high", "fpr_achieved", "fpr_low", "fpr_high", "balanced_accuracy", "f1", "reason"]


@pytest.mark.parametrize(("n_cal", "fpr", "rank"), [(100, 0.1, 5), (299, 0.01, 1), (500, 0.01, 2), (1000, 0.01, 5), (5000, 0.01, 39), (5000, 0.001, 2)])
def test_published_guaranteed_ranks(n_cal, fpr, rank):
    assert guaranteed_rank(fpr, n_cal) == rank


@pytest.mark.parametrize(("fpr", "least"), [(0.1, 29), (0.01, 299), (0.001, 2995)])
def test_published_least_counts_for_a_guarantee(fpr, least):
    assert (guaranteed_rank(fpr, least - 1), guaranteed_rank(fpr, least)) == (0, 1)
    assert nonmembers_needed(fpr, guaranteed=True) == least


@pytest.mark.parametrize(("fpr", "least"), [(0.1, 9), (0.01, 99), (0.001, 999)])
def test_least_counts_for_an_expected_rate(fpr, least):
    assert (conformal_rank(fpr, least - 1), conformal_rank(fpr, least)) == (0, 1)
    assert nonmembers_needed(fpr) == least


@pytest.mark.parametrize(("fpr", "n_cal", "rank"), [(0.1, 29, 3), (0.29, 99, 29), (0.57, 99, 57), (0.5, 1, 1), (0.999, 1, 1), (0.1, 0, 0)])
def test_ranks_that_floating_point_misses_and_ends(fpr, n_cal, rank):
    assert conformal_rank(fpr, n_cal) == rank


@given(st.integers(0, 80), st.floats(0.01, 0.99), st.floats(0.6, 0.99))
def test_guaranteed_rank_is_the_naive_one(n_cal, fpr, confidence):
    fits = [r for r in range(1, n_cal + 1) if beta.cdf(fpr, r, n_cal - r + 1) >= confidence]
    assert guaranteed_rank(fpr, n_cal, confidence) == max(fits, default=0) <= conformal_rank(fpr, n_cal) + 1


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, math.nan])
def test_an_fpr_outside_0_and_1_is_refused(fpr):
    for rank in (conformal_rank, guaranteed_rank):
        with pytest.raises(ValueError, match="between 0 and 1"):
            rank(fpr, 100)


@given(tied, two_classes, st.sampled_from([0.1, 0.25, 0.5]))
def test_at_or_above_the_stored_number_is_above_the_rth_largest(outsiders, data, fpr):
    (scores, is_member), r = data, conformal_rank(fpr, len(outsiders))
    calibration, known = joined([0.0], outsiders)
    (point,) = at_thresholds(calibration, known, scores, is_member, (fpr,))
    if r == 0:
        assert point.threshold is None and point.tpr is None
        return
    above = scores > sorted(outsiders, reverse=True)[r - 1]
    assert point.tpr == np.mean(above[is_member]) and point.fpr_achieved == np.mean(above[~is_member])
    assert np.array_equal(scores >= float(repr(point.threshold)), above)  # as read back from report.json


@given(two_classes, two_classes)
def test_counts_are_scikit_learns_and_scipys(calibration, data):
    (point,) = at_thresholds(*calibration, *data, (0.3,))
    if point.threshold is None:
        return
    scores, is_member = data
    called = scores >= point.threshold
    assert point.balanced_accuracy == pytest.approx(balanced_accuracy_score(is_member, called), abs=1e-12)
    assert point.f1 == pytest.approx(f1_score(is_member, called, zero_division=0), abs=1e-12)
    for side, value, low, high in ((is_member, point.tpr, point.tpr_low, point.tpr_high), (~is_member, point.fpr_achieved, point.fpr_low, point.fpr_high)):
        exact = binomtest(int(called[side].sum()), int(side.sum())).proportion_ci(0.95, "exact")
        assert (value, low, high) == pytest.approx((called[side].mean(), exact.low, exact.high), abs=1e-9)


@given(two_classes, two_classes)
def test_the_numbers_of_one_point_are_jointly_possible(calibration, data):
    for point in at_thresholds(*calibration, *data, (0.5, 0.2)):
        if point.threshold is not None:
            assert point.tpr_low <= point.tpr <= point.tpr_high and point.fpr_low <= point.fpr_achieved <= point.fpr_high
            assert point.balanced_accuracy == pytest.approx((point.tpr + 1 - point.fpr_achieved) / 2)


def test_published_counts():
    # 30 of 100 members and 5 of 100 non-members stand above the 10th largest of 99 calibration non-members
    calibration = joined([0.0], np.arange(1, 100))
    scores, is_member = joined(np.r_[np.full(30, 95.0), np.zeros(70)], np.r_[np.full(5, 99.0), np.full(95, 90.0)])
    (point,) = at_thresholds(*calibration, scores, is_member, (0.1,))
    assert point.threshold == np.nextafter(90.0, 91) and (point.tpr, point.fpr_achieved) == (0.3, 0.05)
    assert (point.fpr_low, point.fpr_high) == pytest.approx((0.016432, 0.112835), abs=1e-6)
    assert (point.balanced_accuracy, point.f1) == pytest.approx((0.625, 60 / 135))


def test_a_guarantee_costs_members():
    rng = np.random.default_rng(0)
    calibration, data = joined(rng.normal(1, 1, 500), rng.normal(size=500)), joined(rng.normal(1, 1, 500), rng.normal(size=500))
    plain, safe = (at_thresholds(*calibration, *data, guaranteed=g) for g in (False, True))
    assert [p.fpr for p in plain] == [0.1, 0.01, 0.001]
    assert safe[0].threshold > plain[0].threshold and safe[1].tpr < plain[1].tpr


def test_too_few_calibration_nonmembers_give_a_reason_and_no_number():
    points = at_thresholds(*joined(np.zeros(500), np.arange(98)), *joined([1, 2], [0, 1]))
    assert points[0].reason is None
    assert points[1] == ThresholdPoint(0.01, reason="cannot be set with 98 calibration non-members; needs 99")
    assert points[2].reason == "cannot be set with 98 calibration non-members; needs 999"
    (point,) = at_thresholds(*joined([0], np.arange(98)), *joined([1, 2], [0, 1]), (0.01,), guaranteed=True)
    assert point.reason.endswith("needs 299")
    assert calibrated_threshold([], 0.1) is None


def test_json_has_the_reports_names_and_no_nan():
    for point in at_thresholds(*joined([0], np.arange(20)), *joined([1, 2], [0, 1])):
        assert list(point.to_json()) == NAMES
        json.dumps(point.to_json(), allow_nan=False)


def test_one_class_and_nan_are_refused():
    good = joined([1, 2], [0, 1])
    with pytest.raises(ImageSetError):
        at_thresholds(*good, [1.0, 2.0], [True, True])
    with pytest.raises(AttackError):
        at_thresholds([np.nan, 1, 2, 3], good[1], *good)


def test_expected_rate_and_guarantee_hold():
    rng, runs, n = np.random.default_rng(5), 2000, 300
    true = {g: [] for g in (False, True)}
    for _ in range(runs):
        outsiders = rng.random(n)
        for guaranteed in true:
            true[guaranteed].append(1 - calibrated_threshold(outsiders, 0.05, guaranteed))
    r = conformal_rank(0.05, n)
    assert np.mean(true[False]) == pytest.approx(r / (n + 1), abs=3 * np.std(true[False]) / math.sqrt(runs))
    kept = np.mean(np.array(true[True]) <= 0.05)
    assert kept >= 0.95 - binomial_slack(0.95, runs) and np.mean(np.array(true[False]) <= 0.05) < 0.65

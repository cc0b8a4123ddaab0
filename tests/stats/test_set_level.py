import json

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import kstest, ttest_ind

from audit.errors import AttackError, ImageSetError
from audit.stats.set_level import combined, set_level, sizes_up_to, welch
from tests.stats.common import A, B, binomial_slack, two_classes


def halves(a, b):
    """(is_member, calibration) for a members and b non-members of which every second one is calibration."""
    return np.arange(a + b) < a, np.arange(a + b) % 2 == 0


def audit(rng, n, shift, attacks=3):
    """({attack: scores}, is_member, calibration) with n images a side *in the evaluation half*; attacks share half of their noise."""
    is_member, calibration = halves(2 * n, 2 * n)
    base = rng.normal(size=4 * n)
    return {f"attack{j}": base + rng.normal(size=4 * n) + shift * is_member for j in range(attacks)}, is_member, calibration


def test_published_welch():
    t, df, p = welch(np.mean(A), np.var(A, ddof=1), 7, np.mean(B), np.var(B, ddof=1), 9)
    assert (t, df, p) == pytest.approx((2.383501, 12.253977, 0.0170747), abs=1e-6)


@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")  # scipy's own, where a class has one value
@given(two_classes)
def test_welch_is_scipys(data):
    scores, is_member = data
    a, b = scores[is_member], scores[~is_member]
    if min(len(a), len(b)) < 2 or a.var() + b.var() == 0:
        return
    mine = welch(a.mean(), a.var(ddof=1), len(a), b.mean(), b.var(ddof=1), len(b))
    theirs = ttest_ind(a, b, equal_var=False, alternative="greater")
    assert [float(x) for x in mine] == pytest.approx([theirs.statistic, theirs.df, theirs.pvalue], rel=1e-10, abs=1e-12)


def test_combined_score_by_hand():
    is_member, calibration = np.array([True, True, False, False, False]), np.array([True, False, True, True, False])
    scores = {"a": [1, 5, 2, 4, 9], "b": [10, 30, 10, 10.5, 11], "flat": [1, 2, 3, 3, 4]}
    got, left_out = combined(scores, is_member, calibration)
    naive = [((a - 3) / np.sqrt(2) + (b - 10.25) / np.sqrt(0.125)) / 2 for a, b in zip(scores["a"], scores["b"], strict=True)]
    assert got == pytest.approx(naive, abs=1e-12) and left_out == ["flat"]


def test_one_attack_is_welch_on_its_evaluation_scores_and_the_scale_does_not_matter():
    scores, is_member, calibration = audit(np.random.default_rng(0), 60, 0.4, attacks=1)
    result = set_level(scores, is_member, calibration, seed=1)
    values = scores["attack0"]
    theirs = ttest_ind(values[is_member & ~calibration], values[~is_member & ~calibration], equal_var=False, alternative="greater")
    assert (result.t, result.df, result.p_value) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue), abs=1e-12)
    again = set_level({"attack0": 1000 * values - 7}, is_member, calibration, seed=1)
    assert again.p_value == pytest.approx(result.p_value, abs=1e-12) and again.needed == result.needed


def test_the_direction_is_declared():
    scores, is_member, calibration = audit(np.random.default_rng(0), 60, -1.0)
    result = set_level(scores, is_member, calibration, seed=0)
    assert result.p_value > 0.999 and result.needed is None and result.t < 0


def test_calibration_members_do_not_matter():
    scores, is_member, calibration = audit(np.random.default_rng(2), 50, 0.5)
    changed = {name: np.where(is_member & calibration, 1e6, column) for name, column in scores.items()}
    assert set_level(changed, is_member, calibration, seed=0) == set_level(scores, is_member, calibration, seed=0)


def test_curve_rows_are_naive_welch_tests_of_the_same_subsamples():
    from audit.stats.streams import stream

    scores, is_member, calibration = audit(np.random.default_rng(3), 40, 0.6, attacks=1)
    result, values = set_level(scores, is_member, calibration, seed=9), combined(scores, is_member, calibration)[0]
    a, b = values[is_member & ~calibration], values[~is_member & ~calibration]
    rng, p = stream(9, "set_level"), []
    for _ in range(200):
        x, y = rng.permutation(a), rng.permutation(b)
        p.append([ttest_ind(x[:k], y[:k], equal_var=False, alternative="greater").pvalue for k in (5, 7, 10, 15, 20, 30, 40)])
    assert [row["images"] for row in result.images_needed] == [5, 7, 10, 15, 20, 30, 40]
    assert [row["median_p"] for row in result.images_needed] == pytest.approx(np.median(p, axis=0).tolist(), abs=1e-10)
    assert [row["share_below"] for row in result.images_needed] == np.mean(np.array(p) < 0.01, axis=0).tolist()


def test_needed_is_the_first_size_below_one_percent_and_the_last_row_is_the_test_itself():
    scores, is_member, calibration = audit(np.random.default_rng(4), 200, 0.8)
    result = set_level(scores, is_member, calibration, seed=0)
    below = [row["images"] for row in result.images_needed if row["median_p"] < 0.01]
    assert result.needed == below[0] and 10 <= result.needed <= 100
    assert result.images_needed[-1]["images"] == 200 and result.images_needed[-1]["median_p"] == pytest.approx(result.p_value, rel=1e-6)
    assert result.images_needed[-1]["share_below"] == 1
    assert result == set_level(scores, is_member, calibration, seed=0) != set_level(scores, is_member, calibration, seed=1)


def test_no_signal_needs_more_images_than_there_are():
    scores, is_member, calibration = audit(np.random.default_rng(8), 100, 0.0)
    result = set_level(scores, is_member, calibration, seed=0)
    assert result.needed is None and result.p_value > 0.05


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(4, []), (5, [5]), (6, [5, 6]), (100, [5, 7, 10, 15, 20, 30, 50, 70, 100]), (250, [5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 250])],
)
def test_sizes(largest, expected):
    assert sizes_up_to(largest) == expected


def test_unequal_classes_go_up_to_the_smaller():
    is_member, calibration = halves(60, 400)
    scores = np.random.default_rng(5).normal(size=460) + is_member
    assert set_level({"a": scores}, is_member, calibration, 0).images_needed[-1]["images"] == 30


def test_no_spread_gives_a_reason_and_no_number():
    is_member, calibration = halves(20, 20)
    flat = set_level({"a": np.zeros(40)}, is_member, calibration, 0)
    assert (flat.p_value, flat.images_needed, flat.needed) == (None, (), None) and "left out" in flat.reason and flat.reason.endswith(": a")
    for value in (0.1, 0.3, 0.7, 1 / 3):  # the evaluation half has one value; np.var of it is not always 0
        for side in (14, 20, 22, 26, 38):
            some = np.where(halves(side, side)[1], np.arange(2 * side), value)
            assert "no spread" in set_level({"a": some}, *halves(side, side), 0).reason
    mixed = set_level({"a": np.zeros(40), "b": np.arange(40.0)}, is_member, calibration, 0)
    assert mixed.p_value is not None and mixed.reason.endswith(": a")
    json.dumps([x.to_json() for x in (flat, mixed)], allow_nan=False)


def test_few_images():
    is_member, calibration = np.array([True, True, False, False, False, False]), np.array([True, False, True, True, False, False])
    result = set_level({"a": [1, 2, 3, 4, 5, 6]}, is_member, calibration, 0)
    assert result.p_value is None and result.reason == "1 members and 2 non-members are in the evaluation half; needs 2 of each"


def test_bad_input_is_refused():
    is_member, calibration = halves(10, 10)
    for scores in ({}, {"a": [1.0, np.nan] * 10}, {"a": [1.0]}):
        with pytest.raises(AttackError):
            set_level(scores, is_member, calibration, 0)
    for bad in (np.zeros(20, bool), np.ones(3, bool), np.arange(20)):
        with pytest.raises(ImageSetError):
            set_level({"a": np.arange(20.0)}, is_member, bad, 0)


@settings(max_examples=20, deadline=None)
@given(two_classes)
def test_any_tied_scores_give_numbers_or_reasons(data):
    scores, is_member = data
    scores, is_member = np.tile(scores, 4), np.tile(is_member, 4)
    result = set_level({"a": scores}, is_member, np.arange(len(scores)) < len(scores) // 2, 0)
    assert (result.p_value is None) <= (result.reason is not None)
    assert all(0 <= row["median_p"] <= 1 for row in result.images_needed)
    json.dumps(result.to_json(), allow_nan=False)


def test_p_is_uniform_without_a_leak():
    rng, p = np.random.default_rng(7), []
    for _ in range(500):
        scores, is_member, calibration = audit(rng, 50, 0.0)
        values = combined(scores, is_member, calibration)[0]
        a, b = values[is_member & ~calibration], values[~is_member & ~calibration]
        p.append(float(welch(a.mean(), a.var(ddof=1), 50, b.mean(), b.var(ddof=1), 50)[2]))
    assert kstest(p, "uniform").pvalue > 0.001
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + binomial_slack(0.05, 500)


def test_exact_copies_in_clusters_give_the_p_of_the_originals():
    scores, is_member, calibration = audit(np.random.default_rng(9), 40, 0.4)
    calibration = (np.arange(len(is_member)) // 2) % 2 == 0
    once = set_level(scores, is_member, calibration, 0)
    twice = {name: np.repeat(s, 2) for name, s in scores.items()}
    copies, numbers = (np.repeat(x, 2) for x in (is_member, np.arange(len(is_member))))
    found = set_level(twice, copies, np.repeat(calibration, 2), 0, numbers)
    assert (found.t, found.df, found.p_value) == pytest.approx((once.t, once.df, once.p_value), rel=1e-9)
    assert set_level(twice, copies, np.repeat(calibration, 2), 0).p_value < once.p_value / 2, "copies taken as images would claim more"
    assert set_level(scores, is_member, calibration, 0, np.arange(len(is_member))).p_value == pytest.approx(once.p_value, rel=1e-12)


def test_one_cluster_in_a_class_gives_no_p():
    scores, is_member, calibration = audit(np.random.default_rng(9), 10, 0.4)
    found = set_level(scores, is_member, calibration, 0, np.where(is_member, 0, 1 + np.arange(len(is_member))))
    assert found.p_value is None and "1 members" in found.reason

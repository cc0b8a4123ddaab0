import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from audit.errors import AttackError, ImageSetError
from audit.stats.flags import _precision, benjamini_hochberg, conformal_p, flag, smallest_list
from audit.stats.tpr import clopper_pearson
from tests.stats.common import B, binomial_slack, joined, tied, two_classes


def test_published_conformal_p():
    assert conformal_p(B, [2.5, 1.9, 0.5, 3, -2]) == pytest.approx([0.1, 0.2, 0.5, 0.1, 1.0], abs=1e-12)


def test_published_benjamini_hochberg():
    assert benjamini_hochberg([0.01, 0.02, 0.03, 0.2, 0.6], 0.1).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("n_cal", "expected"), [(100, 100), (500, 20), (1000, 10), (5000, 2)])
def test_published_list_sizes(n_cal, expected):
    assert smallest_list(n_cal, 1000, 0.1) == expected


def test_published_precision():
    half, rare = (_precision(59, 1000, 10, 1000, prior).value for prior in (0.5, 0.01))
    assert (half, rare) == pytest.approx((0.855, 0.056), abs=5e-4)


@given(tied, tied)
def test_conformal_p_is_the_naive_one(known, scores):
    naive = [(1 + sum(c >= s for c in known)) / (len(known) + 1) for s in scores]
    assert conformal_p(known, scores).tolist() == naive


def naive_bh(p, q):
    """Step up by the book."""
    order, flagged = sorted(range(len(p)), key=lambda i: p[i]), set()
    for k in range(1, len(p) + 1):
        if p[order[k - 1]] <= k * q / len(p):
            flagged = set(order[:k])
    return [i in flagged for i in range(len(p))]


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30), st.sampled_from([0.05, 0.1, 0.37]))
def test_benjamini_hochberg_is_the_naive_one_and_scipys(p, q):
    flagged = benjamini_hochberg(p, q)
    assert flagged.tolist() == naive_bh(p, q) == (false_discovery_control(p) <= q).tolist()


def test_equal_p_are_flagged_together_and_nothing_is_an_empty_list():
    assert benjamini_hochberg([0.1, 0.1, 0.1], 0.1).all() and not benjamini_hochberg([0.101, 0.1, 0.101], 0.1).any()
    assert benjamini_hochberg([], 0.1).tolist() == []
    assert benjamini_hochberg([0.03, 0.03, 0.03] + [1.0] * 7, 0.1).sum() == 3  # exactly at the line


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([0.05, 0.1, 0.5]))
def test_smallest_list_is_what_it_takes(n_cal, count, q):
    tie, least = smallest_list(n_cal, count, q), 1 / (n_cal + 1)
    for k in (tie - 1, tie):
        if 1 <= k <= count:
            assert benjamini_hochberg([least] * k + [1.0] * (count - k), q).sum() == (k if k == tie else 0)


@given(tied, two_classes)
def test_flags_rise_with_the_score_and_count_both_classes(known, data):
    scores, is_member = data
    flags = flag(known, scores, is_member, q=0.4)
    assert flags.flagged.sum() == 0 or scores[flags.flagged].min() > scores[~flags.flagged].max(initial=-np.inf)
    assert flags.flagged_members == (flags.flagged & is_member).sum()
    assert (flags.reason is None) == bool(flags.flagged.any())


def test_bounds_use_the_worse_end_of_both_rates():
    known = np.arange(2000.0)
    scores, is_member = joined(np.r_[np.full(40, 5000.0), np.zeros(60)], np.r_[np.full(2, 5000.0), np.zeros(98)])
    flags = flag(known, scores, is_member)
    assert (flags.flagged.sum(), flags.flagged_members, flags.reason) == (42, 40, None)
    (t_low, t_high), (f_low, f_high) = clopper_pearson(40, 100), clopper_pearson(2, 100)
    for point, prior in zip(flags.precision, (0.5, 0.01), strict=True):
        odds = (1 - prior) / prior
        assert (point.prior, point.value) == (prior, pytest.approx(1 / (1 + odds * 0.02 / 0.4), abs=1e-12))
        assert (point.low, point.high) == pytest.approx((1 / (1 + odds * f_high / t_low), 1 / (1 + odds * f_low / t_high)), abs=1e-12)


def test_no_false_flag_still_has_a_lower_end():
    scores, is_member = joined(np.r_[np.full(40, 5000.0), np.zeros(60)], np.zeros(100))
    half, rare = flag(np.arange(2000.0), scores, is_member).precision
    assert half.value == rare.value == half.high == 1 and 0 < rare.low < half.low < 1
    only_false = flag(np.arange(2000.0), *joined(np.zeros(100), np.r_[np.full(40, 5000.0), np.zeros(60)])).precision[0]
    assert (only_false.value, only_false.low) == (0, 0) and 0 < only_false.high < 1


def test_too_few_calibration_images_cannot_flag():
    scores, is_member = joined(np.full(50, 1e9), np.zeros(950))
    flags = flag(np.arange(100.0), scores, is_member)  # 100 would have to tie, 50 do
    assert not flags.flagged.any() and flags.reason.startswith("cannot flag with this many calibration images: ")
    assert "100 calibration non-members and 1,000 images" in flags.reason and "100 images would have to score above" in flags.reason and "9,999" in flags.reason
    assert [p.to_json() for p in flags.precision] == [{"prior": prior, "value": None, "low": None, "high": None} for prior in (0.5, 0.01)]
    assert flag(np.arange(9999.0), *joined([1e9] + [0.0] * 499, np.zeros(500))).flagged.sum() == 1
    assert "no image could be flagged whatever it scored" in flag([1.0], scores, is_member).reason


def test_enough_calibration_images_and_nobody_stands_out():
    flags = flag(np.arange(9999.0), *joined(np.zeros(500), np.zeros(500)))
    assert flags.reason == "no image stands out enough from the calibration non-members" and flags.to_json()["flagged"] == 0


def test_json_has_the_reports_names():
    found = flag(np.arange(2000.0), *joined(np.full(60, 5000.0), np.zeros(40))).to_json()
    assert list(found) == ["q", "flagged", "flagged_members", "of", "precision", "reason"] and (found["flagged"], found["of"]) == (60, 100)
    json.dumps(found, allow_nan=False)


def test_bad_input_is_refused():
    scores, is_member = joined([1, 2], [0, 1])
    for known in ([], [np.nan], [[1.0]]):
        with pytest.raises(AttackError, match="Expected finite"):
            flag(known, scores, is_member)
    with pytest.raises(ImageSetError):
        flag([1.0], scores, np.ones(4, bool))


def mixed(rng, n, n_cal, share):
    """(calibration non-members, scores, is_member, exposed): a share of the members, drawn one by one, stands 5 sd above all others."""
    exposed = np.concatenate([rng.random(n) < share, np.zeros(n, bool)])
    scores, is_member = joined(rng.normal(0, 1, n), rng.normal(0, 1, n))
    return rng.normal(0, 1, n_cal), scores + 5 * exposed, is_member, exposed


@pytest.mark.slow
def test_false_discovery_rate_is_the_published_one():
    # published: .036 to .050 at half non-members; every audit has its own calibration set
    rng, rates = np.random.default_rng(3), []
    for _ in range(400):
        known, scores, is_member, _ = mixed(rng, 500, 1000, 0.05)
        flagged = flag(known, scores, is_member).flagged
        rates.append((flagged & ~is_member).sum() / max(1, flagged.sum()))
    spread = 3 * np.std(rates) / math.sqrt(len(rates))
    assert 0.036 - spread <= np.mean(rates) <= 0.050 + spread


@pytest.mark.slow
@pytest.mark.parametrize(("n_cal", "share"), [(100, 0.0), (250, 0.06), (500, 0.94), (1000, 1.0)])
def test_audits_that_can_flag_the_exposed_are_as_many_as_published(n_cal, share):
    rng, runs, flagged = np.random.default_rng(4), 300, []
    for _ in range(runs):
        known, scores, is_member, exposed = mixed(rng, 500, n_cal, 0.05)
        flagged.append(flag(known, scores, is_member).flagged[exposed].mean())
    # the page does not say how many audits are behind its figures: 100 are assumed
    assert np.mean(np.array(flagged) > 0) == pytest.approx(share, abs=math.hypot(binomial_slack(share, runs), binomial_slack(share, 100)) + 0.005)
    assert all(found == 0 or found > 0.7 for found in flagged)  # all or nothing: they have to tie


@pytest.mark.slow
def test_precision_bounds_cover_in_spite_of_the_moving_cut():
    from scipy.stats import norm

    rng, runs, covered = np.random.default_rng(6), 0, 0
    for _ in range(600):
        known, scores, is_member, _ = mixed(rng, 500, 1000, 0.2)
        flags = flag(known, scores, is_member)
        if not flags.flagged.any():
            continue
        cut = scores[flags.flagged].min()
        t, f = 0.8 * norm.sf(cut) + 0.2 * norm.sf(cut - 5), norm.sf(cut)
        runs, covered = runs + 1, covered + (flags.precision[1].low <= 0.01 * t / (0.01 * t + 0.99 * f) <= flags.precision[1].high)
    assert runs > 500 and covered / runs >= 0.93

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.stats.permutation import standardised_ranks
from audit.stats.power import CRITICAL_Z_ONE_TEST, images_needed, minimum_detectable_auc, null_standard_error, planned_mda
from tests.stats.common import binomial_slack, joined


@pytest.mark.parametrize(("n", "expected"), [(50, 0.644), (100, 0.602), (200, 0.572), (500, 0.545), (1000, 0.532), (2500, 0.520)])
def test_published_figures_for_one_test(n, expected):
    assert minimum_detectable_auc(n, n, CRITICAL_Z_ONE_TEST) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("n", "expected"), [(100, 0.633), (200, 0.594), (500, 0.559), (1000, 0.542)])
def test_published_figures_before_a_run(n, expected):
    assert planned_mda(n, n) == pytest.approx(expected, abs=6e-4)  # .0005 of rounding, .0001 because the page used 0.8416


@pytest.mark.parametrize(
    ("mda", "c", "expected"),
    [(0.60, 1.645, 104), (0.55, 1.645, 413), (0.52, 1.645, 2577), (0.60, 2.4, 176), (0.55, 2.4, 701), (0.52, 2.4, 4379)],
)
def test_published_images_needed(mda, c, expected):
    assert images_needed(mda, c) == pytest.approx(expected, abs=1)  # at most one image apart: 0.842 here and in the formula, 0.8416 in the page's figures


@given(st.floats(0.505, 0.95), st.floats(1.6, 4))
def test_images_needed_is_the_inverse(mda, c):
    n = images_needed(mda, c)
    assert minimum_detectable_auc(n + 1, n + 1, c) <= mda
    assert n < 3 or minimum_detectable_auc(n - 1, n - 1, c) > mda


def test_standard_error_is_that_of_the_null():
    # exact: AUC over all label sets of 3 members among 7 distinct scores
    from itertools import combinations

    from audit.stats.auc import auc

    scores = np.arange(7.0)
    every = [auc(scores, np.isin(np.arange(7), c)) for c in combinations(range(7), 3)]
    assert null_standard_error(3, 4) == pytest.approx(np.std(every), abs=1e-12)


def test_more_images_and_less_power_detect_smaller_leaks():
    assert minimum_detectable_auc(100, 400, 2.4) < minimum_detectable_auc(100, 100, 2.4) < minimum_detectable_auc(50, 50, 2.4)
    assert minimum_detectable_auc(100, 100, 2.4, power_z=3.09) > minimum_detectable_auc(100, 100, 2.4)
    assert minimum_detectable_auc(1, 1, 2.4) == 1


@pytest.mark.parametrize("mda", [0.5, 0.4, 1.01])
def test_an_auc_that_cannot_be_planned_for_is_refused(mda):
    with pytest.raises(ValueError, match=r"above 0\.5"):
        images_needed(mda, 2.4)


@pytest.mark.slow
def test_a_leak_at_the_mda_is_found_at_the_promised_rate():
    from scipy.stats import norm

    rng, runs, n = np.random.default_rng(31), 2000, 100
    mu = np.sqrt(2) * norm.ppf(minimum_detectable_auc(n, n, CRITICAL_Z_ONE_TEST))
    hits = 0
    for _ in range(runs):
        scores, is_member = joined(rng.normal(mu, 1, n), rng.normal(0, 1, n))
        hits += standardised_ranks(scores, is_member)[is_member, 0].sum() > CRITICAL_Z_ONE_TEST
    assert 0.80 - binomial_slack(0.80, runs) <= hits / runs <= 0.84 + binomial_slack(0.84, runs)

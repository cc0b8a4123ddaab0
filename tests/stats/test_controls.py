import numpy as np
import pytest

from audit.errors import ImageSetError
from audit.stats.auc import auc_interval
from audit.stats.controls import at_chance, shuffled_labels
from audit.stats.streams import stream
from tests.stats.common import joined

RNG = np.random.default_rng(0)
LEAK = joined(RNG.normal(3, 1, 200), RNG.normal(0, 1, 200))


def test_mixed_labels_hide_the_strongest_leak():
    control = shuffled_labels(*LEAK, seed=0)
    mixed = stream(0, "shuffled_labels").permutation(LEAK[1])
    interval = auc_interval(LEAK[0], mixed)
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
        shuffled_labels([1.0, 2.0], [True, True], seed=0)


@pytest.mark.slow
def test_one_audit_in_a_thousand_fails():
    runs = 4000
    failed = sum(not shuffled_labels(*LEAK, seed=s).passed for s in range(runs))
    assert failed <= 4 + 3 * 2 + 1  # mean 4, sd 2

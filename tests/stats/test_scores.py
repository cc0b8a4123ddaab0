import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from audit.errors import AttackError, ImageSetError
from audit.stats.scores import checked, checked_members, midranks, one_vector


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_midranks_are_those_of_scipy(values):
    assert np.array_equal(midranks(np.array(values, float)), rankdata(values))


def test_float32_ties_are_those_of_the_stored_values():
    stored = np.array([0.1, 0.1 + 1e-10, 0.2], np.float32)  # the first two round to one float32
    assert midranks(one_vector(stored, [True, False, True])[0]).tolist() == [1.5, 1.5, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_counted_and_refused(bad):
    with pytest.raises(AttackError, match=r"2 of 4 scores are NaN or infinite\. Expected finite"):
        checked([bad, 1, 2, bad], [True, True, False, False])


@pytest.mark.parametrize("labels", [[True, True], [False, False], []])
def test_one_class_is_refused(labels):
    with pytest.raises(ImageSetError, match="Expected both"):
        checked_members(np.array(labels, bool))


def test_shapes_and_types_are_refused_in_one_line():
    both = [True, False, True]
    for scores in ([1.0, 2.0], [[1.0], [2.0], [3.0]], 5.0, ["a", "b", "c"]):
        with pytest.raises(AttackError) as error:
            checked(scores, both)
        assert "\n" not in str(error.value)
    with pytest.raises(AttackError, match="one vector"):
        one_vector(np.zeros((2, 3)), both)
    for labels in ([[True], [False]], [0.5, 1.0], ["member", "other"], [1, 2, 3], [None, True]):
        with pytest.raises(ImageSetError):
            checked_members(labels)


def test_zero_and_one_are_read_as_false_and_true():
    assert checked_members([0, 1, 1]).tolist() == [False, True, True]

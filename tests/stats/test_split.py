import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import ImageSetError
from audit.stats.split import cluster_index, half_split

labels = st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda x: 0 < sum(x) < len(x)).map(np.array)


@given(labels, st.integers(0, 5))
def test_each_class_is_cut_in_two_and_the_odd_one_is_evaluated(is_member, seed):
    calibration = half_split(is_member, seed)
    assert calibration.dtype == bool and calibration.shape == is_member.shape
    for side in (True, False):
        assert calibration[is_member == side].sum() == (is_member == side).sum() // 2


def test_the_seed_and_the_repeat_decide():
    is_member = np.arange(200) < 90
    assert np.array_equal(half_split(is_member, 3), half_split(is_member, 3))
    assert np.array_equal(half_split(is_member, 3), half_split(is_member, 3, repeat=0))
    assert not np.array_equal(half_split(is_member, 3), half_split(is_member, 4))
    assert not np.array_equal(half_split(is_member, 3), half_split(is_member, 3, repeat=1))


@given(labels, st.integers(0, 3), st.integers(1, 8))
def test_calling_members_nonmembers_changes_no_half(is_member, seed, apart):
    assert np.array_equal(half_split(is_member, seed), half_split(~is_member, seed))
    clusters = np.arange(len(is_member)) % apart if apart > 1 else np.arange(len(is_member))
    assert np.array_equal(half_split(is_member, seed, clusters), half_split(~is_member, seed, clusters))


@given(st.lists(st.sampled_from("abcde"), max_size=30))
def test_clusters_are_numbered_by_their_first_image(names):
    seen = list(dict.fromkeys(names))
    assert cluster_index(names, len(names)).tolist() == [seen.index(name) for name in names]


def test_every_image_is_as_often_calibrated_as_any_other():
    is_member = np.arange(20) < 10
    share = np.mean([half_split(is_member, seed) for seed in range(2000)], axis=0)
    assert np.abs(share - 0.5).max() < 4.5 * 0.5 / np.sqrt(2000)  # 20 images looked at, 4.5 standard errors each


@given(labels, st.integers(0, 3), st.integers(1, 6), st.randoms(use_true_random=False))
def test_clusters_are_never_torn_and_the_halves_stay_even(is_member, seed, largest, random):
    clusters = []
    while len(clusters) < len(is_member):
        clusters += [f"c{len(clusters)}"] * random.randint(1, largest)
    clusters = np.array(clusters[: len(is_member)])
    random.shuffle(clusters)
    calibration = half_split(is_member, seed, clusters)
    for name in clusters:
        assert len(set(calibration[clusters == name])) == 1
    sizes = [np.sum(clusters == name) for name in clusters]
    # each cluster is placed where it lessens the unevenness: |lead|² grows by at most |cluster|² each time
    lead = [calibration[is_member == side].sum() - (~calibration)[is_member == side].sum() for side in (True, False)]
    assert lead[0] ** 2 + lead[1] ** 2 <= sum(sizes)  # Σ over images of their cluster's size = Σ |cluster|²


def test_clusters_of_one_split_as_evenly_as_none():
    is_member = np.arange(101) < 40
    calibration = half_split(is_member, 0, np.arange(101))
    assert calibration[is_member].sum() == 20 and calibration[~is_member].sum() in (30, 31)


def test_bad_input():
    with pytest.raises(ImageSetError, match="one cluster label per image"):
        half_split(np.array([True, False]), 0, [1, 2, 3])
    with pytest.raises(ImageSetError):
        half_split(np.array([True, True]), 0)

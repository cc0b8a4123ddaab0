"""Paired comparisons against plain loops, the vector of docs/statistics.md, and made scores whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from audit.errors import AttackError
from audit.stats.auc import auc_interval
from audit.stats.paired import exposed_overlap, holm, paired_difference
from tests.simulations import paired_attacks
from tests.stats.common import IS_MEMBER, SCORES, joined, naive_auc

OTHERS, _ = joined([1, 0.8, 2, 0.3, 0.9, 1.4, 0.2], [0.5, 0.1, 0.7, 0.6, 1.1, -0.2, 0, 0.4, -0.3])


def test_published_vector():
    found = paired_difference(OTHERS, SCORES, IS_MEMBER)  # the vector's d is A - A'
    assert found.value == pytest.approx(0.0238095, abs=5e-8)
    assert found.p_value == pytest.approx(2 * norm.sf(0.159712), abs=1e-6)


def naive(a, b, is_member, clusters=None):
    """(d, v) by counting pairs, group by group."""
    groups = np.arange(len(a)) if clusters is None else np.asarray(clusters)

    def wins(s, i, j):
        return float(s[i] > s[j]) + 0.5 * float(s[i] == s[j])

    members, others = np.flatnonzero(is_member), np.flatnonzero(~is_member)
    gain = np.array([[wins(b, i, j) - wins(a, i, j) for j in others] for i in members])
    d, v = gain.mean(), 0.0
    for side, mean in ((members, gain.mean(axis=1)), (others, gain.mean(axis=0))):
        sums = [sum(mean[k] - d for k in range(len(side)) if groups[side[k]] == g) for g in np.unique(groups[side])]
        v += len(sums) / (len(sums) - 1) * sum(s * s for s in sums) / len(side) ** 2
    return d, v


@given(st.integers(5, 14), st.integers(5, 14), st.integers(0, 10**6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_against_every_pair_with_ties_and_groups(m, n, seed, grouped):
    rng, labels = np.random.default_rng(seed), np.arange(m + n) < m
    a, b = rng.integers(0, 7, (2, m + n)).astype(float)
    clusters = np.where(labels, np.arange(m + n), np.arange(m + n) // 2 + 100) if grouped else None
    found, (d, v) = paired_difference(a, b, labels, clusters), naive(a, b, labels, clusters)
    assert found.value == pytest.approx(d, abs=1e-12) and d == pytest.approx(naive_auc(b, labels) - naive_auc(a, labels), abs=1e-12)
    if found.low is None:
        assert grouped and n < 10
        return
    units = min(m, n if clusters is None else len(np.unique(clusters[m:])))
    assert found.p_value == pytest.approx(max(2 * norm.sf(abs(d) / v**0.5), 2 * 0.5**units) if v > 1e-15 else 1.0 if abs(d) < 1e-12 else 2 * 0.5**units, abs=1e-9)
    plain = (d - norm.ppf(0.975) * v**0.5, d + norm.ppf(0.975) * v**0.5)
    assert found.low <= max(plain[0], -1) + 1e-9 and found.high >= min(plain[1], 1) - 1e-9, "limits only move outward"
    assert (found.low > 1e-9 or found.high < -1e-9) == (plain[0] > 1e-9 or plain[1] < -1e-9), "and never across 0"
    back = paired_difference(b, a, labels, clusters)
    assert (-back.value, -back.high, -back.low, back.p_value) == pytest.approx((found.value, found.low, found.high, found.p_value), abs=1e-12)


def test_pairing_sees_what_two_intervals_cannot():
    """The same images scored almost alike: the two AUC intervals overlap widely, the difference is clear."""
    rng, labels = np.random.default_rng(3), np.arange(600) < 300
    a = rng.normal(size=600) + 0.8 * labels
    b = a + 0.15 * labels + 0.02 * rng.normal(size=600)
    first, second = (auc_interval(s, labels) for s in (a, b))
    found = paired_difference(a, b, labels)
    assert first.high > second.value and found.low > 0 and found.p_value < 1e-6
    assert found.high - found.low < 0.3 * (first.high - first.low)


def test_two_perfect_attacks_are_not_said_to_be_equal_for_good():
    scores, labels = joined(np.arange(50) + 100.0, np.arange(60))
    found = paired_difference(scores, scores**3, labels)
    assert (found.value, found.p_value) == (0, 1) and (found.low, found.high) == pytest.approx((auc_interval(scores, labels).low - 1, 1 - auc_interval(scores, labels).low))


def test_groups_count_once():
    rng, labels = np.random.default_rng(5), np.arange(200) < 100
    a, b = (np.repeat(rng.normal(size=100), 2) + 0.9 * labels for _ in range(2))
    alone, grouped = paired_difference(a, b, labels), paired_difference(a, b, labels, np.arange(200) // 2)
    assert alone.value == grouped.value and (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(2**0.5, abs=0.02)


def test_too_few_images_say_so():
    found = paired_difference(np.arange(12.0), np.arange(12.0) % 5, np.arange(12) < 4)
    assert found.low is None and found.p_value is None and "4 members and 8 non-members" in found.status
    with pytest.raises(AttackError, match="NaN or infinite"):
        paired_difference(np.arange(12.0), np.append(np.arange(11.0), np.nan), np.arange(12) < 6)


def test_holm_by_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_overlap_of_the_most_exposed_members():
    labels = np.arange(500) < 200
    a = np.where(labels, np.arange(500), 1e6)  # non-members never count, however high
    shifted = np.where(labels, np.where(np.arange(500) >= 180, -1.0, a), -1e6)
    found = exposed_overlap(a, shifted, labels)
    assert (found.share, found.of, found.chance) == (30 / 50, 50, 0.25)
    assert exposed_overlap(a, a, labels).share == 1 and exposed_overlap(a, -a, labels).share == 0
    few = exposed_overlap(a[190:], a[190:], labels[190:])
    assert (few.of, few.chance) == (5, 0.5)


@pytest.mark.slow
def test_the_interval_covers_and_no_difference_is_found_where_there_is_none():
    lines = list(paired_attacks.rows(300))
    assert not [row.text() for row in lines if not row.ok]
    assert [row for row in paired_attacks.rows(300, paired_attacks.plain) if not row.ok], "plain DeLong must miss somewhere, or the rest is for nothing"

import numpy as np
import pytest
from hypothesis import given
from scipy.stats import mannwhitneyu, norm
from scipy.stats import t as student

from audit.errors import AttackError
from audit.stats.auc import auc, auc_interval, auc_many, newcombe
from tests.stats.common import IS_MEMBER, SCORES, binomial_slack, joined, naive_auc, two_classes


def test_published_vector():
    assert auc(SCORES, IS_MEMBER) == 51.5 / 63
    interval = auc_interval(SCORES, IS_MEMBER)
    assert interval.status == "ok" and interval.value == 51.5 / 63
    assert (interval.low, interval.high) == pytest.approx((0.476245, 0.956626), abs=1e-6)  # the figures have six digits


@pytest.mark.parametrize(
    ("value", "m", "n", "expected"),
    [(51.5 / 63, 7, 9, (0.523951, 0.942788)), (0.5, 50, 50, (0.38967, 0.61033)), (0.98, 50, 50, (0.925631, 0.994584)), (1.0, 50, 50, (0.960344, 1.0))],
)
def test_newcombe_vectors(value, m, n, expected):
    assert newcombe(value, m, n) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(("k", "bound"), [(7, 0.59038), (50, 0.92888), (100, 0.96378), (200, 0.98172), (1000, 0.99632)])
def test_a_perfect_attack_has_the_exact_bound(k, bound):
    scores, is_member = joined(np.arange(k) + 100.0 * k, np.arange(k + 3))
    perfect, reverse = auc_interval(scores, is_member), auc_interval(-scores, is_member)
    assert (perfect.value, perfect.high) == (1, 1) and perfect.low == pytest.approx(bound, abs=1e-5)
    assert (reverse.value, reverse.low) == (0, 0) and reverse.high == pytest.approx(1 - bound, abs=1e-5)


def test_equal_scores_give_newcombe():
    interval = auc_interval(np.full(100, 3.3), np.arange(100) < 50)
    assert interval.value == 0.5 and (interval.low, interval.high) == pytest.approx((0.38967, 0.61033), abs=5e-6)


@pytest.mark.parametrize(("m", "n", "has"), [(4, 50, False), (50, 4, False), (1, 1, False), (5, 5, True)])
def test_fewer_than_five_images_have_no_interval_and_say_so(m, n, has):
    interval = auc_interval(np.arange(m + n) % 3, np.arange(m + n) < m)
    assert (interval.low is not None) == (interval.high is not None) == has == (interval.status == "ok")
    assert has or (f"{m} members" in interval.status and interval.to_json()["low"] is None)


def logit_t(scores, is_member):
    """§1 by ranks and loops, without the guard."""
    from scipy.stats import t

    a, b = scores[is_member], scores[~is_member]
    m, n = len(a), len(b)
    v = [np.mean((b < x) + 0.5 * (b == x)) for x in a]
    w = [np.mean((a > y) + 0.5 * (a == y)) for y in b]
    s10, s01, value = np.var(v, ddof=1) / m, np.var(w, ddof=1) / n, np.mean(v)
    total = s10 + s01
    df = total**2 / (s10**2 / (m - 1) + s01**2 / (n - 1))
    half = t.ppf(0.975, df) * np.sqrt(total) / (value * (1 - value))
    centre = np.log(value / (1 - value))
    return 1 / (1 + np.exp(half - centre)), 1 / (1 + np.exp(-half - centre))


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_the_interval_is_logit_t_where_the_guard_is_silent(decimals):
    rng = np.random.default_rng(1)
    scores, is_member = joined(rng.normal(0.5, 1, 60).round(decimals), rng.normal(0, 2, 45).round(decimals))
    interval = auc_interval(scores, is_member)
    assert min(interval.value, 1 - interval.value) * 45 >= 5
    assert (interval.low, interval.high) == pytest.approx(logit_t(scores, is_member), rel=1e-9)


def test_the_guard_takes_the_hull():
    rng = np.random.default_rng(2)
    scores, is_member = joined(rng.normal(2.5, 1, 30), rng.normal(0, 1, 300))
    interval = auc_interval(scores, is_member)
    assert 30 * (1 - interval.value) < 5
    logit, other = logit_t(scores, is_member), newcombe(interval.value, 30, 300)
    assert (interval.low, interval.high) == pytest.approx((min(logit[0], other[0]), max(logit[1], other[1])), rel=1e-9)


@given(two_classes)
def test_auc_is_mann_whitney(data):
    scores, is_member = data
    u = mannwhitneyu(scores[is_member], scores[~is_member]).statistic
    assert auc(scores, is_member) == pytest.approx(naive_auc(scores, is_member), abs=1e-15) == pytest.approx(u / (is_member.sum() * (~is_member).sum()), abs=1e-15)


@given(two_classes)
def test_reversed_scores_and_swapped_classes(data):
    scores, is_member = data
    assert auc(scores, is_member) + auc(-scores, is_member) == pytest.approx(1, abs=1e-15)
    assert auc(scores, is_member) == auc(-scores, ~is_member)


@given(two_classes)
def test_only_the_order_matters(data):
    scores, is_member = data
    for rising in (np.exp(scores), scores**3, 1e-6 * scores - 5):
        assert auc(rising, is_member) == auc(scores, is_member)
        assert auc_interval(rising, is_member) == auc_interval(scores, is_member)


@given(two_classes)
def test_the_interval_holds_the_value_and_stays_inside_0_and_1(data):
    interval = auc_interval(*data)
    if interval.low is not None:
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
        mirrored = auc_interval(-data[0], data[1])
        assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-9)


@given(two_classes)
def test_many_is_one_by_one(data):
    scores, is_member = data
    matrix = np.stack([scores, -scores, np.arange(len(scores)), np.zeros(len(scores))])
    expected = [auc(row, is_member) for row in matrix]
    assert auc_many(matrix, is_member) == pytest.approx(expected, abs=1e-14)
    assert auc_many(matrix.astype(np.float32), is_member) == pytest.approx(expected, abs=1e-14)


def test_many_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    matrix, is_member = rng.normal(size=(23, 31)).round(1), np.arange(31) % 3 == 0
    whole = auc_many(matrix, is_member)
    monkeypatch.setattr("audit.stats.auc.BLOCK_VALUES", 70)
    assert np.array_equal(auc_many(matrix, is_member), whole)
    assert whole == pytest.approx([naive_auc(row, is_member) for row in matrix], abs=1e-14)


def test_many_refuses_what_cannot_be_sorted():
    with pytest.raises(AttackError, match="1 of 6 scores"):
        auc_many([[1, 2, np.nan], [1, 2, 3]], [True, False, True])


@pytest.mark.parametrize("mu", [0.0, 0.5, 2.0])
def test_known_roc_normals(mu):
    grid = norm.ppf((np.arange(2000) + 0.5) / 2000)
    scores, is_member = joined(grid + mu, grid)
    assert auc(scores, is_member) == pytest.approx(norm.cdf(mu / np.sqrt(2)), abs=1e-3)  # a midpoint grid of 2000 is off by 1/2000 at most


def cover(draw, truth, n, runs, seed):
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(runs):
        interval = auc_interval(*joined(*draw(rng, n)))
        hits += interval.low <= truth <= interval.high
    return hits / runs


@pytest.mark.slow
@pytest.mark.parametrize(("value", "n", "figure"), [(0.5, 50, 0.955), (0.9, 50, 0.953), (0.9, 25, 0.953), (0.99, 50, 0.977)])
def test_cover_of_the_interval_is_the_published_one(value, n, figure):
    mu, runs = np.sqrt(2) * norm.ppf(value), 2000
    seen = cover(lambda rng, n: (rng.normal(mu, 1, n), rng.normal(0, 1, n)), value, n, runs, seed=5)
    if n * (1 - value) < 5:  # the hull is wider than the published logit-t, so only the floor of 94 % binds
        assert seen >= 0.94 - binomial_slack(0.94, runs)
    else:
        assert abs(seen - figure) <= binomial_slack(figure, runs)


@pytest.mark.slow
def test_cover_holds_with_unequal_spreads_and_sizes():
    mu, runs = np.sqrt(5) * norm.ppf(0.95), 2000  # members twice as spread: the worst published cell is 94.1 %
    seen = cover(lambda rng, n: (rng.normal(mu, 2, n), rng.normal(0, 1, 8 * n)), 0.95, 25, runs, seed=6)
    assert seen >= 0.941 - binomial_slack(0.941, runs)


# --- near duplicates: whole clusters are the units -------------------------------------------------------------------------------------------


def test_clusters_of_one_change_nothing():
    rng = np.random.default_rng(5)
    scores, labels = rng.normal(size=90), np.arange(90) < 40
    assert auc_interval(scores, labels, np.arange(90)) == auc_interval(scores, labels)


def test_exact_copies_give_the_interval_of_the_originals():
    rng = np.random.default_rng(6)
    scores, labels = np.concatenate([rng.normal(0.7, 1, 30), rng.normal(size=50)]), np.arange(80) < 30
    once, twice = auc_interval(scores, labels), auc_interval(np.repeat(scores, 2), np.repeat(labels, 2), np.repeat(np.arange(80), 2))
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high), abs=1e-12)
    assert auc_interval(np.repeat(scores, 2), np.repeat(labels, 2)).low > once.low + 0.02, "copies taken as images would claim more"


def test_the_clustered_variance_is_obuchowskis():
    rng = np.random.default_rng(7)
    labels, clusters = np.arange(120) < 60, np.concatenate([rng.integers(0, 20, 60), 20 + rng.integers(0, 30, 60)])
    scores = rng.normal(size=120) + rng.normal(size=50)[clusters] + 0.5 * labels
    a, b = scores[labels], scores[~labels]
    v, w = (a[:, None] > b).mean(axis=1), (a[:, None] > b).mean(axis=0)
    parts = []
    for values, of in ((v, clusters[labels]), (w, clusters[~labels])):
        groups = np.unique(of)
        parts.append((len(groups) / (len(groups) - 1) * sum((values[of == g].sum() - (of == g).sum() * v.mean()) ** 2 for g in groups) / 60**2, len(groups)))
    total = sum(s for s, _ in parts)
    df = total**2 / sum(s**2 / (g - 1) for s, g in parts)
    middle = np.log(v.mean() / (1 - v.mean()))
    away = student.ppf(0.975, df) * total**0.5 / (v.mean() * (1 - v.mean()))
    found = auc_interval(scores, labels, clusters)
    assert (found.low, found.high) == pytest.approx((1 / (1 + np.exp(away - middle)), 1 / (1 + np.exp(-away - middle))), abs=1e-12)


def test_four_clusters_a_side_give_no_interval():
    found = auc_interval(np.arange(40.0), np.arange(40) < 20, np.arange(40) // 5)
    assert found.low is None and "4 members and 4 non-members" in found.status

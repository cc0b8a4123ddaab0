import numpy as np
import pytest
from hypothesis import given
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from audit.errors import AttackError
from audit.stats.auc import auc
from audit.stats.roc import AREA_TOLERANCE, fast_roc, roc
from tests.stats.common import joined, naive_tpr, two_classes


def assert_is_sklearns(scores, is_member):
    fpr, tpr, thresholds = roc_curve(is_member, scores, drop_intermediate=False)
    ours = fast_roc(scores, is_member)
    assert np.array_equal(ours.fpr, fpr) and np.array_equal(ours.tpr, tpr) and np.array_equal(ours.thresholds, thresholds)


@given(two_classes)
def test_every_point_is_scikit_learns(data):
    assert_is_sklearns(*data)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_every_point_is_scikit_learns_at_a_real_size(kind):
    rng = np.random.default_rng(0)
    is_member = rng.random(20_000) < 0.4
    assert_is_sklearns((rng.normal(size=20_000) + is_member).astype(kind), is_member)
    assert_is_sklearns((rng.normal(size=20_000) + is_member).round(2).astype(kind), is_member)


@given(two_classes)
def test_the_area_is_the_auc(data):
    curve = roc(*data)
    assert curve.area == pytest.approx(auc(*data), abs=1e-12) == pytest.approx(roc_auc_score(data[1], data[0]), abs=1e-12)
    assert (np.diff(curve.fpr) >= 0).all() and (np.diff(curve.tpr) >= 0).all() and (curve.fpr[-1], curve.tpr[-1]) == (1, 1)


@given(two_classes)
def test_tpr_at_is_the_best_of_all_thresholds_and_rises(data):
    curve, fprs = roc(*data), [0.0, 0.01, 0.1, 0.25, 0.3, 0.5, 0.75, 1.0]
    found = [curve.tpr_at(f) for f in fprs]
    assert found == [pytest.approx(naive_tpr(*data, f)[0]) for f in fprs] and found == sorted(found)


def test_tpr_at_forgives_rounding_of_products():
    scores, is_member = joined([5.5], np.arange(1.0, 31.0))
    assert roc(scores, is_member).tpr_at(25 / 30) == 1.0
    assert roc(*joined([27.5], np.arange(1.0, 31.0))).tpr_at(0.1) == 1.0  # 3 of 30


def test_known_roc_circular_arc():
    # TPR = √(1 - (1 - FPR)²): member scores are quantiles of that curve; area π/4
    n = 4000
    u = (np.arange(n) + 0.5) / n
    nonmembers = 1 - u  # the non-member above which a share u lies
    members = 1 - (1 - np.sqrt(1 - u**2))  # FPR at which TPR = u, turned into a score
    assert roc(*joined(members, nonmembers)).area == pytest.approx(np.pi / 4, abs=1 / n)  # two midpoint grids, each off by 1/(2n)


@pytest.mark.parametrize("mu", [0.3, 1.5])
def test_known_roc_normals(mu):
    grid = norm.ppf((np.arange(3000) + 0.5) / 3000)
    curve = roc(*joined(grid + mu, grid))
    assert curve.area == pytest.approx(norm.cdf(mu / np.sqrt(2)), abs=1e-3)
    for f in (0.01, 0.1, 0.5):
        assert curve.tpr_at(f) == pytest.approx(norm.cdf(norm.ppf(f) + mu), abs=3e-3)  # one false alarm is 1/3000, slope up to 8


def drawn_is_faithful(curve, limit):
    few = curve.points(limit)
    full = {(x, y): t for x, y, t in zip(curve.fpr, curve.tpr, curve.thresholds, strict=True)}
    assert all(full[x, y] == t for x, y, t in zip(few.fpr, few.tpr, few.thresholds, strict=True)), "a point that is not on the curve"
    assert (few.fpr[0], few.tpr[0], few.fpr[-1], few.tpr[-1]) == (0, 0, 1, 1)
    assert abs(few.area - curve.area) < AREA_TOLERANCE
    return few


@given(two_classes)
def test_small_curves_lose_only_straight_points(data):
    curve = roc(*data)
    few = drawn_is_faithful(curve, 300)
    assert few.area == pytest.approx(curve.area, abs=1e-14)
    assert np.allclose(np.interp(curve.tpr + curve.fpr, few.tpr + few.fpr, few.tpr), curve.tpr)


@pytest.mark.parametrize("n", [700, 1000, 10_000, 50_000])
@pytest.mark.parametrize("mu", [0.0, 0.4, 2.0])
def test_large_curves_are_drawn_with_300_points_and_the_same_area(n, mu):
    rng = np.random.default_rng(n)
    is_member = rng.random(n) < 0.5
    curve = roc(rng.normal(size=n) + mu * is_member, is_member)
    few = drawn_is_faithful(curve, 300)
    assert len(few.fpr) <= 300
    along = np.linspace(0, 2, 2001)
    apart = np.interp(along, few.fpr + few.tpr, few.tpr) - np.interp(along, curve.fpr + curve.tpr, curve.tpr)
    assert np.abs(apart).max() < 0.02  # nothing of the shape is lost


def test_the_small_fpr_end_is_kept_for_log_axes():
    rng = np.random.default_rng(0)
    is_member = np.arange(40_000) < 20_000
    few = roc(rng.normal(size=40_000) + is_member, is_member).points(300)
    inside = few.fpr[(few.fpr > 0) & (few.fpr < 0.01)]
    assert len(inside) > 30


def test_a_curve_whose_area_cannot_be_kept_keeps_every_corner():
    # tied groups whose share of members falls: a strictly concave curve, so every polygon of some of its corners has less area
    shares = range(1, 31)
    scores = np.concatenate([np.full(31, float(s)) for s in shares])
    is_member = np.concatenate([np.arange(31) < s for s in shares])
    curve = roc(scores, is_member)
    assert len(curve.points(5).fpr) > 5
    drawn_is_faithful(curve, 5)


def test_checks():
    with pytest.raises(AttackError):
        roc([1, np.nan, 2], [True, False, True])

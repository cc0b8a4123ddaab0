"""The blind baseline against its definition: H written out, permutations one by one; then size and power by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, rankdata

from audit.errors import AttackError, ImageSetError
from audit.stats import blind as module
from audit.stats.blind import assign_folds, blind_baseline, blind_roc
from audit.stats.permutation import standardised_ranks
from audit.stats.roc import roc
from audit.stats.streams import stream
from audit.stats.tpr import tpr_at_fpr
from tests.stats.common import binomial_slack, naive_auc


def made(n=60, features=12, scalars=5, shift=0.0, seed=0):
    """(values, names, scalar, is_member): independent normal features, the first shifted by `shift` sd among members."""
    rng = np.random.default_rng(seed)
    is_member = np.arange(2 * n) < n
    values = rng.normal(size=(2 * n, features))
    values[:, 0] += shift * is_member
    return values, np.array([f"f{i}" for i in range(features)]), np.arange(features) < scalars, is_member


def written_out(values, fold):
    """H (N,N) of the research page: score = H·(y - ½)."""
    x = (values - values.mean(axis=0)) / values.std(axis=0)
    h = np.zeros((len(x), len(x)))
    for f in np.unique(fold):
        ours, rest = np.flatnonzero(fold == f), np.flatnonzero(fold != f)
        centred = x[rest] - x[rest].mean(axis=0)
        h[np.ix_(ours, rest)] = (x[ours] - x[rest].mean(axis=0)) @ np.linalg.inv(centred.T @ centred + len(rest) * np.eye(x.shape[1])) @ centred.T
    return h


def mean_auc(scores, fold, is_member):
    return np.mean([naive_auc(scores[fold == f], is_member[fold == f]) for f in np.unique(fold)])


def test_scores_are_h_times_the_labels():
    values, names, scalar, is_member = made(shift=1.0)
    found = blind_baseline(values, names, scalar, is_member, seed=3, draws=19)
    assert found.scores == pytest.approx(written_out(values, found.fold) @ (is_member - 0.5), abs=1e-12)
    assert found.auc.value == pytest.approx(mean_auc(found.scores, found.fold, is_member), abs=1e-12)
    assert np.array_equal(found.fold, assign_folds(is_member, 3))


def test_every_number_is_the_naive_one():
    values, names, scalar, is_member = made(n=15, features=6, scalars=3, shift=0.8)
    values[:, 1] = values[:, 1].round()  # ties
    found, draws = blind_baseline(values, names, scalar, is_member, seed=5, draws=99), 99
    h, rng, fold = written_out(values, found.fold), stream(5, "blind"), found.fold
    aucs, largest = [], []
    for draw in range(draws + 1):
        y = is_member.copy()
        if draw:
            for f in range(5):
                y[fold == f] = rng.permutation(y[fold == f])
        aucs.append(mean_auc(h @ (y - 0.5), fold, y))
        largest.append(np.abs([standardised_ranks(values[:, j], is_member)[y, 0].sum() for j in range(3)]))
    aucs, each = np.array(aucs), np.array(largest)
    largest = each.max(axis=1)
    shares = [np.array([np.mean(t >= own - 1e-9) for own in t]) for t in (aucs, largest)]
    best = np.minimum(*shares)
    assert (found.p_ridge, found.p_scalar) == (shares[0][0], shares[1][0]) and found.p_value == np.mean(best <= best[0] + 1e-9)
    assert found.sd == pytest.approx(aucs[1:].std(ddof=1), abs=1e-12) and found.detectable_auc == pytest.approx(0.5 + 2.487 * found.sd)
    assert (found.auc.low, found.auc.high) == pytest.approx((max(0, aucs[0] - 1.959964 * found.sd), min(1, aucs[0] + 1.959964 * found.sd)))
    assert found.tpr_high == tpr_at_fpr(found.scores, is_member, 0.01).high
    z = {f"f{j}": standardised_ranks(values[:, j], is_member)[is_member, 0].sum() for j in range(3)}
    assert [entry["name"] for entry in found.features] == sorted(z, key=lambda name: -abs(z[name]))
    for entry in found.features:
        assert entry["z"] == pytest.approx(z[entry["name"]], abs=1e-9) and entry["p_value"] == np.mean(largest >= abs(z[entry["name"]]) - 1e-9)


def test_labels_keep_both_classes_of_every_fold():
    is_member = np.arange(103) < 40
    fold = assign_folds(is_member, 0)
    blocks = dict(module._permuted_labels(is_member, fold, None, stream(0, "blind"), 50))
    labels = np.concatenate([blocks[start] for start in sorted(blocks)])
    assert labels.shape == (51, 103) and np.array_equal(labels[0], is_member) and len(np.unique(labels, axis=0)) == 51
    for f in range(5):
        assert (labels[:, fold == f].sum(axis=1) == is_member[fold == f].sum()).all()


def test_clusters_stay_in_one_fold_and_keep_one_label():
    rng = np.random.default_rng(0)
    is_member = np.arange(200) < 90
    cluster = np.where(is_member, rng.integers(0, 40, 200), rng.integers(100, 150, 200))
    fold = assign_folds(is_member, 1, cluster)
    labels = np.concatenate([block for _, block in module._permuted_labels(is_member, fold, cluster, stream(0, "x"), 30)])
    for c in np.unique(cluster):
        assert len(np.unique(fold[cluster == c])) == 1 and (labels[:, cluster == c] == labels[:, [np.flatnonzero(cluster == c)[0]]]).all()
    assert all((labels[:, fold == f].sum(axis=1) == is_member[fold == f].sum()).all() for f in range(5)) and (labels[1:] != is_member).any(axis=1).all()
    mixed = np.arange(200) % 100  # a member and a non-member in one cluster
    assert all(len(np.unique(assign_folds(is_member, 1, mixed)[mixed == c])) == 1 for c in range(100))


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 5))
def test_folds_are_stratified(m, n, seed):
    is_member = np.arange(m + n) < m
    fold = assign_folds(is_member, seed)
    counts = np.array([[np.count_nonzero((fold == f) & (is_member == side)) for f in range(fold.max() + 1)] for side in (True, False)])
    assert fold.max() + 1 == min(5, m, n) and (counts > 0).all() and (np.ptp(counts, axis=1) <= 1).all()


@pytest.mark.parametrize("values", [7 * 120, 120])
def test_the_block_size_changes_no_number(monkeypatch, values):
    data = made(shift=0.4)
    whole = blind_baseline(*data, seed=2, draws=199)
    monkeypatch.setattr(module, "BLOCK_VALUES", values)
    cut = blind_baseline(*data, seed=2, draws=199)
    assert (cut.p_value, cut.p_ridge, cut.p_scalar) == (whole.p_value, whole.p_ridge, whole.p_scalar) and cut.sd == pytest.approx(whole.sd, abs=1e-12)


def test_swapped_labels_turn_the_scores_and_leave_the_auc(monkeypatch):
    """The classifier learns the other direction, so its scores follow the labels: the AUC stays."""
    values, names, scalar, is_member = made(shift=0.7)
    fold = assign_folds(is_member, 0)
    monkeypatch.setattr(module, "assign_folds", lambda *a: fold)
    a, b = (blind_baseline(values, names, scalar, y, seed=0, draws=99) for y in (is_member, ~is_member))
    assert a.auc.value == pytest.approx(b.auc.value, abs=1e-12) and np.allclose(a.scores, -b.scores) and a.features[0]["z"] == pytest.approx(-b.features[0]["z"])


def test_a_difference_in_one_scalar_is_found_and_named():
    values, names, scalar, is_member = made(n=150, features=40, scalars=10, shift=1.2)
    found = blind_baseline(values, names, scalar, is_member, seed=0)
    assert found.features[0]["name"] == "f0" and found.features[0]["z"] > 5 and found.features[0]["p_value"] == 1 / 2000
    assert found.p_scalar == 1 / 2000 and found.p_value <= 0.001  # reached although the classifier may see less
    report = found.to_json(differs=True)
    assert report["differs"] is True and report["images"] == 300 and report["features"][0]["name"] == "f0"
    assert set(report) == {"auc", "tpr_high", "p_value", "p_ridge", "p_scalar", "sd", "detectable_auc", "differs", "features", "images"}
    assert set(report["auc"]) == {"value", "low", "high"}


def test_one_family_alone_reaches_a_thousandth_with_the_default_draws():
    """A sign that no linear classifier over many features sees: p_ridge is chance, p_value still 0.001."""
    values, names, scalar, is_member = made(n=300, features=4, scalars=1, shift=9.0)
    values[:, 0] = np.exp(10.0 * values[:, 0])  # a few images hold all of the variance: the ranks differ, least squares is blind
    found = blind_baseline(values, names, scalar, is_member, seed=0)
    assert found.p_scalar == 1 / 2000 < found.p_ridge and found.p_value == 0.001


def test_a_difference_spread_over_pixels_is_found_by_the_classifier():
    values, names, scalar, is_member = made(n=150, features=40, scalars=3)
    values[:, 10:30] += 0.25 * is_member[:, None]
    found = blind_baseline(values, names, scalar, is_member, seed=0)
    assert found.p_ridge <= 0.005 < 0.05 < found.p_scalar and found.p_value <= 0.01 and found.auc.low > 0.5


def test_constant_features_are_left_out():
    values, names, scalar, is_member = made()
    values[:, 2], values[:, 9] = 7.0, 0.0
    found = blind_baseline(values, names, scalar, is_member, seed=0, draws=99)
    without = blind_baseline(np.delete(values, [2, 9], axis=1), np.delete(names, [2, 9]), np.delete(scalar, [2, 9]), is_member, seed=0, draws=99)
    assert found.to_json(False) == without.to_json(False) and "f2" not in {entry["name"] for entry in found.features}
    nothing = blind_baseline(np.ones((120, 3)), names[:3], scalar[:3], is_member, seed=0, draws=99)
    assert (nothing.auc.value, nothing.p_value, nothing.p_ridge, nothing.p_scalar, nothing.sd, nothing.features) == (0.5, 1, 1, 1, 0, ())
    no_scalar = blind_baseline(values, names, np.zeros(12, bool), is_member, seed=0, draws=99)
    assert no_scalar.features == () and no_scalar.p_scalar == 1 and 0 < no_scalar.p_ridge <= 1


def test_bad_input():
    values, names, scalar, is_member = made()
    with pytest.raises(AttackError, match="3 of 1440 feature values are NaN"):
        blind_baseline(np.where(np.arange(values.size).reshape(values.shape) < 3, np.nan, values), names, scalar, is_member, 0)
    for wrong in ((values[:-1], names, scalar), (values, names[:-1], scalar), (values, names, scalar[:-1]), (values[:, 0], names, scalar)):
        with pytest.raises(AttackError, match=r"Expected \(images, features\)"):
            blind_baseline(*wrong, is_member, 0)
    with pytest.raises(ImageSetError):
        blind_baseline(values, names, scalar, np.ones(120, bool), 0)
    with pytest.raises(ImageSetError, match="at least 2 images"):
        blind_baseline(values, names, scalar, is_member, 0, clusters=np.where(is_member, 0, np.arange(120)))
    with pytest.raises(ImageSetError, match="one cluster label per image"):
        blind_baseline(values, names, scalar, is_member, 0, clusters=np.arange(5))
    with pytest.raises(ValueError, match="at least 19"):
        blind_baseline(values, names, scalar, is_member, 0, draws=18)


# ---------------------------------------------------------------------- the drawn curve


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(10, 60), st.integers(10, 60), st.booleans())
def test_the_drawn_area_is_the_mean_of_the_folds(seed, m, n, ties):
    rng = np.random.default_rng(seed)
    is_member = np.arange(m + n) < m
    scores = rng.normal(size=m + n) + 0.5 * is_member
    if ties:
        scores = scores.round()
    fold = assign_folds(is_member, seed)
    drawn = blind_roc(scores, fold, is_member)
    assert drawn.area == pytest.approx(mean_auc(scores, fold, is_member), abs=1e-12)
    assert (drawn.fpr[0], drawn.tpr[0], drawn.fpr[-1], drawn.tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(drawn.fpr) >= 0).all() and (np.diff(drawn.tpr) >= -1e-12).all()
    assert drawn.points().area == pytest.approx(drawn.area, abs=1e-6)
    curves = [roc(scores[fold == f], is_member[fold == f]) for f in np.unique(fold)]
    for x in (0.0, 0.1, 0.37, 0.5, 1.0):
        if not ties or x in (0.0, 1.0):  # with ties a curve has sloped pieces, between whose ends tpr_at does not interpolate
            assert drawn.tpr_at(x) == pytest.approx(np.mean([curve.tpr_at(x) for curve in curves]), abs=1e-9)


def test_one_fold_is_the_plain_curve_and_a_fold_of_one_class_is_refused():
    scores, is_member = np.array([3.0, 1, 2, 2, 0, 5]), np.array([True, False, True, False, False, True])
    drawn, plain = blind_roc(scores, np.zeros(6, int), is_member), roc(scores, is_member)
    assert drawn.area == pytest.approx(plain.area, abs=1e-12) and [drawn.tpr_at(x) for x in plain.fpr] == [plain.tpr_at(x) for x in plain.fpr]
    with pytest.raises(ImageSetError):
        blind_roc(scores, np.array([0, 0, 0, 1, 1, 1]), np.array([True, False, True, False, False, False]))


# ---------------------------------------------------------------------- simulation


@pytest.mark.slow
@pytest.mark.parametrize("n", [25, 100])
def test_size_is_5_percent_on_a_null(n):
    runs = 500
    p = np.array([blind_baseline(*made(n, 40, 10, seed=1000 + i), seed=i, draws=199).p_value for i in range(runs)])
    assert np.mean(p <= 0.05) <= 0.05 + binomial_slack(0.05, runs)
    assert kstest(p, "uniform").pvalue > 0.001


@pytest.mark.slow
def test_size_is_5_percent_when_pictures_come_in_groups():
    """Each picture four times, nearly: without clusters the same nulls are called different far too often."""
    runs, wrong, right = 200, 0, 0
    for i in range(runs):
        rng = np.random.default_rng(i)
        cluster = np.repeat(np.arange(40), 4)
        values = np.repeat(rng.normal(size=(40, 20)), 4, axis=0) + 0.1 * rng.normal(size=(160, 20))
        data = values, np.array([f"f{j}" for j in range(20)]), np.arange(20) < 8, cluster < 20
        right += blind_baseline(*data, seed=i, draws=99, clusters=cluster).p_value <= 0.05
        wrong += blind_baseline(*data, seed=i, draws=99).p_value <= 0.05
    assert right / runs <= 0.05 + binomial_slack(0.05, runs) and wrong / runs > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least", "most"), [(100, 0.31, 0.37), (250, 0.84, 0.90)])
def test_power_for_a_shift_of_one_scalar_is_the_published_one(n, least, most):
    """AUC 0.6 in one of 10 scalar features among 40: the scalar family finds it in 31-37 % at n = 100 and 84-90 % at 250 a side."""
    runs, shift = 200, np.sqrt(2) * 0.2533
    hits = np.mean([blind_baseline(*made(n, 40, 10, shift, seed=i), seed=i, draws=199).p_scalar <= 0.05 for i in range(runs)])
    assert least - binomial_slack(least, runs) <= hits <= most + binomial_slack(most, runs)


def test_naive_z_is_that_of_ranks():
    """The scalar columns are the rank statistic of the permutation test."""
    values = made()[0]
    values[:, 3] = values[:, 3].round()
    columns = module._rank_columns(values, 60)
    expected = [(rankdata(v)[:60].sum() - 60 * 60.5) / np.sqrt(60 * 60 / 120 * rankdata(v).var(ddof=1)) for v in values.T]
    assert columns[:60].sum(axis=0) == pytest.approx(expected, abs=1e-9)

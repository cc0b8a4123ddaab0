import tracemalloc
from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import kstest, rankdata

from audit.errors import AttackError, ImageSetError
from audit.stats import permutation
from audit.stats.permutation import permutation_test, standardised_ranks
from audit.stats.streams import stream
from tests.stats.common import IS_MEMBER, SCORES, A, B, binomial_slack, joined, naive_auc, two_classes


def naive_z(scores, is_member):
    """(rank z, tail z) by the formula, from scipy's ranks."""
    r, total = rankdata(scores), len(scores)
    m, n = is_member.sum(), (~is_member).sum()
    out = []
    for s in (r, np.log(1 - (r - 0.5) / total) ** 2):
        spread = np.sqrt(m * n / total * np.var(s, ddof=1))
        out.append(0.0 if np.ptp(r) == 0 else (s[is_member].sum() - m * s.mean()) / spread)
    return out


def test_published_vector():
    result = permutation_test({"loss": SCORES}, IS_MEMBER, seed=0)
    assert result.z["loss"] == pytest.approx({"rank": 2.124851, "tail": 1.852746}, abs=1e-6)
    assert (result.attack, result.score, result.draws) == ("loss", "rank", 9_999)
    assert rankdata(SCORES)[IS_MEMBER].sum() == 79.5
    # three standard errors of 9,999 draws around the exact p
    assert result.p_value == pytest.approx(189 / 11440, abs=binomial_slack(189 / 11440, 9_999))


def test_exact_p_of_the_published_vector():
    columns = standardised_ranks(SCORES, IS_MEMBER)
    observed = columns[IS_MEMBER].sum(axis=0).max()
    all_sets = np.array(list(combinations(range(16), 7)))
    largest = columns[all_sets].sum(axis=1).max(axis=1)
    assert len(all_sets) == 11440 and np.count_nonzero(largest >= observed - 1e-9) == 189


def test_z_has_mean_0_and_sd_1_over_all_label_sets():
    columns = standardised_ranks(*joined([1, 1, 5, 2], [0, 2, 2, 7, 3]))
    every = np.array([columns[list(c)].sum(axis=0) for c in combinations(range(9), 4)])
    assert every.mean(axis=0) == pytest.approx([0, 0], abs=1e-12) and every.std(axis=0) == pytest.approx([1, 1], abs=1e-12)


@given(two_classes)
def test_z_is_the_naive_one_and_only_the_order_matters(data):
    scores, is_member = data
    z = standardised_ranks(scores, is_member)[is_member].sum(axis=0)
    assert z == pytest.approx(naive_z(scores, is_member), abs=1e-9)
    assert np.array_equal(standardised_ranks(np.exp(scores), is_member), standardised_ranks(scores, is_member))


def brute(scores, is_member, seed, draws):
    """The whole test with one permutation at a time, from the same stream."""
    rng = stream(seed, "permutation")
    largest, lowest = [], []
    for _ in range(draws):
        labels = rng.permuted(is_member[None].astype(np.int8), axis=1)[0].astype(bool)
        z = [naive_z(s, labels) for s in scores.values()]
        largest.append(np.max(z))
        lowest.append(min(pair[0] for pair in z))
    return np.array(largest), np.array(lowest)


@pytest.mark.parametrize("share", [0.4, 0.95])
def test_every_field_is_the_naive_one(share):
    rng = np.random.default_rng(3)
    is_member = rng.random(40) < share
    scores = {"weak": rng.normal(size=40).round(1), "leak": rng.normal(size=40) + 3 * is_member, "flat": np.zeros(40)}
    result = permutation_test(scores, is_member, seed=5, draws=999)
    largest, lowest = brute(scores, is_member, 5, 999)
    observed = {name: naive_z(s, is_member) for name, s in scores.items()}
    for name, pair in observed.items():
        assert list(result.z[name].values()) == pytest.approx(pair, abs=1e-9)
        assert result.p_values[name] == (1 + np.count_nonzero(largest >= max(pair) - 1e-9)) / 1000
    assert result.attack == "leak" and result.p_value == min(result.p_values.values()) == result.p_values["leak"]
    assert result.score == ("rank" if observed["leak"][0] >= observed["leak"][1] else "tail")
    assert result.critical_z == pytest.approx(np.sort(largest)[-50], abs=1e-9)
    assert result.lowest_rank_z == pytest.approx(min(pair[0] for pair in observed.values()), abs=1e-9)
    assert result.lowest_rank_point == pytest.approx(np.sort(lowest)[0], abs=1e-9)
    assert result.highest_rank_z == pytest.approx(max(pair[0] for pair in observed.values()), abs=1e-9)
    assert (result.row, result.rows, result.mixed_images) == (0, {"weak": 0, "leak": 0, "flat": 0}, 40)
    assert set(result.to_json()) == {"p_value", "attack", "score", "critical_z", "draws"}


@settings(max_examples=40, deadline=None)
@given(two_classes)
def test_exceeding_c_and_p_at_most_5_percent_are_one_statement(data):
    result = permutation_test({"a": data[0], "b": -data[0]}, data[1], seed=1, draws=99)
    largest = max(max(pair.values()) for pair in result.z.values())
    assert (largest > result.critical_z + 1e-9) == (result.p_value <= 0.05)
    assert 1 / 100 <= result.p_value <= 1


def test_the_block_size_changes_no_number(monkeypatch):
    scores = {"a": SCORES, "b": -SCORES}
    whole = permutation_test(scores, IS_MEMBER, seed=2, draws=199)
    monkeypatch.setattr("audit.stats.permutation.BLOCK_VALUES", 16 * 7)
    cut = permutation_test(scores, IS_MEMBER, seed=2, draws=199)
    assert (cut.p_value, cut.p_values) == (whole.p_value, whole.p_values) and cut.critical_z == pytest.approx(whole.critical_z, abs=1e-12)


def test_an_added_attack_sees_the_same_permutations():
    alone = permutation_test({"a": SCORES}, IS_MEMBER, seed=2)
    twice = permutation_test({"a": SCORES, "copy": SCORES}, IS_MEMBER, seed=2)
    assert twice.p_value == alone.p_value and twice.critical_z == alone.critical_z


def test_a_perfect_attack_never_has_p_0():
    scores, is_member = joined(np.arange(100, 160), np.arange(60))
    result = permutation_test({"a": scores}, is_member, seed=0)
    assert result.p_value == 1 / 10_000


def test_members_that_score_lower_are_below_the_lowest_point():
    rng = np.random.default_rng(0)
    scores, is_member = joined(rng.normal(-1, 1, 60), rng.normal(0, 1, 60))
    result = permutation_test({"reversed": scores, "noise": rng.normal(size=120)}, is_member, seed=0)
    assert result.lowest_rank_z == result.z["reversed"]["rank"] < result.lowest_rank_point < -2
    fair = permutation_test({"noise": rng.normal(size=120)}, is_member, seed=0)
    assert fair.lowest_rank_z > fair.lowest_rank_point


def test_a_few_members_far_above_are_seen_by_the_tail_score():
    rng = np.random.default_rng(1)
    a = rng.normal(size=300)
    a[:20] += 6
    result = permutation_test({"mix": joined(a, rng.normal(size=300))[0]}, np.arange(600) < 300, seed=0)
    assert result.score == "tail" and result.z["mix"]["tail"] > result.z["mix"]["rank"] == result.highest_rank_z and result.p_value < 0.01


def test_draws_by_size_and_limits():
    many = np.arange(20_001) % 2 == 0
    assert permutation_test({"a": np.arange(20_001.0)}, many, seed=0).draws == 1_999
    assert permutation_test({"a": SCORES}, IS_MEMBER, seed=0, draws=19).lowest_rank_point == -np.inf
    with pytest.raises(ValueError, match="at least 19"):
        permutation_test({"a": SCORES}, IS_MEMBER, seed=0, draws=18)


def test_bad_input():
    with pytest.raises(AttackError, match="No attack"):
        permutation_test({}, IS_MEMBER, seed=0)
    with pytest.raises(AttackError, match="NaN"):
        permutation_test({"a": [np.nan, *A[1:], *B]}, IS_MEMBER, seed=0)
    with pytest.raises(ImageSetError):
        permutation_test({"a": SCORES}, np.ones(16, bool), seed=0)


def sweep_and_rows():
    """(a sweep of four attacks, the same rows as attacks of their own, is_member); the largest z is in row 2 of "b", and that of "d" in the tail of its row 1."""
    rng = np.random.default_rng(8)
    is_member = np.arange(60) < 25
    sweep = {"a": rng.normal(size=(4, 60)), "b": rng.normal(size=(3, 60)).round(1), "c": rng.normal(size=60).astype(np.float32)}
    sweep["b"][2] += 0.9 * is_member
    sweep["d"] = np.stack([sweep["a"][0] + 0.1 * is_member, np.where(np.arange(60) < 4, 9, -sweep["a"][1])])
    rows = {(name, i): row for name, matrix in sweep.items() for i, row in enumerate(np.atleast_2d(matrix))}
    return sweep, rows, is_member


def test_a_sweep_is_the_test_over_all_its_rows():
    sweep, rows, is_member = sweep_and_rows()
    whole, single = permutation_test(sweep, is_member, seed=4, draws=1_999), permutation_test(rows, is_member, seed=4, draws=1_999)
    assert (whole.attack, whole.row) == single.attack == ("b", 2) and whole.score == single.score
    for field in ("p_value", "critical_z", "lowest_rank_z", "lowest_rank_point", "highest_rank_z"):
        assert getattr(whole, field) == pytest.approx(getattr(single, field), abs=1e-12)
    for name in sweep:
        best = max((key for key in rows if key[0] == name), key=lambda key: max(single.z[key].values()))
        assert (name, whole.rows[name]) == best
        assert name != "d" or (best == ("d", 1) and whole.z["d"]["rank"] < single.z["d", 0]["rank"])
        assert whole.z[name] == pytest.approx(single.z[best], abs=1e-12) and whole.p_values[name] == single.p_values[best]
    assert whole.highest_rank_z == pytest.approx(max(naive_z(row, is_member)[0] for row in rows.values()), abs=1e-9)


def test_rows_that_rank_alike_are_tested_once_and_the_first_is_named(monkeypatch):
    sweep, _, is_member = sweep_and_rows()
    plain = permutation_test(sweep, is_member, seed=4, draws=199)
    widths = []
    inner = permutation._permuted_extremes
    monkeypatch.setattr(permutation, "_permuted_extremes", lambda columns, *rest: widths.append(columns.shape[1]) or inner(columns, *rest))
    copies = {n: np.concatenate([np.atleast_2d(m)[[0, 0]], 4 * np.atleast_2d(m)]) for n, m in sweep.items()}  # times 4 is exact: no tie comes or goes
    twice = permutation_test(copies, is_member, seed=4, draws=199)
    assert widths == [2 * (4 + 3 + 1 + 2)]
    assert (twice.z, twice.p_values, twice.critical_z) == (plain.z, plain.p_values, plain.critical_z)
    assert (plain.row, twice.row) == (2, 4) and twice.rows == {n: row and row + 2 for n, row in plain.rows.items()}


@pytest.mark.parametrize("order", [1, -1])
def test_a_wide_sweep_is_cut_into_blocks_that_change_no_number(monkeypatch, order):
    _, rows, is_member = sweep_and_rows()
    sweep = {"a": np.stack([np.roll(row, k) for k in range(7) for row in rows.values()])[::order]}
    whole = permutation_test(sweep, is_member, seed=2, draws=999)
    assert len(sweep["a"]) * 2 > 2 * 60  # columns, more than the blocks below hold
    monkeypatch.setattr("audit.stats.permutation.LEAST_COLUMNS", 4)
    monkeypatch.setattr("audit.stats.permutation.BLOCK_VALUES", 60 * 11)
    cut = permutation_test(sweep, is_member, seed=2, draws=999)
    assert (cut.p_value, cut.p_values, cut.rows) == (whole.p_value, whole.p_values, whole.rows)
    assert (cut.critical_z, cut.lowest_rank_point) == pytest.approx((whole.critical_z, whole.lowest_rank_point), abs=1e-12)


def test_a_sweep_of_thousands_stays_small_in_memory():
    matrix = np.random.default_rng(0).normal(size=(2_000, 60))
    tracemalloc.start()
    permutation_test({"a": matrix}, np.arange(60) < 30, seed=0, draws=1_999)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert peak < 45  # MB; all z at once would be 61 MB alone


def all_labels(is_member, strata):
    """Every labelling that exchanges labels within strata (index lists) and nowhere else."""
    for choice in product(*[set(permutations(is_member[stratum])) for stratum in strata]):
        labels = is_member.copy()
        for stratum, mixed in zip(strata, choice, strict=True):
            labels[stratum] = mixed
        yield labels


def test_groups_permute_within_and_rank_within():
    rng = np.random.default_rng(5)
    groups = np.array(["x"] * 6 + ["y"] * 5 + ["z"] * 3)
    is_member = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1], bool)  # z has members only
    scores = rng.normal(size=14).round(1)
    scores[1] = scores[4]
    columns = standardised_ranks(scores, is_member, groups)
    every = np.array([columns[labels].sum(axis=0) for labels in all_labels(is_member, [np.arange(6), np.arange(6, 11)])])
    assert len(every) == 20 * 10
    assert every.mean(axis=0) == pytest.approx([0, 0], abs=1e-12) and every.std(axis=0) == pytest.approx([1, 1], abs=1e-12)
    observed = columns[is_member].sum(axis=0)
    exact = np.mean(every.max(axis=1) >= observed.max() - 1e-9)
    result = permutation_test({"a": scores}, is_member, seed=0, groups=groups)
    assert result.p_value == pytest.approx(exact, abs=binomial_slack(exact, 9_999)) and result.mixed_images == 11
    assert result.z["a"] == pytest.approx({"rank": observed[0], "tail": observed[1]}, abs=1e-12)
    # the rank score orders labellings as the AUC within groups, weighted by pairs
    labellings = list(all_labels(is_member, [np.arange(6), np.arange(6, 11)]))
    within = [9 * naive_auc(scores[:6], x[:6]) + 6 * naive_auc(scores[6:11], x[6:11]) for x in labellings]  # 3·3 and 2·3 pairs
    assert np.corrcoef(within, every[:, 0])[0, 1] == pytest.approx(1, abs=1e-12)


def test_a_difference_between_groups_is_no_leak():
    rng = np.random.default_rng(6)
    groups = np.repeat([0, 1], 100)
    is_member = np.concatenate([np.arange(100) < 80, np.arange(100) < 20])
    scores = rng.normal(size=200) - 2 * groups  # one folder scores lower, and holds fewer members
    assert permutation_test({"a": scores}, is_member, seed=0, draws=999).p_value == 0.001
    assert permutation_test({"a": scores}, is_member, seed=0, draws=999, groups=groups).p_value > 0.05
    assert permutation_test({"a": scores + is_member}, is_member, seed=0, draws=999, groups=groups).p_value == 0.001


@given(two_classes)
def test_copies_of_an_image_count_once(data):
    """Every image given twice, as a cluster of two: exactly the test of the single images. As images of their own they would look like twice the evidence."""
    scores, is_member = data
    single = permutation_test({"a": scores, "b": -scores}, is_member, seed=1, draws=99)
    twice = permutation_test({"a": np.tile(scores, 2), "b": -np.tile(scores, 2)}, np.tile(is_member, 2), seed=1, draws=99, clusters=np.tile(np.arange(len(scores)), 2))
    assert twice.p_values == single.p_values and twice.critical_z == pytest.approx(single.critical_z, abs=1e-12)
    assert list(twice.z["a"].values()) == pytest.approx(list(single.z["a"].values()), abs=1e-12) and twice.mixed_images == 2 * len(scores)


def test_images_that_stand_alone_are_clusters_of_one():
    names = np.array([f"c{i}" for i in range(16)])[::-1]
    assert permutation_test({"a": SCORES}, IS_MEMBER, seed=0, clusters=names, groups=np.ones(16)) == permutation_test({"a": SCORES}, IS_MEMBER, seed=0)


def test_clusters_exchange_labels_with_clusters_of_their_size_only():
    #   singles 0-4, pairs 5-10, a mixed pair 11-12, a triple without a partner of the other class 13-15
    clusters = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9])
    is_member = np.array([1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1], bool)
    scores = np.random.default_rng(9).normal(size=16)
    columns = standardised_ranks(scores, is_member, clusters=clusters)
    assert columns.shape == (10, 2) and not columns[8:].any()
    owner = np.array([1, 1, 0, 0, 0, 1, 0, 0, 0, 0], bool)
    every = np.array([columns[labels].sum(axis=0) for labels in all_labels(owner, [np.arange(5), np.arange(5, 8)])])
    assert len(every) == 10 * 3
    assert every.mean(axis=0) == pytest.approx([0, 0], abs=1e-12) and every.std(axis=0) == pytest.approx([1, 1], abs=1e-12)
    # the same by images: the sum over the members' midranks, whole clusters moved
    image = np.array([rankdata(scores)[labels[clusters] & (clusters < 8)].sum() for labels in all_labels(owner, [np.arange(5), np.arange(5, 8)])])
    assert every[:, 0] == pytest.approx((image - image.mean()) / image.std(), abs=1e-12)
    result = permutation_test({"a": scores}, is_member, seed=3, clusters=clusters)
    exact = np.mean(every.max(axis=1) >= columns[owner].sum(axis=0).max() - 1e-9)
    assert result.p_value == pytest.approx(exact, abs=binomial_slack(exact, 9_999)) and result.mixed_images == 11


def test_a_cluster_that_lies_in_two_groups_keeps_its_labels():
    groups, clusters = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0]), np.array([0, 1, 2, 3, 3, 4, 4, 5, 5])
    is_member = np.array([1, 0, 1, 1, 1, 1, 1, 0, 0], bool)
    columns = standardised_ranks(np.arange(9.0), is_member, groups, clusters)
    assert (columns != 0).any(axis=1).tolist() == [True, True, True, False, True, True]


def test_clusters_of_equal_ranks_give_no_signal():
    """Sums of the same tail scores in another order differ in the last digit: that is no spread."""
    scores = np.concatenate([np.random.default_rng(i).permutation([1, 2, 3, 4, 5, 6, 7]) for i in range(10)])
    result = permutation_test({"flat": scores}, np.arange(70) < 35, seed=0, draws=99, clusters=np.arange(70) // 7)
    assert result.z["flat"] == {"rank": 0, "tail": 0} and result.p_value == 1 and result.critical_z == 0


def test_strata_are_mixed_independently():
    groups, is_member = np.repeat([0, 1], 6), np.tile([True, False], 6)
    result = permutation_test({"a": is_member + 0.0}, is_member, seed=0, groups=groups)
    assert result.p_value == pytest.approx(1 / 400, abs=binomial_slack(1 / 400, 9_999))  # 20 labellings each; one stream for both would give 1/20


def test_the_block_size_changes_no_number_with_strata(monkeypatch):
    rng = np.random.default_rng(2)
    clusters, is_member = np.concatenate([np.arange(20), np.repeat(np.arange(20, 30), 2)]), np.concatenate([np.arange(20) < 9, np.repeat(np.arange(10) < 4, 2)])
    scores = {"a": rng.normal(size=40)}
    whole = permutation_test(scores, is_member, seed=2, draws=199, clusters=clusters)
    monkeypatch.setattr("audit.stats.permutation.BLOCK_VALUES", 30 * 7)
    cut = permutation_test(scores, is_member, seed=2, draws=199, clusters=clusters)
    assert cut.p_value == whole.p_value and cut.critical_z == pytest.approx(whole.critical_z, abs=1e-12)


def test_groups_and_clusters_that_do_not_fit():
    with pytest.raises(ImageSetError, match="one group per image"):
        permutation_test({"a": SCORES}, IS_MEMBER, seed=0, groups=[1, 2])
    with pytest.raises(ImageSetError, match="one cluster label per image"):
        permutation_test({"a": SCORES}, IS_MEMBER, seed=0, clusters=[1, 2])
    for stuck in ({"groups": IS_MEMBER}, {"clusters": np.where(IS_MEMBER, 0, np.arange(16))}, {"clusters": np.zeros(16)}):
        with pytest.raises(ImageSetError, match="No label can be exchanged"):
            permutation_test({"a": SCORES}, IS_MEMBER, seed=0, **stuck)
    with pytest.raises(AttackError, match="no row"):
        permutation_test({"a": np.empty((0, 16))}, IS_MEMBER, seed=0)


def correlated(rng, n, attacks=10, correlation=0.7):
    common = rng.normal(size=2 * n)
    return {f"a{j}": np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.normal(size=2 * n) for j in range(attacks)}


@pytest.mark.slow
def test_p_is_uniform_on_a_null():
    rng, runs, is_member = np.random.default_rng(21), 600, np.arange(100) < 50
    p = np.array([permutation_test(correlated(rng, 50), is_member, seed=i, draws=199).p_value for i in range(runs)])
    assert np.mean(p <= 0.05) <= 0.05 + binomial_slack(0.05, runs)
    assert kstest(p, "uniform").pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize(("n", "figure"), [(250, 0.80), (100, 0.32)])
def test_power_for_a_tail_leak_is_the_published_one(n, figure):
    """5 % of the members shifted by 5 sd in the first of 10 attacks, by half as much in the others."""
    rng, runs, is_member = np.random.default_rng(22), 300, np.arange(2 * n) < n
    hits = 0
    for i in range(runs):
        scores = correlated(rng, n)
        for j in range(10):
            scores[f"a{j}"][: round(0.05 * n)] += 5 if j == 0 else 2.5
        hits += permutation_test(scores, is_member, seed=i, draws=399).p_value <= 0.05
    assert abs(hits / runs - figure) <= np.sqrt(2) * binomial_slack(figure, runs)  # the figure was simulated too


@pytest.mark.slow
def test_p_of_a_whole_sweep_is_uniform_on_a_null_and_choosing_first_is_not():
    rng, runs, is_member = np.random.default_rng(23), 500, np.arange(80) < 40
    p, chosen = np.empty(runs), np.empty(runs)
    for i in range(runs):
        sweep = {name: np.stack([0.9 * s + 0.4 * rng.normal(size=80) for _ in range(15)]) for name, s in correlated(rng, 40, attacks=3).items()}
        result = permutation_test(sweep, is_member, seed=i, draws=199)
        p[i] = result.p_value
        chosen[i] = permutation_test({"best": sweep[result.attack][result.row]}, is_member, seed=i, draws=199).p_value
    assert np.mean(p <= 0.05) <= 0.05 + binomial_slack(0.05, runs) and kstest(p, "uniform").pvalue > 0.001
    assert np.mean(chosen <= 0.05) > 0.1


@pytest.mark.slow
def test_clusters_keep_the_size_that_images_lose():
    """Near-duplicates share most of their score: 15 singles, 10 pairs and 5 clusters of six a side."""
    rng, runs = np.random.default_rng(24), 400
    sizes = np.tile([1] * 15 + [2] * 10 + [6] * 5, 2)
    clusters, is_member = np.repeat(np.arange(60), sizes), np.repeat(np.arange(60) < 30, sizes)
    p = np.empty((runs, 2))
    for i in range(runs):
        scores = {"a": rng.normal(size=60)[clusters] + 0.3 * rng.normal(size=len(clusters))}
        p[i] = [permutation_test(scores, is_member, seed=i, draws=199, clusters=c).p_value for c in (clusters, None)]
    alarms = np.mean(p <= 0.05, axis=0)
    assert alarms[0] <= 0.05 + binomial_slack(0.05, runs) and alarms[1] > 0.1
    assert kstest(p[:, 0], "uniform").pvalue > 0.001

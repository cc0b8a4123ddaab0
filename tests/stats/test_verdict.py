import dataclasses
import itertools

import numpy as np
import pytest
from scipy.stats import norm

from audit.stats.auc import auc_interval
from audit.stats.permutation import permutation_test
from audit.stats.power import minimum_detectable_auc
from audit.stats.tpr import tpr_at_fpr
from audit.stats.verdict import LEVELS, Decision, Evidence, Policy, decide
from tests.stats.common import binomial_slack

# a clear leak that no rule holds back
LEAK = Evidence(
    p_leak=0.0001, auc_low=0.7, tpr_low=0.1, mda=0.55, evaluation_members=200, evaluation_nonmembers=200, controls_passed=True, lowest_rank_z=1.0, lowest_rank_point=-3.0
)
BLIND = {"p_blind": 0.5, "blind_auc": 0.5, "blind_sd": 0.02, "blind_tpr_high": 0.05}


def decided(**changes):
    decision = decide(dataclasses.replace(LEAK, **changes))
    return decision.rule, decision.kind


def test_the_level_of_every_rule():
    assert decide(LEAK) == Decision("high", 4, "high")
    assert decide(dataclasses.replace(LEAK, p_leak=0.03)) == Decision("elevated", 5, "elevated")
    assert decide(dataclasses.replace(LEAK, p_leak=0.3)) == Decision("not-detected", 6, "not-detected")
    assert decide(dataclasses.replace(LEAK, p_leak=0.3, mda=0.7)) == Decision("inconclusive", 7, "few")
    for change in ({"controls_passed": False}, {"evaluation_members": 19}, {"lowest_rank_z": -4.0}, BLIND | {"p_blind": 0.01}, BLIND | {"auc_low": 0.51, "tpr_low": 0.01}):
        assert decide(dataclasses.replace(LEAK, **change)).level == "inconclusive"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"controls_passed": False}, (1, "control")),
        ({"evaluation_members": 19}, (1, "few-images")),
        ({"evaluation_nonmembers": 19}, (1, "few-images")),
        ({"evaluation_members": 20, "evaluation_nonmembers": 20}, (4, "high")),
        ({"lowest_rank_z": -3.0}, (4, "high")),
        ({"lowest_rank_z": -3.0001}, (1, "order")),
        ({"auc_low": None, "tpr_low": None, "evaluation_members": 4}, (1, "few-images")),
    ],
)
def test_rule_1(changes, expected):
    assert decided(**changes) == expected


@pytest.mark.parametrize(
    ("p_blind", "verified", "expected"),
    [(0.05, False, (2, "sets-differ")), (0.0501, False, (4, "high")), (0.05, True, (4, "high")), (0.001, True, (2, "sets-differ")), (0.0011, True, (4, "high"))],
)
def test_rule_2(p_blind, verified, expected):
    assert decided(**BLIND | {"p_blind": p_blind, "split_random": verified}) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"auc_low": 0.5393, "tpr_low": 0.05}, (4, "high")),  # 0.5 + 1.96 · 0.02 = 0.5392; TPR_low >= 0.03
        ({"auc_low": 0.5391, "tpr_low": 0.05}, (3, "near")),  # equal to the blind upper bound is not above it
        ({"auc_low": 0.5391, "tpr_low": 0.0501}, (4, "high")),
        ({"auc_low": 0.5391, "tpr_low": 0.0501, "blind_tpr_high": None}, (3, "near")),
        ({"auc_low": 0.58, "tpr_low": None, "blind_auc": 0.55}, (3, "near")),
        ({"auc_low": 0.59, "tpr_low": None, "blind_auc": 0.55}, (5, "elevated")),
        ({"auc_low": 0.5391, "tpr_low": None, "blind_auc": 0.4}, (3, "near")),  # never below 0.5
        ({"auc_low": None, "tpr_low": None}, (3, "near")),
        ({"auc_low": 0.51, "tpr_low": 0.01, "split_random": True}, (5, "elevated")),
        ({"auc_low": 0.51, "tpr_low": 0.01, "p_leak": 0.05}, (3, "near")),
        ({"auc_low": 0.51, "tpr_low": 0.01, "p_leak": 0.0501}, (6, "not-detected")),
    ],
)
def test_rule_3(changes, expected):
    assert decided(**BLIND | changes) == expected


def test_rules_2_and_3_are_passed_over_while_the_blind_baseline_is_not_checked():
    assert decided(auc_low=0.51, tpr_low=0.01) == (5, "elevated")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"p_leak": 0.01, "auc_low": 0.60, "tpr_low": None}, (4, "high")),
        ({"p_leak": 0.01, "auc_low": 0.5999, "tpr_low": 0.03}, (4, "high")),
        ({"p_leak": 0.01, "auc_low": 0.5999, "tpr_low": 0.0299}, (5, "elevated")),
        ({"p_leak": 0.01, "auc_low": None, "tpr_low": None}, (5, "elevated")),
        ({"p_leak": 0.0101}, (5, "elevated")),
        ({"p_leak": 0.05}, (5, "elevated")),
        ({"p_leak": 0.0501}, (6, "not-detected")),
        ({"p_leak": 0.0501, "mda": 0.60}, (6, "not-detected")),
        ({"p_leak": 0.0501, "mda": 0.6001}, (7, "few")),
    ],
)
def test_rules_4_to_7(changes, expected):
    assert decided(**changes) == expected


def test_the_first_rule_that_fits_decides():
    everything = BLIND | {"p_blind": 0.0001, "evaluation_members": 5, "lowest_rank_z": -9.0, "controls_passed": False, "auc_low": 0.5, "mda": 0.9}
    assert decided(**everything) == (1, "few-images")
    assert decided(**everything | {"evaluation_members": 50}) == (1, "control")
    assert decided(**everything | {"controls_passed": True, "evaluation_members": 50}) == (1, "order")
    assert decided(**everything | {"controls_passed": True, "evaluation_members": 50, "lowest_rank_z": 0.0}) == (2, "sets-differ")


def test_another_policy_moves_the_limits():
    assert decide(LEAK, Policy(high_auc=0.8, high_tpr=0.2)).level == "elevated"
    assert decide(LEAK, Policy(least_images=201)).kind == "few-images"
    assert Policy() == Policy(0.60, 0.03, 0.60, 0.05, 0.01, 0.05, 0.001, 1.96, 20)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Policy().high_auc = 0.9


def test_every_combination_has_one_of_the_four_levels_and_a_weaker_leak_never_a_stronger_word():
    order = ["not-detected", "elevated", "high"]
    for auc_low, tpr_low, mda, blind in itertools.product((None, 0.45, 0.61), (None, 0.0, 0.04), (0.55, 0.7), ({}, BLIND)):
        ranks = []
        for p in (0.001, 0.03, 0.5):
            decision = decide(dataclasses.replace(LEAK, p_leak=p, auc_low=auc_low, tpr_low=tpr_low, mda=mda, **blind))
            assert decision.level in LEVELS
            if decision.level in order:
                ranks.append(order.index(decision.level))
        assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auc_low": float("nan")}, "auc_low is NaN"),
        ({"p_leak": np.float64("nan")}, "p_leak is NaN"),
        ({"p_leak": 1.1}, "0 to 1"),
        ({"p_blind": -1.0}, "0 to 1"),
        ({"p_blind": 0.5}, "expected all three"),
    ],
)
def test_evidence_that_would_fall_through_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LEAK, **changes)


def audit(rng, n, lift, seed):
    """A small audit of six correlated attacks with n evaluation images a side, lead and tail attack fixed beforehand."""
    is_member = np.arange(2 * n) < n
    common = rng.normal(size=2 * n)
    scores = {f"a{j}": np.sqrt(0.7) * common + np.sqrt(0.3) * rng.normal(size=2 * n) + lift * is_member for j in range(6)}
    test = permutation_test(scores, is_member, seed, draws=999)
    tpr_low = tpr_at_fpr(scores["a1"], is_member, 0.01).low
    mda = minimum_detectable_auc(n, n, test.critical_z)
    return decide(Evidence(test.p_value, auc_interval(scores["a0"], is_member).low, tpr_low, mda, n, n, True, test.lowest_rank_z, test.lowest_rank_point))


@pytest.mark.slow
def test_false_alarms_on_audits_without_a_leak():
    rng, runs = np.random.default_rng(41), 500
    levels = [audit(rng, 60, 0.0, seed).level for seed in range(runs)]
    alarms = np.mean([level in ("high", "elevated") for level in levels])
    assert alarms <= 0.07  # the binomial 97.5 % point of 5 % in 500 runs; the page saw 4.9 % in 1,080
    assert alarms >= 0.049 - binomial_slack(0.049, runs)  # a rule that never speaks is no better


@pytest.mark.slow
def test_strong_leaks_are_found_and_called_high():
    rng, runs = np.random.default_rng(42), 60
    lift = np.sqrt(2) * norm.ppf(0.75)
    kinds = [audit(rng, 125, lift, seed).kind for seed in range(runs)]  # 250 a side before the split: 99 % high on the page
    assert kinds.count("high") / runs >= 0.99 - binomial_slack(0.99, runs)


@pytest.mark.slow
def test_five_hundred_a_side_can_say_not_detected():
    rng, runs = np.random.default_rng(43), 40
    kinds = [audit(rng, 250, 0.0, seed).kind for seed in range(runs)]
    assert kinds.count("not-detected") / runs >= 0.96 - binomial_slack(0.96, runs)


def test_reversed_labels_are_called_an_order_fault():
    rng = np.random.default_rng(44)
    assert audit(rng, 100, -1.0, 0).kind == "order"

"""The verdict: seven rules in order, the first that fits decides.

Nothing here is said about an attack that did not run, and nothing is ever called harmless: "not-detected" is about what these images could show.
"""

import math
from dataclasses import dataclass

LEVELS = ("high", "elevated", "not-detected", "inconclusive")


@dataclass(frozen=True)
class Policy:
    """Limits of the rules. The first three are policy, chosen by people; the p-values are not meant to be moved.

    Attributes:
        high_auc, high_tpr: lower bound of the AUC, or of the TPR at 1 % FPR, from which a leak is "high".
        largest_mda: smallest detectable AUC that an audit must reach to say "not-detected".
        elevated_p, high_p: largest p_leak for the two levels.
        blind_p, blind_p_verified: p_blind at or below which the sets differ, for a stated and for a verified random split.
        blind_sds: permutation sds that the AUC's lower bound must clear the blind baseline by.
        least_images: evaluation images a class.
    """

    high_auc: float = 0.60
    high_tpr: float = 0.03
    largest_mda: float = 0.60
    elevated_p: float = 0.05
    high_p: float = 0.01
    blind_p: float = 0.05
    blind_p_verified: float = 0.001
    blind_sds: float = 1.96
    least_images: int = 20


@dataclass(frozen=True)
class Evidence:
    """What the rules look at; all of it from evaluation images.

    Attributes:
        p_leak: of the permutation test over all attacks.
        auc_low: lower bound of the AUC of the attack with the best calibration AUC, None if there is no interval.
        tpr_low: lower bound of the TPR at 1 % FPR of the attack with the best calibration TPR at 5 % FPR, None if not resolvable.
        mda: minimum detectable AUC with the permutation test's critical_z.
        evaluation_members, evaluation_nonmembers: images.
        controls_passed: every control that was run.
        lowest_rank_z, lowest_rank_point: of the permutation test.
        split_random: the split was verified as drawn at random; an owner's word is not enough.
        p_blind: do the sets differ without the model? None = not checked: rules 2 and 3 are passed over.
        blind_auc, blind_sd: AUC of the blind baseline and its permutation sd; needed with p_blind.
        blind_tpr_high: upper bound of its TPR at 1 % FPR, None if unknown: then no TPR clears it.
    Raises: ValueError: a number that is NaN, a p outside 0..1, or p_blind without blind_auc and blind_sd.
    """

    p_leak: float
    auc_low: float | None
    tpr_low: float | None
    mda: float
    evaluation_members: int
    evaluation_nonmembers: int
    controls_passed: bool
    lowest_rank_z: float
    lowest_rank_point: float
    split_random: bool = False
    p_blind: float | None = None
    blind_auc: float | None = None
    blind_sd: float | None = None
    blind_tpr_high: float | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, float) and math.isnan(value):  # a NaN would fall through every comparison to a milder rule
                raise ValueError(f"{name} is NaN; expected a number or None")
        for name in ("p_leak", "p_blind"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if self.p_blind is not None and (self.blind_auc is None or self.blind_sd is None):
            raise ValueError("p_blind came without blind_auc and blind_sd; expected all three or none")


@dataclass(frozen=True)
class Decision:
    """level: one of LEVELS; rule: 1..7; kind: control, few-images, order (rule 1), sets-differ, near, high, elevated, not-detected, few (rules 2 to 7)."""

    level: str
    rule: int
    kind: str


def differ(p_blind, split_random, policy=None):
    """Whether the sets can be told apart without the model. Args: p_blind: 0..1; split_random: verified as drawn at random."""
    policy = policy or Policy()
    return p_blind <= (policy.blind_p_verified if split_random else policy.blind_p)


def decide(evidence, policy=None):
    """The first rule that fits.

    1 a control failed, a class has too few images, or members score lower than chance allows → inconclusive
    2 the sets differ without the model → inconclusive          3 split not verified, and the leak does not clear the blind baseline → inconclusive
    4 p_leak ≤ 0.01 and (AUC_low ≥ 0.60 or TPR_low ≥ 0.03) → high          5 p_leak ≤ 0.05 → elevated
    6 MDA ≤ 0.60 → not-detected          7 → inconclusive, too few images

    Args: evidence: Evidence; policy: Policy, None = the defaults.
    Returns: Decision.
    Source: this project's own, chosen by simulation: 5 % false alarms on a random split without a leak.
    """
    policy = policy or Policy()
    if min(evidence.evaluation_members, evidence.evaluation_nonmembers) < policy.least_images:
        return Decision("inconclusive", 1, "few-images")
    if not evidence.controls_passed:  # after the count: with a handful of images a control cannot pass, and the instrument is not to blame
        return Decision("inconclusive", 1, "control")
    if evidence.lowest_rank_z < evidence.lowest_rank_point:
        return Decision("inconclusive", 1, "order")
    leak = evidence.p_leak <= policy.elevated_p
    if evidence.p_blind is not None:
        if differ(evidence.p_blind, evidence.split_random, policy):
            return Decision("inconclusive", 2, "sets-differ")
        if leak and not evidence.split_random and not _clears_blind(evidence, policy):
            return Decision("inconclusive", 3, "near")
    if evidence.p_leak <= policy.high_p and (_at_least(evidence.auc_low, policy.high_auc) or _at_least(evidence.tpr_low, policy.high_tpr)):
        return Decision("high", 4, "high")
    if leak:
        return Decision("elevated", 5, "elevated")
    if evidence.mda <= policy.largest_mda:
        return Decision("not-detected", 6, "not-detected")
    return Decision("inconclusive", 7, "few")


def _at_least(bound, limit):
    """False where the bound does not exist."""
    return bound is not None and bound >= limit


def _clears_blind(evidence, policy):
    """Is the leak beyond what a difference between the sets could do?"""
    by_auc = evidence.auc_low is not None and evidence.auc_low > max(0.5, evidence.blind_auc) + policy.blind_sds * evidence.blind_sd
    by_tpr = None not in (evidence.tpr_low, evidence.blind_tpr_high) and evidence.tpr_low > evidence.blind_tpr_high
    return by_auc or by_tpr

"""A threshold set on calibration non-members, and what it does on the evaluation half: TPR and *achieved* FPR, each with its exact interval.

This answers "what does this threshold do?", not "how many members are found at this FPR?" (audit.stats.tpr).
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import betainc

from audit.stats.scores import one_vector
from audit.stats.tpr import FLOOR_SLACK, FPRS, clopper_pearson

CONFIDENCE = 0.95


@dataclass(frozen=True)
class ThresholdPoint:
    """One calibrated threshold, counted on the evaluation images. Every number but `fpr` is None where no threshold can be set; `reason` says why.

    Attributes:
        fpr: the target, 0..1; threshold: images with score >= threshold are called members.
        tpr, tpr_low, tpr_high, fpr_achieved, fpr_low, fpr_high: shares of evaluation members and non-members called members, with 95 % Clopper-Pearson bounds.
        balanced_accuracy: (tpr + 1 - fpr_achieved)/2; f1: 2 TP/(2 TP + FP + FN), at the evaluation half's own share of members.
        reason: None, or why there is no threshold.
    """

    fpr: float
    threshold: float | None = None
    tpr: float | None = None
    tpr_low: float | None = None
    tpr_high: float | None = None
    fpr_achieved: float | None = None
    fpr_low: float | None = None
    fpr_high: float | None = None
    balanced_accuracy: float | None = None
    f1: float | None = None
    reason: str | None = None

    def to_json(self):
        """Plain dict."""
        return asdict(self)


def conformal_rank(fpr, n_cal):
    """r = floor(fpr·(n_cal+1)): calling everybody above the r-th largest of n_cal calibration non-members has an expected FPR of at most `fpr`.

    Args: fpr: in (0, 1); n_cal: non-members. Returns: int, 0 where n_cal is too small (below 9, 99, 999 for 10, 1, 0.1 %).
    Raises: ValueError: fpr.
    Source: split conformal prediction (Bates et al. 2023).
    """
    return min(math.floor(_checked(fpr) * (n_cal + 1) + FLOOR_SLACK), n_cal)


def guaranteed_rank(fpr, n_cal, confidence=CONFIDENCE):
    """The largest r with P(Beta(r, n_cal-r+1) <= fpr) >= confidence: in 95 of 100 calibrations the FPR above the r-th largest is at most `fpr`.

    Args: fpr: in (0, 1); n_cal: non-members; confidence: in (0, 1). Returns: int, 0 where n_cal is too small (below 29, 299, 2,995 for 10, 1, 0.1 %).
    Raises: ValueError: fpr.
    Source: order statistics of a uniform sample; Wilks 1941.
    """
    r = np.arange(1, conformal_rank(fpr, n_cal) + 2)  # beyond the mean of Beta the chance falls below one half
    r = r[r <= n_cal]
    return int(np.count_nonzero(betainc(r, n_cal - r + 1, fpr) >= confidence))


def nonmembers_needed(fpr, guaranteed=False):
    """Calibration non-members from which a rank exists: 1/fpr - 1, guaranteed ln 0.05/ln(1-fpr); rounded up."""
    return math.ceil((math.log1p(-CONFIDENCE) / math.log1p(-fpr) if guaranteed else 1 / fpr - 1) - FLOOR_SLACK)


def calibrated_threshold(nonmembers, fpr, guaranteed=False):
    """The threshold that the r-th largest calibration non-member just misses, for `score >= threshold`.

    "Above b_(r)" and "at or above the next floating point number" are the same, and the second survives being stored.

    Args: nonmembers: (n_cal,) finite calibration scores; fpr: in (0, 1); guaranteed: rank of `guaranteed_rank` instead of `conformal_rank`.
    Returns: float, or None where n_cal is too small.
    Raises: ValueError: fpr.
    """
    b = np.sort(np.asarray(nonmembers, dtype=np.float64))[::-1]
    r = (guaranteed_rank if guaranteed else conformal_rank)(fpr, len(b))
    return float(np.nextafter(b[r - 1], np.inf)) if r else None


def at_thresholds(calibration_scores, calibration_members, scores, is_member, fprs=FPRS, guaranteed=False):
    """Thresholds from the calibration half, counted on the evaluation half.

    Args:
        calibration_scores, calibration_members: (C,) finite and (C,) bool; only the non-members are used.
        scores, is_member: (N,) finite, HIGHER = MORE MEMBER-LIKE, and (N,) bool: images that the threshold has not seen.
        fprs: each in (0, 1); guaranteed: see `calibrated_threshold`.
    Returns: tuple of ThresholdPoint, in the order of `fprs`.
    Raises: AttackError, ImageSetError, ValueError (fpr).
    Source: Clopper & Pearson 1934 for the bounds.
    """
    before, known = one_vector(calibration_scores, calibration_members)
    values, members = one_vector(scores, is_member)
    return tuple(_point(before[~known], values, members, fpr, guaranteed) for fpr in fprs)


def _point(nonmembers, values, members, fpr, guaranteed):
    """One ThresholdPoint."""
    threshold = calibrated_threshold(nonmembers, fpr, guaranteed)
    if threshold is None:
        needed = nonmembers_needed(fpr, guaranteed)
        return ThresholdPoint(float(fpr), reason=f"cannot be set with {len(nonmembers):,} calibration non-members; needs {needed:,}")
    hit, m = values >= threshold, int(members.sum())
    n, tp, fp = len(members) - m, int((hit & members).sum()), int((hit & ~members).sum())
    accuracy, f1 = (tp / m + 1 - fp / n) / 2, 2 * tp / (tp + fp + m)
    return ThresholdPoint(float(fpr), threshold, tp / m, *clopper_pearson(tp, m), fp / n, *clopper_pearson(fp, n), accuracy, f1)


def _checked(fpr):
    """`fpr`, if it is one."""
    if not 0 < fpr < 1:
        raise ValueError(f"fpr is {fpr}; expected a number between 0 and 1, both left out")
    return fpr

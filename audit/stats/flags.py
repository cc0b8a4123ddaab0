"""Which single images the audit may point at: conformal p-values and Benjamini-Hochberg over the list of evaluation images."""

import math
from dataclasses import dataclass

import numpy as np

from audit.errors import AttackError
from audit.stats.scores import one_vector
from audit.stats.tpr import FLOOR_SLACK, clopper_pearson

Q = 0.1
PRIORS = (0.5, 0.01)


@dataclass(frozen=True)
class Precision:
    """Share of members among the flagged where a share `prior` of all images are members; None where nothing is flagged.

    Attributes: value: from the flagged shares themselves, 1 where no non-member is flagged (then quote low); low, high: from the 95 % bounds of both shares,
        at their worse and their better ends.
    """

    prior: float
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self):
        """Plain dict."""
        return {"prior": self.prior, "value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Flags:
    """Result of `flag`.

    Attributes:
        q: target of the false discovery rate on this list; p: float64 (N,), conformal p of each image; flagged: bool (N,).
        flagged_members: members among the flagged; precision: Precision at 50 % and 1 % members; reason: None, or why nothing is flagged.
    """

    q: float
    p: np.ndarray
    flagged: np.ndarray
    flagged_members: int
    precision: tuple[Precision, ...]
    reason: str | None

    def to_json(self):
        """The fields of report.json's `flags`, without the attack's name."""
        return {
            "q": self.q,
            "flagged": int(self.flagged.sum()),
            "flagged_members": self.flagged_members,
            "of": len(self.p),
            "precision": [point.to_json() for point in self.precision],
            "reason": self.reason,
        }


def conformal_p(calibration_nonmembers, scores):
    """p = (1 + #{calibration non-members >= score})/(n_cal + 1): uniform or larger for a non-member, small for an image that stands out.

    Args: calibration_nonmembers: (n_cal,) finite, n_cal >= 1; scores: (N,) finite, HIGHER = MORE MEMBER-LIKE.
    Returns: float64 (N,), from 1/(n_cal+1) to 1.
    Raises: AttackError: not finite, or no calibration non-member.
    Source: Bates et al. 2023.
    """
    known, values = (np.asarray(part, dtype=np.float64) for part in (calibration_nonmembers, scores))
    if known.ndim != 1 or not len(known) or not (np.isfinite(known).all() and np.isfinite(values).all()):
        raise AttackError(f"There are {known.size} calibration non-members, or scores that are NaN or infinite. Expected finite scores and at least one.")
    return (1 + len(known) - np.searchsorted(np.sort(known), values, "left")) / (len(known) + 1)


def benjamini_hochberg(p, q=Q):
    """Benjamini-Hochberg: flag the k smallest p, k = the largest with p_(k) <= k·q/N. Images with equal p are flagged together.

    Args: p: (N,) in 0..1; q: in (0, 1).
    Returns: bool (N,).
    Source: Benjamini & Hochberg 1995; valid for conformal p that share one calibration set (Bates et al. 2023).
    """
    p = np.asarray(p, dtype=np.float64)
    ordered = np.sort(p)
    fits = np.flatnonzero(ordered <= np.arange(1, len(p) + 1) * q / max(len(p), 1))
    return p <= ordered[fits[-1]] if len(fits) else np.zeros(len(p), bool)


def smallest_list(n_cal, count, q=Q):
    """How many of `count` images must score above all n_cal calibration non-members before any is flagged: count/(q·(n_cal+1)), rounded up.

    1: an image can be flagged alone; more than `count`: nothing can ever be flagged.
    """
    return math.ceil(count / (q * (n_cal + 1)) - FLOOR_SLACK)


def flag(calibration_nonmembers, scores, is_member, q=Q):
    """Flags over all evaluation images, members and non-members together.

    False discovery rate on this list <= q·(share of non-members in it). Over known members alone it would be 0 by definition, so the share of the flagged
    that are members is given for worlds where 50 % and 1 % of all images are: prior·T/(prior·T + (1-prior)·F), T and F the flagged shares of members and
    non-members.

    Args: calibration_nonmembers: (n_cal,) finite; scores: (N,) finite, HIGHER = MORE MEMBER-LIKE; is_member: (N,) bool; q: in (0, 1).
    Returns: Flags.
    Raises: AttackError, ImageSetError.
    Source: see `conformal_p`, `benjamini_hochberg`.  The bounds take T and F as if the cut were fixed; it moves little with the list.
    """
    values, members = one_vector(scores, is_member)
    p = conformal_p(calibration_nonmembers, values)
    flagged = benjamini_hochberg(p, q)
    m, tp, fp = int(members.sum()), int((flagged & members).sum()), int((flagged & ~members).sum())
    n_cal, count = len(np.asarray(calibration_nonmembers)), len(p)
    return Flags(q, p, flagged, tp, tuple(_precision(tp, m, fp, count - m, prior) for prior in PRIORS), None if tp + fp else _reason(n_cal, count, q))


def _reason(n_cal, count, q):
    """Why nothing is flagged."""
    tie = smallest_list(n_cal, count, q)
    if tie == 1:
        return "no image stands out enough from the calibration non-members"
    alone = math.ceil(count / q - 1 - FLOOR_SLACK)
    many = f"{tie:,} images would have to score above every one of these" if tie <= count else "no image could be flagged whatever it scored"
    had = f"with {n_cal:,} calibration non-members and {count:,} images to judge"
    return f"cannot flag with this many calibration images: {had}, {many}; one alone can be flagged from {alone:,} calibration non-members"


def _precision(tp, m, fp, n, prior):
    """Precision at one prior."""
    if tp + fp == 0:
        return Precision(prior)
    (t_low, t_high), (f_low, f_high) = clopper_pearson(tp, m), clopper_pearson(fp, n)

    def share(t, f):
        return prior * t / (prior * t + (1 - prior) * f) if t else 0.0

    return Precision(prior, share(tp / m, fp / n), share(t_low, f_high), share(t_high, f_low))

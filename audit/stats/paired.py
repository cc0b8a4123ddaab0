"""Two attacks on the same images: is one better beyond chance, and do they expose the same pictures?"""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import ndtr

from audit.stats.auc import GUARD, LEAST_IMAGES, Z95, auc_interval, units, variance_of_mean
from audit.stats.scores import midranks, one_vector

EXPOSED = 50  # length of a list of most exposed members, where there are twice as many


@dataclass(frozen=True)
class Difference:
    """AUC of one attack minus that of another, on the same images.

    Attributes: value: -1..1; low, high: 95 % interval, or None; p_value: two-sided, of no difference, or None; status: "ok" or the reason, in words.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    status: str = "ok"

    def to_json(self):
        """Plain dict, None where there is no number."""
        return asdict(self)


def paired_difference(scores, others, is_member, clusters=None):
    """AUC of `others` minus AUC of `scores`, both fixed before these images were looked at, by the paired DeLong method.

    D_i = V'_i - V_i over members (V_i = share of non-members below member i), E_j = W'_j - W_j over non-members;
    d = mean D,  v = var D/m + var E/n,  z = d/√v;  limits = d ± 1.96·√v, p = 2Φ(-|z|), at least 2·0.5^min(m,n).
    Where one of the AUCs has min(m,n)·min(A,1-A) < 5, v can be far too small. A limit on the far side of 0 then moves out to Zou's, from the AUC intervals [l,u], [l',u']
    and the correlation r of their errors: d - √((A'-l')² + (u-A)² - 2r(A'-l')(u-A)), d + √((u'-A')² + (A-l)² - 2r(u'-A')(A-l)). Limits and p thus agree on 0.
    Both place every image alike (v = 0): p = 1. Clusters of near duplicates: v adds up whole clusters, and m, n count clusters, as in auc_interval.

    Args: scores, others: (N,) finite, HIGHER = MORE MEMBER-LIKE; is_member: (N,) bool; clusters: (N,) labels within one class, or None.
    Returns: Difference; without an interval below 5 units in a class.
    Raises: AttackError, ImageSetError: see audit.stats.scores.checked.
    Source: DeLong 1988; Obuchowski 1997 (clusters); Zou 2008 (outward limits).  Differs from source: the outward limits, by simulation.
    """
    a, members = one_vector(scores, is_member)
    b, _ = one_vector(others, is_member)
    of_m, of_n, m, n = units(members, clusters)
    (v, w), (v2, w2) = _placements(a, members), _placements(b, members)
    value = float(v2.mean() - v.mean())
    if min(m, n) < LEAST_IMAGES:
        return Difference(value, None, None, None, f"no interval with {m} members and {n} non-members; it needs {LEAST_IMAGES} of each")
    variance = _variance(v2 - v, w2 - w, of_m, of_n)
    error = variance**0.5
    low, high = value - Z95 * error, value + Z95 * error
    p = max(float(2 * ndtr(-abs(value) / error)), 2 * 0.5 ** min(m, n)) if error else 1.0 if value == 0 else 2 * 0.5 ** min(m, n)
    first, second = (auc_interval(s, members, clusters) for s in (a, b))
    if min(m, n) * min(min(i.value, 1 - i.value) for i in (first, second)) < GUARD:
        one, two = _variance(v, w, of_m, of_n), _variance(v2, w2, of_m, of_n)
        r = float(np.clip((one + two - variance) / (2 * (one * two) ** 0.5), -1, 1)) if one * two else 0.0
        low = min(low, value - _zou(second.value - second.low, first.high - first.value, r)) if low <= 0 else low
        high = max(high, value + _zou(second.high - second.value, first.value - first.low, r)) if high >= 0 else high
    return Difference(value, max(low, -1.0), min(high, 1.0), p)


def _placements(scores, members):
    """(V (m,), W (n,)) of auc_interval, ties half."""
    ranks, a, b = midranks(scores), scores[members], scores[~members]
    return (ranks[members] - midranks(a)) / len(b), 1 - (ranks[~members] - midranks(b)) / len(a)


def _variance(v, w, of_m, of_n):
    return variance_of_mean(v, of_m)[0] + variance_of_mean(w, of_n)[0]


def _zou(a, b, r):
    return max(a * a + b * b - 2 * r * a * b, 0.0) ** 0.5


def holm(p_values):
    """p-values adjusted for making several comparisons: in rising order max over those so far of (k - rank) · p, at most 1; None stays None and counts for nothing.

    Args: p_values: list of float or None. Returns: list, same order.  Source: Holm 1979.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted, largest = [None] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Overlap:
    """share: 0..1, common to both lists; of: length of each; chance: what two lists drawn at random would share."""

    share: float
    of: int
    chance: float


def exposed_overlap(scores, others, is_member):
    """How much two attacks agree on the most exposed members: the share that both hold among their 50 highest, or half of the members where there are fewer than 100.

    Args: as paired_difference. Equal scores keep the order of the images.
    Returns: Overlap.
    Raises: AttackError, ImageSetError.
    """
    (a, members), (b, _) = one_vector(scores, is_member), one_vector(others, is_member)
    m = int(members.sum())
    of = max(1, min(EXPOSED, m // 2))
    first, second = (np.argsort(-values[members], kind="stable")[:of] for values in (a, b))
    return Overlap(len(np.intersect1d(first, second)) / of, of, of / m)


def compare_all(scores, lead, is_member, clusters=None):
    """Every other attack against one, on the same images.

    Args: scores: {attack: (N,)}, each fixed before these images were looked at; lead: one of them, chosen in the same way; is_member, clusters: as paired_difference.
    Returns: list of plain dicts in the order of `scores`: a, b = lead, difference = AUC of a - AUC of b, low, high, p_value (two-sided, Holm over the list),
        p_unadjusted, overlap, overlap_of, overlap_chance (of exposed_overlap), reason (why there is no interval, or None).
    Raises: AttackError, ImageSetError.
    """
    rows = []
    for name in scores:
        if name != lead:
            found, shared = paired_difference(scores[lead], scores[name], is_member, clusters), exposed_overlap(scores[lead], scores[name], is_member)
            row = {"a": name, "b": lead, "difference": found.value, "low": found.low, "high": found.high, "p_value": None, "p_unadjusted": found.p_value}
            row |= {"overlap": shared.share, "overlap_of": shared.of, "overlap_chance": shared.chance, "reason": None if found.status == "ok" else found.status}
            rows.append(row)
    for row, p in zip(rows, holm([row["p_unadjusted"] for row in rows]), strict=True):
        row["p_value"] = p
    return rows

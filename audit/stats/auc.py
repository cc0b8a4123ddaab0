"""AUC: the chance that a random member scores above a random non-member (ties count half), and its interval.

0.5 is a coin flip. Below 0.5 is never flipped: it says that members score lower.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from audit.stats.scores import checked, one_vector
from audit.stats.split import cluster_index

LEAST_IMAGES = 5  # per class; below it there is no interval
GUARD = 5  # expected misordered images of the smaller class; below it the logit interval alone is too narrow
Z95 = 1.959963984540054
BLOCK_VALUES = 2_000_000  # numbers sorted at once by auc_many: memory stays near 100 MB for any J and N


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes: value: 0..1; low, high: 0..1, or None where there is no interval; status: "ok" or the reason, in words.
    """

    value: float
    low: float | None
    high: float | None
    status: str = "ok"

    def to_json(self):
        """Plain dict, None where there is no number."""
        return {"value": self.value, "low": self.low, "high": self.high, "status": self.status}


def _doubled_wins(of, against):
    """For each of `of`: 2 · #{against below it} + #{against equal to it}; int64. `against` must be sorted."""
    return np.searchsorted(against, of, "left") + np.searchsorted(against, of, "right")


def auc(scores, is_member):
    """AUC = (#{member > non-member} + ½ #{equal}) / (m·n), counted exactly.

    Args: scores: (N,) finite, HIGHER = MORE MEMBER-LIKE; is_member: (N,) bool.
    Returns: float in 0..1.
    Raises: AttackError, ImageSetError: see audit.stats.scores.checked.
    Source: Mann & Whitney 1947; Hanley & McNeil 1982.
    """
    values, members = one_vector(scores, is_member)
    a, b = np.sort(values[members]), np.sort(values[~members])
    return int(_doubled_wins(a, b).sum()) / (2 * len(a) * len(b))


def auc_many(matrix, is_member):
    """The AUC of every row: `auc` for J settings at once, by one sort per row.

    Args: matrix: (J,N) finite, one setting a row, HIGHER = MORE MEMBER-LIKE; float32 is sorted as float32; is_member: (N,) bool.
    Returns: float64 (J,).
    Raises: AttackError, ImageSetError.
    """
    values, members = checked(np.atleast_2d(matrix), is_member)
    m, n = int(members.sum()), int((~members).sum())
    out = np.empty(len(values))
    rows = max(1, BLOCK_VALUES // len(members))
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        order = np.argsort(block, axis=1)
        ordered = np.take_along_axis(block, order, axis=1)
        ours = members[order]
        rank_sums = ours @ np.arange(1.0, len(members) + 1)
        for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
            rank_sums[row] = _tied_rank_sum(ordered[row], ours[row])
        out[start : start + rows] = (rank_sums - m * (m + 1) / 2) / (m * n)
    return out


def _tied_rank_sum(ordered, ours):
    """Sum of the midranks where `ours` is true; `ordered` (N,) ascending."""
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(np.append(first, len(ordered)))
    return float(np.add.reduceat(ours.astype(np.int64), first) @ (first + (sizes + 1) / 2))


def cluster_sums(values, clusters):
    """What each cluster adds to the mean's error: Σ (value - mean) over its images, float64 (G,); clusters: (n,) labels, or None where each image stands alone."""
    away = values - values[0]  # equal values then give exactly 0
    away = away - away.mean()
    return away if clusters is None else np.bincount(cluster_index(clusters, len(values)), weights=away)


def variance_of_mean(values, clusters=None):
    """(variance of mean(values), G independent units): var/n with ddof 1, or G/(G-1) · Σ_clusters (Σ (value - mean))² / n².

    Source: Obuchowski 1997, for clusters that lie within one class.
    """
    sums = cluster_sums(values, clusters)
    return len(sums) / (len(sums) - 1) * float(sums @ sums) / len(values) ** 2, len(sums)


def units(is_member, clusters):
    """((m,), (n,) cluster labels of members and of non-members, or None twice; number of independent members and non-members)."""
    if clusters is None:
        return None, None, int(is_member.sum()), int((~is_member).sum())
    index = cluster_index(clusters, len(is_member))
    return index[is_member], index[~is_member], len(np.unique(index[is_member])), len(np.unique(index[~is_member]))


def auc_interval(scores, is_member, clusters=None):
    """AUC with the 95 % "guarded logit-t" interval.

    V_i = share of non-members below member i, W_j = share of members above non-member j, A = mean V (DeLong; ties count half);
    v = var V/m + var W/n;  limits = expit(logit A ± t·√v/(A(1-A))), t with Brunner-Munzel degrees of freedom.
    Where min(m,n)·min(A,1-A) < 5: the hull with Newcombe's interval. A = 1 or 0: exact, from min(m,n) disjoint pairs.
    v = 0 with 0 < A < 1 (all scores equal): Newcombe. Fewer than 5 images in a class: no interval.
    Clusters of near duplicates: A and V, W stay, v adds up whole clusters (variance_of_mean), and m, n count clusters everywhere else.

    Args: scores: (N,) finite, HIGHER = MORE MEMBER-LIKE, not used to choose the attack or its settings; is_member: (N,) bool;
        clusters: (N,) labels of images that belong together, within one class, or None.
    Returns: Interval.
    Raises: AttackError, ImageSetError.
    Source: DeLong 1988; Obuchowski 1997; Brunner & Munzel 2000; Newcombe 2006 (method 5).  Differs from source: the hull, chosen by simulation (cover ≥ 94 %).
    """
    values, members = one_vector(scores, is_member)
    a, b = values[members], values[~members]
    v2, w2 = _doubled_wins(a, np.sort(b)), 2 * len(a) - _doubled_wins(b, np.sort(a))
    value = int(v2.sum()) / (2 * len(a) * len(b))
    of_a, of_b, m, n = units(members, clusters)
    if min(m, n) < LEAST_IMAGES:
        return Interval(value, None, None, f"no interval with {m} members and {n} non-members; it needs {LEAST_IMAGES} of each")
    if value in (0.0, 1.0):
        bound = float(0.025 ** (1 / min(m, n)))
        return Interval(value, bound, 1.0) if value else Interval(value, 0.0, 1 - bound)
    s10, s01 = variance_of_mean(v2 / (2 * len(b)), of_a)[0], variance_of_mean(w2 / (2 * len(a)), of_b)[0]
    v = s10 + s01
    if v == 0:
        return Interval(value, *newcombe(value, m, n))
    df = v**2 / (s10**2 / (m - 1) + s01**2 / (n - 1))
    spread = float(stdtrit(df, 0.975)) * v**0.5 / (value * (1 - value))
    low, high = float(expit(logit(value) - spread)), float(expit(logit(value) + spread))
    if min(m, n) * min(value, 1 - value) < GUARD:
        other = newcombe(value, m, n)
        low, high = min(low, other[0]), max(high, other[1])
    return Interval(value, low, high)


def newcombe(value, m, n):
    """(low, high): the θ at which |value - θ| = 1.96·√V(θ), by bisection.

    V(θ) = θ(1-θ)/(mn) · [1 + (h-1)(1-θ)/(2-θ) + (h-1)θ/(1+θ)],  h = (m+n)/2.
    Args: value: AUC in 0..1; m, n: images a class.  Source: Newcombe 2006, method 5.
    """
    h = (m + n) / 2

    def too_far(theta):
        variance = theta * (1 - theta) / (m * n) * (1 + (h - 1) * (1 - theta) / (2 - theta) + (h - 1) * theta / (1 + theta))
        return abs(value - theta) > Z95 * variance**0.5

    def edge(outside):
        inside = value
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if too_far(middle) else (middle, outside)
        return inside

    return edge(0.0), edge(1.0)

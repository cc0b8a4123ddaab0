"""What this many images can show: the smallest AUC, and the smallest share of fully exposed members, that would be found in 4 audits of 5."""

import math

import numpy as np
from scipy.special import bdtr, ndtr

from audit.stats.tpr import FPRS, TAIL, resolution

CRITICAL_Z_ONE_TEST = 1.645  # 95 % point of a standard normal: one attack, one statistic
CRITICAL_Z_PLANNED = 2.4  # 95 % point of the largest of 6-10 correlated attacks with two statistics each, before a run
POWER_Z = 0.842  # 80 % power
POWER = 0.8
PLANTED_Z = 3.09  # 99.9 % power: a planted leak that is missed in one report of five is not a control
CROSS_FITTED_BELOW = 400  # images a side; below, every image is evaluated once in each repeat
PLANNED_AUCS = (0.60, 0.55)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
FAR = 8.0  # standard deviations beyond which a normal tail is nothing


def null_standard_error(m, n):
    """Standard error of the AUC when members and non-members score alike: √((m+n+1)/(12mn))."""
    return math.sqrt((m + n + 1) / (12 * m * n))


def minimum_detectable_auc(m, n, c, power_z=POWER_Z):
    """0.5 + (c + 0.842)·√((m+n+1)/(12mn)), at most 1.

    Args: m, n: evaluation members and non-members, at least 1; c: 95 % point of the largest permuted statistic (PermutationResult.critical_z), 1.645 for one
        test, 2.4 before a run; power_z: 0.842 for 80 %, 3.09 for 99.9 %.
    Returns: float, an AUC.
    """
    return min(1.0, 0.5 + (c + power_z) * null_standard_error(m, n))


def planted_auc(m, n, c):
    """The AUC of a planted leak that must be found: 0.5 + (c + 3.09)·√((m+n+1)/(12mn)), at most 1; missed in one report of a thousand."""
    return minimum_detectable_auc(m, n, c, PLANTED_Z)


def images_needed(mda, c, power_z=POWER_Z):
    """Images a side, evaluation half only, for a minimum detectable AUC: ((c + 0.842)/(mda - 0.5))²/6, rounded up.

    This is minimum_detectable_auc(n, n, c) = mda solved with (2n+1)/n² taken as 2/n, which moves n by at most one image.

    Args: mda: above 0.5 and at most 1; c, power_z: as above.
    Returns: int.
    Raises: ValueError: mda outside (0.5, 1].
    """
    if not 0.5 < mda <= 1:
        raise ValueError(f"the AUC to be seen is {mda}; expected above 0.5 and at most 1")
    return math.ceil(((c + power_z) / (mda - 0.5)) ** 2 / 6 - 1e-9)


def planned_mda(m, n):
    """minimum_detectable_auc before a run, with c = 2.4. Args: m, n: evaluation images a class."""
    return minimum_detectable_auc(m, n, CRITICAL_Z_PLANNED)


def exposed_moments(m, n):
    """Mean and covariance of (rank z, tail z) when k members score above everybody and all other images alike, for k = 0..m.

    The k exposed hold the top k of the N = m+n ranks; the other m-k members are a draw without replacement from the remaining N-k. So for both scores s of
    audit.stats.permutation  Σ_members s  has mean  Σ_top + (m-k)·s̄_rest  and (co)variance  (m-k)·n/(N-k)·cov(s_rest, ddof 1), exactly.

    Args: m, n: evaluation images a class, at least 1.
    Returns: mean float64 (2,m+1); variance of rank z, of tail z, and their covariance, float64 (3,m+1).
    """
    total, k = m + n, np.arange(m + 1)
    ranks = np.arange(total, 0, -1.0)
    scores = np.stack([ranks, np.log1p(-(ranks - 0.5) / total) ** 2])
    scores = (scores - scores.mean(axis=1, keepdims=True)) / np.sqrt(m * n / total * scores.var(axis=1, ddof=1, keepdims=True))  # z = Σ_members
    top = np.concatenate([np.zeros((2, 1)), np.cumsum(scores, axis=1)], axis=1)[:, k]
    rest = total - k
    mean = top - (m - k) / rest * top  # the rest sums to -top
    products = scores[[0, 1, 0]] * scores[[0, 1, 1]]
    left = products.sum(axis=1, keepdims=True) - np.concatenate([np.zeros((3, 1)), np.cumsum(products, axis=1)], axis=1)[:, k]
    centred = left - top[[0, 1, 0]] * top[[0, 1, 1]] / rest
    return mean, (m - k) * n / rest * centred / np.maximum(rest - 1, 1)


def power_of_exposed(m, n, c):
    """The chance that max(rank z, tail z) exceeds c when k members score above everybody and all other images alike.

    The pair of z is taken as normal with the moments above: 1 - P(rank z <= c, tail z <= c), by 64-point Gauss-Legendre.

    Args: m, n: evaluation images a class, at least 1; c: as above.
    Returns: float64 (m+1,), for k = 0..m.
    Source: this project's own; the simulations of tests/stats/test_power.py agree to 0.02.
    """
    mean, variance = exposed_moments(m, n)
    sd = np.sqrt(np.maximum(variance[:2], 1e-24))  # every member exposed: nothing is left to chance
    correlation = np.clip(variance[2] / (sd[0] * sd[1]), -1 + 1e-12, 1 - 1e-12)
    return 1 - _both_below(*((c - mean) / sd), correlation)


def _both_below(a, b, correlation):
    """P(X <= a, Y <= b) of standard normals, arrays (k,): ∫ φ(x)·Φ((b - ρx)/√(1-ρ²)) dx from -8 to a."""
    upper = np.clip(a, -FAR, FAR)
    half = (upper + FAR) / 2
    x = half[:, None] * (NODES + 1) - FAR
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    inner = ndtr((b[:, None] - correlation[:, None] * x) / np.sqrt(1 - correlation[:, None] ** 2))
    return half * ((density * inner) @ WEIGHTS)


def minimum_detectable_share(m, n, c):
    """The smallest share f of members that score above everybody, all others as non-members do, that is found in 4 audits of 5.

    The evaluated members are a sample, so k ~ Binomial(m, f) of them are exposed;  f solves Σ_k P(k)·power_of_exposed[k] = 0.8, by bisection. One attack
    carries the leak; attacks that share it only help.

    Args: m, n: evaluation members and non-members, at least 1; c: 95 % point of the largest permuted statistic.
    Returns: float in 0..1, to 1e-6; None where not even m exposed members would be found.
    Source: this project's own.
    """
    power = np.maximum.accumulate(power_of_exposed(m, n, c))
    if power[-1] < POWER:
        return None
    steps, k = np.diff(power), np.arange(m)

    def of(share):
        return power[0] + float(steps @ (1 - bdtr(k, m, share)))

    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle) < POWER else (low, middle)
    return high


def planned(n_members, n_nonmembers):
    """What an audit of this many images can show, before a run (c = 2.4).

    From 400 images a side (the smaller class) only the evaluation half counts. Below, the sets are cross-fitted: the test uses every image, TPR only the
    evaluation half of the first repeat.

    Args: n_members, n_nonmembers: images left after duplicates, at least 2 each.
    Returns: plain dict: split "half" | "cross-fitted"; members, nonmembers: images behind the test; minimum_detectable_auc; minimum_detectable_share: float
        or None; tpr: [{fpr, resolution: "resolvable" | "coarse" | "none", nonmembers, needed}], `nonmembers` counting the evaluation half and `needed` the
        non-members to bring for "resolvable"; images_needed: [{auc, images}], images a side to bring; critical_z.
    Raises: ValueError: fewer than 2 images a side.
    """
    if min(n_members, n_nonmembers) < 2:
        raise ValueError(f"{n_members} members and {n_nonmembers} non-members cannot be planned for; expected at least 2 of each")
    halved = min(n_members, n_nonmembers) >= CROSS_FITTED_BELOW
    evaluated = n_nonmembers - n_nonmembers // 2
    m, n = (n_members - n_members // 2, evaluated) if halved else (n_members, n_nonmembers)
    return {
        "split": "half" if halved else "cross-fitted",
        "members": m,
        "nonmembers": n,
        "critical_z": CRITICAL_Z_PLANNED,
        "minimum_detectable_auc": planned_mda(m, n),
        "minimum_detectable_share": minimum_detectable_share(m, n, CRITICAL_Z_PLANNED),
        "tpr": [
            {"fpr": fpr, "resolution": resolution(evaluated, fpr), "nonmembers": evaluated, "needed": 2 * math.ceil(math.log(TAIL) / math.log1p(-fpr))} for fpr in FPRS
        ],
        "images_needed": [{"auc": auc, "images": _to_bring(images_needed(auc, CRITICAL_Z_PLANNED))} for auc in PLANNED_AUCS],
    }


def _to_bring(evaluated):
    """Images a side from which on at least `evaluated` of them are behind the test: all count below 400, half from there."""
    return evaluated if 2 * evaluated < CROSS_FITTED_BELOW else 2 * evaluated

"""TPR at a fixed FPR, with bounds that know that the threshold was read off the same non-members.

Verdicts and gates use the bounds. The value is what papers print, and is optimistic: its threshold's true FPR averages (k+1)/(n+1), not k/n.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import betainc, betaincinv, betaln, gammaln, ndtri, xlog1py, xlogy

from audit.stats.scores import one_vector

FPRS = (0.1, 0.01, 0.001)
TAIL = 0.025
FLOOR_SLACK = 1e-9  # 0.1 · 30 is 3.0000000000000004, 0.29 · 100 is 28.999999999999996
NEGLIGIBLE = 1e-12  # binomial probabilities below this are dropped


@dataclass(frozen=True)
class TprPoint:
    """TPR at one FPR.

    Attributes:
        fpr: the target, 0..1; tpr: largest share of members found at an FPR of at most that, None if not resolvable.
        low, high: 95 % bounds of the TPR at the true FPR; low is None if not resolvable, high always holds.
        resolution: "resolvable" | "coarse" (the lower bound is necessarily 0) | "none".
    """

    fpr: float
    tpr: float | None
    low: float | None
    high: float
    resolution: str

    def to_json(self):
        """Plain dict."""
        return asdict(self)


def resolution(nonmembers, fpr):
    """What `nonmembers` images can say about this FPR.

    "resolvable" from ln 0.025/ln(1-fpr) (36, 368, 3,688 for 10, 1, 0.1 %): the lower bound can leave 0; "coarse" from 1/fpr; else "none".
    """
    if nonmembers >= math.log(TAIL) / math.log1p(-fpr):
        return "resolvable"
    return "coarse" if nonmembers * fpr + FLOOR_SLACK >= 1 else "none"


def clopper_pearson(k, n):
    """Exact 95 % interval of a share: [B(0.025; k, n-k+1), B(0.975; k+1, n-k)].

    Args: k: successes, 0..n; n: trials, at least 1.
    Returns: (low, high), floats in 0..1.
    Raises: ValueError.
    Source: Clopper & Pearson 1934.
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} successes in {n} trials; expected 0 <= k <= n and n >= 1")
    low = float(betaincinv(k, n - k + 1, TAIL)) if k else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - TAIL)) if k < n else 1.0
    return low, high


def tpr_at_fpr(scores, is_member, fpr):
    """The TPR at one FPR: see `tpr_points`."""
    return tpr_points(scores, is_member, (fpr,))[0]


def tpr_points(scores, is_member, fprs=FPRS):
    """The TPR at several FPRs, with one sort.

    k = floor(n·fpr), threshold = (k+1)-th largest non-member, TPR = #{members above it}/m: strictly above, so ties are exact and the FPR never exceeds the target.

    Args: scores: (N,) finite, HIGHER = MORE MEMBER-LIKE; is_member: (N,) bool; fprs: each in 0 < fpr < 1.
    Returns: list of TprPoint, in the order of `fprs`.
    Raises: AttackError, ImageSetError, ValueError (fpr).
    Source: bounds: see `_bounds`.
    """
    values, members = one_vector(scores, is_member)
    a, b = np.sort(values[members]), np.sort(values[~members])[::-1]
    lows, highs = _bounds(a, b, fprs)
    points = []
    for fpr, low, high in zip(fprs, lows.tolist(), highs.tolist(), strict=True):
        shown = resolution(len(b), fpr)
        k = math.floor(len(b) * fpr + FLOOR_SLACK)
        value = (len(a) - int(np.searchsorted(a, b[k], "right"))) / len(a)
        points.append(TprPoint(fpr, None, None, high, shown) if shown == "none" else TprPoint(fpr, value, low, high, shown))
    return points


def band(scores, is_member, fprs):
    """The 95 % bounds of `tpr_points` at many FPRs, for drawing; pointwise, not for the whole curve at once.

    Args: scores, is_member: as there; fprs: (F,), each in 0 < fpr < 1.
    Returns: (low, high), float64 (F,).
    Raises: AttackError, ImageSetError, ValueError.
    """
    values, members = one_vector(scores, is_member)
    return _bounds(np.sort(values[members]), np.sort(values[~members])[::-1], fprs)


def _bounds(a, b, fprs):
    """Binomial-mixture Clopper-Pearson bounds.

    The number K of non-members above the true threshold of this FPR is Binomial(n, fpr), with probabilities w_K;
    lo_K = #{a > b_(K)}, hi_K = #{a >= b_(K+1)}, b_(0) = ∞, b_(n+1) = -∞;
    low solves Σ w_K·I_L(lo_K, m-lo_K+1) = 0.025 (term 1 where lo_K = 0), high solves Σ w_K·I_U(hi_K+1, m-hi_K) = 0.975 (term 0 where hi_K = m).

    Args: a: members ascending; b: non-members descending; fprs: (F,).
    Returns: (low, high), float64 (F,).
    Source: this project's own, chosen by simulation: cover 95-100 %.
    """
    fprs = np.asarray(fprs, np.float64)
    if fprs.ndim != 1 or not ((fprs > 0) & (fprs < 1)).all():
        raise ValueError(f"fprs are {fprs}; expected numbers between 0 and 1, both left out")
    m, n = len(a), len(b)
    above = m - np.searchsorted(a, b, "right")  # #{a > b_(K)}, K = 1..n
    at_least = m - np.searchsorted(a, b, "left")  # #{a >= b_(K)}
    lower, upper = [], []
    for fpr in fprs:
        k, weight = _binomial(n, fpr)
        lo = np.where(k > 0, above[np.maximum(k, 1) - 1], 0)
        hi = np.where(k < n, at_least[np.minimum(k, n - 1)], m)
        found, missed = lo > 0, hi < m
        count, w = _merged(lo[found], weight[found])
        lower.append((count, m - count + 1, w, float(weight[~found].sum())))
        count, w = _merged(hi[missed], weight[missed])
        upper.append((count + 1, m - count, w, 0.0))
    low, high = np.zeros(len(fprs)), np.ones(len(fprs))
    _solve(low, lower, TAIL)
    _solve(high, upper, 1 - TAIL)
    return low, high


def _binomial(n, fpr):
    """(K, w_K) of Binomial(n, fpr), without the K that no interval could notice."""
    spread = 8 * math.sqrt(n * fpr * (1 - fpr)) + 30  # Bernstein: less than 1e-12 lies outside
    k = np.arange(max(0, math.floor(n * fpr - spread)), min(n, math.ceil(n * fpr + spread)) + 1)
    weight = np.exp(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + xlogy(k, fpr) + xlog1py(n - k, -fpr))
    keep = weight >= NEGLIGIBLE
    return k[keep], weight[keep]


def _merged(count, weight):
    """(count, weight) with equal neighbours as one."""
    if not len(count):
        return count, weight
    first = np.flatnonzero(np.concatenate(([True], count[1:] != count[:-1])))
    return count[first], np.add.reduceat(weight, first)


def _solve(out, problems, target):
    """Write into `out` the x of every problem at which constant + Σ weight·I_x(a, b) = target; all at once, Newton inside a bracket.

    `out` holds the answer for problems that have none: the constant alone is too large, or the sum at x = 1 too small.
    """
    open_ones = [i for i, (_, _, w, constant) in enumerate(problems) if constant < target < constant + w.sum()]
    if not open_ones:
        return
    parts = [problems[i] for i in open_ones]
    sizes = np.array([len(p[2]) for p in parts])
    starts, owner = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(parts)), sizes)
    a, b, weight = (np.concatenate([p[j] for p in parts]).astype(np.float64) for j in range(3))
    constant = np.array([p[3] for p in parts])
    log_beta = betaln(a, b)
    total, centre = np.add.reduceat(weight, starts), a / (a + b)
    mean = np.add.reduceat(weight * centre, starts) / total
    variance = np.add.reduceat(weight * (centre * (1 - centre) / (a + b + 1) + centre**2), starts) / total - mean**2
    x = (mean + ndtri(target) * np.sqrt(np.maximum(variance, 0))).clip(mean / 2, (1 + mean) / 2)  # about the right place of a bell curve
    below, over = np.zeros(len(parts)), np.ones(len(parts))
    for _ in range(80):
        at = x[owner]
        excess = constant + np.add.reduceat(weight * betainc(a, b, at), starts) - target
        slope = np.add.reduceat(weight * np.exp(xlogy(a - 1, at) + xlog1py(b - 1, -at) - log_beta), starts)
        below, over = np.where(excess < 0, x, below), np.where(excess < 0, over, x)
        steep = slope > 1e-100
        step = x - excess / np.where(steep, slope, np.inf)
        new = np.where(steep & (step >= below) & (step <= over), step, (below + over) / 2)
        moved = np.abs(new - x).max()
        x = new
        if moved < 1e-8:  # Newton's next error is about the square of this
            break
    out[open_ones] = x

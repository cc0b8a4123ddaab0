"""Two-fold cross-fitting, repeated: with few images every image both helps to choose settings and is judged by settings it did not choose."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from audit.errors import ImageSetError
from audit.stats.auc import GUARD, LEAST_IMAGES, Interval, newcombe, units, variance_of_mean
from audit.stats.scores import midranks, one_vector
from audit.stats.split import half_split

REPEATS = 10


def fold_halves(is_member, seed, repeats=REPEATS, clusters=None):
    """The repeats' stratified splits in two; the first is the audit's own `half_split`.

    Args: is_member: (N,) bool; seed: the run's, streams "split", "split 1" …; repeats: R, at least 1; clusters: (N,) labels that are never torn, or None.
    Returns: bool (R,N): True = first half, False = second half. Settings are chosen on one and judged on the other, then the other way round.
    Raises: ImageSetError: see half_split; ValueError: repeats < 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected at least 1")
    return np.stack([half_split(is_member, seed, clusters, repeat) for repeat in range(repeats)])


def cross_fitted_auc(halves):
    """AUC of settings that were chosen on the other half of the images, with its 95 % interval.

    Within each half V_i = share of its non-members below member i, W_j = share of its members above non-member j (ties count half): no pair crosses halves, so
    different settings never mix their scales.  A = mean of the 2R half AUCs;  per repeat v = var V/m + var W/n over all m members and n non-members;
    SE = √(mean of v over the repeats), not divided by R: the repeats share their images;  limits = expit(logit A ± t·SE/(A(1-A))), df = min(m,n) - 2.
    Where min(m,n)·min(A,1-A) < 5: the hull with Newcombe's interval. A = 1 or 0: exact, from the fewest disjoint pairs within halves that a repeat holds.
    SE = 0 with 0 < A < 1: Newcombe. Fewer than 5 images in a class: no interval. Clusters as in auc_interval; they lie within one half.

    What it is about: the mean AUC of settings chosen in this way on half the images, which is below that of the best setting.

    Args: halves: R times ((scores, is_member[, clusters]) of one half, the same of the other), scores (N',) finite, HIGHER = MORE MEMBER-LIKE, from settings that the other half
        chose; the two halves of every repeat hold the same images between them.
    Returns: Interval.
    Raises: ValueError: no repeat; ImageSetError: a half with one class, or repeats that hold other counts; AttackError: see audit.stats.scores.checked.
    Source: DeLong 1988; LeDell et al. 2015.  Differs from source: SE by simulation (averaging influence values over repeats covers 92 %, pooling scores 87-93 %).
    """
    if not halves:
        raise ValueError("halves is empty; expected at least one repeat")
    repeats = [[_Placements.of(*half) for half in pair] for pair in halves]
    sizes = {tuple(sum(half.units[side] for half in pair) for side in (0, 1)) for pair in repeats}
    if len(sizes) != 1:
        raise ImageSetError(f"The repeats hold {sorted(sizes)} members and non-members. Expected the same images in every repeat.")
    m, n = sizes.pop()
    value = float(np.mean([half.values[0].mean() for pair in repeats for half in pair]))
    if min(m, n) < LEAST_IMAGES:
        return Interval(value, None, None, f"no interval with {m} members and {n} non-members; it needs {LEAST_IMAGES} of each")
    if value in (0.0, 1.0):
        pairs = min(sum(min(half.units) for half in pair) for pair in repeats)
        bound = float(0.025 ** (1 / pairs))
        return Interval(value, bound, 1.0) if value else Interval(value, 0.0, 1 - bound)
    error = float(np.mean([_variance(pair, 0) + _variance(pair, 1) for pair in repeats])) ** 0.5
    if error == 0:
        return Interval(value, *newcombe(value, m, n))
    spread = float(stdtrit(min(m, n) - 2, 0.975)) * error / (value * (1 - value))
    low, high = float(expit(logit(value) - spread)), float(expit(logit(value) + spread))
    if min(m, n) * min(value, 1 - value) < GUARD:
        other = newcombe(value, m, n)
        low, high = min(low, other[0]), max(high, other[1])
    return Interval(value, low, high)


@dataclass(frozen=True)
class _Placements:
    """Of one half: values (V float64 (m',), W (n',)), their cluster labels or None twice, and how many units each side holds."""

    values: tuple
    clusters: tuple
    units: tuple

    @classmethod
    def of(cls, scores, is_member, clusters=None):
        values, members = one_vector(scores, is_member)
        ranks, a, b = midranks(values), values[members], values[~members]
        of_a, of_b, m, n = units(members, clusters)
        return cls(((ranks[members] - midranks(a)) / len(b), 1 - (ranks[~members] - midranks(b)) / len(a)), (of_a, of_b), (m, n))


def _variance(pair, side):
    """Variance of the mean of the V (side 0) or W (side 1) of both halves together."""
    values = np.concatenate([half.values[side] for half in pair])
    if all(half.clusters[side] is None for half in pair):
        return variance_of_mean(values)[0]
    own = [np.arange(len(half.values[side])) if half.clusters[side] is None else half.clusters[side] for half in pair]
    return variance_of_mean(values, np.concatenate([2 * labels + k for k, labels in enumerate(own)]))[0]

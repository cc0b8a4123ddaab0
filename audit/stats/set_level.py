"""Is the set, taken as a whole, known to the model? All attacks together, each in its declared direction; nothing is trained.

Subject to the blind baseline like everything else: two sets that differ anyway give a small p too.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from audit.errors import AttackError, ImageSetError
from audit.stats.auc import units, variance_of_mean
from audit.stats.scores import checked_members, one_vector
from audit.stats.streams import stream

SUBSAMPLES = 200  # per size of the curve
LEVEL = 0.01
SIZES = (5, 7, 10, 15, 20, 30, 50, 70)  # a side; then the same two digits times 10, 100, …


@dataclass(frozen=True)
class SetLevel:
    """Result of `set_level`.

    Attributes:
        p_value: one-sided Welch p, None where it does not exist; t, df: its statistic and degrees of freedom, None likewise.
        images_needed: ({"images", "median_p", "share_below"}, ...), images a side, rising; needed: the smallest of them with median_p < 0.01, or None.
        reason: None, or why there is no p or which attacks were left out.
    """

    p_value: float | None
    t: float | None
    df: float | None
    images_needed: tuple[dict, ...]
    needed: int | None
    reason: str | None

    def to_json(self):
        """The fields of report.json's `set_level`."""
        return {**vars(self), "images_needed": [dict(row) for row in self.images_needed]}


def combined(scores, is_member, calibration):
    """Mean over attacks of (s - mean)/sd, with mean and sd (ddof 1) of the calibration non-members.

    Args: scores: {attack: (N,) finite}, HIGHER = MORE MEMBER-LIKE; is_member, calibration: (N,) bool, calibration True = calibration half.
    Returns: (float64 (N,) or None, names of the attacks left out because all calibration non-members score alike).
    Raises: AttackError: no attack, or scores that are not finite; ImageSetError: one class only, or fewer than 2 calibration non-members.
    """
    if not scores:
        raise AttackError("No attack was scored. Expected at least one.")
    members, before = checked_members(is_member), np.asarray(calibration)
    if before.dtype != bool or before.shape != members.shape:
        raise ImageSetError(f"calibration has shape {before.shape} and type {before.dtype}. Expected true or false per image, shape {members.shape}.")
    known = before & ~members
    if known.sum() < 2:
        raise ImageSetError(f"{int(known.sum())} non-members are in the calibration half. Expected at least 2: their mean and spread set the scale.")
    parts, flat = [], []
    for name, column in scores.items():
        values, _ = one_vector(column, members)
        if np.ptp(values[known]) == 0:
            flat.append(name)
        else:
            parts.append((values - values[known].mean()) / values[known].std(ddof=1))
    return (np.mean(parts, axis=0) if parts else None), flat


def welch(mean_a, var_a, m, mean_b, var_b, n):
    """(t, df, p) of the one-sided Welch test that a is larger; arrays of any one shape.

    t = (ā - b̄)/√(s_a²/m + s_b²/n), df by Welch-Satterthwaite, p = P(T_df >= t). Without any spread t, df are NaN and p is 1: nothing is shown.

    Args: means, variances (ddof 1) and sizes, at least 2.
    Source: Welch 1947.
    """
    from_a, from_b = np.asarray(var_a) / m, np.asarray(var_b) / n
    total = from_a + from_b
    spread = total > 0
    safe = np.where(spread, total, 1.0)
    t = np.where(spread, (np.asarray(mean_a) - mean_b) / np.sqrt(safe), np.nan)
    share = from_a / safe  # of the total: squares of very small variances would vanish
    df = np.where(spread, 1 / np.where(spread, share**2 / (m - 1) + (1 - share) ** 2 / (n - 1), 1.0), np.nan)
    return t, df, np.where(spread, stdtr(df, -t), 1.0)


def set_level(scores, is_member, calibration, seed, clusters=None):
    """One-sided Welch test of the combined score on all evaluation images, and how few images would have done.

    With clusters the variance of each mean adds up whole clusters and the sizes count them (audit.stats.auc.variance_of_mean); the curve draws images one by one.

    The curve: 200 times, the evaluation images of each class are put in random order and the test is run on the first 5, 7, 10, … a side, up to the smaller
    class. Near that end the subsamples are almost the same images, so their p-values say little about another sample.

    Args: scores: {attack: (N,) finite}, HIGHER = MORE MEMBER-LIKE; is_member: (N,) bool; calibration: (N,) bool, True = calibration half; seed: the run's,
        stream "set_level"; clusters: (N,) labels of images that belong together, within one class, or None.
    Returns: SetLevel.
    Raises: AttackError, ImageSetError.
    Source: CDI (Dubiński et al. 2025).  Differs from source: no trained combination, whose p is too small in 8-10 % of audits; the direction is declared.
    """
    score, flat = combined(scores, is_member, calibration)
    members, evaluation = checked_members(is_member), ~np.asarray(calibration)
    left_out = f"left out, all calibration non-members score alike: {', '.join(flat)}" if flat else None
    if score is None:
        return SetLevel(None, None, None, (), None, left_out)
    a, b = score[evaluation & members], score[evaluation & ~members]
    if min(len(a), len(b)) < 2:
        return SetLevel(None, None, None, (), None, f"{len(a)} members and {len(b)} non-members are in the evaluation half; needs 2 of each")
    of_a, of_b, m, n = units(members[evaluation], None if clusters is None else np.asarray(clusters)[evaluation])
    if min(m, n) < 2:
        return SetLevel(None, None, None, (), None, f"{m} members and {n} non-members without near duplicates are in the evaluation half; needs 2 of each")
    spread = [variance_of_mean(part, labels)[0] * count for part, labels, count in ((a, of_a, m), (b, of_b, n))]
    t, df, p = welch(a.mean(), spread[0], m, b.mean(), spread[1], n)
    if np.isnan(t):
        return SetLevel(None, None, None, (), None, "all members score alike and all non-members score alike: there is no spread to compare with")
    curve = _curve(a, b, stream(seed, "set_level"))
    needed = next((row["images"] for row in curve if row["median_p"] < LEVEL), None)
    return SetLevel(float(p), float(t), float(df), curve, needed, left_out)


def sizes_up_to(largest):
    """Sizes of the curve: 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, … below `largest`, and `largest`; empty below 5."""
    if largest < SIZES[0]:
        return []
    every = {5, 7} | {size * 10**power for size in SIZES[2:] for power in range(len(str(largest)))}
    return [size for size in sorted(every) if size < largest] + [largest]


def _curve(a, b, rng):
    """Rows of `images_needed` for members a and non-members b."""
    sizes = np.array(sizes_up_to(min(len(a), len(b))), dtype=int)
    if not len(sizes):
        return ()
    p = np.empty((SUBSAMPLES, len(sizes)))
    for row in range(SUBSAMPLES):
        (mean_a, var_a), (mean_b, var_b) = (_running(rng.permutation(part), sizes) for part in (a, b))
        p[row] = welch(mean_a, var_a, sizes, mean_b, var_b, sizes)[2]
    median, below = np.median(p, axis=0), (p < LEVEL).mean(axis=0)
    return tuple({"images": int(s), "median_p": float(m), "share_below": float(f)} for s, m, f in zip(sizes, median, below, strict=True))


def _running(values, sizes):
    """(mean, variance with ddof 1) of the first `sizes` values, each float64 (sizes,)."""
    centre = values[0]  # the variance of equal values is then exactly 0, which np.var does not promise
    first, second = (np.cumsum((values - centre) ** power)[sizes - 1] for power in (1, 2))
    return centre + first / sizes, np.maximum(second - first**2 / sizes, 0) / (sizes - 1)

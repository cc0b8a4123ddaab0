"""A lower bound on the ε of (ε, δ)-differential privacy, from one trained model and one split drawn by independent fair coins.

Without such a split there is no bound: that is the caller's to refuse. 0 means that nothing was shown, not that nothing leaks.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import betainc, betaincinv, gammaln, ndtri

from audit.errors import RequestError
from audit.stats.scores import one_vector
from audit.stats.streams import stream
from audit.stats.tpr import clopper_pearson

LEVEL = 0.05
DELTA = 1e-5
METHOD = "one run, guesses on both sides, fixed on the calibration half"
QUANTILES = np.concatenate([np.linspace(0.02, 0.98, 49), [0.99, 0.995, 0.998]])
LARGEST = 60.0  # e^-60 is nothing: no count of images reaches it


@dataclass(frozen=True)
class EpsilonBound:
    """Result of `epsilon_lower_bound`.

    Attributes:
        value: ε at 95 % confidence, 0 where nothing was shown, or None (see reason); delta: δ.
        images: evaluation images behind it, as many members as non-members; guesses, correct: r, v.
        member_from, nonmember_below: score >= the one is guessed "member", score < the other "non-member" (None: nobody is guessed a non-member).
        ceiling: ε if all `images` had been guessed right; equivalents: {"two_rate", "gdp_mu"}, estimates, not bounds of the same kind.
        claim: {"epsilon", "delta", "p_value", "contradicted"} or None; basis: why the split counts as random, the caller's word; reason: why there is no value.
    """

    value: float | None
    delta: float
    images: int | None = None
    guesses: int | None = None
    correct: int | None = None
    member_from: float | None = None
    nonmember_below: float | None = None
    ceiling: float | None = None
    equivalents: dict | None = None
    claim: dict | None = None
    basis: str | None = None
    reason: str | None = None
    method: str = METHOD
    confidence: float = 1 - LEVEL

    def to_json(self):
        """The fields of report.json's `epsilon_lower_bound`."""
        return asdict(self)


def default_delta(training_images=None):
    """δ = 1e-5, or 1/(10·training images) where that is smaller."""
    return min(DELTA, 1 / (10 * training_images)) if training_images else DELTA


def one_run_p(epsilon, images, guesses, correct, delta):
    """p-value of "the training was (ε, δ)-private" after `correct` of `guesses` right guesses about `images` fair coins.

    q = 1/(1+e^-ε);  β = P[Bin(r,q) >= v];  α = max over i = 1..v of P[v-i <= Bin(r,q) < v]/i;  p = min(1, β + 2Nδα).

    Args: epsilon: >= 0; images: N; guesses: r, 0..N; correct: v, 0..r; delta: 0..1.
    Returns: float in 0..1.
    Raises: ValueError: counts that do not fit.
    Source: Steinke, Nasr & Jagielski 2023 (arXiv:2305.08846).
    """
    if not 0 <= correct <= guesses <= images:
        raise ValueError(f"{correct} right of {guesses} guesses about {images} images; expected 0 <= right <= guesses <= images")
    if correct == 0:
        return 1.0
    log_q = -math.log1p(math.exp(-epsilon))
    beta = float(betainc(correct, guesses - correct + 1, math.exp(log_q)))
    if delta == 0:
        return min(1.0, beta)
    k = np.arange(correct - 1, -1, -1)
    below = np.exp(gammaln(guesses + 1) - gammaln(k + 1) - gammaln(guesses - k + 1) + k * log_q + (guesses - k) * (log_q - epsilon))
    alpha = float((np.cumsum(below) / np.arange(1, correct + 1)).max())
    return min(1.0, beta + 2 * images * delta * alpha)


def one_run_epsilon(images, guesses, correct, delta, level=LEVEL):
    """The largest ε with one_run_p <= level, 0 if even ε = 0 is not rejected; δ = 0: logit of the one-sided Clopper-Pearson lower bound of v/r.

    An ε'-private training is ε-private for every ε >= ε', so rejecting one ε rejects all below it.

    Args: as `one_run_p`. Returns: float >= 0. Raises: ValueError.
    """
    if one_run_p(0.0, images, guesses, correct, delta) > level:
        return 0.0
    low, high = 0.0, LARGEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if one_run_p(middle, images, guesses, correct, delta) <= level else (low, middle)
    return low


def ceiling(images, delta, guesses=None):
    """ε if every guess were right; guesses: r, None = a guess about every image. δ = 0: logit(0.05^(1/r))."""
    r = images if guesses is None else guesses
    return one_run_epsilon(images, r, r, delta)


def two_rate(found, m, false, n, delta):
    """(ε, TPR_low, FPR_high): ln((TPR_low - δ)/FPR_high), at least 0, each rate bounded at 97.5 % by Clopper-Pearson.

    An estimate for one training run: the images of a run are treated as independent.

    Args: found of m members and false of n non-members are called members; delta: 0..1.
    Returns: three floats.
    Source: Nasr et al. 2023 (arXiv:2302.07956).
    """
    low, high = clopper_pearson(found, m)[0], clopper_pearson(false, n)[1]
    return (max(0.0, math.log((low - delta) / high)) if low > delta else 0.0), low, high


def gdp_mu(tpr_low, fpr_high):
    """μ of Gaussian differential privacy on that point of the ROC: Φ⁻¹(TPR_low) - Φ⁻¹(FPR_high), at least 0.

    Printed as μ only: turned into an ε at δ = 1e-5 it would go far beyond what the images can show.
    """
    return max(0.0, float(ndtri(tpr_low) - ndtri(fpr_high))) if tpr_low > 0 and fpr_high < 1 else 0.0


def choose_guesses(scores, is_member):
    """(t1, t0): the pair of cuts with the best Clopper-Pearson lower bound (95 %, one-sided) of right guesses on these images.

    "member" for score >= t1, "non-member" for score < t0, no guess between. Grid: scores at the quantiles 0.02 to 0.998, and t0 = -∞.

    Args: scores: (C,) finite, HIGHER = MORE MEMBER-LIKE, calibration images only; is_member: (C,) bool.
    Returns: two floats, t0 <= t1.
    Raises: AttackError, ImageSetError.
    """
    values, members = one_vector(scores, is_member)
    cuts = np.unique(np.quantile(values, QUANTILES, method="higher"))
    a, b = np.sort(values[members]), np.sort(values[~members])
    inside, outside = len(a) - np.searchsorted(a, cuts, "left"), len(b) - np.searchsorted(b, cuts, "left")  # at or above each cut
    right_above, above = inside[:, None], (inside + outside)[:, None]
    lower = np.concatenate(([-np.inf], cuts))
    right_below = np.concatenate(([0], len(b) - outside))[None, :]
    below = np.concatenate(([0], len(values) - inside - outside))[None, :]
    right, guesses = right_above + right_below, above + below
    bound = np.where(right > 0, betaincinv(np.maximum(right, 1), guesses - right + 1, LEVEL), 0.0)
    bound = np.where(lower[None, :] <= cuts[:, None], bound, -1.0)
    first, second = np.unravel_index(int(np.argmax(bound)), bound.shape)
    return float(cuts[first]), float(lower[second])


def choose_threshold(scores, is_member):
    """The cut with the best two-rate ε (δ = 0) on these images, for score >= cut; the same grid of quantiles. Args, Raises: as `choose_guesses`."""
    values, members = one_vector(scores, is_member)
    cuts, m = np.unique(np.quantile(values, QUANTILES, method="higher")), int(members.sum())

    def ratio(cut):
        hit = values >= cut
        low, high = clopper_pearson(int((hit & members).sum()), m)[0], clopper_pearson(int((hit & ~members).sum()), len(members) - m)[1]
        return low / high

    return float(max(cuts, key=ratio))


def balanced(is_member, rng):
    """Sorted positions of as many members as non-members: images of the larger class are dropped at random.

    With 120 images against 100 a model without any leak would show an ε in 8 % of audits instead of 5.
    """
    sides = [np.flatnonzero(is_member), np.flatnonzero(~is_member)]
    size = min(map(len, sides))
    return np.sort(np.concatenate([rng.permutation(side)[:size] for side in sides]))


def epsilon_lower_bound(calibration_scores, calibration_members, scores, is_member, delta, seed, claim=None):
    """One-run bound: guesses fixed on the calibration half, counted on the evaluation half, equal sides in both.

    Args:
        calibration_scores, calibration_members: (C,) finite and (C,) bool: images on which the attack's settings were chosen too.
        scores, is_member: (N,) finite, HIGHER = MORE MEMBER-LIKE, and (N,) bool: evaluation images. Each image was drawn into training by its own fair coin.
        delta: 0 <= δ < 1, see `default_delta`; seed: the run's, streams "epsilon_calibration", "epsilon_evaluation".
        claim: (ε, δ) promised by the owner, or None; contradicted where its one_run_p is at most 0.05.
    Returns: EpsilonBound, with basis None.
    Raises: AttackError, ImageSetError; RequestError: δ or claim out of range.
    Source: Steinke et al. 2023.  Differs from source: guesses are set by score cuts from other images, not by a fixed count.
    """
    _check(0.0, delta)
    before, known = one_vector(calibration_scores, calibration_members)
    values, members = one_vector(scores, is_member)
    keep = balanced(known, stream(seed, "epsilon_calibration"))
    before, known = before[keep], known[keep]
    keep = balanced(members, stream(seed, "epsilon_evaluation"))
    values, members = values[keep], members[keep]
    t1, t0 = choose_guesses(before, known)
    inside, outside = values >= t1, values < t0
    r, v = int((inside | outside).sum()), int((inside & members).sum() + (outside & ~members).sum())
    hit, side = values >= choose_threshold(before, known), len(values) // 2
    rate, tpr_low, fpr_high = two_rate(int((hit & members).sum()), side, int((hit & ~members).sum()), side, delta)
    return EpsilonBound(
        value=one_run_epsilon(len(values), r, v, delta),
        delta=float(delta),
        images=len(values),
        guesses=r,
        correct=v,
        member_from=t1,
        nonmember_below=t0 if math.isfinite(t0) else None,
        ceiling=ceiling(len(values), delta),
        equivalents={"two_rate": rate, "gdp_mu": gdp_mu(tpr_low, fpr_high)},
        claim=None if claim is None else _judged(claim, len(values), r, v),
    )


def _judged(claim, images, guesses, correct):
    """The converse: could a training that keeps this claim have given so many right guesses?"""
    epsilon, delta = claim
    _check(epsilon, delta)
    p = one_run_p(epsilon, images, guesses, correct, delta)
    return {"epsilon": float(epsilon), "delta": float(delta), "p_value": p, "contradicted": p <= LEVEL}


def _check(epsilon, delta):
    """Raise RequestError unless 0 <= ε, finite, and 0 <= δ < 1."""
    if not (0 <= epsilon < math.inf and 0 <= delta < 1):
        raise RequestError(f"The privacy level is ε = {epsilon}, δ = {delta}. Expected ε of 0 or more and δ from 0 to below 1.")

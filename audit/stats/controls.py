"""Controls: audits whose answer is known. One that fails makes the verdict inconclusive."""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import ndtri

from audit.errors import AttackError
from audit.stats.auc import auc_interval
from audit.stats.permutation import LEVEL, permutation_test, standardised_ranks
from audit.stats.power import planted_auc
from audit.stats.scores import checked, checked_members, midranks, one_vector
from audit.stats.streams import stream

RANGE_Z = 3.2905  # 99.9 % of a standard normal lies within ±: a control that cries in one report of twenty is not read


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes: name: as in report.json; auc: 0..1; low, high: its 95 % interval, or None; passed: bool; p_value: of the test that had to find it, or None;
        reason: why it failed or could not run, in words, or None.
    """

    name: str
    auc: float | None
    low: float | None
    high: float | None
    passed: bool
    p_value: float | None = None
    reason: str | None = None

    def to_json(self):
        """Plain dict; p_value and reason only where there is one."""
        return {key: value for key, value in asdict(self).items() if value is not None or key not in ("p_value", "reason")}


def at_chance(name, scores, labels):
    """A control that must give AUC 0.5, from labels that say nothing, such as labels that were mixed before the settings were chosen.

    passed: |z| <= 3.29, z = rank sum standardised by its exact permutation mean and sd (ties included). The printed interval is the 95 % one, which may leave
    0.5 out in one report of twenty without anything being wrong.

    Args: name: as in report.json; scores: (N,) finite; labels: (N,) bool.
    Returns: Control.
    Raises: AttackError, ImageSetError.
    """
    values, labels = one_vector(scores, labels)
    interval = auc_interval(values, labels)
    z = float(standardised_ranks(values, labels)[labels, 0].sum())
    return Control(name, interval.value, interval.low, interval.high, abs(z) <= RANGE_Z)


def nonmembers_labels(nonmembers, seed, name=""):
    """Call a random half of the non-members "members": an audit of non-members against non-members, in which nothing can be found.

    Args: nonmembers: (N,) bool, the non-members; seed: the run's; name: where it is done more than once, such as once per half; stream "non-members twice NAME".
    Returns: bool (N,), True = called a member, floor(half); False for the other half of the non-members, and for every image outside `nonmembers`.
    """
    images = np.flatnonzero(nonmembers)
    labels = np.zeros(len(nonmembers), bool)
    labels[stream(seed, f"non-members twice {name}".rstrip()).permutation(images)[: len(images) // 2]] = True
    return labels


def planted_leak(scores, is_member, headline, c, seed, draws=None):
    """A leak of known size that the audit's own permutation test must find, with p <= 0.05.

    The labels are mixed at random first, so that no real leak helps. Then the headline attack's scores are replaced by their normal scores Φ⁻¹((r-0.5)/N), and those
    called members are raised by √2·Φ⁻¹(planted AUC); the planted AUC is power.planted_auc, which is found in 999 audits of 1,000.
    Where that reaches 1 (about 20 images a side and fewer) every member is raised above every non-member.
    Labels are mixed image by image even where images are clustered: then they say nothing about any image, and the plain test is exact.

    Args: scores: {attack: (N,) or (J,N) finite}; of a matrix the first row is replaced; is_member: (N,) bool, of which only the counts are used;
        headline: the attack that carries the leak; c: critical_z of permutation_test on these scores; seed: the run's, streams "planted leak" and "permutation";
        draws: as in permutation_test.
    Returns: Control; auc is the planted one, so it has no interval; p_value is the test's.
    Raises: AttackError: headline was not scored, or scores that cannot be ranked; ImageSetError: one class only.
    """
    if headline not in scores:
        raise AttackError(f"{headline} has no scores to plant a leak in. Expected one of {', '.join(scores) or 'at least one attack'}.")
    called = stream(seed, "planted leak").permutation(checked_members(is_member))
    planted = planted_auc(int(called.sum()), int((~called).sum()), c)
    rows = np.atleast_2d(checked(scores[headline], called)[0]).astype(np.float64)
    normal = ndtri((midranks(rows[0]) - 0.5) / len(called))
    rows[0] = normal + called * (2**0.5 * ndtri(planted) if planted < 1 else np.ptp(normal) + 1)
    p = permutation_test({**scores, headline: rows}, called, seed, draws).p_value
    missed = f"a leak of AUC {planted:.3f}, which 999 audits of 1,000 find, was not found (p = {p:.2g})"
    return Control("planted_leak", planted, None, None, p <= LEVEL, p, None if p <= LEVEL else missed)

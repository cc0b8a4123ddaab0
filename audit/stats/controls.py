"""Controls: audits whose answer is known. One that fails makes the verdict inconclusive."""

from dataclasses import asdict, dataclass

from audit.stats.auc import auc_interval
from audit.stats.permutation import standardised_ranks
from audit.stats.scores import checked_members, one_vector
from audit.stats.streams import stream

RANGE_Z = 3.2905  # 99.9 % of a standard normal lies within ±: a control that cries in one report of twenty is not read


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes: name: as in report.json; auc: 0..1; low, high: its 95 % interval, or None; passed: bool.
    """

    name: str
    auc: float
    low: float | None
    high: float | None
    passed: bool

    def to_json(self):
        """Plain dict."""
        return asdict(self)


def shuffled_labels(scores, is_member, seed):
    """The same scores with labels mixed at random: AUC must be 0.5 within the 99.9 % range of chance.

    Args: scores: (N,) finite, evaluation images only; is_member: (N,) bool, the true labels; seed: the run's, stream "shuffled_labels".
    Returns: Control.
    Raises: AttackError, ImageSetError.
    """
    return at_chance("shuffled_labels", scores, stream(seed, "shuffled_labels").permutation(checked_members(is_member)))


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

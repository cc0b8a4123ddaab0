"""Everything that is printed about one score vector, in one call: for notebooks, outside checks and the report."""

from dataclasses import dataclass

import numpy as np

from audit.errors import ImageSetError
from audit.stats.auc import Interval, auc_interval
from audit.stats.roc import fast_roc
from audit.stats.scores import one_vector
from audit.stats.tpr import TprPoint, tpr_points

HALVES = ("calibration", "evaluation")


@dataclass(frozen=True)
class Evaluation:
    """One score vector, judged on its evaluation rows.

    Attributes:
        auc: Interval; curve_auc: area of the drawn ROC, the same number.
        tpr_at_fpr: TprPoint at 10, 1 and 0.1 % FPR.
        evaluation_members, evaluation_nonmembers: images behind all of it.
    """

    auc: Interval
    curve_auc: float
    tpr_at_fpr: tuple[TprPoint, ...]
    evaluation_members: int
    evaluation_nonmembers: int

    def to_json(self):
        """Plain dict with report.json's names; None where there is no number, never NaN."""
        return {
            "auc": self.auc.to_json(),
            "curve_auc": self.curve_auc,
            "tpr_at_fpr": [point.to_json() for point in self.tpr_at_fpr],
            "evaluation_members": self.evaluation_members,
            "evaluation_nonmembers": self.evaluation_nonmembers,
        }


def evaluate(scores, is_member, half=None, clusters=None):
    """AUC and TPR at 10, 1 and 0.1 % FPR, each with its 95 % interval, from the evaluation rows.

    Args:
        scores: (N,) finite numbers, HIGHER = MORE MEMBER-LIKE.
        is_member: (N,) bool.
        half: (N,) of "calibration" and "evaluation", the column `half` of scores.csv; None = every row is evaluation. The intervals hold only if the evaluation rows
            played no part in choosing the attack or its settings.
        clusters: (N,) labels of near duplicates, the column `cluster` of images.csv; the AUC's interval then counts whole clusters. None = each image stands alone.
    Returns: Evaluation.
    Raises: AttackError: scores of another length, or not finite; ImageSetError: one class only, or other words in `half`.
    """
    values, members = one_vector(scores, is_member)
    if half is not None:
        names = np.asarray(half)
        if names.shape != members.shape or not np.isin(names, HALVES).all():
            raise ImageSetError(f"half has shape {names.shape} for {len(members)} images, or other words. Expected calibration or evaluation per image.")
        inside = names == "evaluation"
        values, members = one_vector(values[inside], members[inside])
        clusters = None if clusters is None else np.asarray(clusters)[inside]
    count = int(members.sum())
    return Evaluation(auc_interval(values, members, clusters), fast_roc(values, members).area, tuple(tpr_points(values, members)), count, len(members) - count)

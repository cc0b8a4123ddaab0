"""Try every setting of an attack once, and let several juries of images say which is best: the calibration half, each fold of cross-fitting, and the controls.

Scoring an image set at one setting costs far more than ranking it, so all juries look at the same scores.
"""

from dataclasses import dataclass

import numpy as np

from audit.errors import AttackError
from audit.stats.auc import auc_many

BLOCK_FLOATS = 4_000_000  # scores held at once: 32 MB


@dataclass(frozen=True)
class Jury:
    """Images that choose, and what they take for members. images, labels: bool (N,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Sweep:
    """candidates: J settings objects; aucs: float64 (juries, J); scores: float64 (J,N) if they were to be kept, else None."""

    candidates: list
    aucs: np.ndarray
    scores: np.ndarray | None

    def best(self, jury):
        """Position of the candidate with the largest AUC for one jury; the first, simplest one where several tie."""
        return int(np.argmax(self.aucs[jury]))

    def worst(self, jury):
        """Position of the candidate that ranks members lowest: the audit asks it whether members score *lower* than non-members somewhere."""
        return int(np.argmin(self.aucs[jury]))


def sweep(attack, tables, juries, fixed=None, keep=False):
    """The AUC of every candidate for every jury.

    Args: attack: audit.attacks.base.Attack; tables: audit.tables.Tables; juries: list of Jury; fixed: settings the user gave; keep: keep the scores.
    Returns: Sweep.
    Raises: AttackError: no setting, or scores that are not finite for an image of a jury.
    """
    candidates = attack.candidates(tables, fixed or {})
    if not candidates:
        raise AttackError("no setting is left to choose from")
    images = len(juries[0].images)
    aucs = np.empty((len(juries), len(candidates)))
    kept = np.empty((len(candidates), images)) if keep else None
    step = max(1, BLOCK_FLOATS // images)
    for first in range(0, len(candidates), step):
        block = candidates[first : first + step]
        scores = np.stack([attack.score(tables, c) for c in block])
        for row, jury in enumerate(juries):
            aucs[row, first : first + len(block)] = auc_many(scores[:, jury.images], jury.labels[jury.images])
        if keep:
            kept[first : first + len(block)] = scores
    return Sweep(candidates, aucs, kept)

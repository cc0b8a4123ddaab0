"""Choose an attack's settings on the calibration images, and say how flattering the choice would have been on all of them."""

from dataclasses import dataclass

import numpy as np

from audit.errors import AttackError
from audit.stats.auc import auc_many

BLOCK_FLOATS = 4_000_000  # scores held at once: 32 MB


@dataclass(frozen=True)
class Selection:
    """choice: the settings object; calibration_auc: its AUC there; best_of_sweep_auc: the largest AUC of any candidate on all images; tried: candidates.

    `lowest` is the candidate with the smallest calibration AUC: the audit asks it whether members score *lower* than non-members somewhere.
    """

    choice: object
    lowest: object
    calibration_auc: float
    best_of_sweep_auc: float
    tried: int


def select(attack, tables, is_member, calibration, fixed=None):
    """The candidate with the largest calibration AUC; the first, simplest one where several tie.

    Args: attack: audit.attacks.base.Attack; tables: audit.tables.Tables; is_member, calibration: bool (N,); fixed: settings the user gave.
    Returns: Selection.
    Raises: AttackError.
    """
    candidates = attack.candidates(tables, fixed or {})
    if not candidates:
        raise AttackError("no setting is left to choose from")
    inner, outer = np.empty(len(candidates)), np.empty(len(candidates))
    step = max(1, BLOCK_FLOATS // len(is_member))
    for first in range(0, len(candidates), step):
        block = candidates[first : first + step]
        scores = np.stack([attack.score(tables, c) for c in block])
        finite = np.isfinite(scores)
        scores = np.where(finite, scores, scores[finite].min(initial=0.0))  # such images are dropped later; here they rank last
        inner[first : first + len(block)] = auc_many(scores[:, calibration], is_member[calibration])
        outer[first : first + len(block)] = auc_many(scores, is_member)
    best = int(np.argmax(inner))
    return Selection(candidates[best], candidates[int(np.argmin(inner))], float(inner[best]), float(outer.max()), len(candidates))

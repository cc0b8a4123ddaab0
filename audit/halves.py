"""Which images choose settings and which are judged: one half split from 400 images a side, two-fold cross-fitting repeated ten times below."""

from dataclasses import dataclass

import numpy as np

from audit.errors import ImageSetError
from audit.stats.crossfit import fold_halves
from audit.stats.split import half_split

LEAST_IN_A_HALF = 2  # of a class: fewer have no spread
HALF_SPLIT_FROM = 400  # images of the smaller class; a half split of fewer could not reach "not detected"


@dataclass(frozen=True)
class Halves:
    """kind: "half" or "cross-fitted"; repeats: bool (R,N), True = the images of the first half; R is 1 for a half split.

    The first half of the first repeat is the calibration half: the column `half` of scores.csv.
    """

    kind: str
    repeats: np.ndarray

    @property
    def crossed(self):
        """Whether every image is judged, each by settings that it did not choose."""
        return self.kind == "cross-fitted"

    @property
    def calibration(self):
        """bool (N,)."""
        return self.repeats[0]

    @property
    def choosing(self):
        """list of bool (N,): images that choose settings, one entry per fold; the others of the repeat are judged."""
        return [half for first in self.repeats for half in (first, ~first)] if self.crossed else [self.calibration]


def plan_halves(is_member, seed, clusters=None, kept=None):
    """The Halves of an audit.

    Args: is_member: bool (N,); clusters: int (N,), near duplicates share one, or None; kept: bool (N,), images with finite scores, None = all.
    Raises: ImageSetError: a half would be left without members or without non-members.
    """
    kept = np.ones(len(is_member), bool) if kept is None else kept
    members = int(np.count_nonzero(is_member))
    if min(members, len(is_member) - members) >= HALF_SPLIT_FROM:
        halves = Halves("half", half_split(is_member, seed, clusters)[None])
    else:
        halves = Halves("cross-fitted", fold_halves(is_member, seed, clusters=clusters))
    for words, side in (("members", is_member & kept), ("non-members", ~is_member & kept)):
        fewest = min(min(np.count_nonzero(side & first), np.count_nonzero(side & ~first)) for first in halves.repeats)
        if fewest < LEAST_IN_A_HALF:
            alone = np.count_nonzero(side) if clusters is None else len(np.unique(clusters[side]))
            raise ImageSetError(
                f"The {np.count_nonzero(side)} {words} with finite scores stand in {alone} groups of near duplicates, which stay together: a half would hold {fewest}. "
                f"Expected at least {LEAST_IN_A_HALF}: add other pictures."
            )
    return halves

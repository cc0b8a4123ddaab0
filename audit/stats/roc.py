"""The ROC curve, exact, and a copy of it with few points that may be drawn in its place."""

from dataclasses import dataclass

import numpy as np

from audit.stats.scores import one_vector

AREA_TOLERANCE = 1e-6  # by how much the area of a drawn curve may differ from the AUC


@dataclass(frozen=True)
class Roc:
    """One point per distinct score: images with score >= thresholds[i] are called members.

    Attributes: fpr, tpr: float64 (P,), from 0 to 1, never falling; thresholds: float64 (P,), falling, the first infinite (nobody is called a member).
    """

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray

    @property
    def area(self):
        """Area under the straight lines through the points = AUC with ties counted half."""
        return float(_trapezoids(self.fpr, self.tpr).sum())

    def tpr_at(self, fpr):
        """The largest TPR whose FPR is at most `fpr` (1e-9 of slack for products such as 0.1 · 30)."""
        return float(self.tpr[np.searchsorted(self.fpr, fpr + 1e-9, "right") - 1])

    def points(self, limit=300):
        """The curve for drawing: vertices of this curve, at most `limit`, and the same area.

        Straight runs lose their inner points, which changes nothing. If more than `limit` corners are left, a third is spread evenly over log FPR, for
        log axes, and the rest evenly along the curve; then single vertices slide along the curve until the area differs from `area` by less than 1e-6.
        Where that cannot be reached every corner is kept, whatever the limit.

        Returns: Roc.
        """
        corners = _corners(self.fpr, self.tpr)
        x, y = self.fpr[corners], self.tpr[corners]
        if len(corners) > limit:
            chosen = _settle_area(x, y, _spread(x, y, limit))
            if abs(_trapezoids(x[chosen], y[chosen]).sum() - self.area) < AREA_TOLERANCE:
                corners = corners[chosen]
        return Roc(self.fpr[corners], self.tpr[corners], self.thresholds[corners])


def roc(scores, is_member):
    """The empirical ROC: scikit-learn's `roc_curve(drop_intermediate=False)`, point for point.

    Args: scores: (N,) finite, HIGHER = MORE MEMBER-LIKE; is_member: (N,) bool.
    Returns: Roc.
    Raises: AttackError, ImageSetError.
    """
    return fast_roc(*one_vector(scores, is_member))


def fast_roc(scores, is_member):
    """`roc` without the checks, for arrays that passed them before: one sort (float (N,), bool (N,) -> Roc). 3 ms at N = 20,000."""
    order = np.argsort(scores)[::-1]
    ordered = scores[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    hits = np.cumsum(is_member[order])[ends]
    false = ends + 1 - hits
    start = np.zeros(1)
    return Roc(np.concatenate((start, false / false[-1])), np.concatenate((start, hits / hits[-1])), np.concatenate(([np.inf], ordered[ends].astype(np.float64))))


def _trapezoids(x, y):
    """Areas of the trapezoids between neighbouring points."""
    return (x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2


def _corners(x, y):
    """Indices of the end points and of every point where a horizontal or vertical run ends."""
    dx, dy = np.diff(x), np.diff(y)
    straight = ((dx[1:] == 0) & (dx[:-1] == 0)) | ((dy[1:] == 0) & (dy[:-1] == 0))
    return np.concatenate(([0], 1 + np.flatnonzero(~straight), [len(x) - 1]))


def _spread(x, y, limit):
    """Sorted indices, at most `limit`, with both ends."""
    smallest = x[np.searchsorted(x, 0, "right")]
    by_decade = np.searchsorted(x, np.geomspace(smallest, 1, limit // 3))
    by_length = np.searchsorted(x + y, np.linspace(0, 2, limit - limit // 3 - 2))
    return np.unique(np.concatenate(([0], by_decade, by_length, [len(x) - 1])).clip(0, len(x) - 1))


def _settle_area(x, y, chosen):
    """`chosen` with a few vertices moved along the curve, at most one per pass, each the move that brings the area nearest to the full one."""
    chosen = chosen.copy()
    error = _trapezoids(x[chosen], y[chosen]).sum() - _trapezoids(x, y).sum()
    for step in range(32):  # 8 passes left up to half of the curves of 3,000 images unsettled
        if abs(error) < AREA_TOLERANCE / 100:
            break
        inner = np.arange(1 + step % 2, len(chosen) - 1, 2)  # every other vertex: their ranges do not overlap
        if not len(inner):
            break
        before, after = chosen[inner - 1], chosen[inner + 1]
        owner = np.repeat(np.arange(len(inner)), after - before - 1)
        vertex = np.arange(len(owner)) - np.repeat(np.cumsum(after - before - 1) - (after - before - 1), after - before - 1) + before[owner] + 1
        left, right, old = before[owner], after[owner], chosen[inner][owner]
        # the triangle (left, vertex, right) replaces (left, old, right)
        gain = ((y[vertex] - y[old]) * (x[right] - x[left]) - (x[vertex] - x[old]) * (y[right] - y[left])) / 2
        best = int(np.argmin(np.abs(error + gain)))
        if abs(error + gain[best]) < abs(error):
            chosen[inner[owner[best]]] = vertex[best]
            error += gain[best]
    return chosen

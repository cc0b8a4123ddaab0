"""Reduce a table (K timesteps) to one number per image: a statistic over the timesteps that truncation keeps.

truncate_by "time": keep the measured timesteps from `keep_from` to `keep_until` (0-based, inclusive; t = 0 is the least noisy).
    Paper: drop the noisy end, large t.
truncate_by "value": keep each image's smallest `keep_share` of its losses, wherever they lie. Authors' code: sort by value, drop the largest.
Statistics: sum, mean, median, min, max.  Nothing here is a score: the attack negates.
Source: arXiv:2302.07801; truncation and statistics as in research on the authors' code.  Differs from source: mean over noise draws first; shares
instead of counts; the single smallest value is kept.
"""

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from audit.errors import RequestError, WindowError

STATISTICS = ("mean", "sum", "median", "min", "max")
TRUNCATIONS = ("time", "value")
MEDIAN_BLOCK = 1024  # images sorted at once: up to 1,000 losses each stay near the processor


@dataclass(frozen=True)
class Window:
    """One choice; refuses bad values when built. `keep_from`/`keep_until` belong to "time", `keep_share` in (0, 1] to "value"."""

    statistic: str = "mean"
    truncate_by: str = "time"
    keep_from: int | None = None
    keep_until: int | None = None
    keep_share: float | None = None

    def __post_init__(self):
        if self.statistic not in STATISTICS:
            raise RequestError(f"statistic is {str(self.statistic)[:40]!r}. Expected one of {', '.join(STATISTICS)}.")
        if self.truncate_by not in TRUNCATIONS:
            raise RequestError(f"truncate_by is {str(self.truncate_by)[:40]!r}. Expected time or value.")
        if self.truncate_by == "value" and not (self.keep_share is not None and 0 < self.keep_share <= 1):
            raise RequestError(f"keep_share is {self.keep_share}. Expected a share above 0 and at most 1.")
        if self.truncate_by == "time" and (self.keep_from is None or self.keep_until is None or self.keep_from > self.keep_until):
            raise RequestError(f"The window keeps t = {self.keep_from} to {self.keep_until}. Expected two timesteps, the smaller first.")

    def settings(self):
        """The settings that matter, as a plain dict."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def kept_rows(table, window):
    """(lo, hi): the half-open range of scored rows (time) or sorted ranks (value) that the window keeps.

    Raises: WindowError: none is left.
    """
    m = len(table.scored_index)
    if window.truncate_by == "value":
        return (0, max(1, math.floor(window.keep_share * m + 1e-9))) if m else _empty(window)
    t = table.scored_timesteps
    lo, hi = int(np.searchsorted(t, window.keep_from, "left")), int(np.searchsorted(t, window.keep_until, "right"))
    return (lo, hi) if hi > lo else _empty(window)


def _empty(window):
    raise WindowError(f"The window {window.settings()} keeps none of the measured timesteps. Widen it.")


def reduce(table, window, images=slice(None)):
    """The statistic per image.

    Args: table: audit.tables.Table with a timestep axis; window: Window; images: optional index into the N images.
    Returns: float64 (N,), in the table's unit.
    Raises: WindowError.
    """
    lo, hi = kept_rows(table, window)
    by_value = window.truncate_by == "value"
    if window.statistic in ("sum", "mean"):
        prefix, centre = (table.sorted_prefix, table.centres[1]) if by_value else (table.prefix, table.centres[0])
        with np.errstate(invalid="ignore"):  # an image with an infinite loss becomes NaN: not measured, dropped by the caller
            total = (prefix[hi][images] - prefix[lo][images]).astype(np.float64) + centre[lo:hi].sum()
        return total if window.statistic == "sum" else total / (hi - lo)
    if by_value:
        ordered = table.sorted_values
        if window.statistic == "median":
            return (ordered[lo + (hi - lo - 1) // 2][images].astype(np.float64) + ordered[lo + (hi - lo) // 2][images]) / 2
        return ordered[lo if window.statistic == "min" else hi - 1][images].astype(np.float64)
    rows = table.scored_index[lo:hi]
    values = table.values[rows[0] : rows[-1] + 1] if rows[-1] - rows[0] + 1 == len(rows) else table.values[rows]
    if window.statistic == "median":
        return _median(np.asarray(values), np.arange(table.images)[images]).astype(np.float64)
    return getattr(np, window.statistic)(np.asarray(values), axis=0)[images].astype(np.float64)  # along whole rows: sooner than picking half of each


def _median(values, images):
    """`np.median(values[:, images], axis=0)` of (m,N) float32 losses, bit for bit; several times faster: each image's losses are sorted as one contiguous row (NumPy
    sorts float32 faster than it selects), on two threads. An image with a NaN among its losses becomes NaN, as there."""
    m, n = len(values), len(images)
    out = np.empty(n, np.float32)

    def block(first):
        part = np.ascontiguousarray(values[:, images[first : first + MEDIAN_BLOCK]].T)
        part.sort(axis=1)
        middle = part[:, m // 2] if m % 2 else np.mean([part[:, m // 2 - 1], part[:, m // 2]], axis=0)
        out[first : first + MEDIAN_BLOCK] = np.where(np.isnan(part[:, -1]), np.nan, middle)  # NaN is sorted last

    starts = range(0, n, MEDIAN_BLOCK)
    if m * n < 1 << 18:
        deque(map(block, starts), maxlen=0)
    else:
        with ThreadPoolExecutor(2) as pool:  # NumPy lets go of the interpreter while it selects
            deque(pool.map(block, starts), maxlen=0)
    return out


def reduce_draw(table, window, draw, images=slice(None)):
    """The statistic per image from one noise draw, float64 (N,); read from the stored draws, for the spread over draws only."""
    lo, hi = kept_rows(table, window)
    rows = table.scored_index
    values = np.asarray(table.per_draw[draw][:, images], dtype=np.float64)[rows]
    values = np.sort(values, axis=0)[lo:hi] if window.truncate_by == "value" else values[lo:hi]
    with np.errstate(invalid="ignore"):
        return getattr(np, window.statistic)(values, axis=0)

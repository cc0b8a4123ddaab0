"""AUC of every window of timesteps: the map on page Truncation. NumPy only.

Every cell is computed on the evaluation half, so the brightest one is the luckiest of all cells and no estimate; the report never uses this map.
"""

from dataclasses import dataclass

import numpy as np

from audit.report import series
from audit.stats.auc import auc_many
from audit.stats.window import Window, reduce

TIMESTEPS = 25  # on each axis: at most 325 windows
MEDIAN_BUDGET = 300_000_000  # losses selected for one map of medians (about 2 s); above, the map gets fewer timesteps
LEAST_TIMESTEPS = 5


@dataclass(frozen=True)
class AucGrid:
    """timesteps: int64 (G,), rising; auc: float64 (G,G), [last kept, first kept], NaN where first > last or a loss is not finite."""

    timesteps: np.ndarray
    auc: np.ndarray

    @property
    def cells(self):
        """How many windows have a number."""
        return int(np.isfinite(self.auc).sum())


def auc_grid(run, table, statistic):
    """AUC of the attacker who keeps the timesteps from `first` to `last` (both included) and summarises them with `statistic`.

    score_i = - statistic over the scored t in [first, last] of loss[i, t]          (higher = more like a member)

    Args: run: audit.report.run.Run; table: a stored table with a timestep axis; statistic: sum, mean, median, min or max.
    Returns: AucGrid over at most 25 evenly spread scored timesteps, computed once per open run.
    Each cell is the AUC that the slider shows at the same window.
    """
    return series.cached(run, ("heat", table, statistic), lambda: _compute(run.tables[table], statistic, series.held_out_index(run), series.held_out_members(run)))


def _compute(table, statistic, index, is_member):
    pick = coarse(len(table.scored_index), len(index), statistic)
    timesteps, size = table.scored_timesteps[pick], len(pick)
    grid = np.full((size, size), np.nan)
    for first in range(size):
        losses = _windows_from(table, statistic, index, pick, first)
        finite = np.flatnonzero(np.isfinite(losses).all(axis=1))
        if len(finite):
            grid[first + finite, first] = auc_many(-losses[finite], is_member)
    return AucGrid(timesteps, grid)


def coarse(count, images, statistic):
    """Positions 0..count-1 of the scored timesteps that the map shows; fewer for medians of a large table."""
    limit = TIMESTEPS
    if statistic == "median":  # G timesteps make G(G+1)/2 windows of count/3 losses on average
        limit = int(np.clip((6 * MEDIAN_BUDGET / (count * images)) ** 0.5, LEAST_TIMESTEPS, TIMESTEPS))
    return series.thinned(count, limit=limit)


def _windows_from(table, statistic, index, pick, first):
    """float64 (G-first, n): the statistic of every window that begins at position `first` of the map."""
    ends = pick[first:]
    if statistic in ("min", "max"):
        return _running(table, np.minimum if statistic == "min" else np.maximum, index, ends)
    timesteps = table.scored_timesteps
    # prefix sums make sum and mean two rows each, and the same numbers as the slider's
    return np.stack([reduce(table, Window(statistic, "time", int(timesteps[ends[0]]), int(timesteps[end])), index) for end in ends])


def _running(table, better, index, ends):
    """Smallest or largest loss from ends[0] to each of `ends`, each stored row read once."""
    rows, out, past = table.scored_index, [], None
    for start, stop in zip([ends[0], *(ends[:-1] + 1)], ends + 1, strict=True):
        part = better.reduce(np.asarray(table.values[rows[start:stop]][:, index]), axis=0)
        past = part if past is None else better(past, part)
        out.append(past.astype(np.float64))
    return np.stack(out)


def clicked(points, timesteps):
    """(first, last) of the window that a click on the map means, or None.

    Args: points: the selected points as the browser sent them, each with `customdata` [first, last]; timesteps: those that a slider offers.
    """
    for point in points:
        data = point.get("customdata") if isinstance(point, dict) else None
        if isinstance(data, dict):  # an array of two may arrive as {"0": first, "1": last}
            data = [data.get("0"), data.get("1")]
        if isinstance(data, list | tuple) and len(data) == 2 and data[0] in timesteps and data[1] in timesteps and data[0] <= data[1]:
            return int(data[0]), int(data[1])
    return None

"""Attacks that reduce one loss table over a window of timesteps: score = - statistic of the losses that truncation keeps.

score_i = - S({ loss[i, t] : t kept })          S in mean, sum, median, min, max
Candidates: windows on a lattice of up to ten equal parts of the measured timesteps (by time), and the smallest 10 ... 90 % of each image's losses
(by value). Where nothing is missing, sum and mean rank alike and are tried once, as mean; so is every statistic of a single timestep.
"""

import math
from dataclasses import dataclass

import numpy as np

from audit.attacks.base import Setting
from audit.errors import NotMeasuredError
from audit.stats.window import STATISTICS, TRUNCATIONS, Window, kept_rows, reduce, reduce_draw

PARTS = 10
SHARES = tuple(round(0.1 * k, 1) for k in range(1, 10))
TRIED = ("mean", "median", "min", "max")

WINDOW_SETTINGS = (
    Setting("statistic", "how the kept losses become one number", choices=STATISTICS),
    Setting("truncate_by", "drop timesteps by their place (time) or losses by their size (value)", choices=TRUNCATIONS),
    Setting("keep_from", "first timestep kept, by time; t = 0 is the least noisy", low=0, high=10**6),
    Setting("keep_until", "last timestep kept, by time", low=0, high=10**6),
    Setting("keep_share", "share of each image's losses kept, smallest first, by value", low=1e-6, high=1.0),
)


@dataclass(frozen=True)
class LowPassed(Window):
    """A window over the losses of the coarse structure: the table NAME_low is read instead of NAME."""

    filter: str = "low-pass"


class WindowedAttack:
    """Base of the attacks on one loss table; a child sets `card`, whose single table is used, or with the setting `filter: low-pass` its NAME_low."""

    card = None

    def _table(self, tables, low=False):
        name = self.card.tables[0] + ("_low" if low else "")
        if name not in tables:
            raise NotMeasuredError(f"needs the table {name}, which was not measured")
        if not len(tables[name].scored_index):
            raise NotMeasuredError(f"the table {name} holds no measured timestep: this model does not allow it")
        return tables[name]

    def steps_read(self, settings, timesteps):
        """Those inside the window; all of them where losses are dropped by value."""
        return [t for t in timesteps if settings.get("keep_from", 0) <= t <= settings.get("keep_until", math.inf)]

    def candidates(self, tables, fixed):
        """Windows that the calibration half chooses from, simplest first; `fixed` narrows them."""
        make = LowPassed if fixed.get("filter") == "low-pass" else Window
        table = self._table(tables, make is LowPassed)
        ways = (
            [fixed["truncate_by"]]
            if "truncate_by" in fixed
            else ["value"]
            if "keep_share" in fixed
            else ["time"]
            if {"keep_from", "keep_until"} & set(fixed)
            else list(TRUNCATIONS)
        )
        statistics = [fixed["statistic"]] if "statistic" in fixed else list(TRIED)
        windows = []
        for way in ways:
            for bounds in _time_windows(table, fixed) if way == "time" else _value_windows(fixed):
                for statistic in statistics:
                    window = make(statistic, way, **bounds)
                    lo, hi = kept_rows(table, window)
                    single = hi - lo == 1 and statistic != statistics[0]
                    if not single and not (way == "value" and statistic == "min" and len(ways) > 1):  # by value, the smallest loss is kept anyway
                        windows.append(window)
        return windows

    def score(self, tables, choice, images=slice(None)):
        """float64 (N,), higher = more likely a member."""
        return -reduce(self._table(tables, isinstance(choice, LowPassed)), choice, images)

    def score_draw(self, tables, choice, draw, images=slice(None)):
        """float64 (N,), from noise draw number `draw` alone."""
        return -reduce_draw(self._table(tables, isinstance(choice, LowPassed)), choice, draw, images)

    def calls_at_setting(self, tables, choice):
        """Network calls per image for the kept timesteps; truncation by value needs them all."""
        table = self._table(tables, isinstance(choice, LowPassed))
        lo, hi = kept_rows(table, choice)
        return (hi - lo if choice.truncate_by == "time" else len(table.scored_index)) * table.draws

    def calls_per_image(self, tables):
        """Network calls per image as run: every measured timestep, every draw."""
        table = self._table(tables)
        return int(table.measured.sum()) * table.draws


def _time_windows(table, fixed):
    t = table.scored_timesteps
    edges = np.unique(np.round(np.linspace(0, len(t), min(PARTS, len(t)) + 1)).astype(int))
    firsts = [fixed["keep_from"]] if "keep_from" in fixed else [int(t[e]) for e in edges[:-1]]
    lasts = [fixed["keep_until"]] if "keep_until" in fixed else [int(t[e - 1]) for e in edges[:0:-1]]
    return [{"keep_from": a, "keep_until": b} for a in firsts for b in lasts if a <= b]


def _value_windows(fixed):
    shares = [fixed["keep_share"]] if "keep_share" in fixed else list(SHARES[::-1])
    return [{"keep_share": share} for share in shares]

"""Attacks that read their tables at one timestep, or as the source averages them: score = f(tables at t), HIGHER = MORE LIKELY A MEMBER.

A child writes one formula, `value`, over a Reader; which draws stand behind a number is the Reader's business.
"""

from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from audit.attacks.base import Setting
from audit.errors import NotMeasuredError

FILTER = Setting(
    "filter",
    "low-pass: before the distance, coarse frequencies are kept and all others count a fifth (FreMIA, arXiv:2505.20955); measured only when set, at no model call; "
    "nothing changes for pictures of 10 pixels a side or fewer",
    default="none",
    choices=("none", "low-pass"),
)
AT = Setting("t", "the timestep: the measured one nearest to it", low=0, high=10**6)


@dataclass(frozen=True)
class At:
    """One choice: timestep t, 0-based. A child adds its own settings as fields."""

    t: int

    def settings(self):
        """All settings as a plain dict."""
        return asdict(self)


@dataclass(frozen=True)
class Filtered(At):
    """filter: "none", or "low-pass": the table NAME_low is read instead of NAME."""

    filter: str = "none"


@dataclass(frozen=True)
class Reader:
    """Columns of the stored tables, from all noise draws or from one. draw: None = all."""

    tables: dict
    draw: int | None = None

    def draws(self, name, t):
        """float64 (S,N): each draw of a table at timestep t; one row where a single draw was asked for."""
        table = self.tables[name]
        column = int(np.searchsorted(table.timesteps, t))
        kept = slice(None) if self.draw is None else [self.draw % table.draws]
        return np.asarray(table.per_draw[kept, column], dtype=np.float64)

    def mean(self, name, t):
        """float64 (N,): mean over the draws."""
        if self.draw is not None:
            return self.draws(name, t)[0]
        table = self.tables[name]
        return np.asarray(table.values[int(np.searchsorted(table.timesteps, t))], dtype=np.float64)


class SteppedAttack:
    """Base of these attacks; a child sets `card`, and where it has settings beside t, `choice` and `tried`."""

    card = None
    choice = At
    tried: dict = {}  # setting name -> values that the calibration half chooses from

    def value(self, read, choice):
        """The score, float64 (N,). Args: read: Reader; choice: an instance of self.choice."""
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def filtered(self, tables, name, choice):
        """The name of the table that a choice reads: with its low-pass filter NAME_low. Raises NotMeasuredError: it was not measured."""
        read = name if choice.filter == "none" else f"{name}_low"
        if read not in tables:
            raise NotMeasuredError(f"needs the table {read}, which was not measured")
        return read

    def table(self, tables):
        """The table whose timesteps and draws are counted; all of this attack's come from one probe."""
        for name in self.card.tables:
            if name not in tables:
                raise NotMeasuredError(f"needs the table {name}, which was not measured")
            if not len(tables[name].scored_index):
                raise NotMeasuredError(f"the table {name} holds no measured timestep: this model does not allow it")
        return tables[self.card.tables[0]]

    def timesteps(self, tables):
        """Timesteps that may be chosen."""
        return [int(t) for t in self.table(tables).scored_timesteps]

    def candidates(self, tables, fixed):
        """Every timestep with every value of the other settings, in the order of the card; `fixed` narrows them."""
        steps = self.timesteps(tables)
        if "t" in fixed:
            steps = [min(steps, key=lambda t: abs(t - fixed["t"]))]
        values = [[fixed[name]] if name in fixed else list(tried) for name, tried in self.tried.items()]
        return [self.choice(t, *rest) for t, *rest in product(steps, *values)]

    def score(self, tables, choice, images=slice(None)):
        """float64 (N,), higher = more likely a member."""
        self.table(tables)
        return self.value(Reader(tables), choice)[images]

    def score_draw(self, tables, choice, draw, images=slice(None)):
        """float64 (N,), from noise draw number `draw` alone; tables without noise have one, and give the same every time."""
        return self.value(Reader(tables, draw), choice)[images]

    def calls_at_setting(self, tables, choice):
        """Network calls per image that this choice alone needs: one per draw at its timestep."""
        return self.table(tables).draws

    def calls_per_image(self, tables):
        """Network calls per image as run: every measured timestep, every draw."""
        table = self.table(tables)
        return int(table.measured.sum()) * table.draws

"""Gray-box: how well the model retraces its own deterministic path (step-wise error comparison)."""

from dataclasses import dataclass

from audit.attacks.base import Card, Setting
from audit.attacks.stepped import AT, FILTER, Filtered, SteppedAttack
from audit.errors import AttackError

LOOPS = ("paper", "released")


@dataclass(frozen=True)
class Loop(Filtered):
    """t: t_sec; loop: "paper" ends there, "released" one step before it."""

    loop: str = "paper"


class SecMI(SteppedAttack):
    """score = - secmi_l2[i, t], or at the step before t with the released loop."""

    card = Card(
        name="secmi",
        short="SecMI",
        title="Step-wise error (SecMI)",
        threat_model="gray-box",
        equation="minus the squared distance between the image inverted by DDIM to t and the same after one step up and one step back",
        source="arXiv:2302.01316 (Duan et al.), SecMI with its statistic, t = T/10 in steps of T/100",
        differs="t is chosen on the calibration half among all steps of the path, which the same 12 calls pay for; the released loop ends one step short (setting loop)",
        settings=(AT, Setting("loop", "paper: the path ends at t; released: one step before it, as the released code does", default="paper", choices=LOOPS), FILTER),
        probes=("secmi",),
        tables=("secmi_l2",),
        weaknesses=("an easy image is retraced well by any model", "loses to data augmentation (AUC 0.96 without flips, 0.88 with, in its own paper)"),
    )
    choice = Loop
    tried = {"filter": ("none",), "loop": ("paper",)}  # the other loop is the same table, one column on

    def steps_read(self, settings, timesteps):
        """t, and with the released loop the step before it."""
        return [t for t in sorted(timesteps) if t <= settings["t"]][-1 if settings["loop"] == "paper" else -2 :]

    def candidates(self, tables, fixed):
        """As the base; a loop that would end before the first step is left out."""
        found = [c for c in super().candidates(tables, fixed) if c.loop == "paper" or self._column_before(tables, c.t) is not None]
        if not found:
            raise AttackError("the released loop ends one step before t, and no such step was measured: choose a larger t")
        return found

    def _column_before(self, tables, t):
        return max((step for step in self.timesteps(tables) if step < t), default=None)

    def value(self, read, choice):
        """See the class."""
        return -read.mean(self.filtered(read.tables, "secmi_l2", choice), choice.t if choice.loop == "paper" else self._column_before(read.tables, choice.t))

    def calls_at_setting(self, tables, choice):
        """The inversion from 0, one step up and one back: 12 at the tenth step, 11 with the released loop."""
        return self.timesteps(tables).index(choice.t) + (3 if choice.loop == "paper" else 2)

    def calls_per_image(self, tables):
        """The whole path."""
        return len(self.timesteps(tables)) + 2

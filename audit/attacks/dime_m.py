"""Gray-box: DIME with the weights that theory gives, nothing to fit."""

from dataclasses import dataclass, replace

from audit.attacks.dime import DIME, DIRECTIONS, signals, steps_of
from audit.attacks.stepped import AT, At


@dataclass(frozen=True)
class Directions(At):
    """directions: q."""

    directions: int


class DIMEM(DIME):
    """score = - (B^2 - D) at t, with B = mean dime_bias and D = mean dime_spread, which hold sigma_t and sigma_t^3 already."""

    card = replace(
        DIME.card,
        name="dime_m",
        short="DIME-M",
        title="Weight-free DIME",
        equation="minus (sigma_t^2 B^2 - sigma_t^3 D), the expected squared distance from the image to the training image that the model has in mind there",
        source="arXiv:2608.22824 (Do & Alabi), the statistic M with gamma = 0.2 and 10 directions",
        differs="the sign is the theory's, where the released code lets the calibration AUC choose it; the directions are the same for all images",
        settings=(AT, DIRECTIONS),
        weaknesses=("where the model is far from its training optimum the theory's weights are not the best ones", "the divergence is a noisy estimate with few directions"),
    )
    choice = Directions

    def candidates(self, tables, fixed):
        """Every timestep, all directions unless fewer are asked for."""
        measured = self.table(tables).draws
        return [Directions(at.t, min(int(fixed.get("directions", measured)), measured)) for at in steps_of(self, tables, fixed)]

    def value(self, read, choice):
        """See the class."""
        bias, spread = signals(read, choice)
        return spread - bias**2

"""Gray-box: is the image where the model points (bias), and is it alone there (crowding)? Two signals from the same few queries."""

import math
from dataclasses import dataclass

import numpy as np

from audit.attacks.base import Card, Setting
from audit.attacks.stepped import AT, At, SteppedAttack

ANGLES = tuple(round(float(a), 6) for a in np.linspace(0, math.pi / 2, 16))
DIRECTIONS = Setting("directions", "how many of the measured directions are used", low=1, high=1000)


@dataclass(frozen=True)
class Mix(At):
    """directions: q; angle: of the mix, 0 = bias alone, pi/2 = crowding alone."""

    directions: int
    angle: float


class DIME(SteppedAttack):
    """score = - cos(angle) z(B^2) + sin(angle) z(D), B = mean dime_bias, D = mean dime_spread at t, z over all images."""

    card = Card(
        name="dime",
        short="DIME",
        title="Bias and crowding (DIME)",
        threat_model="gray-box",
        equation="minus cos(angle) z(B^2) plus sin(angle) z(D): B the mean size of the predicted noise around the image, D its divergence there, z = standardised over all images",
        source="arXiv:2608.22824 (Do & Alabi), DIME with gamma = 0.2 and 10 directions",
        differs="z uses mean and sd of all query images, no labels, where the source takes those of its calibration images; angles from 0 to pi/2, so the sign is the theory's; "
        "the directions are the same for all images",
        settings=(AT, DIRECTIONS, Setting("angle", "of the mix: 0 = bias alone, pi/2 = crowding alone", low=0.0, high=math.pi / 2)),
        probes=("dime",),
        tables=("dime_bias", "dime_spread"),
        weaknesses=("the best angle depends on the model and needs known members to be found; dime_m needs none", "the divergence is a noisy estimate with few directions"),
    )
    choice = Mix

    def candidates(self, tables, fixed):
        """Every timestep with every angle, all directions unless fewer are asked for."""
        measured = self.table(tables).draws
        used = min(int(fixed.get("directions", measured)), measured)
        angles = [fixed["angle"]] if "angle" in fixed else ANGLES
        return [self.choice(at.t, used, angle) for at in steps_of(self, tables, fixed) for angle in angles]

    def value(self, read, choice):
        """See the class."""
        bias, spread = signals(read, choice)
        return -math.cos(choice.angle) * standardised(bias**2) + math.sin(choice.angle) * standardised(spread)

    def calls_at_setting(self, tables, choice):
        """The base query and one per direction."""
        return choice.directions + 1

    def calls_per_image(self, tables):
        """That at every timestep, all directions."""
        table = self.table(tables)
        return int(table.measured.sum()) * (table.draws + 1)


def steps_of(attack, tables, fixed):
    """At(t) of every timestep, or of the one nearest to a fixed t."""
    steps = attack.timesteps(tables)
    return [At(min(steps, key=lambda t: abs(t - fixed["t"])))] if "t" in fixed else [At(t) for t in steps]


def signals(read, choice):
    """(mean dime_bias, mean dime_spread), each float64 (N,), over the chosen number of directions."""
    return tuple(read.draws(name, choice.t)[: choice.directions].mean(axis=0) for name in ("dime_bias", "dime_spread"))


def standardised(values):
    """(values - mean) / sd over the images with finite values; 0 where all are equal."""
    finite = values[np.isfinite(values)]
    spread = finite.std() if len(finite) else 0.0
    return (values - finite.mean()) / spread if spread > 0 else values * 0.0

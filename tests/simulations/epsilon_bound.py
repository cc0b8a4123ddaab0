"""The lower bound on ε: above 0 without a leak, or above a true ε, in at most 5 % of audits?

The true ε comes from randomised response: each image's score says on which side its coin fell, and says the truth with probability e^ε/(1+e^ε). That mechanism is
(ε, 0)-private, and no attack can know more.

    python tests/simulations/epsilon_bound.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from audit.stats.epsilon import DELTA, epsilon_lower_bound
from audit.stats.split import half_split
from tests.simulations.common import equal_spread, main, share

RUNS = 1000
SIZES = ((100, 100), (120, 100), (500, 500), (1000, 1000))
LEAKS = [(0.6, 500), (0.75, 100), (0.75, 500), (0.9, 100), (0.9, 500), (0.99, 500)]


def bound(scores, is_member, seed, delta=DELTA):
    """ε of one audit: guesses fixed on the calibration half, counted on the other."""
    first = half_split(is_member, seed)
    return epsilon_lower_bound(scores[first], is_member[first], scores[~first], is_member[~first], delta, seed).value


def response(rng, n, epsilon):
    """(scores, is_member) of n fair coins told by randomised response, with a little noise between equal answers."""
    is_member = rng.random(n) < 0.5
    honest = rng.random(n) < 1 / (1 + np.exp(-epsilon))
    return np.where(honest, is_member, ~is_member) + rng.normal(0, 0.1, n), is_member


def rows(runs=RUNS, sizes=SIZES, true=(1.0, 2.0), leaks=LEAKS):
    """False bounds, then the mean bound per leak."""
    for m, n in sizes:
        rng = np.random.default_rng([m, n])
        hits = sum(bound(*equal_spread(0.5).draw(rng, m, n), seed) > 0 for seed in range(runs))
        yield share(f"no leak, {m} and {n}: above 0", hits, runs, most=0.05)
    for epsilon in true:
        for n in (200, 1000):
            rng = np.random.default_rng([n, round(epsilon)])
            found = np.array([bound(*response(rng, n, epsilon), seed, 0.0) for seed in range(runs)])
            yield share(f"true epsilon {epsilon:g}, {n} images: bound above it", (found > epsilon).sum(), runs, most=0.05, note=f"bound averages {found.mean():.2f}")
    for auc, n in leaks:
        rng = np.random.default_rng([n, round(100 * auc)])
        found = np.array([bound(*equal_spread(auc).draw(rng, n, n), seed) for seed in range(runs)])
        yield share(f"AUC {auc}, {n} a side: above 0", (found > 0).sum(), runs, note=f"bound averages {found.mean():.2f}")


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

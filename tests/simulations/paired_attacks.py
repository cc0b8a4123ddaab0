"""Two attacks on the same images: does the 95 % interval of the difference of their AUCs hold the true one in at least 93 % of audits, and is no difference found where
there is none?

    python tests/simulations/paired_attacks.py [--runs N]
"""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from audit.stats.auc import Z95
from audit.stats.paired import Difference, paired_difference
from tests.simulations.common import LEAST_COVER, main, share

RUNS = 1000
PAIRS = [(0.5, 0.5), (0.6, 0.6), (0.9, 0.9), (0.99, 0.99), (0.95, 0.9), (0.995, 0.99), (0.99, 0.95), (0.999, 0.97)]
SIZES = (25, 100, 225)
SHAPES = [(0.0, 1.0), (0.8, 1.0), (0.8, 2.0)]  # correlation of the two scores; spread of the members


def drawn(rng, n, first, second, correlation, spread):
    """(scores, others, is_member): normal scores with those AUCs, n images a side."""
    z = rng.normal(size=(2, 2 * n))
    z[1] = correlation * z[0] + math.sqrt(1 - correlation**2) * z[1]
    z[:, :n] *= spread
    z[:, :n] += math.sqrt(1 + spread**2) * ndtri([[first], [second]])
    return z[0], z[1], np.arange(2 * n) < n


def plain(found):
    """The Difference without limits that move out."""
    error = abs(found.value) / norm.isf(found.p_value / 2) if 0 < found.p_value < 1 else 0.0
    return Difference(found.value, found.value - Z95 * error, found.value + Z95 * error, found.p_value)


def rows(runs=RUNS, limits=lambda found: found):
    """One Row per cell for the cover, with that of the plain limits beside it, and one for the false alarms where both attacks are equally good. limits(Difference)."""
    for first, second in PAIRS:
        for n in SIZES:
            for correlation, spread in SHAPES:
                rng, inside, found, narrow = np.random.default_rng([n, round(1e4 * first), round(1e4 * second)]), 0, 0, 0
                for _ in range(runs):
                    d = paired_difference(*drawn(rng, n, first, second, correlation, spread))
                    alone, d = plain(d), limits(d)
                    inside, found = inside + (d.low <= second - first <= d.high), found + (d.p_value <= 0.05)
                    narrow += alone.low - 1e-12 <= second - first <= alone.high + 1e-12
                what = f"AUC {first} and {second}, {n} a side, correlation {correlation}, spread {spread:g}"
                yield share(f"{what}: cover", inside, runs, LEAST_COVER, note=f"plain limits {narrow / runs:.1%}")
                if first == second:
                    yield share(f"{what}: p <= 0.05", found, runs, most=0.065)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

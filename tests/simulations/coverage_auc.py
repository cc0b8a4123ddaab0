"""Does the 95 % interval of the AUC hold the true AUC in at least 93 % of audits, whatever the scores look like?

And in at most 97 % where that can be asked: equal sides of 50 or more, AUC 0.5 to 0.9, no ties, at least five misordered images to be expected.

    python tests/simulations/coverage_auc.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from audit.stats.auc import auc_interval
from tests.simulations.common import LEAST_COVER, equal_spread, few_exposed, five_levels, heavy_tails, main, share, twice_spread

RUNS = 4000
EQUAL = [(n, n) for n in (25, 50, 200, 1000)]
UNEQUAL = [(25, 200), (50, 1000), (1000, 50)]
GRID = [
    *((equal_spread(a), EQUAL) for a in (0.5, 0.6, 0.75, 0.9, 0.95, 0.99)),
    *((twice_spread(a), EQUAL) for a in (0.5, 0.6, 0.9, 0.95, 0.99)),
    *((heavy_tails(a), EQUAL) for a in (0.5, 0.6, 0.9)),
    *((five_levels(a), EQUAL) for a in (0.5, 0.6, 0.9)),
    (few_exposed(0.05, 5), EQUAL),
    *((make(a), UNEQUAL) for make in (equal_spread, twice_spread) for a in (0.5, 0.6, 0.9, 0.99)),
]


def cell(model, m, n, runs, interval=auc_interval):
    """The Row of one score model and size."""
    rng = np.random.default_rng([m, n, round(1e4 * model.auc)])
    inside, width = 0, 0.0
    for _ in range(runs):
        found = interval(*model.draw(rng, m, n))
        inside += found.low <= model.auc <= found.high
        width += (found.high - found.low) / runs
    ceiling = m == n and n >= 50 and model.continuous and 0.5 <= model.auc <= 0.9 and n * (1 - model.auc) >= 5
    return share(f"{model.name}, AUC {model.auc:.3f}, {m} and {n}", inside, runs, LEAST_COVER, 0.97 if ceiling else None, f"mean width {width:.3f}")


def rows(runs=RUNS, grid=GRID, interval=auc_interval):
    """One Row per cell of the grid."""
    for model, sizes in grid:
        for m, n in sizes:
            yield cell(model, m, n, runs, interval)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

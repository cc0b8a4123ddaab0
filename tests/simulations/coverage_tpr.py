"""Do the 95 % bounds of the TPR at 10, 1 and 0.1 % FPR hold the true TPR in at least 93 % of audits?

They are discrete, so they cover up to 100 %. The printed value is shown beside it: it is optimistic where few non-members lie above the threshold.

    python tests/simulations/coverage_tpr.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from audit.stats.tpr import tpr_at_fpr
from tests.simulations.common import LEAST_COVER, equal_spread, few_exposed, main, share, twice_spread

RUNS = 2000
GRID = [
    *((equal_spread(0.5), 0.1, (n, n)) for n in (50, 200, 1000)),
    *((equal_spread(0.5), 0.01, (n, n)) for n in (100, 500, 5000)),
    *((equal_spread(0.9), 0.1, (n, n)) for n in (50, 200, 1000)),
    *((equal_spread(0.9), 0.01, (n, n)) for n in (100, 500, 1000, 5000)),
    *((equal_spread(0.9), 0.001, (n, n)) for n in (1000, 5000)),
    *((equal_spread(0.6), 0.01, (n, n)) for n in (100, 500, 1000)),
    *((few_exposed(0.05, 5), 0.01, (n, n)) for n in (100, 500, 1000)),
    *((twice_spread(0.6), 0.01, (n, n)) for n in (500, 1000)),
    (twice_spread(0.6), 0.001, (1000, 1000)),
    *((model, 0.01, (200, 1000)) for model in (equal_spread(0.6), few_exposed(0.05, 5), twice_spread(0.6))),
]


def bounds(scores, is_member, fpr):
    """(low, value, high) of the TPR."""
    found = tpr_at_fpr(scores, is_member, fpr)
    return found.low, found.tpr, found.high


def cell(model, fpr, m, n, runs, method=bounds):
    """The Row of one score model, FPR and size."""
    rng, true = np.random.default_rng([m, n, round(1e4 * model.auc), round(1e4 * fpr)]), model.tpr(fpr)
    found = np.array([method(*model.draw(rng, m, n), fpr) for _ in range(runs)], dtype=float)
    inside = int(((found[:, 0] <= true) & (true <= found[:, 2])).sum())
    note = f"true {true:.4f}, value averages {found[:, 1].mean():.4f}, mean width {(found[:, 2] - found[:, 0]).mean():.3f}"
    return share(f"{model.name}, AUC {model.auc:.3f}, FPR {fpr:.1%}, {m} and {n}", inside, runs, LEAST_COVER, None, note)


def rows(runs=RUNS, grid=GRID, method=bounds):
    """One Row per cell of the grid."""
    for model, fpr, (m, n) in grid:
        yield cell(model, fpr, m, n, runs, method)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

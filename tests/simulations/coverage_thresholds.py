"""Thresholds set on calibration non-members: do the exact intervals of TPR and achieved FPR hold, and is the FPR on average at most the target?

python tests/simulations/coverage_thresholds.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtr, ndtri

from audit.stats.threshold import at_thresholds
from tests.simulations.common import LEAST_COVER, Row, equal_spread, main, share

RUNS = 2000
SIZES = (100, 400, 1000)
AUCS = (0.5, 0.75, 0.95)
FPRS = (0.1, 0.01)


def rows(runs=RUNS, sizes=SIZES, aucs=AUCS):
    """Per size and AUC: cover of the two intervals, the mean true FPR of the threshold, and how often the guaranteed one keeps its word."""
    for n in sizes:
        for auc in aucs:
            yield from _cell(n, auc, runs)


def _cell(n, auc, runs):
    model, rng = equal_spread(auc), np.random.default_rng([n, round(100 * auc)])
    mu = 2**0.5 * float(ndtri(auc))
    covered, false = {f: [0, 0] for f in FPRS}, {f: [] for f in FPRS}
    kept, tried = 0, 0
    for _ in range(runs):
        before, after = model.draw(rng, n, n), model.draw(rng, n, n)
        for point in at_thresholds(*before, *after, FPRS):
            if point.threshold is None:
                continue
            true_tpr, true_fpr = 1 - ndtr(point.threshold - mu), 1 - ndtr(point.threshold)
            covered[point.fpr][0] += point.tpr_low <= true_tpr <= point.tpr_high
            covered[point.fpr][1] += point.fpr_low <= true_fpr <= point.fpr_high
            false[point.fpr].append(true_fpr)
        (strict,) = at_thresholds(*before, *after, (0.1,), guaranteed=True)
        tried += 1
        kept += 1 - ndtr(strict.threshold) <= 0.1
    for fpr in FPRS:
        if false[fpr]:
            where, mean = f"AUC {auc}, FPR {fpr:.0%}, {n} and {n} a half", float(np.mean(false[fpr]))
            yield share(f"TPR interval, {where}", covered[fpr][0], runs, LEAST_COVER)
            yield share(f"achieved FPR interval, {where}", covered[fpr][1], runs, LEAST_COVER)
            yield Row(f"mean true FPR, {where}", mean, None, fpr, (0, 3 * float(np.std(false[fpr])) / len(false[fpr]) ** 0.5))
    yield share(f"guaranteed threshold keeps 10 %, AUC {auc}, {n} a half", kept, tried, 0.95)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

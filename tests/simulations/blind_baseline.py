"""The blind baseline: does it say "the sets differ" in at most 5 % of audits of equal sets, and what difference does it see?

DeLong's test on the same out-of-fold scores is shown beside it: it is the usual one, and cries too often.

    python tests/simulations/blind_baseline.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtri

from audit.stats.auc import auc_interval
from audit.stats.blind import blind_baseline
from tests.simulations.common import Row, main, share, uniform

RUNS = 200
FEATURES, SCALARS, DRAWS = 40, 10, 999
POWER = [(how, auc, n) for how in ("six features", "one named feature") for auc, n in ((0.6, 100), (0.6, 250), (0.6, 500), (0.7, 250))]


def audit(seed, n, how="none", auc=0.5):
    """(Blind, is_member) of n images a side; the shift has the given oracle AUC."""
    rng, is_member = np.random.default_rng([seed, n, 3]), np.arange(2 * n) < n
    where = np.zeros(FEATURES)
    where[slice(SCALARS, SCALARS + 6) if how == "six features" else 0] = 1
    values = rng.normal(size=(2 * n, FEATURES)) + np.sqrt(2) * ndtri(auc) * where / np.linalg.norm(where) * is_member[:, None]
    return blind_baseline(values, [f"feature {i}" for i in range(FEATURES)], np.arange(FEATURES) < SCALARS, is_member, seed, DRAWS), is_member


def rows(runs=RUNS, sizes=(25, 100, 400), power=POWER):
    """False alarms and the mean blind AUC of equal sets, then the share of shifts seen."""
    for n in sizes:
        made = [audit(seed, n) for seed in range(runs)]
        yield from uniform(f"equal sets, {n} a side, ridge", [b.p_ridge for b, _ in made])
        yield from uniform(f"equal sets, {n} a side, named features", [b.p_scalar for b, _ in made])
        yield share(f"equal sets, {n} a side: p <= 0.05", sum(b.p_value <= 0.05 for b, _ in made), runs, most=0.05)
        auc = np.array([b.auc.value for b, _ in made])
        slack = 3 * float(auc.std(ddof=1)) / runs**0.5
        yield Row(
            f"equal sets, {n} a side: mean blind AUC", float(auc.mean()), None, 0.5, (0, slack), f"sd {auc.std(ddof=1):.3f}, permutation sd {np.mean([b.sd for b, _ in made]):.3f}"
        )
        yield share(
            f"equal sets, {n} a side: DeLong interval wholly above or below 0.5", sum(not i.low <= 0.5 <= i.high for i in (auc_interval(b.scores, m) for b, m in made)), runs
        )
    for how, auc, n in power:
        made = [audit(seed, n, how, auc)[0] for seed in range(runs)]
        yield share(
            f"seen: {how}, oracle AUC {auc}, {n} a side", sum(b.p_value <= 0.05 for b in made), runs, note=f"detectable AUC {np.mean([b.detectable_auc for b in made]):.3f}"
        )


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

"""The set-level test: uniform p without a leak, and what it finds.

python tests/simulations/set_level_test.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtri

from audit.stats.set_level import set_level
from audit.stats.split import half_split
from tests.simulations.common import main, share, uniform
from tests.simulations.permutation_size import correlated

RUNS = 500
ATTACKS = 6


def p_values(runs, n, auc=0.5, skewed=False):
    """p of `runs` audits with n evaluation images a side; every attack leaks with the given AUC. skewed: scores like losses, exp of a normal, negated."""
    rng, found, is_member = np.random.default_rng([n, round(100 * auc), skewed]), [], np.arange(4 * n) < 2 * n
    for seed in range(runs):
        scores = correlated(rng, 2 * n, ATTACKS) + np.sqrt(2) * ndtri(auc) * is_member
        scores = -np.exp(-scores) if skewed else scores
        found.append(set_level({str(k): row for k, row in enumerate(scores)}, is_member, half_split(is_member, seed), seed).p_value)
    return np.array(found)


def rows(runs=RUNS, sizes=(50, 200), power=((0.55, 50), (0.55, 200), (0.6, 50))):
    """Uniformity per size, then the share found."""
    for n in sizes:
        yield from uniform(f"no leak, {n} evaluated a side", p_values(runs, n))
    yield from uniform("no leak, skewed scores, 50 evaluated a side", p_values(runs, 50, skewed=True))
    for auc, n in power:
        yield share(f"found: AUC {auc} in every attack, {n} evaluated a side", (p_values(runs, n, auc) <= 0.05).sum(), runs)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

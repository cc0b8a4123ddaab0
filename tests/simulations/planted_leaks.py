"""Is a leak of the size that a report promises to see found in four audits of five, and a planted one in 999 of 1,000?

python tests/simulations/planted_leaks.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtri

from audit.stats.permutation import permutation_test, standardised_ranks
from audit.stats.power import CRITICAL_Z_ONE_TEST, POWER, minimum_detectable_auc, minimum_detectable_share, planted_auc
from tests.simulations import audits
from tests.simulations.common import main, share
from tests.simulations.permutation_size import DRAWS, correlated

RUNS = 1000
PILOT = 20  # null audits whose mean c stands for the run's own


def one_test(n, runs, spread=1.0, m=None):
    """Hits of the rank test alone at its smallest visible AUC; n non-members, m members (None = n) `spread` times as spread."""
    m = m or n
    rng = np.random.default_rng([n, round(spread), m])
    auc = minimum_detectable_auc(m, n, CRITICAL_Z_ONE_TEST)
    mu, is_member, hits = np.sqrt(1 + spread**2) * ndtri(auc), np.arange(m + n) < m, 0
    for _ in range(runs):
        scores = np.concatenate([rng.normal(mu, spread, m), rng.normal(size=n)])
        hits += standardised_ranks(scores, is_member)[is_member, 0].sum() > CRITICAL_Z_ONE_TEST
    return hits, auc


def critical(n, seed=0):
    """c of the test over ten correlated attacks, mean of PILOT null audits."""
    rng, is_member = np.random.default_rng([n, 11]), np.arange(2 * n) < n
    return float(np.mean([permutation_test({str(k): r for k, r in enumerate(correlated(rng, n))}, is_member, seed + i, DRAWS).critical_z for i in range(PILOT)]))


def several(n, runs, size):
    """Hits over ten correlated attacks when one of them leaks with AUC size(n, n, c)."""
    rng, is_member, c, hits = np.random.default_rng([n, 12]), np.arange(2 * n) < n, critical(n), 0
    auc = size(n, n, c)
    for seed in range(runs):
        scores = correlated(rng, n)
        scores[0] += np.sqrt(2) * ndtri(auc) * is_member
        hits += permutation_test({str(k): r for k, r in enumerate(scores)}, is_member, seed, DRAWS).p_value <= 0.05
    return hits, auc


def exposed(n, runs):
    """Hits over ten correlated attacks when a share of the members scores above everybody in one of them."""
    rng, is_member, c, hits = np.random.default_rng([n, 13]), np.arange(2 * n) < n, critical(n), 0
    part = minimum_detectable_share(n, n, c)
    for seed in range(runs):
        scores = correlated(rng, n)
        scores[0] += 100 * (is_member & (rng.random(2 * n) < part))
        hits += permutation_test({str(k): r for k, r in enumerate(scores)}, is_member, seed, DRAWS).p_value <= 0.05
    return hits, part


def exposed_audit(seed, n, part):
    """A whole audit in which a share of the members has losses far below everybody's at every timestep."""

    def edit(tables, is_member, rng):
        known = is_member & (rng.random(len(is_member)) < part)
        for values in tables.values():
            values[:, known] *= 0.01

    return audits.drawn(seed, n, n, "manifest", edit)


def whole(n, runs):
    """Hits of whole audits at the share that they promise themselves; c from null audits of the same kind."""
    evaluated = n - n // 2 if n >= 400 else n
    c = float(np.mean([audits.drawn(10_000 + seed, n, n).permutation.critical_z for seed in range(5)]))
    part = minimum_detectable_share(evaluated, evaluated, c)
    return sum(exposed_audit(seed, n, part).decision.kind in ("high", "elevated") for seed in range(runs)), part


def rows(runs=RUNS, sizes=(100, 250), audited=((400, 200), (100, 200)), wide=True):
    """Shares found. audited: (images a side, whole audits); wide: unequal sides and spreads too."""
    for n in sizes:
        hits, auc = one_test(n, runs)
        yield share(f"one test at its smallest visible AUC {auc:.3f}, {n} a side", hits, runs, POWER, 0.84)
        hits, auc = one_test(n, runs, spread=2.0)
        yield share(f"the same, members twice as spread, {n} a side", hits, runs, 0.79, 0.82)
        hits, auc = several(n, runs, minimum_detectable_auc)
        yield share(f"ten attacks at their smallest visible AUC {auc:.3f}, {n} a side", hits, runs, POWER)
        hits, auc = several(n, runs, planted_auc)
        yield share(f"ten attacks, planted control at AUC {auc:.3f}, {n} a side", hits, runs, 0.999)
        hits, part = exposed(n, runs)
        yield share(f"ten attacks, smallest visible share {part:.2%} fully exposed, {n} a side", hits, runs, POWER)
    if wide:
        hits, auc = one_test(400, runs, 2.0, 100)
        yield share(f"one test at AUC {auc:.3f}, 100 members twice as spread, 400 non-members", hits, runs, 0.74, 0.77, note="the promise is too high here")
    for n, count in audited:
        hits, part = whole(n, count)
        yield share(f"whole audits, smallest visible share {part:.2%}, {n} a side", hits, count, POWER)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

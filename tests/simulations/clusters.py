"""Near duplicates in pairs: are the tests right when every image has a twin that scores almost alike?

The permutation test and the blind baseline permute whole groups; the AUC's interval and the set-level test add up whole groups. What would happen without that is printed
beside it.

    python tests/simulations/clusters.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from audit.measured import Features
from audit.stats.auc import auc_interval
from audit.stats.blind import blind_baseline
from audit.stats.permutation import permutation_test
from tests.simulations import audits
from tests.simulations.common import LEAST_COVER, main, share, uniform
from tests.simulations.permutation_size import correlated

RUNS = 500
DRAWS, NOISE = 999, 0.1


def pairs(rng, n):
    """({attack: (2n,)}, is_member, clusters): n images a side in pairs whose scores differ by a tenth of a standard deviation."""
    whole = np.repeat(correlated(rng, n // 2, 4), 2, axis=1)
    return {str(k): row for k, row in enumerate(whole + NOISE * rng.normal(size=whole.shape))}, np.arange(2 * n) < n, np.arange(2 * n) // 2


def audit(seed, n):
    """A whole audit of pairs: equal losses but for a tenth of their spread, equal features."""
    clusters = np.arange(2 * n) // 2

    def edit(tables, is_member, rng):
        for values in tables.values():
            values[:, 1::2] = values[:, ::2] * np.exp(0.03 * rng.normal(size=values[:, ::2].shape))

    features = audits.noise_features(np.random.default_rng([seed, 5]), n).values
    twice = Features(tuple(f"feature {i}" for i in range(audits.FEATURES)), np.arange(audits.FEATURES) < audits.SCALARS, np.repeat(features, 2, axis=0))
    return audits.drawn(seed, n, n, "manifest", edit, clusters, twice)


def rows(runs=RUNS, n=100, whole=((100, 200), (400, 200))):
    """The tests on pairs. whole: (images a side, whole audits)."""
    rng, grouped, alone, blind, covered, narrow = np.random.default_rng(n), [], [], [], 0, 0
    for seed in range(runs):
        scores, is_member, clusters = pairs(rng, n)
        grouped.append(permutation_test(scores, is_member, seed, DRAWS, clusters=clusters).p_value)
        alone.append(permutation_test(scores, is_member, seed, DRAWS).p_value)
        interval, without = auc_interval(scores["0"], is_member, clusters), auc_interval(scores["0"], is_member)
        covered, narrow = covered + (interval.low <= 0.5 <= interval.high), narrow + (without.low <= 0.5 <= without.high)
        values = np.repeat(rng.normal(size=(n, 12)), 2, axis=0)
        blind.append(blind_baseline(values, [f"feature {i}" for i in range(12)], np.arange(12) < 4, is_member, seed, DRAWS, clusters).p_value)
    yield from uniform(f"permutation test of whole groups, {n} a side", grouped)
    yield share(f"the same, images permuted one by one, {n} a side: p <= 0.05", (np.array(alone) <= 0.05).sum(), runs, note="what permuting groups prevents")
    yield share(f"blind p <= 0.05, {n} a side", (np.array(blind) <= 0.05).sum(), runs, most=0.05)
    yield share(f"AUC interval of whole groups holds 0.5, {n} a side", covered, runs, least=LEAST_COVER)
    yield share(f"the same, images taken one by one, {n} a side", narrow, runs, note="what adding up groups prevents")
    for size, count in whole:
        made = [audit(seed, size) for seed in range(count)]
        torn = sum(len({bool(h) for h in out.halves.calibration[out.measured.clusters == c]}) > 1 for out in made[:5] for c in range(size))
        yield share(f"whole audits of pairs, {size} a side: elevated or high", sum(out.decision.kind in ("high", "elevated") for out in made), count, most=0.05)
        yield share(f"whole audits of pairs, {size} a side: an epsilon above 0", sum(out.epsilon.value > 0 for out in made), count, most=0.05)
        yield share(f"pairs torn by the split, {size} a side", torn, 5 * size, most=0.0)
        yield share(f"set-level p <= 0.05, {size} a side", sum(out.set_level.p_value <= 0.05 for out in made), count, most=0.05)
        lead = [out.attacks[out.headline].auc for out in made]
        yield share(f"headline interval holds 0.5, {size} a side", sum(i.low <= 0.5 <= i.high for i in lead), count, least=LEAST_COVER)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

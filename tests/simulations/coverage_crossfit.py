"""Cross-fitting below 400 images a side: does the interval hold although the same images choose among 300 settings?

Three correlated tables, five statistics, twenty truncations. On a null every setting has AUC 0.5; in a leak they lie between 0.50 and 0.63. The truth that the
interval is about is the mean AUC of settings chosen in this way on half the images.

    python tests/simulations/coverage_crossfit.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtri

from audit.stats.auc import auc_many
from audit.stats.crossfit import cross_fitted_auc, fold_halves
from tests.simulations.common import LEAST_COVER, Row, main, share

RUNS = 500
SETTINGS, TABLES = 300, 3
SIZES = (50, 100, 200)


def settings_scores(rng, n, best):
    """((300, 2n) scores, is_member, (300,) true AUCs): neighbours within a table correlate, the tables share half of their variance."""
    count, per_table = 2 * n, SETTINGS // TABLES
    common, walk = rng.normal(size=(1, count)), []
    for _ in range(TABLES):
        steps = rng.normal(size=(per_table, count))
        table = np.empty_like(steps)
        table[0] = steps[0]
        for k in range(1, per_table):
            table[k] = 0.95 * table[k - 1] + (1 - 0.95**2) ** 0.5 * steps[k]
        walk.append(table)
    scores, is_member = (common + np.concatenate(walk)) / 2**0.5, np.arange(count) < n
    bump = np.exp(-(((np.arange(SETTINGS) - 130) / 25.0) ** 2))
    true = 0.5 + (best - 0.5) * bump
    return scores + np.sqrt(2) * ndtri(true)[:, None] * is_member, is_member, true


def audit(rng, n, best, seed):
    """(Interval, mean true AUC of the chosen settings, AUC of the best of the sweep on all images)."""
    scores, is_member, true = settings_scores(rng, n, best)
    pairs, chosen = [], []
    for first in fold_halves(is_member, seed):
        pair = []
        for half in (first, ~first):
            row = int(np.argmax(auc_many(scores[:, half], is_member[half])))
            pair.append((scores[row, ~half], is_member[~half]))
            chosen.append(true[row])
        pairs.append(tuple(pair))
    return cross_fitted_auc(pairs), float(np.mean(chosen)), float(auc_many(scores, is_member).max())


def rows(runs=RUNS, sizes=SIZES, bests=(0.5, 0.63)):
    """Per size: the interval's cover, and its estimate beside the sweep's best AUC, which is what must not be printed."""
    for best in bests:
        for n in sizes:
            rng = np.random.default_rng([n, round(100 * best)])
            made = [audit(rng, n, best, seed) for seed in range(runs)]
            truth = float(np.mean([chosen for _, chosen, _ in made]))
            inside = sum(i.low <= truth <= i.high for i, _, _ in made)
            values, swept = np.array([i.value for i, _, _ in made]), float(np.mean([s for _, _, s in made]))
            width = float(np.mean([i.high - i.low for i, _, _ in made]))
            where = f"best setting AUC {best}, {n} a side"
            yield share(f"cross-fitted interval, {where}", inside, runs, LEAST_COVER, note=f"truth {truth:.3f}, mean width {width:.3f}")
            slack = 3 * float(values.std(ddof=1)) / runs**0.5
            yield Row(f"mean estimate, {where}", float(values.mean()), truth, truth, (slack, slack), f"best of the sweep averages {swept:.3f}")


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

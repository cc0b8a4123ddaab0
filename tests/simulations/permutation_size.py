"""The permutation test over ten correlated attacks: false alarms without a leak, and what it finds.

python tests/simulations/permutation_size.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtri

from audit.stats.permutation import permutation_test
from tests.simulations.common import main, share, uniform

RUNS = 500
ATTACKS, CORRELATION, DRAWS = 10, 0.7, 999
POWER = [
    ("AUC 0.55", 500),
    ("AUC 0.60", 50),
    ("AUC 0.60", 100),
    ("AUC 0.60", 250),
    ("5 % at 5 sd", 100),
    ("5 % at 5 sd", 250),
    ("5 % at 5 sd", 500),
    ("2 % at 5 sd", 500),
    ("2 % at 5 sd", 1000),
]


def correlated(rng, n, attacks=ATTACKS):
    """float64 (attacks, 2n): normal scores with pairwise correlation 0.7."""
    return np.sqrt(CORRELATION) * rng.normal(size=(1, 2 * n)) + np.sqrt(1 - CORRELATION) * rng.normal(size=(attacks, 2 * n))


def leaking(rng, n, leak):
    """({attack: scores}, is_member): the leak in the first attack whole, in the others at half strength."""
    scores, is_member = correlated(rng, n), np.arange(2 * n) < n
    strength = np.where(np.arange(ATTACKS) == 0, 1.0, 0.5)[:, None]
    if leak.startswith("AUC"):
        scores += strength * np.sqrt(2) * ndtri(float(leak.split()[1])) * is_member
    elif leak != "none":
        scores += strength * 5 * (is_member & (rng.random(2 * n) < float(leak.split()[0]) / 100))
    return {f"attack {k}": row for k, row in enumerate(scores)}, is_member


def p_values(runs, n, leak="none", rounded=False):
    """The p of `runs` tests. rounded: scores with one decimal, so that ties are everywhere."""
    rng, found = np.random.default_rng([n, len(leak), rounded]), []
    for seed in range(runs):
        scores, is_member = leaking(rng, n, leak)
        scores = {k: np.round(v, 1 if rounded else 16) for k, v in scores.items()}
        found.append(permutation_test(scores, is_member, seed, DRAWS).p_value)
    return np.array(found)


def rows(runs=RUNS, sizes=(20, 100, 500), power=POWER):
    """False alarms per size, then the share found per leak."""
    for n in sizes:
        yield from uniform(f"no leak, {n} a side", p_values(runs, n))
    yield from uniform("no leak, 100 a side, tied scores", p_values(runs, 100, rounded=True))
    for leak, n in power:
        yield share(f"found: {leak}, {n} a side", (p_values(runs, n, leak) <= 0.05).sum(), runs)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

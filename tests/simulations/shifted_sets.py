"""Two sets from different sources, a model trained on neither, and attacks that follow the difference: is it ever called a leak?

40 features, 10 of them named. The shift lies either in six unnamed features together or in one named one; "oracle AUC" is what the best combination of features could
reach. Every image's losses follow its position along the shift (correlation 0.95), so the attacks see it more cleanly than the blind baseline does. The split is stated.

    python tests/simulations/shifted_sets.py [--runs N]
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.special import ndtri

from audit.measured import Features
from tests.simulations import audits
from tests.simulations.common import main, share

RUNS = 50
FOLLOWS = 0.95
CELLS = [
    (how, auc, n)
    for how in ("six features", "one named feature")
    for auc, n in ((0.6, 100), (0.6, 250), (0.6, 500), (0.6, 1000), (0.7, 100), (0.7, 250), (0.7, 500), (0.8, 100), (0.8, 250))
]
OWED = {"six features": {(0.6, 1000), (0.7, 250), (0.7, 500), (0.8, 100), (0.8, 250)}}  # where the blind test has a power of 95 % or more
OWED["one named feature"] = OWED["six features"] | {(0.6, 500)}
MOST = 0.01


def audit(seed, how, auc, n, keep=audits.compute):
    """`keep` of one audit of two sources."""
    rng, is_member = np.random.default_rng([seed, n, 7]), np.arange(2 * n) < n
    where = np.zeros(audits.FEATURES)
    where[slice(audits.SCALARS, audits.SCALARS + 6) if how == "six features" else 0] = 1
    where /= np.linalg.norm(where)
    values = rng.normal(size=(2 * n, audits.FEATURES)) + np.sqrt(2) * ndtri(auc) * where * is_member[:, None]
    follows = FOLLOWS * (values @ where) + np.sqrt(1 - FOLLOWS**2) * rng.normal(size=2 * n)
    names, scalar = tuple(f"feature {i}" for i in range(audits.FEATURES)), np.arange(audits.FEATURES) < audits.SCALARS

    def edit(tables, is_member, rng):
        noise = {name: np.log(t) - np.log(t).mean(axis=1, keepdims=True) for name, t in tables.items()}
        for name, t in tables.items():
            t[...] = np.exp(np.log(t) - noise[name].mean(axis=2, keepdims=True) - 0.25 * follows[None, :, None])

    return audits.drawn(seed, n, n, "stated", edit, features=Features(names, scalar, values), keep=keep)


def rows(runs=RUNS, cells=CELLS, judge=None):
    """Per cell: called a leak, and seen by the blind baseline. judge(out): verdict kind of an Analysis, None = its own."""
    judge = judge or (lambda out: out.decision.kind)
    total, alarms = 0, 0
    for how, auc, n in cells:
        made = [audit(seed, how, auc, n) for seed in range(runs)]
        kinds = Counter(judge(out) for out in made)
        wrong = kinds["high"] + kinds["elevated"]
        where = f"{how}, oracle AUC {auc}, {n} a side"
        attack = np.mean([out.attacks[out.headline].auc.value for out in made])
        blind = np.mean([out.blind.auc.value for out in made])
        yield share(
            f"called a leak: {where}",
            wrong,
            runs,
            most=MOST,
            note=f"attack AUC {attack:.3f}, blind AUC {blind:.3f}, p of the attacks <= 0.05 in {np.mean([o.permutation.p_value <= 0.05 for o in made]):.0%}",
        )
        yield share(f"sets differ: {where}", kinds["sets-differ"], runs, 0.95 if (auc, n) in OWED[how] else None)
        total, alarms = total + runs, alarms + wrong
    yield share("called a leak, all cells together", alarms, total, most=MOST)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

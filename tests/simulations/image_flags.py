"""Flags on single images: which share of the flagged are non-members, and how many exposed members are flagged.

python tests/simulations/image_flags.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from audit.stats.flags import Q, conformal_p, flag
from tests.simulations.common import Row, main, share

RUNS = 500
CALIBRATION = (100, 250, 500, 1000)
IMAGES, EXPOSED, FAR = 500, 0.05, 5.0


def audit(rng, n_cal, exposed=EXPOSED):
    """(share of non-members among the flagged, share of exposed members flagged) of one list of 500 members and 500 non-members."""
    known = rng.random(IMAGES) < exposed
    members = rng.normal(size=IMAGES) + FAR * known
    found = flag(rng.normal(size=n_cal), np.concatenate([members, rng.normal(size=IMAGES)]), np.arange(2 * IMAGES) < IMAGES)
    flagged = found.flagged
    return flagged[IMAGES:].sum() / max(1, flagged.sum()), flagged[:IMAGES][known].mean() if known.any() else np.nan


def rows(runs=RUNS, sizes=CALIBRATION):
    """False discoveries and exposed members found per calibration size, and the conformal p of a non-member."""
    for n_cal in sizes:
        rng = np.random.default_rng(n_cal)
        made = np.array([audit(rng, n_cal) for _ in range(runs)])
        slack = 3 * float(made[:, 0].std(ddof=1)) / runs**0.5
        yield Row(
            f"non-members among the flagged, {n_cal} calibration non-members",
            float(made[:, 0].mean()),
            None,
            Q / 2,
            (0, slack),
            f"flags {made[:, 1].mean():.0%} of the exposed members",
        )
        p = np.array([conformal_p(rng.normal(size=n_cal), rng.normal(size=1))[0] for _ in range(runs)])
        yield share(f"conformal p of a non-member <= 0.05, {n_cal} calibration non-members", (p <= 0.05).sum(), runs, most=0.05)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

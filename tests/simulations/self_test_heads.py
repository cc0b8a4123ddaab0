"""How many attention heads, and in which order: on small networks trained with a known count, where the noise error shows it.

Each truth is trained once per seed; on 64 new pictures the self-test compares 1, 2, 4 and 8 heads in both orders, and names one or says that it cannot tell. A wrong
name is outside the claim.

    python tests/simulations/self_test_heads.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.nets.openai_unet import Heads
from models.selftest import rank
from tests.models.test_openai import layout
from tests.models.test_ranking import pictures, trained, with_heads
from tests.simulations.common import main
from tests.simulations.rankings import rows_of

RUNS = 2  # seeds
READING, STEPS = ("epsilon", "cosine", True), 250
TRUTHS = ((1, "legacy"), (2, "legacy"), (4, "legacy"), (4, "new"), (8, "legacy"))


def _gap(found, truth):
    """How much larger the error of the best other candidate is, in words."""
    nearest = min(ratio for other, ratio in found.ratios if other != truth) / dict(found.ratios)[truth]
    return f" (next best {nearest:.2f} times its error)"


def _case(truth, runs):
    found = []
    for seed in range(runs):
        network = trained(layout(widths=(32,), attention=(0,), learned=False), Heads(truth[0], truth[0], order=truth[1]), READING, STEPS, seed)
        found.append(rank(with_heads(network, READING), pictures(64, 1000 + seed)))
    return f"{truth[0]} heads, {truth[1]}", truth, found, [_gap(one, truth) for one in found]


def rows(runs=RUNS):
    """One line per truth, then the sums."""
    return rows_of(_case(truth, runs) for truth in TRUTHS)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

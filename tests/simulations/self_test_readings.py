"""Which reading of a checkpoint denoises best: what it predicts x schedule x rescaling, on small networks trained with a known one.

Each of the twelve readings is trained once per seed; on 64 new pictures the self-test compares all twelve, and names one or says that it cannot tell. A wrong
name is outside the claim. "The least error alone" is what naming the first of the list without a margin would give.

    python tests/simulations/self_test_readings.py [--runs N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.nets.openai_unet import Heads
from models.selftest import rank
from tests.models.test_openai import layout
from tests.models.test_ranking import READINGS, denoiser, pictures, trained
from tests.simulations.common import main
from tests.simulations.rankings import rows_of

RUNS = 1  # seed


def _case(truth, runs):
    found = []
    for seed in range(runs):
        network = trained(layout(widths=(32,), attention=(), learned=False), Heads(), truth, seed=seed)
        found.append(rank({reading: denoiser(network, reading) for reading in READINGS}, pictures(64, 1000 + seed)))
    kind, schedule, rescaled = truth
    return f"{kind}, {schedule}, {'rescaled' if rescaled else 'not rescaled'}", truth, found, [""] * runs


def rows(runs=RUNS):
    """One line per truth, then the sums."""
    return rows_of(_case(truth, runs) for truth in READINGS)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

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
from tests.simulations.common import Row, main

RUNS = 1  # seed


def rows(runs=RUNS):
    """One line per truth, then the sums."""
    named, wrong, first_wrong = 0, 0, 0
    for truth in READINGS:
        said = []
        for seed in range(runs):
            network = trained(layout(widths=(32,), attention=(), learned=False), Heads(), truth, seed=seed)
            found = rank({reading: denoiser(network, reading) for reading in READINGS}, pictures(64, 1000 + seed))
            named += found.best == truth
            wrong += found.best not in (truth, None)
            first_wrong += found.ratios[0][0] != truth
            said.append("right" if found.best == truth else "cannot tell" if found.best is None else f"WRONG: {found.best}")
        kind, schedule, rescaled = truth
        yield Row(f"{kind}, {schedule}, {'rescaled' if rescaled else 'not rescaled'}: wrong names", sum(s.startswith("WRONG") for s in said), most=0, note=", ".join(said))
    tried = runs * len(READINGS)
    yield Row("wrong names", wrong, most=0, note=f"of {tried}")
    yield Row("right names", named, note=f"of {tried}; cannot tell {tried - named - wrong}")
    yield Row("the least error alone is wrong", first_wrong, note=f"of {tried}")


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

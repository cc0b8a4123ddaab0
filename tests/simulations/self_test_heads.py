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
from tests.simulations.common import Row, main

RUNS = 2  # seeds
READING, STEPS = ("epsilon", "cosine", True), 250
TRUTHS = ((1, "legacy"), (2, "legacy"), (4, "legacy"), (4, "new"), (8, "legacy"))


def rows(runs=RUNS):
    """One line per truth, then the sums."""
    named, wrong, first_wrong = 0, 0, 0
    for truth in TRUTHS:
        said, nearest = [], []
        for seed in range(runs):
            network = trained(layout(widths=(32,), attention=(0,), learned=False), Heads(truth[0], truth[0], order=truth[1]), READING, STEPS, seed)
            found = rank(with_heads(network, READING), pictures(64, 1000 + seed))
            named += found.best == truth
            wrong += found.best not in (truth, None)
            first_wrong += found.ratios[0][0] != truth
            own = dict(found.ratios)[truth]
            nearest.append(min(ratio for other, ratio in found.ratios if other != truth) / own)
            said.append("right" if found.best == truth else "cannot tell" if found.best is None else f"WRONG: {found.best}")
        note = ", ".join(f"{word} (next best {gap:.2f} times its error)" for word, gap in zip(said, nearest, strict=True))
        yield Row(f"{truth[0]} heads, {truth[1]}: wrong names", sum(s.startswith("WRONG") for s in said), most=0, note=note)
    tried = runs * len(TRUTHS)
    yield Row("wrong names", wrong, most=0, note=f"of {tried}")
    yield Row("right names", named, note=f"of {tried}; cannot tell {tried - named - wrong}")
    yield Row("the least error alone is wrong", first_wrong, note=f"of {tried}")


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

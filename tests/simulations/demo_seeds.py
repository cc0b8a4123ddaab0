"""The bundled pair on five seeds: the leaky checkpoint must be high each time, its twin not-detected at least four times.

The seed draws the noise, the split into halves, and every permutation; the query pool and its coins stay, as they were drawn before training.

    python tests/simulations/demo_seeds.py [--runs N]
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from audit.demo import demo_request
from tests.simulations.common import Row, main, report_of_audit

RUNS = 5


def rows(runs=RUNS):
    """The figures over seeds 1 … runs."""
    kinds = {"leaky": [], "twin": []}
    with tempfile.TemporaryDirectory() as home:
        for which in kinds:
            for seed in range(1, runs + 1):
                report = report_of_audit(home, dataclasses.replace(demo_request(which), seed=seed))
                auc = next(a["auc"] for a in report["attacks"] if a["name"] == report["verdict"]["headline_attack"])
                kinds[which].append(report["verdict"]["level"])
                yield Row(f"{which}, seed {seed}: headline AUC", auc["value"], note=f"[{auc['low']:.3f}, {auc['high']:.3f}] {kinds[which][-1]}")
    yield Row("leaky audits that are high", kinds["leaky"].count("high"), runs, note=f"of {runs}")
    yield Row("twin audits that are not-detected", kinds["twin"].count("not-detected"), runs * 4 // 5, note=f"of {runs}")


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

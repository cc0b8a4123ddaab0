"""Whole audits from pictures to report, of models that were trained on neither set: split, manifest, training, measuring, verdict.

Each audit draws fresh pictures, lets `split` toss the coins, trains a tiny model on other pictures, and runs as a job. 20 audits of a test at 5 % give three alarms or
fewer in 98 of 100 simulations.

    python tests/simulations/end_to_end_nulls.py [--runs N]
"""

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.simulations.common import Row, main, report_of_audit, share, uniform

RUNS, PICTURES, TRAINED_ON = 20, 240, 64
MOST_ALARMS = 3


def audit(root, seed):
    """The report of one audit; `root` is an empty folder."""
    from audit.request import Request
    from audit.splitter import split
    from tests.jobs import pair

    pair.save_pictures(root / "pictures", pair.pictures(PICTURES, 1000 + seed))
    split(root / "pictures", root / "split.json", seed, copy=root / "drawn")
    pair.save_checkpoint(root / "model", pair.pictures(TRAINED_ON, 2000 + seed))
    sets = {name: str(root / "drawn" / name) for name in ("members", "nonmembers")}
    request = Request(
        str(root / "model"), **sets, name="null", preset="quick", timesteps=5, draws=1, seed=seed, device="cpu", batch_size=64, manifest=str(root / "split.json")
    )
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        return report_of_audit(root / "home", request)


def rows(runs=RUNS):
    """The figures over `runs` audits."""
    reports = []
    for seed in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            reports.append(audit(Path(folder), seed))
    kinds = Counter(r["verdict"]["kind"] for r in reports)
    verified = sum(r["queries"]["provenance"]["kind"] == "manifest" for r in reports)
    evaluated = sum(r["queries"]["evaluation_members"] + r["queries"]["evaluation_nonmembers"] for r in reports) / runs
    yield Row("audits elevated or high", kinds["high"] + kinds["elevated"], None, MOST_ALARMS, note=f"of {runs}, {evaluated:.0f} images each")
    yield Row("audits with an epsilon above 0", sum(r["epsilon_lower_bound"]["value"] > 0 for r in reports), None, MOST_ALARMS, note=f"of {runs}")
    yield from uniform("set-level test", [r["set_level"]["p_value"] for r in reports])
    yield Row("splits verified by their manifest", verified, runs, runs, note=f"of {runs}")
    yield share("a control failed", sum(not c["passed"] for r in reports for c in r["controls"]), 3 * runs, most=0.001)
    for kind, count in kinds.most_common():
        yield share(f"verdict {kind}", count, runs)


if __name__ == "__main__":
    main(__doc__, rows, RUNS)

"""Audits of images that the model never saw: how often is a leak reported that is not there?

Without --run the tables are made; with it the stored tables of a finished run are used, and its images are dealt out again at random, so that nothing can be found
whatever the model knows:

    python -m audit demo --out DIR
    python tests/simulations/null_audits.py [--runs N] [--run DIR/twin] [--side N]

--side N: images a side; from 400 on half split, below cross-fitted. With --run and no --side all images of the run are used.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from audit.measured import read_measured
from tests.simulations import audits
from tests.simulations.common import LEAST_COVER, Row, main, share, uniform

RUNS = 500
LIMIT = 0.07  # of 500 audits: a test at exactly 5 % stays below it in 97.5 of 100 simulations


def audit(seed, side=400, run=None, provenance="manifest"):
    """The Analysis of one null audit. Args: run: audit.measured.Measured or None."""
    if run is not None:
        return audits.relabelled(run, seed, side, provenance)
    return audits.drawn(seed, side, side, provenance)


def rows(runs=RUNS, side=400, run=None, provenance="manifest"):
    """The figures over `runs` audits."""
    made = [_kept(audit(seed, side, run, provenance)) for seed in range(runs)]
    kinds = Counter(m["kind"] for m in made)
    alarms, holds = kinds["high"] + kinds["elevated"], sum(m["holds"] for m in made)
    if runs >= RUNS:
        yield Row("elevated or high", alarms / runs, None, LIMIT, note=f"{runs} runs, {kinds['high']} high")
    else:
        yield share("elevated or high", alarms, runs, most=0.05)
    if provenance != "stated":
        yield share("an epsilon above 0", sum(m["epsilon"] > 0 for m in made), runs, most=0.05)
    yield from uniform("set-level test", [m["set_level"] for m in made])
    yield share("p of the permutation test <= 0.05", sum(m["p"] <= 0.05 for m in made), runs, most=0.05)
    yield share("blind p <= 0.05", sum(m["blind"] <= 0.05 for m in made), runs, most=0.05)
    yield share("AUC interval of the headline attack holds 0.5", holds, runs, LEAST_COVER)
    yield share("the bound that the verdict reads lies above 0.5", sum(m["low"] > 0.5 for m in made), runs, most=0.05)
    auc = np.array([m["first_auc"] for m in made])
    slack = 3 * float(auc.std(ddof=1)) / runs**0.5
    yield Row("mean AUC of one attack", float(auc.mean()), 0.5, 0.5, (slack, slack), f"best of the sweep averages {np.mean([m['swept'] for m in made]):.3f}")
    yield Row("mean AUC of the headline attack", float(np.mean([m["auc"] for m in made])))
    yield share("a control failed", sum(m["control"] for m in made), runs, most=0.003, note="three controls, each fails in one audit of a thousand")
    yield Row("share of non-members among the flagged, mean", float(np.mean([m["false"] for m in made])), None, 0.05, (0, 3 * (0.05 * 0.95 / runs) ** 0.5))
    for kind, count in kinds.most_common():
        yield share(f"verdict {kind}", count, runs)


def _kept(out):
    """The few numbers of an Analysis that are counted."""
    lead = out.attacks[out.headline]
    return {
        "kind": out.decision.kind,
        "epsilon": out.epsilon.value if out.epsilon else 0.0,
        "set_level": out.set_level.p_value,
        "p": out.permutation.p_value,
        "blind": out.blind.p_value,
        "holds": lead.auc.low <= 0.5 <= lead.auc.high,
        "auc": lead.auc.value,
        "first_auc": next(iter(out.done.values())).auc.value,
        "low": out.lead_low,
        "swept": lead.best_of_sweep_auc,
        "control": not all(c.passed for c in out.controls),
        "false": float((out.flags.flagged & ~out.is_member[out.evaluation]).sum()) / max(1, int(out.flags.flagged.sum())),
    }


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--run")
    own.add_argument("--side", type=int)
    own.add_argument("--provenance", default="manifest")
    given, rest = own.parse_known_args()
    sys.argv[1:] = rest
    stored_run = read_measured(given.run) if given.run else None
    main(__doc__, lambda runs: rows(runs, given.side or (None if stored_run else 400), stored_run, given.provenance), RUNS)

"""What the simulations share: rows of a table with what each may be, score models whose AUC and TPR are known, and a command line.

Every file here shows one claim of docs/statistics.md and is a command:  python tests/simulations/NAME.py [--runs N]. The seed is fixed; it exits with 1 when a figure
lies outside what its claim allows. A share may miss its limit by three binomial standard errors of that limit, and by nothing else.
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr
from scipy.stats import kstest

LEAST_COVER = 0.93
LEAST_KS = 0.001  # of 500 p-values that should be uniform


@dataclass(frozen=True)
class Row:
    """One figure. least, most: what the claim allows before the tolerance, None = nothing said; slack: the tolerance; note: anything else worth a column."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    slack: tuple[float, float] = (0.0, 0.0)
    note: str = ""

    @property
    def ok(self):
        """Is the figure within what the claim allows?"""
        above = self.least is None or self.value >= self.least - self.slack[0] - 1e-12
        return bool(above and (self.most is None or self.value <= self.most + self.slack[1] + 1e-12))

    def text(self):
        """One line."""
        limits = " ".join(f"{sign} {limit:.3g}" for sign, limit in ((">=", self.least), ("<=", self.most)) if limit is not None)
        return f"{self.what:<72} {self.value:>9.4g}  {limits or '-':<18} {'ok' if self.ok else 'MISSED':<7}{self.note}"


def share(what, hits, runs, least=None, most=None, note=""):
    """A Row for the share `hits`/`runs`, with three binomial standard errors of tolerance at each limit."""
    slack = tuple(0.0 if limit is None else 3 * math.sqrt(limit * (1 - limit) / runs) for limit in (least, most))
    return Row(what, float(hits) / runs, least, most, slack, note or f"{runs} runs")


def uniform(what, p_values):
    """Rows for p-values that should be uniform: Kolmogorov-Smirnov p > 0.001, and the share at or below 0.05."""
    p = np.asarray(p_values)
    return [Row(f"{what}: KS p", float(kstest(p, "uniform").pvalue), LEAST_KS, note=f"{len(p)} runs"), share(f"{what}: share p <= 0.05", (p <= 0.05).sum(), len(p), most=0.05)]


def main(doc, rows, runs):
    """Run `rows(runs)` from the command line, print its table, exit with 1 if a figure is outside its claim."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help=f"simulated audits per line ({runs})")
    asked, began = parser.parse_args().runs, time.process_time()
    failed = 0
    for row in rows(asked):
        print(row.text(), flush=True)
        failed += not row.ok
    print(f"{failed} outside their claim; {time.process_time() - began:.0f} s of CPU")
    sys.exit(1 if failed else 0)


def report_of_audit(home, request):
    """report.json of a whole audit, from Request to report, run in this process under the folder `home`. Raises RuntimeError: it ended otherwise than done."""
    from audit.config import load
    from audit.jobs import submit
    from audit.jobs.cluster import Engines, Inline
    from audit.jobs.driver import Driver
    from audit.jobs.store import Store

    with mock.patch.dict(os.environ, {"AUDIT_HOME": str(home)}), mock.patch.object(submit, "ensure_worker", lambda config: False):
        config = load().prepare_home()
        job, _ = submit.submit_audit(config, request)
        Driver(config, Engines(config, Inline)).run_waiting()
        job = Store(config.home).get(job.id)
    if job.state != "done":
        raise RuntimeError(f"{job.name}, seed {request.seed}, ended as {job.state}: {job.error}")
    return json.loads((Path(job.folder) / "report.json").read_text(encoding="utf-8"))


# --- score models whose AUC and TPR are known ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Scores of members and non-members. draw(rng, m, n) -> (scores, is_member); auc; tpr(fpr): the true TPR at the true FPR; continuous: no ties."""

    name: str
    draw: object
    auc: float
    tpr: object
    continuous: bool = True


def _drawn(members, nonmembers):
    def draw(rng, m, n):
        return np.concatenate([members(rng, m), nonmembers(rng, n)]), np.arange(m + n) < m

    return draw


def _normal(rng, n):
    return rng.normal(size=n)


def equal_spread(auc):
    """Members N(√2·Φ⁻¹(AUC), 1), non-members N(0, 1)."""
    mu = math.sqrt(2) * float(ndtri(auc))
    return Model("equal spread", _drawn(lambda rng, m: rng.normal(mu, 1, m), _normal), auc, lambda fpr: float(ndtr(mu + ndtri(fpr))))


def twice_spread(auc):
    """Members N(√5·Φ⁻¹(AUC), 2), non-members N(0, 1)."""
    mu = math.sqrt(5) * float(ndtri(auc))
    return Model("members twice as spread", _drawn(lambda rng, m: rng.normal(mu, 2, m), _normal), auc, lambda fpr: float(ndtr((mu + ndtri(fpr)) / 2)))


def heavy_tails(auc):
    """Student t with 2 degrees of freedom, members shifted to the AUC."""

    def reached(mu):
        # density of t(2) is (2 + x²)^-1.5; P(member > non-member) = ∫ F(x + μ) f(x) dx
        return quad(lambda x: stdtr(2, x + mu) * (2 + x * x) ** -1.5, -np.inf, np.inf)[0] - auc

    mu = 0.0 if auc == 0.5 else float(brentq(reached, 0, 60))
    return Model("Student t, 2 d.f.", _drawn(lambda rng, m: rng.standard_t(2, m) + mu, lambda rng, n: rng.standard_t(2, n)), auc, None)


def five_levels(auc):
    """`equal_spread(auc)` seen on five levels, so that ties are everywhere; its AUC counts them half."""
    mu, cuts = math.sqrt(2) * float(ndtri(auc)), np.array([-0.8, 0.0, 0.8, 1.6])
    a, b = (np.diff(np.concatenate([[0], ndtr(cuts - shift), [1]])) for shift in (mu, 0))
    true = float(sum(a[i] * (b[:i].sum() + b[i] / 2) for i in range(5)))
    return Model(
        "five tied levels", _drawn(lambda rng, m: np.digitize(rng.normal(mu, 1, m), cuts) + 0.0, lambda rng, n: np.digitize(rng.normal(0, 1, n), cuts) + 0.0), true, None, False
    )


def few_exposed(part, shift):
    """A part of the members is shifted by `shift` sd, all others score as non-members do."""

    def members(rng, m):
        return rng.normal(size=m) + shift * (rng.random(m) < part)

    def tpr(fpr):
        return (1 - part) * fpr + part * float(ndtr(shift + ndtri(fpr)))

    return Model(f"{part:.0%} of members at {shift:g} sd", _drawn(members, _normal), (1 - part) / 2 + part * float(ndtr(shift / math.sqrt(2))), tpr)

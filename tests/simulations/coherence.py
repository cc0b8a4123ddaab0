"""Do the numbers of one row fit together: AUC, TPR, thresholds, balanced accuracy and F1 from one score vector, and the drawn curve's area?

Everything is counted again from scores.csv alone, by scikit-learn, and compared with report.json. Without --run two run folders are made (half split and cross-fitted).

    python tests/simulations/coherence.py [--run DIR]
"""

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, roc_curve

from audit.report.run import open_run
from audit.report.series import attack_roc, drawn
from tests.simulations.common import Row, main

EXACT = 1e-12
DRAWN = 1e-6  # audit.stats.roc.AREA_TOLERANCE


def columns(folder, name):
    """(evaluation scores of one attack, is_member), from scores.csv."""
    with open(Path(folder) / "scores.csv", encoding="utf-8", newline="") as file:
        kept = [row for row in csv.DictReader(file) if row["half"] == "evaluation" and row[name]]
    return np.array([float(row[name]) for row in kept]), np.array([row["is_member"] == "True" for row in kept])


def deviations(folder):
    """{what: largest deviation over the attacks that were scored}; `possible` counts rows in which AUC, TPR and FPR cannot belong to one curve."""
    report, run, worst = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")), open_run(folder), {}

    def note(what, deviation):
        worst[what] = max(worst.get(what, 0.0), float(deviation))

    for row in (a for a in report["attacks"] if a["status"] == "done"):
        scores, is_member = columns(folder, row["name"])
        fpr, tpr, _ = roc_curve(is_member, scores, drop_intermediate=False)
        area = roc_auc_score(is_member, scores)
        note("curve_auc = area counted from scores.csv", abs(row["curve_auc"] - area))
        few = drawn(attack_roc(run, row["name"]))
        note("drawn curve's area = curve_auc", abs(np.trapezoid(few.tpr, few.fpr) - row["curve_auc"]))
        if report["queries"]["split"] == "half":
            note("auc = curve_auc", abs(row["auc"]["value"] - row["curve_auc"]))
        for point in row["tpr_at_fpr"]:
            if point["tpr"] is not None:
                note("TPR at FPR is on that curve", abs(point["tpr"] - tpr[fpr <= point["fpr"] + 1e-9].max()))
                note("rows that no curve could have", not _possible(area, point["tpr"], point["fpr"]))
        for point in row["at_threshold"]:
            if point["threshold"] is None:
                continue
            called = scores >= point["threshold"]
            note("threshold's TPR and FPR", max(abs(called[is_member].mean() - point["tpr"]), abs(called[~is_member].mean() - point["fpr_achieved"])))
            note("balanced accuracy and F1", abs(balanced_accuracy_score(is_member, called) - point["balanced_accuracy"]))
            note("balanced accuracy and F1", abs(f1_score(is_member, called) - point["f1"]))
            note("threshold's point is on that curve", np.hypot(fpr - point["fpr_achieved"], tpr - point["tpr"]).min())
            note("rows that no curve could have", not _possible(area, point["tpr"], point["fpr_achieved"]))
    return worst


def _possible(area, tpr, fpr):
    """A rising curve through (fpr, tpr) has an area from tpr·(1-fpr) to 1 - fpr·(1-tpr)."""
    return tpr * (1 - fpr) - EXACT <= area <= 1 - fpr * (1 - tpr) + EXACT


def rows(runs=1, folder=None):
    """One Row per comparison. runs is not used: nothing here is random."""
    if folder is not None:
        yield from _rows(folder, Path(folder).name)
        return
    from tests.synthetic import synthetic_run

    with tempfile.TemporaryDirectory() as root:
        for name, side in (("half split", 400), ("cross-fitted", 120)):
            synthetic_run(Path(root) / name, side, side + 10, leak=1.0, timesteps=6, thumbnails=False)
            yield from _rows(Path(root) / name, name)


def _rows(folder, name):
    for what, worst in deviations(folder).items():
        yield Row(f"{name}: {what}", worst, None, DRAWN if what.startswith("drawn") else EXACT)


if __name__ == "__main__":
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--run")
    given, rest = own.parse_known_args()
    sys.argv[1:] = rest
    main(__doc__, lambda runs: rows(runs, given.run), 1)

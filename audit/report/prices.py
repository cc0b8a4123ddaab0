"""What each attack of a run costs and finds: points of the picture on page Which attack?, the best for each price, and the ladder of access. NumPy only.

Values and intervals come from the stored scores of the held-out images; under cross-fitting that is the evaluation half of the first repeat, as in the drawn curves.
"""

from dataclasses import dataclass

from audit.attacks.base import THREAT_MODELS
from audit.report import series
from audit.stats.auc import auc_interval
from audit.stats.tpr import tpr_at_fpr

MEASURES = ("AUC", "TPR")
TPR_FPR = 0.01


@dataclass(frozen=True)
class Spot:
    """One finished attack. calls: model calls per image at its chosen setting; value, low, high: AUC or TPR with its 95 % interval (None where there is none)."""

    name: str
    short: str
    threat_model: str
    calls: int
    value: float
    low: float | None
    high: float | None


def spots(run, measure="AUC"):
    """The finished attacks of a run whose calls are known, cheapest first, then by name of the registry.

    Args: run: audit.report.run.Run; measure: one of MEASURES; TPR at 1 % FPR.
    Returns: list of Spot; empty where the images cannot resolve the TPR.
    """
    known = [name for name in run.scored if run.attack(name)["model_calls_at_setting"] is not None]
    found = [spot(run, name, measure) for name in known]
    return sorted((one for one in found if one.value is not None), key=lambda one: one.calls)


def spot(run, name, measure):
    """Spot of one finished attack; value None where the images cannot resolve it."""
    short, _, threat_model = series.card(name)
    value, low, high = series.cached(run, ("spot", name, measure), lambda: _measured(run, name, measure))
    return Spot(name, short, run.attack(name)["threat_model"] or threat_model, run.attack(name)["model_calls_at_setting"], value, low, high)


def _measured(run, name, measure):
    scores, labels = series.held_out_scores(run, name), series.held_out_members(run)
    if measure == "AUC":
        found = auc_interval(scores, labels, series.held_out_clusters(run))
        return found.value, found.low, found.high
    if measure != "TPR":
        raise ValueError(f"measure is {measure!r}; expected one of {', '.join(MEASURES)}")
    found = tpr_at_fpr(scores, labels, TPR_FPR)
    return found.tpr, found.low, found.high


def best_for_the_price(found):
    """Those of `found` that beat everything that costs no more, cheapest first.

    Args: found: list of Spot.
    """
    best = []
    for one in sorted(found, key=lambda one: (one.calls, -one.value)):
        if not best or one.value > best[-1].value:
            best.append(one)
    return best


def ladder(run):
    """[(threat model, Spot of its strongest attack by AUC, or None where none has scores)], the least access first.

    Strongest = best on the calibration half, so that the AUC on the held-out images stays honest.
    """
    strongest = {}
    for name in run.scored:
        row = run.attack(name)
        best = strongest.get(row["threat_model"])
        if best is None or row["selection"]["calibration_auc"] > run.attack(best)["selection"]["calibration_auc"]:
            strongest[row["threat_model"]] = name
    return [(access, spot(run, strongest[access], "AUC") if access in strongest else None) for access in reversed(THREAT_MODELS)]

"""report.json, schema_version 1, from an Analysis. Fields that nothing fills yet are null and named in `not_checked`."""

import numpy as np

from audit.attacks import ATTACKS
from audit.report import words
from audit.report.claims import claims
from audit.report.needed import needed
from audit.stats.epsilon import EpsilonBound, default_delta
from audit.stats.verdict import differ

SCHEMA_VERSION = 1
NOT_CHECKED = {  # fields of the schema that no part of this version fills
    "measurement.api": "what an API would show (--api)",
    "attacks[].reference_auc": "scores relative to a reference model (--reference)",
    "pool": "generated samples, for black-box attacks (--pool)",
}
NO_EPSILON = "An epsilon needs a split that was drawn at random: a manifest of the command split, or the owner's word (--randomised-split)."


def build_report(out):
    """The report as plain data.

    Args: out: audit.analysis.Analysis.
    Returns: dict in the order of INTERFACE; the verdict's sentences are made last, from the rest.
    """
    made, request, perm = out.measured.facts, out.measured.request, out.permutation
    report = {
        "schema_version": SCHEMA_VERSION,
        "run": {**made["run"], "seed": request.seed, "preset": request.preset, "seconds": made["seconds"]},
        "verdict": None,
        "checkpoint": made["checkpoint"],
        "queries": _queries(out),
        "preprocessing": out.measured.queries["preprocessing"],
        "measurement": {"api": None, **made["measurement"]},
        "attacks": [_attack(out, name) for name in out.attacks],
        "permutation": {"p_value": perm.p_value, "attack": perm.attack, "score": perm.score, "critical_z": perm.critical_z, "draws": perm.draws},
        "direction": _direction(out.direction),
        "minimum_detectable_auc": out.mda,
        "minimum_detectable_share": out.mds,
        "controls": [control.to_json() for control in out.controls],
        "blind_baseline": out.blind.to_json(differ(out.blind.p_value, out.measured.provenance["kind"] == "manifest")) | {"images": int(out.kept.sum())},
        "flags": {"attack": out.headline} | out.flags.to_json(),
        "set_level": out.set_level.to_json(),
        "epsilon_lower_bound": _epsilon(out),
        "comparisons": out.comparisons,
        "pool": made.get("pool"),
        "surrogate": made.get("surrogate"),
        "paper_protocol": out.paper_protocol,
        "self_test": made["self_test"],
        "cost": made["cost"],
        "versions": made["versions"],
        "warnings": _warnings(out),
        "not_checked": {name: f"{what}: not checked yet" for name, what in NOT_CHECKED.items() if name not in _asked(request)},
    }
    report["verdict"] = {"level": out.decision.level, "rule": out.decision.rule, "kind": out.decision.kind}
    report["verdict"] |= {"headline_attack": out.headline, "auc_low": out.lead_low, "tail_attack": out.tail}
    report["verdict"] |= words.reasons(report)
    report["verdict"] |= {"claims": claims(report)}
    return report


def _asked(request):
    """Fields of NOT_CHECKED that this audit fills."""
    asked = (("attacks[].reference_auc", request.reference), ("measurement.api", request.api), ("pool", request.pool))
    return [name for name, given in asked if given is not None]


def _queries(out):
    q, judged = out.measured.queries, out.is_member[out.judged]
    return {
        "members": q["members"],
        "nonmembers": q["nonmembers"],
        "evaluation_members": int(judged.sum()),
        "evaluation_nonmembers": int((~judged).sum()),
        "curve_members": int(out.is_member[out.evaluation].sum()),
        "curve_nonmembers": int((~out.is_member[out.evaluation]).sum()),
        "split": out.halves.kind,
        "left_out": q["left_out"] + [{"path": q["images"][i]["path"], "reason": "a score that is not finite"} for i in np.flatnonzero(~out.kept)],
        "duplicates": q["duplicates"],
        "provenance": {k: v for k, v in out.measured.provenance.items() if k != "clusters"},
    }


def _attack(out, name):
    result, card = out.attacks[name], ATTACKS[name].card
    row = {"name": name, "threat_model": card.threat_model, "status": result.status, "reason": result.reason, "settings": None, "selection": None, "auc": None, "curve_auc": None}
    row |= {"tpr_at_fpr": None, "at_threshold": None, "z": None, "p_value": None, "reference_auc": None, "reference_interval": None, "needed": None, "above_all_nonmembers": None}
    row |= {"model_calls_per_image": result.calls_per_image, "model_calls_at_setting": result.calls_at_setting}
    if result.status != "done":
        return row
    chosen, evaluation, perm = result.choice.settings(), result.evaluation.to_json(), out.permutation
    scores, is_member = result.scores[out.evaluation], out.is_member[out.evaluation]
    return row | {
        "settings": chosen,
        "selection": {
            "chosen": chosen,
            "calibration_auc": result.calibration_auc,
            "best_of_sweep_auc": result.best_of_sweep_auc,
            "tried": len(result.sweep.candidates),
        },
        "auc": {"value": result.auc.value, "low": result.auc.low, "high": result.auc.high, "noise_sd": result.noise_sd},
        "curve_auc": evaluation["curve_auc"],
        "tpr_at_fpr": evaluation["tpr_at_fpr"],
        "at_threshold": [point.to_json() for point in result.at_threshold],
        "z": perm.z[name],
        "p_value": perm.p_values[name],
        "needed": needed(card, result.calls_at_setting, out.measured.facts.get("pool"), out.measured.facts.get("surrogate")),
        "reference_auc": result.reference and result.reference.value,
        "reference_interval": result.reference and {"low": result.reference.low, "high": result.reference.high},
        "above_all_nonmembers": int((scores[is_member] > scores[~is_member].max()).sum()),
    }


def _epsilon(out):
    """The bound and what it rests on; null with the reason where the split is not known to be random."""
    if out.epsilon is not None:
        return out.epsilon.to_json() | {"basis": out.measured.provenance["kind"]}
    claimed = out.measured.request.claimed_dp
    claim = claimed and {"epsilon": claimed[0], "delta": claimed[1], "p_value": None, "contradicted": None}
    return EpsilonBound(None, default_delta(), reason=NO_EPSILON, claim=claim).to_json()


def _direction(d):
    """What rule 1 looked at: the strongest reading in which members score lower."""
    return {"attack": d.attack, "settings": d.settings, "auc": {"value": d.auc.value, "low": d.auc.low, "high": d.auc.high}, "z": d.z, "point": d.point, "passed": d.passed}


def _warnings(out):
    warnings = list(out.measured.facts["warnings"])
    if not out.kept.all():
        warnings.append(f"{int((~out.kept).sum())} images have a score that is not finite in some attack and are left out of all.")
    below = [name for name, result in out.done.items() if result.auc.high is not None and result.auc.high < 0.5]
    if not out.direction.passed and out.direction.attack not in below:  # rule 1 reads every setting, not the chosen one alone
        below.append(out.direction.attack)
    return [*warnings, *(f"{name}: {words.BELOW_CHANCE}" for name in below)]

"""report.json, schema_version 1, from an Analysis. Fields that nothing fills yet are null and named in `not_checked`."""

import numpy as np

from audit.attacks import ATTACKS
from audit.report import words

SCHEMA_VERSION = 1
NOT_CHECKED = {  # fields of the schema that no part of this version fills
    "verdict.claims": "what may and may not be said",
    "queries.duplicates.near": "near duplicates",
    "queries.provenance": "how the split was drawn",
    "measurement.api": "what an API would show",
    "attacks[].at_threshold": "thresholds carried from the calibration half",
    "attacks[].reference_auc": "a reference model",
    "attacks[].needed": "what a black-box attacker needs",
    "minimum_detectable_share": "the smallest visible share of exposed members",
    "controls: nonmembers_twice, planted_leak": "the controls beside shuffled labels",
    "blind_baseline": "whether the sets differ without the model",
    "flags": "flags on single images",
    "set_level": "the set-level test",
    "epsilon_lower_bound": "a lower bound on epsilon",
    "comparisons": "paired comparisons between attacks",
    "pool": "generated samples (black-box attacks)",
    "paper_protocol": "the paper's own protocol",
}


def build_report(out):
    """The report as plain data.

    Args: out: audit.analysis.Analysis.
    Returns: dict in the order of INTERFACE; the verdict's sentences are made last, from the rest.
    """
    made = out.measurement
    inside = out.evaluation
    perm = out.permutation
    report = {
        "schema_version": SCHEMA_VERSION,
        "run": {**made["run"], "seed": out.request.seed, "preset": out.request.preset, "seconds": made["seconds"]},
        "verdict": None,
        "checkpoint": made["checkpoint"],
        "queries": _queries(out, inside),
        "preprocessing": out.queries["preprocessing"],
        "measurement": {**made["measurement"], "api": None},
        "attacks": [_attack(out, name, inside) for name in out.attacks],
        "permutation": {"p_value": perm.p_value, "attack": perm.attack, "score": perm.score, "critical_z": perm.critical_z, "draws": perm.draws},
        "direction": _direction(out.direction),
        "minimum_detectable_auc": out.mda,
        "minimum_detectable_share": None,
        "controls": [{"name": out.control.name, "auc": out.control.auc, "low": out.control.low, "high": out.control.high, "passed": out.control.passed}],
        "blind_baseline": None,
        "flags": None,
        "set_level": None,
        "epsilon_lower_bound": None,
        "comparisons": None,
        "pool": None,
        "paper_protocol": None,
        "self_test": made["self_test"],
        "cost": made["cost"],
        "versions": made["versions"],
        "warnings": _warnings(out),
        "not_checked": {name: f"{what}: not checked yet" for name, what in NOT_CHECKED.items()},
    }
    report["verdict"] = {"level": out.decision.level, "rule": out.decision.rule, "kind": out.decision.kind, "headline_attack": out.headline, "tail_attack": out.tail}
    report["verdict"] |= words.reasons(report) | {"claims": None}
    return report


def _queries(out, inside):
    q = out.queries
    return {
        "members": q["members"],
        "nonmembers": q["nonmembers"],
        "evaluation_members": int(out.is_member[inside].sum()),
        "evaluation_nonmembers": int((~out.is_member[inside]).sum()),
        "split": "half",
        "left_out": q["left_out"] + [{"path": q["images"][i]["path"], "reason": "a score that is not finite"} for i in np.flatnonzero(~out.kept)],
        "duplicates": {**q["duplicates"], "near": None},
        "provenance": None,
    }


def _attack(out, name, inside):
    result, card = out.attacks[name], ATTACKS[name].card
    row = {"name": name, "threat_model": card.threat_model, "status": result.status, "reason": result.reason, "settings": None, "selection": None, "auc": None, "curve_auc": None}
    row |= {"tpr_at_fpr": None, "at_threshold": None, "z": None, "p_value": None, "reference_auc": None, "needed": None, "above_all_nonmembers": None}
    row |= {"model_calls_per_image": result.calls_per_image, "model_calls_at_setting": result.calls_at_setting}
    if result.status != "done":
        return row
    chosen, evaluation, perm = result.selection.choice.settings(), result.evaluation.to_json(), out.permutation
    scores, is_member = result.scores[inside], out.is_member[inside]
    return row | {
        "settings": chosen,
        "selection": {
            "chosen": chosen,
            "calibration_auc": result.selection.calibration_auc,
            "best_of_sweep_auc": result.selection.best_of_sweep_auc,
            "tried": result.selection.tried,
        },
        "auc": {"value": evaluation["auc"]["value"], "low": evaluation["auc"]["low"], "high": evaluation["auc"]["high"], "noise_sd": result.noise_sd},
        "curve_auc": evaluation["curve_auc"],
        "tpr_at_fpr": evaluation["tpr_at_fpr"],
        "z": perm.z[name],
        "p_value": perm.p_values[name],
        "above_all_nonmembers": int((scores[is_member] > scores[~is_member].max()).sum()),
    }


def _direction(d):
    """What rule 1 looked at: the strongest reading in which members score lower."""
    return {"attack": d.attack, "settings": d.settings, "auc": {"value": d.auc.value, "low": d.auc.low, "high": d.auc.high}, "z": d.z, "point": d.point, "passed": d.z > d.point}


def _warnings(out):
    warnings = list(out.measurement["warnings"])
    if not out.kept.all():
        warnings.append(f"{int((~out.kept).sum())} images have a score that is not finite in some attack and are left out of all.")
    for name, result in out.done.items():
        if result.evaluation.auc.high is not None and result.evaluation.auc.high < 0.5:
            warnings.append(f"{name}: {words.BELOW_CHANCE}")
    return warnings

"""Sentences of the verdict: they hold the report's numbers, work on reports that lack parts, and never say what this program does not say."""

import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from audit.report import parts, words
from audit.report.build import _warnings
from audit.report.claims import claims
from audit.report.sections import sound
from tests.evidence_home import RULES, filled

N = "\u202f"
BANNED = re.compile(r"\b(safe|safely|safety|secure|anonymous|guaranteed|private|passed|oops|please)\b|\bsignificant(?!.{0,40}p [=<])|!", re.IGNORECASE)
KINDS = tuple(RULES)
PROVENANCES = ("manifest", "stated-random", "stated", None)


def attack(name, threat_model, value, low, high, tail_low=0.2, tail="coarse"):
    """A finished entry of report["attacks"]."""
    chosen = {"statistic": "mean", "truncate_by": "time", "keep_from": 82, "keep_until": 265}
    points = [{"fpr": 0.1, "tpr": 0.4, "low": 0.3, "high": 0.5, "resolution": "resolvable"}, {"fpr": 0.01, "tpr": 0.276, "low": tail_low, "high": 0.356, "resolution": tail}]
    points.append({"fpr": 0.001, "tpr": None, "low": None, "high": 0.317, "resolution": "none"})
    row = {"name": name, "threat_model": threat_model, "status": "done", "reason": None, "settings": chosen, "auc": {"value": value, "low": low, "high": high, "noise_sd": 0.01}}
    row |= {"selection": {"chosen": chosen, "calibration_auc": 0.78, "best_of_sweep_auc": value + 0.02, "tried": 247}, "curve_auc": value, "tpr_at_fpr": points}
    return row | {"at_threshold": None, "z": {"rank": 9.4, "tail": 7.1}, "p_value": 0.0001, "above_all_nonmembers": 55, "model_calls_per_image": 40, "model_calls_at_setting": 8}


def bare():
    """A report as an older version wrote it: every part that is not part of the trunk is null."""
    return {
        "schema_version": 1,
        "run": {"id": "ca978112", "name": "synthetic", "created": "2026-01-02T03:04:05Z", "seed": 0, "preset": "quick", "seconds": 34.0},
        "verdict": {"level": "high", "rule": 4, "kind": "high", "headline_attack": "loss_x0", "tail_attack": "loss_eps", "claims": None},
        "queries": {
            "members": 450, "nonmembers": 450, "evaluation_members": 225, "evaluation_nonmembers": 225, "split": "half", "left_out": [],
            "duplicates": {"exact": 0, "near": None}, "provenance": None,
        },
        "attacks": [
            attack("loss_vlb", "white-box", 0.757, 0.71, 0.798),
            attack("loss_x0", "white-box", 0.7654, 0.7187, 0.8064),
            attack("loss_eps", "white-box", 0.7668, 0.72, 0.8076),
            {"name": "gray_intermediate", "threat_model": "gray-box", "status": "failed", "reason": "out of memory at batch 1", "auc": None, "tpr_at_fpr": None},
        ],
        "permutation": {"p_value": 0.0001, "attack": "loss_eps", "score": "rank", "critical_z": 2.08, "draws": 9999},
        "direction": {"attack": "loss_vlb", "settings": {}, "auc": {"value": 0.31, "low": 0.27, "high": 0.36}, "z": -5.0, "point": -3.2, "passed": False},
        "minimum_detectable_auc": 0.5796, "minimum_detectable_share": None,
        "controls": [{"name": "shuffled_labels", "auc": 0.504, "low": 0.45, "high": 0.557, "passed": True}],
        "blind_baseline": None, "flags": None, "set_level": None, "epsilon_lower_bound": None, "paper_protocol": None,
        "self_test": {"passed": True, "error": 0.05, "baseline": 1.0}, "warnings": [],
        "not_checked": {"blind_baseline": "whether the sets differ without the model: not checked yet"},
    }  # fmt: skip


def unfilled(kind):
    """The older report with another verdict."""
    made = bare()
    made["verdict"] |= {"kind": kind, "rule": RULES[kind], "level": kind if kind in ("high", "elevated", "not-detected") else "inconclusive"}
    made["verdict"] |= words.reasons(made)
    return made


def failing(made):
    """Each part in turn without a result, with its reason beside it: what a run leaves when a part fails."""
    empty = {
        "blind_baseline": {"auc": None, "reason": "all images are equal"},
        "flags": {"attack": "loss_x0", "q": 0.1, "flagged": None, "flagged_members": None, "of": None, "precision": [], "reason": "cannot flag with this many calibration images"},
        "set_level": {"p_value": None, "t": None, "df": None, "images_needed": [], "needed": None, "reason": "all members score alike"},
        "epsilon_lower_bound": {"value": None, "reason": "An ε needs a split that was drawn at random."},
        "controls": [{"name": "planted_leak", "auc": None, "low": None, "high": None, "passed": None, "reason": "too few images"}],
        "minimum_detectable_auc": None,
        "paper_protocol": None,
    }
    for name, value in empty.items():
        yield json.loads(json.dumps(made)) | {name: value}


def crossed(made):
    """The same below 400 images a side."""
    made = json.loads(json.dumps(made))
    made["queries"] |= {"split": "cross-fitted", "members": 64, "nonmembers": 80, "evaluation_members": 64, "evaluation_nonmembers": 80}
    made["verdict"]["auc_low"] = parts.attack_of(made, made["verdict"]["headline_attack"])["auc"]["low"]
    return made


def grid():
    """Reports of every kind, provenance and completeness."""
    for kind, provenance, blind in itertools.product(KINDS, PROVENANCES, (True, False)):
        made = filled(bare(), kind, provenance, blind)
        yield made
        if provenance == "stated":
            yield from failing(made)
            yield crossed(made)
    for kind in KINDS:
        yield unfilled(kind)
        yield crossed(unfilled(kind))


def sentences(made):
    """Everything that words and claims say about a report, computed afresh."""
    said = words.reasons(made)
    made["verdict"] |= said
    card = words.verdict_words(made)
    yield from (card.headline, card.reason, card.next, *card.for_, *card.against, *card.not_seen, *card.titles)
    yield from itertools.chain(*said.values())
    yield from words.limits(made)
    for part in (words.flags_sentences, words.set_level_sentences, words.epsilon_sentences, words.blind_power):
        yield from part(made)
    yield from (words.provenance_sentence(made), words.blind_sentence(made), words.features_sentence(made), words.contamination(made) or "")
    for control in made["controls"]:
        yield from (*words.control_row(made, control), words.control_sentence(made, control))
    for claim in itertools.chain(*claims(made).values()):
        yield from claim.values()


@pytest.fixture(scope="module")
def everything():
    """[(report, sentences)] over the grid."""
    return [(made, list(sentences(made))) for made in grid()]


def test_no_banned_word_over_the_whole_grid(everything):
    assert len(everything) > 150
    assert not {text for _, said in everything for text in said if BANNED.search(text)}
    assert BANNED.search("This model is safe.") and BANNED.search("A significant leak") and not BANNED.search("significant (p = 0.03)")


def test_no_none_nan_or_double_stop_reaches_a_sentence(everything):
    bad = re.compile(r"\bNone\b(?! of)|\bnan\b|\binf\b|\.\.|\(\)|  |: \.|\{|\}")
    assert not {text for _, said in everything for text in said if bad.search(text)}


def test_under_rules_2_and_3_nothing_is_called_a_leak(everything):
    names = re.compile(r"Planted leak")  # the control's name; a shuffled label plants it, no attack finds it
    for made, said in everything:
        if made["verdict"]["kind"] in ("sets-differ", "near"):
            assert not [text for text in said if "leak" in names.sub("", text).lower()], made["verdict"]["kind"]


def test_every_list_of_the_card_has_one_to_three_items_and_the_last_always_stands(everything):
    for made, _ in everything:
        card = words.verdict_words(made)
        assert all(1 <= len(items) <= 3 for items in (card.for_, card.against, card.not_seen))
        assert card.not_seen[-1] == made["verdict"]["not_tested"][-1] == words.NOT_SEEN_ALWAYS


@pytest.mark.parametrize(
    "kind, headline, reason, next_",
    [
        ("high", "This checkpoint gives its training images away.",
         f"An attacker holding the weights names at least 20{N}% of these members while wrongly accusing 1 in 100 outsiders.",
         "do not release these weights. Remove duplicates, train for fewer epochs or with flips, audit again and compare."),
        ("elevated", "Membership leaks, but few single images stand out.",
         "Members score higher than non-members beyond chance (p < 0.001, AUC 0.765 [0.718, 0.807]); few can be named with confidence.",
         "look at the most exposed images; decide with at least 900 images a side."),
        ("not-detected", "No leak detected with these images and attacks.",
         f"None of the 3 attacks told members from non-members better than chance. A leak below AUC 0.580, or one that exposes fewer than 5.2{N}% of the members, "
         "would not have been seen.",
         "audit 1,800 images a side: that would lower it to AUC 0.540."),
        ("sets-differ", "This audit cannot decide: the two sets differ.",
         "The sets can be told apart without the model (blind AUC 0.710 [0.640, 0.780]), so a high score cannot be blamed on it.",
         "draw both sets at random from one source (python -m audit split FOLDER), then audit again."),
        ("near", "This audit cannot decide: too close to what a difference between the sets could do.",
         "Members score higher (p < 0.001), but not beyond what the images alone could explain (blind AUC 0.531 [0.460, 0.602]).",
         "draw both sets at random from one source (python -m audit split FOLDER), then audit again; a reference checkpoint helps too."),
        ("order", "This audit cannot decide: members score lower than non-members.", "AUC 0.310 [0.270, 0.360] is below chance beyond luck.", "check which folder is which."),
        ("few", "This audit cannot decide: too few images.", "With 450 images a side only a leak above AUC 0.580 would show.",
         "add images; 1,800 a side would show 0.540."),
        ("control", "This audit cannot decide: a control failed.", "A planted leak of AUC 0.640 was not found.", "keep the run folder and report it; do not use its numbers."),
    ],
)  # fmt: skip
def test_the_eight_rows_of_the_design(kind, headline, reason, next_):
    said = words.verdict_words(filled(bare(), kind))
    assert (said.headline, said.reason, said.next) == (headline, reason, next_)


def test_a_reference_that_is_there_is_not_advised():
    made = filled(bare(), "near")
    made["measurement"] = {"reference": {"sha256": "ab" * 32}}
    assert words.verdict_words(made).next == "draw both sets at random from one source (python -m audit split FOLDER), then audit again."


def test_a_control_at_chance_that_failed_is_named_with_its_interval():
    made = filled(bare(), "control")
    made["controls"][2]["passed"] = True
    made["controls"][1] |= {"passed": False, "auc": 0.62, "low": 0.571, "high": 0.668}
    assert words.verdict_words(made).reason == "Non-members against non-members gave AUC 0.620 [0.571, 0.668]; they must give 0.5."
    assert words.reasons(made)["reasons_against"][0] == "Non-members against non-members: AUC 0.620 [0.571, 0.668], not chance: a fault in the instrument"


def test_high_without_a_tpr_speaks_from_the_auc():
    made = filled(bare(), "high")
    parts.tpr_of(parts.attack_of(made, "loss_eps"), 0.01)["low"] = 0.0
    assert words.verdict_words(made).reason == f"An attacker holding the weights ranks a random member above a random non-member in at least 71{N}% of cases."


def test_below_400_the_bound_is_the_one_that_the_verdict_read():
    """The row's own bound knows nothing of the choice among attacks."""
    made = crossed(filled(bare(), "high"))
    parts.tpr_of(parts.attack_of(made, "loss_eps"), 0.01)["low"] = None
    made["verdict"]["auc_low"] = 0.655
    assert parts.attack_of(made, made["verdict"]["headline_attack"])["auc"]["low"] > 0.7
    assert f"at least 65{N}% of cases" in words.verdict_words(made).reason
    assert [c for c in claims(made)["allowed"] if f"at least 65{N}% of cases" in c["text"]]


@pytest.mark.parametrize("low", [0.46, 0.5, None])
def test_high_by_the_tail_alone_does_not_speak_of_a_ranking(low):
    """The policy may let a TPR below 3 % make a verdict high; a ranking at or below chance is no finding."""
    made = filled(bare(), "high")
    parts.tpr_of(parts.attack_of(made, "loss_eps"), 0.01)["low"] = 0.02
    parts.attack_of(made, "loss_x0")["auc"] |= {"low": low}
    assert words.verdict_words(made).reason == f"An attacker holding the weights names at least 2{N}% of these members while wrongly accusing 1 in 100 outsiders."
    parts.tpr_of(parts.attack_of(made, "loss_eps"), 0.01)["low"] = 0.004
    assert words.verdict_words(made).reason == "Members score higher than non-members beyond chance (p < 0.001, permutation test over all attacks)."


def test_what_more_images_would_show_counts_the_half_that_is_judged():
    """100 a side are all judged; 400 are split, so 200 are: four times the images halve the mda only if no half is lost."""
    made = crossed(filled(bare(), "few"))
    made["queries"] |= {"members": 100, "nonmembers": 100, "evaluation_members": 100, "evaluation_nonmembers": 100}
    expected = words.minimum_detectable_auc(200, 200, made["permutation"]["critical_z"])
    assert words.verdict_words(made).next == f"add images; 400 a side would show {expected:.3f}."


def test_a_tpr_below_400_a_side_counts_the_half_behind_it():
    made = crossed(unfilled("few"))
    assert words.curve_images(made) == (32, 40)
    assert f"TPR at 0.1{N}% FPR: not resolvable with n = 40" in words.reasons(made)["not_tested"]
    made["queries"]["curve_nonmembers"] = 41
    assert words.curve_images(made) == (32, 41)


def test_contamination_by_hand():
    """0.5 + 0.2654/0.95 = 0.7794 and 0.5 + 0.2654/0.9 = 0.7949; a verified split needs no such line."""
    line = words.contamination(filled(bare(), "high"))
    assert line == f"If 5{N}% of the non-members were in training all the same, an AUC of 0.765 stands for 0.779; if 10{N}% were, for 0.795."
    assert line in words.limits(filled(bare(), "high")) and words.contamination(filled(bare(), "high", "manifest")) is None
    made = filled(bare(), "not-detected")
    parts.attack_of(made, "loss_x0")["auc"] = {"value": 0.49, "low": 0.45, "high": 0.545}
    assert words.contamination(made) == f"If 5{N}% of the non-members were in training all the same, the upper bound 0.545 stands for 0.547; if 10{N}% were, for 0.550."


def test_provenance_says_whose_word_it_is():
    said = {kind: words.provenance_sentence(filled(bare(), "high", kind)) for kind in PROVENANCES}
    assert said["manifest"].startswith("Split verified by manifest abababab, seed 7:") and "owner's word" in said["stated-random"]
    assert "statement" in said["stated"] and said[None] == "How the split was drawn was not checked."
    made = filled(bare(), "high", "stated")
    made["queries"]["provenance"]["reason"] = "split.json covers 10 of 400 members: a selected part is not the random split"
    assert "covers 10 of 400" in words.provenance_sentence(made)
    assert words.provenance_sentence(made) in words.reasons(made)["not_tested"]


def test_the_manifest_that_the_sets_contradict():
    said = words.verdict_words(filled(bare(), "sets-differ", "manifest"))
    assert said.reason.startswith("The manifest says random, the sets say otherwise") and "0.710" in said.reason


@pytest.mark.parametrize(("passed", "highs", "said"), [(False, (0.6, None), ["b"]), (True, (0.6, None), []), (False, (0.4, 0.45), ["a", "b"]), (True, (0.4, 0.6), ["a"])])
def test_an_order_fault_is_among_the_warnings_once(passed, highs, said):
    """Rule 1 reads every setting, so an attack can be below chance there while its chosen setting is not."""
    done = {name: SimpleNamespace(auc=SimpleNamespace(high=high)) for name, high in zip("ab", highs, strict=True)}
    measured = SimpleNamespace(facts={"warnings": []})
    out = SimpleNamespace(measured=measured, kept=np.ones(4, bool), done=done, direction=SimpleNamespace(attack="b", passed=passed))
    assert _warnings(out) == [f"{name}: {words.BELOW_CHANCE}" for name in said]


@pytest.mark.parametrize("empty", [None, {}, {"auc": None, "reason": "all images are equal"}, {"auc": None, "reason": "all images are equal.", "differs": None, "p_value": None}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_a_blind_baseline(kind, empty):
    made = filled(bare(), kind) | {"blind_baseline": empty}
    said = "Whether the sets differ without the model: all images are equal" if empty else words.BLIND_NOT_CHECKED
    everything = list(sentences(made))
    assert words.verdict_words(made).not_seen[0] == words.blind_sentence(made) == said == made["verdict"]["not_tested"][0]
    assert words.features_sentence(made) == "" and not [text for text in everything if "Blind baseline: AUC" in text or "blind AUC" in text]
    assert f"<td>Blind baseline</td><td>{'not computed' if empty else 'not checked yet'}</td><td>{said}</td>" in sound(made)


def test_blind_power_is_said_where_no_difference_was_found():
    made = filled(bare(), "not-detected")
    assert words.blind_power(made) == ["A difference between the sets below AUC 0.589 would not have been seen"]
    assert words.blind_power(made)[0] in words.reasons(made)["not_tested"]
    assert words.blind_power(filled(bare(), "sets-differ")) == [] == words.blind_power(unfilled("high"))


def test_which_features_tell_the_sets_apart():
    said = words.features_sentence(filled(bare(), "sets-differ"))
    assert said == "What tells the sets apart: file bytes (larger for members, p = 0.001), jpeg table (smaller for members, p = 0.01)."
    assert words.features_sentence(filled(bare(), "high")).startswith("None of 4 single features tells the sets apart (largest: file bytes")


def test_where_the_blind_baseline_stands_among_the_reasons():
    assert words.reasons(filled(bare(), "sets-differ"))["reasons_against"][0] == "Blind baseline: AUC 0.710 [0.640, 0.780], p = 0.001: the sets differ without the model"
    assert "Blind baseline: AUC 0.531 [0.460, 0.602], p = 0.21: no difference seen without the model" in words.reasons(filled(bare(), "high"))["reasons_for"]
    near = words.reasons(filled(bare(), "near"))["reasons_against"]
    assert "Blind baseline: AUC 0.531 [0.460, 0.602], p = 0.21: the images alone could explain as much" in near


def test_what_did_not_run_is_named():
    said = words.reasons(filled(bare(), "high", None))["not_tested"]
    assert words.PROVENANCE_NOT_CHECKED in said and "Black-box attacks, seeing only samples: none ran" in said
    assert "Gray-box attacks, using only the API: none ran" in said  # it failed in this run
    assert "1 of 4 attacks did not run: Intermediate outputs (out of memory at batch 1)." in said
    assert words.BLIND_NOT_CHECKED in words.reasons(unfilled("high"))["not_tested"]
    report = filled(bare(), "high", None)
    next(row for row in report["attacks"] if row["status"] == "failed")["reason"] = "It broke. Give it more steps."  # whole sentences of an error
    assert "1 of 4 attacks did not run: Intermediate outputs (It broke. Give it more steps)." in words.reasons(report)["not_tested"]


def test_sentences_of_the_parts():
    made = filled(bare(), "high", "manifest")
    assert words.epsilon_sentences(made) == [
        f"ε ≥ 0.6 (95{N}%), ceiling 4.9 for this n; δ = 1e-5, 160 of 210 guesses right.",
        "Beside it, no bounds: two-rate estimate ε 0.4, Gaussian-DP μ 0.9.",
        "It rests on the verified manifest.",
        "The claimed ε = 0.5, δ = 1e-5 is contradicted (p = 0.02).",
    ]
    assert words.set_level_sentences(made)[0].startswith("As a whole, the members score higher than the non-members (p < 0.001")
    assert words.flags_sentences(made)[1] == f"Of the flagged images 96.2{N}% [91.0, 99.0] are members if half of all images are."
    assert words.epsilon_sentences(filled(bare(), "high")) == ["No lower bound on ε: An ε needs a split that was drawn at random."]

"""What the owner may and may not say: every sentence follows from the report, and every number in it is the report's."""

import re

import pytest

from audit import format as fmt
from audit.report.claims import claims, claims_of
from audit.report.parts import attack_of, tpr_of
from tests.evidence_home import filled
from tests.test_words import KINDS, PROVENANCES, bare, grid, unfilled

N = "\u202f"


def texts(made, side):
    return [claim["text"] for claim in claims(made)[side]]


def why(made, text):
    """The reason of the one blocked sentence that begins so."""
    found = [claim["why"] for claim in claims(made)["blocked"] if claim["text"].startswith(text)]
    assert len(found) == 1, texts(made, "blocked")
    return found[0]


def test_every_claim_is_a_sentence_with_its_ground():
    for made in grid():
        said = claims(made)
        assert set(said) == {"allowed", "blocked"} and said["allowed"] and len(said["blocked"]) >= 5
        assert all(set(claim) == {"text", "evidence"} and claim["text"].endswith(".") and claim["evidence"] for claim in said["allowed"])
        assert all(set(claim) == {"text", "why"} and claim["text"].endswith(".") and claim["why"].endswith(".") for claim in said["blocked"])
        both = [claim["text"] for side in said.values() for claim in side]
        assert len(both) == len(set(both))


def test_the_sentence_after_not_detected():
    made = filled(bare(), "not-detected")
    assert texts(made, "allowed")[0] == (
        "On 225 members and 225 non-members, held out: None of the 3 attacks told members from non-members better than chance. A leak below AUC 0.580, or one that "
        f"exposes fewer than 5.2{N}% of the members, would not have been seen. This holds if none of the non-members was trained on."
    )
    assert why(made, "The model does not memorise.").startswith("A leak below AUC 0.580")


def test_after_high_the_bounds_are_quoted_and_not_the_values():
    made = filled(bare(), "high")
    auc, share = texts(made, "allowed")[:2]
    assert f"in at least 71{N}% of cases (AUC 0.765 [0.718, 0.807])" in auc and f"names at least 20{N}% of the members" in share
    tpr_of(attack_of(made, "loss_eps"), 0.01)["low"] = 0.0
    assert not [text for text in texts(made, "allowed") if "names at least" in text]


@pytest.mark.parametrize("kind", ["sets-differ", "near", "control", "order", "few", "few-images"])
def test_an_audit_that_cannot_decide_allows_no_claim_about_membership(kind):
    for provenance in PROVENANCES:
        said = " ".join(texts(filled(bare(), kind, provenance), "allowed"))
        assert "cannot decide" in said
        assert not re.search(r"beyond chance \(|names at least|ranks a random member|flagged|As a whole|no ε below", said), (kind, provenance)


def test_a_claim_rests_on_the_owner_s_word_unless_a_manifest_shows_the_split():
    condition = "provided that both sets were drawn as the owner states"
    assert condition in texts(filled(bare(), "high", "stated"), "allowed")[0] and condition in texts(filled(bare(), "high", None), "allowed")[0]
    verified = filled(bare(), "high", "manifest")
    assert condition not in " ".join(texts(verified, "allowed"))
    assert "The split is verified as random." not in texts(verified, "blocked")
    assert why(filled(bare(), "high", "stated-random"), "The split is verified") == "The owner says so, and no manifest shows it."
    contradicted = texts(filled(bare(), "sets-differ", "manifest"), "allowed")
    assert not [text for text in contradicted if "those of the manifest" in text]


def test_a_manifest_vouches_for_the_images_and_not_for_the_training():
    """That the coins fell before training is nothing that a file can show."""
    said = texts(filled(bare(), "high", "manifest"), "allowed")
    assert "The audited images and their labels are those of the manifest; that training kept to it is the owner's word." in said
    assert not [text for text in said if "before training" in text]


@pytest.mark.parametrize(("low", "said"), [(0.501, True), (0.5, False), (0.46, False), (None, False)])
def test_a_ranking_is_claimed_only_where_its_lower_bound_clears_chance(low, said):
    """A high verdict may rest on the TPR alone."""
    made = filled(bare(), "high")
    attack_of(made, "loss_x0")["auc"] |= {"value": 0.52, "low": low, "high": None if low is None else 0.56}
    assert bool([text for text in texts(made, "allowed") if "ranks a random member" in text]) == said
    assert [text for text in texts(made, "allowed") if "names at least" in text]


def test_always_blocked():
    for kind in KINDS:
        said = texts(filled(bare(), kind), "blocked")
        assert {"No training data can be recovered from this model.", "These weights can be released without risk.", "The weights hold no personal data."} <= set(said)


def test_an_epsilon_is_only_ever_a_lower_bound():
    made = filled(bare(), "high", "manifest")
    assert "lower bound" in next(text for text in texts(made, "allowed") if "ε" in text) and "verified by a manifest" in " ".join(texts(made, "allowed"))
    assert why(made, "Training meets ε = 0.6.").startswith(f"An audit bounds ε from below (ε ≥ 0.6 (95{N}%)")
    assert "An ε needs a split that was drawn at random." in why(filled(bare(), "high"), "Training meets an ε.")
    made["epsilon_lower_bound"]["claim"] = {"epsilon": 8.0, "delta": 1e-5, "p_value": 0.9, "contradicted": False}
    assert why(made, "The claimed ε = 8 is confirmed.") and not [text for text in texts(made, "allowed") if "contradicted" in text]


def test_a_threat_model_that_did_not_run_is_blocked_until_it_runs():
    made = filled(bare(), "not-detected")
    assert "black-box" in why(made, "An attacker seeing only samples learns nothing") and "gray-box" in why(made, "An attacker using only the API learns nothing")
    made["attacks"].append(attack_of(made, "loss_vlb") | {"name": "nearest", "threat_model": "black-box"})
    assert not [text for text in texts(made, "blocked") if "seeing only samples" in text]


def test_rates_that_the_images_cannot_carry_are_blocked():
    made = filled(bare(), "high")
    assert why(made, f"No member is found at 0.1{N}% FPR.") == f"Not resolvable with n = 225 non-members; at most 32{N}% is all that can be said."
    assert why(made, f"At least 27{N}% of the members are found at 1{N}% FPR.").endswith("from 368 it does.")
    point = tpr_of(attack_of(made, "loss_eps"), 0.01)
    point["resolution"] = "resolvable"
    assert not [text for text in texts(made, "blocked") if f"found at 1{N}% FPR" in text]


def test_the_best_of_the_sweep_is_not_the_result():
    made = filled(bare(), "high")
    assert why(made, "The best setting reaches AUC 0.785.").endswith(f"Held out it is {fmt.value_interval(attack_of(made, 'loss_x0')['auc'])}.")
    assert why(made, "The numbers of the paper's protocol")


@pytest.mark.parametrize("kind", ["not-detected", "few"])
def test_a_second_test_does_not_speak_against_the_verdict(kind):
    """The set-level test and the flags are not in the rule: where it found nothing they are shown, and claim nothing."""
    said = " ".join(texts(filled(bare(), kind, "manifest"), "allowed"))
    assert "As a whole" not in said and "flagged" not in said
    assert "As a whole" in " ".join(texts(filled(bare(), "elevated", "manifest"), "allowed"))


def test_a_flag_is_no_accusation():
    reason = why(filled(bare(), "high"), "This one picture was in the training set")
    assert f"false in up to 10{N}% of cases" in reason and f"21{N}% of the flagged are members" in reason


def test_matching_sets_are_not_called_alike():
    assert why(filled(bare(), "high"), "The two sets are alike.") == "A difference between the sets below AUC 0.589 would not have been seen."
    assert why(unfilled("high"), "Members and non-members come from one source.") == "Whether the sets differ without the model was not checked."
    made = filled(bare(), "high") | {"blind_baseline": {"auc": None, "reason": "all images are equal"}}
    assert why(made, "Members and non-members come from one source.") == "Whether the sets differ without the model: all images are equal."


def test_an_older_report_gets_its_claims_when_it_is_read():
    made = unfilled("high")
    assert made["verdict"]["claims"] is None and claims_of(made) == claims(made)
    stored = {"allowed": [], "blocked": []}
    made["verdict"]["claims"] = stored
    assert claims_of(made) is stored

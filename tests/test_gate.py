"""The gate's three ways, each limit, what it needs, and what it writes."""

import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import gate
from audit.cli import _parser, main
from audit.cli_gate import junit, markdown, table
from audit.errors import RequestError
from audit.gate import Limits, check, judge
from audit.stats.auc import auc_interval
from audit.stats.tpr import FPRS, tpr_at_fpr
from tests.evidence_home import run_folders  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
DOC = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
ORDER = ("broken", "undecided", "kept")
HOSTILE = "]]></failure>\x1b[31m|<img src=x onerror=alert(1)> [a](http://b) `c` \u202e\ufffe & \"'"


@pytest.fixture(scope="module")
def folder(run_folders):  # noqa: F811
    """A run folder with a clear leak: 450 + 450 images, 225 of each judged."""
    return run_folders / "clear"


@pytest.fixture
def report(folder):
    """Its report, rewritten by hand: AUC 0.70 and 0.55, TPR 5 % at 1 % FPR, no ε."""
    made = json.loads((folder / "report.json").read_text())
    made["attacks"] = [attack(made, "loss_eps", 0.70, 0.65, 0.75), attack(made, "loss_x0", 0.55, 0.49, 0.61)]
    made["verdict"] |= {"level": "elevated", "kind": "elevated", "rule": 5, "headline_attack": "loss_eps", "tail_attack": "loss_eps"}
    made["epsilon_lower_bound"] = {"value": None, "reason": "the split is not known to be random"}
    return made


def attack(report, name, value, low, high, tpr=0.05, tpr_low=0.02, tpr_high=0.09, resolution="resolvable"):
    points = [{"fpr": fpr, "tpr": tpr, "low": tpr_low, "high": tpr_high, "resolution": resolution} for fpr in FPRS]
    return report["attacks"][0] | {"name": name, "status": "done", "reason": None, "auc": {"value": value, "low": low, "high": high, "noise_sd": None}, "tpr_at_fpr": points}


def row(found, key):
    return next(r for r in found.rows if r.key == key)


def outcome(report, **limits):
    """(exit code, outcome of the one limit given)."""
    found = check(report, Limits(**limits))
    return found.exit_code, found.rows[0].outcome


# --- three ways -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "low", "high", "expected"),
    [
        (0.6, 0.61, 0.7, "broken"),
        (0.6, 0.6, 0.7, "undecided"),  # at the lower bound it is not below it
        (0.6, 0.5, 0.6, "kept"),  # at the upper bound it is kept
        (0.6, 0.5, 0.61, "undecided"),
        (0.6, None, 0.5, "kept"),
        (0.6, None, 0.7, "undecided"),
        (0.6, 0.7, None, "broken"),
        (0.6, 0.5, None, "undecided"),
        (0.6, None, None, "undecided"),
    ],
)
def test_the_three_ways(limit, low, high, expected):
    assert judge(limit, low, high) == expected


@pytest.mark.parametrize(("limit", "code"), [(0.60, 1), (0.6499, 1), (0.65, 3), (0.7499, 3), (0.75, 0), (0.9, 0)])
def test_an_auc_limit_is_held_against_the_bounds_of_the_strongest_attack(report, limit, code):
    found = check(report, Limits(max_auc=limit))
    assert found.exit_code == code and row(found, "max_auc").attack == "loss_eps" and "0.700 [0.650, 0.750]" in row(found, "max_auc").value


@pytest.mark.parametrize(("limit", "code"), [(0.015, 1), (0.05, 3), (0.09, 0)])
def test_a_tpr_limit_is_held_against_the_bounds_not_the_value(report, limit, code):
    assert outcome(report, max_tpr=((0.01, limit),))[0] == code


def test_one_attack_breaks_a_limit_whatever_the_others_do(report):
    report["attacks"][1]["auc"] |= {"low": None, "high": None, "value": None}  # no interval at all
    assert outcome(report, max_auc=0.6) == (1, "broken")
    assert outcome(report, max_auc=0.9) == (3, "undecided")  # the other one is not known to keep it


def test_the_attack_shown_is_the_one_that_decides(report):
    report["attacks"][1]["auc"] |= {"value": 0.8, "low": 0.7, "high": 0.9}
    report["attacks"].append(attack(report, "loss_vlb", 0.5, 0.45, 0.99))
    report["attacks"][0]["auc"]["high"] = 0.95
    assert row(check(report, Limits(max_auc=0.6)), "max_auc").attack == "loss_x0"  # the highest lower bound, not the highest upper one
    undecided = row(check(report, Limits(max_auc=0.7)), "max_auc")
    assert undecided.outcome == "undecided" and undecided.attack == "loss_vlb" and "1 of 3" not in undecided.words and "3 of 3" in undecided.words


def test_no_attack_that_ran_is_undecided(report):
    for entry in report["attacks"]:
        entry |= {"status": "failed", "reason": "out of memory", "auc": None, "tpr_at_fpr": None}
    found = check(report, Limits(0.99, ((0.1, 0.99),)))
    assert found.exit_code == 3 and [r.outcome for r in found.rows[:2]] == ["undecided"] * 2
    assert "out of memory" in row(found, "verdict").words


def test_an_inconclusive_verdict_is_never_kept_and_mends_nothing(report):
    report["verdict"] |= {"level": "inconclusive", "kind": "few", "rule": 7}
    assert outcome(report, max_auc=0.99) == (3, "kept")
    assert outcome(report, max_auc=0.60) == (1, "broken")


def test_an_unknown_verdict_is_not_kept(report):
    report["verdict"]["level"] = "fine"
    assert outcome(report, max_auc=0.99)[0] == 3


def test_an_fpr_that_is_not_resolvable_is_undecided_even_below_its_upper_bound(report):
    report["attacks"] = [attack(report, "loss_eps", 0.5, 0.4, 0.6, None, None, 0.02, "none")]
    found = check(report, Limits(max_tpr=((0.01, 0.9),)))
    assert found.exit_code == 3 and "not resolvable with n = 225" in row(found, "max_tpr").words


def test_a_coarse_tpr_may_keep_a_limit_and_says_that_it_cannot_break_one(report):
    report["attacks"] = [attack(report, "loss_eps", 0.5, 0.4, 0.6, 0.3, 0.0, 0.5, "coarse")]
    assert outcome(report, max_tpr=((0.01, 0.5),)) == (0, "kept")
    assert "n = 225 carries no lower bound" in row(check(report, Limits(max_tpr=((0.01, 0.4),))), "max_tpr").words


def test_a_tpr_limit_below_what_the_images_can_show_says_so(report):
    report["attacks"] = [attack(report, "loss_eps", 0.5, 0.4, 0.6, 0.0, 0.0, gate.smallest_upper(225))]
    words = row(check(report, Limits(max_tpr=((0.01, 0.016),))), "max_tpr").words
    assert "n = 225 members" in words and "1.7" in words
    assert outcome(report, max_tpr=((0.01, 0.0164),)) == (0, "kept")  # 1 - 0.025^(1/225) = 0.01626


@pytest.mark.parametrize(
    ("bound", "limit", "code"),
    [
        ({"value": None, "reason": "no random split"}, 5, 3),
        (None, 5, 3),
        ({"value": 1.5, "guesses": 100, "correct": 90}, 1, 1),
        ({"value": 1.5, "guesses": 100, "correct": 90}, 2, 3),
        ({"value": 1.5, "guesses": 100, "correct": 90}, 3, 3),  # these guesses allow 2.97, the training may have any ε above 1.5
        ({"value": 0.0, "guesses": 200, "correct": 100}, 0.4, 3),
        ({"value": 0.0, "guesses": 200, "correct": 100}, 1e6, 3),
        ({"value": 0.0, "guesses": 4, "correct": 2}, 0.4, 3),
        ({"value": 2.0, "guesses": 100, "correct": 100}, 50, 3),  # all right: nothing bounds it from above
        ({"value": 0.0, "guesses": 0, "correct": 0}, 50, 3),
        ({"value": 0.0}, 50, 3),
    ],
)
def test_an_epsilon_limit(report, bound, limit, code):
    report["epsilon_lower_bound"] = bound
    assert outcome(report, max_epsilon=limit)[0] == code


def test_an_epsilon_limit_is_never_kept_and_says_why(report):
    """Nothing found is what a model that leaks to a better attack shows too: an audit has no upper bound for ε."""
    report["epsilon_lower_bound"] = {"value": 0.0, "guesses": 200, "correct": 100, "basis": "manifest"}
    found = check(report, Limits(0.9, max_epsilon=5))
    words = row(found, "max_epsilon")
    assert (found.exit_code, row(found, "max_auc").outcome, words.outcome, words.high) == (3, "kept", "undecided", None)
    assert "these guesses allow at most 0.3" in words.value and words.words == f"{gate.NO_UPPER_EPSILON} The upper end bounds this attack's guesses, not the training."
    assert words.needs == gate.epsilon_needs(5) and "No number of images keeps this limit" in words.needs
    report["epsilon_lower_bound"] |= {"value": 5.5, "correct": 200}
    broken = row(check(report, Limits(max_epsilon=5)), "max_epsilon")
    assert broken.outcome == "broken" and broken.words == "The limit lies below the lower bound."


def test_the_upper_end_of_the_guesses():
    assert gate.epsilon_high(100, 90) == pytest.approx(np.log(0.950995 / 0.049005), abs=1e-4)  # 10/100: [.049005, .176223]
    assert gate.epsilon_high(1000, 100) == 0.0 and gate.epsilon_high(10, 11) is None and gate.epsilon_high(True, False) is None


def test_an_owner_s_word_is_named(report):
    report["epsilon_lower_bound"] = {"value": 0.0, "guesses": 200, "correct": 100, "basis": "stated-random"}
    assert "owner's word" in row(check(report, Limits(max_epsilon=1)), "max_epsilon").words


def test_an_attack_that_the_policy_names_must_have_run(report):
    assert outcome(report, max_auc=0.9, attacks=("loss_eps",))[0] == 0
    found = check(report, Limits(0.9, attacks=("loss_eps", "pia")))
    assert found.exit_code == 3 and "pia (not part of this run)" in row(found, "attacks").words
    report["attacks"][1] |= {"status": "failed", "reason": "out of memory"}
    found = check(report, Limits(0.9, attacks=("loss_x0",)))
    assert found.exit_code == 3 and "loss_x0 (failed: out of memory)" in row(found, "attacks").words


def test_naming_attacks_does_not_narrow_the_limits(report):
    assert outcome(report, max_auc=0.62, attacks=("loss_x0",)) == (1, "broken")


def test_min_images(report):
    assert outcome(report, max_auc=0.9, min_images=450)[0] == 0
    found = check(report, Limits(0.9, min_images=451))
    assert found.exit_code == 3 and row(found, "min_images").value == "450 + 450"


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), "0.1", True, None])
def test_what_is_not_a_number_decides_nothing(report, broken):
    for entry in report["attacks"]:
        entry["auc"] = {"value": broken, "low": broken, "high": broken, "noise_sd": None}
        entry["tpr_at_fpr"] = [point | {"low": broken, "high": broken} for point in entry["tpr_at_fpr"]]
    report["epsilon_lower_bound"] = {"value": broken, "guesses": 100, "correct": 50}
    found = check(report, Limits(0.9, ((0.01, 0.9),), 5))
    assert [r.outcome for r in found.rows[:3]] == ["undecided"] * 3
    assert table(report, found) and junit(report, found) and markdown(report, found)


bound = st.none() | st.floats(0, 1)
limit = st.floats(1e-6, 1)


@given(limit, limit, bound, bound)
def test_raising_a_limit_never_makes_it_worse(one, other, low, high):
    low_limit, high_limit = sorted((one, other))
    assert ORDER.index(judge(low_limit, low, high)) <= ORDER.index(judge(high_limit, low, high))


@given(limit, limit, st.lists(st.tuples(bound, bound), max_size=4), st.sampled_from(["resolvable", "coarse", "none"]))
def test_nor_a_whole_gate(one, other, bounds, resolution):
    made = {"queries": {"members": 200, "nonmembers": 200, "evaluation_members": 100, "evaluation_nonmembers": 100, "split": "half"}, "verdict": {"level": "?"}}
    ends = [{"value": 0.5, "low": low, "high": high} for low, high in bounds]
    points = [{"status": "done", "name": f"a{i}", "auc": e, "tpr_at_fpr": [e | {"fpr": 0.1, "tpr": 0.1, "resolution": resolution}]} for i, e in enumerate(ends)]
    low_limit, high_limit = sorted((one, other))
    for kind in ({"max_auc": low_limit}, {"max_auc": high_limit}), ({"max_tpr": ((0.1, low_limit),)}, {"max_tpr": ((0.1, high_limit),)}):
        first, second = (check(made | {"attacks": points}, Limits(**limits)) for limits in kind)
        assert ORDER.index(first.rows[0].outcome) <= ORDER.index(second.rows[0].outcome)
        each = [judge(low_limit, *pair) for pair in bounds]
        if "max_auc" in kind[0]:
            assert first.rows[0].outcome == ("broken" if "broken" in each else "kept" if each and set(each) == {"kept"} else "undecided")


# --- how many images --------------------------------------------------------------------------------------------------------------------------


def test_known_counts():
    assert gate.smallest_upper(100) == pytest.approx(0.036217, abs=1e-6)  # Clopper-Pearson 0/100 of statistics.md
    assert gate.auc_images(0.6) == (65, 131) and gate.auc_images(0.5) == (None, None)
    assert gate.tpr_images(0.1, 0.036218)[0] == 100 and gate.tpr_images(0.1, 0.036216)[0] == 101
    assert gate.tpr_images(0.01, 0.05)[0] == 100 and gate.tpr_images(0.001, 1.0)[0] == 1000  # 1/fpr non-members
    assert gate.tpr_images(0.01, 0.01)[1] is None and "by luck" in gate.tpr_needs(0.01, 0.01)
    assert "No number of images" in gate.auc_needs(0.5)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.3])
def test_no_tpr_limit_can_be_kept_below_the_possible_count(limit):
    possible = gate.tpr_images(0.1, limit)[0]
    for members in (possible - 1, possible):
        assert (gate.smallest_upper(members) <= limit) == (members == possible) or possible == 10


@pytest.mark.parametrize(("fpr", "limit"), [(0.1, 0.15), (0.1, 0.2), (0.1, 0.5), (0.01, 0.05), (0.01, 0.1), (0.001, 0.01)])
def test_a_model_without_a_leak_keeps_a_tpr_limit_at_the_likely_count_in_4_of_5_audits(fpr, limit):
    rng, n = np.random.default_rng(0), gate.tpr_images(fpr, limit)[1]
    is_member = np.arange(2 * n) < n
    kept = np.mean([tpr_at_fpr(rng.permutation(2 * n).astype(float), is_member, fpr).high <= limit for _ in range(150)])
    assert 0.8 - 3 * np.sqrt(0.8 * 0.2 / 150) <= kept <= 0.98  # counts are whole: 0.76 to 0.92 in 300 runs
    fewer = n // 3
    is_member = np.arange(2 * fewer) < fewer
    assert np.mean([tpr_at_fpr(rng.permutation(2 * fewer).astype(float), is_member, fpr).high <= limit for _ in range(50)]) < 0.6


def test_a_model_without_a_leak_keeps_an_auc_limit_at_the_likely_count_in_4_of_5_audits():
    rng = np.random.default_rng(1)
    for limit in (0.6, 0.65):
        possible, likely = gate.auc_images(limit)
        kept = []
        for n in (possible, likely):
            highs = [auc_interval(rng.normal(size=2 * n), np.arange(2 * n) < n).high for _ in range(200)]
            kept.append(np.mean(np.array(highs) <= limit))
        assert abs(kept[0] - 0.5) < 0.13 and abs(kept[1] - 0.8) < 0.1  # 3 binomial standard errors, and the interval's own shape


@pytest.mark.parametrize("limit", [0.1, 1, 3, 8])
def test_an_epsilon_limit_can_break_only_from_the_guesses_that_are_named(limit):
    """δ = 0: r right guesses of r have probability (e^ε / (1 + e^ε))^r, and 5 % is the bound's error."""
    guesses = gate.epsilon_guesses(limit)
    for r in (guesses - 1, guesses):
        assert (r * -np.log1p(np.exp(-limit)) < np.log(0.05)) == (r == guesses)
    assert f"{guesses:,} guesses" in gate.epsilon_needs(limit) and "can pass only from" not in gate.epsilon_needs(limit)


def test_an_epsilon_limit_that_no_audit_breaks():
    assert gate.epsilon_guesses(40) is None and "No audit of this size breaks it" in gate.epsilon_needs(40)


# --- policy and flags -------------------------------------------------------------------------------------------------------------------------


def policy(tmp_path, text):
    (tmp_path / "policy.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "policy.yaml"


def test_the_policy_file_of_the_docs(tmp_path):
    text = re.search(r"```yaml\n(max_auc.*?)```", DOC, re.S).group(1)
    assert gate.read_policy(policy(tmp_path, text)) == Limits(0.6, ((0.1, 0.2), (0.01, 0.05)), None, ("loss_x0", "loss_eps"), 700)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_acu: 0.6", "'max_acu'. Expected only the names max_auc"),
        ("max_auc: 0.6\nmax-auc: 0.9", "holds max_auc twice"),
        ("max_auc: yes", "max_auc is 'True'"),
        ("max_auc: .nan", "max_auc is nan"),
        ("max_auc: 0", "max_auc is 0"),
        ("max_auc: 1.2", "at most 1"),
        ("max_epsilon: .inf", "max_epsilon is inf"),
        ("max_epsilon: -1", "above 0"),
        ("max_tpr: 0.05", "max_tpr is 0.05. Expected a list"),
        ("max_tpr: [0.05]", "Expected entries such as {fpr: 0.01, tpr: 0.05}"),
        ("max_tpr: [{fpr: 0.02, tpr: 0.05}]", "false positive rate 0.02. A report holds 0.1, 0.01, 0.001"),
        ("max_tpr: [{fpr: 0.01, tpr: 0.05}, {fpr: 0.01, tpr: 0.5}]", "twice"),
        ("max_tpr: [{fpr: 0.01, tpr: 2}]", "max_tpr is 2"),
        ("max_tpr: [{fpr: x, tpr: 1}]", "max_tpr: fpr is 'x'"),
        ("attacks: loss_eps", "attacks is 'loss_eps'. Expected a list"),
        ("attacks: [3]", "not a name"),
        ("min_images: 0.5", "whole number"),
        ("min_images: 0", "at least 1"),
        ("- max_auc", "holds no limits"),
        ("", "holds no limits"),
        ("max_auc: [", "cannot be read"),
        ("max_auc: 2026-99-99", "cannot be read"),
        ("min_images: 10", "No limit was given"),
    ],
)
def test_a_bad_policy_is_one_line_and_exit_2(folder, tmp_path, capsys, text, words):
    assert main(["gate", str(folder), "--policy", str(policy(tmp_path, text))]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gate", "RUN"], "No limit was given"),
        (["gate"], "DIR is missing"),
        (["gate", "", "--max-auc", "0.6"], "is empty. Expected a path"),
        (["gate", "RUN", "--max-auc", "0.6", "--policy", ""], "--policy: is empty"),
        (["gate", "RUN", "--max-auc", "0.6", "--junit", ""], "--junit: is empty"),
        (["gate", "--max-auc", "0.6"], "DIR is missing"),
        (["gate", "/nowhere", "--max-auc", "0.6"], "not a finished run"),
        (["gate", "RUN", "--policy", "/nowhere/p.yaml"], "p.yaml cannot be read"),
        (["gate", "RUN", "--max-auc", "high"], "'high' is not a number"),
        (["gate", "RUN", "--max-auc", "nan"], "max_auc is nan"),
        (["gate", "RUN", "--max-tpr", "0.05"], "Expected TPR@FPR such as 0.05@0.01"),
        (["gate", "RUN", "--max-tpr", "0.05@0.05"], "A report holds 0.1, 0.01, 0.001"),
        (["gate", "RUN", "--max-auc", "0.6", "--junit", "/nowhere/x.xml"], "x.xml cannot be written"),
    ],
)
def test_a_mistake_on_the_command_line(folder, capsys, arguments, words):
    assert main([str(folder) if a == "RUN" else a for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err


def test_a_flag_wins_over_the_policy():
    base = Limits(0.6, ((0.1, 0.2), (0.01, 0.05)), 1, ("loss_x0",), 700)
    assert base.overridden(0.7, ((0.01, 0.1),)) == Limits(0.7, ((0.1, 0.2), (0.01, 0.1)), 1, ("loss_x0",), 700)
    assert base.overridden() == base and Limits().overridden(max_epsilon=2) == Limits(max_epsilon=2)


# --- the command ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "code"), [(["--max-auc", "0.55"], 1), (["--max-auc", "0.999"], 0), (["--max-tpr", "0.5@0.001"], 3)])
def test_exit_codes_and_files(folder, tmp_path, capsys, flags, code):
    assert main(["gate", str(folder), *flags, "--junit", str(tmp_path / "g.xml"), "--md", str(tmp_path / "g.md")]) == code
    out, err = capsys.readouterr()
    assert err == "" and out.endswith(f"exit code {code}.\n") and "can pass only from" in out
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()[0]
    kinds = [child.tag for case in suite for child in case]
    assert suite[0].get("name") in out and suite[0].get("classname") == ("gate.max_tpr" if code == 3 else "gate.max_auc")
    assert kinds == [{0: "system-out", 1: "failure", 3: "error"}[code], "system-out"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", str(int(code == 1)), str(int(code == 3)))
    assert f"exit code {code}." in (tmp_path / "g.md").read_text(encoding="utf-8")


def test_only_the_report_is_read(folder, tmp_path, capsys):
    for name in ("report.json", "request.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert main(["gate", str(tmp_path), "--max-auc", "0.55"]) == 1


def test_a_policy_alone_says_how_many_images_it_needs(tmp_path, capsys):
    assert main(["gate", "--policy", str(policy(tmp_path, "max_auc: 0.6\nmax_tpr: [{fpr: 0.01, tpr: 0.05}]\nmax_epsilon: 1"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = ("from 65 images a side; from 131", "from 200 images a side; from 692", "No number of images keeps this limit", "176")
    assert [n in line for n, line in zip(said, lines, strict=True)] == [True] * 4


@settings(max_examples=30, deadline=None)  # each builds the whole parser
@given(limit, st.floats(1e-4, 1), st.floats(0.01, 100))
def test_the_command_shown_means_the_same_limits(auc, tpr, epsilon):
    limits = Limits(auc, ((0.01, tpr),), epsilon)
    args = _parser().parse_args(shlex.split(gate.command(limits).removeprefix("python -m audit ")))
    assert args.folder == "DIR" and Limits().overridden(args.max_auc, tuple(args.max_tpr), args.max_epsilon) == limits


def test_text_from_outside_is_text(report):
    report["run"]["name"] = HOSTILE
    report["attacks"][0]["name"] = HOSTILE
    report["attacks"][1] |= {"status": "failed", "reason": HOSTILE}
    report["verdict"]["level"] = HOSTILE
    report["epsilon_lower_bound"]["reason"] = HOSTILE
    found = check(report, Limits(0.6, ((0.01, 0.05),), 1, (HOSTILE, "pia")))
    root = ElementTree.fromstring(junit(report, found))
    assert {node.tag for node in root.iter()} == {"testsuites", "testsuite", "testcase", "failure", "error"}
    assert "<img src=x onerror=alert(1)>" in root[0][0][0].get("message")
    written = markdown(report, found)
    assert len([line for line in written.splitlines() if line.startswith("| ")]) == len(found.rows) + 2
    assert not re.search(r"(?<!\\)[<`\[&]", written) and "http\\:" in written
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in written.splitlines() if line.startswith("|"))
    for text in (written, table(report, found)):
        assert "\x1b" not in text and "\u202e" not in text


def test_the_numbers_in_the_docs():
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in DOC.splitlines() if re.match(r"\| (AUC|TPR|verdict) ", line)]
    said = [(re.findall(r"[\d.]+", c[0]), [re.sub(",", "", n) for n in c[1:]]) for c in cells if len(c) == 3]
    assert len(said) == 7
    for (values, counts), row in zip(said, cells, strict=True):
        if row[0].startswith("AUC"):
            sentence = gate.auc_needs(float(values[0]))
        elif row[0].startswith("TPR"):
            sentence = gate.tpr_needs(float(values[1]) / 100, float(values[0]) / 100)
        else:
            sentence = gate.VERDICT_NEEDS
        assert [n for n in counts if n] == re.findall(r"(?<=from )(?:about )?(\d+)", sentence.replace(",", "")), row


def test_the_workflow_in_the_docs():
    text = re.findall(r"```yaml\n(.*?)```", DOC, re.S)[-1]
    steps = yaml.safe_load(text)["jobs"]["audit"]["steps"]
    commands = [line.strip() for step in steps for line in step.get("run", "").splitlines() if line.strip().startswith("python -m audit")]
    assert len(commands) == 2
    for line in commands:
        assert line.endswith("|| code=$?")  # exit code 3 must not end the step before it is looked at
        _parser().parse_args(shlex.split(line.removesuffix("|| code=$?"))[3:])
    for line in re.findall(r"^    (python -m audit gate .*)$", DOC, re.M):
        _parser().parse_args(shlex.split(line)[3:])


def test_limits_that_were_built_in_code_are_checked_too(report):
    with pytest.raises(RequestError, match="No limit"):
        check(report, Limits(min_images=3))
    with pytest.raises(RequestError, match="max_auc"):
        Limits(max_auc=float("nan"))

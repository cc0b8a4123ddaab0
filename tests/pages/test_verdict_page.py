"""The start page: every number and sentence on it comes from report.json, and each number says where it comes from."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audit import format as fmt
from audit.report import evidence as ev
from audit.report import figures, html, sections, words
from audit.report.run import open_run
from audit.stats.auc import auc as auc_of
from tests.evidence_home import FEATURES, filled, open_page, specs
from tests.pages.test_frame import start

N = "\u202f"
ROOT = Path(__file__).resolve().parents[2]


def report(home_, run):
    return json.loads((home_ / "runs" / run / "report.json").read_text())


def rewrite(home_, run, made):
    (home_ / "runs" / run / "report.json").write_text(json.dumps(made))
    return made


def older(made):
    """The report as a version wrote it that had none of the newer parts."""
    for name in ("blind_baseline", "flags", "set_level", "epsilon_lower_bound", "paper_protocol", "minimum_detectable_share"):
        made[name] = None
    made["queries"] |= {"provenance": None, "duplicates": {"exact": 0, "near": None}}
    made["controls"] = made["controls"][:1]
    made["verdict"] |= words.reasons(made) | {"claims": None}
    return made


def shown(at):
    return [t.value for t in at.text]


@pytest.mark.parametrize("run", ["clear", "few"])
def test_the_card_says_what_the_report_says(home, run):
    at, made = open_page("verdict", run=run), report(home, run)
    said, texts = words.verdict_words(made), shown(at)
    assert at.header[0].value == said.headline
    assert texts[:2] == [said.reason, said.next]
    assert texts[2 : 2 + len(said.for_) + len(said.against) + len(said.not_seen)] == [*said.for_, *said.against, *said.not_seen]
    assert words.NOT_SEEN_ALWAYS in texts


@pytest.mark.parametrize("run", ["clear", "few"])
def test_tiles_are_the_report_s_numbers(home, run):
    made = rewrite(home, run, filled(report(home, run), "high"))
    head, tail = (words.attack_of(made, made["verdict"][f"{which}_attack"]) for which in ("headline", "tail"))
    auc, tpr, blind, control = open_page("verdict", run=run).metric[:4]
    assert (auc.label, auc.value, auc.delta) == ("AUC, headline attack", f"{head['auc']['value']:.3f}", f"95 % {fmt.auc_bounds(head['auc']['low'], head['auc']['high'])}")
    assert "best attack on the calibration half" in auc.help
    point, (members, n) = words.tpr_of(tail, 0.01), words.curve_images(made)
    assert tpr.label == f"TPR at 1{N}% FPR"
    if run == "few":
        assert (tpr.value, tpr.delta) == ("not resolvable", f"n = {n}")
    else:
        assert tpr.value == fmt.tpr_value(point, members, n) and tpr.delta.endswith("coarse")
    assert (blind.label, blind.value, blind.delta) == ("Blind baseline AUC", "0.531", "95 % [0.460, 0.602] · sets match")
    assert "A difference between the sets below AUC 0.589 would not have been seen." in blind.help
    assert (control.value, control.delta) == (f"{made['controls'][0]['auc']:.3f}", "chance, as it must be")


@pytest.mark.parametrize("kind, doubt", [("sets-differ", "not evidence: the sets differ"), ("near", "not evidence: the sets may differ"), ("few", "95 % [")])
def test_an_audit_that_cannot_decide_leads_with_the_blind_baseline(home, kind, doubt):
    made = rewrite(home, "clear", filled(report(home, "clear"), kind))
    at = open_page("verdict", run="clear")
    assert [m.label for m in at.metric[:4]] == ["Blind baseline AUC", "AUC, headline attack", f"TPR at 1{N}% FPR", "Shuffled-label control"]
    assert at.metric[1].delta.startswith(doubt)
    head = words.attack_of(made, made["verdict"]["headline_attack"])
    assert fmt.auc_bounds(head["auc"]["low"], head["auc"]["high"]) in at.metric[1].delta + at.metric[1].help


@pytest.mark.parametrize("kind", ["sets-differ", "near"])
def test_the_page_calls_nothing_a_leak_where_the_sets_may_differ(home, kind):
    rewrite(home, "clear", filled(report(home, "clear"), kind))
    at = open_page("verdict", run="clear")
    words_on_it = [*shown(at), *(m.value for m in at.markdown), *(h.value for h in at.header), *(m.delta or "" for m in at.metric)]
    assert not [text for text in words_on_it if "leak" in text.lower()]
    assert "**What else explains it**" in [m.value for m in at.markdown]


def test_a_report_without_the_newer_parts_is_shown_in_full(home):
    rewrite(home, "clear", older(report(home, "clear")))
    at = open_page("verdict", run="clear")
    assert (at.metric[2].value, at.metric[2].delta) == ("not checked yet", "do the sets differ without the model?")
    assert words.BLIND_NOT_CHECKED in shown(at) and words.PROVENANCE_NOT_CHECKED in shown(at)
    assert "No training data can be recovered from this model." in shown(at)
    document = html.render(open_run(home / "runs" / "clear"))
    assert "not checked yet" in document and "What you may say" in document


def test_a_blind_baseline_that_could_not_be_computed_says_why(home):
    made = filled(report(home, "clear")) | {"blind_baseline": {"auc": None, "reason": "all images are equal"}}
    rewrite(home, "clear", made)
    at = open_page("verdict", run="clear")
    assert not at.exception and at.metric[2].value == "not computed" and "all images are equal" in at.metric[2].help
    assert "Whether the sets differ without the model: all images are equal" in html.render(open_run(home / "runs" / "clear"))


def test_a_failed_control_is_not_called_chance(home):
    made = report(home, "clear")
    made["controls"][0] |= {"auc": 0.7, "low": 0.65, "high": 0.75, "passed": False}
    made["verdict"] |= {"level": "inconclusive", "kind": "control"}
    rewrite(home, "clear", made)
    at = open_page("verdict", run="clear")
    assert at.metric[3].delta == "not chance: control failed"
    assert at.header[0].value == "This audit cannot decide: a control failed."
    assert [m.delta for m in at.metric if m.label == "AUC, headline attack"] == ["not evidence: a control failed"]


def test_warnings_are_shown(home):
    made = report(home, "clear")
    made["warnings"] = [f"loss_vlb: {words.BELOW_CHANCE}"]
    rewrite(home, "clear", made)
    assert f"loss_vlb: {words.BELOW_CHANCE}" in shown(open_page("verdict", run="clear"))


def test_the_minis_are_drawn_and_say_what_they_show(home):
    at = open_page("verdict", run="clear")
    roc, along = specs(at)[:2]
    assert roc["layout"]["xaxis"]["type"] == "log" and along["layout"]["yaxis"]["title"]["text"] == "AUC"
    made = report(home, "clear")
    assert [t["meta"]["area"] for t in roc["data"] if "meta" in t] == [pytest.approx(words.attack_of(made, made["verdict"]["headline_attack"])["curve_auc"], abs=1e-12)]
    assert all(chart.proto.alt for chart in at.get("plotly_chart"))
    assert len([c for c in at.caption if "n = 225 members + 225 non-members" in c.value]) == 2


def test_the_ways_on(home):
    at = start(run="clear")
    assert "?run=clear" in at.code[0].value
    next(b for b in at.button if b.label == "Open the report").click().run()
    assert [t.value for t in at.title] == ["Report"] and at.query_params["run"] in ("clear", ["clear"])


def test_every_claim_is_on_the_page_with_its_ground(home):
    made = rewrite(home, "clear", filled(report(home, "clear"), "high", "manifest"))
    texts = shown(open_page("verdict", run="clear"))
    for claim in made["verdict"]["claims"]["allowed"]:
        assert texts[texts.index(claim["text"]) + 1] == claim["evidence"]
    for claim in made["verdict"]["claims"]["blocked"]:
        assert texts[texts.index(claim["text"]) + 1] == claim["why"]
    assert {*made["verdict"]["not_tested"], *words.limits(made)} <= set(texts)


def test_the_controls_and_the_features_are_on_the_page(home):
    made = rewrite(home, "clear", filled(report(home, "clear"), "sets-differ"))
    at = open_page("verdict", run="clear")
    table = next(h.proto.body for h in at.get("html") if "Planted leak" in h.proto.body)
    assert sections.sound(made) in table and "AUC 0.640 planted" in table and "0.481 [0.410, 0.550]" in table and "3 near" in table
    bars = specs(at)[-1]["data"][0]
    assert list(bars["y"]) == [name.replace("_", " ") for name, *_ in FEATURES] and list(bars["x"]) == [z for _, z, _ in FEATURES]


def test_features_that_tell_are_full_bars_and_the_others_are_hatched():
    rows = [{"name": name, "z": z, "p_value": p} for name, z, p in FEATURES] + [{"name": "constant", "z": None, "p_value": None}]
    figure = figures.features_figure(rows)
    assert list(figure.data[0].marker.pattern.shape) == ["", "", "/", "/"] and list(figure.data[0].text) == ["p = 0.001", "p = 0.01", "p = 0.60", "p = 0.99"]
    assert figure.layout.yaxis.automargin and figure.layout.xaxis.range[1] > 7.3
    assert "file bytes (z = 7.3), jpeg table (z = −4.1)" in figures.alt(figure)
    assert "none beyond chance" in figures.alt(figures.features_figure(rows[2:]))


# --- where the numbers come from ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(home):
    """The clear run with every part filled, opened."""
    rewrite(home, "clear", filled(report(home, "clear"), "high", "manifest"))
    return open_run(home / "runs" / "clear")


def test_each_tile_has_its_drawer_and_hashes_wait_for_it(home, full):
    at = open_page("verdict", run="clear")
    assert len([p for p in at.get("popover") if p.proto.popover.label == "How was this computed?"]) == 4
    table = ev.evidence(full)["auc"].files[0]
    digest = hashlib.sha256((full.folder / table).read_bytes()).hexdigest()
    assert not [h for h in at.get("html") if digest in h.proto.body]
    at.session_state["drawer_auc"] = True
    at.run()
    assert not at.exception and [h for h in at.get("html") if digest in h.proto.body] and "python -m audit rescore DIR" in [c.value for c in at.code]


def test_the_evidence_of_every_headline_number(full):
    found = ev.evidence(full)
    assert list(found) == ["auc", "tpr", "p_value", "blind", "shuffled_labels", "nonmembers_twice", "planted_leak", "set_level", "epsilon", "comparisons"]
    made = full.report
    head = words.attack_of(made, made["verdict"]["headline_attack"])
    assert (found["auc"].value, found["auc"].n, found["auc"].settings) == (fmt.auc(head["auc"]["value"]), "225 members + 225 non-members", words.settings_words(head["settings"]))
    assert found["auc"].calls == f"{head['model_calls_at_setting']} at this setting, {head['model_calls_per_image']} as run"
    assert all(entry.recompute[0] == ev.RESCORE and "calibration" in entry.half + found["auc"].half for entry in found.values())
    document = html.render(full)
    assert document.count("<details>") == len(found) and hashlib.sha256((full.folder / found["auc"].files[0]).read_bytes()).hexdigest() in document


def test_a_file_that_is_gone_is_called_missing(full):
    assert ev.sha256(full, "tables/nothing.npy") == "missing"


def recomputed(folder, command):
    """What a command of the drawer prints, as a float; DIR replaced by the folder, run where `python -m audit` runs."""
    code = command.removeprefix('python -c "').removesuffix('"').replace("DIR", str(folder))
    return float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_the_second_command_prints_the_number(full):
    made, found = full.report, ev.evidence(open_run(full.folder))
    head, tail = (words.attack_of(made, made["verdict"][f"{which}_attack"]) for which in ("headline", "tail"))
    assert recomputed(full.folder, found["auc"].recompute[1]) == head["auc"]["value"]
    assert recomputed(full.folder, found["tpr"].recompute[1]) == words.tpr_of(tail, 0.01)["tpr"]
    assert recomputed(full.folder, found["comparisons"].recompute[1]) == max(row["difference"] for row in made["comparisons"])


def test_the_permutation_test_is_recomputed_from_the_scores(home):
    run = open_run(home / "runs" / "clear")
    assert recomputed(run.folder, ev.evidence(run)["p_value"].recompute[1]) == run.report["permutation"]["p_value"]


def test_the_blind_auc_is_the_mean_over_the_folds_of_images_csv(full):
    rng = np.random.default_rng(0)
    blind, fold = rng.normal(size=len(full.image_ids)) + 0.5 * full.is_member, np.arange(len(full.image_ids)) % 5
    with open(full.folder / "images.csv", "w", encoding="utf-8", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image_id", "conformal_p", "flagged", "blind", "blind_fold"])
        rows.writerows([i, "", "", repr(float(b)), f] for i, b, f in zip(full.image_ids, blind, fold, strict=True))
    expected = np.mean([auc_of(blind[fold == k], full.is_member[fold == k]) for k in range(5)])
    assert recomputed(full.folder, ev.evidence(full)["blind"].recompute[1]) == pytest.approx(expected, abs=1e-12)


def test_below_400_a_side_no_single_command_claims_the_mean_over_repeats(home):
    made = filled(report(home, "few"), "few")
    made["queries"] |= {"split": "cross-fitted"}
    rewrite(home, "few", made)
    found = ev.evidence(open_run(home / "runs" / "few"))
    assert found["auc"].recompute == (ev.RESCORE,) and "cross-fitting" in found["auc"].half and "first repeat" in found["tpr"].half


def test_the_document_holds_every_new_section(full):
    titles = {part.key: part.html for part in sections.sections(full)}
    assert {"thresholds", "single", "whole", "epsilon", "claims", "paper", "evidence"} <= set(titles)
    assert f"9.0{N}% [5.0, 14.0]" in titles["thresholds"] and "needs 999" in titles["thresholds"]
    assert "Optimistic" in titles["paper"].partition("<table")[0] and "optimistic" in next(part.title for part in sections.sections(full) if part.key == "paper")
    assert words.contamination(full.report) is None and "verified by manifest" in titles["sound"]
    assert "p &lt; 0.01" in titles["whole"] and "ε ≥ 0.6" in titles["epsilon"]

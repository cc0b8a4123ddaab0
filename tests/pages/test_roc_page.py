"""Curves, counts and table of the ROC page, against scikit-learn on scores.csv and against report.json."""

import json

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve

from audit import format as fmt
from audit.report.run import open_run
from audit.report.series import card, done
from tests.evidence_home import badges, control, open_page, specs, trace

SLIDER = "False accusations the attacker accepts"


def evaluation(home_, run):
    """The evaluation rows of scores.csv, read without the program."""
    frame = pd.read_csv(home_ / "runs" / run / "scores.csv")
    return frame[frame["half"] == "evaluation"]


def counts(at):
    """TP, FN, FP, TN from the tiles."""
    return [int(m.value.replace(",", "")) for m in at.metric]


def test_drawn_curves_are_the_roc_of_the_evaluation_rows(home):
    rows, at = evaluation(home, "clear"), open_page("roc", run="clear")
    log, linear = specs(at)[:2] if specs(at)[0]["layout"]["xaxis"].get("type") == "log" else specs(at)[1::-1]
    for name in ("loss_eps", "loss_vlb", "loss_x0", "gray_intermediate"):
        fpr, tpr, _ = roc_curve(rows["is_member"], rows[name], drop_intermediate=False)
        curve = trace(linear, card(name)[0])
        corners = set(zip(np.round(fpr, 12), np.round(tpr, 12), strict=True))
        assert set(zip(np.round(curve["x"], 12), np.round(curve["y"], 12), strict=True)) <= corners
        assert abs(np.trapezoid(curve["y"], curve["x"]) - roc_auc_score(rows["is_member"], rows[name])) < 1e-6
        assert len(curve["x"]) <= 300
        assert min(trace(log, card(name)[0])["x"]) >= 1 / (~rows["is_member"]).sum() - 1e-12


def test_counts_at_one_percent_are_the_reports_tpr(home):
    run, at = open_run(home / "runs" / "clear"), open_page("roc", run="clear")
    headline = run.report["verdict"]["headline_attack"]
    tp, fn, fp, tn = counts(at)
    q = run.report["queries"]
    assert (tp + fn, fp + tn) == (q["evaluation_members"], q["evaluation_nonmembers"])
    assert control(at, SLIDER, "select_slider").value == fmt.fpr(0.01)
    assert tp / (tp + fn) == next(p["tpr"] for p in run.attack(headline)["tpr_at_fpr"] if p["fpr"] == 0.01)
    assert fp / (fp + tn) <= 0.01
    assert badges(at) == ["exploratory"]


def test_the_diamond_is_the_point_of_the_tiles_in_both_curves(home):
    at = open_page("roc", run="clear", fpr=fmt.fpr(0.05))
    tp, fn, fp, tn = counts(at)
    marks = [trace(spec, "threshold") for spec in specs(at) if spec["layout"]["yaxis"]["title"]["text"].startswith("true")]
    assert [(m["x"][0], m["y"][0]) for m in marks] == [(fp / (fp + tn), tp / (tp + fn))] * 2


def test_the_calibrated_stop_is_held_out_and_uses_no_evaluation_score(home):
    at = open_page("roc", run="clear", fpr="calibrated")
    assert badges(at) == ["held out"]
    frame = pd.read_csv(home / "runs" / "clear" / "scores.csv")
    headline = open_run(home / "runs" / "clear").report["verdict"]["headline_attack"]
    before = frame[(frame["half"] == "calibration") & ~frame["is_member"]][headline].sort_values(ascending=False).to_numpy()
    rank = int(0.01 * (len(before) + 1))
    rows = evaluation(home, "clear")
    hit, member = rows[headline] > before[rank - 1], rows["is_member"]
    assert counts(at) == [int(x.sum()) for x in (hit & member, ~hit & member, hit & ~member, ~hit & ~member)]


def test_few_images_offer_no_rate_below_one_in_n(home):
    slider = control(open_page("roc", run="few"), SLIDER, "select_slider")
    assert slider.options == ["calibrated", *(fmt.fpr(f) for f in (0.05, 0.1, 0.2, 0.5))]
    assert slider.value == fmt.fpr(0.05)


def test_table_prints_the_report_and_keeps_attacks_that_failed(home):
    path = home / "runs" / "few" / "report.json"
    report = json.loads(path.read_text())
    lost = next(row for row in report["attacks"] if row["name"] == "loss_x0")
    lost.update(status="skipped", reason="needs a sample pool", auc=None, tpr_at_fpr=None, selection=None)
    path.write_text(json.dumps(report))
    at = open_page("roc", run="few")
    table, run, q = at.dataframe[0].value, open_run(home / "runs" / "few"), report["queries"]
    assert len(table) == len(report["attacks"]) and table["status"].tolist()[-1] == "skipped: needs a sample pool"
    for name in done(run):
        row, shown = run.attack(name), table[table["attack"].str.startswith(card(name)[1])].iloc[0]
        assert shown["AUC"] + " " + shown["95 % interval"] == fmt.value_interval(row["auc"])
        for point in row["tpr_at_fpr"]:
            assert shown[f"TPR at {fmt.fpr(point['fpr'])} FPR"] == fmt.tpr(point, q["curve_members"], q["curve_nonmembers"])
    assert "not resolvable with n = 32" in table[f"TPR at {fmt.fpr(0.01)} FPR"].tolist()
    assert "x0 error" not in at.pills[0].options


def test_chosen_attacks_come_from_the_address_and_the_first_leads(home):
    at = open_page("roc", run="clear", attacks=["x0 error", "Intermediate"])
    names = [t["name"] for t in specs(at)[0]["data"] if t.get("name") in ("Noise error", "VLB", "x0 error", "Intermediate")]
    assert set(names) == {"x0 error", "Intermediate"}
    at.pills[0].set_value([]).run()
    assert not at.exception and not at.get("plotly_chart")
    assert any(c.value == "Choose at least one attack." for c in at.caption)


def test_below_chance_is_said_and_not_flipped(home):
    path = home / "runs" / "few" / "report.json"
    report = json.loads(path.read_text())
    report["attacks"][0]["auc"].update(value=0.31, low=0.27, high=0.36)
    path.write_text(json.dumps(report))
    at = open_page("roc", run="few")
    assert "0.310" in at.dataframe[0].value["AUC"].tolist()
    assert any("Below chance: members score lower than non-members." in t.value for t in at.text)

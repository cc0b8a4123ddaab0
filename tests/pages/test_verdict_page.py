"""The start page: every number and sentence on it comes from report.json."""

import json

import pytest

from audit import format as fmt
from audit.report import words
from tests.evidence_home import home, open_page, run_folders, specs  # noqa: F401
from tests.pages.test_frame import start

N = "\u202f"


def report(home_, run):
    return json.loads((home_ / "runs" / run / "report.json").read_text())


@pytest.mark.parametrize("run", ["clear", "few"])
def test_the_card_says_what_the_report_says(home, run):  # noqa: F811
    at, made = open_page("verdict", run=run), report(home, run)
    said, shown = words.verdict_words(made), [t.value for t in at.text]
    assert [h.value for h in at.header] == [said.headline]
    assert shown[:2] == [said.reason, said.next]
    assert shown[2 : 2 + len(said.for_) + len(said.against) + len(said.not_seen)] == [*said.for_, *said.against, *said.not_seen]
    assert words.BLIND_NOT_CHECKED in shown and words.NOT_SEEN_ALWAYS in shown


@pytest.mark.parametrize("run", ["clear", "few"])
def test_tiles_are_the_report_s_numbers(home, run):  # noqa: F811
    made = report(home, run)
    head, tail = (words.attack_of(made, made["verdict"][f"{which}_attack"]) for which in ("headline", "tail"))
    auc, tpr, blind, control = open_page("verdict", run=run).metric
    assert (auc.label, auc.value, auc.delta) == ("AUC, best attack", f"{head['auc']['value']:.3f}", f"95 % {fmt.auc_bounds(head['auc']['low'], head['auc']['high'])}")
    point, q = words.tpr_of(tail, 0.01), made["queries"]
    assert tpr.label == f"TPR at 1{N}% FPR"
    if run == "few":
        assert (tpr.value, tpr.delta) == ("not resolvable", "n = 32")
    else:
        assert tpr.value == fmt.tpr_value(point, q["evaluation_members"], q["evaluation_nonmembers"]) and tpr.delta.endswith("coarse")
    assert (blind.value, blind.delta) == ("not checked yet", "do the sets differ without the model?")
    assert (control.value, control.delta) == (f"{made['controls'][0]['auc']:.3f}", "chance, as it must be")


def test_a_failed_control_is_not_called_chance(home):  # noqa: F811
    file = home / "runs" / "clear" / "report.json"
    made = json.loads(file.read_text())
    made["controls"][0] |= {"auc": 0.7, "low": 0.65, "high": 0.75, "passed": False}
    made["verdict"] |= {"level": "inconclusive", "kind": "control"}
    file.write_text(json.dumps(made))
    at = open_page("verdict", run="clear")
    assert at.metric[3].delta == "not chance: control failed"
    assert [h.value for h in at.header] == ["This audit cannot decide: a control failed."]


def test_warnings_are_shown(home):  # noqa: F811
    file = home / "runs" / "clear" / "report.json"
    made = json.loads(file.read_text())
    made["warnings"] = [f"loss_vlb: {words.BELOW_CHANCE}"]
    file.write_text(json.dumps(made))
    assert f"loss_vlb: {words.BELOW_CHANCE}" in [t.value for t in open_page("verdict", run="clear").text]


def test_both_minis_are_drawn_and_say_what_they_show(home):  # noqa: F811
    at = open_page("verdict", run="clear")
    roc, along = specs(at)
    assert roc["layout"]["xaxis"]["type"] == "log" and along["layout"]["yaxis"]["title"]["text"] == "AUC"
    made = report(home, "clear")
    assert [t["meta"]["area"] for t in roc["data"] if "meta" in t] == [pytest.approx(words.attack_of(made, made["verdict"]["headline_attack"])["curve_auc"], abs=1e-12)]
    assert all(chart.proto.alt for chart in at.get("plotly_chart"))
    assert all("n = 225 members + 225 non-members" in c.value for c in at.caption if c.value.startswith(("VLB", "x0", "Noise", "Inter", "eps", "vlb")))


def test_the_two_ways_on(home):  # noqa: F811
    at = start(run="clear")
    assert "?run=clear" in at.code[0].value
    next(b for b in at.button if b.label == "Open the report").click().run()
    assert [t.value for t in at.title] == ["Report"] and at.query_params["run"] in ("clear", ["clear"])

"""The picture, the table and the cards of page Which attack?, against scikit-learn on scores.csv and against report.json."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from audit import format as fmt
from audit import protections
from audit.attacks import ATTACKS
from audit.jobs import launch, submit
from audit.jobs.store import Store
from audit.report import figures, html, labels, prices, sections
from audit.report.figures import costs
from audit.report.run import open_run
from audit.report.series import card, held_out_counts
from audit.report.words import tpr_of
from tests import browser, synthetic
from tests.evidence_home import control, open_page, specs

ALL = synthetic.ATTACKS + synthetic.QUERIES
LINE, CHANCE = "best for the price", "chance"


@pytest.fixture(scope="module")
def every_run(tmp_path_factory):
    """Folder of a run of all attacks."""
    folder = tmp_path_factory.mktemp("runs") / "every"
    synthetic.synthetic_run(folder, leak=1.5, name="every", attacks=ALL, thumbnails=False)
    return folder


@pytest.fixture
def every(every_run, home):
    """AUDIT_HOME with that run too."""
    shutil.copytree(every_run, home / "runs" / "every")
    return home


def rewritten(folder, change):
    """The report of a run after `change(report)`, stored."""
    path = folder / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    return report


def drawn(spec):
    """{attack: (x, y, low, high)} of every point of the picture."""
    points = {}
    for trace in spec["data"]:
        if trace["name"] not in (LINE, CHANCE):
            ends = zip(trace["error_y"]["arrayminus"], trace["error_y"]["array"], strict=True)
            for name, x, y, (down, up) in zip(trace["meta"]["attacks"], trace["x"], trace["y"], ends, strict=True):
                points[name] = (x, y, y - down, y + up)
    return points


def test_every_point_is_the_area_of_its_scores_over_its_calls(every):
    (spec,) = specs(open_page("attacks", run="every"))
    rows, report = pd.read_csv(every / "runs" / "every" / "scores.csv"), open_run(every / "runs" / "every").report
    rows, points = rows[rows["half"] == "evaluation"], drawn(spec)
    assert set(points) == {name for name in ATTACKS if ATTACKS[name].card.threat_model != "black-box"} == {row["name"] for row in report["attacks"]}
    for row in report["attacks"]:
        x, *bar = points[row["name"]]
        assert bar[0] == pytest.approx(roc_auc_score(rows["is_member"], rows[row["name"]]), abs=1e-12)
        assert bar == pytest.approx([row["auc"]["value"], row["auc"]["low"], row["auc"]["high"]], abs=1e-12)
        assert abs(x - np.log10(row["model_calls_at_setting"])) <= costs.SPREAD / 2 + 1e-12
    assert len({round(x, 6) for x, *_ in points.values()}) == len(points), "points of the same price stand side by side"
    markers = {trace["marker"]["symbol"] for trace in spec["data"] if trace["name"] not in (LINE, CHANCE)}
    assert markers == {"circle", "square"} and spec["layout"]["annotations"]


def test_the_line_joins_the_attacks_that_nothing_cheaper_beats(every):
    (spec,) = specs(open_page("attacks", run="every"))
    report, points = open_run(every / "runs" / "every").report, drawn(spec)
    calls = {row["name"]: row["model_calls_at_setting"] for row in report["attacks"]}
    (line,) = [trace for trace in spec["data"] if trace["name"] == LINE]
    best = {a for a in points if not [b for b in points if a != b and calls[b] <= calls[a] and points[b][1] >= points[a][1]]}
    tied = {a for a in points if [b for b in points if a != b and calls[b] == calls[a] and points[b][1] == points[a][1]]}
    assert best <= set(line["meta"]["attacks"]) <= best | tied and len(best) > 1
    assert line["y"] == sorted(line["y"]) and line["x"] == sorted(line["x"]) and line["line"]["shape"] == "hv"


def test_the_address_chooses_the_measure(every):
    at = open_page("attacks", run="every", measure="TPR")
    (spec,) = specs(at)
    run = open_run(every / "runs" / "every")
    for name, (_, *bar) in drawn(spec).items():
        point = tpr_of(run.attack(name), 0.01)
        assert bar == pytest.approx([point["tpr"], point["low"], point["high"]], abs=1e-12)
    shown = at.dataframe[0].value
    assert shown[f"TPR at {fmt.fpr(0.01)} FPR"].tolist() == [fmt.tpr(tpr_of(run.attack(name), 0.01), *held_out_counts(run)) for name in order(run)]
    at = open_page("attacks", run="every", measure="nonsense")
    assert control(at, "Measure", "segmented_control").value == "AUC"


def order(run):
    """Attacks in the order of the table."""
    return [row["name"] for row in sorted(run.report["attacks"], key=lambda row: -row["curve_auc"])]


def test_a_tpr_that_the_images_cannot_carry_is_words(home):
    at = open_page("attacks", run="few", measure="TPR")
    assert not at.get("plotly_chart") and any("not resolvable with n = 32" in t.value for t in at.text)
    at.segmented_control(key="measure").set_value("AUC").run()
    (spec,), run = specs(at), open_run(home / "runs" / "few")
    assert {name: y for name, (_, y, *_) in drawn(spec).items()} == pytest.approx({row["name"]: row["curve_auc"] for row in run.report["attacks"]}, abs=1e-12)
    assert any("first of 10 cross-fitting repeats" in c.value for c in at.caption)


def test_the_table_prints_the_comparisons_of_the_report(every):
    at, run = open_page("attacks", run="every"), open_run(every / "runs" / "every")
    table, headline = at.dataframe[0].value, run.report["verdict"]["headline_attack"]
    assert table["attack"].tolist() == [card(name)[0] for name in order(run)] and "status" not in table
    for row in run.report["comparisons"]:
        shown = table[table["attack"] == card(row["a"])[0]].iloc[0]
        assert shown["difference of AUC"] == fmt.difference(row["difference"], row["low"], row["high"]) and shown["p"] == fmt.p_value(row["p_value"])
        assert shown["in common"] == f"{round(50 * row['overlap'])} of 50"
        assert shown["calls"] == fmt.count(run.attack(row["a"])["model_calls_at_setting"])
    assert table[table["attack"] == card(headline)[0]].iloc[0]["difference of AUC"] == "headline attack"
    assert any("Holm over 13" in c.value and "would share 11" in c.value for c in at.caption)


def test_attacks_that_failed_stay_with_their_reason_and_one_alone_is_enough(home):
    def fail(report):
        for row in report["attacks"]:
            if row["name"] != report["verdict"]["headline_attack"]:
                row.update(status="failed", reason="out of memory", auc=None, curve_auc=None, tpr_at_fpr=None, selection=None, model_calls_at_setting=None)
        report["comparisons"] = []

    report = rewritten(home / "runs" / "clear", fail)
    at = open_page("attacks", run="clear")
    assert list(drawn(specs(at)[0])) == [report["verdict"]["headline_attack"]]
    assert at.dataframe[0].value["status"].tolist() == ["done"] + ["failed: out of memory"] * 3
    assert any("nothing to compare" in c.value for c in at.caption)
    at.selectbox(key="card").set_value("loss_vlb" if report["verdict"]["headline_attack"] != "loss_vlb" else "loss_x0").run()
    assert not at.exception and any(t.value == "Failed: out of memory" for t in at.text)


def test_a_report_of_an_older_version_says_what_to_do(home):
    rewritten(home / "runs" / "clear", lambda report: report.update(comparisons=None))
    at = open_page("attacks", run="clear")
    assert next(c.value for c in at.code) == "python -m audit rescore DIR" and len(specs(at)) == 1
    document = html.render(open_run(home / "runs" / "clear"))
    assert "AUC minus that of" not in document


def test_the_card_says_what_the_attack_does(every):
    at = open_page("attacks", run="every")
    assert at.selectbox(key="card").value == open_run(every / "runs" / "every").report["verdict"]["headline_attack"]
    at.selectbox(key="card").set_value("secmi").run()
    said, about = [t.value for t in at.text], ATTACKS["secmi"].card
    assert not at.exception and {about.equation, about.source, about.differs} <= set(said)
    assert any("loses to data augmentation" in t for t in said) and any(t.startswith("gray-box: ") for t in said)
    for name, words in (("secmi", "for each image"), ("gray_free", "for all images together"), ("sima", ", 1 model call for each image")):
        at.selectbox(key="card").set_value(name).run()
        calls = fmt.calls(open_run(every / "runs" / "every").attack(name)["model_calls_at_setting"], "model call")
        assert [t.value for t in at.text if t.value.endswith(words) and calls in t.value], name


def test_an_attack_that_costs_nothing_stands_at_the_left_edge(every):
    def free(report):
        next(row for row in report["attacks"] if row["name"] == "sima").update(model_calls_at_setting=0)

    rewritten(every / "runs" / "every", free)
    (spec,) = specs(open_page("attacks", run="every"))
    axis, points = spec["layout"]["xaxis"], drawn(spec)
    assert axis["ticktext"][:2] == ["0", "1"] and axis["tickvals"][:2] == [points["sima"][0], 0] and axis["range"][0] < points["sima"][0] < min(
        x for name, (x, *_) in points.items() if name != "sima"
    )  # fmt: skip


@pytest.mark.parametrize("measure", prices.MEASURES)
def test_no_name_covers_another_name_or_a_point_at_any_width(every_run, measure, monkeypatch):
    seen = []
    place = labels.place
    monkeypatch.setattr(labels, "place", lambda points, height, lines: seen.append((points, place(points, height, lines))) or seen[-1][1])
    figure = figures.pareto_figure(open_run(every_run), measure)
    (points, at), marks = seen[0], labels.MARK
    assert len(figure.layout.annotations) == len(points) == 14
    assert [(a.ax, a.ay) for a in figure.layout.annotations] == at
    for width in labels.WIDTHS[1:]:
        boxes = [labels.box_of(point, where, width) for point, where in zip(points, at, strict=True)]
        for i, box in enumerate(boxes):
            assert not [j for j in range(i) if labels.overlap(box, boxes[j])], (points[i].text, width)
            covered = [p for p in points if labels.overlap(box, (p.x * width - marks, p.y - marks, p.x * width + marks, p.y + marks))]
            assert not covered, (points[i].text, width)
            assert box[0] >= 0 and box[2] <= width and box[1] >= 0


def test_names_of_many_equal_points_are_all_placed():
    points = [labels.Point(f"attack {i}", 0.1 + 0.03 * (i % 5), 20.0, 18.0, 22.0, above=i < 3) for i in range(14)]
    boxes = [labels.box_of(point, at, 760) for point, at in zip(points, labels.place(points, 340), strict=True)]
    assert not [(i, j) for i in range(14) for j in range(i) if labels.overlap(boxes[i], boxes[j])]


def test_the_ladder_is_the_first_picture_of_the_report_and_chooses_on_the_calibration_half(every):
    run = open_run(every / "runs" / "every")
    first = next(part for part in sections.sections(run) if part.figures)
    assert first.key == "access" and sections.sections(run)[1].key == "access"
    figure = first.figures[0][1]()
    rungs = {trace.name: trace for trace in figure.data if trace.name != CHANCE}
    assert list(rungs) == ["black-box", "gray-box", "white-box"] and figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert "none ran" in [a.text for a in figure.layout.annotations] and "black-box none ran" in figures.alt(figure)
    for access in ("gray-box", "white-box"):
        rows = [row for row in run.report["attacks"] if row["threat_model"] == access]
        best = max(rows, key=lambda row: row["selection"]["calibration_auc"])
        trace = rungs[access]
        assert (trace.meta["attack"], trace.x[0]) == (best["name"], pytest.approx(best["auc"]["value"], abs=1e-12))
        assert (trace.x[0] - trace.error_x.arrayminus[0], trace.x[0] + trace.error_x.array[0]) == pytest.approx((best["auc"]["low"], best["auc"]["high"]), abs=1e-12)
        assert any(fmt.value_interval(best["auc"]) in a.text for a in figure.layout.annotations)
    assert specs(open_page("report", run="every"))[0]["layout"]["xaxis"]["title"]["text"] == "AUC"


def test_the_strongest_is_not_the_luckiest_on_the_held_out_images(every):
    def swap(report):
        rows = [row for row in report["attacks"] if row["threat_model"] == "white-box"]
        least = min(rows, key=lambda row: row["auc"]["value"])
        for row in rows:
            row["selection"]["calibration_auc"] = 0.9 if row is least else 0.8

    report = rewritten(every / "runs" / "every", swap)
    least = min((row for row in report["attacks"] if row["threat_model"] == "white-box"), key=lambda row: row["auc"]["value"])["name"]
    assert {access: spot and spot.name for access, spot in prices.ladder(open_run(every / "runs" / "every"))}["white-box"] == least


def test_the_document_holds_the_comparisons(every):
    run = open_run(every / "runs" / "every")
    document = html.render(run)
    for row in run.report["comparisons"]:
        assert fmt.difference(row["difference"], row["low"], row["high"]) in document
    assert "Holm over 13" in document


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "-")
def test_a_click_on_a_row_opens_its_card(every, tmp_path):
    with browser.served(every, tmp_path / "app.log") as url, browser.browser() as chromium:
        page = chromium.new_page(viewport={"width": 1440, "height": 1600})
        page.set_default_timeout(60_000)
        complaints = browser.complaints(page)
        page.goto(f"{url}/attacks?run=every")
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        browser.settled(page)
        page.wait_for_timeout(1500)
        box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
        page.mouse.click(box["x"] + 18, box["y"] + 36 + 34 * 13 + 17)  # the checkbox of the last row
        last = order(open_run(every / "runs" / "every"))[-1]
        page.get_by_text(ATTACKS[last].card.equation).first.wait_for()
        assert complaints == []


def sweep_of(run):
    """protections.json as a sweep would write it, its numbers made up."""
    def row(name, value, change):
        difference = None if change is None else {"value": change, "low": change - 0.05, "high": change + 0.05, "p_value": 0.02, "status": "ok"}
        point = {"fpr": 0.1, "tpr": value / 2, "low": value / 3, "high": value, "resolution": "resolvable"}
        auc = {"value": value, "low": value - 0.04, "high": value + 0.04}
        return {"name": name, "status": "done", "reason": None, "settings": {}, "auc": auc, "tpr_at_fpr": [point], "difference": difference}

    def entry(api, shows, shift):
        rows = [row(name, 0.9 - 0.02 * k - shift, -shift if shift else None) for k, name in enumerate(("sima", "pia", "naive_loss"))]
        return {"api": api, "shows": shows, "status": "done", "reason": None, "model_calls": 10, "attacks": rows}

    sweep = [entry(None, "no API", 0), entry({"steps": None, "bits": 4, "noise": 0.0, "jpeg": None}, "4-bit pictures", 0.2)]
    sweep.append({"api": {"steps": 10, "bits": 8, "noise": 0.0, "jpeg": None}, "shows": "10 steps", "status": "skipped", "reason": "too many", "model_calls": 0, "attacks": []})
    made = {"schema_version": protections.SCHEMA_VERSION, "run": run.report["run"]["id"], "checkpoint": run.report["checkpoint"]["sha256"]}
    made |= {"created": "2026-01-01T00:00:00Z", "seed": 0}
    return made | {"images": {"members": 150, "nonmembers": 150}, "relative_to_reference": False, "sweep": sweep, "model_calls": 20, "seconds": 1.0}


@pytest.mark.parametrize("measure", prices.MEASURES)
def test_protections_are_drawn_as_they_were_measured(every, measure):
    folder = every / "runs" / "every"
    (folder / "protections.json").write_text(json.dumps(sweep_of(open_run(folder))))
    at = open_page("attacks", run="every", measure=measure)
    spec, table = specs(at)[-1], at.dataframe[-1].value
    marks = {trace["meta"]["attack"]: trace for trace in spec["data"] if trace["name"] != CHANCE}
    scale = 1 if measure == "AUC" else 0.5
    assert marks["sima"]["x"] == pytest.approx([0.9 * scale, 0.7 * scale]) and set(marks) == {"sima", "pia", "naive_loss"}
    assert spec["layout"]["yaxis"]["ticktext"] == ["no API", "4-bit pictures"]
    assert table["the API shows"].tolist() == ["no API", "4-bit pictures", "10 steps"] and "skipped: too many" in table.iloc[2].tolist()
    assert any("n = 150 members + 150 non-members" in c.value for c in at.caption)
    assert "What protections of an API cost an attacker" in html.render(open_run(folder))


def test_protections_of_another_run_are_not_shown_and_a_folder_put_here_by_hand_is_not_measured(every):
    folder = every / "runs" / "every"
    (folder / "protections.json").write_text(json.dumps(sweep_of(open_run(folder)) | {"checkpoint": "00" * 32}))
    at = open_page("attacks", run="every")
    assert len(specs(at)) == 1 and "python -m audit protections DIR" in [c.value for c in at.code]
    assert not [b for b in at.button if b.key == "protections_start"]


def test_a_run_of_the_job_list_is_measured_by_a_click_and_shows_how_far_it_is(every, monkeypatch, tmp_path):
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)
    monkeypatch.setattr(launch, "ensure_worker", lambda config: False)
    folder, store = every / "runs" / "every", Store(every)
    request = open_run(folder).request | {"checkpoint": str(tmp_path)}
    job, _ = store.submit("audit", "every", request, "1", str(folder))
    store.claim("w")
    store.update(job.id, "w", "running", new_state="done")
    at = open_page("attacks", run=job.id)
    at.button(key="protections_start").click().run()
    assert not at.exception
    (sweep,) = store.list("protections")
    assert sweep.folder == str(folder) and sweep.request["request"]["checkpoint"] == str(tmp_path) and sweep.request["images"] == 300
    assert at.button(key="protections_cancel") and not [b for b in at.button if b.key == "protections_start"]
    at.button(key="protections_cancel").click().run()
    assert store.get(sweep.id).state == "cancelled"

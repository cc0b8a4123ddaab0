"""The slider at the calibrated window shows the report's own numbers; anywhere else it says so."""

import json

import pytest

from audit import format as fmt
from audit.report.run import open_run
from audit.report.series import calibrated_window, measured_timesteps, signal_table, table_of
from tests import browser
from tests.evidence_home import badges, control, open_page, specs, trace
from tests.synthetic import synthetic_run


def tiles(at):
    """[(label, value, interval)] of the tiles; yours first, then calibrated."""
    return [(m.label, m.value, m.delta) for m in at.metric]


def report_tiles(run, attack):
    """The same two tiles from report.json."""
    row, q = run.attack(attack), run.report["queries"]
    point = next(p for p in row["tpr_at_fpr"] if p["fpr"] == 0.01)
    return [
        ("AUC", fmt.auc(row["auc"]["value"]), fmt.auc_bounds(row["auc"]["low"], row["auc"]["high"])),
        (f"TPR at {fmt.fpr(0.01)} FPR", fmt.tpr_value(point, q["evaluation_members"], q["evaluation_nonmembers"]), fmt.tpr_bounds(point, q["evaluation_members"])),
    ]


def test_opens_on_the_headline_attack_with_the_reports_numbers(home):
    run = open_run(home / "runs" / "clear")
    at = open_page("truncation", run="clear")
    expected = report_tiles(run, run.report["verdict"]["headline_attack"])
    assert tiles(at) == expected * 2
    assert badges(at) == ["held out", "held out"]
    assert control(at, "Loss table", "selectbox").value == table_of(run.report["verdict"]["headline_attack"])


def test_opens_on_a_table_with_a_calibrated_window_where_the_headline_attack_has_none(home):
    def leak(tables):
        tables["eps_mse"][:, :450] *= 0.3

    report = synthetic_run(home / "runs" / "stepped", edit=leak, attacks=("loss_x0", "naive_loss"), name="stepped")
    run = open_run(home / "runs" / "stepped")
    assert report["verdict"]["headline_attack"] == "naive_loss"
    at = open_page("truncation", run="stepped")
    assert control(at, "Loss table", "selectbox").value == "x0_mse" == signal_table(run)
    assert tiles(at) == report_tiles(run, "loss_x0") * 2
    at = open_page("truncation", run="stepped", table="eps_mse")
    assert any(c.value.startswith("No attack of this run cuts this table to a window") for c in at.caption)


@pytest.mark.parametrize("page", ["truncation", "trajectories"])
def test_beside_a_reference_the_losses_are_said_to_be_one_models_alone(home, page):
    said = "so no number on this page is one of the report"
    assert not any(said in c.value for c in open_page(page, run="clear").caption)
    path = home / "runs" / "clear" / "report.json"
    report = json.loads(path.read_text())
    report["measurement"]["reference"] = {"sha256": "ab" * 32, "format": "diffusers", "architecture": "UNet2DModel", "parameters": 10}
    path.write_text(json.dumps(report))
    assert any(said in c.value for c in open_page(page, run="clear").caption)


@pytest.mark.parametrize("attack", ["loss_eps", "loss_x0", "loss_vlb", "gray_intermediate"])
def test_reset_gives_every_attacks_own_numbers(home, attack):
    run = open_run(home / "runs" / "clear")
    at = open_page("truncation", run="clear", table=table_of(attack), by="value", stat="max")
    assert badges(at) == ["exploratory", "held out"]
    at.button(key="reset").click().run()
    assert tiles(at) == report_tiles(run, attack) * 2
    assert badges(at) == ["held out", "held out"]
    assert at.button(key="reset").disabled


def test_moving_the_slider_is_exploratory_and_changes_only_your_card(home):
    run = open_run(home / "runs" / "clear")
    attack = run.report["verdict"]["headline_attack"]
    at = open_page("truncation", run="clear", by="time")
    t, expected = measured_timesteps(run), report_tiles(run, attack)
    slider = control(at, "Timesteps kept (less noise → more noise)", "select_slider")
    slider.set_value((f"t={t[-6]}", f"t={t[-2]}")).run()
    assert badges(at) == ["exploratory", "held out"]
    yours, calibrated = tiles(at)[:2], tiles(at)[2:]
    assert calibrated == expected and yours[0] != expected[0]
    assert float(yours[0][1]) < 0.6, "the noisy end of the synthetic losses holds no signal"


def test_curves_have_the_printed_area(home):
    at = open_page("truncation", run="clear", by="time", stat="mean")
    spec = specs(at)[0]
    for name, tile in (("your window", tiles(at)[0]), ("calibrated", tiles(at)[2])):
        curve = trace(spec, name)
        x, y = curve["x"], curve["y"]
        area = sum((b - a) * (c + d) / 2 for a, b, c, d in zip(x, x[1:], y, y[1:], strict=False))
        assert fmt.auc(round(area, 6)) == tile[1], name
        assert len(x) <= 300


def test_a_saved_address_reopens_the_same_window(home):
    run = open_run(home / "runs" / "clear")
    t = measured_timesteps(run)
    at = open_page("truncation", run="clear", table="x0_mse", by="time", stat="min", win=[f"t={t[1]}", f"t={t[4]}"])
    assert control(at, "Loss table", "selectbox").value == "x0_mse"
    assert control(at, "Timesteps kept (less noise → more noise)", "select_slider").value == (f"t={t[1]}", f"t={t[4]}")
    assert any(c.value.startswith(f"min, {fmt.window(t[1], t[4])}") for c in at.caption)
    by_value = open_page("truncation", run="clear", by="value", keep=fmt.percent(0.3))
    assert any(f"smallest {fmt.percent(0.3)}" in c.value for c in by_value.caption)


def test_bad_values_in_the_address_fall_back_to_the_calibrated_window(home):
    at = open_page("truncation", run="clear", table="<b>", by="evil", stat="mode", win=["t=1", "x"], keep="300 %")
    assert badges(at) == ["held out", "held out"]


def test_too_few_images_are_said_in_words(home):
    at = open_page("truncation", run="few")
    assert [m.label for m in at.metric] == ["AUC", "AUC"]
    assert sum("not resolvable with n = 32" in m.value for m in at.markdown) == 2


def test_another_run_brings_its_own_calibrated_window(home):
    at = open_page("truncation", run="clear")
    at.selectbox(key="run_picker").set_value("few").run()
    few = open_run(home / "runs" / "few")
    headline = few.report["verdict"]["headline_attack"]
    assert control(at, "Loss table", "selectbox").value == table_of(headline)
    assert badges(at) == ["held out", "held out"]
    assert control(at, "Summarise with", "button_group").value == calibrated_window(few, headline).statistic


def test_the_map_agrees_with_both_cards_and_marks_both_windows(home):
    run = open_run(home / "runs" / "clear")
    t = measured_timesteps(run)
    for first, last in ((t[1], t[4]), (t[0], t[-1])):
        at = open_page("truncation", run="clear", table="x0_mse", by="time", stat="max", win=[f"t={first}", f"t={last}"])
        spec = next(s for s in specs(at) if any(d.get("name") == "windows" for d in s["data"]))
        marks = trace(spec, "windows")
        cell = marks["text"][marks["customdata"].index([first, last])]
        assert cell.endswith(f"AUC {tiles(at)[0][1]}")
        squares = [d for d in spec["data"] if d.get("name") == "your window" and d["x"] != [None]]
        assert squares and all((d["x"], d["y"]) == ([first], [last]) for d in squares)
        window = calibrated_window(run, "loss_x0")
        diamonds = [(d["x"], d["y"]) for d in spec["data"] if (d.get("name") or "").startswith("calibrated")]
        inside = [k for k in t if window.truncate_by == "time" and window.keep_from <= k <= window.keep_until]
        assert diamonds == ([([inside[0]], [inside[-1]])] if inside else [])
        assert any(f"The brightest one is the luckiest of {len(marks['x'])}, not the best estimate." in c.value for c in at.caption)


def test_by_value_the_map_stays_without_your_window(home):
    at = open_page("truncation", run="clear", by="value")
    spec = next(s for s in specs(at) if any(d.get("name") == "windows" for d in s["data"]))
    assert not [d for d in spec["data"] if d.get("name") == "your window"]
    assert any("by time, for comparison" in m.value for m in at.markdown)
    assert not at.get("plotly_chart")[-1].proto.selection_mode, "a click has no slider to move"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "-")
def test_a_click_on_a_cell_moves_the_slider_the_address_and_your_card(home, tmp_path):
    from playwright.sync_api import expect

    where = """([first, last]) => {
        const chart = [...document.querySelectorAll('.js-plotly-plot')].find(c => c._fullData && c._fullData.some(t => t.name === 'windows'));
        const l = chart._fullLayout, box = chart.getBoundingClientRect();
        return [box.left + l._size.l + l.xaxis.d2p(first), box.top + l._size.t + l.yaxis.d2p(last)];
    }"""
    t = measured_timesteps(open_run(home / "runs" / "clear"))
    with browser.served(home, tmp_path / "app.log") as url, browser.browser() as chromium:
        page = chromium.new_page(viewport={"width": 1440, "height": 1300})
        page.set_default_timeout(60_000)
        complaints = browser.complaints(page)
        page.goto(f"{url}/truncation?run=clear&by=time&stat=mean")
        page.wait_for_function("[...document.querySelectorAll('.js-plotly-plot')].some(c => c._fullData && c._fullData.some(t => t.name === 'windows'))")
        browser.settled(page)
        page.wait_for_timeout(1500)  # charts redraw once when their width is known
        for first, last in ((t[2], t[9]), (t[1], t[5]), (t[1], t[5])):  # the last one after the slider has moved away
            page.mouse.move(*page.evaluate(where, [first, last]))
            page.wait_for_timeout(300)
            page.mouse.click(*page.evaluate(where, [first, last]))
            page.wait_for_function(f"location.search.includes('win=t%3D{first}&win=t%3D{last}')")
            ends = [page.get_by_role("slider").nth(i) for i in range(2)]
            for end, t_end in zip(ends, (first, last), strict=True):
                expect(end).to_have_attribute("aria-valuetext", f"t={t_end}", timeout=60_000)
            page.get_by_text(fmt.window(first, last)).first.wait_for()
            page.get_by_role("slider").first.press("ArrowRight")
            page.wait_for_function(f"!location.search.includes('win=t%3D{first}&win=t%3D{last}')")
            browser.settled(page)
            page.wait_for_timeout(1500)
        assert complaints == []

"""Figures and the numbers behind them, without a page."""

import json
import subprocess
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.subplots import make_subplots

from audit.report import figures, series
from audit.report.figures import along_t, roc
from audit.report.run import open_run
from audit.stats.roc import fast_roc
from audit.stats.tpr import tpr_at_fpr
from audit.stats.window import Window


@pytest.fixture(scope="module")
def run(run_folders):
    return open_run(run_folders / "clear")


@pytest.fixture(scope="module")
def all_figures(run):
    """{name: figure} of every kind."""
    attacks = series.done(run)
    point = series.flag_at_fpr(run, attacks[0], 0.05)
    curve = series.attack_roc(run, attacks[0])
    return {
        "log": figures.roc_figure(run, attacks, log=True, threshold=point),
        "linear": figures.roc_figure(run, attacks, threshold=point, legend=True),
        "none": figures.roc_figure(run, []),
        "histogram": figures.histogram_figure(run, attacks[0], point),
        "auc": figures.auc_figure(run),
        "gap": figures.trajectories_figure(run, "eps_mse", images=(0, 500)),
        "loss": figures.trajectories_figure(run, "vlb_bits", gap=False, share=0.8),
        "comparison": figures.comparison_figure([("calibrated", curve, "#8351E8", "solid")]),
    }


def test_figures_and_numbers_need_neither_streamlit_nor_torch():
    code = "import sys, audit.report.figures; print([m for m in ('streamlit', 'torch', 'models') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_figure_speaks_has_titles_and_few_buttons(all_figures):
    for name, fig in all_figures.items():
        assert len(figures.alt(fig)) > 20, name
        axes = [a for a in fig.layout if a.startswith(("xaxis", "yaxis"))]
        titles = [fig.layout[a].title.text for a in axes if name not in ("gap", "loss") or a != "xaxis"]  # the upper panel shares the lower one's title
        assert all(titles), (name, titles)
        assert fig.layout.paper_bgcolor == fig.layout.plot_bgcolor == "rgba(0,0,0,0)" and fig.layout.dragmode is False
        buttons = figures.config(fig)["modeBarButtons"][0]
        assert len(buttons) == (3 if name in ("log", "linear", "none", "gap", "loss") else 1), name
        json.loads(fig.to_json())  # no NaN


def test_no_curve_has_more_than_300_points(all_figures):
    for name, fig in all_figures.items():
        for trace in fig.data:
            assert len(trace.x) <= 300, (name, trace.name)


def test_log_axes_start_at_one_in_n_and_have_decade_ticks_only(all_figures, run):
    fig, (_, n) = all_figures["log"], series.held_out_counts(run)
    assert 10 ** fig.layout.xaxis.range[0] == pytest.approx(1 / n / roc.STRIP)
    assert min(min(t.x) for t in fig.data if t.name != "chance") >= 1 / n - 1e-12
    assert list(fig.layout.xaxis.tickvals) == [0.001, 0.01, 0.1, 1.0] and fig.layout.xaxis.minor.ticks == ""
    assert f"nothing below 1/{n}" in fig.layout.annotations[0].text


def test_band_holds_the_curve_where_the_data_carry_it(run):
    attack = series.done(run)[0]
    fpr, low, high = series.attack_band(run, attack)
    roc = series.attack_roc(run, attack)
    value = np.array([roc.tpr_at(f) for f in fpr])
    assert (low <= value + 1e-9).all() and (value <= high + 1e-9).all()
    middle = fpr.searchsorted(0.5)
    assert high[middle] - low[middle] < 0.3, "a band that says nothing cannot fail the line above"


def test_names_from_outside_are_escaped(run, monkeypatch):
    evil = "<img src=x onerror=alert(1)>"
    fake = type(run)(run.folder, run.report, run.request)
    fake.__dict__["image_ids"] = np.array([evil] * len(run.image_ids), dtype=object)
    fig = figures.trajectories_figure(fake, "eps_mse", images=(0,))
    assert "<img" not in fig.to_json() and "&lt;img" in fig.to_json()
    monkeypatch.setattr(series, "card", lambda name: (evil, evil, "white-box"))
    assert "<img" not in json.dumps([t.to_plotly_json() for t in figures.roc_figure(run, series.done(run)).data], default=str)


def test_histogram_holds_every_image(run):
    attack = series.done(run)[0]
    fig = figures.histogram_figure(run, attack)
    counted = {t.name: sum(t.y) for t in fig.data}
    members, n = series.held_out_counts(run)
    assert counted == {"non-members": n, "members": members}


def test_histogram_edges_gather_far_images_and_survive_equal_scores():
    scores = np.append(np.linspace(0, 1, 500), [1e6])
    edges, beyond = series.histogram_edges(scores)
    assert edges[-1] < 2 and beyond == 1
    edges, beyond = series.histogram_edges(np.full(50, 3.0))
    assert edges[0] < 3 < edges[-1] and beyond == 0


@given(st.integers(3, 40), st.integers(3, 40), st.integers(0, 10**6), st.sampled_from([0.05, 0.1, 0.2, 0.5, 0.9]))
@settings(max_examples=60, deadline=None)
def test_threshold_at_a_rate_finds_the_most_members(m, n, seed, fpr):
    """Against every threshold there is, with many ties."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, m + n).astype(float), np.arange(m + n) < m

    class Fake:
        __slots__ = ("__dict__",)
        evaluation = np.ones(m + n, bool)
        is_member = labels

        @staticmethod
        def scores_of(_):
            return scores

    got = series.flag_at_fpr(Fake(), "any", fpr)
    best = max(((scores >= t) & labels).sum() for t in [*np.unique(scores), np.inf] if ((scores >= t) & ~labels).sum() / n <= fpr + 1e-9)
    assert got.tp == best and got.fpr <= fpr + 1e-9 and got.tp + got.fn == m and got.fp + got.tn == n
    if tpr_at_fpr(scores, labels, fpr).tpr is not None:
        assert got.tpr == tpr_at_fpr(scores, labels, fpr).tpr


def test_precision_depends_on_the_share_of_members():
    flagged = series.Flagged(0.0, 282, 218, 5, 495)
    assert flagged.precision(0.5)[0] == pytest.approx(282 / 287)
    assert flagged.precision(0.01)[0] == pytest.approx(0.564 * 0.01 / (0.564 * 0.01 + 0.01 * 0.99))
    perfect, bound = series.Flagged(0.0, 10, 90, 0, 100).precision(0.5)
    assert bound and 0.5 < perfect < 0.7, "ten members and no outsider among 100: far from certain"
    assert series.Flagged(np.inf, 0, 5, 0, 5).precision(0.5) == (None, False)


def test_gap_is_not_measured_where_the_middle_is_zero():
    got = series.gap_to(np.array([1.0, 3.0]), np.array([0.0, 2.0]))
    assert np.isnan(got[0]) and got[1] == 50


def test_one_draw_has_no_noise_band(tmp_path):
    from tests.synthetic import synthetic_run

    synthetic_run(tmp_path / "one", members=40, nonmembers=40, draws=1, timesteps=6, thumbnails=False)
    run = open_run(tmp_path / "one")
    assert np.isnan(series.auc_along(run, "eps_mse").noise_sd).all()
    assert "± 1 sd between noise draws" not in [t.name for t in figures.auc_figure(run).data]
    assert not [line for line in figures.trajectories_legend(run, "eps_mse") if "noise" in line[3]]


def test_the_window_is_shaded_only_where_truncation_is_by_time(run):
    report = json.loads(json.dumps(run.report))
    row = next(r for r in report["attacks"] if r["name"] == "loss_eps")
    by_time = {"statistic": "mean", "truncate_by": "time", "keep_from": 53, "keep_until": 210}
    for chosen, shaded in ((by_time, [(53, 210)]), ({"statistic": "max", "truncate_by": "value", "keep_share": 0.4}, [])):
        row["selection"]["chosen"] = chosen
        fig = figures.auc_figure(type(run)(run.folder, report, run.request), "eps_mse")
        assert [(s.x0, s.x1) for s in fig.layout.shapes] == shaded


def test_slider_step_at_the_chosen_window_is_the_stored_score(run):
    for attack in series.done(run):
        step = series.slider_step(run.tables[series.table_of(attack)], series.calibrated_window(run, attack), series.held_out_index(run), series.held_out_members(run))
        np.testing.assert_array_equal(step.scores, series.held_out_scores(run, attack))
        assert step.auc == pytest.approx(run.attack(attack)["auc"]["value"], abs=1e-12)


def test_same_window_compares_what_is_kept(run):
    table = run.tables["eps_mse"]
    t = table.scored_timesteps
    a = Window("mean", "time", int(t[2]), int(t[5]))
    assert series.same_window(table, a, Window("mean", "time", int(t[2]) - 1, int(t[5]) + 1))
    assert not series.same_window(table, a, Window("max", "time", int(t[2]), int(t[5])))
    assert not series.same_window(table, a, Window("mean", "time", int(t[2]), int(t[6])))


@pytest.mark.parametrize("images", [2_000, 20_000])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_drawn_curve_is_short_and_keeps_its_area(images, shift):
    rng = np.random.default_rng(images)
    labels = rng.random(images) < 0.5
    roc = fast_roc(rng.normal(0, 1, images) + shift * labels, labels)
    few = series.drawn(roc)
    assert len(few.fpr) <= 300 and abs(few.area - roc.area) < 1e-6


def test_auc_axis_never_zooms_into_noise(run):
    low, high = along_t._auc_range(run, "eps_mse")
    assert low <= 0.5 <= high and high - low >= 0.2


def test_style_returns_the_figure_it_was_given():
    fig = go.Figure()
    assert figures.style(fig, 240, description="d") is fig and fig.layout.height == 240


def test_style_keeps_what_a_figure_had_and_reaches_every_axis():
    fig = make_subplots(rows=2, cols=1)
    fig.update_xaxes(title={"text": "timestep t"}, row=2, col=1)
    fig.add_shape(type="line", x0=0, x1=1, y0=0, y1=1)
    figures.style(fig, 240)
    assert len(fig.layout.shapes) == 1 and fig.layout.xaxis2.title.text == "timestep t" and fig.layout.xaxis2.domain == (0.0, 1.0)
    for axis in (fig.layout.xaxis, fig.layout.yaxis, fig.layout.xaxis2, fig.layout.yaxis2):
        assert (axis.ticks, axis.zeroline, axis.title.standoff) == ("outside", False, 8)
    assert fig.layout.xaxis2.showline and fig.layout.yaxis2.showline is None

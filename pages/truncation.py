"""Which timesteps should an attacker keep? A window to move, and the calibrated choice with its held-out numbers beside it."""
# ruff: noqa: E402  (the guard comes before every other import)

from pages.frame import guard

guard()

import streamlit as st

from audit import format as fmt
from audit.errors import WindowError
from audit.glossary import GLOSSARY
from audit.report import figures, heat, palette, series
from audit.report.parts import losses_alone_sentence
from audit.stats.window import Window
from pages.frame import page_head
from pages.frame.evidence import auc_tile, chart, follow_run, origin, tpr_tile

STATISTICS = ("sum", "mean", "median", "min", "max")
FPR = 0.01
SHARES, DEFAULT_SHARE = tuple(k / 20 for k in range(1, 21)), 0.6


def main():
    """Head, then the slider part."""
    run = page_head("Truncation", "Drop timesteps that say little, and watch the attack change.")
    if run is None:
        st.stop()
    tables = series.loss_tables(run)
    if tables:
        follow_run("truncation", run, {"table": tables[0], **start(run, tables[0])})
        explore(run, tables)
    else:
        st.caption("This run stored no loss per timestep, so there is nothing to truncate.")


@st.fragment
def explore(run, tables):
    """Controls, both cards, both curves; one step is arithmetic on stored tables."""
    name, yours = controls(run, tables)
    table, attack = run.tables[name], series.attack_of(run, name)
    calibrated = calibrated_on(run, name)
    same = calibrated is not None and series.same_window(table, yours, calibrated)
    try:
        step = series.slider_step(table, yours, series.held_out_index(run), series.held_out_members(run), FPR)
    except WindowError as error:
        st.text(str(error))
        step = None
    left, right = st.columns([1, 1.1], gap="large")
    with left, st.grid(2, wrap=False, min_column_width=140):
        with st.container(border=True, height="stretch", key="yours"):
            your_card(run, table, yours, step, same)
        with st.container(border=True, height="stretch", key="calibrated"):
            calibrated_card(run, table, attack, calibrated)
    with left:
        st.button("Reset to calibrated", icon=":material/undo:", on_click=reset, args=(run, name), disabled=same or calibrated is None, key="reset")
    with left:
        st.markdown("**ROC on the held-out images**: the whole ranking, area = AUC")
        curves = []
        if attack:
            curves.append(("calibrated", series.attack_roc(run, attack), palette.SERIES[0], "solid"))
        if step:
            curves.append(("your window", step.roc, palette.SERIES[1], "dash"))
        if curves:
            chart(figures.comparison_figure(curves, height=315), "truncation_roc")
    with right:
        windows(run, name, yours, calibrated)
    if alone := losses_alone_sentence(run.report):
        st.caption(alone)
    st.caption(footer(run))


def windows(run, name, yours, calibrated):
    """The map of every window; a click moves the slider where there is one for it. No function by click alone: the slider reaches each cell."""
    table, by_time = run.tables[name], yours.truncate_by == "time"
    if len(table.scored_index) < 2:
        return
    said = "; click a cell to use it" if by_time else ", for comparison"
    st.markdown(f"**AUC for every window** ({yours.statistic}, by time{said})")
    with st.skeleton(height=470):
        grid = heat.auc_grid(run, name, yours.statistic)
        if not grid.cells:
            st.caption("No window of this table holds finite losses for every image.")
            return
        marks = [series.kept_timesteps(table, window) if window and window.truncate_by == "time" else None for window in (_kept(table, yours), calibrated)]
        other = calibrated is not None and not _alike(calibrated.statistic, yours.statistic)
        figure = figures.heat_figure(grid, *marks, calibrated_name=f"calibrated ({calibrated.statistic})" if other else "calibrated")
        if by_time:
            st.plotly_chart(
                figure, key="heat", config=figures.config(figure), alt=figures.alt(figure), theme="streamlit", selection_mode="points", on_select=lambda: use_cell(run)
            )
        else:
            chart(figure, "heat_compare")
    members, nonmembers = series.held_out_counts(run)
    st.caption(
        f"Every cell is computed on the evaluation half (n = {fmt.count(members)} + {fmt.count(nonmembers)}). "
        f"The brightest one is the luckiest of {fmt.count(grid.cells)}, not the best estimate."
    )


def _kept(table, window):
    """The window, or None where it keeps nothing."""
    try:
        series.kept_timesteps(table, window)
    except WindowError:
        return None
    return window


def _alike(a, b):
    """Whether two statistics rank images alike at the same window: sum and mean do."""
    return a == b or {a, b} == {"sum", "mean"}


def use_cell(run):
    """Put the slider on the clicked cell."""
    window = heat.clicked(st.session_state["heat"].selection.points, series.measured_timesteps(run))
    if window:
        st.session_state["win"] = tuple(stop(t) for t in window)


def calibrated_on(run, table):
    """The Window that the calibration half chose on a table, or None."""
    attack = series.attack_of(run, table)
    return series.calibrated_window(run, attack) if attack else None


def start(run, table):
    """{key: value} of the controls at the calibrated choice of a table, or at everything where there is none."""
    window, t = calibrated_on(run, table), series.measured_timesteps(run)
    by_time = window is not None and window.truncate_by == "time"
    first, last = series.snap(t, window) if by_time else (t[0], t[-1])
    share = window.keep_share if window is not None and not by_time else DEFAULT_SHARE
    return {"by": window.truncate_by if window else "time", "stat": window.statistic if window else "mean", "win": (stop(first), stop(last)), "keep": share_stop(share)}


def controls(run, tables):
    """(table name, Window): five controls, whose labels are the URL values and whose defaults are the headline attack's calibrated choice."""
    default = start(run, tables[0])
    with st.container(horizontal=True, vertical_alignment="top"):
        name = st.selectbox("Loss table", tables, key="table", bind="query-params", width=190)
        by = st.segmented_control("Truncate by", ["time", "value"], default=default["by"], required=True, key="by", bind="query-params", help=_by_help())
        statistic = st.segmented_control("Summarise with", list(STATISTICS), default=default["stat"], required=True, key="stat", bind="query-params")
    if by == "time":
        return name, time_window(run, statistic, default["win"])
    chosen = [w.keep_share for w in (calibrated_on(run, table) for table in tables) if w and w.truncate_by == "value"]
    shares = {share_stop(share): share for share in sorted({*SHARES, *chosen})}
    picked = st.select_slider("Keep the smallest share of each image’s losses", list(shares), value=default["keep"], key="keep", bind="query-params")
    return name, Window(statistic, "value", keep_share=shares[picked])


def time_window(run, statistic, default):
    """Window of the range slider over the measured timesteps."""
    timesteps = {stop(t): t for t in series.measured_timesteps(run)}
    if len(timesteps) == 1:
        only = next(iter(timesteps.values()))
        st.caption(f"Only one timestep was measured: t = {only}.")
        return Window(statistic, "time", only, only)
    first, last = st.select_slider("Timesteps kept (less noise → more noise)", list(timesteps), value=default, key="win", bind="query-params")
    return Window(statistic, "time", timesteps[first], timesteps[last])


def stop(t):
    """`t=82`: label on the slider and value in the URL."""
    return f"t={t}"


def share_stop(share):
    """`60 %`: the same for truncation by value."""
    return fmt.percent(share, 0 if abs(share * 100 - round(share * 100)) < 1e-9 else 1)


def _by_help():
    return f"{GLOSSARY['truncation']} time: keep a range of timesteps. value: keep each image’s smallest losses, wherever they lie."


def reset(run, name):
    """Put the controls on the calibrated choice of the shown table; the slider that is not shown keeps its place."""
    values = start(run, name)
    del values["keep" if values["by"] == "time" else "win"]
    st.session_state.update(values)


def your_card(run, table, window, step, same):
    """Numbers of the slider; `exploratory` unless it stands on the calibrated choice."""
    st.subheader("Your window", anchor=False)
    origin(same)
    if step is None:
        st.caption("Nothing is kept, so there is no number.")
        return
    members, nonmembers = series.held_out_counts(run)
    interval, point = series.figures_of(run, step.scores, FPR)
    auc_tile(interval.value, interval.low, interval.high)
    tpr_tile(point.to_json(), members, nonmembers)
    st.caption(in_words(table, window))


def calibrated_card(run, table, attack, window):
    """The report's numbers for the attack that reads this table."""
    st.subheader("Calibrated", anchor=False)
    if window is None:
        st.caption("No attack of this run cuts this table to a window, so nothing was chosen on the calibration half.")
        return
    origin(True)
    members, nonmembers = series.held_out_counts(run)
    row = run.attack(attack)
    auc_tile(row["auc"]["value"], row["auc"]["low"], row["auc"]["high"])
    tpr_tile(next(p for p in row["tpr_at_fpr"] if p["fpr"] == FPR), members, nonmembers)
    st.caption(f"{in_words(table, window)}  \non the calibration half: {fmt.auc(row['selection']['calibration_auc'])}")


def in_words(table, window):
    """`mean, t = 82 … 265` and how many timesteps that is."""
    kept, of = series.kept_count(table, window)
    if window.truncate_by == "time":
        return f"{window.statistic}, {fmt.window(*series.kept_timesteps(table, window))}  \n{fmt.count_of(kept, of)} timesteps"
    return f"{window.statistic}, smallest {share_stop(window.keep_share)}  \n{fmt.count_of(kept, of)} losses an image"


def footer(run):
    """n, and what the two badges mean for a reader who does not hover."""
    members, nonmembers = series.held_out_counts(run)
    return (
        f"n = {fmt.count(members)} members + {fmt.count(nonmembers)} non-members held out, for both cards and both curves; intervals 95 %. "
        "Moving the slider until the number is large is choosing on the answer: only the calibrated choice was made before these images were looked at."
    )


main()

"""Where along t does the model know its members? Losses per timestep, and the AUC of each timestep alone."""
# ruff: noqa: E402  (the guard comes before every other import)

from pages.frame import guard

guard()

import numpy as np
import streamlit as st

from audit import format as fmt
from audit.report import figures, series
from audit.report.parts import losses_alone_sentence
from pages.frame import page_head
from pages.frame.evidence import chart, follow_run, legend

GAP, LOSS = "Gap to non-members", "Loss itself"
BANDS = {fmt.percent(share): share for share in (0.5, 0.8)}
MOST_IMAGES = 5
LISTED = 1000  # images offered by name, the most exposed first: a longer list would be slower than it is useful


def main():
    """Head, then the figure with its controls."""
    run = page_head("Loss trajectories", "The model’s error on each image, timestep by timestep. Lower = better known.")
    if run is None:
        st.stop()
    tables = series.loss_tables(run)
    follow_run("trajectories", run, {"table": next(iter(tables), None), "images": []})
    if tables:
        trajectories(run, tables)
    else:
        st.caption("This run stored no loss per timestep.")


@st.fragment
def trajectories(run, tables):
    """Controls, figure, caption."""
    with st.container(horizontal=True, vertical_alignment="top"):
        table = st.selectbox("Loss table", tables, key="table", bind="query-params", width=190, help=_tables_help(tables))
        view = st.segmented_control("Show", [GAP, LOSS], default=GAP, required=True, key="view", bind="query-params")
        words = "The share of each class that the band holds."
        band = st.segmented_control("Band", list(BANDS), default=next(iter(BANDS)), required=True, key="band", bind="query-params", help=words)
        listed = series.exposed(run, LISTED)
        labels = st.multiselect(
            "Single images", list(listed), key="images", bind="query-params", max_selections=MOST_IMAGES, width=330, placeholder="up to five, by hash", select_all=False,
            help="First 8 digits of an image's hash, the highest score of the headline attack first.",
        )
    images = [listed[label] for label in labels]
    with st.skeleton(height=500):
        legend(figures.trajectories_legend(run, table, images))
        chart(figures.trajectories_figure(run, table, gap=view == GAP, share=BANDS[band], images=images, legend=False), "trajectories")
    st.caption(caption(run, table))


def _tables_help(tables):
    return " · ".join(f"{name}: {figures.UNITS[name]}" for name in tables if name in figures.UNITS) or None


def caption(run, table):
    """What is shaded, the best single timestep and why it is not used, and n."""
    along = series.auc_along(run, table)
    attack = series.attack_of(run, table)
    window = series.calibrated_window(run, attack) if attack else None
    if window is None:
        shaded = losses_alone_sentence(run.report) or "No attack of this run was calibrated on this table."
    elif window.truncate_by == "time":
        shaded = f"Shaded: the window chosen on the calibration half (t = {window.keep_from} to {window.keep_until})."
    else:
        shaded = f"The calibrated choice keeps the smallest {fmt.percent(window.keep_share)} of each image’s losses, wherever they lie: there is no window to shade."
    best = along.best
    low, high = (None if np.isnan(v[best]) else v[best] for v in (along.low, along.high))
    area = fmt.auc_interval(along.auc[best], low, high)
    single = f"The best single timestep here is t = {along.timesteps[best]} with AUC {area}; picking it by eye is selection, so the report does not use it."
    noise = " Dark band: ± 1 standard deviation between single noise draws." if np.isfinite(along.noise_sd).any() else " With one noise draw the spread between draws is unknown."
    members, nonmembers = series.held_out_counts(run)
    return f"{shaded} {single} n = {fmt.count(members)} + {fmt.count(nonmembers)} for the AUC, all images for the bands.{noise}"


main()

"""What is running, what went wrong, and what is done."""
# ruff: noqa: E402  (the guard comes before every other import)

from pages.frame import guard

guard()

import pandas as pd
import streamlit as st

from audit.jobs import launch
from audit.jobs.store import ON_DEVICE
from pages.frame import config as settings
from pages.frame import first_visit, go, heading, notice, store
from pages.frame import jobs as cards


def main():
    """Filter, cards of what is open or went wrong, table of what is done."""
    config, everything, sweeps = settings(), store().list(), open_sweeps()
    heading("Runs", "Audits live in a separate worker: closing this tab stops nothing.")
    if message := st.session_state.pop("runs_toast", None):
        st.toast(message, icon=":material/check:")
    if error := st.session_state.pop("runs_error", None):
        notice("runs", "error", error)
    if not everything and not sweeps:
        first_visit()
        return
    show = _filter()
    active = open_jobs([*everything, *sweeps])
    if active and not launch.worker_status(config).alive:
        launch.ensure_worker(config)  # whoever opens this page replaces a worker that died
    shown = [job for job in everything if job.state in cards.FILTERS[show]]
    if not shown and not (sweeps and show == "Running"):
        st.text(cards.NOTHING[show])
    if show in ("All", "Running"):
        st.fragment(live, run_every=1.0 if active else None)(config, active)
    for job in shown:
        if job.state in ("failed", "cancelled"):
            cards.card(job, config)
    _finished([job for job in shown if job.state == "done"])
    wanted = st.session_state.get("runs_dialog", (None, None))[1]
    cards.draw_dialog(config, next((job for job in [*everything, *sweeps] if job.id == wanted), None))


def _filter():
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        show = st.segmented_control("Show", list(cards.FILTERS), default="All", required=True, key="show", bind="query-params", label_visibility="collapsed", wrap=True)
        if st.button("New audit", type="primary", icon=":material/add_circle:", key="runs_new"):
            go("new")
    return show or "All"


def open_sweeps():
    """Sweeps over protections that run or wait. What became of one stands on page Which attack? of its run."""
    return [job for job in store().list("protections") if job.active]


def open_jobs(jobs):
    """((id, waits), ...) of the active ones: what the menu and the rest of the page depend on."""
    return tuple((job.id, job.state == "queued") for job in jobs if job.active)


def live(config, active):
    """Cards of the open jobs; run each second while there are any, and one full run of the page when one is added, begins or ends.

    Args: config: Config; active: the `open_jobs` that the rest of the page was drawn with.
    """
    listed = store()
    jobs = [*(job for job in listed.list() if job.active), *open_sweeps()]
    if open_jobs(jobs) != active:
        st.rerun()
    status = launch.worker_status(config)
    waiting = sorted((job for job in jobs if job.state == "queued"), key=lambda job: (ON_DEVICE.index(job.kind), job.created))
    checks = listed.list("check") if waiting else ()
    for job in [job for job in jobs if job.state != "queued"] + waiting:
        cards.card(job, config, status, checks, listed.queue_position(job.id) if job.state == "queued" else None)


def _finished(done):
    if not done:
        return
    st.subheader("Finished", anchor=False)
    ids = hash(tuple(job.id for job in done))  # a row number chosen in another list must not point at a run of this one
    chosen = st.dataframe(
        pd.DataFrame(cards.finished_rows(done)),
        key=f"runs_finished_{ids}",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        alt="Finished audits, one a row: run, verdict, AUC of the best attack, images, when it finished, how long it took, checkpoint",
    ).selection.rows
    job = done[chosen[0]] if chosen and chosen[0] < len(done) else None
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Open", icon=":material/gavel:", disabled=job is None):
            go("verdict", run=job.id)
        st.button("Delete …", icon=":material/delete:", disabled=job is None, on_click=cards.open_dialog, args=("delete", job.id if job else ""), key="delete_done")
        if job is None:
            st.caption("Choose a row first.")
        else:
            st.text(job.name)


main()

"""Section Protections of page Which attack?: what each protection of an API costs the attacks, or the way to have it measured."""

import os
from pathlib import Path

import pandas as pd
import streamlit as st

from audit import format as fmt
from audit.attacks import ATTACKS
from audit.errors import AuditError
from audit.jobs import launch
from audit.jobs.submit import submit_protections
from audit.protections import IMAGES, SWEEP, attacks_of, images_of
from audit.report import protected
from audit.request import Request
from pages.frame.evidence import chart
from pages.frame.runs import config, current, store
from pages.frame.states import notice

ABOUT = (
    "How much an attacker loses when an API shows fewer bits, adds noise, compresses, or answers at fewer steps: the gray-box attacks of this run are measured again "
    "on some of its held-out images, through one API after another."
)
ELSEWHERE = "The job list holds no run of this folder, so no page opens its checkpoint. On the command line:"


def section(run, measure):
    """The picture and its table where they were measured; else what it would cost, and the button. Args: run: Run; measure: "AUC" or "TPR"."""
    st.header("Protections", anchor=False)
    job, found = _newest(run), protected.protections_of(run)
    if job is not None and job.active:
        st.fragment(_going, run_every=1.0)(job.id)
    elif found is None:
        _offer(run, job)
    if found is not None:
        _picture(run, found, measure)


def _newest(run):
    """The newest sweep over this run's folder, or None."""
    return next((job for job in store().list("protections") if job.folder == os.path.abspath(run.folder)), None)


def _picture(run, found, measure):
    st.markdown(f"**{protected.measure_title(measure)} through each API** — to the left is better for the owner")
    with st.skeleton(height=520):
        chart(protected.figure(found, run, measure), "protections")
    words = f" TPR at {fmt.fpr(protected.TPR_FPR)} FPR: these are too few images for 1 %." if measure == "TPR" else ""
    st.caption(protected.note(found) + words)
    heads, rows = protected.table(found, run, measure)
    st.dataframe(pd.DataFrame(rows, columns=heads), hide_index=True, key="protections_table", height="content", alt=f"{len(rows)} APIs, each with what the attacks find through it")


def _offer(run, job):
    st.text(ABOUT)
    try:
        attacks, images = attacks_of(run.report), len(images_of(run, IMAGES))
    except AuditError as error:
        st.text(str(error))
        return
    if job is not None and job.error:
        notice("protections_failed", "warning", job.error)
    entry = current()
    if entry is None or entry.job is None:
        st.text(ELSEWHERE)
        st.code("python -m audit protections DIR", language="bash")
        return
    missing = [name for name in ("checkpoint", "reference") if (path := entry.job.request.get(name)) and not Path(path).exists()]
    with st.container(horizontal=True, vertical_alignment="center"):
        label = "Try again" if job is not None and job.error else "Measure protections"
        st.button(label, icon=":material/filter_alt:", key="protections_start", disabled=bool(missing), on_click=_start, args=(run, entry.job.request))
        if missing:
            st.text(f"The {missing[0]} is not where it was: put it back first.")
        else:
            st.caption(_price(run, attacks, images), width="content")
    if error := st.session_state.pop("protections_error", None):
        notice("protections_error", "error", error)


def _price(run, attacks, images):
    """`about 43,000 model calls, about 1 min left` without the last word: an upper figure from the calls at each attack's setting."""
    calls = {}
    for name in attacks:
        (probe,) = ATTACKS[name].card.probes
        calls[probe] = max(calls.get(probe, 0), run.attack(name)["model_calls_at_setting"] or 0)
    total, cost = len(SWEEP) * sum(images * count if probe != "gray_free" else count for probe, count in calls.items()), run.report["cost"]
    spent = cost.get("seconds"), cost.get("model_calls")
    took = f", {fmt.time_left(total * spent[0] / spent[1]).removesuffix(' left')} on the machine that made this run" if all(spent) else ""
    return f"{fmt.count(images)} images, {len(SWEEP)} APIs, about {fmt.count(total)} model calls{took}"


def _start(run, request):
    try:
        submit_protections(config(), run.folder, Request.from_json(request), IMAGES)
    except AuditError as error:
        st.session_state["protections_error"] = str(error)


def _going(job_id):
    """Progress, polled while it is active; one full run of the page marks the end."""
    job = store().get(job_id)
    if job is None or not job.active:
        st.rerun()
    if not launch.worker_status(config()).alive:
        launch.ensure_worker(config())
    done = f"{fmt.count_of(job.done_shards, job.total_shards)} APIs" if job.total_shards else ""
    with st.container(key="wrap_protections"):
        st.text("Stopping after this batch …" if job.cancel_requested else " · ".join(part for part in (job.phase, done) if part))
        st.progress(job.done_shards / job.total_shards if job.total_shards else 0.0)
    st.button("Cancel", key="protections_cancel", icon=":material/stop_circle:", disabled=job.cancel_requested, on_click=_cancel, args=(job_id,))


def _cancel(job_id):
    try:
        store().request_cancel(job_id)
    except AuditError as error:
        st.session_state["protections_error"] = str(error)

"""The cards of page Runs: words for each state of a job, and the dialogs that show a log or delete a run.

Names, phases and errors come from outside or name files from outside: they are drawn with st.text, never as Markdown.
"""

import time
from pathlib import Path

import streamlit as st

from audit import format as fmt
from audit.errors import AuditError
from audit.jobs import launch
from audit.jobs.store import STALE_S, Store, cancelled_words
from audit.report.palette import VERDICTS

PATIENCE_S = 15  # seconds that a job may wait without a living worker before the page says so
LOG_LINES = 200
TAIL_BYTES = 256 * 1024
DOWNLOAD_BYTES = 20 * 1024 * 1024
FILTERS = {
    "All": ("queued", "running", "finalising", "failed", "cancelled", "done"),
    "Running": ("queued", "running", "finalising"),
    "Done": ("done",),
    "Failed": ("failed",),
    "Cancelled": ("cancelled",),
}
NOTHING = {
    "Running": "No audit is running or waiting.",
    "Done": "No audit has finished yet.",
    "Failed": "No audit has failed.",
    "Cancelled": "No audit was cancelled.",
}
BADGES = {  # state: word, icon, colour slot
    "queued": ("Waiting", "schedule", "gray"),
    "running": ("Running", "progress_activity", "primary"),
    "finalising": ("Finishing", "progress_activity", "primary"),
    "failed": ("Failed", "error", "red"),
    "cancelled": ("Cancelled", "stop_circle", "gray"),
    "cancelling": ("Cancelling", "hourglass_top", "gray"),
}
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


def place_words(position):
    """`first in line`; from the tenth on `number 10 in line`. Args: position: 1 = next to run."""
    return f"{PLACES[position - 1]} in line" if 1 <= position <= len(PLACES) else f"number {position} in line"


def work_words(seconds):
    """`about 4 min of work`, `less than a minute of work`, or `` where it was never measured."""
    return fmt.time_left(seconds).replace(" left", " of work")


def progress_words(job):
    """`Noised probe · shard 21 of 50 · 1,680 of 4,000 images`: parts that are not known yet are left out."""
    parts = [job.phase or "Starting"]
    if job.total_shards and job.state == "running":
        parts.append(f"{'API' if job.kind == 'protections' else 'shard'} {min(job.done_shards + 1, job.total_shards)} of {job.total_shards}")
    if job.total_images:
        parts.append(f"{fmt.count_of(job.done_images or 0, job.total_images)} images")
    return " · ".join(parts)


def speed_words(job, now):
    """`38 images/s · about 1 min left (finishes 02:36) · 67,200 of 160,000 model calls`."""
    parts = []
    if job.images_per_s:
        parts.append(f"{fmt.fixed(job.images_per_s, 0 if job.images_per_s >= 10 else 1)} images/s")
    if job.eta_seconds is not None and job.state == "running":
        parts.append(f"{fmt.time_left(job.eta_seconds)} (finishes {fmt.clock(now + job.eta_seconds)})")
    if job.total_calls:
        parts.append(f"{fmt.count_of(job.done_calls or 0, job.total_calls)} model calls")
    return " · ".join(parts)


def ended_words(job):
    """`23 Nov, 17:05 · after 3 s` of a failed or cancelled job."""
    when = fmt.moment(job.finished or job.created)
    return f"{when} · after {fmt.duration(job.finished - job.started)}" if job.finished and job.started else when


def started_words(job, device):
    """`started 02:31 · quick preset · CPU`."""
    what = "sweep over protections" if job.kind == "protections" else f"{job.request.get('preset', 'standard')} preset"
    parts = [f"started {fmt.clock(job.started)}" if job.started else "starting", what, device]
    return " · ".join(part for part in parts if part)


def expected_seconds(job, checks):
    """Seconds that a waiting job should take, from the newest check that priced the same audit here; None where none did.

    Args: job: an audit, or a sweep, which no check prices; checks: jobs of kind "check".
    """
    same = ("checkpoint", "members", "nonmembers", "preset", "timesteps", "draws", "attacks", "overrides", "reference", "api", "budget")
    for check in checks if job.kind == "audit" else ():
        price = (check.result or {}).get("price")
        if price and all(check.request.get(name) == job.request.get(name) for name in same):
            return price["seconds"] * (1 - (job.fraction or 0))
    return None


def tail(file, lines=LOG_LINES, limit=TAIL_BYTES):
    """The last lines of a log, as text; `` where there is none. Args: file: Path; lines: at most; limit: bytes read from the end."""
    return "\n".join(last_bytes(file, limit).decode("utf-8", "replace").splitlines()[-lines:])


def last_bytes(file, limit):
    """The last `limit` bytes of a file, or b"" where there is none."""
    try:
        with open(file, "rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - limit))
            return handle.read()
    except FileNotFoundError:
        return b""


def folder_bytes(folder):
    """Bytes of all files below a folder; 0 where it is gone."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) if folder else 0


def log_file(job):
    """Path of a job's log, or None before it has a folder."""
    return Path(job.folder) / "log.txt" if job.folder else None


def card(job, config, status=None, checks=(), position=None):
    """One bordered card for a job that is not done.

    Args: job: Job; config: Config; status: launch.WorkerStatus, needed for open jobs; checks: check jobs, for the price of a waiting one; position: its place in the queue.
    """
    now = time.time()
    with st.container(border=True, key=f"card_{job.id}"):
        words, buttons = st.columns([4, 1], vertical_alignment="center")
        with words:
            _head(job, status, position, checks)
            if job.active:
                _live(job, config, status, now)
            elif job.state == "failed":
                _text(f"wrap_error_{job.id}", job.error or "It ended without a reason. Expected one: open its log.")
            else:
                _text(f"wrap_kept_{job.id}", job.error or cancelled_words(job))
        with buttons:
            _buttons(job, config)


def _head(job, status, position, checks):
    cancelling = job.active and job.cancel_requested
    word, icon, colour = BADGES["cancelling" if cancelling else job.state]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.container(key=f"name_{job.id}", width="content"):
            st.text(job.name)
        st.badge(word, icon=f":material/{icon}:", color=colour)
        if job.state == "queued" and not cancelling:
            parts = [place_words(position) if position else "in line", work_words(expected_seconds(job, checks))]
            _text(f"small_line_{job.id}", " · ".join(part for part in parts if part), width="content")
        elif job.active:
            device = (status.device_words or "").split(",")[0]
            _text(f"small_line_{job.id}", started_words(job, device), width="content")
        else:
            _text(f"small_line_{job.id}", ended_words(job), width="content")


def _live(job, config, status, now):
    if job.state == "queued":
        if job.cancel_requested:
            st.text("Stopping after this batch …")
        elif not status.alive and now - _waiting_since(job) > PATIENCE_S:
            st.text("No worker has taken this up. Last lines of its log:")
            st.code(tail(config.worker_log, 12) or "(the log is empty)", language=None, wrap_lines=True)
        return
    with st.container(gap="xsmall", key=f"wrap_phase_{job.id}"):
        st.text("Stopping after this batch …" if job.cancel_requested else progress_words(job))
        st.progress(min(1.0, max(0.0, job.fraction or 0.0)))
    quiet = job.silent_seconds or 0
    if quiet > STALE_S:
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            st.badge("Quiet", icon=":material/warning:", color="orange")
            _text(f"wrap_silent_{job.id}", f"The worker went quiet {fmt.duration(quiet)} ago. The next one resumes from the last shard.", width="content")
    elif speed := speed_words(job, now):
        _text(f"small_speed_{job.id}", speed)


def _waiting_since(job):
    """A resumed job waits since its last change, not since it was first submitted."""
    return max(job.created or 0, job.finished or 0, st.session_state.get(f"runs_resumed_{job.id}", 0))


def _text(key, words, width="stretch"):
    with st.container(key=key, width=width):
        st.text(words)


def _buttons(job, config):
    wide = {"width": "stretch"}
    if job.active:
        st.button("Cancel", key=f"cancel_{job.id}", icon=":material/stop_circle:", disabled=bool(job.cancel_requested), on_click=_cancel, args=(config, job.id), **wide)
    elif job.state == "failed":
        st.button("Try again", key=f"retry_{job.id}", icon=":material/replay:", on_click=_resume, args=(config, job.id), **wide)
    else:
        st.button("Resume", key=f"resume_{job.id}", icon=":material/play_arrow:", on_click=_resume, args=(config, job.id), **wide)
    with st.container(horizontal=True, horizontal_alignment="center", gap="small"):
        if job.state != "queued" and st.button("Log", key=f"log_{job.id}", type="tertiary", icon=":material/terminal:", on_click=open_dialog, args=("log", job.id)):
            st.rerun()  # a dialog opened inside the polling fragment would close at its next tick
        if not job.active:
            st.button("Delete …", key=f"delete_{job.id}", type="tertiary", icon=":material/delete:", on_click=open_dialog, args=("delete", job.id))


def _cancel(config, job_id):
    _told(lambda: Store(config.home).request_cancel(job_id))


def _resume(config, job_id):
    def again():
        Store(config.home).resume(job_id)
        st.session_state[f"runs_resumed_{job_id}"] = time.time()
        launch.ensure_worker(config)

    _told(again)


def _told(act):
    """Do it; an error of ours becomes a line at the top of the page."""
    try:
        act()
    except AuditError as error:
        st.session_state["runs_error"] = str(error)


def open_dialog(kind, job_id):
    """Remember which dialog to draw in the next full run. Args: kind: "log" or "delete"."""
    st.session_state["runs_dialog"] = (kind, job_id)


def close_dialog():
    """Forget it."""
    st.session_state.pop("runs_dialog", None)


def draw_dialog(config, job):
    """The open dialog, if there is one. Args: job: the Job it speaks of, or None when that is gone."""
    kind = st.session_state.get("runs_dialog", (None, None))[0]
    if kind is None:
        return
    if job is None:
        close_dialog()
    elif kind == "log":
        log_dialog(job)
    else:
        delete_dialog(config, job)


@st.dialog("Log", width="large", icon=":material/terminal:", on_dismiss=close_dialog)
def log_dialog(job):
    """The last LOG_LINES lines of a job's log, and the whole of it as a file."""
    file = log_file(job)
    text = tail(file) if file else ""
    st.text(f"{job.name} · last {LOG_LINES} lines")
    if not text:
        st.text("Nothing was written yet.")
        return
    with st.container(height=420, autoscroll=True, key="log_lines"):
        st.code(text, language=None, wrap_lines=True)
    st.download_button("Download log", last_bytes(file, DOWNLOAD_BYTES), file_name=f"afterimage-{job.id}-log.txt", mime="text/plain", icon=":material/download:", on_click="ignore")


@st.dialog("Delete run", icon=":material/delete:", on_dismiss=close_dialog)
def delete_dialog(config, job):
    """Ask before a run goes for good."""
    size = fmt.size(folder_bytes(job.folder))
    what = "Its tables, scores and report go" if job.state == "done" else "What it has measured so far goes"
    _text(f"wrap_delete_{job.id}", f"Delete {job.name}? {what} for good ({size}). The checkpoint and your images stay.")
    with st.container(horizontal=True):
        gone = st.button("Delete run", type="primary", key="delete_confirm", on_click=_delete, args=(config, job.id))
        kept = st.button("Keep", key="delete_keep", on_click=close_dialog)
    if gone or kept:
        st.rerun()  # a click in a dialog runs the dialog alone: the page behind it must follow


def _delete(config, job_id):
    close_dialog()
    _told(lambda: Store(config.home).delete(job_id))


def finished_rows(jobs):
    """Rows of the table of finished runs, as text: run, verdict, AUC, images, finished, took, checkpoint."""
    rows = []
    for job in jobs:
        result = job.result or {}
        auc = result.get("auc")
        rows.append(
            {
                "run": job.name,
                "verdict": VERDICTS[result["level"]].word if result.get("level") in VERDICTS else "not read",
                "AUC, headline attack": fmt.value_interval(auc) if auc and auc.get("value") is not None else "no value",
                "images": f"{fmt.count(result['members'])} + {fmt.count(result['nonmembers'])}" if result.get("members") is not None else "",
                "finished": fmt.moment(job.finished) if job.finished else "",
                "took": fmt.duration(result["seconds"]) if result.get("seconds") is not None else "",
                "checkpoint": fmt.fingerprint(result["sha256"]) if result.get("sha256") else "samples only" if result else "",
            }
        )
    return rows

"""Which run a page shows: the list, the picker, and the head of every evidence page."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from audit import format as fmt
from audit.errors import HomeError, RunFolderError
from audit.report.palette import VERDICTS
from pages.frame.states import first_visit, notice, state

GOING = ("queued", "running", "finalising")
STATE_WORDS = {"queued": "waiting", "running": "running", "finalising": "finishing", "failed": "failed", "cancelled": "cancelled"}


@dataclass(frozen=True)
class Entry:
    """One line of the picker. id: in the URL; name: text from outside; when: seconds since 1970; state: as in the job list; job: None for a folder that was put there by hand."""

    id: str
    name: str
    when: float
    state: str
    folder: Path
    job: object = None

    @property
    def label(self):
        """`leaky-fmnist · 24 Nov, 02:14`, with a word when it is not done."""
        word = "" if self.state == "done" else f" · {STATE_WORDS[self.state]}"
        return f"{self.name} · {fmt.moment(self.when)}{word}"


def config():
    """The settings, with AUDIT_HOME in place. Draws the error and stops the page where it cannot be used."""
    from audit.config import load

    try:
        return load().prepare_home()
    except HomeError as error:
        with state("home", "warning", "The audit folder cannot be used", str(error)):
            if st.button("Try again", icon=":material/refresh:"):
                st.rerun()
        st.stop()


def store():
    """The job list."""
    from audit.jobs.store import Store

    return Store(config().home)


def list_runs():
    """Entries, newest first: every audit in the job list, and run folders that were put into AUDIT_HOME/runs by hand."""
    jobs = store().list(kind="audit")
    entries = [Entry(job.id, job.name, job.finished or job.created, job.state, Path(job.folder), job) for job in jobs]
    known = {entry.folder.resolve() for entry in entries}
    for report in config().runs.glob("*/report.json"):
        if report.parent.resolve() not in known and not report.parent.is_symlink():
            name, created = _title(str(report), report.stat().st_mtime_ns)
            entries.append(Entry(report.parent.name, name, created, "done", report.parent))
    return sorted(entries, key=lambda entry: entry.when, reverse=True)


@st.cache_data(max_entries=256, show_spinner=False)
def _title(report, mtime_ns):
    """Name and creation time of a run folder that no job names."""
    import json

    try:
        run = json.loads(Path(report).read_text(encoding="utf-8"))["run"]
        return str(run["name"]), fmt.timestamp(run["created"])
    except (OSError, ValueError, KeyError, TypeError):  # unreadable: still listed, and opening it says what is wrong
        return Path(report).parent.name, mtime_ns / 1e9


def _choose(entries):
    """The entry that the URL names, else the session's, else the newest finished, else the newest."""
    by_id = {entry.id: entry for entry in entries}
    for wanted in (st.query_params.get("run"), st.session_state.get("run")):
        if wanted in by_id:
            return by_id[wanted]
    finished = [entry for entry in entries if entry.state == "done"]
    return next(iter(finished or entries), None)


def current():
    """The Entry that this page shows, or None when there is no run."""
    return _choose(list_runs())


def current_id():
    """Its id for links, or None."""
    entry = current()
    return entry.id if entry else None


def heading(title, caption):
    """h1 and one caption, both constants."""
    st.title(title, anchor=False)
    st.caption(caption)


def badge(level):
    """The verdict badge: shape, word, colour."""
    look = VERDICTS[level]
    st.badge(look.word, icon=f":material/{look.icon}:", color=look.badge)


def page_head(title, caption, badge=True):
    """Head of an evidence page, and the opened run; or None after drawing why there is none."""
    entries = list_runs()
    entry = _choose(entries)
    if entry is None:
        heading(title, caption)
        first_visit()
        return None
    left, right = st.columns([1.5, 1], gap="small")
    with left:
        heading(title, caption)
    with right, st.container(gap="xsmall"):
        _picker(entries, entry)
        below = st.container(horizontal=True, vertical_alignment="center", gap="small")
    wanted = st.query_params.get("run")
    if wanted is not None and wanted != entry.id:
        notice("unknown_run", "info", f'There is no run "{wanted[:60]}" here. Showing the newest one.')
    else:
        st.query_params["run"] = entry.id
    st.session_state["run"] = entry.id
    run = _open_or_explain(entry)
    if run is not None:
        _below_picker(below, run, badge)
    return run


def _picker(entries, entry):
    shown = [e for e in entries if e.state != "cancelled" or e.id == entry.id]
    labels = {e.id: e.label for e in shown}
    st.session_state["run_picker"] = entry.id  # the URL leads: a link or Back may have changed it since this widget was drawn
    st.selectbox(
        "Run", list(labels), format_func=lambda id_: labels.get(id_, id_), key="run_picker", on_change=_picked, label_visibility="collapsed", icon=":material/deployed_code:"
    )


def _picked():
    st.session_state["run"] = st.session_state["run_picker"]
    st.query_params["run"] = st.session_state["run_picker"]


def _below_picker(place, run, with_badge):
    with place:
        if with_badge:
            badge(run.report["verdict"]["level"])
        sha256 = run.report["checkpoint"]["sha256"]
        st.caption(f"{fmt.evaluated(run.report['queries'])} · {fmt.fingerprint(sha256) if sha256 else 'samples only'}", width="content")


def _open_or_explain(entry):
    """The opened run, or None after drawing its state."""
    if entry.state in GOING:
        _still_running(entry.id)
    elif entry.state == "failed":
        with state("failed", "report", "This audit failed", entry.job.error):
            _to_runs("See what happened", entry.id)
    elif entry.state == "cancelled":
        job = entry.job
        words = f"Cancelled at {fmt.percent(job.fraction)}. {fmt.count_of(job.done_shards, job.total_shards)} shards kept." if job.total_shards else "Cancelled before it began."
        with state("cancelled", "stop_circle", "This audit was cancelled", words):
            _to_runs("See it in Runs", entry.id)
    else:
        try:
            return _open(str(entry.folder), (entry.folder / "report.json").stat().st_mtime_ns)
        except FileNotFoundError:
            text = f"{entry.folder.name} is not a finished run: report.json is missing. Expected the folder where the audit wrote it."
        except RunFolderError as error:
            text = str(error)
        state("unreadable", "folder_off", "This run cannot be read", text)
    return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(folder, mtime_ns):
    """One opened run for all sessions, until its report changes; its arrays are read-only memory maps."""
    from audit.report.run import open_run

    return open_run(folder)


@st.fragment(run_every=2.0)
def _still_running(job_id):
    """Polls while the job is active; one full rerun marks the end."""
    job = store().get(job_id)
    if job is None or not job.active:
        st.rerun()
    if job.state == "queued":
        words = "Waiting for its turn. Pictures appear here when it ends."
    else:
        left = fmt.time_left(job.eta_seconds)
        words = f"{fmt.percent(job.fraction)} done{', ' + left if left else ''}. Pictures appear here when it ends."
    with state("running", "progress_activity", "This audit is still running", words):
        _to_runs("See progress", job_id)


def _to_runs(label, job_id):
    if st.button(label, icon=":material/list_alt:", key="state_to_runs"):
        st.switch_page("pages/runs.py", query_params={"run": job_id})

"""What the worker says about the inputs of a new audit: check jobs, submitted when a choice changes and polled while they run.

All parsing happens in the worker. One check answers several questions; an answer stays good while the choices it rests on stay.
"""

import time

import streamlit as st

from audit.errors import AuditError
from audit.jobs import launch
from audit.jobs.store import STALE_S
from audit.jobs.submit import submit_check
from pages.frame.runs import store
from pages.frame.states import notice

HISTORY = "new_checks"  # [(payload, job id)], newest first
KEPT = 12
RESTS_ON = {  # part of a result: the choices that it depends on
    "checkpoint": ("checkpoint", "overrides"),
    "images": ("checkpoint", "overrides", "members", "nonmembers"),
    "provenance": ("checkpoint", "overrides", "members", "nonmembers", "manifest"),
    "asks_for": ("checkpoint", "overrides"),
    "asked_with": ("checkpoint", "overrides", "members", "nonmembers", "labels", "captions"),
    "self_test": ("checkpoint", "overrides", "members", "nonmembers", "labels", "captions"),
    "ranking": ("checkpoint", "overrides", "members", "nonmembers"),
    "plan": ("checkpoint", "overrides", "reference", "api", "preset", "attacks", "budget"),
    "costs": ("checkpoint", "overrides", "members", "nonmembers", "labels", "captions", "reference", "api", "preset"),
    "training": ("checkpoint", "overrides", "attacks", "settings"),
    "price": ("checkpoint", "overrides", "members", "nonmembers", "labels", "captions", "reference", "api", "preset", "attacks", "budget"),
}
OPTIONAL = ("manifest", "reference", "labels", "captions")
DECIDING = (*RESTS_ON["price"], "manifest", "settings")


def payload(choices, preset, attacks, overrides=None, api=None, budget=None, pool=None, settings=None):
    """What a check is asked.

    Args: choices: {key of OPTIONAL or "checkpoint" | "members" | "nonmembers": intake.Choice}; preset: key of PRESETS; attacks: canonical names, () = all;
        overrides: {name: value} of the loader; api: as audit.api.Api.to_json, or None; budget: loss grids, or None;
        pool: how many samples, or their path, or None; settings: {"surrogate": {name: value}}, or None.
    """
    return dict.fromkeys(OPTIONAL) | {key: choice.path for key, choice in choices.items()} | {
        "preset": preset,
        "timesteps": None,
        "draws": None,
        "seed": 0,
        "device": "auto",
        "batch_size": None,
        "precision": "fp32",
        "attacks": list(attacks),
        "overrides": dict(overrides or {}),
        "api": api,
        "budget": budget,
        "pool": pool,
        "settings": settings,
    }


def known(asked):
    """Answers from the checks so far, without a new one."""
    jobs = [(before, store().get(id)) for before, id in st.session_state.get(HISTORY, ())]
    return Answers(asked, [(before, job) for before, job in jobs if job is not None], jobs[0][1] if jobs else None)


def follow(config, asked):
    """Submit a check for these choices unless the newest one asked the same; a superseded one is cancelled.

    Args: config: Config; asked: from `payload`.
    Returns: Answers.
    """
    history = st.session_state.setdefault(HISTORY, [])
    if not any(asked[key] for key in ("checkpoint", "members", "nonmembers")):
        return Answers(asked, (), None)
    if not history or any(history[0][0][key] != asked[key] for key in DECIDING):
        for _, old in history[:1]:
            _cancel(old)
        try:
            job = submit_check(config, asked)
        except AuditError as error:
            return Answers(asked, (), None, str(error))
        history.insert(0, (asked, job.id))
        del history[KEPT:]
    jobs = [(before, store().get(id)) for before, id in history]
    return Answers(asked, [(before, job) for before, job in jobs if job is not None], jobs[0][1])


def _cancel(job_id):
    job = store().get(job_id)
    if job is not None and job.active:
        try:
            store().request_cancel(job_id)
        except AuditError:
            return  # it ended between the two lines


def ask_again():
    """Forget the newest check, so that the next `follow` submits it anew."""
    del st.session_state[HISTORY][:1]


class Answers:
    """The parts of the newest results that still hold for the choices of now.

    Attributes: job: the newest check Job, or None; error: why no check could be submitted, or "".
    """

    def __init__(self, asked, jobs, job, error=""):
        self._asked, self._jobs, self.job, self.error = asked, jobs, job, error

    @property
    def pending(self):
        """True while the worker has not answered everything."""
        return self.job is not None and self.job.active

    def part(self, name):
        """A part of the result, or None. Args: name: key of RESTS_ON."""
        return self._newest(name, name)

    def problem(self, name):
        """The sentence that stands in place of a part, or "". Args: name: "checkpoint", "plan", "images", "provenance", "asked_with" or "training"."""
        return self._newest(name, f"{name}_error") or ""

    def _newest(self, name, field):
        for before, job in self._jobs:
            if all(before[key] == self._asked[key] for key in RESTS_ON[name]) and (job.result or {}).get(field):
                return job.result[field]
            if job is self.job and job.result and not job.active:
                return None  # the newest answer is complete: an older one must not contradict it
        return None


def waiting(config, answers, words):
    """The line that stands where an answer will be, polled each second; the page runs once in full when the answer is there.

    Args: config: Config; answers: Answers; words: constant, what is being done.
    """
    if answers.error:
        notice("check", "warning", answers.error)
    elif answers.job is None:
        return
    elif answers.pending:
        st.fragment(_poll, run_every=1.0)(config, answers.job.id, answers.job.result, words)
    elif answers.job.state != "done":
        notice("check", "warning", answers.job.error or "The check was stopped.")
        st.button("Check again", icon=":material/refresh:", key="check_again", on_click=ask_again)


def _poll(config, job_id, drawn, words):
    job = store().get(job_id)
    if job is None or not job.active or job.result != drawn:
        st.rerun()
    ahead = (store().queue_position(job_id) or 1) - 1
    status = launch.worker_status(config)
    with st.container(horizontal=True, wrap=False, vertical_alignment="center", gap="small"):
        st.markdown(":material/hourglass_top:", width="content")
        if job.state == "queued" and (ahead or status.running):
            st.text("Waiting for the worker, which is busy with another job …")
        else:
            st.text(words)
    if job.state == "queued" and not status.alive and time.time() - job.created > STALE_S:
        from pages.frame.jobs import tail

        st.text("No worker has taken this up. Last lines of its log:")
        st.code(tail(config.worker_log, 12) or "(the log is empty)", language=None, wrap_lines=True)

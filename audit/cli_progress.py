"""Waiting for a job on the command line, and the few lines that say what came out."""

import sys
import time

from audit import format as fmt
from audit.errors import JobError
from audit.jobs.launch import ensure_worker
from audit.jobs.store import Store
from audit.report.run import open_run
from audit.report.words import LEVEL_WORDS, attack_of, curve_images, title_of, tpr_of, verdict_words

POLL_S = 0.25
LINE_EVERY_S = 10  # plain output: a line this often, and at each new phase
INTERRUPTED = 130


def wait(config, job_id, again="run the same command", behind=()):
    """Show progress until the job ends. Returns 0, or 130 after Ctrl-C (the job is then cancelled and can be resumed).

    Args: again: how to go on after a cancel; behind: ids of jobs that wait behind this one and belong to it, cancelled with it.
    Raises: JobError: the job failed or was cancelled elsewhere.
    """
    store = Store(config.home)
    show = _bar if sys.stdout.isatty() else _lines()
    try:
        while True:
            job = store.get(job_id)
            show(job)
            if not job.active:
                break
            ensure_worker(config)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return _interrupted(store, (job_id, *behind), again)
    if sys.stdout.isatty():
        print()
    if job.state == "failed":
        raise JobError(job.error)
    if job.state == "cancelled":
        raise JobError(f"The job was cancelled at {round(100 * job.fraction)} %. To resume, {again}.")
    return 0


def _interrupted(store, job_ids, again):
    for job_id in reversed(job_ids):  # those that wait first, or one of them would start
        if store.get(job_id).active:
            store.request_cancel(job_id)
    deadline = time.monotonic() + 15
    while store.get(job_ids[0]).active and time.monotonic() < deadline:
        time.sleep(POLL_S)
    print(f"\nCancelled at {round(100 * store.get(job_ids[0]).fraction)} %. To resume, {again}.", flush=True)
    return INTERRUPTED


def _state(job):
    words = [job.phase or job.state, f"{round(100 * job.fraction)} %"]
    if job.total_images:
        words.append(f"{fmt.count_of(job.done_images, job.total_images)} images")
    if job.images_per_s:
        words.append(f"{job.images_per_s:.0f} images/s")
    if job.eta_seconds is not None:
        words.append(fmt.time_left(job.eta_seconds))
    return " · ".join(words)


def _bar(job):
    filled = round(24 * job.fraction)
    print(f"\r\x1b[2K{job.name} [{'=' * filled}{'-' * (24 - filled)}] {_state(job)}", end="", flush=True)


def _lines():
    last = {"at": 0.0, "phase": None}

    def show(job):
        now = time.monotonic()
        if job.phase != last["phase"] or now - last["at"] >= LINE_EVERY_S or not job.active:
            last.update(at=now, phase=job.phase)
            print(f"{job.name}: {_state(job)}", flush=True)

    return show


def print_result(folder):
    """The verdict in a few lines. Returns its level."""
    report = open_run(folder).report
    words, head = verdict_words(report), attack_of(report, report["verdict"]["headline_attack"])
    (_, n), queries = curve_images(report), report["queries"]
    print(f"\n{report['run']['name']}: {LEVEL_WORDS[report['verdict']['level']]}. {words.headline}")
    print(f"  {words.reason}")
    print(f"  Next: {words.next}")
    print(f"  {title_of(head['name'])}: AUC {fmt.value_interval(head['auc'])}, TPR {fmt.tpr_sentence(tpr_of(head, 0.01), n)}")
    print(f"  {fmt.evaluated(queries)} · could not be seen: {'; '.join(words.not_seen)}")
    print(f"  {folder}", flush=True)
    return report["verdict"]["level"]

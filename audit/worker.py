"""The background worker: `python -m audit.worker` (started by pages and commands) or `python -m audit worker` (in the foreground).

One per home: the second one refuses. It ends by itself when there is nothing to do.
"""

import logging
import logging.handlers
import os
import shutil
import signal
import sys

from filelock import FileLock, Timeout

from audit import config as configuration
from audit.errors import AuditError
from audit.files import write_json

LOCK_WAIT_S = 2.0  # longer than the moment for which others hold the lock to see whether a worker lives
LOG_BYTES, LOG_FILES = 1_000_000, 3


class _Log(logging.handlers.RotatingFileHandler):
    """worker.log; a detached worker's own stdout and stderr follow it when it rotates."""

    def __init__(self, path, detached):
        self.detached = detached
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")

    def doRollover(self):
        super().doRollover()
        if self.detached:
            os.dup2(self.stream.fileno(), 1)
            os.dup2(self.stream.fileno(), 2)


def main(detached=False):
    """Run the worker until it has been idle for AUDIT_IDLE_EXIT seconds, is told to end, or its home vanishes.

    Returns: exit code: 0, also where another worker holds the lock.
    Raises: HomeError, in the foreground.
    """
    config = configuration.load().prepare_home()
    log = _logging(config, detached)
    lock = FileLock(config.lock_file, timeout=LOCK_WAIT_S, poll_interval=0.02, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        print("A worker of this home is running already; this one ends.", flush=True)
        return 0
    for line in config.warnings:
        log.warning(line)
    while True:
        try:
            again = _work(config, log)
        except Exception as error:  # its text may name files
            log.error("the worker stopped on an internal error (%s)", type(error).__name__)
            raise
        finally:
            lock.release()
        if not again:
            return 0
        try:  # a job came between the last look and the release of the lock
            lock.acquire()
        except Timeout:
            return 0


def _work(config, log):
    """One life of the driver. Returns True when a job is waiting although it ended for want of one."""
    from audit.jobs.driver import Driver
    from audit.jobs.store import KINDS, Store

    _empty(config.tmp)
    driver = Driver(config)
    told = []

    def end(*_):
        told.append(True)
        driver.end()

    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)
    log.info("worker started, process %d", os.getpid())
    write_json(config.home / "worker.json", {"pid": os.getpid(), "device": device_words(config)})
    driver.run()
    log.info("worker ends")
    if driver.home_is_there:
        _empty(config.tmp)
    if told or not driver.home_is_there:
        return False
    (config.home / "worker.json").unlink(missing_ok=True)
    return bool(Store(config.home).counts(*KINDS)[1])


def device_words(config):
    """What the worker computes on, in words: `CPU, 2 cores`, `2 GPUs`, `cluster`."""
    from audit.jobs.cluster import cpu_threads, visible_gpus
    from audit.jobs.facts import cpu_words

    if config.scheduler:
        return "Dask cluster"
    gpus = len(visible_gpus()) if config.devices is None else len(config.devices)
    return f"{gpus} GPU{'' if gpus == 1 else 's'}" if gpus else cpu_words(cpu_threads())


def _empty(folder):
    """Remove what earlier workers left in their scratch folder."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _logging(config, detached):
    handler = _Log(config.worker_log, detached)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log = logging.getLogger("audit")
    log.setLevel(logging.INFO)
    log.propagate = False
    for old in list(log.handlers):
        log.removeHandler(old)
    log.addHandler(handler)
    return log


if __name__ == "__main__":
    try:
        sys.exit(main(detached="--detached" in sys.argv[1:]))
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

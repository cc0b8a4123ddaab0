"""Starting the one background worker, and asking how it is. No torch.

Whether a worker lives is asked of its file lock, not of a process id: the system gives the lock back the moment the holder dies, however it dies.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from audit.errors import HomeError
from audit.jobs.store import ON_DEVICE, Store

START_AGAIN_S = 5.0  # Python needs a moment to reach the lock; a worker that cannot start is not tried more often
LOG_TAIL_LINES = 20
_WINDOWS_FLAGS = 0x00000008 | 0x00000200  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
_started: dict = {}  # home -> (monotonic time, Popen) of the last worker that this process started


@dataclass(frozen=True)
class WorkerStatus:
    """alive; device_words ("CPU, 2 cores", "" when none lives); running and waiting: numbers of audits; log_tail: last lines of worker.log."""

    alive: bool
    device_words: str
    running: int
    waiting: int
    log_tail: str


def ensure_worker(config):
    """Start a detached worker unless one lives; cheap enough to be called in a loop.

    Returns: True when one was started.
    Raises: HomeError: it cannot be started.
    """
    at, process = _started.get(config.home, (0.0, None))
    if process is not None:
        process.poll()  # collects it when it has ended
    if (at and time.monotonic() - at < START_AGAIN_S) or worker_alive(config):
        return False
    root = Path(__file__).resolve().parents[2]
    environ = {**os.environ, "AUDIT_HOME": str(config.home), "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])), "PYTHONUNBUFFERED": "1"}
    for name in ("MPLBACKEND", "STREAMLIT_SERVER_PORT"):
        environ.pop(name, None)
    detached = {"creationflags": _WINDOWS_FLAGS} if os.name == "nt" else {"start_new_session": True}
    try:
        with open(config.worker_log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "audit.worker", "--detached"], cwd=root, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=True, **detached
            )
    except OSError as error:
        raise HomeError(f"The worker cannot be started: {error.strerror}. Start it by hand: python -m audit worker") from None
    _started[config.home] = (time.monotonic(), process)
    return True


def worker_alive(config):
    """True when a worker holds the lock of this home. It is taken and given back at once; a starting worker waits longer than that."""
    if not config.lock_file.exists():
        return False
    lock = FileLock(config.lock_file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise HomeError(f"The lock {config.lock_file.name} cannot be used: {error.strerror}. Set AUDIT_HOME to a local folder that you may write.") from None
    lock.release()
    return False


def worker_status(config):
    """WorkerStatus of this home; starts nothing."""
    alive = worker_alive(config)
    running, waiting = Store(config.home).counts(*ON_DEVICE) if config.home.is_dir() else (0, 0)
    return WorkerStatus(alive, _device_words(config) if alive else "", running, waiting, log_tail(config))


def log_tail(config, lines=LOG_TAIL_LINES):
    """The last lines of worker.log, "" where there is none."""
    try:
        with open(config.worker_log, "rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - 400 * lines))
            text = handle.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _device_words(config):
    try:
        return str(json.loads((config.home / "worker.json").read_text(encoding="utf-8"))["device"])
    except (OSError, ValueError, KeyError, TypeError):  # the worker has not written it yet
        return "starting"

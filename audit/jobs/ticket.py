"""One claimed job in the hands of a worker: its row, its log, and the ways it can be told to stop."""

import threading
import time
from pathlib import Path

from audit.jobs.store import cancelled_words

HARD_STOP_S = 10.0  # after this a device worker that does not react is killed


class StopJob(Exception):
    """Base of the reasons to stop that are nobody's mistake."""


class Cancelled(StopJob):
    """Somebody asked for the end."""


class LeaseLost(StopJob):
    """The row belongs to somebody else now, or is gone."""


class ShuttingDown(StopJob):
    """The worker was told to end; the job goes back to the queue."""


class RunLog:
    """log.txt of a run folder: one line an event, local time in front."""

    def __init__(self, folder):
        self.path = Path(folder) / "log.txt" if folder else None

    def write(self, text):
        """Append lines; a job without a folder has no log."""
        if self.path is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write("".join(f"{stamp}  {line}\n" for line in text.rstrip().splitlines()))


class Ticket:
    """A claimed job. The heartbeat thread sets `cancelled`, `lost` and `ending`; the job's thread calls `check` wherever it can stop.

    Attributes: job: Job as it was claimed; state: "running" or "finalising"; log: RunLog.
    """

    def __init__(self, store, owner, job):
        self.store, self.owner, self.job, self.state = store, owner, job, job.state
        self.log = RunLog(job.folder)
        self.cancelled, self.lost, self.ending, self._asked_at = False, False, False, None
        self._flags, self._lock = [], threading.Lock()

    @property
    def must_stop(self):
        """True when `check` would raise."""
        return self.cancelled or self.lost or self.ending

    def check(self, *_):
        """Raise the reason to stop, if there is one; takes and ignores the arguments of progress callbacks."""
        if self.lost:
            raise LeaseLost
        if self.cancelled:
            raise Cancelled
        if self.ending:
            raise ShuttingDown

    def add_flag(self, flag):
        """A stop sign of the device workers that is to follow this ticket's."""
        with self._lock:
            self._flags.append(flag)
            if self.must_stop:
                flag.set()

    def remove_flag(self, flag):
        """Take a stop sign down; nothing looks at it any more."""
        with self._lock:
            self._flags.remove(flag)
            flag.clear()

    def stop(self, cancelled=False, lost=False, ending=False):
        """Called by the heartbeat thread; the device workers see it between two batches."""
        with self._lock:
            self.cancelled, self.lost, self.ending = self.cancelled or cancelled, self.lost or lost, self.ending or ending
            if self.must_stop and self._asked_at is None:
                self._asked_at = time.monotonic()
            if self.must_stop:
                for flag in self._flags:
                    flag.set()

    @property
    def overdue(self):
        """True when the stop was asked for HARD_STOP_S ago."""
        return self._asked_at is not None and time.monotonic() - self._asked_at > HARD_STOP_S

    def update(self, **fields):
        """Change the row. Raises LeaseLost: it is not ours any more."""
        if not self.store.update(self.job.id, self.owner, self.state, **fields):
            self.lost = True
            raise LeaseLost
        self.state = fields.get("new_state", self.state)

    def phase(self, words):
        """Say what is being done, in the row and the log; a place where the job can stop."""
        self.check()
        self.update(phase=words)
        self.log.write(words)

    def close_cancelled(self):
        """running or finalising -> cancelled. Returns the sentence."""
        words = cancelled_words(self.store.get(self.job.id) or self.job)
        self.update(new_state="cancelled", phase="Cancelled", error=words)
        return words

"""The worker's loop: claim, run, say how it ended, go on. One thread runs audits, one answers checks, one renews the lease and passes on what users ask."""

import errno
import logging
import os
import secrets
import socket
import threading
import time
import traceback

from audit.errors import AuditError
from audit.jobs.check import Check
from audit.jobs.cluster import EngineLost, Engines, TaskKilled
from audit.jobs.protect import Protections
from audit.jobs.steps import Audit, TaskFailed
from audit.jobs.store import MAX_ATTEMPTS, ON_DEVICE, Store
from audit.jobs.ticket import Cancelled, LeaseLost, ShuttingDown, Ticket
from models.errors import ModelError

HEARTBEAT_S = 0.4  # twice as often as the lease asks, so that a cancel reaches the device within half a second
IDLE_POLL_S = 0.3
STEPS = {"audit": Audit, "protections": Protections, "check": Check}

log = logging.getLogger("audit.worker")


class Driver:
    """Runs jobs of one home until told to end, or until there has been nothing to do for config.idle_exit seconds."""

    def __init__(self, config, engines=None):
        self.config, self.store = config, Store(config.home)
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.engines = engines or Engines(config)
        self._identity = _identity(config.home)
        self._tickets, self._lock = {}, threading.Lock()
        self._ending, self._last_work = threading.Event(), time.monotonic()

    def end(self):
        """Stop after the current batch; running jobs go back to the queue."""
        self._ending.set()

    @property
    def home_is_there(self):
        """False once the home was removed or replaced."""
        return _identity(self.config.home) == self._identity

    def run(self):
        """Work until idle for long enough, told to end, or the home vanishes."""
        self._take_over()
        threads = [threading.Thread(target=self._beat, name="heartbeat", daemon=True), threading.Thread(target=self._serve, args=(("check",),), name="checks", daemon=True)]
        for thread in threads:
            thread.start()
        try:
            self._serve(ON_DEVICE)
        finally:
            self._ending.set()
            for thread in threads:
                thread.join(timeout=15)
            self.engines.close()

    def run_waiting(self):
        """Run every waiting job in this thread and return: tests, and notebooks without a background process."""
        for kind in ("check", *ON_DEVICE):
            while (job := self.store.claim(self.owner, kind)) is not None:
                self.run_job(job)

    def _take_over(self):
        changed = self.store.take_over_dead(self.owner, lock_held=True)
        if changed:
            log.info("took over %d jobs of a worker that died", changed)
        self.store.forget_old_checks()

    # ------------------------------------------------------------------ threads

    def _serve(self, kinds):
        while not self._ending.is_set():
            try:
                job = next(filter(None, (self.store.claim(self.owner, kind) for kind in kinds)), None)
            except AuditError as error:
                if not self.home_is_there:
                    return
                log.error("the job list cannot be used: %s", error)
                self._ending.wait(5)
                continue
            if job is not None:
                self.run_job(job)
                self._last_work = time.monotonic()
            elif kinds == ON_DEVICE and self._idle():
                return
            else:
                self._ending.wait(IDLE_POLL_S)

    def _idle(self):
        if not self.home_is_there:
            log.info("the home is gone, ending")
            return True
        if self._tickets:
            self._last_work = time.monotonic()
        return time.monotonic() - self._last_work > self.config.idle_exit

    def _beat(self):
        while not self._ending.wait(HEARTBEAT_S):
            self._beat_once()
        with self._lock:
            tickets = list(self._tickets.values())
        for ticket in tickets:
            self._tell(ticket, ending=True)

    def _beat_once(self):
        with self._lock:
            tickets = dict(self._tickets)
        if not tickets:
            return
        try:
            held = self.store.heartbeat(self.owner)
        except AuditError as error:
            if not self.home_is_there:
                for ticket in tickets.values():
                    self._tell(ticket, lost=True)
            else:
                log.warning("heartbeat missed: %s", error)
            return
        for id, ticket in tickets.items():
            self._tell(ticket, cancelled=held.get(id, False), lost=id not in held)

    def _tell(self, ticket, **what):
        if not any(what.values()):
            return
        with self._lock:
            if ticket.job.id not in self._tickets:  # it ended between the two questions
                return
        try:
            ticket.stop(**what)
        except OSError as error:  # the flag file's folder is gone with the home
            log.warning("the device cannot be told to stop (%s), ending it", type(error).__name__)
            self.engines.kill()

    # ------------------------------------------------------------------ one job

    def run_job(self, job):
        """Run a claimed job to one of its ends; raises nothing that a job can cause."""
        ticket = Ticket(self.store, self.owner, job)
        with self._lock:
            self._tickets[job.id] = ticket
        if self._ending.is_set():  # told to end after the claim
            ticket.stop(ending=True)
        log.info("%s %s started, attempt %d", job.kind, job.id, job.attempts)
        try:
            words = self._run_steps(ticket)
        except LeaseLost:
            words = "given up: the job is no longer this worker's"
        except AuditError as error:  # the row could not be written
            words = self._give_back(ticket, error)
        finally:
            with self._lock:
                del self._tickets[job.id]
        log.info("%s %s: %s", job.kind, job.id, words)

    def _give_back(self, ticket, error):
        """Put a job whose end could not be recorded back into the queue as soon as the job list can be written again."""
        while self.home_is_there and not self._ending.wait(1.0):
            try:
                ticket.update(new_state="queued")
                break
            except LeaseLost:
                break
            except AuditError:
                continue
        return f"its end could not be recorded ({type(error).__name__})"

    def _run_steps(self, ticket):
        """Run, and write the end into the row and log.txt. Returns words for worker.log, without names of files."""
        kind = ticket.job.kind
        try:
            self.engines.audit_running += kind in ON_DEVICE
            result = STEPS[kind](self.config, self.engines, ticket).run()
            ticket.update(new_state="done", phase="Done", result=result)
            ticket.log.write("done")
            return "done"
        except Cancelled:
            _note(ticket, ticket.close_cancelled())
            return "cancelled"
        except ShuttingDown:
            ticket.update(new_state="queued")
            _note(ticket, "the worker was told to end; the next one goes on")
            return "back in the queue, the worker ends"
        except LeaseLost:
            raise
        except EngineLost as error:
            return self._engine_lost(ticket, error)
        except Exception as error:
            sentence, details = _sentence(error)
            ticket.update(new_state="failed", error=sentence)
            _note(ticket, f"failed: {sentence}" + (f"\n{details}" if details else ""))
            return f"failed ({type(error).__name__})"
        finally:
            self.engines.audit_running -= kind in ON_DEVICE

    def _engine_lost(self, ticket, error):
        if ticket.job.kind in ON_DEVICE or not self.engines.audit_running:
            self.engines.kill()
        if ticket.cancelled:
            _note(ticket, ticket.close_cancelled())
            return "cancelled"
        if ticket.job.attempts < MAX_ATTEMPTS:
            ticket.update(new_state="queued")
            _note(ticket, f"the compute cluster was lost ({error}); trying again, attempt {ticket.job.attempts + 1} of {MAX_ATTEMPTS}")
            return f"engine lost ({error}), back in the queue"
        sentence = f"The compute cluster was lost {ticket.job.attempts} times ({error}). Finished shards are kept: check the machine's memory or AUDIT_SCHEDULER, then resume."
        ticket.update(new_state="failed", error=sentence)
        _note(ticket, f"failed: {sentence}")
        return f"engine lost ({error}), failed"


def _note(ticket, text):
    """Write to log.txt; a log that cannot be written changes no end."""
    try:
        ticket.log.write(text)
    except OSError as error:
        log.warning("log.txt of %s cannot be written (%s)", ticket.job.id, type(error).__name__)


def _sentence(error):
    """(one sentence for the row, text for log.txt) of what stopped a job."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, TaskFailed):
        details = error.trace
        if error.sentence:
            return error.sentence, ""
        name = error.kind
    elif isinstance(error, AuditError | ModelError):
        return " ".join(str(error).split()), ""
    elif isinstance(error, TaskKilled):
        what = str(error)
        kept = "The others are kept: free" if what.startswith("Shard") else "Free"
        return f"{what[:1].upper()}{what[1:]}: its device worker died each time it was tried. {kept} memory or choose a smaller --batch-size, then resume.", ""
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Disk: it is full. What was finished is kept: free space or set AUDIT_HOME elsewhere, then resume.", details
    else:
        name = type(error).__name__
    return f"An internal error stopped the audit ({name}). The log holds the details.", details


def _identity(folder):
    """(device, inode) of a folder, or None when it is gone."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino



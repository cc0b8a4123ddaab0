"""The job list: one SQLite file in AUDIT_HOME, written by pages, the command line and the worker at once. No torch.

queued -> running -> finalising -> done | failed | cancelled. Every UPDATE of a worker names the owner and the state it expects; no row changed = the job
is no longer that worker's. A worker holds its jobs by a heartbeat each second; one that is silent for 15 s has lost them.
"""

import contextlib
import dataclasses
import json
import secrets
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from audit.errors import HomeError, JobError

ACTIVE = ("queued", "running", "finalising")
OWNED = ("running", "finalising")
CLOSED = ("done", "failed", "cancelled")
KINDS = ("audit", "check", "protections")
ON_DEVICE = ("audit", "protections")  # one at a time, all of the first kind before the second; checks are answered beside them
HEARTBEAT_S = 1.0
STALE_S = 15.0
MAX_ATTEMPTS = 3
KEEP_CHECKS_S = 24 * 3600.0  # answers of the New audit page are of no use later

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, folder TEXT NOT NULL, state TEXT NOT NULL, request TEXT NOT NULL, identity TEXT NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, owner TEXT NOT NULL DEFAULT '', heartbeat REAL, cancel_requested INTEGER NOT NULL DEFAULT 0,
    phase TEXT NOT NULL DEFAULT '', done_images INTEGER NOT NULL DEFAULT 0, total_images INTEGER NOT NULL DEFAULT 0, done_shards INTEGER NOT NULL DEFAULT 0,
    total_shards INTEGER NOT NULL DEFAULT 0, done_calls INTEGER NOT NULL DEFAULT 0, total_calls INTEGER NOT NULL DEFAULT 0,
    images_per_s REAL NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', result TEXT, attempts INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS one_open_job ON jobs (kind, identity) WHERE state IN ('queued', 'running', 'finalising');
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, created);
"""


@dataclass(frozen=True)
class Job:
    """One row.

    Attributes:
        id: short hex; kind: one of KINDS; folder: absolute run folder, "" for a check; state: see the module; identity: hash of what was asked.
        created, started, finished, heartbeat: seconds since 1970, or None; owner: the worker that holds it, or "".
        phase: what is being done, in words; done_*/total_*: progress; images_per_s: over this attempt.
        error: why it failed or how it was cancelled, else ""; result: dict once done, else None; attempts: starts since it was submitted or resumed.
    """

    id: str
    kind: str
    name: str
    folder: str
    state: str
    request: dict
    identity: str
    created: float
    started: float | None
    finished: float | None
    owner: str
    heartbeat: float | None
    cancel_requested: bool
    phase: str
    done_images: int
    total_images: int
    done_shards: int
    total_shards: int
    done_calls: int
    total_calls: int
    images_per_s: float
    error: str
    result: dict | None
    attempts: int

    @property
    def active(self):
        """True until it is done, failed or cancelled."""
        return self.state in ACTIVE

    @property
    def fraction(self):
        """Share of the model calls that are done, in [0, 1]; 1 when done."""
        if self.state == "done":
            return 1.0
        return min(1.0, self.done_calls / self.total_calls) if self.total_calls > 0 else 0.0

    @property
    def eta_seconds(self):
        """Seconds of measuring left, or None before 5 % or 10 s, and when nothing is measured."""
        if self.state != "running" or self.images_per_s <= 0 or not self.total_images:
            return None
        if self.fraction < 0.05 and time.time() - (self.started or time.time()) < 10:
            return None
        return max(0, self.total_images - self.done_images) / self.images_per_s

    @property
    def silent_seconds(self):
        """Seconds since its worker's last heartbeat, or None when nobody holds it."""
        return time.time() - self.heartbeat if self.state in OWNED and self.heartbeat else None


FIELDS = tuple(f.name for f in dataclasses.fields(Job))
_UPDATABLE = frozenset(FIELDS) - {"id", "kind", "request", "identity", "created", "owner", "state"}


class Store:
    """The job list of one home; every method opens, commits and closes its own connection, so threads and processes may share it."""

    def __init__(self, home):
        self.home, self.path = Path(home), Path(home) / "jobs.sqlite"
        if not self.home.is_dir():
            raise HomeError(f"AUDIT_HOME ({self.home.name}) is not there. Expected a folder: make it, or set AUDIT_HOME.")
        if not self.path.exists():
            with self._open("rwc") as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(_SCHEMA)

    @contextlib.contextmanager
    def _open(self, mode="rw"):
        db = None
        try:
            db = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=10.0, isolation_level=None)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA busy_timeout=10000")
            db.execute("PRAGMA synchronous=NORMAL")
            yield db
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise HomeError(f"The job list {self.path.name} cannot be used ({error}). Free the disk; if the file is damaged, move it away: run folders stay intact.") from None
        finally:
            if db is not None:
                db.close()

    # ------------------------------------------------------------------ pages and command line

    def submit(self, kind, name, request, identity, folder="", id=None, before_commit=None):
        """Queue a job, unless one with the same identity is open.

        Args:
            kind: one of KINDS; name: for people; request: dict that JSON can hold; identity: hash; folder: absolute run folder; id: from `new_id`, or None.
            before_commit: called for a new job before anybody can see it (it makes the run folder); what it raises leaves no row.
        Returns: (Job, created): the open job and False where there was one.
        """
        if kind not in KINDS:
            raise JobError(f"A job of kind {kind!r} is unknown. Expected one of {', '.join(KINDS)}.")
        content = json.dumps(request, allow_nan=False)
        with self._open() as db, _transaction(db):
            row = db.execute("SELECT * FROM jobs WHERE kind=? AND identity=? AND state IN ('queued','running','finalising')", (kind, identity)).fetchone()
            if row is not None:
                return _job(row), False
            id = id or self._free_id(db)
            db.execute(
                "INSERT INTO jobs (id, kind, name, folder, state, request, identity, created, phase) VALUES (?,?,?,?,'queued',?,?,?,'Waiting')",
                (id, kind, name, str(folder), content, identity, time.time()),
            )
            if before_commit is not None:
                before_commit()
            return _job(db.execute("SELECT * FROM jobs WHERE id=?", (id,)).fetchone()), True

    def new_id(self):
        """A run id that is not taken: 8 hex digits."""
        with self._open() as db:
            return self._free_id(db)

    def _free_id(self, db):
        while True:
            id = secrets.token_hex(4)
            # all-digit ids would be read as numbers by spreadsheets and YAML
            if not id.isdecimal() and not (self.home / "runs" / id).exists() and db.execute("SELECT 1 FROM jobs WHERE id=?", (id,)).fetchone() is None:
                return id

    def get(self, id):
        """The job with this id, or None."""
        with self._open() as db:
            row = db.execute("SELECT * FROM jobs WHERE id=?", (str(id),)).fetchone()
        return None if row is None else _job(row)

    def list(self, kind="audit"):
        """All jobs of a kind (None: of every kind), newest first. A damaged row is listed as failed and hides no other."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM jobs WHERE kind=? OR ? IS NULL ORDER BY created DESC, rowid DESC", (kind, kind)).fetchall()
        return [_job(row) for row in rows]

    def find_folder(self, folder):
        """The newest audit of this run folder, or None."""
        with self._open() as db:
            row = db.execute("SELECT * FROM jobs WHERE folder=? AND kind='audit' ORDER BY created DESC LIMIT 1", (str(folder),)).fetchone()
        return None if row is None else _job(row)

    def request_cancel(self, id):
        """Ask for the end of a job; one that nobody has started ends at once.

        Returns: Job as it is now.
        Raises: JobError: no such job, or it has ended.
        """
        with self._open() as db, _transaction(db):
            job = self._existing(db, id)
            if not job.active:
                raise JobError(f"Job {job.id} is {job.state} already. Expected one that waits or runs.")
            db.execute("UPDATE jobs SET cancel_requested=1 WHERE id=? AND state IN ('running','finalising')", (id,))
            db.execute(
                "UPDATE jobs SET cancel_requested=1, state='cancelled', finished=?, phase='Cancelled', error=? WHERE id=? AND state='queued'",
                (time.time(), cancelled_words(job), id),
            )
            return self._existing(db, id)

    def resume(self, id):
        """Queue a failed or cancelled job again; its finished shards are kept.

        Returns: Job.  Raises: JobError: no such job, it is not failed or cancelled, or the same audit is open under another id.
        """
        with self._open() as db:
            try:
                with _transaction(db):
                    job = self._existing(db, id)
                    if job.state not in ("failed", "cancelled"):
                        raise JobError(f"Job {job.id} is {job.state}. Only a failed or cancelled job can be resumed.")
                    db.execute(
                        "UPDATE jobs SET state='queued', cancel_requested=0, error='', owner='', heartbeat=NULL, started=NULL, finished=NULL, attempts=0, images_per_s=0,"
                        " phase='Waiting' WHERE id=? AND state IN ('failed','cancelled')",
                        (id,),
                    )
                    return self._existing(db, id)
            except sqlite3.IntegrityError:
                raise JobError(f"The same audit as {id} is waiting or running already. Open that one, or cancel it first.") from None

    def delete(self, id):
        """Remove a job and its run folder for good.

        Raises: JobError: no such job, it is active, or its folder cannot be removed.
        """
        with self._open() as db, _transaction(db):
            job = self._existing(db, id)
            if job.active:
                raise JobError(f"Job {job.id} is {job.state}. Cancel it before deleting it.")
            folder = Path(job.folder) if job.folder else None
            # the row comes from a file that others may have damaged: only what carries our request is a run folder
            if job.kind == "audit" and folder is not None and folder.is_absolute() and not folder.is_symlink() and (folder / "request.json").is_file():
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    raise JobError(f"The folder of job {job.id} cannot be removed: {error.strerror}. Close what uses it, then delete again.") from None
            db.execute("DELETE FROM jobs WHERE id=?", (id,))

    def queue_position(self, id):
        """1 for the job that is started next, 2 …; None when it does not wait."""
        job = self.get(id)
        if job is None or job.state != "queued":
            return None
        with self._open() as db:
            before = db.execute("SELECT COUNT(*) FROM jobs WHERE kind=? AND state='queued' AND created < ?", (job.kind, job.created)).fetchone()[0]
            for kind in ON_DEVICE[: ON_DEVICE.index(job.kind)] if job.kind in ON_DEVICE else ():
                before += db.execute("SELECT COUNT(*) FROM jobs WHERE kind=? AND state='queued'", (kind,)).fetchone()[0]
        return before + 1

    def counts(self, *kinds):
        """(running, waiting) jobs of some kinds."""
        with self._open() as db:
            marks = ",".join("?" * len(kinds))
            rows = dict(db.execute(f"SELECT state, COUNT(*) FROM jobs WHERE kind IN ({marks}) GROUP BY state", kinds).fetchall())
        return rows.get("running", 0) + rows.get("finalising", 0), rows.get("queued", 0)

    @staticmethod
    def _existing(db, id):
        row = db.execute("SELECT * FROM jobs WHERE id=?", (str(id),)).fetchone()
        if row is None:
            raise JobError(f"There is no job {str(id)[:40]!r}. `python -m audit jobs` lists them.")
        return _job(row)

    # ------------------------------------------------------------------ worker

    def claim(self, owner, kind="audit"):
        """Take the oldest waiting job of a kind. Returns Job, or None. Damaged rows fail here, so that none can block the queue."""
        with self._open() as db, _transaction(db):
            while True:
                row = db.execute("SELECT * FROM jobs WHERE state='queued' AND kind=? ORDER BY created, rowid LIMIT 1", (kind,)).fetchone()
                if row is None:
                    return None
                now = time.time()
                if _job(row).state == "failed":
                    db.execute("UPDATE jobs SET state='failed', finished=?, error=? WHERE id IS ? AND state='queued'", (now, _DAMAGED, row["id"]))
                    continue
                db.execute(
                    "UPDATE jobs SET state='running', owner=?, heartbeat=?, started=?, finished=NULL, attempts=attempts+1, error='', phase='Starting', images_per_s=0"
                    " WHERE id=? AND state='queued'",
                    (owner, now, now, row["id"]),
                )
                return _job(db.execute("SELECT * FROM jobs WHERE id=?", (row["id"],)).fetchone())

    def heartbeat(self, owner):
        """Renew the lease on all jobs of `owner`. Returns {id: cancel_requested} of the jobs that are still its own."""
        with self._open() as db, _transaction(db):
            db.execute("UPDATE jobs SET heartbeat=? WHERE owner=? AND state IN ('running','finalising')", (time.time(), owner))
            rows = db.execute("SELECT id, cancel_requested FROM jobs WHERE owner=? AND state IN ('running','finalising')", (owner,)).fetchall()
        return {row["id"]: bool(row["cancel_requested"]) for row in rows}

    def update(self, id, owner, state, **fields):
        """Change a job that `owner` holds in `state`.

        Args: fields: columns of Job; `new_state` moves it on (a closed state, or "queued", gives it up).
        Returns: False when no row matched: the job is no longer this owner's.
        """
        new_state = fields.pop("new_state", None)
        unknown = set(fields) - _UPDATABLE
        assert not unknown, f"not columns a worker may change: {unknown}"
        if "result" in fields and fields["result"] is not None:
            fields["result"] = json.dumps(fields["result"], allow_nan=False)
        if new_state is not None:
            assert new_state in ACTIVE + CLOSED, new_state
            fields["state"] = new_state
            if new_state in CLOSED:
                fields |= {"finished": time.time(), "owner": ""}
            if new_state == "queued":
                fields |= {"owner": "", "heartbeat": None, "phase": "Waiting"}
        assignments = ", ".join(f"{name}=?" for name in fields)  # names come from the fixed set above
        with self._open() as db:
            changed = db.execute(f"UPDATE jobs SET {assignments} WHERE id=? AND owner=? AND state=?", (*fields.values(), id, owner, state)).rowcount
        return changed == 1

    def take_over_dead(self, owner, lock_held):
        """Give the jobs of dead workers back to the queue; those asked to stop, or started MAX_ATTEMPTS times without an end, are closed.

        Args: owner: who asks; lock_held: True when it holds the worker's file lock: then every other owner is dead, else those silent for STALE_S.
        Returns: number of rows changed.
        """
        now = time.time()
        silent = now + 1 if lock_held else now - STALE_S
        changed = 0
        with self._open() as db, _transaction(db):
            rows = db.execute("SELECT * FROM jobs WHERE state IN ('running','finalising') AND owner<>? AND (heartbeat IS NULL OR heartbeat < ?)", (owner, silent)).fetchall()
            for row in rows:
                where = ("WHERE id IS ? AND owner IS ? AND state=?", (row["id"], row["owner"], row["state"]))
                job = _job(row)
                if job.cancel_requested:
                    statement, values = "state='cancelled', owner='', finished=?, phase='Cancelled', error=?", (now, cancelled_words(job))
                elif job.attempts >= MAX_ATTEMPTS or job.state == "failed":
                    words = f"The worker died {job.attempts} times at this job (last at: {job.phase or 'Starting'}). Free memory or choose a smaller batch size, then resume it."
                    statement, values = "state='failed', owner='', finished=?, error=?", (now, job.error or words)
                else:
                    statement, values = "state='queued', owner='', heartbeat=NULL, phase='Waiting'", ()
                changed += db.execute(f"UPDATE jobs SET {statement} {where[0]}", (*values, *where[1])).rowcount
        return changed

    def forget_old_checks(self):
        """Drop the rows of checks that ended more than a day ago."""
        with self._open() as db:
            db.execute("DELETE FROM jobs WHERE kind='check' AND state IN ('done','failed','cancelled') AND created < ?", (time.time() - KEEP_CHECKS_S,))


_DAMAGED = "The record of this job is damaged. Its run folder is untouched: start the audit again with the same --out to go on with it."


@contextlib.contextmanager
def _transaction(db):
    """BEGIN IMMEDIATE … COMMIT: reads inside see what the writes change."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def cancelled_words(job):
    """`Cancelled at 37 %. 19 of 50 shards kept.`"""
    kept = f" {job.done_shards} of {job.total_shards} shards kept." if job.total_shards else ""
    return f"Cancelled at {round(100 * job.fraction)}\u202f%.{kept}"


def _job(row):
    """Job of a row. One that this version cannot read becomes a failed job with as much of the row as is intact."""
    data = {name: row[name] for name in FIELDS}
    try:
        data["request"] = json.loads(data["request"])
        data["result"] = None if data["result"] is None else json.loads(data["result"])
        for name in ("created", "started", "finished", "heartbeat", "images_per_s"):
            data[name] = None if data[name] is None else float(data[name])
        for name in ("done_images", "total_images", "done_shards", "total_shards", "done_calls", "total_calls", "attempts"):
            data[name] = int(data[name])
        intact = isinstance(data["request"], dict) and isinstance(data["result"], dict | None) and data["state"] in ACTIVE + CLOSED and data["kind"] in KINDS
        intact = intact and data["created"] is not None and all(isinstance(data[name], str) for name in ("id", "name", "folder", "identity", "owner", "phase", "error"))
    except (ValueError, TypeError, RecursionError):
        intact = False
    if intact:
        return Job(**data | {"cancel_requested": bool(data["cancel_requested"])})
    text = {name: data[name] if isinstance(data[name], str) else "" for name in ("id", "kind", "name", "folder", "identity")}
    number = {f"{part}_{what}": 0 for part in ("done", "total") for what in ("images", "shards", "calls")}
    created = data["created"] if isinstance(data["created"], float) else 0.0
    return Job(
        **text, **number, state="failed", request={}, created=created, started=None, finished=None, owner="", heartbeat=None, cancel_requested=False,
        phase="", images_per_s=0.0, error=_DAMAGED, result=None, attempts=0,
    )

"""Putting an audit or a check into the queue; what pages and the command line call. No torch."""

import hashlib
import json
import os
from pathlib import Path

from audit.attacks import ATTACKS, choose
from audit.errors import RequestError, RunFolderError
from audit.files import write_json
from audit.jobs.inputs import INPUTS, given
from audit.jobs.launch import ensure_worker
from audit.jobs.store import Store
from audit.provenance import read_manifest
from audit.request import Request

CHECK_FIELDS = (
    *INPUTS, "manifest", "preset", "timesteps", "draws", "seed", "device", "batch_size", "precision", "attacks", "overrides", "reference", "api", "budget", "labels", "captions",
    "pool", "settings",
)  # fmt: skip


def submit_audit(config, request, out=None):
    """Queue an audit and make sure that a worker is alive.

    A folder that holds the same request is gone on with: a failed or cancelled job is resumed, a finished one is returned as it is. One whose audit stopped before
    anything was measured, over a wrong input for instance, is taken by another request.

    Args:
        config: audit.config.Config; request: audit.request.Request with absolute paths.
        out: run folder, or None for AUDIT_HOME/runs/ID.
    Returns: (Job, created): created is False where the same audit is open or done already.
    Raises: HomeError; RequestError: an input is missing, the manifest cannot be used, or `out` lies inside one; RunFolderError: `out` holds something else.
    """
    config.prepare_home()
    _check_inputs(request)
    store = Store(config.home)
    folder = None if out is None else Path(os.path.abspath(out))
    if folder is not None:
        _check_place(folder, request)
        held, known = _held_request(folder), store.find_folder(folder)
        if held is not None and held.identity() != request.identity():
            if not _measured_nothing(folder, known):
                raise RunFolderError(f"{folder.name} holds another audit ({held.name}). Expected an empty folder or the same request: choose another --out.")
            store.delete(known.id)
            held = None
        if held is not None and known is not None:
            return _go_on(config, store, known)
    identity = request.identity()
    id = store.new_id()
    folder = folder or config.runs / id
    job, created = store.submit("audit", request.name, request.to_json(), identity, str(folder), id=id, before_commit=lambda: _make_folder(folder, request))
    ensure_worker(config)
    return job, created


def stopped_folder(config, request):
    """Run folder of the newest failed or cancelled audit of this request, for commands that choose the folder themselves and shall go on there.

    Returns: Path, or None where there is no such audit or its folder is gone.
    """
    config.prepare_home()
    stopped = [job for job in Store(config.home).list() if job.kind == "audit" and job.identity == request.identity() and job.state in ("failed", "cancelled")]
    newest = max(stopped, key=lambda job: job.created, default=None)
    return Path(newest.folder) if newest and (Path(newest.folder) / "request.json").is_file() else None


def submit_check(config, payload):
    """Queue a look at what a New audit page has been given, answered within seconds also while an audit runs.

    Args: payload: dict with the names of CHECK_FIELDS; each path may be None.
    Returns: Job; once done its `result` is as audit.jobs.check makes it.
    Raises: HomeError; RequestError: unknown names.
    """
    config.prepare_home()
    unknown = sorted(set(payload) - set(CHECK_FIELDS))
    if unknown:
        raise RequestError(f"The check has unknown fields {unknown}. Expected only {', '.join(CHECK_FIELDS)}.")
    content = {name: payload.get(name) for name in CHECK_FIELDS}
    content["attacks"], content["overrides"] = list(content["attacks"] or ()), dict(content["overrides"] or {})
    identity = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    job, _ = Store(config.home).submit("check", "check", content, identity)
    ensure_worker(config)
    return job


def submit_protections(config, folder, request, images):
    """Queue a sweep over protections of a finished run.

    Args: config: Config; folder: absolute run folder; request: audit.request.Request that names the checkpoint (a page takes it from the job list, not from a folder
        that others may have written); images: how many are measured again.
    Returns: Job, an open one where the same sweep is on its way.
    Raises: HomeError; RunFolderError, RequestError: the run cannot be measured again.
    """
    from audit.protections import attacks_of, images_of
    from audit.report.run import open_run

    config.prepare_home()
    folder = Path(os.path.abspath(folder))
    run = open_run(folder)
    attacks_of(run.report)
    images_of(run, images)
    content = {"request": request.to_json(), "images": images}
    identity = hashlib.sha256(json.dumps([str(folder), content], sort_keys=True).encode()).hexdigest()
    job, _ = Store(config.home).submit("protections", f"protections of {run.report['run']['name']}", content, identity, str(folder))
    ensure_worker(config)
    return job


def _go_on(config, store, known):
    """The job that a folder already has: resumed when it had stopped. Returns (Job, False)."""
    if known.state in ("failed", "cancelled"):
        known = store.resume(known.id)
    if known.active:
        ensure_worker(config)
    return known, False


def _check_inputs(request):
    expected = {"checkpoint": "a diffusers folder or .zip", "members": "a folder, .zip or .npz of images", "nonmembers": "a folder, .zip or .npz of images"}
    expected |= {"reference": expected["checkpoint"], "labels": "a .csv with the columns image,class", "captions": "a .csv with the columns image,caption"}
    expected["pool"] = expected["members"]
    _check_attacks(request)
    for name in given(request):
        path = Path(getattr(request, name))
        if not path.is_absolute():
            raise RequestError(f"--{name} is {str(path)[:80]!r}. Expected an absolute path.")
        if not (path.is_file() if name in ("labels", "captions") else path.exists()):
            raise RequestError(f"--{name}: {path.name} was not found. Expected {expected[name]}: check the path.")
    if request.manifest is not None:
        if not Path(request.manifest).is_absolute():
            raise RequestError(f"--manifest is {request.manifest[:80]!r}. Expected an absolute path.")
        read_manifest(request.manifest)


def _check_attacks(request):
    """Refuse named attacks none of which can run on what was given."""
    for pooled, missing, what in ((True, request.pool is None, "samples: add --pool"), (False, request.checkpoint is None, "the model: add --checkpoint")):
        if missing and request.attacks and all(("pool" in ATTACKS[name].card.needs) == pooled for name in choose(request.attacks)):
            raise RequestError(f"--attacks names only {', '.join(request.attacks)}, which need{'s' if len(request.attacks) == 1 else ''} {what}.")


def _check_place(folder, request):
    real = Path(os.path.realpath(folder))
    for name in given(request):
        held = Path(os.path.realpath(getattr(request, name)))
        if held.is_dir() and real.is_relative_to(held):
            raise RequestError(f"--out lies inside --{name} ({held.name}), which would change while it is read. Choose a folder outside it.")


def _held_request(folder):
    """The Request of a run folder; None for a folder that is new or empty.

    Raises: RunFolderError: it is not a folder, or holds something that is not a run.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise RunFolderError(f"{folder.name} is a file. Expected a folder for the run: choose another --out.")
    try:
        return Request.from_json(json.loads((folder / "request.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        if not any(folder.iterdir()):
            return None
        raise RunFolderError(f"{folder.name} holds other files and no audit. Expected an empty folder or a run folder: choose another --out.") from None
    except (OSError, ValueError, TypeError, RequestError):
        raise RunFolderError(f"{folder.name} has a request.json that cannot be read. Expected an empty folder or a run folder: choose another --out.") from None


def _measured_nothing(folder, job):
    """Whether a run folder holds no more than what a job wrote that stopped at its inputs. Args: job: the newest of this folder, or None."""
    return job is not None and job.state in ("failed", "cancelled") and {path.name for path in folder.iterdir()} <= {"request.json", "log.txt"}


def _make_folder(folder, request):
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(folder / "request.json", request.to_json())
    except OSError as error:
        raise RunFolderError(f"{folder.name} cannot be written: {error.strerror}. Choose another --out, or set AUDIT_HOME to a folder that you may write.") from None

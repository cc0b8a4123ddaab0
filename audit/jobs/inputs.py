"""Inputs are read in place: this notices when somebody changes them meanwhile, and unpacks what must be unpacked."""

import hashlib
import os
from pathlib import Path

from audit.errors import RequestError

INPUTS = ("checkpoint", "members", "nonmembers")
WORDS = {"checkpoint": "checkpoint", "members": "set of members", "nonmembers": "set of non-members", "reference": "reference checkpoint", "pool": "sample pool"}


def given(request):
    """Names of the inputs that a Request has."""
    names = [name for name in INPUTS if name != "checkpoint" or request.checkpoint is not None]
    return (*names, *(["reference"] if request.reference else []), *(["pool"] if isinstance(request.pool, str) else []))


def fingerprint(path):
    """SHA-256 hex over name, size and modification time of a file, or of every file below a folder.

    Raises: RequestError: it is not there any more.
    """
    path, digest = Path(path), hashlib.sha256()
    try:
        if path.is_dir():
            for folder, folders, files in os.walk(path):
                folders.sort()
                for name in sorted(files):
                    file = os.path.join(folder, name)
                    status = os.lstat(file)
                    digest.update(f"{os.path.relpath(file, path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        else:
            status = path.stat()
            digest.update(f"{status.st_size}\0{status.st_mtime_ns}\n".encode())
    except FileNotFoundError:
        raise RequestError(f"{path.name} was not found. Expected it to stay in place until the audit ends: put it back, then resume.") from None
    return digest.hexdigest()


def fingerprints(request):
    """{input: fingerprint} of a Request; "checkpoint", "reference" and "pool" only where there is one to read."""
    return {name: fingerprint(getattr(request, name)) for name in given(request)}


def require_unchanged(request, before):
    """Raise RequestError naming the first input whose files changed since `before` was taken."""
    for name, now in fingerprints(request).items():
        if now != before[name]:
            raise RequestError(f"The {WORDS[name]} ({Path(getattr(request, name)).name}) changed while the audit ran. Expected files that stay as they are: start the audit again.")


def checkpoint_place(path, config):
    """The path that device workers open: a .zip is unpacked once into AUDIT_HOME/checkpoints, named by its hash.

    Raises: models.errors.CheckpointError.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        from models.safety import safe_unzip

        return str(safe_unzip(path, config.home / "checkpoints"))
    return str(path)

"""Inputs are read in place: this notices when somebody changes them meanwhile, and unpacks what must be unpacked."""

import hashlib
import os
from pathlib import Path

from audit.errors import RequestError
from models.overrides import files_beside

INPUTS = ("checkpoint", "members", "nonmembers")
WORDS = {"checkpoint": "checkpoint", "members": "set of members", "nonmembers": "set of non-members", "reference": "reference checkpoint"}
WORDS |= {"labels": "file of class labels", "captions": "file of captions", "pool": "sample pool"}


def given(request):
    """Names of the inputs that a Request has."""
    names = [name for name in (*INPUTS, "reference", "labels", "captions") if getattr(request, name) is not None]
    return (*names, "pool") if isinstance(request.pool, str) else tuple(names)


def fingerprint(path):
    """SHA-256 hex over name, size and modification time of a file, or of every file below a folder; of a weights file also of what is read beside it.

    Raises: RequestError: it is not there any more.
    """
    path, digest = Path(path), hashlib.sha256()
    try:
        for place in (path, *files_beside(path)):
            if place.is_dir():
                _add_folder(digest, place)
            else:
                status = place.stat()
                digest.update(f"{status.st_size}\0{status.st_mtime_ns}\n".encode() if place == path else _line(place.name, status))
    except FileNotFoundError:
        raise RequestError(f"{path.name} was not found. Expected it to stay in place until the audit ends: put it back, then resume.") from None
    return digest.hexdigest()


def _add_folder(digest, path):
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = os.path.join(folder, name)
            digest.update(_line(os.path.relpath(file, path), os.lstat(file)))


def _line(name, status):
    return f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")


def fingerprints(request):
    """{input: fingerprint} of a Request, only of those that it has."""
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

        return str(safe_unzip(path, kept_in(config)))
    return str(path)


def kept_in(config):
    """Folder in which device workers keep what they converted from pickles, named by its hash."""
    return str(config.home / "checkpoints")

"""Files from outside are hostile: unpacking, hashing and size gates that take nothing in such a file at its word.

Weights themselves are read in models/weights.py.
"""

import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path

from models.errors import CheckpointError, UnsafeCheckpoint

MAX_ENTRIES = 500
MAX_RATIO = 200  # unpacked : packed; weights barely compress, so an honest checkpoint stays below 2
MAX_UNPACKED_BYTES = 32 * 2**30
MAX_JSON_BYTES = 4 * 2**20
CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines")  # with which a configuration asks for code to be loaded
BLOCK = 2**20
UNPACKED_SUFFIXES = frozenset({".json", ".yaml", ".yml", ".safetensors", ".txt", ".pt", ".pth", ".ckpt", ".bin"})
CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyd", ".pyx", ".so", ".dll", ".dylib", ".sh", ".bat", ".cmd", ".ps1", ".exe", ".pkl", ".pickle", ".pth.tar", ".ipynb", ".jar"})
_PART = re.compile(r"[A-Za-z0-9._()+=@,\- ]*[A-Za-z0-9_()+=@,\-]")  # no colon, no backslash, no trailing dot or space (Windows drops those)


def shown(value, limit=60):
    """Text from a file, cut and with unprintable characters replaced, fit for one line of an error."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def size_pair(have, want):
    """Two byte counts in one unit that tells them apart: (41, 143, "MB")."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if want >= 10 * factor and round(have / factor) != round(want / factor):
            return f"{have / factor:.0f}", f"{want / factor:.0f}", unit
    return str(have), str(want), "bytes"


def file_sha256(path):
    """SHA-256 of a file in hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def files_sha256(root, names):
    """SHA-256 over the sorted (relative path, file SHA-256), in the form that `sha256sum FILES | sha256sum` gives in the folder."""
    lines = "".join(f"{file_sha256(Path(root) / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_text(root, name, limit_bytes=MAX_JSON_BYTES, saved_by="diffusers' save_pretrained"):
    """The text of a small file.

    Args: root: folder; name: relative name, used in messages; limit_bytes: larger files are not read; saved_by: what writes such a file, for messages.
    Raises: CheckpointError: not a regular file (or a link to one), too large, not UTF-8.
    """
    path = Path(root) / name
    try:
        if not path.is_file():  # a device or a pipe would be read without an end
            raise CheckpointError(f"{name} is not a regular file. Expected the file that {saved_by} writes: copy the checkpoint again.")
        if path.stat().st_size > limit_bytes:
            raise CheckpointError(f"{name} has {path.stat().st_size // 2**20} MB. Expected a file below {limit_bytes // 2**20} MB: copy the checkpoint again.")
        return path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{name} is not readable text ({error.__class__.__name__}). Expected the file that {saved_by} writes: copy it again.") from None


def read_json(root, name, limit_bytes=MAX_JSON_BYTES):
    """The object in a small JSON file.

    Args: as `read_text`.
    Returns: dict.
    Raises: CheckpointError: too large, not JSON, not an object; UnsafeCheckpoint: it asks for code to be loaded (CODE_KEYS).
    """
    text = read_text(root, name, limit_bytes)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not readable JSON ({error.__class__.__name__}). Expected the file that diffusers' save_pretrained writes: copy it again.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{name} holds no JSON object. Expected the file that diffusers' save_pretrained writes: copy it again.")
    for key in CODE_KEYS:
        if config.get(key):
            raise UnsafeCheckpoint(
                f"{name} names code to load ({key}: {shown(config[key])}) and was not opened. Expected library classes only: remove {key} if the checkpoint is a plain one."
            )
    return config


def refuse_code(root, folders):
    """Raise UnsafeCheckpoint when a folder that would be loaded holds code beside its configuration.

    Args: root: Path; folders: relative folder names, "" for root itself.
    """
    for folder in folders:
        place = root / folder
        for name in sorted(os.listdir(place)) if place.is_dir() else ():
            if Path(name).suffix.lower() in CODE_SUFFIXES:
                where = f"{folder}/{name}" if folder else name
                raise UnsafeCheckpoint(
                    f"The checkpoint brings code ({shown(where)}) and was not opened. "
                    "Expected configuration and weights only: remove the file if the network is a plain diffusers class."
                )


def safe_unzip(path, into, limit_bytes=MAX_UNPACKED_BYTES):
    """Unpack the configuration and weights of a .zip checkpoint into `into/HASH`.

    Nothing in the archive's headers is believed: bytes are counted while copying. Entries that are neither code nor needed (README.md) stay packed.

    Args:
        path: the .zip; into: existing folder; limit_bytes: most bytes that may be written.
    Returns: Path of the new folder, named by the SHA-256 of the .zip; an earlier complete one is used again.
    Raises: CheckpointError: damaged, too large, unreadable names; UnsafeCheckpoint: links, code, names that leave the folder, a decompression bomb.
    """
    path, into = Path(path), Path(into)
    target = into / file_sha256(path)[:32]
    if target.is_dir():
        return target
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(f"{path.name} is not a readable .zip. It may be cut short: copy it again.") from None
    tmp = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into))
    try:
        with archive:
            entries = _entries(archive, path.name)
            claimed = sum(info.file_size for info, _ in entries)
            if claimed > min(limit_bytes, shutil.disk_usage(into).free):
                raise CheckpointError(
                    f"{path.name} unpacks to {claimed / 1e9:.1f} GB. Expected at most {limit_bytes / 1e9:.0f} GB and that much free disk: unpack it yourself and give the folder."
                )
            budget = [min(limit_bytes, max(BLOCK, MAX_RATIO * path.stat().st_size))]
            for info, name in entries:
                _copy_entry(archive, info, tmp / name, budget, path.name)
        if not target.is_dir():
            os.replace(tmp, target)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)  # gone after the rename; left-overs of a refused archive go with it
    return target


def _entries(archive, archive_name):
    """[(ZipInfo, relative name)] of what is unpacked; raises for anything that no honest checkpoint holds."""
    infos, entries, seen = archive.infolist(), [], set()
    if len(infos) > MAX_ENTRIES:
        raise CheckpointError(f"{archive_name} holds {len(infos)} entries. Expected at most {MAX_ENTRIES}: zip the checkpoint's folder only.")
    for info in infos:
        name = info.filename
        parts = name.rstrip("/").split("/")
        if "\\" in name or name.startswith("/") or any(p in ("", ".", "..") for p in parts):
            raise UnsafeCheckpoint(
                f"{archive_name} holds the path {shown(name)!r}, which leaves its folder, and was not opened. Expected relative names: zip the checkpoint again."
            )
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnsafeCheckpoint(f"{archive_name} holds a link or special file ({shown(name)}) and was not opened. Expected plain files: zip the files themselves.")
        if info.is_dir() or parts[0] == "__MACOSX" or parts[-1].startswith("._"):
            continue
        suffix = Path(name).suffix.lower()
        if suffix in CODE_SUFFIXES:
            raise UnsafeCheckpoint(f"{archive_name} brings code ({shown(name)}) and was not opened. Expected configuration and weights only: remove the file and zip again.")
        if suffix not in UNPACKED_SUFFIXES:
            continue
        if info.flag_bits & 1:
            raise CheckpointError(f"{archive_name} is encrypted. Expected a plain .zip: zip the checkpoint without a password.")
        if not all(_PART.fullmatch(p) for p in parts) or name.casefold() in seen:
            raise CheckpointError(f"{archive_name} holds the name {shown(name)!r}. Expected distinct names of letters, digits, dots and dashes: rename it and zip again.")
        seen.add(name.casefold())
        entries.append((info, name))
    return entries


def _copy_entry(archive, info, target, budget, archive_name):
    """Copy one entry, taking its bytes off budget[0]."""
    left_here = min(info.file_size, max(BLOCK, MAX_RATIO * info.compress_size))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(info) as source, open(target, "xb") as sink:
            while block := source.read(BLOCK):
                budget[0] -= len(block)
                left_here -= len(block)
                if budget[0] < 0 or left_here < 0:
                    raise UnsafeCheckpoint(
                        f"{archive_name} unpacks to more than {MAX_RATIO} times its size ({shown(info.filename)}) and was not opened. Expected a checkpoint: zip its folder again."
                    )
                sink.write(block)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{archive_name} cannot be unpacked at {shown(info.filename)} ({error.__class__.__name__}). It may be cut short: copy it again.") from None

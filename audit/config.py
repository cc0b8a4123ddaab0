"""Settings from the environment: every AUDIT_* variable, in one table. docs/configuration.md lists the same.

No torch here: pages and the command line import this.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audit.errors import HomeError

VARIABLES = {  # name: (default in words, meaning)
    "AUDIT_HOME": ("~/.afterimage", "Folder of the job list, runs, uploads and the worker's log. On a local disk, yours, and writable by nobody else; created 0700."),
    "AUDIT_INBOX": ("inbox/ in AUDIT_HOME", "Folder whose checkpoints and images the dashboard offers under \"On this server\". Must exist when set."),
    "AUDIT_DEVICES": ("auto", "Which GPUs the worker may use: auto (all that CUDA shows), or their numbers, as in 0,2."),
    "AUDIT_IDLE_EXIT": ("600", "Seconds without a job after which the background worker ends."),
    "AUDIT_MAX_UPLOAD_MB": ("200", "Largest upload in the dashboard, in MB. An upload needs twice its size in memory while it arrives."),
    "AUDIT_SHARD_SECONDS": ("5", "Device time of one shard, 1 to 5 seconds: what a crash can cost at most, and how often progress is shown."),
    "AUDIT_SHARD_IMAGES": ("from the measured speed", "Images in one shard, instead of AUDIT_SHARD_SECONDS. Same shards, same batch size, same CPU: equal to the last bit."),
    "AUDIT_SCHEDULER": ("none: a cluster on this machine", "tls:// address of a Dask scheduler whose workers have this project, equal versions, and paths equal to these here."),
    "AUDIT_TLS_CA": ("none", "PEM file of the certificate authority of AUDIT_SCHEDULER. Members of a Dask cluster can run code on each other."),
    "AUDIT_TLS_CERT": ("none", "PEM file of this machine's certificate for AUDIT_SCHEDULER."),
    "AUDIT_TLS_KEY": ("none", "PEM file of the key of AUDIT_TLS_CERT."),
}
SUBFOLDERS = ("inbox", "checkpoints", "images", "pools", "runs", "tmp")
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "lustre", "glusterfs", "fuse.glusterfs", "ceph")


@dataclass(frozen=True)
class Config:
    """Where things lie and how the worker behaves.

    Attributes:
        home, inbox: absolute folders; devices: GPU numbers, or None for all.
        scheduler: tls:// address or None (a cluster on this machine); tls_ca, tls_cert, tls_key: its files or None.
        idle_exit: seconds; max_upload_mb: MB.
        shard_seconds: device seconds of one shard, in [1, 5]; shard_images: images of one shard, or None to derive it.
        warnings: one line for each AUDIT_* variable that nothing reads.
    """

    home: Path
    inbox: Path
    devices: tuple[int, ...] | None = None
    scheduler: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    idle_exit: float = 600.0
    max_upload_mb: int = 200
    shard_seconds: float = 5.0
    shard_images: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def runs(self):
        """Folder of the runs that were given no --out."""
        return self.home / "runs"

    @property
    def tmp(self):
        """Scratch folder: emptied by the worker that holds the lock."""
        return self.home / "tmp"

    @property
    def worker_log(self):
        """Log of the background worker; rotates, and names no file of an audit."""
        return self.home / "worker.log"

    @property
    def lock_file(self):
        """Held by the one living worker."""
        return self.home / "worker.lock"

    def prepare_home(self):
        """Make AUDIT_HOME (0700) with its sub-folders where missing; returns self.

        Raises: HomeError: not a folder, not writable, owned or writable by others, on a network file system, or AUDIT_INBOX is missing.
        """
        home = self.home
        try:
            if not home.exists():
                home.parent.mkdir(parents=True, exist_ok=True)
                home.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HomeError(f"AUDIT_HOME ({home.name}) cannot be created: {error.strerror}. Set AUDIT_HOME to a folder that you may write.") from None
        _check_home(home)
        for name in SUBFOLDERS:
            try:
                (home / name).mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise HomeError(f"AUDIT_HOME ({home.name}) has no folder {name}, and it cannot be made: {error.strerror}. Set AUDIT_HOME to a folder that you may write.") from None
        if not self.inbox.is_dir():
            raise HomeError(f"AUDIT_INBOX ({self.inbox.name}) is not a folder. Expected an existing folder: make it, or unset AUDIT_INBOX.")
        return self


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Settings from the environment.

    Args: environ: instead of os.environ.
    Raises: HomeError: a variable has a value that cannot be used.
    """
    environ = os.environ if environ is None else environ
    value = {name: environ.get(name, "").strip() for name in VARIABLES}
    unknown = sorted(name for name in environ if name.startswith("AUDIT_") and name not in VARIABLES)
    home = Path(os.path.abspath(os.path.expanduser(value["AUDIT_HOME"] or "~/.afterimage")))
    inbox = Path(os.path.abspath(os.path.expanduser(value["AUDIT_INBOX"]))) if value["AUDIT_INBOX"] else home / "inbox"
    scheduler = value["AUDIT_SCHEDULER"] or None
    tls = {name: Path(os.path.abspath(os.path.expanduser(value[name]))) if value[name] else None for name in ("AUDIT_TLS_CA", "AUDIT_TLS_CERT", "AUDIT_TLS_KEY")}
    if scheduler:
        _check_scheduler(scheduler, tls)
    return Config(
        home=home,
        inbox=inbox,
        devices=_devices(value["AUDIT_DEVICES"]),
        scheduler=scheduler,
        tls_ca=tls["AUDIT_TLS_CA"],
        tls_cert=tls["AUDIT_TLS_CERT"],
        tls_key=tls["AUDIT_TLS_KEY"],
        idle_exit=_number(value, "AUDIT_IDLE_EXIT", 600.0, 0.5, 1e9, float),
        max_upload_mb=_number(value, "AUDIT_MAX_UPLOAD_MB", 200, 1, 1_000_000, int),
        shard_seconds=_number(value, "AUDIT_SHARD_SECONDS", 5.0, 1.0, 5.0, float),
        shard_images=_number(value, "AUDIT_SHARD_IMAGES", None, 1, 1_000_000, int),
        warnings=tuple(f"{name} is not a setting of this version and is ignored. docs/configuration.md lists them all." for name in unknown),
    )


def _number(value, name, default, low, high, kind):
    text = value[name]
    if not text:
        return default
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        raise HomeError(f"{name} is {text[:40]!r}. Expected a {'whole ' if kind is int else ''}number from {low:g} to {high:g}.")
    return number


def _devices(text):
    if text in ("", "auto"):
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise HomeError(f"AUDIT_DEVICES is {text[:40]!r}. Expected auto, or different GPU numbers such as 0,2.")
    return tuple(int(part) for part in parts)


def _check_scheduler(address, tls):
    if not address.startswith("tls://"):
        raise HomeError(f"AUDIT_SCHEDULER is {address[:60]!r}. Expected tls://HOST:PORT: members of a Dask cluster can run code on each other, so it is used with TLS only.")
    for name, file in tls.items():
        if file is None or not file.is_file():
            raise HomeError(f"{name} is {'not set' if file is None else 'not a file'}. Expected a PEM file: AUDIT_SCHEDULER needs AUDIT_TLS_CA, AUDIT_TLS_CERT and AUDIT_TLS_KEY.")


def _check_home(home):
    if not home.is_dir():
        raise HomeError(f"AUDIT_HOME ({home.name}) is not a folder. Set AUDIT_HOME to a folder that you may write.")
    if os.name == "posix":  # Windows has no such owner and mode; its profile folders are private by default
        status = home.stat()
        if status.st_uid != os.geteuid():
            raise HomeError(f"AUDIT_HOME ({home.name}) belongs to another user. Set AUDIT_HOME to a folder of your own.")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise HomeError(f"AUDIT_HOME ({home.name}) is writable by others (mode {stat.S_IMODE(status.st_mode):o}). Take that away: chmod 700 {home.name}")
    if not os.access(home, os.W_OK | os.X_OK):
        raise HomeError(f"AUDIT_HOME ({home.name}) is not writable. Set AUDIT_HOME to a folder that you may write.")
    kind = filesystem_of(home)
    if kind in NETWORK_FILESYSTEMS:
        raise HomeError(f"AUDIT_HOME ({home.name}) lies on a network file system ({kind}), where the job list cannot be locked. Set AUDIT_HOME to a folder on a local disk.")


def filesystem_of(path, mountinfo="/proc/self/mountinfo"):
    """Type of the file system that holds `path`, as Linux names it ("ext4", "nfs4"), or "" where that cannot be told."""
    try:
        lines = Path(mountinfo).read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    real, best, kind = os.path.realpath(path), -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        mount = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= best:  # of two mounts on one place the later one is seen
            best, kind = len(mount), right.split()[0]
    return kind

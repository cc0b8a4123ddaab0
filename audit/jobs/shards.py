"""The measured pieces of a run: one safetensors file per block of images, written whole or not at all, and never mixed with pieces of another measurement.

    RUN/shards/KEY/plan.json                        how the images are cut, and the batch size: a resumed run keeps both, so its tables are equal to the last bit
    RUN/shards/KEY/00000128-00000192.safetensors    {table: float32 (S,n,K)} of images 128 … 191

KEY is a hash of everything that can change a number.
"""

import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

MAX_SHARD_BYTES = 64 * 2**20  # of results: they pass through the scheduler and the driver's memory
QUERIES_AT_ONCE = 2048  # query images in one shard of a search: the pool is read once for each


@dataclass(frozen=True)
class Shard:
    """Images first … stop-1; index counts from 0."""

    index: int
    first: int
    stop: int

    @property
    def images(self):
        """Number of images."""
        return self.stop - self.first


def shard_key(parts):
    """SHA-256 hex of a plain dict: checkpoint, images, preprocessing, probe settings and VERSIONs, torch version, device type."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def cut(images, images_per_shard):
    """Blocks of at most `images_per_shard` images that cover 0 … images-1, as equal as can be."""
    count = math.ceil(images / images_per_shard)
    edges = [images * i // count for i in range(count + 1)]
    return [Shard(i, edges[i], edges[i + 1]) for i in range(count)]


def images_per_shard(seconds, seconds_per_call, calls_per_image, values_per_image):
    """Images whose measuring takes about `seconds` of device time and whose results stay below MAX_SHARD_BYTES; at least 1.

    Args: seconds_per_call: of one image at one timestep, inside a full batch; values_per_image: float32 numbers that one image yields.
    """
    by_time = seconds / max(1e-9, seconds_per_call * calls_per_image)
    by_size = MAX_SHARD_BYTES / max(1, 4 * values_per_image)
    return max(1, int(min(by_time, by_size)))


def read_as(info):
    """What tells two readings of one checkpoint apart, for keys: its hash, which of its weights, every setting. Args: info: CheckpointInfo as JSON.

    A .yaml beside a weights file changes what is measured, and not the file's hash.
    """
    return [info["sha256"], info["weights"], [[s["name"], s["value"]] for s in info["settings"] if s["name"] != "weights"]]  # that one is a file's name


class ShardFolder:
    """The shards of one key in one run folder."""

    def __init__(self, run_folder, key):
        self.key, self.root = key, Path(run_folder) / "shards"
        self.folder = self.root / key[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):  # of a worker that died while writing
            leftover.unlink()

    def read_plan(self):
        """What `write_plan` stored for this key, or None."""
        try:
            plan = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return plan if isinstance(plan, dict) and plan.get("key") == self.key else None

    def write_plan(self, **plan):
        """Store how the images are cut; JSON values."""
        self._write("plan.json", json.dumps({"key": self.key, **plan}).encode())

    def write(self, shard, tables, seconds):
        """Store the results of one shard: {table: float32 (S,n,K)}, measured in `seconds`."""
        metadata = {"key": self.key, "first": str(shard.first), "stop": str(shard.stop), "seconds": repr(float(seconds))}
        arrays = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in tables.items()}
        self._write(self._path(shard).name, save(arrays, metadata=metadata))

    def seconds_if_intact(self, shard):
        """Device seconds of a stored shard, or None when it is not there; one that cannot be read or carries another key is deleted."""
        path = self._path(shard)
        if not path.exists():
            return None
        try:
            with safe_open(path, "numpy") as file:  # checks the header against the file's size
                metadata, names = file.metadata() or {}, list(file.keys())
                shapes = [tuple(file.get_slice(name).get_shape()) for name in names]
            intact = (metadata["key"], metadata["first"], metadata["stop"]) == (self.key, str(shard.first), str(shard.stop))
            intact = intact and bool(names) and all(len(s) == 3 and s[1] == shard.images for s in shapes)
            seconds = float(metadata["seconds"])
        except (SafetensorError, OSError, KeyError, ValueError):
            intact = False
        if not intact:
            path.unlink(missing_ok=True)
            return None
        return seconds

    def read(self, shard):
        """{table: float32 (S,n,K)} of a stored shard."""
        with safe_open(self._path(shard), "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping

    def blocks(self, shards):
        """(first, tables) of each shard, one in memory at a time: what audit.tables.write_tables takes."""
        for shard in shards:
            yield shard.first, self.read(shard)

    def _path(self, shard):
        return self.folder / f"{shard.first:08d}-{shard.stop:08d}.safetensors"

    def _write(self, name, data):
        target = self.folder / name
        tmp = target.with_name(name + ".tmp")
        with open(tmp, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(tmp, target)
        sync_folder(self.folder)


def remove_shards(run_folder):
    """Remove all shards of a finished run; renamed first, so that a kill in between cannot leave some that look complete."""
    root, doomed = Path(run_folder) / "shards", Path(run_folder) / "shards.done"
    shutil.rmtree(doomed, ignore_errors=True)
    if root.exists():
        os.replace(root, doomed)
        shutil.rmtree(doomed)


def sync_folder(folder):
    """Make a rename in `folder` survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def disk_bytes(images, image_bytes, timesteps, draws, tables):
    """Bytes that an audit writes: shards, tables with every draw, their mean, sorted and prefix files, decoded images and thumbnails.

    Args: images: N; image_bytes: of one decoded image; timesteps: K; draws: S; tables: their number.
    """
    numbers = images * timesteps * tables * (2 * draws + 4)
    return 4 * numbers + 2 * images * image_bytes + 2_000_000

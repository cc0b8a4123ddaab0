"""Sample pools: what an attacker who sees only finished samples has in hand. NumPy only; drawing and searching (torch) are files beside this one.

A pool is one folder, AUDIT_HOME/pools/KEY, made once and shared by all runs that ask for the same:
    images.npy      uint8 (P,H,W,C), the samples in the order of their index, in the size that the audit measures
    labels.npy      int64 (P,), class that each sample was asked for; only for class-conditional models
    index.json      {"key", "sha256", "kind": "drawn" | "given", "count", "shape": [H, W, C], "sampler", "steps", "seed", "seconds", "checkpoint", "classes",
                     "captions": how many (0: the empty prompt) or null, "resized": count, "left_out": [{"path", "reason"}], "paths": [P names] or null, "device"};
                    written last: a folder without it is not finished
    shards/         while it is being drawn: 00000000-00000128.npy, uint8 (n,H,W,C), and plan.json; a pool that was stopped goes on behind the shards it has
sha256 is over the bytes of images.npy's array. KEY hashes what can change a byte: for drawn pools checkpoint, overrides, sampler, steps, seed, count, shape, captions, torch
version, device type; for given ones the files' fingerprint and the shape. Sample i follows from (seed, i) alone.

In a job (audit.jobs.pools): after the query images were read and before anything is measured, `Audit.pool` is a Pool or None; "reference/" has one of its own where
there is a reference. The driver cuts the drawing into shards and runs audit.jobs.tasks_pool.draw_samples on the device workers.

Tables that need no denoiser come from a *measure* (audit.pool.measures.MEASURES, one line each), run by audit.jobs.tasks_pool.search_pool on the device workers, image shard by
image shard, beside the probes' tables and stored with them: {table: float32 (1,n,K)}, axis "feature".
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from audit.errors import PoolError


@dataclass(frozen=True)
class Pool:
    """An open pool.

    Attributes:
        folder: Path; info: index.json as a dict.
        left_out: int64 indices that must not be used, because the same picture is a query image (given pools only: a model's own copy of a member is evidence).
    """

    folder: Path
    info: dict
    left_out: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self):
        return self.info["count"]

    @cached_property
    def images(self):
        """uint8 (P,H,W,C) memory map, 0-255."""
        return np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def labels(self):
        """int64 (P,), or None for an unconditional model or a given pool."""
        path = self.folder / "labels.npy"
        return np.load(path, allow_pickle=False) if path.exists() else None

    @cached_property
    def kept(self):
        """int64, increasing: the samples that attacks may use."""
        return np.setdiff1d(np.arange(len(self)), self.left_out)


def open_pool(folder, left_out=()):
    """The Pool of a finished folder.

    Args: left_out: indices of samples that must not be used.
    Raises: PoolError: it is unfinished or damaged.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        pool = Pool(folder, info, np.asarray(left_out, dtype=np.int64))
        whole = pool.images.dtype == np.uint8 and list(pool.images.shape) == [info["count"], *info["shape"]]
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise PoolError(f"The sample pool {folder.name} is unfinished or damaged. Expected index.json and images.npy of one pool: remove the folder, then run again.")
    return pool

"""Writing a pool's folder: shards while it is drawn, one array when it is whole. NumPy only."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from audit.files import write_json
from audit.pool import open_pool

VERSION = 1  # raise it whenever a byte of a pool changes
CPU_PIXELS, CUDA_PIXELS, MOST_AT_ONCE = 2**15, 2**20, 512
COPY_ROWS = 256


def pool_key(**parts):
    """SHA-256 hex of everything that can change a byte; JSON values."""
    return hashlib.sha256(json.dumps({"version": VERSION, **parts}, sort_keys=True, allow_nan=False).encode()).hexdigest()


def samples_at_once(image_shape, device_type):
    """Samples in one shard, which is one batch: by a fixed rule, so that a resumed pool has the same bytes. Args: image_shape: (C,H,W)."""
    pixels = CUDA_PIXELS if device_type == "cuda" else CPU_PIXELS
    return int(np.clip(pixels // (image_shape[1] * image_shape[2]), 1, MOST_AT_ONCE))


class PoolFolder:
    """One pool on disk while it is made. Args: root: AUDIT_HOME/pools; key: of `pool_key`."""

    def __init__(self, root, key):
        self.key, self.folder = key, Path(root) / key[:32]
        self.shards = self.folder / "shards"

    def finished(self):
        """The Pool, or None while it is not whole."""
        if not (self.folder / "index.json").exists():
            return None
        return open_pool(self.folder)

    def plan(self, **wanted):
        """What an earlier attempt noted, or `wanted`, noted now; JSON values."""
        self.shards.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.shards / "plan.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = None
        if not isinstance(kept, dict) or kept.get("key") != self.key:
            kept = {"key": self.key, **wanted}
            write_json(path, kept)
        return kept

    def seconds_if_intact(self, shard, shape):
        """Device seconds of a stored shard, None where it is missing or damaged. Args: shape: (H,W,C) of a sample."""
        try:
            with np.load(self._path(shard), allow_pickle=False) as data:
                whole = data["images"].shape == (shard.images, *shape) and data["images"].dtype == np.uint8
                return float(data["seconds"]) if whole else None
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def write(self, shard, images, seconds):
        """Store one shard: uint8 (n,H,W,C)."""
        path = self._path(shard)
        tmp = path.with_name(path.name + ".tmp")
        with open(tmp, "wb") as handle:
            np.savez(handle, images=images, seconds=float(seconds))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(tmp, path)

    def read(self, shard):
        """uint8 (n,H,W,C) of a stored shard."""
        with np.load(self._path(shard), allow_pickle=False) as data:
            return data["images"]

    def finish(self, count, shape, blocks, labels=None, **info):
        """Write images.npy, labels.npy and index.json from blocks of uint8 (n,H,W,C) in order, then remove the shards. Returns the Pool."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tmp, digest, at = self.folder / "images.tmp", hashlib.sha256(), 0
        with open(tmp, "wb") as out:
            np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
            for block in blocks:
                data = np.ascontiguousarray(block, dtype=np.uint8).tobytes()
                digest.update(data)
                out.write(data)
                at += len(block)
            out.flush()
            os.fsync(out.fileno())
        assert at == count, (at, count)
        os.replace(tmp, self.folder / "images.npy")
        if labels is not None:
            np.save(self.folder / "labels.npy", np.asarray(labels, dtype=np.int64))
        write_json(self.folder / "index.json", {"key": self.key, "sha256": digest.hexdigest(), "count": int(count), "shape": [int(n) for n in shape], **info})
        shutil.rmtree(self.shards, ignore_errors=True)
        return open_pool(self.folder)

    def _path(self, shard):
        return self.shards / f"{shard.first:08d}-{shard.stop:08d}.npz"

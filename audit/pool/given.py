"""A folder, .zip or .npz of generated images -> a pool: decoded, cropped and resized as query images are, once."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from audit.errors import PoolError
from audit.request import LEAST_POOL
from models.errors import ImageError, ModelError
from models.imagefiles import ImageFile, pixels_of, read_set
from models.pixels import fit, image_id

LARGEST_SIDE = 256  # where no checkpoint says which size to compare: larger samples are brought to it
LEFT_OUT_KEPT = 1000


def read_given(path, image_shape, target, on_progress=None, what="--pool"):
    """Write the pool of a user's own generated images.

    Args:
        path: folder (recursive), .zip or .npz; image_shape: (C,H,W) of the checkpoint, or None: the commonest size among them, 3 channels unless all are grey.
        target: audit.pool.store.PoolFolder; on_progress(files): called after every file, may raise to stop;
        what: names the set in an error.
    Returns: audit.pool.Pool.
    Raises: PoolError: it cannot be read, or holds too few images.
    """
    path = Path(path)
    try:
        channels, *size = image_shape or _own_shape(path, on_progress, what)
        return _read(path, channels, tuple(size), target, on_progress, what)
    except ModelError as error:
        raise PoolError(f"{what}: {error}") from None


def _own_shape(path, on_progress, what):
    """(C,H,W) where nothing else says: the commonest size, at most LARGEST_SIDE a side."""
    sizes, grey, files = Counter(), True, 0
    for entry in read_set(path):
        files += 1
        _tell(on_progress, files)
        if isinstance(entry, ImageFile):
            try:
                pixels = pixels_of(entry, 3)
            except ImageError:
                continue
            sizes[pixels.shape[:2]] += 1
            grey = grey and bool((pixels[..., :1] == pixels).all())
    if not sizes:
        raise _too_few(what, path, 0, files, ())
    height, width = max(sizes, key=lambda size: (sizes[size], size))
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return 1 if grey else 3, max(1, round(height * scale)), max(1, round(width * scale))


def _read(path, channels, size, target, on_progress, what):
    names, left_out, resized, files = [], [], 0, 0
    target.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target.folder) as scratch:
        for entry in read_set(path):
            files += 1
            _tell(on_progress, files)
            try:
                if not isinstance(entry, ImageFile):
                    raise ImageError(entry[1])
                pixels = pixels_of(entry, channels)
            except ImageError as error:
                name = entry.name if isinstance(entry, ImageFile) else entry[0]
                left_out.append({"path": _text(name), "reason": str(error)})
                continue
            resized += pixels.shape[:2] != size
            scratch.write(np.ascontiguousarray(fit(pixels, size)).tobytes())
            names.append(_text(entry.name))
        if len(names) < LEAST_POOL:
            raise _too_few(what, path, len(names), files, left_out)
        scratch.seek(0)
        each = size[0] * size[1] * channels
        blocks = (np.frombuffer(scratch.read(each * min(256, len(names) - first)), np.uint8).reshape(-1, *size, channels) for first in range(0, len(names), 256))
        return target.finish(
            len(names), (*size, channels), blocks, kind="given", sampler=None, steps=None, seed=None, seconds=0.0, checkpoint=None, classes=None,
            resized=resized, left_out=left_out[:LEFT_OUT_KEPT], paths=names, device=None,
        )  # fmt: skip


def query_images(pool, image_ids):
    """int64 indices of the samples of a given pool that are query images themselves.

    Args: image_ids: set of str, ids of the query images (models.pixels.image_id).
    """
    return np.array([i for i, pixels in enumerate(pool.images) if image_id(pixels) in image_ids], dtype=np.int64)


def _too_few(what, path, usable, files, left_out):
    first = f" (first left out: {left_out[0]['path']}: {left_out[0]['reason']})" if left_out else ""
    holds = f"{usable} usable image{'' if usable == 1 else 's'} in {files} file{'' if files == 1 else 's'}{first}"
    kind = "generated images" if what == "--pool" else "images"
    return PoolError(f"{what}: {path.name} holds {holds}. Expected at least {LEAST_POOL} {kind}, PNG, JPEG, WebP or BMP.")


def _tell(on_progress, files):
    if on_progress is not None:
        on_progress(files)


def _text(name):
    return name.encode("utf-8", "backslashreplace").decode("utf-8")

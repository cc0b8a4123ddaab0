"""The image files of a folder (recursive), a .zip or a .npz, one at a time.

Names are text from outside: they are shown and compared, never opened as a path. A zip is read in place, never unpacked.
"""

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.errors import ImageError, ModelError
from models.pixels import SUFFIXES, decode, fit

MAX_FILE_BYTES = 256 * 2**20
MAX_RATIO = 200  # compressed : uncompressed; honest pictures stay below 10
IGNORED = re.compile(r"(^|/)(\.(?!\.?/)|__MACOSX/|Thumbs\.db$|desktop\.ini$)")  # hidden files; "./a.png" is none


@dataclass(frozen=True)
class ImageFile:
    """One entry of a set: `name` relative to the set, and either `data` (encoded bytes) or `pixels` (uint8 (H,W,C), from a .npz)."""

    name: str
    data: bytes | None = None
    pixels: np.ndarray | None = None


def _natural(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_set(path) -> Iterator[ImageFile | tuple[str, str]]:
    """The entries of one image set in natural name order (img2 before img10).

    Args:
        path: a folder, a .zip or a .npz with `images` uint8 (N,H,W,C) or (N,H,W).
    Yields: ImageFile for each entry that may be an image, or (name, reason) for one that was left out.
    Raises: ModelError: the set itself cannot be read.
    """
    path = Path(path)
    _require_set(path)
    yield from (_folder if path.is_dir() else _zip if path.suffix.lower() == ".zip" else _npz)(path)


def _require_set(path):
    """Raise ModelError unless something is there that may be a set."""
    if not path.exists():
        raise ModelError(f"{path.name} was not found. Expected a folder, .zip or .npz of images: check the path.")
    if not path.is_dir() and path.suffix.lower() not in (".zip", ".npz"):
        raise ModelError(f"{path.name} is not an image set. Expected a folder, .zip or .npz (`images`, uint8, N x H x W x C).")


def _folder(root):
    names = []
    for folder, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        names += [(Path(folder) / f).relative_to(root).as_posix() for f in files]
    for name in sorted(names, key=_natural):
        if IGNORED.search(name):
            continue
        file = root / name
        if Path(name).suffix.lower() not in SUFFIXES:
            yield name, "not an image file"
        elif not file.is_file():
            yield name, "not a regular file"
        elif file.stat().st_size > MAX_FILE_BYTES:
            yield name, f"larger than {MAX_FILE_BYTES // 2**20} MB"
        else:
            try:
                yield ImageFile(name, data=file.read_bytes())
            except OSError as error:
                yield name, f"cannot be read ({error.strerror})"


def _zip(path):
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError):
        raise ModelError(f"{path.name} is not a readable .zip. It may be cut short: copy it again.") from None
    with archive:
        for info in sorted(archive.infolist(), key=lambda i: _natural(i.filename)):
            name = info.filename
            if info.is_dir() or IGNORED.search(name):
                continue
            if Path(name).suffix.lower() not in SUFFIXES:
                yield name, "not an image file"
            elif info.file_size > MAX_FILE_BYTES or info.file_size > MAX_RATIO * max(1, info.compress_size):
                yield name, "unpacks to far more than its size"
            else:
                try:
                    with archive.open(info) as handle:
                        data = handle.read(info.file_size + 1)
                except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
                    yield name, f"damaged zip entry ({error.__class__.__name__})"
                else:
                    yield ImageFile(name, data=data) if len(data) <= info.file_size else (name, "unpacks to more than its header says")


def _npz(path):
    try:
        with zipfile.ZipFile(path) as archive:
            if any(i.file_size > max(MAX_FILE_BYTES, MAX_RATIO * i.compress_size) for i in archive.infolist()):
                raise ModelError(f"{path.name} unpacks to far more than its size. Expected images: save it again with np.savez.")
        with np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
    except KeyError:
        raise ModelError(f"{path.name} holds no array `images`. Expected uint8, N x H x W x C: save it with np.savez_compressed(F, images=...).") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError, NotImplementedError):
        raise ModelError(f"{path.name} is not a readable .npz of plain arrays. Expected `images`, uint8, N x H x W x C.") from None
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ModelError(f"{path.name}: `images` is {images.dtype} {images.shape}. Expected uint8, N x H x W x C with 1 or 3 channels.")
    for index, pixels in enumerate(images):
        yield ImageFile(f"images[{index}]", pixels=pixels)


def names_of(path):
    """Names of the image files of a set, as `read_set` gives them, without decoding one; of a .npz by the header of its array.

    Raises: ModelError: the set itself cannot be read.
    """
    path = Path(path)
    _require_set(path)
    if path.is_dir():
        names = ((Path(folder) / name).relative_to(path).as_posix() for folder, _, files in os.walk(path) for name in files)
    elif path.suffix.lower() == ".npz":
        return [f"images[{index}]" for index in range(_npz_rows(path))]
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError):
            raise ModelError(f"{path.name} is not a readable .zip. It may be cut short: copy it again.") from None
    return sorted((name for name in names if Path(name).suffix.lower() in SUFFIXES and not IGNORED.search(name)), key=_natural)


def _npz_rows(path):
    """Length of the first axis of `images`."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("images.npy") as handle:
            version = np.lib.format.read_magic(handle)
            shape, _, _ = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(handle)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise ModelError(f"{path.name} is not a readable .npz of plain arrays. Expected `images`, uint8, N x H x W x C.") from None
    return int(shape[0]) if shape else 0


def pixels_of(entry, channels):
    """Decoded uint8 (H,W,channels) of an ImageFile. Raises ImageError."""
    if entry.pixels is None:
        return decode(entry.data, channels)
    pixels = entry.pixels
    if pixels.shape[-1] == 4:
        raise ImageError("4 channels in an array; 1 or 3 are expected")
    if channels == 3 and pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if channels == 1 and pixels.shape[-1] == 3:
        if not (pixels[..., :1] == pixels).all():
            raise ImageError("colour image; the model takes 1-channel grey images: convert it or choose a 3-channel checkpoint")
        return np.ascontiguousarray(pixels[..., :1])
    return pixels


def first_pictures(path, channels, size, count=64):
    """uint8 (N,H,W,C) of the first pictures of a set, at most `count`; those that cannot be used are passed over.

    Args: path: as `read_set` takes it; channels, size (h, w): of the model.
    Raises: ModelError: the set cannot be read, or holds no picture that the model takes.
    """
    taken = []
    for entry in read_set(path):
        try:
            taken += [fit(pixels_of(entry, channels), size)] if isinstance(entry, ImageFile) else []
        except ImageError:
            continue
        if len(taken) == count:
            break
    if not taken:
        raise ModelError(f"{Path(path).name} holds no picture with {channels} channel{'s' * (channels > 1)}. Expected a folder, .zip or .npz of images: check the path.")
    return np.stack(taken)

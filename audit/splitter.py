"""Draw members and non-members at random before training: one fair coin per group of near duplicates.

Only such a split makes the two sets exchangeable, so that whatever tells them apart afterwards was learned from training. Near duplicates share a coin,
because a model that was trained on a picture has seen its copy too.
"""

import os
import secrets
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np

from audit.errors import ImageSetError, RequestError
from audit.files import write_json
from models.errors import ImageError, ModelError
from models.imagefiles import ImageFile, pixels_of, read_set
from models.manifest import BY_HASH, coin, content_sha256, draw_order, manifest_of
from models.pixels import fit

LEAST_IMAGES = 20
SIDE = 32  # pixels; near duplicates are looked for at this size, so that any number of large pictures fits in memory
RULE = "An independent fair coin for each group of near duplicates, tossed before training: member or non-member."
RULE_QUERY = "{n} images in whole groups of near duplicates, drawn at random, got an independent fair coin a group before training; all others are trained on and not queried."
FOLDERS = {"member": "members", "nonmember": "nonmembers", "training": "training"}


@dataclass(frozen=True)
class Split:
    """What was drawn. manifest: its content; left_out: (name, reason) of files that no coin was tossed for; copies: the folder of --copy, or None."""

    manifest: dict
    left_out: tuple[tuple[str, str], ...]
    copies: Path | None

    @property
    def counts(self):
        """{"member", "nonmember", "training"}: images of each role."""
        found = Counter(image["role"] for image in self.manifest["images"])
        return {role: found[role] for role in FOLDERS}

    @property
    def sharing(self):
        """Images that share their coin with another."""
        sizes = Counter(image["cluster"] for image in self.manifest["images"])
        return sum(size for size in sizes.values() if size > 1)


def split(source, out, seed=None, query=None, copy=None):
    """Draw the split of a set of images and write its manifest.

    Args:
        source: folder, .zip or .npz of images; out: file to write, which must not exist.
        seed: whole number from 0 to 2^63 - 1, or None for a fresh one from the system; either way the manifest holds it.
        query: how many images get a coin, the others being for training only; None for all.
        copy: new or empty folder that gets members/, nonmembers/ and training/ (for a .npz: members.npz …), or None.
    Returns: Split.
    Raises: RequestError: an argument cannot be used; ImageSetError: the set cannot be read, or holds fewer than 20 images or groups.
    """
    source, out, copy = Path(source), Path(out), None if copy is None else Path(copy)
    seed = secrets.randbits(48) if seed is None else seed
    _check_arguments(source, out, seed, query, copy)
    names, hashes, small, left_out = _read(source)
    if len(names) < LEAST_IMAGES:
        raise ImageSetError(f"{source.name} holds {_images(len(names))} that can be read{_first(left_out)}. Expected at least {LEAST_IMAGES}: add images.")
    if query is not None and query > len(names):
        raise RequestError(f"--query is {query}, and {source.name} holds {_images(len(names))}. Expected at most that many.")
    cluster = _clusters(small, hashes)
    groups = int(cluster.max()) + 1
    if groups < LEAST_IMAGES:
        raise ImageSetError(f"{source.name} holds {_images(len(names))} in {groups} groups of near duplicates. Expected at least {LEAST_IMAGES} different pictures: add images.")
    roles = draw_roles(hashes, cluster, seed, query)
    images = [{"path": n, "sha256": h, "cluster": int(c), "role": r} for n, h, c, r in zip(names, hashes, cluster, roles, strict=True)]
    rule = RULE if query is None else RULE_QUERY.format(n=sum(role != "training" for role in roles))
    manifest = manifest_of(images, seed, datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"), _text(source.name), BY_HASH, rule)
    if copy is not None:
        _copy(source, copy, {image["sha256"]: image["role"] for image in images})
    try:
        write_json(out, manifest)
    except OSError as error:
        raise RequestError(f"{out.name} cannot be written ({error.strerror}). Choose another place.") from None
    return Split(manifest, tuple(left_out), copy)


def draw_roles(hashes, cluster, seed, query=None):
    """The role of each image. The order of the images does not matter.

    Args:
        hashes: sha256 hex of N files; cluster: int (N,), near duplicates share one; seed: whole number.
        query: whole clusters, in random order and independent of the coins, as long as they fit into this many images; None for all.
    Returns: list of "member", "nonmember" or "training".
    """
    files = {}
    for image, group in zip(hashes, cluster, strict=True):
        files.setdefault(int(group), []).append(image)
    keys = {group: min(held) for group, held in files.items()}
    role, left = {}, len(hashes) if query is None else query
    for group in sorted(keys, key=lambda group: draw_order(seed, keys[group])):
        drawn = len(files[group]) <= left
        left -= len(files[group]) if drawn else 0
        role[group] = ("member" if coin(seed, keys[group]) else "nonmember") if drawn else "training"
    return [role[int(group)] for group in cluster]


def _check_arguments(source, out, seed, query, copy):
    if not 0 <= seed < 2**63:
        raise RequestError(f"--seed is {seed}. Expected a whole number from 0 to 2^63 - 1.")
    if query is not None and query < LEAST_IMAGES:
        raise RequestError(f"--query is {query}. Expected at least {LEAST_IMAGES} images.")
    if out.exists():
        raise RequestError(f"{out.name} exists, and a split is drawn once. Choose another --out; the old manifest stays what later audits verify against.")
    if not out.parent.is_dir():
        raise RequestError(f"--out: the folder {out.parent.name} was not found. Expected an existing folder: make it.")
    if copy is None:
        return
    if copy.exists() and not (copy.is_dir() and not any(copy.iterdir())):
        raise RequestError(f"--copy: {copy.name} exists and is not an empty folder. Choose another folder.")
    if not copy.resolve().parent.is_dir():
        raise RequestError(f"--copy: the folder {copy.resolve().parent.name} was not found. Expected an existing folder: make it.")
    if source.is_dir() and copy.resolve().is_relative_to(source.resolve()):
        raise RequestError(f"--copy lies inside {source.name}, which is being split. Choose a folder outside it.")


def _read(source):
    """(names, sha256 hex of each, small pictures, [(name, reason) left out]) of a set; one full-size image in memory at a time. Raises ImageSetError."""
    names, hashes, small, left_out = [], [], [], []
    try:
        for entry in read_set(source):
            if not isinstance(entry, ImageFile):
                left_out.append((_text(entry[0]), entry[1]))
                continue
            try:
                grey = _grey(pixels_of(entry, 3))
            except ImageError as error:
                left_out.append((_text(entry.name), str(error)))
                continue
            names.append(_text(entry.name))
            hashes.append(content_sha256(_content(entry)))
            small.append(grey if max(grey.shape[:2]) <= SIDE else fit(grey, (SIDE, SIDE)))
    except ModelError as error:
        raise ImageSetError(str(error)) from None
    except PermissionError as error:
        raise ImageSetError(f"{source.name} cannot be read ({error.strerror}). Expected a set that you may read: change its permissions.") from None
    if len({picture.shape for picture in small}) > 1:
        small = [fit(picture, (SIDE, SIDE)) for picture in small]
    return names, hashes, small, left_out


def _content(entry):
    """What an image is hashed by, and copied as."""
    return entry.data if entry.pixels is None else entry.pixels


def _grey(rgb):
    """Luma (ITU-R BT.601) of uint8 (H,W,3) as uint8 (H,W,1)."""
    return np.round(rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]


def _clusters(small, hashes):
    """int (N,), numbered from 0 by first occurrence: near duplicates share one, and files with equal bytes always do."""
    from audit.duplicates import near_duplicates

    found = np.asarray(near_duplicates(np.stack(small), None).cluster)
    joined = list(range(int(found.max()) + 1))  # union-find over the groups found, through equal files

    def root(group):
        while joined[group] != group:
            group = joined[group]
        return group

    first = {}
    for group, image in zip(found.tolist(), hashes, strict=True):
        joined[root(group)] = root(first.setdefault(image, group))
    numbers = {}
    return np.array([numbers.setdefault(root(group), len(numbers)) for group in found.tolist()])


def _copy(source, folder, roles):
    """Write the images of each role into their own folder; `folder` appears whole or not at all. Args: roles: {sha256: role}."""
    part = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")
    try:
        for role in set(roles.values()):
            (part / FOLDERS[role]).mkdir(parents=True)
        arrays = {}
        for entry in read_set(source):
            role = roles.get(content_sha256(_content(entry))) if isinstance(entry, ImageFile) else None
            if role is None:
                continue
            if entry.pixels is None:
                target = _target(part / FOLDERS[role], entry)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(entry.data)
            else:
                arrays.setdefault(role, []).append(entry.pixels)
        for role, pixels in arrays.items():
            (part / FOLDERS[role]).rmdir()
            np.savez_compressed(part / f"{FOLDERS[role]}.npz", images=np.stack(pixels))
        if folder.exists():
            folder.rmdir()  # it is empty; not every system renames onto a folder
        os.replace(part, folder)
    except OSError as error:
        raise RequestError(f"--copy: {folder.name} cannot be written ({error.strerror}). Free space, or choose another folder.") from None
    except ModelError as error:
        raise ImageSetError(str(error)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _target(folder, entry):
    """Where a copy goes: under its own name, or under its hash where that name would climb out, cannot be written everywhere, or is taken."""
    parts = PurePosixPath(entry.name.replace("\\", "/")).parts
    plain = all(part not in ("..", "/") and part.isprintable() and not set(part) & set(':*?"<>|') and part == part.rstrip(". ") for part in parts)
    target = folder.joinpath(*parts) if plain and parts and _text(entry.name) == entry.name else None
    if target is None or target.exists() or any(parent.is_file() for parent in target.parents):
        target = folder / f"{content_sha256(entry.data)}{Path(entry.name).suffix.lower()}"
    return target


def _text(name):
    """A file name as text that can be written anywhere."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _images(n):
    return f"{n:,} image{'' if n == 1 else 's'}"


def _first(left_out):
    return f" ({len(left_out):,} left out, first: {left_out[0][0]}: {left_out[0][1]})" if left_out else ""

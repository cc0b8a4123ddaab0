"""Two image sets on disk -> the query images of one audit: decoded, cropped, resized, named by content, without duplicates.

Both sets go through the same path (models.pixels). One image is in memory at a time; what was decoded goes to a scratch file first, because whether an
image stays is known only when both sets were read.

The folder gets
    images.npy     uint8 (N,H,W,C), members first, each set in natural name order
    queries.json   {"images": [{"image_id", "path", "is_member", "cluster": int, "source_sha256"}], "members", "nonmembers", "left_out": [{"path", "set", "reason"}],
                    "duplicates": {"exact", "pairs": [{"image_id", "set": "members" | "nonmembers" | "both", "kept": path or null, "left_out": [paths]}],
                                   "near", "clusters", "near_pairs": [{"a", "a_path", "a_set", "b", "b_path", "b_set", "how", "correlation", "left_out"}], "rule"},
                    "modes": {set: {"28 x 28 grey PNG": count}}, "resized": {set: count}, "preprocessing": {"crop", "filter", "size": [H, W]}}
                   an image has also "label": int or "caption": text where the model is asked with it;
                   cluster: images of one set that are near duplicates of each other share a number; source_sha256: of the file's bytes, in a .npz of the array's;
                   near: images left out because a near duplicate stands in the other set, in left_out with "image_id" and the other's path ("of") too; clusters: groups of
                   two and more that stay; near_pairs: a, b are image ids, at most 100 pairs, strongest first; rule: what was done, in a sentence
    features.npz   names (F,) str, scalar (F,) bool, values (N,F) float64 (audit.features), rows as in queries.json
    near.npz       only where near duplicates were left out: image_id (P,) str, pixels uint8 (P,h,w,C), small, for write_thumbnails
"""

import hashlib
import io
import json
import os
from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from audit.duplicates import describe, renumbered, search
from audit.errors import ImageSetError
from audit.features import as_table, feature_names, features_of
from audit.files import write_json
from models.errors import ImageError, ModelError
from models.imagefiles import ImageFile, pixels_of, read_set
from models.pixels import FORMATS, fit, image_id

SETS = ("members", "nonmembers")
WORDS = {"members": "members", "nonmembers": "non-members"}
LEAST_PER_SIDE = 10
LARGEST_SHARED = 0.05  # of a set; more pictures in both sets than this, and the split itself is in doubt
FILTER = "bicubic"
COLOUR_ENOUGH = 32  # colour pictures in a row for a grey model: the rest of the set need not be read
COPY_BYTES = 16 * 2**20
MODES_KEPT = 12
THUMBNAIL_SIDE = 128
PAIRS_KEPT = 100
NEAR_REASON = "near duplicate in the other set"
RULE = (
    "A picture counts as a near duplicate when, re-encoded, slightly brighter or cropped, mirrored or turned, it is far closer to another than either is to the rest: "
    "one of each set, and both are left out; inside a set, both stay and are split together."
)
RULE_ALIKE = "Pictures of this source resemble each other turned as often as upright, so likeness does not tell copies: only exact duplicates were left out."
MODE_WORDS = {"1": "black-and-white", "L": "grey", "LA": "grey with alpha", "P": "palette"}


@dataclass(frozen=True)
class QuerySet:
    """The query images of an audit, as `prepare` left them in `folder`.

    Attributes:
        images: dicts with image_id (16 hex), path (relative to its set), is_member, cluster, source_sha256; members first.
        members, nonmembers: counts; left_out, duplicates, modes, resized, preprocessing: see the module.
        provenance: what audit.provenance found, once the audit has asked it; else None.
    """

    folder: Path
    images: tuple[dict, ...]
    members: int
    nonmembers: int
    left_out: tuple[dict, ...]
    duplicates: dict
    modes: dict
    resized: dict
    preprocessing: dict
    provenance: dict | None = None

    @classmethod
    def load(cls, folder):
        """The QuerySet of a folder. Raises ImageSetError."""
        folder = Path(folder)
        try:
            found = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
            known = {field.name: found[field.name] for field in fields(cls) if field.name in found}
            return cls(folder, **{**known, "images": tuple(found["images"]), "left_out": tuple(found["left_out"])})
        except (OSError, ValueError, KeyError, TypeError):
            raise ImageSetError(f"The query images of {folder.name} are missing or damaged. Expected queries.json: run the audit again.") from None

    def __len__(self):
        return len(self.images)

    @cached_property
    def pixels(self):
        """uint8 (N,H,W,C) memory map."""
        return np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def is_member(self):
        """bool (N,)."""
        return np.array([image["is_member"] for image in self.images], dtype=bool)

    @cached_property
    def clusters(self):
        """int64 (N,); near duplicates of one set share a number."""
        return np.array([image["cluster"] for image in self.images], dtype=np.int64)


@dataclass(frozen=True)
class _Read:
    """One decoded file: `row` in the scratch file, and among the descriptors and features of both sets."""

    side: str
    path: str
    image_id: str
    row: int
    sha256: str


class _Side:
    """What was found in one set while it is read."""

    def __init__(self, name):
        self.name, self.files, self.colour, self.resized = name, 0, 0, 0
        self.read, self.left_out, self.modes = [], [], Counter()
        self.descriptors, self.features = [], []

    def leave_out(self, path, reason, **more):
        self.left_out.append({"path": path, "set": self.name, "reason": reason} | more)


def prepare(members, nonmembers, image_shape, folder, on_progress=None, asked_with=None):
    """Read both sets and write images.npy, queries.json and features.npz.

    Args:
        members, nonmembers: paths of a folder (recursive), .zip or .npz; image_shape: (C,H,W) of the model, C is 1 or 3.
        folder: where to write, made if missing; on_progress(files_read): called after every file, and again while near duplicates are looked for; may raise to stop.
        asked_with: audit.conditions.Condition, what the model is asked with beside each image, or None.
    Returns: QuerySet.
    Raises: ImageSetError: a set is missing, empty, too small or of another channel count, or the sets share too many pictures, exactly or nearly.
    """
    folder = Path(folder)
    given = dict(zip(SETS, (members, nonmembers), strict=True))
    _require_two_sets(given)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "images.tmp"
    sides = {}
    try:
        with open(scratch, "wb") as out:
            for name in SETS:
                sides[name] = _read_side(name, given[name], image_shape, out, sum(len(s.read) for s in sides.values()), sum(s.files for s in sides.values()), on_progress)
        _require_pictures(sides, given)
        kept, duplicates = _without_duplicates(sides)
        kept, clusters, near, lost = _without_near(kept, sides, image_shape, on_progress)
        counts = {name: sum(image.side == name for image in kept) for name in SETS}
        _require_enough(counts, sides, given)
        channels, *size = image_shape
        rows = [image.row for image in kept]
        _copy_rows(scratch, folder / "images.npy", rows, (*size, channels))
        _write_near(scratch, folder / "near.npz", lost, (*size, channels))
    finally:
        scratch.unlink(missing_ok=True)
    features = [row for side in sides.values() for row in side.features]
    names, scalar = feature_names(channels)
    _write_npz(folder / "features.npz", names=names, scalar=scalar, values=as_table([features[row] for row in rows]))
    write_json(
        folder / "queries.json",
        {
            "images": [
                {"image_id": image.image_id, "path": image.path, "is_member": image.side == "members", "cluster": int(cluster), "source_sha256": image.sha256}
                | (asked_with.of(image.side, image.path) if asked_with else {})
                for image, cluster in zip(kept, clusters, strict=True)
            ],
            **counts,
            "left_out": [entry for side in sides.values() for entry in side.left_out],
            "duplicates": duplicates | near,
            "modes": {name: _most_common(side.modes) for name, side in sides.items()},
            "resized": {name: side.resized for name, side in sides.items()},
            "preprocessing": {"crop": "center", "filter": FILTER, "size": size},
        },
    )
    return QuerySet.load(folder)


def _read_side(name, path, image_shape, out, first_row, files_before, on_progress):
    """Decode one set, appending pixels to the scratch file. Returns _Side."""
    side, (channels, *size) = _Side(name), image_shape
    try:
        for entry in read_set(path):
            side.files += 1
            if on_progress:
                on_progress(files_before + side.files)
            if not isinstance(entry, ImageFile):
                side.leave_out(_text(entry[0]), entry[1])
                continue
            try:
                pixels = pixels_of(entry, channels)
            except ImageError as error:
                side.leave_out(_text(entry.name), str(error))
                side.colour += channels == 1 and _is_colour(entry)
                if side.colour == COLOUR_ENOUGH and not side.read:
                    break
                continue
            side.resized += pixels.shape[:2] != tuple(size)
            side.modes[_mode(entry)] += 1
            fitted = np.ascontiguousarray(fit(pixels, tuple(size), FILTER))
            source = np.ascontiguousarray(entry.pixels) if entry.data is None else entry.data
            side.read.append(_Read(name, _text(entry.name), image_id(fitted), first_row + len(side.read), hashlib.sha256(source).hexdigest()))
            side.descriptors.append(describe(fitted))
            side.features.append(features_of(entry, fitted))
            out.write(fitted.tobytes())
    except ModelError as error:
        raise ImageSetError(str(error)) from None
    if side.colour > len(side.read):
        raise ImageSetError(f"The checkpoint takes 1 channel (grey), the images in {Path(path).name} have 3. Convert the images or choose the 3-channel checkpoint.")
    return side


def _text(name):
    """A file name as text: bytes that are not UTF-8 become escapes, so that it can be written anywhere."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_colour(entry):
    """True for an image that only a 3-channel model can take."""
    try:
        pixels_of(entry, 3)
    except ImageError:
        return False
    return True


def _mode(entry):
    """`28 x 28 grey PNG` of a file that was decoded before; reads its header only."""
    if entry.data is None:
        height, width, channels = entry.pixels.shape
        return f"{width} x {height} {'grey' if channels == 1 else 'RGB'} array"
    image = Image.open(io.BytesIO(entry.data), formats=FORMATS)
    return f"{image.width} x {image.height} {MODE_WORDS.get(image.mode, image.mode)} {image.format}"


def _most_common(modes):
    kept = dict(modes.most_common(MODES_KEPT))
    rest = sum(modes.values()) - sum(kept.values())
    return kept | ({"others": rest} if rest else {})


def _require_two_sets(given):
    """Raise ImageSetError when a set was not named, or the same one twice."""
    named = {name: path for name, path in given.items() if path is not None and str(path)}
    if len(named) < 2:
        raise _one_class(list(named))
    members, nonmembers = (Path(path) for path in given.values())
    if members.exists() and nonmembers.exists() and members.samefile(nonmembers):
        raise ImageSetError(f"Members and non-members are the same {'folder' if members.is_dir() else 'file'} ({members.name}). Expected two different sets: choose one for each.")


def _one_class(present):
    """ImageSetError for sets of which only `present` holds anything."""
    if not present:
        return ImageSetError("No images were given. Expected a set of members and a set of non-members, at least 10 images each.")
    have, lacks = (WORDS[name] for name in sorted(SETS, key=lambda name: name not in present))
    return ImageSetError(f"Only {have} were given. Without {lacks} there is no ROC and no verdict: add a folder of {lacks}.")


def _require_pictures(sides, given):
    """Raise ImageSetError when a set holds no files, or none that can be used."""
    empty = [name for name, side in sides.items() if not side.files]
    if empty:
        raise _one_class([name for name in SETS if name not in empty])
    for name, side in sides.items():
        if not side.read:
            first = side.left_out[0]
            where = f"{Path(given[name]).name} ({WORDS[name]}) can be used (first: {first['path']}: {first['reason']})"
            raise ImageSetError(f"None of the {side.files} files in {where}. Expected PNG, JPEG, WebP or BMP images.")


def _without_duplicates(sides):
    """Drop equal pictures: all but the first inside a set, all of them across sets.

    Returns: (list of _Read that stay, members first; the "duplicates" part of queries.json).
    Raises: ImageSetError: more than 5 % of a set are in both.
    """
    by_id = {name: {} for name in SETS}
    for name, side in sides.items():
        for image in side.read:
            by_id[name].setdefault(image.image_id, []).append(image)
    shared = [key for key in by_id["members"] if key in by_id["nonmembers"]]
    if any(len(shared) > LARGEST_SHARED * len(groups) for groups in by_id.values()):
        count = "1 file is" if len(shared) == 1 else f"{len(shared):,} files are"
        first = by_id["members"][shared[0]][0].path
        raise ImageSetError(f"{count} in both folders (first: {first}). An image cannot be member and non-member: remove {'it' if len(shared) == 1 else 'them'} from one side.")
    pairs = [{"image_id": key, "set": "both", "kept": None, "left_out": [image.path for name in SETS for image in by_id[name][key]]} for key in shared]
    kept, both = [], set(shared)
    for name, groups in by_id.items():
        for key, group in groups.items():
            if key in both:
                continue
            kept.append(group[0])
            if len(group) > 1:
                pairs.append({"image_id": key, "set": name, "kept": group[0].path, "left_out": [image.path for image in group[1:]]})
    return kept, {"exact": sum(len(pair["left_out"]) for pair in pairs), "pairs": pairs}


def _without_near(kept, sides, image_shape, on_progress):
    """Drop pictures that have a near duplicate in the other set; group those that have one in their own.

    Returns: (list of _Read that stay, their clusters int64 (N,), the near part of "duplicates" in queries.json, list of _Read left out whose pictures are to be shown).
    Raises: ImageSetError: more than 5 % of a set have a copy in the other, near ones and exact ones together.
    """
    files = sum(side.files for side in sides.values())
    descriptors = [row for side in sides.values() for row in side.descriptors]
    members = np.array([image.side == "members" for image in kept])
    found = search(np.stack([descriptors[image.row] for image in kept]), image_shape, members, lambda: on_progress(files) if on_progress else None)
    if found.alike:
        return kept, found.cluster, {"near": 0, "clusters": 0, "near_pairs": [], "rule": RULE_ALIKE}, []
    across = members[found.pairs["a"]] != members[found.pairs["b"]]
    other = {}
    for pair in found.pairs[across]:  # strongest first
        a, b = int(pair["a"]), int(pair["b"])
        other.setdefault(a, (b, pair))
        other.setdefault(b, (a, pair))
    _require_few_near(kept, other, sides)
    for i, (j, _) in sorted(other.items()):
        sides[kept[i].side].leave_out(kept[i].path, NEAR_REASON, image_id=kept[i].image_id, of=kept[j].path)
    gone = np.zeros(len(kept), bool)
    gone[list(other)] = True
    shown = across | ~(gone[found.pairs["a"]] | gone[found.pairs["b"]])
    order = np.flatnonzero(shown)[np.argsort(~across[shown], kind="stable")][:PAIRS_KEPT]  # those left out before those that stay
    pairs = [_near_pair(found.pairs[k], kept, bool(across[k])) for k in sorted(order)]
    clusters = renumbered(found.cluster[~gone])
    near = {"near": len(other), "clusters": int(np.count_nonzero(np.bincount(clusters) > 1)), "near_pairs": pairs, "rule": RULE}
    pictured = {name for pair in pairs if pair["left_out"] for name in (pair["a"], pair["b"])}
    return [kept[i] for i in np.flatnonzero(~gone)], clusters, near, [kept[i] for i in sorted(other) if kept[i].image_id in pictured]


def _near_pair(pair, kept, left_out):
    """One of "near_pairs"."""
    a, b = kept[pair["a"]], kept[pair["b"]]
    ends = {"a": a.image_id, "a_path": a.path, "a_set": a.side, "b": b.image_id, "b_path": b.path, "b_set": b.side}
    return ends | {"how": str(pair["how"]), "correlation": float(pair["correlation"]), "left_out": left_out}


def _require_few_near(kept, other, sides):
    """Raise ImageSetError when too large a part of a set has copies in the other. Args: other: {index in kept: (index of its near duplicate, PAIR)}."""
    ids = {name: {image.image_id for image in side.read} for name, side in sides.items()}
    shared = len(ids["members"] & ids["nonmembers"])
    near = Counter(kept[i].side for i in other)
    if not other or all(near[name] + shared <= LARGEST_SHARED * len(ids[name]) for name in SETS):
        return
    i, (j, pair) = next(iter(other.items()))
    how = {"same": "nearly the same", "mirrored": "mirrored"}.get(str(pair["how"]), f"{pair['how']} degrees")
    count = max(near.values())
    what = f"{count:,} file{' has a near duplicate' if count == 1 else 's have near duplicates'} in the other folder (first: {kept[i].path} and {kept[j].path}, {how})"
    raise ImageSetError(f"{what}. An image cannot be member and non-member: remove {'it' if count == 1 else 'them'} from one side.")


def _require_enough(counts, sides, given):
    """Raise ImageSetError for a set of fewer than 10 pictures."""
    for name, count in counts.items():
        if count < LEAST_PER_SIDE:
            what = f"{count} usable image{'' if count == 1 else 's'} in {sides[name].files} files"
            raise ImageSetError(f"{Path(given[name]).name} ({WORDS[name]}) holds {what}. Expected at least {LEAST_PER_SIDE} a side: add images.")


def _copy_rows(source, target, rows, shape):
    """Write some rows of the scratch file as an .npy of uint8 (N,*shape), without a memory map: its pages would count as this process's memory.

    Args: rows: increasing ints.
    """
    size, tmp, rows = int(np.prod(shape)), target.with_name(target.name + ".tmp"), np.asarray(rows)
    step = max(1, COPY_BYTES // size)
    with open(source, "rb") as scratch, open(tmp, "wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *shape)})
        for first in range(0, int(rows[-1]) + 1, step):
            block = np.frombuffer(scratch.read(step * size), np.uint8).reshape(-1, size)
            wanted = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + step)]
            out.write(block[wanted - first].tobytes())
        out.flush()
        os.fsync(out.fileno())
    os.replace(tmp, target)


def _write_near(scratch, target, images, shape):
    """near.npz of some rows of the scratch file, made small one by one; none, and no file of an earlier attempt, without images."""
    target.unlink(missing_ok=True)
    if not images:
        return
    small, size = [], int(np.prod(shape))
    with open(scratch, "rb") as handle:
        for image in images:
            handle.seek(image.row * size)
            picture = np.asarray(_thumbnail(np.frombuffer(handle.read(size), np.uint8).reshape(shape)))
            small.append(picture.reshape(*picture.shape[:2], shape[-1]))
    _write_npz(target, image_id=np.array([image.image_id for image in images]), pixels=np.stack(small))


def _write_npz(target, **arrays):
    """An .npz, whole or not at all."""
    tmp = target.with_name(target.name + ".tmp")
    with open(tmp, "wb") as handle:
        np.savez_compressed(handle, **arrays)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(tmp, target)


def write_thumbnails(folder):
    """thumbnails/<image_id>.png of every query image, at most 128 pixels a side; files that are there already stay.

    Pictures of near duplicates that were left out (at most 100 pairs) go to thumbnails/near/<image_id>.png.
    """
    queries = QuerySet.load(folder)
    target = Path(folder) / "thumbnails"
    target.mkdir(exist_ok=True)
    for image, pixels in zip(queries.images, queries.pixels, strict=True):
        _save_thumbnail(target, image["image_id"], pixels)
    kept = Path(folder) / "near.npz"
    if kept.exists():
        (target / "near").mkdir(exist_ok=True)
        with np.load(kept, allow_pickle=False) as near:
            for name, pixels in zip(near["image_id"], near["pixels"], strict=True):
                _save_thumbnail(target / "near", str(name), pixels)


def _thumbnail(pixels):
    """uint8 (H,W,C) -> PIL image of at most 128 pixels a side."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
    return picture


def _save_thumbnail(target, name, pixels):
    """target/<name>.png, unless it is there."""
    file = target / f"{name}.png"
    if not file.exists():
        tmp = file.with_suffix(".tmp")
        _thumbnail(pixels).save(tmp, format="PNG")
        os.replace(tmp, file)

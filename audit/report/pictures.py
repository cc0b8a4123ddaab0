"""The pictures of a run and where each stands: thumbnails, blur, ranks, neighbours. NumPy and PIL, no Streamlit.

A picture, its score and its losses are joined by image id, never by a position in a list. `blurred` makes new bytes: a page that shows them never
holds the sharp ones.
"""

import base64
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from audit import demo
from audit.report import series

IMAGE_ID = re.compile(r"[0-9a-f]{16}")
MAX_BYTES, MAX_SIDE = 1_000_000, 512  # thumbnails are written with at most 128 pixels a side; a folder may have been put there by hand
BLOCKS = 4  # a blurred picture is 4 x 4 means, whatever its size
SHOWN_SIDE = 64  # px of a blurred picture
DESCRIBED_SIDE = 16
COMPARED = 5000  # images among which a neighbour is looked for: a few seconds of decoding
SURROGATE = "surrogate.png"  # in the run folder
PAIRS = 100
PAIR_NUMBERS = ("distance", "around", "relative")


# --- pictures -----------------------------------------------------------------------------------------------------------------------------------


def thumbnail(run, image_id):
    """The stored PNG of one image as bytes, or None where there is none that can be shown.

    Args: image_id: 16 hex digits, anything else is no picture. Images that were left out as near duplicates lie in thumbnails/near.
    """
    if not IMAGE_ID.fullmatch(str(image_id)):
        return None
    for folder in ("thumbnails", "thumbnails/near"):
        try:
            file = run.folder / folder / f"{image_id}.png"
            data = file.read_bytes() if file.stat().st_size <= MAX_BYTES else b""
        except OSError:
            continue
        if _opened(data) is not None:
            return data
    return None


def blurred(png):
    """A picture of 4 x 4 block means: new PNG bytes that hold nothing else of it.

    value of a block = mean of the pixels that it covers, per channel        (pixels on a border count by their share)

    Args: png: bytes of a thumbnail. Returns: bytes, or None where the picture is damaged.
    """
    image = _opened(png)
    if image is None:
        return None
    try:
        means = image.convert("L" if image.mode in ("1", "L") else "RGB").resize((BLOCKS, BLOCKS), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError):
        return None
    scale = SHOWN_SIDE / max(image.size)
    shown = means.resize(tuple(max(BLOCKS, round(side * scale)) for side in image.size), Image.Resampling.NEAREST)
    out = io.BytesIO()
    shown.save(out, "PNG")
    return out.getvalue()


def _opened(data):
    """The PIL image of PNG bytes with a believable size, not decoded yet; else None."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return image if max(image.size) <= MAX_SIDE else None


def shown(run, image_id, blur):
    """`data:` address of a picture as a page may send it, or None. Inside the page itself: no address of its own outlives the visit."""
    return _address(thumbnail(run, image_id), blur)


def _address(png, blur):
    if png is not None and blur:
        png = blurred(png)
    return None if png is None else f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def samples(run):
    """What pool/samples.json of a run says: {"shown": [int], "pairs": [dict]}, as audit.pool.evidence writes it; None where it is missing or damaged."""

    def make():
        try:
            found = json.loads((run.folder / "pool" / "samples.json").read_text(encoding="utf-8"))
            pairs = [
                {"image_id": str(p["image_id"]), "is_member": bool(p["is_member"]), "sample": int(p["sample"])} | {name: float(p[name]) for name in PAIR_NUMBERS}
                for p in found["pairs"]
            ]
            return {"shown": [int(index) for index in found["shown"]], "pairs": pairs}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    return series.cached(run, "samples", make)


def sample_shown(run, index, blur):
    """`data:` address of one sample of the pool, or None. Args: index: int in the pool."""
    try:
        file = run.folder / "pool" / f"{int(index):08d}.png"
        data = file.read_bytes() if file.stat().st_size <= MAX_BYTES else b""
    except OSError:
        return None
    return _address(data if _opened(data) is not None else None, blur)


def surrogate_shown(run, blur):
    """`data:` address of the pictures that the surrogate of a run draws itself, one sheet, or None."""
    try:
        file = run.folder / SURROGATE
        data = file.read_bytes() if file.stat().st_size <= MAX_BYTES else b""
    except OSError:
        return None
    return _address(data if _opened(data) is not None else None, blur)


def is_bundled(run):
    """True where both sets are the bundled demo's own files: the only pictures that are shown sharp without being asked."""
    return all(run.request.get(name) == str(demo.FOLDER / f"{name}.zip") for name in ("members", "nonmembers"))


# --- where each stands --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranks:
    """Where each of the N images stands for one attack, among the held-out ones; arrays (N,).

    rank: 1 = highest score of all held-out images, 0 = not held out; above: non-members with a lower score; of: other held-out non-members;
    order: positions of the held-out images, highest score first (equal scores by image id).
    """

    rank: np.ndarray
    above: np.ndarray
    of: np.ndarray
    order: np.ndarray

    def share(self, position):
        """Share of the other held-out non-members that score below, 0..1; None where the image is not held out."""
        return None if self.rank[position] == 0 else float(self.above[position] / max(1, self.of[position]))


def ranks(run, attack):
    """Ranks of one attack, computed once per open run.

    above_i = #{held-out non-members j != i with score_j < score_i}: a tie is not above.
    """

    def make():
        held_out, is_member, scores = run.evaluation, run.is_member, run.scores_of(attack)
        inside = np.flatnonzero(held_out)
        order = inside[np.lexsort((run.image_ids[inside], -scores[inside]))]
        rank, above, of = (np.zeros(len(is_member), np.int64) for _ in range(3))
        rank[order] = np.arange(1, len(order) + 1)
        outsiders = np.sort(scores[held_out & ~is_member])
        above[inside] = np.searchsorted(outsiders, scores[inside], "left")
        of[inside] = len(outsiders) - ~is_member[inside]
        return Ranks(rank, above, of, order)

    return series.cached(run, ("ranks", attack), make)


def listed(run, attack, who="All", find=""):
    """Positions to show, the highest score first: held-out images, and with `find` also those that chose the settings (after the others, by name).

    Args: who: Members, Non-members or All; find: part of a file name or of an image id, upper and lower case alike.
    Returns: int64 (n,).
    """
    order = ranks(run, attack).order
    find = find.strip().casefold()
    if find:
        rest = np.flatnonzero(~run.evaluation)
        order = np.concatenate([order, rest[np.argsort(run.paths[rest], kind="stable")]])
        hit = [find in str(run.paths[p]).casefold() or find in str(run.image_ids[p]) for p in order]
        order = order[np.array(hit, dtype=bool)]
    if who == "All":
        return order
    return order[run.is_member[order] == (who == "Members")]


def position_of(run, image_id):
    """Position of the image with this id among the N, or None; the first 8 digits do where no other image has them."""
    where = series.cached(run, "positions", lambda: {str(i): p for p, i in enumerate(run.image_ids)})
    if image_id in where:
        return where[image_id]
    found = [p for i, p in where.items() if len(image_id) >= 8 and i.startswith(image_id)]
    return found[0] if len(found) == 1 else None


# --- neighbours ---------------------------------------------------------------------------------------------------------------------------------


def nearest(run, position):
    """(position, correlation) of the most similar other query image, or None: too many to compare, or no picture.

    correlation = cosine of the two thumbnails as 16 x 16 grey values, each with its mean taken out; 1 = the same picture up to contrast.
    """
    if len(run.image_ids) > COMPARED:
        return None
    described = series.cached(run, "described", lambda: np.stack([_described(thumbnail(run, i)) for i in run.image_ids]))
    mine = described[position]
    if not mine.any():
        return None
    alike = described @ mine
    alike[position] = -np.inf
    best = int(np.argmax(alike))
    return (best, float(min(alike[best], 1.0))) if described[best].any() else None


def _described(png):
    """float32 (256,) of unit length, zeros where there is no picture or a flat one."""
    image = None if png is None else _opened(png)
    try:
        values = np.zeros(DESCRIBED_SIDE**2) if image is None else np.asarray(image.convert("L").resize((DESCRIBED_SIDE,) * 2, Image.Resampling.BOX), dtype=np.float64).ravel()
    except (OSError, SyntaxError, ValueError):
        values = np.zeros(DESCRIBED_SIDE**2)
    values = values - values.mean()
    length = np.linalg.norm(values)
    return (values / length if length > 0 else values).astype(np.float32)


def near_pairs(run):
    """At most 100 pairs of near duplicates that preparing the images found; [] where none were, or the run is older.

    Returns: list of dicts {a, b: image id or name, a_name, b_name: file name where it is known, a_set, b_set: "members" | "nonmembers", how, correlation,
        left_out: bool}, the strongest first as in queries.json.
    """

    def make():
        try:
            queries = json.loads((Path(run.folder) / "queries.json").read_text(encoding="utf-8"))
            pairs, lost = queries["duplicates"].get("near_pairs") or [], queries.get("left_out") or []
            names = {entry["image_id"]: entry["path"] for entry in lost if entry.get("image_id")} | {str(i): str(p) for i, p in zip(run.image_ids, run.paths, strict=True)}
            return [_pair(pair, names) for pair in pairs[:PAIRS]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # an older run, or a folder that was put there by hand
            return []

    return series.cached(run, "near_pairs", make)


def _pair(pair, names):
    out = {end: str(pair[end]) for end in ("a", "b", "a_set", "b_set", "how")} | {"correlation": float(pair["correlation"]), "left_out": bool(pair["left_out"])}
    return out | {f"{end}_name": str(pair.get(f"{end}_path") or names.get(out[end], out[end])) for end in ("a", "b")}

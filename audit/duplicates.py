"""Near duplicates among query images: the same picture re-encoded, a little brighter, cropped by a hair, mirrored or turned.

Every image becomes a small descriptor (16 x 16 grey, mean removed; 4 x 4 colour differences beside it). Two images are near duplicates when their descriptors are
far closer to each other than to the rest of the source: 1 - correlation at most a fifth of the distance to the 10th nearest image of *both*, and never more than
0.02. A fixed threshold cannot do this: trousers of Fashion-MNIST lie closer to each other (0.005) than a shirt to its own 1 % crop (0.007).

The search is exact: all pairs, in blocks of matrix products, nothing hashed. tests/engine/test_duplicates.py holds the measured rates: of ordinary pictures of one source
(the demo's 900, Fashion-MNIST's first 2,000) under 1 % have a false near duplicate; JPEG of quality 75, brightness ± 12 levels, 1 % cut off each side, mirrored and turned copies
are found in at least 97 %, 2 % cut off each side in half (28 x 28) to nearly all (16 x 16).

Not found: copies moved by a pixel or more at 16 x 16, flat pictures (grey sd below 2 levels), and copies with 10 or more others just as close, such as frames of one clip,
unless they agree to 0.003.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE, COLOUR_SIDE = 16, 4
FLAT = 2.0  # grey levels; below it a descriptor would be rounding noise
NEIGHBOUR = 10  # whose distance says how dense the source is around an image: groups of up to 10 copies do not hide each other
SHARE = 0.2  # of that distance. Measured at 0.2 to 0.4: false near duplicates rise from 0.8 to 6 % of ordinary images, 1 % crops are found in 97 % already
SURE, LARGEST = 0.003, 0.02  # 1 - correlation that is always, and that is never exceeded
ALIKE_SHARE, ALIKE_PAIRS, ALIKE_EXCESS = 0.05, 20, 1.5
KEEP = 16  # nearest neighbours remembered per image, set and turn: a set of near-identical frames must not fill the memory
BLOCK_VALUES = 2_000_000  # distances held at once: 8 MB
TURNS = ("same", "mirrored", "rotated 90", "rotated 180", "rotated 270")
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
PAIR = np.dtype([("a", np.int64), ("b", np.int64), ("how", "U11"), ("correlation", np.float64)])


@dataclass(frozen=True)
class Near:
    """What was found.

    Attributes:
        cluster: int64 (N,), near duplicates inside one set share a number, also through a third image; numbers count from 0 in order of first appearance.
        pairs: structured (P,), fields a, b (row numbers, a < b), how (`a` mirrored, or turned anticlockwise by that angle, gives `b`), correlation in -1..1; strongest first.
            At most the 16 nearest neighbours of an image in each set.
        alike: nothing can be said: the pictures of this source resemble each other turned as often as upright. Then every image stands alone and pairs is empty.
    """

    cluster: np.ndarray
    pairs: np.ndarray
    alike: bool = False


def near_duplicates(pixels, is_member=None):
    """Near duplicates of images that lie in memory or in a memory map: `describe`, then `search`.

    Args: pixels: uint8 (N,H,W,C), C is 1 or 3; is_member: bool (N,), or None when all are one set.
    Returns: Near.
    """
    if not len(pixels):
        return search(np.zeros((0, SIDE * SIDE), np.float32), (1, SIDE, SIDE))
    height, width, channels = pixels.shape[1:]
    return search(np.stack([describe(image) for image in pixels]), (channels, height, width), is_member)


def describe(pixels):
    """The descriptor of one image, so that images need not be in memory together.

    s x s area averages of grey (s = 16, or the image's smaller side), then for colour 4 x 4 averages of R - G and B - G, each plane without its mean; length 1.

    Args: pixels: uint8 (H,W,C), C is 1 or 3.
    Returns: float32 (D,), Euclidean length 1; zeros for a flat picture.
    """
    image = pixels.astype(np.float32)
    side, small = _sides(image.shape)
    grey = _reduced(image[..., 0] if image.shape[-1] == 1 else image @ GREY, side)
    if grey.std() < FLAT:
        return np.zeros(side * side + (2 * small * small if image.shape[-1] == 3 else 0), np.float32)
    planes = [grey]
    if image.shape[-1] == 3:
        planes += [_reduced(image[..., k] - image[..., 1], small) * np.float32(side / small) for k in (0, 2)]  # a 4 x 4 cell stands for 16 of 16 x 16
    flat = np.concatenate([(plane - plane.mean()).ravel() for plane in planes])
    return (flat / np.linalg.norm(flat)).astype(np.float32)


def _sides(shape):
    side = min(SIDE, *shape[:2])
    return side, min(COLOUR_SIDE, side)


def _reduced(plane, side):
    """float32 (H,W) -> (side,side) averages over equal areas."""
    height, width = plane.shape
    return _areas(height, side) @ plane @ _areas(width, side).T


@lru_cache(maxsize=16)
def _areas(length, side):
    """(side, length) weights: row k averages the pixels, or parts of pixels, between k and k+1 times length/side.

    Pillow's box filter takes whole pixels and rounds one way: of 28 x 28 pictures it found half of the mirrored copies.
    """
    edges = np.arange(side + 1) * (length / side)
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.maximum(overlap, 0) * (side / length)).astype(np.float32)


def _turned_indices(image_shape):
    """{turn: (D,) indices}: descriptor[indices] is the descriptor of the turned image."""
    channels, *size = image_shape
    side, small = _sides(size)
    planes, first = [], 0
    for s in [side] + ([small, small] if channels == 3 else []):
        planes.append(np.arange(first, first + s * s).reshape(s, s))
        first += s * s
    moves = {"mirrored": np.fliplr, "rotated 90": np.rot90, "rotated 180": lambda plane: np.rot90(plane, 2)}
    return {name: np.concatenate([move(plane).ravel() for plane in planes]) for name, move in moves.items()}


def search(descriptors, image_shape, is_member=None, on_block=None):
    """All near duplicates among descriptors.

    d = 1 - correlation, also of `a` mirrored or turned by 90, 180, 270 degrees;  limit_i = clip(0.2 · d of i's 10th nearest image, 0.003, 0.02);
    near duplicates: d(i,j) <= limit_i and d(i,j) <= limit_j.  2.5 products of all pairs; memory: the descriptors and some 30 MB.

    Args:
        descriptors: float32 (N,D) from `describe`; image_shape: (C,H,W) they were made from; is_member: bool (N,), or None when all are one set.
        on_block(): called between blocks, may raise to stop.
    Returns: Near.
    """
    count = len(descriptors)
    members = np.ones(count, bool) if is_member is None else np.asarray(is_member, bool)
    sides = [np.flatnonzero(members == side) for side in (True, False)]
    on_block = on_block or (lambda: None)
    limit = np.full(count, SURE, np.float32)
    found = [_same(descriptors, limit, sides, on_block)]
    for name, indices in _turned_indices(image_shape).items():
        found.append(_turned(descriptors, indices, name, limit, sides, on_block))
    pairs = _unique(np.concatenate(found))
    if _alike(pairs, count):
        return Near(np.arange(count), pairs[:0], alike=True)
    inside = pairs[members[pairs["a"]] == members[pairs["b"]]]
    graph = coo_array((np.ones(len(inside), np.int8), (inside["a"], inside["b"])), shape=(count, count))
    return Near(renumbered(connected_components(graph, directed=False)[1]), pairs)


def _alike(pairs, count):
    """Whether likeness is in the nature of the pictures, soft blobs or plain shapes: real copies share one turn, chance spreads over all five.

    More than 5 % of the images are in a pair, of at least 20 pairs, and no turn has 1.5 times its fifth of them.
    """
    if len(pairs) < ALIKE_PAIRS or len(np.union1d(pairs["a"], pairs["b"])) <= ALIKE_SHARE * count:
        return False
    return max(np.count_nonzero(pairs["how"] == turn) for turn in TURNS) <= ALIKE_EXCESS * len(pairs) / len(TURNS)


def renumbered(labels):
    """The same grouping with numbers from 0 in order of first appearance; (N,) -> int64 (N,)."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _blocks(count):
    step = max(1, BLOCK_VALUES // max(1, count))
    return ((start, min(start + step, count)) for start in range(0, count, step))


def _same(descriptors, limit, sides, on_block):
    """Pairs that need no turn; fills `limit` on the way."""
    found, count = [np.empty(0, PAIR)], len(descriptors)
    neighbour = min(NEIGHBOUR, count - 2)
    for start, end in _blocks(count):
        distance = 1 - descriptors[start:end] @ descriptors.T
        distance[np.arange(end - start), np.arange(start, end)] = np.inf
        if neighbour > 0:
            limit[start:end] = np.clip(SHARE * np.partition(distance, neighbour - 1, axis=1)[:, neighbour - 1], SURE, LARGEST)
        found.append(_pairs(distance, start, 0, limit[start:end, None], sides, "same"))
        on_block()
    pairs = np.concatenate(found)
    return pairs[1 - pairs["correlation"] <= limit[pairs["b"]]]


def _turned(descriptors, indices, name, limit, sides, on_block):
    """Pairs of which one image is turned. A mirror or half turn of `a` against `b` is that of `b` against `a`: half of the pairs are enough."""
    found, count = [np.empty(0, PAIR)], len(descriptors)
    for start, end in _blocks(count):
        first = 0 if name == "rotated 90" else start
        distance = 1 - descriptors[start:end][:, indices] @ descriptors[first:].T
        distance[np.arange(end - start), np.arange(start - first, end - first)] = np.inf
        found.append(_pairs(distance, start, first, np.minimum(limit[start:end, None], limit[None, first:]), sides, name))
        on_block()
    return np.concatenate(found)


def _pairs(distance, start, first, limit, sides, how):
    """The entries of one block within the limit, as PAIR with a = start + row, b = first + column: at most KEEP a row and set."""
    near = distance <= limit
    if np.count_nonzero(near) > KEEP * len(near):
        trimmed = np.zeros_like(near)
        for side in sides:
            columns = side[side >= first] - first
            nearest = columns[np.argpartition(distance[:, columns], min(KEEP, len(columns)) - 1, axis=1)[:, :KEEP]] if len(columns) else columns[None]
            np.put_along_axis(trimmed, nearest, True, axis=1)
        near &= trimmed
    rows, columns = np.nonzero(near)
    out = np.empty(len(rows), PAIR)
    out["a"], out["b"], out["how"], out["correlation"] = start + rows, first + columns, how, 1 - distance[rows, columns]
    return out


def _unique(pairs):
    """Each pair once, a < b, with its strongest turn; strongest first."""
    swapped = pairs["a"] > pairs["b"]
    quarter = swapped & (pairs["how"] == "rotated 90")  # `b` turned by 90 gives `a`
    pairs["a"][swapped], pairs["b"][swapped] = pairs["b"][swapped], pairs["a"][swapped]
    pairs["how"][quarter] = "rotated 270"
    rank = np.array([TURNS.index(how) for how in pairs["how"]], dtype=np.int64)
    pairs = pairs[np.lexsort((rank, -pairs["correlation"], pairs["b"], pairs["a"]))]
    once = pairs[np.concatenate(([True], (pairs["a"][1:] != pairs["a"][:-1]) | (pairs["b"][1:] != pairs["b"][:-1])))] if len(pairs) else pairs
    return once[np.lexsort((once["b"], once["a"], -once["correlation"]))]

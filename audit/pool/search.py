"""Exact nearest neighbours of many pictures among many, in blocks: one matrix product per block finds candidates, and the candidates' distances are computed anew.

|x - g|^2 = |x|^2 + |g|^2 - 2 x.g loses all digits in float32 where x and g are nearly the same picture, the very case that matters. So a block keeps a few more
candidates than asked for, their differences are taken pixel by pixel and summed in float64, and a row whose last candidate could still hide a nearer one is
compared with everything.
"""

from dataclasses import dataclass

import numpy as np
import torch

BLOCK_BYTES = 64 * 2**20  # of one block of pictures as float32, and of one block of products
CHECK_BYTES = 2 * 2**20  # of pairs whose differences are taken at once: they stay in the processor's cache
SPARE = 8  # candidates beyond those asked for
ROUNDING = 2.0**-21  # eight float32 roundings: what a sum of D rounded terms is off by grows as sqrt(D)


@dataclass(frozen=True)
class Found:
    """distance: float64 (n,k), smallest first, inf where there are fewer than k; index: int64 (n,k), -1 there."""

    distance: np.ndarray
    index: np.ndarray


def nearest(queries, pool, k, device="cpu", transform=None, skip=None, should_stop=None):
    """The k nearest pictures of a pool for each query, by the Euclidean distance over all pixels on the scale [-1, 1].

    Args:
        queries: uint8 (n,H,W,C); pool: uint8 (P,H,W,C), array or memory map; or both float32 (n,D) and (P,D), vectors as they are; k: at least 1.
        device: torch device of the products; transform(x): (B,C,H,W) float32 -> the same shape, applied to both sides before the distance (low-pass), or None.
        skip: function (first, last) -> bool (n, last - first), pairs that do not count, or None.
        should_stop(): asked before every block.
    Returns: Found. Ties go to the smaller index.
    Raises: audit.engine.Stopped.
    Memory: a few blocks of BLOCK_BYTES, whatever P is; queries are held whole.
    """
    x, size = _vectors(queries, transform), int(np.prod(queries.shape[1:]))
    centre = x.mean(dim=0, dtype=torch.float64).float()  # distances stay, norms and with them the rounding shrink
    x_device = (x - centre).to(device)
    norm = _squares(x_device)
    wanted, rows = min(k + SPARE, len(pool)), max(1, min(BLOCK_BYTES // (4 * size), BLOCK_BYTES // (4 * max(1, len(x)))))
    best = torch.full((len(x), wanted), torch.inf, device=device, dtype=torch.float32)
    at = torch.full((len(x), wanted), -1, device=device, dtype=torch.int64)
    largest = 0.0
    for first in range(0, len(pool), rows):
        _stop(should_stop)
        last = min(first + rows, len(pool))
        g = (_vectors(pool[first:last], transform) - centre).to(device)
        squares = _squares(g)
        largest = max(largest, float(squares.max()))
        products = torch.addmm(squares.float(), x_device, g.T, alpha=-2)  # |x|^2 is the same for all of a row
        if skip is not None:
            products.masked_fill_(torch.as_tensor(skip(first, last), device=device), torch.inf)
        near, where = products.topk(min(wanted, last - first), dim=1, largest=False)
        best, order = torch.cat([best, near], dim=1).topk(wanted, dim=1, largest=False)
        at = torch.cat([at, where + first], dim=1).gather(1, order)
    bound = (best[:, -1].double() + norm).cpu().numpy() - ROUNDING * np.sqrt(size) * (norm.cpu().numpy() + largest)
    return _checked(x, pool, k, at.cpu().numpy(), np.isfinite(best.cpu().numpy()), bound, wanted < len(pool), transform, skip, should_stop)


def _checked(x, pool, k, at, there, bound, more, transform, skip, should_stop):
    """Found, from candidates whose distances are computed anew; rows that the candidates do not settle are compared with every picture."""
    distance = np.full((len(x), max(k, at.shape[1])), np.inf)
    index = np.full(distance.shape, -1, dtype=np.int64)
    step = max(1, CHECK_BYTES // (4 * x.shape[1]))
    row, column = np.nonzero(there)
    for first in range(0, len(row), step):
        _stop(should_stop)
        part = slice(first, first + step)
        taken = at[row[part], column[part]]
        distance[row[part], column[part]] = _squares(_vectors(pool[taken], transform).sub_(x[torch.as_tensor(row[part])])).numpy()
        index[row[part], column[part]] = taken
    order = np.lexsort((index, distance), axis=1)
    distance, index = np.take_along_axis(distance, order, 1)[:, :k], np.take_along_axis(index, order, 1)[:, :k]
    unsure = np.flatnonzero(distance[:, -1] > bound) if more else ()
    for i in unsure:
        _stop(should_stop)
        distance[i], index[i] = _against_all(x[i], pool, k, transform, None if skip is None else lambda a, b, i=i: skip(a, b)[i])
    return Found(np.sqrt(distance), np.where(np.isfinite(distance), index, -1))


def _against_all(x, pool, k, transform, skip):
    """(squared distances, indices), each (k,), of one picture against the whole pool, directly."""
    found, step = [], max(1, BLOCK_BYTES // (8 * len(x)))
    for first in range(0, len(pool), step):
        g = _vectors(pool[first : first + step], transform)
        squares = _squares(g.sub_(x)).numpy()
        if skip is not None:
            squares[skip(first, first + len(g))] = np.inf
        found.append(squares)
    squares = np.concatenate(found)
    order = np.argsort(squares, kind="stable")[:k]
    return squares[order], order


def _squares(x):
    """|x|^2 of each row, summed in float64; (B,) float64."""
    return torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square()


def _vectors(pictures, transform):
    """float32 (B,D) on the CPU, pixels k as k / 127.5 - 1; a copy of what are vectors already."""
    from models.pixels import to_model_range

    if pictures.dtype == np.float32:
        return torch.from_numpy(np.array(pictures))
    x = torch.from_numpy(to_model_range(np.asarray(pictures)))
    return (x if transform is None else transform(x)).flatten(1)


def _stop(should_stop):
    from audit.engine import Stopped

    if should_stop is not None and should_stop():
        raise Stopped

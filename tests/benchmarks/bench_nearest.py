"""The search for nearest samples against the blocked matrix product that it cannot do without.

    python tests/benchmarks/bench_nearest.py [QUERIES] [SAMPLES] [SIDE] [DEVICE]

Both go through the same random pictures (2,000 and 20,000 of 32 x 32 x 3 unless told) in the same blocks; the bare product does nothing with its result. Seven turns,
interleaved, and a single one of a search that takes minutes; prints the ratio product / search, its quartiles, both in ms, and the search's extra memory. Exits with 1
below the target of 0.5, or when 64 of the queries disagree with brute force.
"""

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from audit.engine import arithmetic
from audit.pool import search
from audit.pool.nearest import NEIGHBOURS
from models.pixels import to_model_range

TARGET, TURNS = 0.5, 7
LARGE = 1e9  # pairs: minutes for one turn


def pictures(count, side, seed):
    """uint8 (count,side,side,3): smooth ones, near each other as pictures are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)


def bare_product(queries, pool, device):
    """Seconds of the products alone, in the search's own blocks; reading the pictures as floats belongs to both."""
    begun = time.perf_counter()
    x, size = search._vectors(queries, None).to(device), int(np.prod(queries.shape[1:]))
    rows = max(1, min(search.BLOCK_BYTES // (4 * size), search.BLOCK_BYTES // (4 * len(queries))))
    for first in range(0, len(pool), rows):
        product = x @ search._vectors(pool[first : first + rows], None).to(device).T
    float(product[0, 0])  # waits for the device
    return time.perf_counter() - begun


def whole_search(queries, pool, device):
    """(seconds, Found) of the search."""
    begun = time.perf_counter()
    found = search.nearest(queries, pool, NEIGHBOURS + 1, device)
    return time.perf_counter() - begun, found


def agrees(queries, pool, found):
    """True where the nearest distances of the first 64 queries are those of brute force in float64."""
    g = to_model_range(pool).reshape(len(pool), -1).astype(np.float64)
    for row, x in enumerate(to_model_range(queries[:64]).reshape(64, -1).astype(np.float64)):
        if not np.isclose(np.sqrt(((g - x) ** 2).sum(axis=1).min()), found.distance[row, 0], rtol=1e-6):
            return False
    return True


def main(queries=2_000, samples=20_000, side=32, device="cpu"):
    """Print the comparison; returns the exit code."""
    x, g = pictures(queries, side, 0), pictures(samples, side, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with arithmetic("fp32", torch.device(device)):
        first = bare_product(x, g, device)
        took, found = whole_search(x, g, device)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        turns = [(first, took)] if queries * samples > LARGE else [(bare_product(x, g, device), whole_search(x, g, device)[0]) for _ in range(TURNS)]
    ratios = np.sort([bare / whole for bare, whole in turns])
    bare, whole = 1000 * np.median(turns, axis=0)
    exact = agrees(x, g, found)
    print(f"{queries:,} queries, {samples:,} samples of {side} x {side} x 3 on {device}: product {bare:.0f} ms, search {whole:.0f} ms")
    print(f"ratio {np.median(ratios):.3f} (quartiles {ratios[len(turns) // 4]:.3f} to {ratios[-1 - len(turns) // 4]:.3f}), target {TARGET}")
    print(f"memory grew by {grown:.0f} MB; equal to brute force: {exact}")
    return 0 if exact and np.median(ratios) >= TARGET else 1


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(*(int(part) for part in given[:3]), *given[3:]))

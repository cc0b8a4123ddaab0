"""The nearest measure: how close each query image comes to a pool of samples, and to the other query images."""

import numpy as np
import torch

from audit.pool.search import nearest

NEIGHBOURS = 20
SPACES = ("pixels", "lowpass")
REFERENCES = {f"references_{space}": NEIGHBOURS for space in SPACES}  # (N,20) distances to the nearest images of a reference set, as for the samples


class Nearest:
    """Tables, axis "feature", L2 over all pixels of pictures in [-1, 1]; where there are fewer to measure, the last one repeats.

    nearest_SPACE            (N,21)  distances to the 21 nearest samples, smallest first
    nearest_SPACE_mirrored   (N,21)  the same of the image and its mirror image together
    neighbours_SPACE         (N,20)  distances to the 20 nearest other query images; near duplicates, which share a cluster, do not count
    nearest_sample           (N,2)   index in the pool of the nearest sample, by pixels and by low-pass pixels; exact in float32 below 16 million

    SPACE is "pixels", or "lowpass": both sides after audit.probes.lowpass.
    Source: Chen et al. 2020 (GAN-Leaks, arXiv:1909.03935), full black-box attack; the other query images as in the extraction test of Carlini et al. 2023
    (arXiv:2301.13188), which divides by the distances among training images.
    """

    name = "nearest"
    VERSION = 1
    TABLES = {f"nearest_{space}{mirrored}": NEIGHBOURS + 1 for space in SPACES for mirrored in ("", "_mirrored")}
    TABLES |= {f"neighbours_{space}": NEIGHBOURS for space in SPACES} | {"nearest_sample": 2}

    def measure(self, queries, first, stop, clusters, pool, device, should_stop=None):
        """{table: float32 (1,n,K)} of query images first … stop-1.

        Args: queries: uint8 (N,H,W,C), all of them; clusters: int (N,); pool: audit.pool.Pool; device: torch device; should_stop(): asked between blocks.
        Raises: audit.engine.Stopped.
        """
        from audit.engine import arithmetic
        from audit.probes.lowpass import low_pass

        mine, made, which = np.asarray(queries[first:stop]), {}, []
        mirrored, samples = np.ascontiguousarray(mine[:, :, ::-1]), Rows(pool.images, pool.kept)
        with arithmetic("fp32", torch.device(device)):
            for space, transform in (("pixels", None), ("lowpass", low_pass)):
                found, both, others = looked_up(mine, mirrored, samples, queries, first, clusters, device, transform, should_stop)
                made |= {f"nearest_{space}": found.distance, f"nearest_{space}_mirrored": both, f"neighbours_{space}": others.distance}
                which.append(samples.rows[found.index[:, 0]])
        made["nearest_sample"] = np.stack(which, axis=1)
        return {name: filled(values).astype(np.float32)[None] for name, values in made.items()}


def to_references(mine, references, device, should_stop=None):
    """{table of REFERENCES: float32 (1,n,20)} of some query images, uint8 (n,H,W,C). Args: references: audit.pool.Pool of pictures that are no query images."""
    from audit.engine import arithmetic
    from audit.probes.lowpass import low_pass

    rows, made = Rows(references.images, references.kept), {}
    with arithmetic("fp32", torch.device(device)):
        for table, transform in zip(REFERENCES, (None, low_pass), strict=True):
            found = nearest(np.asarray(mine), rows, NEIGHBOURS, device, transform, None, should_stop)
            made[table] = filled(found.distance).astype(np.float32)[None]
    return made


def looked_up(mine, mirrored, samples, queries, first, clusters, device, transform, should_stop):
    """The three searches of one space.

    Args: mine, mirrored: query images from `first` on, and their mirror images; samples: Rows; queries: all query images; the rest: as for `measure` and
        audit.pool.search.nearest.
    Returns: (Found among the samples, float64 (n,21) distances of image and mirror image together, Found among the other query images).
    """
    own = clusters[first : first + len(mine), None]
    found = nearest(mine, samples, NEIGHBOURS + 1, device, transform, None, should_stop)
    mirror = nearest(mirrored, samples, NEIGHBOURS + 1, device, transform, None, should_stop)
    both = np.sort(np.concatenate([found.distance, mirror.distance], axis=1), axis=1)[:, : NEIGHBOURS + 1]
    return found, both, nearest(mine, queries, NEIGHBOURS, device, transform, lambda a, b: own == clusters[None, a:b], should_stop)


def filled(values):
    """(n,K) with the last finite value of a row in place of what is missing behind it; NaN where a row has none."""
    there = np.isfinite(values)
    last = np.maximum.accumulate(np.where(there, np.arange(values.shape[1]), 0), axis=1)
    filled = np.take_along_axis(values, last, axis=1)
    return np.where(np.isfinite(filled), filled, np.nan)


class Rows:
    """Some rows of a memory map, read when they are asked for."""

    def __init__(self, images, rows):
        self.images, self.rows = images, rows
        self.whole = len(rows) == len(images)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, wanted):
        return self.images[wanted] if self.whole else self.images[self.rows[wanted]]

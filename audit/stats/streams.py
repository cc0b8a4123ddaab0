"""Named random streams of one seed: adding an attack or a control never changes the split, the noise or another control."""

import hashlib

import numpy as np


def stream(seed, name):
    """The generator that belongs to (seed, name) and to nothing else.

    PCG64 seeded with SHA-256("SEED:NAME"), so streams of different names are independent and no global state is read or changed.

    Args: seed: whole number, the run's; name: what the numbers are for, such as "split" or "permutation".
    Returns: numpy.random.Generator, at its beginning.
    """
    digest = hashlib.sha256(f"{int(seed)}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))

"""What the samples of a drawn pool are asked for: the classes of the model in turn, or the captions of the query images in turn.

Captions come from both sets alike, so that a sample tells nothing by what it was asked for: each caption counts once, however many images have it, and goes into an
order by its hash in which every beginning holds the same share of the members' captions, of the non-members' and of those that both have. Exchanging the two sets
changes nothing. Sample i is asked for entry i modulo their number.
"""

import hashlib


def captions_in_turn(members, nonmembers, seed):
    """The captions of the query images in the order of the samples.

    Args: members, nonmembers: captions of the images of each set, str; seed: of the pool.
    Returns: tuple of str, each once.
    """
    first, second = set(members), set(nonmembers)
    placed = []
    for group in (first & second, first - second, second - first):
        shuffled = sorted((_hash(seed, caption), caption) for caption in group)
        placed += [((rank + 0.5) / len(shuffled), *entry) for rank, entry in enumerate(shuffled)]
    return tuple(caption for *_, caption in sorted(placed))


def told_of(values, first, stop):
    """What samples first … stop-1 are asked for, as a tuple; None where the model is asked with nothing. Args: values: in turn, or None."""
    return None if values is None else tuple(values[i % len(values)] for i in range(first, stop))


def digest(captions, count):
    """SHA-256 hex of the captions that a pool of so many samples is asked for, in their order."""
    return hashlib.sha256(repr(captions[:count]).encode("utf-8", "surrogatepass")).hexdigest()


def _hash(seed, caption):
    return hashlib.sha256(f"caption/{int(seed)}/{caption}".encode("utf-8", "surrogatepass")).hexdigest()

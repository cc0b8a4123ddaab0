"""The stratified split in two: settings are chosen on the calibration half, every headline number comes from the other one."""

import numpy as np

from audit.errors import ImageSetError
from audit.stats.scores import checked_members
from audit.stats.streams import stream


def half_split(is_member, seed, clusters=None, repeat=0):
    """Split each class in two at random, by one order of the images: calling members non-members changes nothing. (An audit
    with its two folders exchanged has its images in another order, and so other halves.)

    Without clusters each class gives its first floor(half) in that order to calibration. With clusters (near-duplicates, frames of one clip) a cluster is never
    torn: the largest are placed first, each where the two halves come out most even in both classes, a coin where that makes no difference.

    Args:
        is_member: (N,) bool.
        seed: the run's; stream "split", from the second repeat on "split 1", "split 2" …
        clusters: (N,) labels of any type, or None; images with the same label stay together, whatever their class.
        repeat: 0 for the audit's own split; cross-fitting needs more.
    Returns: bool (N,), True = calibration, False = evaluation.
    Raises: ImageSetError: one class only, or clusters of another length.
    Source: research on the audit's statistics, half split from 400 images a side.
    """
    members = checked_members(is_member)
    rng, total = stream(seed, f"split {repeat}" if repeat else "split"), len(members)
    sides = (members, ~members)
    calibration = np.zeros(total, bool)
    if clusters is None:
        order = rng.permutation(total)
        for side in sides:
            images = order[side[order]]
            calibration[images[: len(images) // 2]] = True
        return calibration
    cluster = cluster_index(clusters, total)
    counts = np.stack([np.bincount(cluster[side], minlength=cluster.max() + 1) for side in sides], axis=1)
    shuffled = rng.permutation(len(counts))
    coins = rng.random(len(counts)) < 0.5
    lead = np.zeros(2)  # calibration minus evaluation, per class
    chosen = np.zeros(len(counts), bool)
    for i in shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]:
        gain = float(lead @ counts[i])  # |lead + c|² - |lead - c|² = 4 lead·c: positive means calibration would grow more uneven
        chosen[i] = coins[i] if gain == 0 else gain < 0
        lead += counts[i] if chosen[i] else -counts[i]
    return chosen[cluster]


def cluster_index(clusters, total):
    """(N,) int: clusters numbered 0, 1, … in the order of their first image, so that images that stand alone keep their own positions.

    Args: clusters: (N,) labels of any type; total: N.
    Raises: ImageSetError: another length.
    """
    labels = np.asarray(clusters)
    if labels.shape != (total,):
        raise ImageSetError(f"clusters has shape {labels.shape}, is_member ({total},). Expected one cluster label per image.")
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    position = np.empty(len(first), np.int64)
    position[np.argsort(first)] = np.arange(len(first))
    return position[inverse]

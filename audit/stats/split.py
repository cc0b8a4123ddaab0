"""The one stratified split: settings are chosen on the calibration half, every headline number comes from the evaluation half."""

import numpy as np

from audit.errors import ImageSetError
from audit.stats.scores import checked_members
from audit.stats.streams import stream


def half_split(is_member, seed, clusters=None):
    """Split each class in two at random.

    Without clusters each class gives floor(half) to calibration. With clusters (near-duplicates, frames of one clip) a cluster is never torn:
    the largest are placed first, each where the two halves come out most even in both classes, a coin where that makes no difference.

    Args:
        is_member: (N,) bool.
        seed: the run's; stream "split".
        clusters: (N,) labels of any type, or None; images with the same label stay together, whatever their class.
    Returns: bool (N,), True = calibration, False = evaluation.
    Raises: ImageSetError: one class only, or clusters of another length.
    Source: research on the audit's statistics, half split at every n.
    """
    members = checked_members(is_member)
    rng = stream(seed, "split")
    calibration = np.zeros(len(members), bool)
    if clusters is None:
        for side in (True, False):
            images = rng.permutation(np.flatnonzero(members == side))
            calibration[images[: len(images) // 2]] = True
        return calibration
    labels = np.asarray(clusters)
    if labels.shape != members.shape:
        raise ImageSetError(f"clusters has shape {labels.shape}, is_member {members.shape}. Expected one cluster label per image.")
    _, cluster = np.unique(labels, return_inverse=True)
    counts = np.stack([np.bincount(cluster[members == side], minlength=cluster.max() + 1) for side in (True, False)], axis=1)
    shuffled = rng.permutation(len(counts))
    coins = rng.random(len(counts)) < 0.5
    lead = np.zeros(2)  # calibration minus evaluation, per class
    chosen = np.zeros(len(counts), bool)
    for i in shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]:
        gain = float(lead @ counts[i])  # |lead + c|² - |lead - c|² = 4 lead·c: positive means calibration would grow more uneven
        chosen[i] = coins[i] if gain == 0 else gain < 0
        lead += counts[i] if chosen[i] else -counts[i]
    calibration[:] = chosen[cluster]
    return calibration

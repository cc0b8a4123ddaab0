"""The evaluation of the paper, repeated on this run's losses so that its numbers can be set beside ours. It is optimistic, and says so."""

import numpy as np

from audit.errors import AttackError
from audit.stats.auc import auc_many
from audit.stats.scores import checked_members
from audit.stats.streams import stream
from audit.stats.window import STATISTICS

LABEL = "Optimistic: statistic and truncation are judged on the images that they would be chosen on, and every repeat draws from the same images."
REPEATS = 100
SUBSET = 256  # images a class and repeat, the authors' default
TRUNCATED = 0.25  # 1,000 of 4,000 timesteps, the authors' default
TRUNCATIONS = ("none", "time", "value")
SUMMARIES = {"mean": np.mean, "median": np.median, "max": np.max, "min": np.min}


def paper_protocol(losses, timesteps, is_member, seed, repeats=REPEATS):
    """Accuracy, F1 and AUC over balanced random subsets, for five statistics and three truncations of one loss table.

    score = - statistic over the kept timesteps. Truncation drops a quarter: "time" the noisiest timesteps (paper), "value" each image's largest losses
    (authors' code). Per repeat k members and k non-members, k = min(256, half of the smaller class, rounded up); "member" for score > median of the subset's
    scores. F1 is 0 where nobody is called a member.

    Args:
        losses: (N,K) finite, lower = better known, any unit; timesteps: (K,), 0-based, t = 0 is the least noisy; is_member: (N,) bool.
        seed: the run's, stream "paper_protocol"; repeats: at least 1.
    Returns: plain dict: label, source, repeats, subset (k), truncated_share, rows [{statistic, truncation, kept: timesteps, accuracy, f1, auc: each {mean,
        median, max, min} over the repeats}].
    Raises: AttackError: losses of another shape or not finite; ImageSetError: one class only; ValueError: repeats.
    Source: arXiv:2302.07801, its authors' evaluation code.  Differs from source: k, the smallest loss is kept, sum and mean over measured timesteps only.
    """
    members = checked_members(is_member)
    table, t = np.asarray(losses, dtype=np.float64), np.asarray(timesteps)
    if table.ndim != 2 or t.ndim != 1 or table.shape != (len(members), len(t)) or not len(t):
        raise AttackError(f"The losses have shape {table.shape} for {len(members)} images and {t.size} timesteps. Expected one loss per image and timestep.")
    if not np.isfinite(table).all():
        raise AttackError(f"{int((~np.isfinite(table)).sum())} of {table.size} losses are NaN or infinite. Expected finite numbers: leave those images out.")
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected at least 1")
    settings = [(statistic, truncation) for truncation in TRUNCATIONS for statistic in STATISTICS]
    kept = {truncation: _kept(table, t, truncation) for truncation in TRUNCATIONS}
    scores = np.stack([-getattr(np, statistic)(kept[truncation], axis=1) for statistic, truncation in settings])
    sides = np.flatnonzero(members), np.flatnonzero(~members)
    subset = min(SUBSET, (min(map(len, sides)) + 1) // 2)
    found = {name: np.empty((repeats, len(settings))) for name in ("accuracy", "f1", "auc")}
    rng, labels = stream(seed, "paper_protocol"), np.arange(2 * subset) < subset
    for repeat in range(repeats):
        drawn = scores[:, np.concatenate([rng.permutation(side)[:subset] for side in sides])]
        found["auc"][repeat] = auc_many(drawn, labels)
        found["accuracy"][repeat], found["f1"][repeat] = _at_median(drawn, labels)
    rows = [
        {"statistic": statistic, "truncation": truncation, "kept": kept[truncation].shape[1], **{name: _summary(values[:, i]) for name, values in found.items()}}
        for i, (statistic, truncation) in enumerate(settings)
    ]
    return {"label": LABEL, "source": "arXiv:2302.07801", "repeats": repeats, "subset": subset, "truncated_share": TRUNCATED, "rows": rows}


def _kept(table, timesteps, truncation):
    """(N,K') losses that a truncation leaves; at least one."""
    count = max(1, table.shape[1] - int(TRUNCATED * table.shape[1] + 1e-9))
    if truncation == "none":
        return table
    if truncation == "value":
        return np.sort(table, axis=1)[:, :count]
    return table[:, np.argsort(timesteps, kind="stable")[:count]]


def _at_median(scores, labels):
    """(accuracy, F1), each (J,), of "member" for score > median; scores (J,n), labels bool (n,)."""
    called = scores > np.median(scores, axis=1, keepdims=True)
    true = (called & labels).sum(axis=1)
    return (called == labels).mean(axis=1), 2 * true / (called.sum(axis=1) + labels.sum())


def _summary(values):
    """{mean, median, max, min} as floats."""
    return {name: float(of(values)) for name, of in SUMMARIES.items()}

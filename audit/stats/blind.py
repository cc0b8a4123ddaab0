"""Blind baseline: can the two sets be told apart without the model? If so, a high attack score proves nothing.

Two families share one permutation test: a ridge classifier over all features, scored out of fold and refitted for every permutation, and each named scalar feature alone.
The model is never asked. DeLong's interval is too narrow for scores that were fitted on these labels (by √2), so every number here comes from the permutations.
"""

from dataclasses import dataclass

import numpy as np

from audit.errors import AttackError, ImageSetError
from audit.stats.auc import Z95, Interval
from audit.stats.power import CRITICAL_Z_ONE_TEST, POWER_Z
from audit.stats.roc import Roc, fast_roc
from audit.stats.scores import checked_members, midranks
from audit.stats.streams import stream
from audit.stats.tpr import tpr_at_fpr

FOLDS = 5
DRAWS = 1_999  # the least at which a difference in one family only can reach p = 0.001: the other family's largest permutation always ties with it
RIDGE = 1.0  # λ, per training image
FPR = 0.01
BLOCK_VALUES = 1_000_000  # permuted labels held at once: 8 MB, and a few times that for scores and ranks
SLACK = 1e-9  # equal statistics may differ by rounding


@dataclass(frozen=True)
class Blind:
    """Result of `blind_baseline`.

    Attributes:
        auc: Interval; mean of the folds' AUCs ± 1.96 permutation sd, clipped to 0..1.
        sd: standard deviation of that mean over the permutations.
        p_value: by min-p over both families; p_ridge, p_scalar: of each family alone. Never 0.
        detectable_auc: AUC of a difference that would be found in 4 audits of 5: 0.5 + (1.645 + 0.842)·sd, at most 1.
        tpr_high: upper 95 % bound of the TPR at 1 % FPR of the out-of-fold scores.
        features: dicts name, z (above 0: larger among members), p_value (adjusted for all named features); largest |z| first.
        scores: float64 (N,), out of fold, HIGHER = MORE MEMBER-LIKE; fold: int64 (N,).
    """

    auc: Interval
    sd: float
    p_value: float
    p_ridge: float
    p_scalar: float
    detectable_auc: float
    tpr_high: float
    features: tuple[dict, ...]
    scores: np.ndarray
    fold: np.ndarray

    def to_json(self, differs):
        """The fields of report.json's `blind_baseline`. Args: differs: bool, what the verdict's rule makes of p_value."""
        return {
            "auc": {"value": self.auc.value, "low": self.auc.low, "high": self.auc.high},
            "tpr_high": self.tpr_high,
            "p_value": self.p_value,
            "p_ridge": self.p_ridge,
            "p_scalar": self.p_scalar,
            "sd": self.sd,
            "detectable_auc": self.detectable_auc,
            "differs": bool(differs),
            "features": list(self.features),
            "images": len(self.fold),
        }


def blind_baseline(values, names, scalar, is_member, seed, draws=DRAWS, clusters=None):
    """Tell the sets apart from image features alone, and say how surely.

    Ridge: features standardised over all images; fold f is scored by least squares on the others, score = (x_f - mean)·(X'X + λ·n·I)⁻¹·X'(y - ½), X centred, λ = 1:
    linear in the labels, so a permutation costs a matrix product and no fit. T1 = mean of the folds' AUCs, one-sided.
    Scalars: T2 = largest |z| of the rank sums (audit.stats.permutation), two-sided.
    Labels are permuted inside folds, among clusters of equal size. p1, p2 = share of the B+1 values (observed one included) at least as large, for every permutation too;
    P = min(p1, p2); p = share of the B+1 with P* <= P.

    Args:
        values: (N,F) finite; a constant column is left out. names: (F,) text; scalar: bool (F,), the features that are also tested alone.
        is_member: bool (N,); seed: the run's, streams "blind_folds" and "blind".
        draws: B, at least 19; clusters: (N,) labels that stay in one fold, or None.
    Returns: Blind.
    Raises: AttackError: features that are not finite or of another shape; ImageSetError: one class, or fewer than 2 images (or clusters) of one; ValueError: draws < 19.
    Source: statistics of the audit, §6; Westfall & Young 1993 (min-p).  Differs from source: B = 1,999, not 999;
        images of one cluster are permuted together.
    """
    members = checked_members(is_member)
    values, names, scalar = _checked_features(values, names, scalar, len(members))
    if draws < 19:
        raise ValueError(f"draws is {draws}; expected at least 19")
    varied = np.ptp(values, axis=0) > 0 if len(values) else np.zeros(0, bool)
    values, names, scalar = values[:, varied], names[varied], scalar[varied]
    fold = assign_folds(members, seed, clusters)
    standard = _standardised(values)
    products = [_fold_product(standard, fold == f) for f in range(fold.max() + 1)]
    columns = _rank_columns(values[:, scalar], int(members.sum()))
    aucs, z = np.empty(draws + 1), np.empty((draws + 1, columns.shape[1]))
    labels = _permuted_labels(members, fold, clusters, stream(seed, "blind"), draws)
    for start, block in labels:
        end = start + len(block)
        aucs[start:end] = np.mean([_row_aucs(_scores_of(product, block), block[:, product[0]]) for product in products], axis=0)
        z[start:end] = block @ columns
    scores = np.empty(len(members))
    for product in products:
        scores[product[0]] = _scores_of(product, members[None].astype(np.float64))[0]
    largest = np.abs(z).max(axis=1, initial=0.0)
    by_ridge, by_scalar = _shares(aucs, aucs), _shares(largest, largest)
    best = np.minimum(by_ridge, by_scalar)
    sd, value = float(aucs[1:].std(ddof=1)), float(aucs[0])
    order = np.argsort(-np.abs(z[0]), kind="stable")
    adjusted = _shares(np.abs(z[0]), largest)
    return Blind(
        auc=Interval(value, max(0.0, value - Z95 * sd), min(1.0, value + Z95 * sd)),
        sd=sd,
        p_value=float(np.mean(best <= best[0] + SLACK)),
        p_ridge=float(by_ridge[0]),
        p_scalar=float(by_scalar[0]),
        detectable_auc=min(1.0, 0.5 + (CRITICAL_Z_ONE_TEST + POWER_Z) * sd),
        tpr_high=tpr_at_fpr(scores, members, FPR).high,
        features=tuple({"name": str(names[scalar][i]), "z": float(z[0, i]), "p_value": float(adjusted[i])} for i in order),
        scores=scores,
        fold=fold,
    )


def blind_roc(scores, fold, is_member):
    """The folds' ROCs averaged vertically: TPR(x) = mean over folds of TPR_f(x), left and right limit at every step. Its area is the mean of the folds' AUCs.

    Args: scores: (N,) finite; fold: int (N,), both classes in each; is_member: bool (N,).
    Returns: Roc; thresholds are NaN, since one FPR is another threshold in each fold.
    Raises: ImageSetError: a fold of one class.
    """
    scores, fold, members = np.asarray(scores, np.float64), np.asarray(fold), checked_members(is_member)
    curves = [fast_roc(scores[fold == f], checked_members(members[fold == f])) for f in np.unique(fold)]
    fpr = np.unique(np.concatenate([curve.fpr for curve in curves]))
    limits = np.mean([_limits(curve, fpr) for curve in curves], axis=0)
    return Roc(np.repeat(fpr, 2), limits.ravel(), np.full(2 * len(fpr), np.nan))


def _limits(curve, fpr):
    """(P,2): TPR of one curve just left and just right of each FPR; 0 left of FPR 0."""
    first, last = np.searchsorted(curve.fpr, fpr, "left"), np.searchsorted(curve.fpr, fpr, "right") - 1
    hit = curve.fpr[np.minimum(first, len(curve.fpr) - 1)] == fpr
    between = np.interp(fpr, curve.fpr, curve.tpr)  # where the curve has no point it is one straight line
    return np.stack([np.where(hit, curve.tpr[first], between), np.where(hit, curve.tpr[last], between)], axis=1)


def assign_folds(is_member, seed, clusters=None):
    """Stratified folds, at most 5, each with both classes; a cluster is never torn.

    The largest clusters are placed first, each into the fold that has the smallest share of its class or classes.

    Args: is_member: bool (N,); seed: the run's, stream "blind_folds"; clusters: (N,) labels, or None.
    Returns: int64 (N,), numbers from 0.
    Raises: ImageSetError: not even two folds can hold both classes.
    """
    members = checked_members(is_member)
    cluster = _cluster_numbers(clusters, len(members))
    counts = np.stack([np.bincount(cluster[members == side], minlength=cluster.max() + 1) for side in (True, False)], axis=1)
    shuffled = stream(seed, "blind_folds").permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")].tolist()
    share = (counts / counts.sum(axis=0)).tolist()
    for folds in range(FOLDS, 1, -1):
        held, place = [[0.0, 0.0] for _ in range(folds)], np.empty(len(counts), np.int64)
        for i in order:
            ours, theirs = share[i]
            f = min(range(folds), key=lambda g, ours=ours, theirs=theirs: round(ours * held[g][0] + theirs * held[g][1], 12))
            held[f][0], held[f][1] = held[f][0] + ours, held[f][1] + theirs
            place[i] = f
        if all(min(pair) > 0 for pair in held):
            return place[cluster]
    raise ImageSetError("The blind baseline needs at least 2 images, or groups of near duplicates, of each set. Expected more: add images.")


def _cluster_numbers(clusters, count):
    if clusters is None:
        return np.arange(count)
    labels = np.asarray(clusters)
    if labels.shape != (count,):
        raise ImageSetError(f"clusters has shape {labels.shape}, is_member ({count},). Expected one cluster label per image.")
    return np.unique(labels, return_inverse=True)[1]


def _checked_features(values, names, scalar, count):
    """(values float64 (N,F), names (F,), scalar bool (F,)). Raises AttackError."""
    values, names, scalar = np.asarray(values, np.float64), np.asarray(names), np.asarray(scalar, bool)
    if values.ndim != 2 or len(values) != count or names.shape != scalar.shape or names.shape != values.shape[1:]:
        raise AttackError(f"The features have shape {values.shape}, {names.shape} names and {scalar.shape} flags, for {count} images. Expected (images, features).")
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise AttackError(f"{bad} of {values.size} feature values are NaN or infinite. Expected finite numbers: leave the feature out.")
    return values, names, scalar


def _standardised(values):
    """Mean 0 and sd 1 per column, over all images: no label is used."""
    centred = values - values.mean(axis=0)
    return centred / centred.std(axis=0)


def _rank_columns(values, m):
    """float64 (N,F): columns whose sum over m members is the z of their rank sum (audit.stats.permutation.standardised_ranks)."""
    total = len(values)
    ranks = np.stack([midranks(column) for column in values.T], axis=1) if values.shape[1] else np.zeros((total, 0))
    centred = ranks - (total + 1) / 2
    return centred / np.sqrt(m * (total - m) / total * centred.var(axis=0, ddof=1))


def _fold_product(standard, inside):
    """(images of the fold, images of the rest, L (n,F), R (F,n_rest)) with score = L·R·(y_rest - ½): H of the fold, never multiplied out."""
    ours, rest = np.flatnonzero(inside), np.flatnonzero(~inside)
    mean = standard[rest].mean(axis=0)
    centred = standard[rest] - mean
    gram = centred.T @ centred + RIDGE * len(rest) * np.eye(standard.shape[1])
    return ours, rest, standard[ours] - mean, np.linalg.solve(gram, centred.T)


def _scores_of(product, labels):
    """Scores of one fold's images; labels float64 (B,N) of 0 and 1 -> (B,n)."""
    _, rest, left, right = product
    return ((labels[:, rest] - 0.5) @ right.T) @ left.T


def _row_aucs(scores, labels):
    """AUC of every row, each with its own labels; float64 (B,n), 0/1 (B,n) -> (B,). Ties count half."""
    order = np.argsort(scores, axis=1)
    ordered, ours = np.take_along_axis(scores, order, axis=1), np.take_along_axis(labels, order, axis=1)
    rank_sums = ours @ np.arange(1.0, scores.shape[1] + 1)
    for row in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)):
        rank_sums[row] = midranks(scores[row]) @ labels[row]
    m = labels.sum(axis=1)
    return (rank_sums - m * (m + 1) / 2) / (m * (scores.shape[1] - m))


def _permuted_labels(members, fold, clusters, rng, draws):
    """Yields (first row, float64 (b,N) of 0 and 1); row 0 has the true labels.

    Images trade places only with images of their fold, clusters only with clusters of their size in their fold: then every permutation keeps both classes' counts
    per fold, and images that belong together keep one label. A cluster of mixed classes counts as one per class.
    """
    count = len(members)
    unit = np.unique(2 * _cluster_numbers(clusters, count) + members, return_inverse=True)[1]
    size, first = np.bincount(unit), np.unique(unit, return_index=True)[1]
    group = np.unique(np.stack([fold[first], size]), axis=1, return_inverse=True)[1].ravel()
    groups = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    truth = members[first].astype(np.float64)
    rows = max(1, BLOCK_VALUES // count)
    for start in range(0, draws + 1, rows):
        block = np.broadcast_to(truth, (min(rows, draws + 1 - start), len(truth))).copy()
        for row in range(len(block)):  # row by row, so the block size changes no number
            if start + row:
                for images in groups:
                    block[row, images] = rng.permutation(truth[images])
        yield start, block[:, unit]


def _shares(of, among):
    """For each of `of`, the share of `among` that is at least as large; 1e-9 of slack."""
    ordered = np.sort(among)
    return (len(ordered) - np.searchsorted(ordered, of - SLACK, "left")) / len(ordered)

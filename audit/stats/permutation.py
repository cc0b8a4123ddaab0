"""One permutation test over all attacks: is there any signal, which attack carries it, and how large a chance result could be.

Two linear rank statistics per score: the rank score (AUC) and the tail score (a few members far above everybody).
"""

from dataclasses import dataclass, field

import numpy as np

from audit.errors import AttackError, ImageSetError
from audit.stats.scores import checked, checked_members, midranks
from audit.stats.split import cluster_index
from audit.stats.streams import stream

DRAWS, DRAWS_MANY_IMAGES, MANY_IMAGES = 9_999, 1_999, 20_000
BLOCK_VALUES = 2_000_000  # permuted labels, and z values, held at once: 16 MB each
LEAST_COLUMNS = 256  # per block: narrower products would waste time where images are few
SCORES = ("rank", "tail")
SLACK = 1e-9  # equal statistics may differ by rounding
FLAT = 1e-13  # relative spread below which sums of equal ranks differ by rounding only; real steps are above 1e-12 up to 100,000 images
LEVEL, LOWEST_LEVEL = 0.05, 0.001


@dataclass(frozen=True)
class PermutationResult:
    """Result of `permutation_test`.

    Attributes:
        p_value: of the largest z over attacks, their rows and both scores; never 0.
        attack, score: where that largest z is; score is "rank" or "tail".
        critical_z: z that must be exceeded for p_value <= 0.05 (c); draws: B.
        z: {attack: {"rank", "tail"}}, both of the attack's best row, which is the one with its largest z.
        p_values: {attack: p}, adjusted for all attacks and rows at once (single step): each is compared with the overall largest z.
        lowest_rank_z: smallest rank z of all attacks and rows; lowest_rank_point: its 0.1 % point, below which members score lower than chance allows (-inf if
            draws < 999).
        row, rows: the best row of `attack`, and {attack: best row}; 0 where an attack has one score vector.
        highest_rank_z: largest rank z of all attacks and rows.
        mixed_images: images whose label was permuted: all, unless `groups` or `clusters` hold some in place.
    """

    p_value: float
    attack: str
    score: str
    critical_z: float
    draws: int
    z: dict
    p_values: dict
    lowest_rank_z: float
    lowest_rank_point: float
    row: int = 0
    rows: dict = field(default_factory=dict)
    highest_rank_z: float = 0.0
    mixed_images: int = 0

    def to_json(self):
        """The fields of report.json's `permutation`."""
        return {"p_value": self.p_value, "attack": self.attack, "score": self.score, "critical_z": self.critical_z, "draws": self.draws}


@dataclass(frozen=True)
class _Units:
    """What is permuted. A unit is an image, or a whole cluster.

    unit: (N,) int or None = every image is its own; is_member: bool (U,); strata: index arrays of units that exchange labels, each with both classes;
    groups: (N,) int or None; images: how many are in a stratum.
    """

    unit: np.ndarray | None
    is_member: np.ndarray
    strata: tuple
    groups: np.ndarray | None
    images: int


def _units(members, groups=None, clusters=None):
    """_Units; `members` is checked. Raises ImageSetError: other lengths, or no label that could be exchanged."""
    if groups is None and clusters is None:
        return _Units(None, members, (np.arange(len(members)),), None, len(members))
    group = np.zeros(len(members), np.int64)
    if groups is not None:
        if np.shape(groups) != members.shape:
            raise ImageSetError(f"groups has shape {np.shape(groups)}, is_member {members.shape}. Expected one group per image.")
        _, group = np.unique(groups, return_inverse=True)
    unit = np.arange(len(members)) if clusters is None else cluster_index(clusters, len(members))
    size = np.bincount(unit)
    _, first = np.unique(unit, return_index=True)
    is_member, of_group = members[first], group[first]
    torn = (members != is_member[unit]) | (group != of_group[unit])  # both classes or several groups in one cluster
    free = np.bincount(unit, weights=torn) == 0
    strata = []
    for key in np.unique(np.stack([of_group, size], axis=1)[free], axis=0):
        units = np.flatnonzero(free & (of_group == key[0]) & (size == key[1]))
        if 0 < np.count_nonzero(is_member[units]) < len(units):
            strata.append(units)
    if not strata:
        raise ImageSetError("No label can be exchanged: no class folder holds members and non-members that stand alone or in clusters of one size. Expected some.")
    images = int(sum(size[units].sum() for units in strata))
    return _Units(None if len(size) == len(members) else unit, is_member, tuple(strata), None if groups is None else group, images)


def standardised_ranks(scores, is_member, groups=None, clusters=None):
    """The two rank statistics as columns whose sum over the members is z.

    r = midrank among all N;  rank score r, tail score (ln(1 - (r-0.5)/N))²;
    z = (Σ_members s - m·mean s)/√(m·n/N · var(s, ddof 1)): exact permutation mean and sd, ties included. A constant column gives z = 0.
    With groups the ranks (and N) are those within the group, so that the rank score is the AUC within groups weighted by pairs; with clusters s is summed over
    the cluster. Mean and variance are then those of each stratum that exchanges labels (see permutation_test), added up; units in no stratum give 0.

    Args: scores: (N,) finite; is_member: bool (N,), of which only the counts per stratum are used; groups, clusters: as in permutation_test.
    Returns: float64 (N,2), or (clusters,2) in the order of their first images.
    """
    return _standardised(np.asarray(scores), _units(np.asarray(is_member), groups, clusters))


def _standardised(scores, units):
    """`standardised_ranks` for one row."""
    sums = _rank_scores(scores, units.groups)
    if units.unit is not None:
        sums = np.stack([np.bincount(units.unit, weights=column) for column in sums.T], axis=1)
    out, variance = np.zeros_like(sums), np.zeros(2)
    for stratum in units.strata:
        part = sums[stratum]
        total, m = len(stratum), int(units.is_member[stratum].sum())
        centred = part - part.mean(axis=0)
        centred[:, np.ptp(part, axis=0) <= FLAT * np.abs(part).max()] = 0
        out[stratum] = centred
        variance += m * (total - m) / total * centred.var(axis=0, ddof=1)
    spread = np.sqrt(variance)
    return out / np.where(spread > 0, spread, 1)


def _rank_scores(scores, groups):
    """float64 (N,2): rank and tail score of every image within its group."""
    if groups is None:
        ranks = midranks(scores)
        return np.stack([ranks, np.log1p(-(ranks - 0.5) / len(scores)) ** 2], axis=1)
    out = np.empty((len(scores), 2))
    for group in range(groups.max() + 1):
        inside = np.flatnonzero(groups == group)
        out[inside] = _rank_scores(scores[inside], None)
    return out


def permutation_test(scores, is_member, seed, draws=None, groups=None, clusters=None):
    """Max-z test over all attacks, their rows and both scores, with the same permuted labels for every column.

    T = max z;  p = (1 + #{T* >= T - 1e-9})/(B+1).  Valid for settings that were frozen on other images, and for a whole sweep: give every setting that was tried
    as a row, and the choice of the best one is inside the test.

    What exchanges labels: images, all with all. With `groups` only images of one group. With `clusters` whole clusters, and only those of the same group, the same
    number of images and one class each: an image that stands alone is a cluster of one. A cluster that holds both classes or lies in several groups keeps its
    labels, as does a stratum of one class; such images still have ranks, but add nothing to z.

    Args:
        scores: {attack: (N,) or (J,N) finite}, HIGHER = MORE MEMBER-LIKE, at least one attack; J up to a few thousand. Rows of one attack with the same ranks are
            tested once.
        is_member: (N,) bool.
        seed: the run's; stream "permutation" (each further stratum its own: "permutation 1" …).
        draws: B; None = 9,999, or 1,999 above N = 20,000. At least 19, so that p = 0.05 can be reached.
        groups: (N,) labels to permute within, such as class folders, or None.
        clusters: (N,) labels of near-duplicates or frames of one clip, or None.
    Returns: PermutationResult.
    Raises: AttackError: no attack, or scores that cannot be ranked; ImageSetError: one class only, or no label that can be exchanged; ValueError: draws < 19.
    Source: Westfall & Young 1993 (single step, max T); Phipson & Smyth 2010 (the +1).  The tail score is this project's own.
    """
    if not scores:
        raise AttackError("No attack was scored. Expected at least one.")
    members = checked_members(is_member)
    if draws is None:
        draws = DRAWS if len(members) <= MANY_IMAGES else DRAWS_MANY_IMAGES
    if draws < 19:
        raise ValueError(f"draws is {draws}; expected at least 19")
    units = _units(members, groups, clusters)
    names, rows, parts = list(scores), {}, []
    for name in names:
        rows[name], columns = _distinct_rows(checked(scores[name], members)[0], units)
        parts.append(columns)
    columns = np.concatenate(parts, axis=1)
    observed = units.is_member.astype(np.float64) @ columns
    largest, lowest = _permuted_extremes(columns, units, seed, draws)
    ordered = np.sort(largest)[::-1]

    def p_of(z):
        return (1 + int(np.count_nonzero(largest >= z - SLACK))) / (draws + 1)

    z, best = {}, {}
    for name, pairs in zip(names, np.split(observed.reshape(-1, 2), np.cumsum([len(rows[n]) for n in names])[:-1]), strict=True):
        at = int(np.argmax(pairs)) // 2
        z[name], best[name] = {"rank": float(pairs[at, 0]), "tail": float(pairs[at, 1])}, int(rows[name][at])
    attack = max(names, key=lambda n: max(z[n].values()))
    rank_of_point = int(LOWEST_LEVEL * (draws + 1) + 1e-9)
    return PermutationResult(
        p_value=p_of(max(z[attack].values())),
        attack=attack,
        score=max(SCORES, key=z[attack].get),
        critical_z=float(ordered[int(LEVEL * (draws + 1) + 1e-9) - 1]),
        draws=draws,
        z=z,
        p_values={name: p_of(max(pair.values())) for name, pair in z.items()},
        lowest_rank_z=float(observed[::2].min()),
        lowest_rank_point=float(np.sort(lowest)[rank_of_point - 1]) if rank_of_point else -np.inf,
        row=best[attack],
        rows=best,
        highest_rank_z=float(observed[::2].max()),
        mixed_images=units.images,
    )


def _distinct_rows(matrix, units):
    """(positions of the first row of each ranking, float64 (U, 2·rows) columns). A sum and a mean over one window rank alike; so do many minima."""
    matrix = np.atleast_2d(matrix)
    if not len(matrix):
        raise AttackError("The scores have no row. Expected at least one score per image.")
    seen = {}
    for row, scores in enumerate(matrix):
        columns = _standardised(scores, units)
        seen.setdefault(columns.tobytes(), (row, columns))
    return [row for row, _ in seen.values()], np.concatenate([columns for _, columns in seen.values()], axis=1)


def _permuted_extremes(columns, units, seed, draws):
    """(largest z of all columns, smallest z of the rank columns), each float64 (draws,). Labels are drawn row by row, so the block size changes no number."""
    largest, lowest = np.full(draws, -np.inf), np.full(draws, np.inf)
    generators = [stream(seed, f"permutation {k}" if k else "permutation") for k in range(len(units.strata))]
    rows = min(draws, max(1, BLOCK_VALUES // len(units.is_member)))
    width = max(LEAST_COLUMNS, BLOCK_VALUES // rows // 2 * 2)
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        labels = np.broadcast_to(units.is_member, (count, len(units.is_member))).astype(np.float64)
        for rng, stratum in zip(generators, units.strata, strict=True):
            labels[:, stratum] = rng.permuted(np.broadcast_to(units.is_member[stratum], (count, len(stratum))).astype(np.int8), axis=1)
        block = slice(start, start + count)
        for left in range(0, columns.shape[1], width):
            z = labels @ columns[:, left : left + width]
            largest[block] = np.maximum(largest[block], z.max(axis=1))
            lowest[block] = np.minimum(lowest[block], z[:, ::2].min(axis=1))
    return largest, lowest

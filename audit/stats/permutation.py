"""One permutation test over all attacks: is there any signal, which attack carries it, and how large a chance result could be.

Two linear rank statistics per attack: the rank score (AUC) and the tail score (a few members far above everybody).
"""

from dataclasses import dataclass

import numpy as np

from audit.errors import AttackError
from audit.stats.scores import checked_members, midranks, one_vector
from audit.stats.streams import stream

DRAWS, DRAWS_MANY_IMAGES, MANY_IMAGES = 9_999, 1_999, 20_000
BLOCK_VALUES = 2_000_000  # permuted labels held at once: 16 MB
SCORES = ("rank", "tail")
SLACK = 1e-9  # equal statistics may differ by rounding
LEVEL, LOWEST_LEVEL = 0.05, 0.001


@dataclass(frozen=True)
class PermutationResult:
    """Result of `permutation_test`.

    Attributes:
        p_value: of the largest z over attacks and scores; never 0.
        attack, score: where that largest z is; score is "rank" or "tail".
        critical_z: z that must be exceeded for p_value <= 0.05 (c); draws: B.
        z: {attack: {"rank", "tail"}}.
        p_values: {attack: p}, adjusted for all attacks at once (single step): each is compared with the overall largest z.
        lowest_rank_z: smallest rank z of all attacks; lowest_rank_point: its 0.1 % point, below which members score lower than chance allows (-inf if draws < 999).
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

    def to_json(self):
        """The fields of report.json's `permutation`."""
        return {"p_value": self.p_value, "attack": self.attack, "score": self.score, "critical_z": self.critical_z, "draws": self.draws}


def standardised_ranks(scores, is_member):
    """The two rank statistics as columns whose sum over the members is z.

    r = midrank among all N;  rank score r, tail score (ln(1 - (r-0.5)/N))²;
    z = (Σ_members s - m·mean s)/√(m·n/N · var(s, ddof 1)): exact permutation mean and sd, ties included. A constant column gives z = 0.

    Args: scores: float64 (N,), finite; is_member: bool (N,), of which only m and n are used.
    Returns: float64 (N,2).
    """
    total, m = len(scores), int(is_member.sum())
    ranks = midranks(scores)
    columns = np.stack([ranks, np.log1p(-(ranks - 0.5) / total) ** 2], axis=1)
    centred = columns - columns.mean(axis=0)
    spread = np.sqrt(m * (total - m) / total * centred.var(axis=0, ddof=1))
    constant = np.ptp(ranks) == 0
    return np.zeros_like(centred) if constant else centred / spread


def permutation_test(scores, is_member, seed, draws=None):
    """Max-z test over all attacks and both scores, with the same permuted labels for every column.

    T = max z;  p = (1 + #{T* >= T - 1e-9})/(B+1).  Valid for settings that were frozen on other images.

    Args:
        scores: {attack: (N,) finite}, HIGHER = MORE MEMBER-LIKE, at least one attack.
        is_member: (N,) bool.
        seed: the run's; stream "permutation".
        draws: B; None = 9,999, or 1,999 above N = 20,000. At least 19, so that p = 0.05 can be reached.
    Returns: PermutationResult.
    Raises: AttackError: no attack, or scores that cannot be ranked; ImageSetError: one class only; ValueError: draws < 19.
    Source: Westfall & Young 1993 (single step, max T); Phipson & Smyth 2010 (the +1).  The tail score is this project's own.
    """
    if not scores:
        raise AttackError("No attack was scored. Expected at least one.")
    members = checked_members(is_member)
    names = list(scores)
    columns = np.concatenate([standardised_ranks(*one_vector(scores[name], members)) for name in names], axis=1)
    if draws is None:
        draws = DRAWS if len(members) <= MANY_IMAGES else DRAWS_MANY_IMAGES
    if draws < 19:
        raise ValueError(f"draws is {draws}; expected at least 19")
    observed = members.astype(np.float64) @ columns
    largest, lowest = _permuted_extremes(columns, members, stream(seed, "permutation"), draws)
    ordered = np.sort(largest)[::-1]
    best = int(np.argmax(observed))

    def p_of(z):
        return (1 + int(np.count_nonzero(largest >= z - SLACK))) / (draws + 1)

    pairs = observed.reshape(len(names), 2)
    rank_of_point = int(LOWEST_LEVEL * (draws + 1) + 1e-9)
    return PermutationResult(
        p_value=p_of(observed[best]),
        attack=names[best // 2],
        score=SCORES[best % 2],
        critical_z=float(ordered[int(LEVEL * (draws + 1) + 1e-9) - 1]),
        draws=draws,
        z={name: {"rank": float(pair[0]), "tail": float(pair[1])} for name, pair in zip(names, pairs, strict=True)},
        p_values={name: p_of(pair.max()) for name, pair in zip(names, pairs, strict=True)},
        lowest_rank_z=float(pairs[:, 0].min()),
        lowest_rank_point=float(np.sort(lowest)[rank_of_point - 1]) if rank_of_point else -np.inf,
    )


def _permuted_extremes(columns, members, rng, draws):
    """(largest z of all columns, smallest z of the rank columns), each float64 (draws,). Labels are drawn row by row, so the block size changes no number."""
    largest, lowest = np.empty(draws), np.empty(draws)
    rows = max(1, BLOCK_VALUES // len(members))
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        labels = rng.permuted(np.broadcast_to(members, (count, len(members))).astype(np.int8), axis=1)
        z = labels.astype(np.float64) @ columns
        largest[start : start + count] = z.max(axis=1)
        lowest[start : start + count] = z[:, ::2].min(axis=1)
    return largest, lowest

"""What every statistic here starts from: one finite score per image, both classes present, and midranks."""

import numpy as np

from audit.errors import AttackError, ImageSetError


def checked_members(is_member):
    """`is_member` as bool (N,).

    Raises: ImageSetError: not one-dimensional, other values than true and false, or only one class.
    """
    members = np.asarray(is_member)
    if members.ndim != 1:
        raise ImageSetError(f"is_member has shape {members.shape}. Expected one value per image, shape (N,).")
    if members.dtype != bool:
        try:
            whole = members.size and bool(np.isin(members, (0, 1)).all())
        except TypeError:
            whole = False
        if not whole:
            raise ImageSetError(f"is_member has the type {members.dtype}. Expected true or false per image: compare your labels first.")
        members = members.astype(bool)
    count = int(np.count_nonzero(members))
    if count in (0, len(members)):
        raise ImageSetError(f"The images are {count} members and {len(members) - count} non-members. Expected both: without two classes there is no ROC.")
    return members


def checked(scores, is_member):
    """(scores, is_member), ready for the formulas.

    Args: scores: (N,) or (J,N) numbers, HIGHER = MORE MEMBER-LIKE; is_member: (N,) bool.
    Returns: scores, same shape, float64 unless they were float32 (float32 is exact in float64, so ties are those of the stored values); is_member bool (N,).
    Raises: AttackError: not numbers, wrong length, NaN or infinite; ImageSetError: see checked_members.
    """
    members = checked_members(is_member)
    values = np.asarray(scores)
    if values.dtype != np.float32:
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            raise AttackError(f"The scores have the type {values.dtype}. Expected one number per image.") from None
    if values.ndim not in (1, 2) or values.shape[-1] != len(members):
        raise AttackError(f"The scores have shape {values.shape}, is_member has {len(members)} images. Expected one score per image.")
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise AttackError(f"{bad} of {values.size} scores are NaN or infinite. Expected finite numbers: leave those images out of every attack, and count them.")
    return values, members


def one_vector(scores, is_member):
    """(scores float64 (N,), is_member bool (N,)); `checked` for exactly one score vector."""
    values, members = checked(scores, is_member)
    if values.ndim != 1:
        raise AttackError(f"The scores have shape {values.shape}. Expected one vector, shape (N,).")
    return values.astype(np.float64, copy=False), members


def midranks(values):
    """Ranks 1..N, smallest first; ties share the mean of their ranks. (N,) any numbers -> (N,) float64. One sort."""
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    sizes = np.diff(np.append(first, len(values)))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + (sizes + 1) / 2, sizes)
    return ranks

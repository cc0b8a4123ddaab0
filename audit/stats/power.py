"""What this many images can show: the smallest AUC that would be found in 4 audits of 5."""

import math

CRITICAL_Z_ONE_TEST = 1.645  # 95 % point of a standard normal: one attack, one statistic
CRITICAL_Z_PLANNED = 2.4  # 95 % point of the largest of 6-10 correlated attacks with two statistics each, before a run
POWER_Z = 0.842  # 80 % power


def null_standard_error(m, n):
    """Standard error of the AUC when members and non-members score alike: √((m+n+1)/(12mn))."""
    return math.sqrt((m + n + 1) / (12 * m * n))


def minimum_detectable_auc(m, n, c, power_z=POWER_Z):
    """0.5 + (c + 0.842)·√((m+n+1)/(12mn)), at most 1.

    Args: m, n: evaluation members and non-members, at least 1; c: 95 % point of the largest permuted statistic (PermutationResult.critical_z), 1.645 for one
        test, 2.4 before a run; power_z: 0.842 for 80 %, 3.09 for 99.9 %.
    Returns: float, an AUC.
    """
    return min(1.0, 0.5 + (c + power_z) * null_standard_error(m, n))


def images_needed(mda, c, power_z=POWER_Z):
    """Images a side, evaluation half only, for a minimum detectable AUC: ((c + 0.842)/(mda - 0.5))²/6, rounded up.

    This is minimum_detectable_auc(n, n, c) = mda solved with (2n+1)/n² taken as 2/n, which moves n by at most one image.

    Args: mda: above 0.5 and at most 1; c, power_z: as above.
    Returns: int.
    Raises: ValueError: mda outside (0.5, 1].
    """
    if not 0.5 < mda <= 1:
        raise ValueError(f"the AUC to be seen is {mda}; expected above 0.5 and at most 1")
    return math.ceil(((c + power_z) / (mda - 0.5)) ** 2 / 6 - 1e-9)


def planned_mda(m, n):
    """minimum_detectable_auc before a run, with c = 2.4. Args: m, n: evaluation images a class."""
    return minimum_detectable_auc(m, n, CRITICAL_Z_PLANNED)

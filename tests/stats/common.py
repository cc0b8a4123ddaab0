"""Scores used by several tests of this folder, and slow, naive versions of the statistics."""

import math

import numpy as np
from hypothesis import strategies as st
from scipy.stats import beta, binom

A = [2.1, 0.4, 3.3, 1.5, 0.4, 2.8, 1.9]
B = [0.1, 0.4, 1.2, -0.5, 1.5, 0.9, 0.0, 2.0, -1.1]


def joined(a, b):
    """(scores, is_member) from the scores of the members and of the non-members."""
    return np.concatenate([a, b]).astype(float), np.arange(len(a) + len(b)) < len(a)


SCORES, IS_MEMBER = joined(A, B)

# few distinct values and few images: ties everywhere
tied = st.lists(st.integers(-3, 3), min_size=1, max_size=12)
two_classes = st.tuples(tied, tied).map(lambda ab: joined(*ab))


def naive_auc(scores, is_member):
    a, b = scores[is_member], scores[~is_member]
    return sum((x > y) + 0.5 * (x == y) for x in a for y in b) / (len(a) * len(b))


def naive_tpr(scores, is_member, fpr):
    """Largest TPR of any threshold whose FPR is at most `fpr`; the FPR it has."""
    a, b = scores[is_member], scores[~is_member]
    best = (0.0, 0.0)
    for threshold in [math.inf, *scores]:
        achieved = np.mean(b >= threshold)
        if achieved <= fpr + 1e-9:
            best = max(best, (float(np.mean(a >= threshold)), float(achieved)))
    return best


def naive_bounds(scores, is_member, fpr):
    """The mixture bounds by the book: every K, order statistics one by one, plain bisection."""
    a, b = scores[is_member], sorted(scores[~is_member], reverse=True)
    m, n = len(a), len(b)
    edge = [math.inf, *b, -math.inf]  # b_(0) ... b_(n+1)
    lo = np.array([np.sum(a > edge[k]) for k in range(n + 1)])
    hi = np.array([np.sum(a >= edge[k + 1]) for k in range(n + 1)])
    w = binom.pmf(np.arange(n + 1), n, fpr)

    def lower(x):
        return sum(np.where(lo == 0, w, w * beta.cdf(x, np.maximum(lo, 1), m - lo + 1)))

    def upper(x):
        return sum(np.where(hi == m, 0, w * beta.cdf(x, hi + 1, np.maximum(m - hi, 1))))

    return bisect(lower, 0.025), bisect(upper, 0.975)


def bisect(rising, target):
    """x in 0..1 with rising(x) = target; the end where there is none."""
    if rising(0.0) >= target:
        return 0.0
    if rising(1.0) < target:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return low


def binomial_slack(share, runs):
    """Three binomial standard errors of a share seen in `runs` simulated audits."""
    return 3 * math.sqrt(share * (1 - share) / runs)

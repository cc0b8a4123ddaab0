"""Structural similarity of two pictures, on the device where they are."""

import torch

WINDOW, RANGE = 7, 2.0  # pixels a side; of pictures in [-1, 1]
K1, K2 = 0.01, 0.03


def ssim(a, b):
    """Mean structural similarity over all windows that lie inside the picture, and over channels; 1 where the pictures are equal.

    (2 m_a m_b + c1)(2 cov + c2) / ((m_a^2 + m_b^2 + c1)(var_a + var_b + c2)), means over a uniform window of 7 x 7 pixels, variances with n - 1.

    Args: a, b: (B,C,H,W) in [-1, 1].
    Returns: (B,) float64. Pictures of fewer than 7 pixels a side get the largest odd window that fits.
    Source: Wang et al. 2004, as scikit-image's structural_similarity with its defaults computes it.
    """
    a, b = a.double(), b.double()  # variances are differences of nearly equal numbers
    side = min(WINDOW, *a.shape[2:])
    side -= 1 - side % 2
    count = side * side
    sample = count / max(1, count - 1)

    def mean(values):
        return torch.nn.functional.avg_pool2d(values, side, stride=1)

    m_a, m_b = mean(a), mean(b)
    var_a, var_b, cov = (sample * (mean(x * y) - p * q) for x, y, p, q in ((a, a, m_a, m_a), (b, b, m_b, m_b), (a, b, m_a, m_b)))
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    local = (2 * m_a * m_b + c1) * (2 * cov + c2) / ((m_a**2 + m_b**2 + c1) * (var_a + var_b + c2))
    return local.mean(dim=(1, 2, 3))

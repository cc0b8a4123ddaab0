"""A low-pass filter for differences of predictions: training images show in the coarse structure, the fine detail is mostly noise."""

import torch

KEPT, REST = 5, 0.2  # the source's t and s


def low_pass(x):
    """Real part of the inverse FFT of the spectrum with the central 2 KEPT x 2 KEPT square as it is and everything else times REST.

    Args: x: (B,C,H,W). Returns: the same shape and dtype. A picture of at most 2 KEPT pixels a side stays as it is.
    Source: arXiv:2505.20955 (FreMIA), frequencies -KEPT … KEPT-1 kept along each axis. The filter is linear: filtering a difference is filtering both sides.
    """
    height, width = x.shape[2:]
    mask = torch.full((height, width), REST, dtype=x.dtype, device=x.device)
    mask[max(0, height // 2 - KEPT) : height // 2 + KEPT, max(0, width // 2 - KEPT) : width // 2 + KEPT] = 1
    return torch.fft.ifft2(torch.fft.fft2(x) * torch.fft.ifftshift(mask)).real

"""The PFAMI probe: the noise error of the image beside that of the image seen a little closer, under the same noise."""

import numpy as np
import torch

from audit.probes.base import Probe, eps_hat, mean_square, shares, signal_and_noise

CROP = float(np.linspace(0.95, 0.70, 10)[5])  # the one share that the released attack uses of its ten


def closer(x0):
    """The centre of each picture at its full size, (B,C,H,W)."""
    height, width = x0.shape[2:]
    h, w = max(1, round(CROP * height)), max(1, round(CROP * width))
    top, left = round((height - h) / 2), round((width - w) / 2)
    return torch.nn.functional.interpolate(x0[:, :, top : top + h, left : left + w], size=(height, width), mode="bilinear", align_corners=False)


class PFAMI(Probe):
    """Two tables; every mean is over pixels and channels.

    pfami_mse        mean (eps_hat(x_t) - eps)^2 of the image
    pfami_crop_mse   the same of its centre, CROP of each side, resized back bilinearly; of a latent model the picture is cropped, then encoded

    Source: arXiv:2308.12143 (PFAMI, the metric attack).  Differs from source: both losses and all images see the same noise.
    """

    name = "pfami"
    TABLES = ("pfami_mse", "pfami_crop_mse")
    CALLS_PER_ROW = 2
    EXACT = True
    SECOND = staticmethod(closer)
    own_timesteps = staticmethod(shares(*np.arange(0, 0.5, 0.05)))

    def rows(self, denoiser, rows, clip):
        """Two passes -> (2, B) float64."""
        a, s = signal_and_noise(denoiser.schedule, rows.t, rows.x0)
        crop = closer(rows.x0) if rows.second is None else rows.second
        return torch.stack([mean_square(eps_hat(denoiser, a * picture + s * rows.eps, rows.t, rows.cond) - rows.eps) for picture in (rows.x0, crop)])

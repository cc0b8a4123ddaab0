"""The PIA probe: noise the image with the model's own noise prediction at t = 0, and see how far the prediction at t departs from it."""

import math

import torch

from audit.probes.base import Probe, all_at, eps_hat, norm, shares, signal_and_noise
from audit.probes.lowpass import low_pass


class PIA(Probe):
    """pia_l4   || e0 - eps_hat(sqrt(abar_t) x + sqrt(1 - abar_t) e0, t) ||_4 with e0 = eps_hat(x, 0).

    pia_l4_low  the same with the difference after audit.probes.lowpass, only where asked for.
    One row asks at all timesteps, so that e0 costs one call per image.
    Source: arXiv:2305.18355; t = 0 here is the paper's least noisy step.
    """

    name = "pia"
    TABLES = ("pia_l4",)
    FILTERED = ("pia_l4_low",)
    ROW = "image"
    DRAWS = 0
    EXACT = True
    own_timesteps = staticmethod(shares(0.05, 0.1, 0.2, 0.3))

    def row_calls(self, timesteps, draws, length):
        """e0, then one call per timestep."""
        return len(timesteps) + 1

    def defined(self, denoiser, timesteps):
        """bool (1 or 2,K): nothing without e0."""
        return super().defined(denoiser, timesteps) & denoiser.measurable[0]

    def start(self, e0):
        """The noise that stands for a draw."""
        return e0

    def rows(self, denoiser, rows, clip):
        """K + 1 passes -> (1 or with `low` 2, B, K, 1) float64."""
        x0 = rows.x0
        e0 = self.start(eps_hat(denoiser, x0, all_at(0, x0), rows.cond))
        found = []
        for step in rows.t.tolist():
            t = all_at(step, x0)
            a, s = signal_and_noise(denoiser.schedule, t, x0)
            apart = e0 - eps_hat(denoiser, a * x0 + s * e0, t, rows.cond)
            found.append(torch.stack([norm(apart, 4), *([norm(low_pass(apart), 4)] if self.low else [])]))
        return torch.stack(found, dim=2)[..., None]


class PIAN(PIA):
    """pian_l4   as pia_l4, with e0 scaled so that its mean absolute value is sqrt(2/pi), that of a standard normal.

    Source: arXiv:2305.18355.  Differs from source: the paper prints sqrt(pi/2); its released code and this use sqrt(2/pi).
    """

    name = "pian"
    TABLES = ("pian_l4",)
    FILTERED = ("pian_l4_low",)

    def start(self, e0):
        """e0 at the mean size of standard normal noise; zeros stay zeros."""
        size = e0.abs().mean(dim=(1, 2, 3), keepdim=True)
        return e0 * (math.sqrt(2 / math.pi) / size.clamp(min=torch.finfo(e0.dtype).tiny))

"""The SimA probe: the size of the noise that the model sees in the clean image itself."""

import torch

from audit.probes.base import Probe, eps_hat, norm, shares, signal_and_noise


class SimA(Probe):
    """Two queries per timestep, no noise added.

    sima_l4          || eps_hat(x, t) ||_4, the image as it is
    sima_scaled_l4   || eps_hat(sqrt(abar_t) x, t) ||_4, the image as bright as the model expects it at t

    Source: arXiv:2509.25003; the released code queries x, its theory sqrt(abar_t) x.
    """

    name = "sima"
    TABLES = ("sima_l4", "sima_scaled_l4")
    ROW = "timestep"
    DRAWS = 0
    CALLS_PER_ROW = 2
    own_timesteps = staticmethod(shares(0.05, 0.1, 0.15, 0.2))

    def rows(self, denoiser, rows, clip):
        """Two passes -> (2, B, 1) float64."""
        a, _ = signal_and_noise(denoiser.schedule, rows.t, rows.x0)
        return torch.stack([norm(eps_hat(denoiser, query, rows.t, rows.cond), 4) for query in (rows.x0, a * rows.x0)])[..., None]

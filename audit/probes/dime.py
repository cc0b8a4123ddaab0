"""The DIME probe: how large the model's answer around the image is, and how fast it changes there."""

import numpy as np
import torch

from audit.probes.base import Probe, eps_hat, norm, shares, signal_and_noise
from models.schedule import per_image

GAMMA = 0.2  # length of a step along a direction, in units of sigma_t
DIRECTIONS = 10


class DIME(Probe):
    """Two tables, one draw per direction z in {-1, +1}^d, the sign of the noise bank's draw; g = sqrt(abar_t) x, sigma_t = sqrt(1 - abar_t).

    dime_bias     sigma_t || eps_hat(g + gamma sigma_t z, t) ||_2                                          the paper's B, times sigma_t
    dime_spread   sigma_t^3 z . (eps_hat(g + gamma sigma_t z, t) - eps_hat(g, t)) / (gamma sigma_t)        its D (Hutchinson's estimate), times sigma_t^3

    In these units M = mean(dime_bias)^2 - mean(dime_spread), and at one timestep a factor changes nothing that is standardised.
    eps_hat(g, t) is asked once for all directions: q + 1 calls.
    Source: arXiv:2608.22824.  Differs from source: the directions are the same for all images.
    """

    name = "dime"
    TABLES = ("dime_bias", "dime_spread")
    ROW = "timestep"
    DRAWS = DIRECTIONS
    EXACT = True
    own_timesteps = staticmethod(shares(0.05, 0.1, 0.15, 0.2))

    def row_calls(self, timesteps, draws, length):
        """The base query and one per direction."""
        return draws + 1

    def rows(self, denoiser, rows, clip):
        """q + 1 passes -> (2, B, q) float64."""
        x0, t = rows.x0, rows.t
        a, _ = signal_and_noise(denoiser.schedule, t, x0)
        base = eps_hat(denoiser, a * x0, t, rows.cond)
        sigma = torch.as_tensor(np.sqrt(1 - denoiser.schedule.alphas_cumprod), dtype=torch.float64)[t].to(x0.device)
        step = per_image(GAMMA * np.sqrt(1 - denoiser.schedule.alphas_cumprod), t, x0)
        bias, spread = [], []
        for k in range(rows.eps.shape[1]):
            z = torch.where(rows.eps[:, k] < 0, -1.0, 1.0).to(x0.dtype)
            moved = eps_hat(denoiser, a * x0 + step * z, t, rows.cond)
            bias.append(sigma * norm(moved, 2))
            spread.append(sigma**2 * (z * (moved - base)).double().sum(dim=(1, 2, 3)) / GAMMA)
        return torch.stack([torch.stack(bias, dim=1), torch.stack(spread, dim=1)])

"""The untrained probe: what the network's own shape says of an image before it has seen any. What tells the sets apart here is in the images, not in the training."""

import copy
import weakref

import torch

from audit.probes.base import Probe, mean_square, shares, signal_and_noise

SEED = 0
SPREAD = 0.02  # of parameters that no layer knows how to reset


class Untrained(Probe):
    """untrained/eps_mse   mean over pixels of (eps_hat - eps)^2 at x_t, asked of a copy of the network with freshly drawn weights; dimensionless.

    Its 8 timesteps are features of the blind baseline; no attack reads it. Through an API the copy is asked through the same one.
    """

    name = "untrained"
    VERSION = 2
    OF_TARGET = True
    TABLES = ("untrained/eps_mse",)
    DRAWS = 1
    EXACT = True
    own_timesteps = staticmethod(shares(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9))

    def __init__(self):
        self._made = weakref.WeakKeyDictionary()  # denoiser -> its untrained copy

    def copy_of(self, denoiser):
        """The untrained Denoiser that stands beside this one; made once."""
        if denoiser not in self._made:
            self._made[denoiser] = untrained(denoiser)
        return self._made[denoiser]

    def rows(self, denoiser, rows, clip):
        """One pass of the copy -> (1, B) float64."""
        fresh, (a, s) = self.copy_of(denoiser).to(rows.x0.device), signal_and_noise(denoiser.schedule, rows.t, rows.x0)
        eps_hat = fresh.predict(a * rows.x0 + s * rows.eps, rows.t, rows.cond).eps_hat.to(rows.x0.dtype)
        return mean_square(eps_hat - rows.eps)[None]


def untrained(denoiser):
    """A Denoiser of the same kind with weights drawn anew, the same every time; the given one stays as it is."""
    fresh = denoiser.with_network(copy.deepcopy(denoiser.network).cpu())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        for module in fresh.network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(std=SPREAD)
    return fresh

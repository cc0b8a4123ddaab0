"""Denoisers without a network, whose answers are known in closed form: for tests and for the classroom.

    Oracle      knows every x0: no loss at any t; any slip in t, in a sign or in a reduction shows at once
    Gaussian    the exact minimiser when x0 ~ N(0, s2): nothing is memorised, so every attack must stay at AUC 0.5
    Memoriser   the exact minimiser for a finite training set: the worst leak there is

All take any (C,H,W), any batch, float32 or float64.
"""

import hashlib

import numpy as np
import torch

from models.base import CheckpointInfo, Denoiser, Prediction
from models.errors import CheckpointError
from models.schedule import Schedule, from_betas, per_image


def small_schedule(steps=20, first=0.999, last=0.3):
    """A Schedule with log(SNR) falling on a straight line, abar from `first` at t = 0 to `last` at t = steps - 1."""
    logit = np.linspace(np.log(first / (1 - first)), np.log(last / (1 - last)), steps)
    abar = 1 / (1 + np.exp(-logit))
    return from_betas(1 - abar / np.append(1.0, abar[:-1]))


class _Toy(Denoiser):
    """A Denoiser that answers with x0_hat; eps_hat follows from it."""

    def __init__(self, schedule: Schedule, image_shape, identity):
        name = type(self).__name__
        digest = hashlib.sha256(f"{name} {tuple(image_shape)}".encode() + schedule.alphas_cumprod.tobytes() + identity).hexdigest()
        info = CheckpointInfo(digest, "toy", name, 0, "only", "epsilon", len(schedule), tuple(image_shape), ())
        super().__init__(torch.nn.Identity(), schedule, image_shape, "epsilon", "fixed_small", info)
        self.measurable = np.ones(len(schedule), dtype=bool)  # x0_hat is known first, so nothing is divided by abar

    def predict(self, xt, t, cond=None):
        """See Denoiser.predict; exact in the dtype of xt."""
        t = torch.as_tensor(t, dtype=torch.int64).cpu()
        a = per_image(np.sqrt(self.schedule.alphas_cumprod), t, xt)
        s = per_image(np.sqrt(1 - self.schedule.alphas_cumprod), t, xt)
        x0_hat = self._x0_hat(xt, t, a, s, cond)
        return Prediction((xt - a * x0_hat) / s, x0_hat, None)

    def _x0_hat(self, xt, t, a, s, cond):
        raise NotImplementedError(f"{type(self).__name__} gives no x0_hat")


class _Knowing(_Toy):
    """A toy that holds images, (M,C,H,W)."""

    def __init__(self, x0, schedule):
        self.x0 = torch.as_tensor(x0)
        if self.x0.ndim != 4 or not len(self.x0):
            raise CheckpointError(f"A toy needs images (M,C,H,W), got {tuple(self.x0.shape)}.")
        super().__init__(schedule, self.x0.shape[1:], np.ascontiguousarray(self.x0.double().numpy()).tobytes())

    def _log_likelihood(self, xt, a, s):
        """(N,M) float64, log p(x_t | x0 = image m) up to a constant per row."""
        known = self.x0.to(xt.device, torch.float64).flatten(1)
        a, s = a.double().view(-1, 1), s.double().view(-1, 1)
        return (a * (xt.double().flatten(1) @ known.T) - a**2 * (known**2).sum(1) / 2) / s**2

    def _pick(self, weights, like):
        """Weighted sums of the images, (N,C,H,W), in the dtype of `like`."""
        known = self.x0.to(like.device, torch.float64)
        return (weights @ known.flatten(1)).view(-1, *known.shape[1:]).to(like.dtype)


class Oracle(_Knowing):
    """Returns the image that x_t was made from, so eps_hat = eps and every loss is 0 to rounding.

    Which image it was: `cond` (N,) indices when given, else the most likely one. That is certain for a single image on any schedule, and for many
    while they lie far apart beside the noise, a·|x_i - x_j| > 10 s: random black-and-white pictures of 150 pixels or more on small_schedule().

    Args: x0: (M,C,H,W), all images that will be asked about; schedule: models.schedule.Schedule.
    """

    def _x0_hat(self, xt, t, a, s, cond):
        index = self._log_likelihood(xt, a, s).argmax(1) if cond is None else torch.as_tensor(cond, device=xt.device)
        return self.x0.to(xt.device)[index].to(xt.dtype)


class Gaussian(_Toy):
    """E[x0 | x_t] for independent pixels x0 ~ N(0, s2): x0_hat = a·s2·x_t / (a²·s2 + s²), with a² = abar, s² = 1 - abar.

    Its mean eps_mse is 1 - (1 - abar) / (abar·s2 + 1 - abar).
    """

    def __init__(self, variance, schedule, image_shape):
        self.data_variance = float(variance)
        super().__init__(schedule, image_shape, repr(self.data_variance).encode())

    def _x0_hat(self, xt, t, a, s, cond):
        return a * self.data_variance / (a**2 * self.data_variance + s**2) * xt

    def expected_eps_mse(self):
        """float64 (T,), the closed form above."""
        abar = self.schedule.alphas_cumprod
        return 1 - (1 - abar) / (abar * self.data_variance + 1 - abar)


class Memoriser(_Knowing):
    """E[x0 | x_t] when x0 is one of the training images, each equally likely: x0_hat = sum_m softmax(-|x_t - a·x_m|² / (2 s²))_m x_m.

    What a network that reaches its training optimum computes.  Args: x0: (M,C,H,W) training images; schedule.
    """

    def _x0_hat(self, xt, t, a, s, cond):
        return self._pick(torch.softmax(self._log_likelihood(xt, a, s), dim=1), xt)

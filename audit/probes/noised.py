"""The noised probe: add noise to an image, ask the model once, and measure how wrong it was in every way that attacks use.

x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps; one forward pass at (x_t, t) gives every table.
"""

import math

import numpy as np
import torch

from audit.probes.base import Probe, Rows
from audit.probes.lowpass import low_pass
from models.base import posterior_log_variance
from models.schedule import per_image

LOG_2 = math.log(2)
DIMS = (1, 2, 3)


class Noised(Probe):
    """Tables of one noised forward pass per (image, t, draw); every mean is over pixels and channels.

    eps_mse       mean (eps_hat - eps)^2, from the raw prediction; dimensionless
    x0_mse        mean (x0_hat - x0)^2, x0_hat clamped to [-1, 1] when `clip`
    vlb_bits      the bound's term L_t in bits per dimension: for t > 0 KL( q(x_(t-1) | x_t, x0) || p(x_(t-1) | x_t) ), with the model's mean from the
                  same x0_hat and the network's own variance where it has one; for t = 0 minus log2 of the discretised likelihood (NaN for latents)
    eps_hat_l2    ( sum over pixels |eps_hat|^2 )^(1/2)
    eps_hat_l4    ( sum over pixels |eps_hat|^4 )^(1/4)
    eps_mse_low, x0_mse_low   eps_mse and x0_mse after audit.probes.lowpass, only where asked for; unclamped, at one timestep one is the other times a constant
    x0_8bit_mse   mean (Q(clamp(x0_hat)) - x0)^2 with Q = rounding to the 8-bit grid k/127.5 - 1: what an API shows (NaN for latents)

    Source: arXiv:2302.07801 on improved-diffusion `gaussian_diffusion.py:calc_bpd_loop`; the norms: SimA, DIME.
    Differs from source: eps_mse is not recomputed from the clamped x0_hat; the noise is shared by all images.
    """

    name = "noised"
    VERSION = 2
    TABLES = ("eps_mse", "x0_mse", "vlb_bits", "eps_hat_l2", "eps_hat_l4", "x0_8bit_mse")
    CALLS_PER_ROW = 1
    FILTERED = ("eps_mse_low", "x0_mse_low")

    def defined(self, denoiser, timesteps):
        """bool (6 or 8,K): no table where the output cannot be read as both eps_hat and x0_hat (an epsilon-model at abar below 1e-6); the rest see above."""
        t = np.asarray(timesteps, dtype=np.int64)
        out = np.tile(denoiser.measurable[t], (len(self.TABLES), 1))
        if not denoiser.pixel_space:
            out[self.TABLES.index("vlb_bits")] &= t != 0
            out[self.TABLES.index("x0_8bit_mse")] = False
        return out

    def rows(self, denoiser, rows: Rows, clip):
        """One forward pass -> (6 or with `low` 8, B) float64, in the order of TABLES."""
        x0, eps, t = rows.x0, rows.eps, rows.t
        schedule = denoiser.schedule
        xt = (per_image(np.sqrt(schedule.alphas_cumprod), t, x0) * x0).addcmul_(per_image(np.sqrt(1 - schedule.alphas_cumprod), t, x0), eps)
        prediction = denoiser.predict(xt, t, rows.cond)
        eps_hat, x0_hat = prediction.eps_hat.to(x0.dtype), prediction.x0_hat.to(x0.dtype)
        clamped = x0_hat.clamp(-1, 1) if clip or denoiser.pixel_space else x0_hat
        kept = clamped if clip else x0_hat
        error = kept - x0
        x0_mse = _mean_square(error)
        squared = eps_hat.square()
        l2, l4 = torch.linalg.vector_norm(eps_hat, dim=DIMS).double(), torch.linalg.vector_norm(squared, dim=DIMS).double().sqrt()
        vlb = _vlb_bits(denoiser, rows, kept, error, x0_mse, prediction.log_variance)
        shown = _mean_square(_round_to_8_bit(clamped).sub_(x0)) if denoiser.pixel_space else torch.full_like(x0_mse, math.nan)
        wrong = eps_hat - eps
        low = [_mean_square(low_pass(wrong)), _mean_square(low_pass(error))] if self.low else []
        return torch.stack([_mean_square(wrong), x0_mse, vlb, l2, l4, shown, *low])


def _mean_square(values):
    """(B,C,H,W) -> (B,) float64; the norm is one pass over memory and needs no second array."""
    return torch.linalg.vector_norm(values, dim=DIMS).double().square() / values[0].numel()


def _round_to_8_bit(x0_hat):
    """The picture an API shows: x0_hat in [-1, 1] on the grid k/127.5 - 1; a new tensor."""
    return x0_hat.add(1).mul_(127.5).round_().div_(127.5).sub_(1)


def _vlb_bits(denoiser, rows, x0_hat, error, x0_mse, log_variance):
    """(B,) float64 terms of the bound, bits per dimension.

    With r = log betatilde - log sigma^2 and k = ((betatilde_t's coefficient of x0)^2 / betatilde_t) = SNR_(t-1) - SNR_t the KL per pixel is
    1/2 [ e^r - 1 - r + k e^r (x0_hat - x0)^2 ]; with a fixed variance it needs x0_mse only. float64 where r is one number per row; where it is
    one per pixel, expm1 keeps float32 from cancelling.
    Source: Ho et al. 2020 eq. 5-7; improved-diffusion `gaussian_diffusion.py:_vb_terms_bpd`.
    """
    schedule, t = denoiser.schedule, rows.t
    snr_gain = _gain(schedule)
    log_posterior = posterior_log_variance(schedule, "fixed_small")
    if log_variance is None:
        log_fixed = posterior_log_variance(schedule, denoiser.variance)
        r = log_posterior - log_fixed
        constant, factor = (np.expm1(r) - r) / 2, np.exp(r) * snr_gain / 2
        nats = _per_row(constant, t, x0_mse) + _per_row(factor, t, x0_mse) * x0_mse
    else:
        log_variance = log_variance.to(error.dtype)
        r = per_image(log_posterior, t, error) - log_variance
        inner = per_image(snr_gain, t, error) * error.square()
        nats = torch.expm1(r).sub_(r).addcmul_(r.exp(), inner).mean(dim=DIMS, dtype=torch.float64) / 2
    first = torch.nonzero(t == 0).flatten()  # t lies on the CPU: no wait for the device
    if len(first):
        nats = nats.index_copy(0, first.to(nats.device, non_blocking=True), _first_term(denoiser, rows, x0_hat, log_variance, first))
    return nats / LOG_2


def _gain(schedule):
    """float64 (T,): SNR_(t-1) - SNR_t; entry 0, where SNR_(-1) is infinite, is never used and 0."""
    snr = schedule.snr
    return np.append(0.0, snr[:-1] - snr[1:])


def _per_row(values, t, like):
    """values[t] as (B,) float64 on the device of `like`."""
    return torch.as_tensor(values, dtype=torch.float64)[t].to(like.device, non_blocking=True)


def _first_term(denoiser, rows, x0_hat, log_variance, first):
    """Minus the discretised Gaussian log-likelihood of rows `first` (t = 0, where the model's mean is x0_hat), nats per dimension, float64."""
    if not denoiser.pixel_space:
        return torch.full((len(first),), math.nan, dtype=torch.float64, device=x0_hat.device)
    index = first.to(x0_hat.device, non_blocking=True)
    x0, mean = rows.x0[index].double(), x0_hat[index].double()  # few rows; the difference of two CDFs near 1 needs float64
    if log_variance is None:
        scale = torch.full_like(x0, math.exp(-0.5 * posterior_log_variance(denoiser.schedule, denoiser.variance)[0]))
    else:
        scale = torch.exp(-0.5 * log_variance[index].double())
    upper, lower = _normal_cdf(scale * (x0 - mean + 1 / 255)), _normal_cdf(scale * (x0 - mean - 1 / 255))
    inside = torch.where(x0 < -0.999, upper, torch.where(x0 > 0.999, 1 - lower, upper - lower))  # the bins of black and white are open
    return -inside.clamp(min=1e-12).log().mean(dim=DIMS)


def _normal_cdf(x):
    """tanh approximation of the standard normal CDF that the source uses (error below 3e-4); kept, so that numbers compare."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

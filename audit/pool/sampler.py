"""Pictures from a model's own sampler, from `predict` and `schedule` alone: deterministic (DDIM) in chosen steps, or ancestral through every step.

Sample i follows from (seed, i) alone: its start noise, and for ancestral sampling the noise of each step, are drawn on the CPU by the hash of both.
"""

import hashlib
import math

import numpy as np
import torch

from audit.presets import grid
from models.base import posterior_log_variance
from models.errors import CheckpointError

SAMPLERS = ("ddim", "ancestral")
START = -1  # the "timestep" of the start noise


def noise_of(seed, index, t, shape):
    """Standard normal (C,H,W) float32 on the CPU that belongs to sample `index` at timestep t; t = START: where it begins."""
    digest = hashlib.sha256(f"pool/{int(seed)}/{int(index)}/{int(t)}".encode()).digest()
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1))


def path_of(denoiser, sampler, steps):
    """Timesteps of a generation, noisiest first: `steps` spread evenly from T-1 to 0 (DDIM), or all (ancestral); those that the model cannot answer at are left out."""
    length = len(denoiser.schedule)
    path = grid(min(steps, length), length) if sampler == "ddim" else np.arange(length)
    return [int(t) for t in path[::-1] if denoiser.measurable[t]]


def calls_per_sample(denoiser, sampler, steps):
    """Network calls of one sample."""
    return len(path_of(denoiser, sampler, steps))


def draw(denoiser, indices, sampler="ddim", steps=50, seed=0, cond=None, should_stop=None):
    """Finished samples of a model.

    Args:
        denoiser: models.base.Denoiser in evaluation mode, on its device.
        indices: B ints, which samples; sampler: one of SAMPLERS; steps: of DDIM, at most T, not used by the ancestral sampler.
        seed: of the pool; cond: as `predict` takes it, one for each sample: classes int64 (B,), or embeddings (B,tokens,width) of captions; None for
            unconditional models, and for the empty prompt.
        should_stop(): asked before every step.
    Returns: uint8 (B,H,W,C), 0-255, on the CPU; latents are decoded.
    Raises: audit.engine.Stopped; CheckpointError: the sampler returned NaN or infinity (names the step).
    """
    from audit.engine import arithmetic, device_of

    device = device_of(denoiser)
    with arithmetic("fp32", device):
        first = noise_of(seed, 0, START, latent_shape(denoiser, device))
        start = torch.stack([noise_of(seed, i, START, tuple(first.shape)) for i in indices]).to(device)
        path, cond = path_of(denoiser, sampler, steps), None if cond is None else torch.as_tensor(cond, device=device)
        if sampler == "ddim":
            x0 = ddim(denoiser, start, path, cond, should_stop)
        elif sampler == "ancestral":
            x0 = ancestral(denoiser, start, path, cond, lambda t: torch.stack([noise_of(seed, i, t, tuple(first.shape)) for i in indices]), should_stop)
        else:
            raise CheckpointError(f"sampler is {str(sampler)[:40]!r}. Expected one of {', '.join(SAMPLERS)}.")
        return to_pictures(denoiser, x0)


def latent_shape(denoiser, device):
    """(C,H,W) that the network works on."""
    if denoiser.pixel_space:
        return tuple(denoiser.image_shape)
    return tuple(denoiser.encode(torch.zeros((1, *denoiser.image_shape), device=device)).shape[1:])


def ddim(denoiser, xt, path, cond=None, should_stop=None):
    """x0 at the end of a deterministic generation: x_to = sqrt(abar_to) x0_hat + sqrt(1 - abar_to) eps_hat from step to step, then x0_hat.

    Args: xt: (B,C,H,W) standard normal; path: timesteps, noisiest first. x0_hat is clamped to [-1, 1] for models of pixels.
    Source: Song et al. 2021 (DDIM) eq. 12 with sigma = 0; the clamp, after which eps_hat stays the raw prediction, as in diffusers' DDIMScheduler.
    """
    abar = denoiser.schedule.alphas_cumprod
    for t, to in zip(path, [*path[1:], None], strict=True):
        x0_hat, prediction = _predicted(denoiser, xt, t, cond, should_stop)
        xt = x0_hat if to is None else math.sqrt(abar[to]) * x0_hat + math.sqrt(1 - abar[to]) * prediction.eps_hat.to(xt.dtype)
    return xt


def ancestral(denoiser, xt, path, cond=None, noise=None, should_stop=None):
    """x0 at the end of an ancestral generation through every step of `path`.

    mean = sqrt(abar_to) beta / (1 - abar_t) x0_hat + sqrt(1 - beta) (1 - abar_to) / (1 - abar_t) x_t with beta = 1 - abar_t / abar_to, plus exp(log sigma_t^2 / 2)
    times noise but for the last step.

    Args: as for `ddim`; noise(t): (B,C,H,W) standard normal of a step. sigma is the network's own where it has one.
    Source: Ho et al. 2020, algorithm 2 and eq. 7; x0_hat clamped for models of pixels, as in diffusers' DDPMScheduler.
    """
    abar, log_variance = denoiser.schedule.alphas_cumprod, None
    if denoiser.variance in ("fixed_small", "fixed_large"):
        log_variance = posterior_log_variance(denoiser.schedule, denoiser.variance)
    for t, to in zip(path, [*path[1:], None], strict=True):
        x0_hat, prediction = _predicted(denoiser, xt, t, cond, should_stop)
        before = 1.0 if to is None else abar[to]
        beta = 1 - abar[t] / before
        xt = math.sqrt(before) * beta / (1 - abar[t]) * x0_hat + math.sqrt(1 - beta) * (1 - before) / (1 - abar[t]) * xt
        if to is not None:
            spread = math.exp(log_variance[t] / 2) if log_variance is not None else (prediction.log_variance.to(xt.dtype) / 2).exp()
            xt = xt + spread * noise(t).to(xt)
    return xt


def _predicted(denoiser, xt, t, cond, should_stop):
    """(x0_hat, clamped for pixels; Prediction) at timestep t."""
    from audit.engine import Stopped

    if should_stop is not None and should_stop():
        raise Stopped
    prediction = denoiser.predict(xt, torch.full((len(xt),), t, dtype=torch.int64), cond)
    x0_hat = prediction.x0_hat.to(xt.dtype)
    if not bool(torch.isfinite(x0_hat).all()):
        wrong = int((~torch.isfinite(x0_hat)).flatten(1).any(dim=1).sum())
        raise CheckpointError(f"The sampler met NaN or infinity at t = {t} in {wrong} of {len(xt)} samples. Expected finite numbers: check that the weights are whole.")
    return (x0_hat.clamp(-1, 1) if denoiser.pixel_space else x0_hat), prediction


def to_pictures(denoiser, x0):
    """uint8 (B,H,W,C) on the CPU of x0 in model space."""
    pictures = denoiser.decode(x0).clamp(-1, 1)
    return ((pictures.double() + 1) * 127.5).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

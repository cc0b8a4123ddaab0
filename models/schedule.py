"""Noise schedules in float64 and the conversions between epsilon, x0 and v.

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps        t is 0-based: t = 0 is the least noisy

The float32 arrays of diffusers' schedulers are already off by 2e-4 (relative, in 1 - abar_0), so abar is made here in float64 from the
configuration, by the scheduler's own formula, and only checked against the scheduler's array.
"""

import math
import re
from dataclasses import dataclass, replace

import numpy as np
import torch

from models.errors import CheckpointError

RELATIVE_TOLERANCE = 5e-3  # in 1 - abar: above float32's own error (cosine, 4,000 steps: 3e-3), far below any wrong formula


@dataclass(frozen=True)
class Schedule:
    """A discrete noise schedule.

    Attributes:
        alphas_cumprod: float64 (T,), decreasing, in [0, 1).
        betas: float64 (T,), 1 - abar_t / abar_(t-1) with abar_(-1) = 1, in (0, 1].
        timestep_map: int64 (T,), what the network is told for each t (identity unless the schedule is respaced).
    """

    alphas_cumprod: np.ndarray
    betas: np.ndarray
    timestep_map: np.ndarray

    def __len__(self):
        return len(self.alphas_cumprod)

    @property
    def snr(self):
        """float64 (T,), abar / (1 - abar), decreasing."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    @property
    def alphas_cumprod_prev(self):
        """float64 (T,), abar of the schedule's previous, less noisy step; 1 at t = 0."""
        return np.append(1.0, self.alphas_cumprod[:-1])


def from_betas(betas):
    """Schedule from float64 (T,) betas in (0, 1]."""
    betas = np.asarray(betas, dtype=np.float64)
    if betas.ndim != 1 or not len(betas) or not np.all((betas > 0) & (betas <= 1)):
        raise CheckpointError("The noise schedule has betas outside (0, 1]. Expected one number in (0, 1] per timestep: check beta_start, beta_end and trained_betas.")
    return Schedule(np.cumprod(1 - betas), betas, np.arange(len(betas), dtype=np.int64))


def betas_for(config):
    """float64 (T,) betas of a diffusers scheduler configuration.

    Args:
        config: dict with num_train_timesteps, beta_schedule, beta_start, beta_end and, where they apply, trained_betas, rescale_betas_zero_snr.
    Raises: CheckpointError: the schedule's name is unknown.
    Source: diffusers 0.42 `schedulers/scheduling_ddpm.py` and `scheduling_ddim.py`, in float64 instead of float32.
    """
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], dtype=np.float64)
    else:
        steps = int(config.get("num_train_timesteps", 1000))
        start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
        name = config.get("beta_schedule", "linear")
        if name == "linear":
            betas = np.linspace(start, end, steps)
        elif name == "scaled_linear":
            betas = np.linspace(start**0.5, end**0.5, steps) ** 2
        elif name in ("squaredcos_cap_v2", "cosine"):
            betas = _betas_for_alpha_bar(lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2, steps)
        elif name == "laplace":
            betas = _betas_for_alpha_bar(_laplace_alpha_bar, steps)
        elif name == "exp":
            betas = _betas_for_alpha_bar(lambda u: math.exp(-12 * u), steps)
        elif name == "sigmoid":
            betas = 1 / (1 + np.exp(-np.linspace(-6, 6, steps))) * (end - start) + start
        else:
            raise CheckpointError(
                f"The scheduler names the beta schedule {str(name)[:40]!r}. "
                "Expected linear, scaled_linear, squaredcos_cap_v2, sigmoid, laplace, exp or trained_betas: check scheduler_config.json."
            )
    return _zero_terminal_snr(betas) if config.get("rescale_betas_zero_snr") else betas


def openai_betas(name, steps):
    """float64 (T,) betas of improved- and guided-diffusion.

    linear: from 1e-4 to 0.02, both times 1000 / T;  cosine: abar(u) = cos²((u + 0.008) / 1.008 · π/2), betas at most 0.999.

    Raises: CheckpointError: another name.
    Source: improved-diffusion `gaussian_diffusion.py:get_named_beta_schedule`; Nichol & Dhariwal 2021, eq. 17.
    """
    if name == "linear":
        return np.linspace(0.1 / steps, 20 / steps, steps)
    if name in ("cosine", "squaredcos_cap_v2"):
        return betas_for({"beta_schedule": "cosine", "num_train_timesteps": steps})
    raise CheckpointError(f"beta_schedule is {str(name)[:40]!r}. Expected linear or cosine, as improved- and guided-diffusion define them.")


def float32_linear_betas(start, end, steps):
    """float64 (T,) betas on a float32 line that does not depend on T, as pytorch-ddpm's `diffusion.py` makes them (torch.linspace, then double)."""
    return torch.linspace(start, end, steps, dtype=torch.float32).double().numpy()


def respace(schedule, respacing):
    """The schedule that a model is sampled with when only some of its steps are kept.

    Args:
        schedule: Schedule of all T steps; respacing: "" keeps all; "100" spreads 100 steps evenly; "10,15,20" cuts the T steps into three parts of equal
            length and spreads 10, 15, 20 in them; "ddim50" takes every n-th step from 0, with the n that gives exactly 50.
    Returns: Schedule with the kept abar, betas between them, and timestep_map = their indices in the full schedule.
    Raises: CheckpointError: not of these forms, or more steps than there are.
    Source: improved-diffusion `respace.py:space_timesteps`, `SpacedDiffusion`.
    """
    kept = kept_steps(len(schedule), respacing)
    abar = schedule.alphas_cumprod[kept]
    spaced = from_betas(1 - abar / np.append(1.0, abar[:-1]))
    return replace(spaced, timestep_map=schedule.timestep_map[kept])


def kept_steps(steps, respacing):
    """int64 indices, increasing, that `respace` keeps of `steps`."""
    if respacing == "":
        return np.arange(steps)
    if ddim := re.fullmatch(r"ddim([0-9]{1,6})", respacing):
        wanted = int(ddim[1])
        strides = (n for n in range(1, steps) if len(range(0, steps, n)) == wanted)
        stride = next(strides, None)
        if stride is None:
            raise CheckpointError(f"respacing is {respacing!r}, but no whole stride through {steps} steps keeps {wanted}. Expected ddim{-(-steps // 2)}, for instance.")
        return np.arange(0, steps, stride)
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6}){0,99}", respacing):
        raise CheckpointError(f'respacing is {respacing[:40]!r}. Expected "", a number of steps (100), one per section (10,10) or ddim with a number (ddim50).')
    counts = [int(part) for part in respacing.split(",")]
    kept, start = [], 0
    for index, count in enumerate(counts):
        size = steps // len(counts) + (index < steps % len(counts))
        if not 1 <= count <= size:
            raise CheckpointError(f"respacing is {respacing!r}, but section {index + 1} of {len(counts)} has {size} of the {steps} steps. Expected 1 to {size} there.")
        stride, position = ((size - 1) / (count - 1) if count > 1 else 1), 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride  # summed, not multiplied, as the source does: it decides which way a half is rounded
        start += size
    return np.array(sorted(set(kept)), dtype=np.int64)


def _betas_for_alpha_bar(alpha_bar, steps, max_beta=0.999):
    edges = np.array([alpha_bar(i / steps) for i in range(steps + 1)])
    return np.minimum(1 - edges[1:] / edges[:-1], max_beta)


def _laplace_alpha_bar(u):
    """diffusers' "laplace" transform: abar = sqrt(snr / (1 + snr)) with log snr following a Laplace quantile."""
    log_snr = -0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6)
    snr = math.exp(log_snr)
    return math.sqrt(snr / (1 + snr))


def _zero_terminal_snr(betas):
    """Shift and scale sqrt(abar) so that it ends at 0 (Lin et al. 2023, algorithm 1)."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    return 1 - np.append(abar[0], abar[1:] / np.maximum(abar[:-1], np.finfo(np.float64).tiny))


def check_against(schedule, scheduler_alphas_cumprod):
    """Raise CheckpointError unless the scheduler's own float32 array agrees to RELATIVE_TOLERANCE in 1 - abar."""
    theirs = 1 - np.asarray(scheduler_alphas_cumprod, dtype=np.float64)
    ours = 1 - schedule.alphas_cumprod
    if theirs.shape != ours.shape or not np.max(np.abs(theirs - ours) / ours) <= RELATIVE_TOLERANCE:
        raise CheckpointError("The scheduler's noise levels do not follow its own configuration. Expected one of diffusers' beta schedules: check scheduler_config.json.")


def per_image(values, t, like):
    """values[t] as a tensor that multiplies `like`.

    Args:
        values: float64 (T,); t: int64 (N,) tensor; like: (N,C,H,W) tensor that gives dtype and device.
    Returns: (N,1,1,1) tensor, rounded once from float64.
    """
    picked = torch.as_tensor(values, dtype=torch.float64)[t.cpu()]
    return picked.to(device=like.device, dtype=like.dtype, non_blocking=True).view(-1, 1, 1, 1)


def q_sample(schedule, x0, t, eps):
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps; x0, eps: (N,C,H,W); t: int64 (N,)."""
    abar = schedule.alphas_cumprod
    return per_image(np.sqrt(abar), t, x0) * x0 + per_image(np.sqrt(1 - abar), t, x0) * eps


def to_eps_and_x0(schedule, output, xt, t, prediction_type):
    """Network output -> (eps_hat, x0_hat), both (N,C,H,W), neither clamped.

    Args:
        output: (N,C,H,W), what the network predicts; xt: (N,C,H,W); t: int64 (N,); prediction_type: "epsilon", "v_prediction" or "sample".
    Source: Ho et al. 2020 eq. 15 (epsilon); Salimans & Ho 2022, appendix D (v = sqrt(abar) eps - sqrt(1-abar) x0).
    """
    a = per_image(np.sqrt(schedule.alphas_cumprod), t, xt)
    s = per_image(np.sqrt(1 - schedule.alphas_cumprod), t, xt)
    if prediction_type == "epsilon":
        return output, (xt - s * output) / a
    if prediction_type == "v_prediction":
        return a * output + s * xt, a * xt - s * output
    if prediction_type == "sample":
        return (xt - a * output) / s, output
    raise CheckpointError(f"prediction_type is {str(prediction_type)[:40]!r}. Expected epsilon, v_prediction or sample: check scheduler_config.json.")


def training_target(schedule, x0, eps, t, prediction_type):
    """What a network of that prediction type is trained to return, (N,C,H,W)."""
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "sample":
        return x0
    if prediction_type == "v_prediction":
        a = per_image(np.sqrt(schedule.alphas_cumprod), t, x0)
        s = per_image(np.sqrt(1 - schedule.alphas_cumprod), t, x0)
        return a * eps - s * x0
    raise CheckpointError(f"prediction_type is {str(prediction_type)[:40]!r}. Expected epsilon, v_prediction or sample.")

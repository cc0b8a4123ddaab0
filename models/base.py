"""What every checkpoint looks like to the rest of the project: a Denoiser.

A format (models/formats/) turns files into a Denoiser; probes ask it for nothing but `predict`.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from models.errors import CheckpointError
from models.schedule import Schedule, per_image, to_eps_and_x0
from models.settings import PREDICTION_TYPES, Setting

VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")
SMALLEST_SHARE = 1e-6  # of signal or noise in x_t, below which a model that predicts the other is not measured


@dataclass(frozen=True)
class Prediction:
    """One forward pass.

    Attributes:
        eps_hat: (N,C,H,W), predicted noise.
        x0_hat: (N,C,H,W), predicted clean image, never clamped.
        log_variance: (N,C,H,W) natural logarithm of the network's own reverse variance, or None where it is fixed.
    """

    eps_hat: torch.Tensor
    x0_hat: torch.Tensor
    log_variance: torch.Tensor | None


@dataclass(frozen=True)
class CheckpointInfo:
    """What was recognised, without tensors.

    Attributes:
        sha256: of the file, or over the sorted (relative path, file SHA-256) of the files used.
        format: registry name; architecture: class and width in words; parameters: count; weights: "ema", "raw" or "only".
        image_shape: (C,H,W) of the pictures; settings: how each setting was decided.
        confidence: "certain", "likely" (something was guessed or could not be checked) or "incomplete" (see missing); then prediction_type,
            train_timesteps and sizes in image_shape may be None.
        files: relative names of the files used; missing: what the files do not say and nobody gave; notes: what would change the answer, a line each.
    """

    sha256: str
    format: str
    architecture: str
    parameters: int
    weights: str
    prediction_type: str
    train_timesteps: int
    image_shape: tuple[int, int, int]
    settings: tuple[Setting, ...]
    confidence: str = "certain"
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self):
        """Plain dict for report.json and `inspect --json`."""
        lists = {"settings": [dataclasses.asdict(s) for s in self.settings]} | {name: list(getattr(self, name)) for name in ("image_shape", "files", "missing", "notes")}
        return dataclasses.asdict(self) | lists


class Denoiser:
    """A network with its schedule, seen through one method.

    Attributes:
        network: torch module called as `self.run_network(xt, t_network, cond)`.
        schedule: models.schedule.Schedule, float64.
        image_shape: (C,H,W) of pictures; latent models work on another shape, given by `encode`.
        prediction_type: one of PREDICTION_TYPES; variance: one of VARIANCES.
        pixel_space: True when `encode` is the identity, so that x0 lies in [-1, 1].
        info: CheckpointInfo.
        classes: number of class labels of a class-conditional model, which `predict` then needs as `cond`; None for every other model.
        captions: True when the model takes text: `cond` of `predict` is then what `embed` returns.
        measurable: (T,) bool, steps at which both eps_hat and x0_hat can be read off the output; where False, `predict` gives NaN for the one that cannot.
    """

    classes: int | None = None
    captions: bool = False

    def __init__(self, network, schedule: Schedule, image_shape, prediction_type, variance, info, pixel_space=True):
        if prediction_type not in PREDICTION_TYPES or variance not in VARIANCES:
            raise CheckpointError(f"prediction_type {prediction_type!r} with variance {variance!r} is not supported. Expected one of {PREDICTION_TYPES} and {VARIANCES}.")
        self.network, self.schedule, self.image_shape = network, schedule, tuple(image_shape)
        self.prediction_type, self.variance, self.info, self.pixel_space = prediction_type, variance, info, pixel_space
        self.measurable = measurable_steps(schedule, prediction_type)

    def predict(self, xt, t, cond=None):
        """One forward pass of the network.

        Args:
            xt: (N,C,H,W) float32, noised images in model space; t: (N,) int64, 0-based steps of `schedule`, CPU or device;
            cond: (N,) class labels of a model with `classes`; (N, tokens, width) embeddings of a model with `captions`, None = the empty caption; else not used.
        Returns: Prediction; nothing in it is clamped.
        """
        t = torch.as_tensor(t, dtype=torch.int64)
        t_network = torch.as_tensor(self.schedule.timestep_map)[t.cpu()].to(xt.device, non_blocking=True)
        output = self.run_network(xt, t_network, cond)
        log_variance = None
        if self.variance in ("learned", "learned_range"):
            output, raw = output.chunk(2, dim=1)
            log_variance = self._learned_log_variance(raw, t)
        eps_hat, x0_hat = to_eps_and_x0(self.schedule, output, xt, t, self.prediction_type)
        if not self.measurable.all():
            eps_hat, x0_hat = self._without_unmeasurable(eps_hat, x0_hat, t)
        return Prediction(eps_hat, x0_hat, log_variance)

    def _without_unmeasurable(self, eps_hat, x0_hat, t):
        """NaN in place of a division by (nearly) nothing: x0_hat of an epsilon model at pure noise, eps_hat of a sample model at no noise."""
        lost = torch.as_tensor(~self.measurable)[t.cpu()].to(x0_hat.device, non_blocking=True).view(-1, 1, 1, 1)
        if self.prediction_type == "epsilon":
            return eps_hat, x0_hat.masked_fill(lost, torch.nan)
        return eps_hat.masked_fill(lost, torch.nan), x0_hat

    def run_network(self, xt, t_network, cond):
        """Raw network output, (N,C or 2C,H,W)."""
        return self.network(xt, t_network).sample

    def _learned_log_variance(self, raw, t):
        if self.variance == "learned":  # the logarithm itself, as improved-diffusion's LEARNED; diffusers' DDPMScheduler.step would take it as the variance
            return raw
        smallest, largest = posterior_log_variance(self.schedule, "fixed_small"), np.log(self.schedule.betas)
        share = (raw + 1) / 2  # Nichol & Dhariwal 2021, eq. 15
        return share * per_image(largest, t, raw) + (1 - share) * per_image(smallest, t, raw)

    def encode(self, images):
        """(N,C,H,W) pictures in [-1, 1] -> x0 in model space; the identity for pixel models."""
        return images

    def decode(self, latents):
        """x0 in model space -> (N,C,H,W) pictures; the identity for pixel models."""
        return latents

    def embed(self, texts):
        """Captions as the network takes them.

        Args: texts: list of N strings; what is beyond the text encoder's length is cut off.
        Returns: (N, tokens, width) float32 on the CPU.
        Raises: CheckpointError: the model takes no captions.
        """
        raise CheckpointError("The model takes no captions. Expected a text-conditional checkpoint: leave the captions out.")

    def to(self, device):
        """Move the network; returns self."""
        self.network.to(device)
        return self


def labels_for(cond, classes, xt):
    """int64 (N,) class labels on the device of xt.

    Raises: CheckpointError: none given, or outside 0 … classes - 1.
    """
    if cond is None:
        raise CheckpointError(f"The model has {classes} classes and needs a label for every image. Expected cond of predict; audits of such models are not built yet.")
    labels = torch.as_tensor(cond)
    if labels.dtype.is_floating_point or labels.dtype == torch.bool or labels.shape != xt.shape[:1]:
        raise CheckpointError(f"Class labels are {labels.dtype} of shape {tuple(labels.shape)}. Expected one whole number for each of {len(xt)} images: correct cond.")
    # on another device the look at the values would wait for it at every step; the caller checks them once
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise CheckpointError(f"Class labels run from {int(labels.min())} to {int(labels.max())}. Expected 0 to {classes - 1}, the model's {classes} classes: correct cond.")
    return labels.to(device=xt.device, dtype=torch.int64)


def measurable_steps(schedule, prediction_type):
    """bool (T,): epsilon models where abar >= 1e-6, sample models where 1 - abar >= 1e-6, v models everywhere.

    Below, the other quantity is the output's rounding error divided by almost nothing (zero-terminal-SNR schedules divide by 0).
    """
    abar = schedule.alphas_cumprod
    if prediction_type == "epsilon":
        return abar >= SMALLEST_SHARE
    return 1 - abar >= SMALLEST_SHARE if prediction_type == "sample" else np.ones(len(abar), dtype=bool)


def posterior_log_variance(schedule, kind):
    """float64 (T,) log sigma_t^2 of the fixed reverse variances.

    fixed_small: beta~_t = beta_t (1 - abar_(t-1)) / (1 - abar_t), its entry 0 replaced by entry 1; fixed_large: beta_t, its entry 0 replaced by beta~_1.
    Source: Ho et al. 2020 eq. 7; the replacements at t = 0 follow improved-diffusion.
    """
    small = schedule.betas * (1 - schedule.alphas_cumprod_prev) / (1 - schedule.alphas_cumprod)
    first = small[1] if len(small) > 1 else schedule.betas[0]
    if kind == "fixed_small":
        return np.log(np.append(first, small[1:]))
    if kind == "fixed_large":
        return np.log(np.append(first, schedule.betas[1:]))
    raise CheckpointError(f"variance {kind!r} is not fixed. Expected fixed_small or fixed_large.")

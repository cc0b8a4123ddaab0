"""Does a checkpoint denoise the user's images at all? Asked before any time is spent on an audit.

At several noise levels the network's noise error is compared with that of the best single factor c in eps_hat = c·x_t. "No noise" (c = 0) and
"nothing but noise" are such factors, and so is what an untrained network of any prediction type amounts to; a trained network is far below.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from models.base import PREDICTION_TYPES, Prediction
from models.errors import CheckpointError, SelfTestFailed
from models.schedule import per_image, q_sample, to_eps_and_x0

SIGNAL_SHARES = (0.9, 0.7, 0.4, 0.15)  # abar of the steps tried: below 0.1 a picture's mean decides, above 0.95 its compression noise
LARGEST_RATIO = 0.9  # of the baseline, geometric mean over the steps; trained networks reach 0.1 to 0.5
CLEARLY_BETTER = 0.5  # another reading must halve the ratio, because an epsilon network read as v still denoises at small t
PIXEL_BUDGET = 2**19  # per step tried; 64 pictures up to 90 x 90, two of 512 x 512
BATCH = 16


@dataclass(frozen=True)
class StepError:
    """One step tried: t; error and baseline are mean squared errors of the noise, per pixel (1 = predicting no noise)."""

    t: int
    error: float
    baseline: float


@dataclass(frozen=True)
class SelfTest:
    """Outcome: error and baseline are means over the steps of per_t; hint is empty when it denoises, else what to check, in one line; better: the prediction type
    that denoises clearly where the checkpoint's own does not, or ""."""

    passed: bool
    error: float
    baseline: float
    per_t: tuple[StepError, ...]
    hint: str
    better: str = ""

    def require(self):
        """Raise SelfTestFailed unless it denoises; returns self."""
        if not self.passed:
            raise SelfTestFailed(
                f"The checkpoint does not denoise these images: noise error {self.error:.2f}, {self.baseline:.2f} by scaling the noisy image alone, 1 by predicting no noise. "
                f"{self.hint}"
            )
        return self

    def to_json(self):
        """Plain dict; numbers that are not finite become None."""
        return asdict(self) | {
            "error": _finite(self.error),
            "per_t": [{"t": s.t, "error": _finite(s.error), "baseline": s.baseline} for s in self.per_t],
        }


def _finite(value):
    return value if np.isfinite(value) else None


def self_test(denoiser, x0, seed=0, cond=None):
    """Measure a checkpoint on a few of the user's images.

    ratio = exp(mean over t of log(error_t / baseline_t)),  error_t = mean (eps_hat - eps)²,  baseline_t = min over c of mean (c·x_t - eps)²;
    passed when ratio <= 0.9 and no error_t reaches 1, the error of predicting no noise.

    Args:
        denoiser: models.base.Denoiser; x0: (N,C,H,W) in model space, NumPy or torch; the first 64 at most are used; seed: of the noise;
        cond: (N,) class labels of a class-conditional model.
    Returns: SelfTest.
    Raises: CheckpointError: the images have another shape than the model's.
    """
    x0, cond = _few(denoiser, x0, cond)
    steps = _steps(denoiser)
    errors = {kind: [] for kind in PREDICTION_TYPES}
    baselines, rng = [], torch.Generator().manual_seed(seed)
    for t in steps:
        eps = torch.randn(x0.shape, generator=rng)
        baselines.append(_baseline(denoiser.schedule, x0, eps, t))
        for kind, error in _errors(denoiser, x0, eps, t, cond).items():
            errors[kind].append(float(error.mean()))
    ratios = {kind: _ratio(values, baselines) for kind, values in errors.items()}
    own = denoiser.prediction_type
    better = min((k for k in PREDICTION_TYPES if k != own), key=ratios.get)
    misread = ratios[better] <= LARGEST_RATIO and ratios[better] < CLEARLY_BETTER * ratios[own]
    passed = ratios[own] <= LARGEST_RATIO and max(errors[own]) < 1 and not misread
    hint = "" if passed else _hint(denoiser, better, float(np.mean(errors[better])), misread)
    rows = tuple(StepError(t, e, b) for t, e, b in zip(steps, errors[own], baselines, strict=True))
    return SelfTest(bool(passed), float(np.mean(errors[own])), float(np.mean(baselines)), rows, hint, better if misread else "")


def _few(denoiser, x0, cond):
    """(images, labels) that the test uses. Raises CheckpointError: the images have another shape than the model's."""
    x0 = torch.as_tensor(x0, dtype=torch.float32)
    if x0.ndim != 4 or not len(x0) or (denoiser.pixel_space and tuple(x0.shape[1:]) != denoiser.image_shape):
        raise CheckpointError(
            f"The model takes {_times(denoiser.image_shape)} (channels x height x width), the images are {_times(x0.shape[1:])}. "
            "Convert the images or choose the checkpoint that fits."
        )
    few = int(np.clip(PIXEL_BUDGET // x0[0, 0].numel(), 2, 64))
    return x0[:few], None if cond is None else torch.as_tensor(cond)[:few]


def _times(shape):
    return " x ".join(str(n) for n in shape)


def _steps(denoiser, shares=SIGNAL_SHARES):
    """The steps whose abar is nearest to `shares`, each once, among those that can be measured."""
    usable = np.flatnonzero(denoiser.measurable)
    abar = denoiser.schedule.alphas_cumprod[usable]
    return sorted({int(usable[np.argmin(np.abs(abar - share))]) for share in shares})


def _baseline(schedule, x0, eps, t):
    """min over c of mean (c·x_t - eps)², the error of the best scaling of the noisy image."""
    xt = q_sample(schedule, x0, torch.full((len(x0),), t), eps).double()
    eps = eps.double()
    return float((eps**2).mean() - (xt * eps).mean() ** 2 / (xt**2).mean())


def _errors(denoiser, x0, eps, t, cond):
    """{prediction type: (N,) float64 mean (eps_hat - eps)² per image} at step t, the output read each way; infinity where it is not finite."""
    errors, schedule = {kind: [] for kind in PREDICTION_TYPES}, denoiser.schedule
    device = next((p.device for p in denoiser.network.parameters()), x0.device)
    for first in range(0, len(x0), BATCH):
        part = slice(first, first + BATCH)
        steps = torch.full((len(x0[part]),), t)
        xt, noise = q_sample(schedule, x0[part], steps, eps[part]).to(device), eps[part].to(device)
        with torch.inference_mode():
            output = _output(denoiser, denoiser.predict(xt, steps, None if cond is None else cond[part]), steps)
            for kind in PREDICTION_TYPES:
                eps_hat, _ = to_eps_and_x0(schedule, output, xt, steps, kind)
                errors[kind].append(((eps_hat - noise).double() ** 2).mean((1, 2, 3)).cpu())
    joined = {kind: torch.cat(values).numpy() for kind, values in errors.items()}
    return {kind: np.where(np.isfinite(values), values, np.inf) for kind, values in joined.items()}


def _output(denoiser, prediction: Prediction, steps):
    """What the network returned, from eps_hat and x0_hat."""
    if denoiser.prediction_type == "epsilon":
        return prediction.eps_hat
    if denoiser.prediction_type == "sample":
        return prediction.x0_hat
    abar = denoiser.schedule.alphas_cumprod
    return per_image(np.sqrt(abar), steps, prediction.eps_hat) * prediction.eps_hat - per_image(np.sqrt(1 - abar), steps, prediction.eps_hat) * prediction.x0_hat


def _ratio(errors, baselines):
    """Geometric mean of error over baseline; an exact prediction counts as 1e-12."""
    return float(np.exp(np.mean(np.log(np.maximum(errors, 1e-12)) - np.log(np.maximum(baselines, 1e-12)))))


def _hint(denoiser, better, error, misread):
    if misread:
        by = next((s.decided_by for s in denoiser.info.settings if s.name == "prediction_type"), "")
        by_file = by.endswith(".json") or (by == "default" and denoiser.info.format == "diffusers")  # a scheduler's file that is silent
        how = "set prediction_type in scheduler_config.json" if by_file else f"give --prediction-type {better}"
        return f"Prediction type {better} gives {error:.2g}: {how}."
    schedule = {s.name: s.value for s in denoiser.info.settings}.get("beta_schedule", "trained_betas")
    return (
        f"Check prediction type ({denoiser.prediction_type}), pixel range (-1 to 1), noise schedule ({schedule}, {len(denoiser.schedule)} steps), "
        f"image size ({_times(denoiser.image_shape[1:])}), and that the training was finished."
    )


RANK_SHARES = (0.98, 0.9, 0.75, 0.55, 0.35, 0.2, 0.08)
CLEAR_RATIO = 1.05  # the second best must be this much worse, in the geometric mean over images and steps
CLEAR_Z = 4.0  # and worse by this many standard errors over images


@dataclass(frozen=True)
class Ranking:
    """Candidates by how well they denoise, best first.

    Attributes:
        ratios: ((name, error over baseline, geometric mean), ...), best first.
        best: name of the one that is clearly better than all others and denoises, or None: the images cannot tell.
    """

    ratios: tuple[tuple[str, float], ...]
    best: str | None

    @property
    def words(self):
        """One line for people."""
        if self.best is not None:
            return f"On these images {self.best} denoises best (error {self.ratios[0][1]:.2f} of the baseline, next {self.ratios[1][0]}: {self.ratios[1][1]:.2f})."
        if len(self.ratios) > 1 and self.ratios[0][1] <= LARGEST_RATIO:
            return f"These images cannot tell: {self.ratios[0][0]} ({self.ratios[0][1]:.2f} of the baseline) and {self.ratios[1][0]} ({self.ratios[1][1]:.2f}) denoise alike."
        return "These images cannot tell: none of the candidates denoises them."


def rank(candidates, images, cond=None, seed=0):
    """Which reading of a checkpoint denoises these images best, if that can be told.

    Every candidate is asked at its own steps of (nearly) the same noise levels, with the same noise. The statistic is the mean over steps of
    log(error / baseline) per image; the best is named only when it denoises (ratio at most 0.9), and every other is worse by 5 % and by 4 standard errors
    of the paired difference over images.

    Args:
        candidates: {name: models.base.Denoiser}, all for the same images; images: (N,C,H,W) in model space, 8 or more to tell anything;
        cond: (N,) class labels; seed: of the noise.
    Returns: Ranking.
    Raises: CheckpointError: the images have another shape than the models'.
    """
    scores = {name: _log_ratios(denoiser, images, cond, seed) for name, denoiser in candidates.items()}
    order = sorted(scores, key=lambda name: scores[name].mean())
    ratios = tuple((name, float(np.exp(scores[name].mean()))) for name in order)
    clear = len(order) > 1 and ratios[0][1] <= LARGEST_RATIO and all(_clearly_worse(scores[name] - scores[order[0]]) for name in order[1:])
    return Ranking(ratios, order[0] if clear else None)


def _log_ratios(denoiser, images, cond, seed):
    """(N,) float64, mean over noise levels of log(error / baseline); a large number where the output is not finite."""
    x0, cond = _few(denoiser, images, cond)
    rows = []
    for level, share in enumerate(RANK_SHARES):
        t = _steps(denoiser, (share,))[0]
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + level))
        error = _errors(denoiser, x0, eps, t, cond)[denoiser.prediction_type]
        rows.append(np.log(np.clip(error, 1e-12, 1e12) / _baseline(denoiser.schedule, x0, eps, t)))
    return np.mean(rows, axis=0)


def _clearly_worse(difference):
    """True when a paired difference of log ratios, (N,), lies above both margins."""
    if len(difference) < 8 or difference.mean() < np.log(CLEAR_RATIO):
        return False
    return bool(difference.mean() > CLEAR_Z * difference.std(ddof=1) / np.sqrt(len(difference)))

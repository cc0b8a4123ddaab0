"""What the engine asks of a probe, and what most probes share."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from models.schedule import per_image

ROWS = ("draw", "timestep", "image")


@dataclass(frozen=True)
class Rows:
    """One batch of B rows; what one row is, the probe's ROW says.

    Attributes:
        x0: (B,C,H,W) on the model's device, float32 (float64 where a test asks for it).
        eps: noise on the same device, None for probes that draw none: (B,C,H,W) for ROW "draw"; (B,S,C,H,W) for "timestep";
            (S,NOISES_PER_DRAW,C,H,W), the same for all rows, for "image".
        t: int64 on the CPU, so that looking a coefficient up never waits for the device: (B,), or (K,) for ROW "image".
        cond: what `predict` takes beside x_t, a row each, on the same device: class labels int64 (B,) or caption embeddings (B,…); None = nothing.
        second: (B,C,H,W), the image as the probe's SECOND shows it, encoded; None where x0 itself is a picture, which the probe can change alone.
        at_once: images that one network call may hold, for probes that ask with several images per row (WIDTH); B is at most this.
    """

    x0: torch.Tensor
    eps: torch.Tensor | None
    t: torch.Tensor
    cond: torch.Tensor | None = None
    second: torch.Tensor | None = None
    at_once: int = 1


class Probe:
    """One kind of pass through the model.

    Attributes:
        name: its line in PROBES; also part of what seeds the noise.
        VERSION: raise it whenever a number changes: stored shards of another version are not reused.
        TABLES: names of its tables, all with a timestep axis, in the order of `rows`.
        ROW: what is measured at once: an image at one timestep with one noise draw ("draw"), with all draws ("timestep"), or at all timesteps ("image").
        DRAWS: 0 = it draws no noise, and its tables hold one draw; a number = so many in every audit; None = as many as the audit asks for.
        NOISES_PER_DRAW: pictures of noise behind one draw of the tables (ROW "image").
        WIDTH: images with which one row would best ask the network at once: batches get so many times fewer rows.
        CALLS_PER_ROW: network calls of one row, where `row_calls` says nothing else.
        SHARED_AT_ONCE: images of one network call among those that are made once for all images.
        FILTERED: tables that `low_passed` adds at no call; empty where no distance is filtered. low: whether this one makes them.
        OF_TARGET: its numbers are no score of a model: with a reference they are measured once, on the target.
        SECOND: a function pictures (B,C,H,W) -> pictures of the same shape: latent models get those encoded too, as Rows.second. None for most.
        EXACT: its numbers are differences of nearly equal predictions: float32 whatever the precision asked for.
    """

    name = ""
    VERSION = 1
    TABLES = ()
    ROW = "draw"
    DRAWS = None
    NOISES_PER_DRAW = 1
    WIDTH = 1
    CALLS_PER_ROW = 1
    SHARED_AT_ONCE = 1
    OF_TARGET = False
    EXACT = False
    SECOND = None
    FILTERED = ()
    low = False

    def low_passed(self):
        """This probe with its FILTERED tables after its others: a new one, whose other numbers are the same."""
        assert self.FILTERED, self.name
        other = copy.copy(self)
        other.low, other.TABLES = True, self.TABLES + self.FILTERED
        return other

    def own_timesteps(self, length):
        """Ints of a schedule of `length` steps where an audit measures this probe, or None for the audit's own grid."""
        return None

    def row_calls(self, timesteps, draws, length):
        """Network calls of one row. Args: timesteps: ints, the measured ones; draws: S; length: T."""
        return self.CALLS_PER_ROW

    def unfit(self, conditioned):
        """Why it cannot be measured on a model that is asked with class labels or captions, or None. Args: conditioned: bool."""
        return None

    def shared_calls(self, timesteps, draws, denoiser):
        """Network calls that a process makes once for all its images."""
        return 0

    def defined(self, denoiser, timesteps):
        """bool (len(TABLES), K): which numbers exist for this model; the others become NaN, and where a column holds none no call is made."""
        return np.tile(denoiser.measurable[np.asarray(timesteps, dtype=np.int64)], (len(self.TABLES), 1))

    def rows(self, denoiser, rows, clip):
        """One batch of rows, float64 on the model's device; anything goes where a table is not defined.

        Returns: (len(TABLES), B) for ROW "draw", (len(TABLES), B, S) for "timestep", (len(TABLES), B, K, S) for "image".
        """
        raise NotImplementedError(f"{type(self).__name__} measures nothing")


def shares(*parts):
    """A function length -> increasing distinct timesteps nearest to the given shares of the schedule."""
    return lambda length: tuple(sorted({min(length - 1, round(part * length)) for part in parts}))


def all_at(t, x):
    """int64 (B,) on the CPU: every row of x at timestep t."""
    return torch.full((len(x),), int(t), dtype=torch.int64)


def signal_and_noise(schedule, t, like):
    """(sqrt(abar_t), sqrt(1 - abar_t)), each (B,1,1,1) in the dtype of `like`; rounded once from float64."""
    abar = schedule.alphas_cumprod
    return per_image(np.sqrt(abar), t, like), per_image(np.sqrt(1 - abar), t, like)


def eps_hat(denoiser, xt, t, cond):
    """The model's noise prediction in the dtype of xt; one network call per row. Args: cond: of the rows."""
    return denoiser.predict(xt, t, cond).eps_hat.to(xt.dtype)


def ddim_move(schedule, prediction, to, like):
    """Where a deterministic step, up or down, leads from a prediction: x_to = sqrt(abar_to) x0_hat + sqrt(1 - abar_to) eps_hat.

    Args: prediction: models.base.Prediction; to: int64 (B,); like: (B,C,H,W) that gives the dtype.
    Source: Song et al. 2021 (DDIM) eq. 12 with sigma = 0.
    """
    a, s = signal_and_noise(schedule, to, like)
    return a * prediction.x0_hat.to(like.dtype) + s * prediction.eps_hat.to(like.dtype)


def norm(values, p):
    """( sum over pixels |values|^p )^(1/p), p = 2 or 4, (B,) float64."""
    if p == 2:
        return torch.linalg.vector_norm(values, dim=(1, 2, 3)).double()
    assert p == 4, p
    return torch.linalg.vector_norm(values.square(), dim=(1, 2, 3)).double().sqrt()


def mean_square(values):
    """(B,C,H,W) -> (B,) float64; the norm is one pass over memory and needs no second array."""
    return torch.linalg.vector_norm(values, dim=(1, 2, 3)).double().square() / values[0].numel()

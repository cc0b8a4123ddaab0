"""Rows of a block of images: which image, timestep and noise draw stand where, and how they reach the device."""

import torch

from audit.errors import RequestError
from audit.noise import bank
from audit.probes.base import Rows


class RowSource:
    """The rows of one block of images, in the order column, draw, image; what one row is, the probe's ROW says.

    Args: plan: the MeasurePlan of this probe alone; probe: audit.probes.base.Probe; columns: int64 (K',), positions in the plan's timesteps that are measured;
        cond, second: one entry per image, as Rows holds them, or None.
    Attributes: columns; draws: S; total: K' S n rows for ROW "draw", K' n for "timestep", n for "image"; device: torch.device.
    """

    def __init__(self, x0, plan, probe, columns, device, noise=None, cond=None, second=None):
        self.columns, self.device, self.draws, self.images, self._probe = columns, device, plan.draws, len(x0), probe
        self._draws_apart = plan.draws if probe.ROW == "draw" else 1
        self.total = len(x0) * (min(len(columns), 1) if probe.ROW == "image" else len(columns) * self._draws_apart)
        self._on_cuda = device.type == "cuda"
        self._x0, self._cond, self._second = self._send(x0), *(None if values is None else self._send(values) for values in (cond, second))
        self._columns, self._timesteps = torch.as_tensor(columns), torch.as_tensor(plan.timesteps, dtype=torch.int64)
        self._bank = bank(int(plan.seed), probe.name, tuple(x0.shape[1:]), int(plan.draws) * probe.NOISES_PER_DRAW)
        self._noise = None if noise is None else as_noise(noise, plan, x0)
        self._shared = None

    def rows(self, first, last, at_once):
        """Rows first … last-1, of which the network may be asked about `at_once` images in one call; a number beyond the end starts over (for timing)."""
        index = torch.arange(first, last) % self.total
        pair, image = index // self.images, index % self.images
        at = self._send(image)
        x0, *beside = (None if values is None else values.index_select(0, at) for values in (self._x0, self._cond, self._second))
        if self._probe.ROW == "image":
            return Rows(x0, self._shared_noise(), self._timesteps[self._columns], *beside, at_once)
        column, draw = self._columns[pair // self._draws_apart], pair % self._draws_apart
        return Rows(x0, self._noise_of(pair, column, draw, image), self._timesteps[column], *beside, at_once)

    def _noise_of(self, pair, column, draw, image):
        """eps of rows that are one draw each, or all draws of a timestep."""
        if self._probe.DRAWS == 0:
            return None
        together = self._probe.ROW == "timestep"
        if self._noise is not None and self._noise.ndim == 6:
            return self._send(self._noise[:, column, image].transpose(0, 1) if together else self._noise[draw, column, image])
        pairs, place = torch.unique(pair, return_inverse=True)
        eps = self._send(torch.stack([torch.stack([self._draw(int(p), d) for d in range(self.draws)]) if together else self._draw(*divmod(int(p), self.draws)) for p in pairs]))
        return eps.index_select(0, self._send(place))

    def _shared_noise(self):
        """(S,NOISES_PER_DRAW,C,H,W), or None; drawn once, and as of t = 0, because it belongs to no single timestep."""
        if self._probe.DRAWS != 0 and self._shared is None:
            each = self._probe.NOISES_PER_DRAW
            self._shared = self._send(torch.stack([torch.stack([self._bank.eps(0, s * each + g) for g in range(each)]) for s in range(self.draws)]))
        return self._shared

    def _draw(self, position, draw):
        column = int(self.columns[position])
        if self._noise is not None:
            return self._noise[draw, column]
        return self._bank.eps(int(self._timesteps[column]), draw)

    def _send(self, tensor):
        """To the device; on CUDA pinned, in the background, images channels-last (torch keeps the pinned copy until it was read)."""
        if not self._on_cuda:
            return tensor
        sent = tensor.pin_memory().to(self.device, non_blocking=True)
        return sent.contiguous(memory_format=torch.channels_last) if sent.ndim == 4 else sent


def as_images(x0):
    """(n,C,H,W) float32 tensor on the CPU. Raises RequestError."""
    x0 = torch.as_tensor(x0)
    if x0.ndim != 4 or not len(x0):
        raise RequestError(f"x0 has the shape {tuple(x0.shape)}. Expected (N,C,H,W) with at least one image.")
    if not x0.is_floating_point():
        raise RequestError(f"x0 is {x0.dtype}. Expected floats in model space: pixels k become k / 127.5 - 1.")
    x0 = x0.detach().to("cpu", torch.float32).contiguous()
    if not bool(torch.isfinite(x0).all()):
        raise RequestError("x0 holds NaN or infinity. Expected finite numbers.")
    return x0


def as_cond(cond, denoiser, count):
    """What `predict` takes beside x_t, one entry for each image, checked once: class labels int64 (n,) or caption embeddings float32 (n,…), on the CPU, or None.

    Args: cond: array, tensor or None; denoiser: models.base.Denoiser; count: images.
    Raises: RequestError: labels that a class-conditional model lacks or does not have, entries for a model that takes none, another number of them than of images.
    """
    classes = denoiser.classes
    if cond is None:
        if classes is not None:
            raise RequestError(f"The model has {classes} classes and needs a label for every image. Expected cond, whole numbers from 0 to {classes - 1}: give them.")
        return None
    if classes is None and not denoiser.captions:
        raise RequestError("cond was given, but this model is unconditional. Leave cond out.")
    cond = torch.as_tensor(cond).detach().to("cpu")
    whole = not (cond.is_floating_point() or cond.is_complex() or cond.dtype == torch.bool)
    if classes is None:
        if not (cond.is_floating_point() and cond.ndim > 1 and len(cond) == count and bool(torch.isfinite(cond).all())):
            raise RequestError(f"cond is {cond.dtype} of shape {tuple(cond.shape)}. Expected finite embeddings, ({count},tokens,width), as embed of the model returns them.")
        return cond.to(torch.float32).contiguous()
    if not whole or tuple(cond.shape) != (count,):
        raise RequestError(f"cond is {cond.dtype} of shape {tuple(cond.shape)}. Expected one whole number for each of {count} images, its class.")
    if not 0 <= int(cond.min()) <= int(cond.max()) < classes:
        raise RequestError(f"Class labels run from {int(cond.min())} to {int(cond.max())}. Expected 0 to {classes - 1}, the model's {classes} classes: correct cond.")
    return cond.to(torch.int64)


def as_noise(noise, plan, x0):
    """(S,K,C,H,W) or (S,K,n,C,H,W) float32 tensor on the CPU. Raises RequestError."""
    noise = torch.as_tensor(noise)
    lengths, image = (plan.draws, len(plan.timesteps)), tuple(x0.shape[1:])
    if tuple(noise.shape) not in ((*lengths, *image), (*lengths, len(x0), *image)):
        expected = f"{(*lengths, *image)} (S,K,C,H,W) or {(*lengths, len(x0), *image)} (S,K,N,C,H,W)"
        raise RequestError(f"noise has the shape {tuple(noise.shape)}. Expected {expected}.")
    noise = noise.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(noise).all()):
        raise RequestError("noise holds NaN or infinity. Expected finite numbers.")
    return noise

"""Denoisers without a trained network, and images, for the tests of the engine."""

import numpy as np
import torch

from models.base import CheckpointInfo, Denoiser
from models.schedule import betas_for, from_betas

SHAPE = (2, 6, 5)


def images(count, shape=SHAPE, seed=0, dtype=torch.float32):
    """(N,C,H,W) on the 8-bit grid in [-1, 1], black and white pixels among them."""
    levels = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed))
    levels[:, :, 0] = 0
    levels[:, :, 1] = 255
    return (levels.double() / 127.5 - 1).to(dtype)


class Smooth(torch.nn.Module):
    """A fixed map of (xt, t) with the smoothness of a network: enough signal that clamping, variance and t all matter."""

    def __init__(self, channels, learned, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = torch.nn.Parameter(torch.randn(channels * (2 if learned else 1), channels, generator=generator, dtype=torch.float64), requires_grad=False)
        self.calls = 0

    def forward(self, xt, t):
        self.calls += len(xt)
        out = torch.einsum("dc,nchw->ndhw", self.mix.to(xt.dtype), torch.tanh(xt)) + 0.1 * torch.cos(t.to(xt.dtype) / 7).view(-1, 1, 1, 1)
        return type("Output", (), {"sample": out})()


def denoiser(prediction_type="epsilon", variance="fixed_small", steps=20, pixel_space=True, betas=None, shape=SHAPE, seed=0):
    """A Denoiser around Smooth, with the linear schedule of `steps` steps unless betas are given."""
    schedule = from_betas(betas_for({"num_train_timesteps": steps, "beta_start": 1e-3, "beta_end": 0.3}) if betas is None else betas)
    info = CheckpointInfo("0" * 64, "test", "Smooth", 1, "only", prediction_type, len(schedule), tuple(shape), ())
    return Denoiser(Smooth(shape[0], variance.startswith("learned"), seed), schedule, shape, prediction_type, variance, info, pixel_space)


def noise(draws, columns, shape=SHAPE, count=None, seed=1, dtype=np.float32):
    """(S,K,C,H,W), or (S,K,N,C,H,W) with count."""
    return np.random.default_rng(seed).standard_normal((draws, columns, *([] if count is None else [count]), *shape)).astype(dtype)


class Labelled(Denoiser):
    """Smooth, stronger with the number of the image's class."""

    classes = 5

    def run_network(self, xt, t_network, cond):
        """Raw output."""
        return self.network(xt, t_network).sample * (1 + torch.as_tensor(cond).to(xt).view(-1, 1, 1, 1) / 3)


class Captioned(Denoiser):
    """Smooth, stronger with the mean of an embedding (N,3,4); the empty prompt is 0."""

    captions = True

    def embed(self, texts):
        """The length of each text, everywhere."""
        return torch.stack([torch.full((3, 4), float(len(text))) for text in texts])

    def run_network(self, xt, t_network, cond):
        """Raw output."""
        more = 0.0 if cond is None else cond.to(xt).mean(dim=(1, 2)).view(-1, 1, 1, 1) / 9
        return self.network(xt, t_network).sample * (1 + more)


class Pooled(Denoiser):
    """Smooth on latents: means over 2 x 2 pixels."""

    def encode(self, images):
        """(N,C,H,W) -> (N,C,H/2,W/2)."""
        return torch.nn.functional.avg_pool2d(images, 2)

    def decode(self, latents):
        """Each latent as 2 x 2 equal pixels."""
        return latents.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def other(kind, **changes):
    """One of the three above, made as `denoiser` makes a plain one."""
    made = denoiser(**({"pixel_space": False, "shape": (2, 8, 12)} if kind is Pooled else {}), **changes)
    made.__class__ = kind
    return made

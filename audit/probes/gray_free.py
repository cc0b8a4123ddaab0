"""The free-generation probe: the pictures that a model shows on its way from pure noise, and how near the query image lies to them."""

import weakref

import torch

from audit.errors import RequestError
from audit.presets import grid
from audit.probes.base import Probe, all_at, signal_and_noise

SHOWN = 20  # timesteps of a generation
UNFIT = "free generations are the same for all images, and this model generates for each class label or caption anew: they are not made"
AT_ONCE = 8  # pictures in one pass, whatever the batch size: the chain then ends in the same pictures to the last bit


class GrayFree(Probe):
    """gray_free_mse   the smallest, over 32 generations, of the mean over pixels of (Q(clamp(x0_hat_t)) - x)^2; Q rounds to the 8-bit grid k/127.5 - 1.

    x0_hat_t is the model's clean picture after the step at t of a deterministic (DDIM) generation from noise in 20 steps; clamped and rounded for pixel models
    only. The generations are the same for all images and are made once per process: their calls belong to the audit, not to an image.
    Source: arXiv:2302.07801, gray-box attack, Eq. 18 as inferred, free-running as in the authors' Stable Diffusion script.
    Differs from source: no caption binds a generation to the query, so the nearest of several counts. Not for models that are asked with class labels or
    captions: each label or caption would need generations of its own.
    """

    name = "gray_free"
    TABLES = ("gray_free_mse",)
    ROW = "image"
    DRAWS = 2
    NOISES_PER_DRAW = 32
    CALLS_PER_ROW = 0
    SHARED_AT_ONCE = AT_ONCE
    EXACT = True

    def __init__(self):
        self._made = weakref.WeakKeyDictionary()  # denoiser -> (noise, timesteps, pictures): the same for all shards of a run

    def own_timesteps(self, length):
        """The steps of a generation."""
        return tuple(int(t) for t in grid(SHOWN, length))

    def chain(self, denoiser, timesteps):
        """Timesteps that a generation passes, noisiest first, until all of `timesteps` were shown. Raises RequestError: one that it does not pass."""
        path = self.own_timesteps(len(denoiser.schedule))
        off = [t for t in timesteps if t not in path]
        if off:
            raise RequestError(f"gray_free was asked for t = {off[0]}. Expected steps of its generation: {', '.join(map(str, path))}.")
        return [t for t in path[::-1] if denoiser.measurable[t] and t >= min(timesteps)]

    def unfit(self, conditioned):
        """A sentence for models that are asked with class labels or captions."""
        return UNFIT if conditioned else None

    def shared_calls(self, timesteps, draws, denoiser):
        """Every generation, every step."""
        return draws * self.NOISES_PER_DRAW * len(self.chain(denoiser, timesteps)) if len(timesteps) else 0

    def defined(self, denoiser, timesteps):
        """bool (1,K)."""
        self.chain(denoiser, timesteps)
        return super().defined(denoiser, timesteps)

    def rows(self, denoiser, rows, clip):
        """Distances to the generations -> (1, B, K, S) float64."""
        wanted = rows.t.tolist()
        shown = self._pictures(denoiser, rows.eps, tuple(self.chain(denoiser, wanted)))
        x, (draws, each) = rows.x0.double().flatten(1), rows.eps.shape[:2]
        found = []
        for t in wanted:
            pictures = shown[t].double().flatten(1)
            squared = x.square().sum(dim=1, keepdim=True) + pictures.square().sum(dim=1) - 2 * x @ pictures.T
            found.append(squared.clamp(min=0).view(-1, draws, each).amin(dim=2) / x.shape[1])
        return torch.stack(found, dim=1)[None]

    def _pictures(self, denoiser, eps, path):
        """{t: (S*G,C,H,W)} what is shown at each timestep of the path."""
        kept = self._made.get(denoiser)
        if kept is None or kept[1] != path or kept[0].dtype != eps.dtype or not (kept[0] is eps or (kept[0].shape == eps.shape and torch.equal(kept[0], eps))):
            parts = [_generate(denoiser, start, path) for start in eps.flatten(0, 1).split(AT_ONCE)]
            kept = eps, path, {t: torch.cat([part[t] for part in parts]) for t in path}
            self._made[denoiser] = kept
        return kept[2]


def _generate(denoiser, xt, path):
    """{t: what is shown} of a few generations that begin with the noise xt."""
    shown = {}
    for t, to in zip(path, [*path[1:], None], strict=True):
        prediction = denoiser.predict(xt, all_at(t, xt))
        x0_hat = prediction.x0_hat.to(xt.dtype)
        if denoiser.pixel_space:
            x0_hat = x0_hat.clamp(-1, 1)
        shown[t] = ((x0_hat + 1) * 127.5).round() / 127.5 - 1 if denoiser.pixel_space else x0_hat
        if to is not None:
            a, s = signal_and_noise(denoiser.schedule, all_at(to, xt), xt)
            xt = a * x0_hat + s * prediction.eps_hat.to(xt.dtype)
    return shown

"""The ReDiffuse probe: ask for variations of an image, average them, and see how far the average lies from the image."""

import torch

from audit.probes.base import Probe, all_at, ddim_move, norm, signal_and_noise
from audit.probes.ssim import ssim

VARIATIONS = 10
LARGEST = 3  # timesteps measured: T/10, T/5 and 3T/10


class ReDiffuse(Probe):
    """Two tables on v = mean of 10 variations of x; a variation is x noised to t and brought back by DDIM in steps of k = T/10, as a picture in [-1, 1].

    rediffuse_dssim   1 - SSIM(x, v), audit.probes.ssim
    rediffuse_l2      || x - v ||_2 over pixels

    The noise of the 10 variations is the same for all images and timesteps. The last step leads to the clean picture, clamped; what lies on the way is not.
    Latents are decoded for the picture, the image's too: the decoder's own loss is not counted.
    Source: arXiv:2405.20771, t = T/5 and k = T/10 (200 and 100 of 1,000), n = 10.
    Differs from source: the released walk ends at t = 0, where 1 % noise is left; no classifier is trained on |x - v|; SSIM is the mean over colour channels.
    """

    name = "rediffuse"
    VERSION = 2
    TABLES = ("rediffuse_dssim", "rediffuse_l2")
    ROW = "image"
    DRAWS = 1
    NOISES_PER_DRAW = WIDTH = VARIATIONS
    EXACT = True

    def step(self, length):
        """k, timesteps per step: 100 of 1,000."""
        return max(1, round(length / 10))

    def path(self, t, length):
        """Timesteps asked on the way back from t: t, t - k, … above 0."""
        return list(range(t, 0, -self.step(length))) or [t]

    def own_timesteps(self, length):
        """One, two and three steps."""
        k = self.step(length)
        return tuple(k * i for i in range(1, LARGEST + 1) if k * i < length) or (0,)

    def row_calls(self, timesteps, draws, length):
        """The steps of every variation, n t / k of each timestep."""
        return draws * VARIATIONS * sum(len(self.path(t, length)) for t in timesteps)

    def defined(self, denoiser, timesteps):
        """bool (2,K): where the whole way back can be measured."""
        out = super().defined(denoiser, timesteps)
        for column, t in enumerate(timesteps):
            out[:, column] &= bool(denoiser.measurable[self.path(int(t), len(denoiser.schedule))].all())
        return out

    def rows(self, denoiser, rows, clip):
        """All variations -> (2, B, K, S) float64."""
        x0 = rows.x0
        x = x0 if denoiser.pixel_space else denoiser.decode(x0).clamp(-1, 1)
        found = [torch.stack([self._distances(denoiser, rows, x, t, noises) for noises in rows.eps], dim=2) for t in rows.t.tolist()]
        return torch.stack(found, dim=2)

    def _distances(self, denoiser, rows, x, t, noises):
        """(2, B) of one timestep and one draw; as many noises at once as a batch holds."""
        total, count = torch.zeros_like(x), len(x)
        for some in noises.split(max(1, rows.at_once // count)):
            x0 = rows.x0.repeat(len(some), 1, 1, 1)
            cond = None if rows.cond is None else torch.cat([rows.cond] * len(some))
            shown = self.variation(denoiser, x0, t, some.repeat_interleave(count, dim=0), cond)
            total += shown.unflatten(0, (len(some), count)).sum(dim=0)
        average = total / len(noises)
        return torch.stack([1 - ssim(x, average), norm(x - average, 2)])

    def variation(self, denoiser, x0, t, eps, cond=None):
        """The picture that comes back when x0 is noised to t with eps; (B,C,H,W) in [-1, 1]."""
        path = self.path(t, len(denoiser.schedule))
        a, s = signal_and_noise(denoiser.schedule, all_at(t, x0), x0)
        xt = a * x0 + s * eps
        for here, to in zip(path, [*path[1:], None], strict=True):
            prediction = denoiser.predict(xt, all_at(here, xt), cond)
            xt = prediction.x0_hat.to(x0.dtype) if to is None else ddim_move(denoiser.schedule, prediction, all_at(to, xt), xt)
        return (xt if denoiser.pixel_space else denoiser.decode(xt)).clamp(-1, 1)

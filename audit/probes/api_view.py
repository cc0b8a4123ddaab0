"""A Denoiser as an API shows it: pictures only, at some steps only, protected or not. Attacks measured on it see what an outsider sees."""

import hashlib
import io

import numpy as np
import torch
from PIL import Image

from audit.errors import RequestError
from audit.presets import grid
from models.base import SMALLEST_SHARE, Denoiser, Prediction
from models.schedule import from_betas, per_image


class ApiView(Denoiser):
    """Answers with the picture shown for x0_hat, and with the eps_hat that follows from it: (x_t - sqrt(abar_t) shown) / sqrt(1 - abar_t).

    shown = JPEG( Q( clamp( clamp(x0_hat) + noise ) ) ), Q = rounding to 2^bits levels from -1 to 1; no variance is shown.
    Its schedule holds the shown steps alone, so a timestep here counts those: a probe asks at the nearest of them, as of a model that was sampled in so few steps.
    The noise belongs to (seed, timestep, query): the same query gets the same answer, so asking again does not average it away.

    Args: denoiser: of a pixel model; api: audit.api.Api; seed: of the noise.
    Raises: RequestError: a latent model, more steps than there are, JPEG of other than 1 or 3 channels.
    """

    def __init__(self, denoiser, api, seed=0):
        if not denoiser.pixel_space:
            raise RequestError(
                "--api needs a model of pixels. An API of this one shows decoded pictures, and attacks compare latents: each answer would have to be encoded again, "
                "and the autoencoder's own error would count as the model's. Leave --api out; rediffuse compares pictures without it."
            )
        length, channels = len(denoiser.schedule), denoiser.image_shape[0]
        if api.steps is not None and api.steps > length:
            raise RequestError(f"--api steps is {api.steps:,}. Expected at most {length:,}, the steps of this model.")
        if api.jpeg is not None and channels not in (1, 3):
            raise RequestError(f"--api jpeg needs pictures of 1 or 3 channels. These have {channels}: leave jpeg out.")
        self.behind, self.api, self.seed = denoiser, api, seed
        self.shown = torch.as_tensor(grid(api.steps, length))
        abar = denoiser.schedule.alphas_cumprod[self.shown.numpy()]
        super().__init__(denoiser.network, from_betas(1 - abar / np.append(1.0, abar[:-1])), denoiser.image_shape, "sample", "fixed_small", denoiser.info)
        self.classes, self.captions, self.embed = denoiser.classes, denoiser.captions, denoiser.embed
        self.measurable = denoiser.measurable[self.shown.numpy()] & (1 - abar >= SMALLEST_SHARE)

    def predict(self, xt, t, cond=None):
        """See Denoiser.predict; one call of the network behind."""
        t = torch.as_tensor(t, dtype=torch.int64).cpu()
        picture = self.picture(self.behind.predict(xt, self.shown[t], cond).x0_hat, xt, t)
        a, s = (per_image(np.sqrt(values), t, xt) for values in (self.schedule.alphas_cumprod, 1 - self.schedule.alphas_cumprod))
        return Prediction((xt - a * picture) / s, picture, None)

    def with_network(self, network):
        """The API of another network: its answers must come from there too."""
        other = super().with_network(network)
        other.behind = self.behind.with_network(network)
        return other

    def picture(self, x0_hat, xt, t):
        """What is shown for x0_hat, the answer to the query (xt, t); (N,C,H,W) in [-1, 1], in the dtype of x0_hat."""
        shown = x0_hat.clamp(-1, 1)
        if self.api.noise:
            shown = (shown + self.api.noise * self._noise(xt, t).to(shown)).clamp(-1, 1)
        half = (2**self.api.bits - 1) / 2
        shown = ((shown + 1) * half).round() / half - 1
        return shown if self.api.jpeg is None else self._compressed(shown)

    def _noise(self, xt, t):
        rows = []
        for row, step in zip(xt.detach().to("cpu", torch.float32).numpy(), t.tolist(), strict=True):
            digest = hashlib.sha256(f"api {self.seed} {step} ".encode() + np.ascontiguousarray(row).tobytes()).digest()
            rows.append(torch.randn(row.shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)))
        return torch.stack(rows)

    def _compressed(self, shown):
        levels = ((shown + 1) * 127.5).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        back = []
        for picture in levels:
            file = io.BytesIO()
            Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, "JPEG", quality=self.api.jpeg)
            back.append(np.asarray(Image.open(file)).reshape(picture.shape))
        return torch.from_numpy(np.stack(back)).permute(0, 3, 1, 2).to(shown) / 127.5 - 1

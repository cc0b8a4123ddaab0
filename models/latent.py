"""Pictures to latents and back, through a checkpoint's own autoencoder, a bounded number of pixels at a time."""

import torch

PIXELS_AT_ONCE = 2**20  # four pictures of 512 x 512: an SD autoencoder then holds about 2 GB


class Autoencoder:
    """A diffusers AutoencoderKL or VQModel with the factor that its latents are scaled by.

    encode: posterior mean x scale (KL), or encoder output x scale (VQ); decode: the decoder's picture of latents / scale, VQ latents moved to their nearest codes first.

    Args: module: torch module in evaluation mode; scale: positive number.
    Differs from source: the posterior's mean instead of a sample, so that an image has one score; VQ latents are not quantised, as they were not in training.
    """

    def __init__(self, module, scale):
        self.module, self.scale = module, scale

    def encode(self, images):
        """(N,C,H,W) pictures in [-1, 1] -> (N,c,h,w) float32 latents on the same device."""
        return self._in_parts(images, images.shape[-2] * images.shape[-1], self._latents)

    def decode(self, latents):
        """(N,c,h,w) latents -> (N,C,H,W) float32 pictures, not clamped."""
        factor = 2 ** (len(self.module.config.block_out_channels) - 1)
        return self._in_parts(latents, latents.shape[-2] * latents.shape[-1] * factor**2, lambda part: self.module.decode(part / self.scale).sample)

    def _latents(self, part):
        encoded = self.module.encode(part)
        return (encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents) * self.scale

    @torch.no_grad()
    def _in_parts(self, batch, pixels, action):
        if not len(batch):
            return action(batch.new_zeros(1, *batch.shape[1:]))[:0]  # attention takes no empty batch
        return torch.cat([action(part) for part in batch.split(max(1, PIXELS_AT_ONCE // max(1, pixels)))])

    def to(self, device):
        """Move the module; returns self."""
        self.module.to(device)
        return self

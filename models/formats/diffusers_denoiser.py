"""Denoiser of UNet2DModel and UNet2DConditionModel, with the autoencoder and the text encoder that come with them."""

import torch

from models.base import Denoiser, labels_for
from models.errors import CheckpointError


class DiffusersDenoiser(Denoiser):
    """A Denoiser of diffusers' networks.

    Args beyond Denoiser's: classes: number of labels; autoencoder: models.latent.Autoencoder; text: models.captions.TextEncoder; each None where the model has none.
    """

    def __init__(self, network, schedule, image_shape, prediction_type, variance, info, classes=None, autoencoder=None, text=None):
        super().__init__(network, schedule, image_shape, prediction_type, variance, info, pixel_space=autoencoder is None)
        self.classes, self.autoencoder, self.text = classes, autoencoder, text
        self.captions = text is not None

    def run_network(self, xt, t_network, cond):
        """Raw network output, (N,C or 2C,H,W); cond: labels, embeddings, or not used."""
        if self.captions:
            return self.network(xt, t_network, encoder_hidden_states=self._embeddings(cond, xt)).sample
        if self.classes is not None:
            return self.network(xt, t_network, class_labels=labels_for(cond, self.classes, xt)).sample
        return self.network(xt, t_network).sample

    def _embeddings(self, cond, xt):
        if cond is None:
            return self.text.empty(xt)
        width = self.network.config.cross_attention_dim
        if not torch.is_tensor(cond) or cond.ndim != 3 or len(cond) != len(xt) or cond.shape[2] != width or not cond.dtype.is_floating_point:
            came = f"{tuple(cond.shape)} {cond.dtype}" if torch.is_tensor(cond) else type(cond).__name__
            raise CheckpointError(f"cond is {came} for {len(xt)} images. Expected ({len(xt)}, tokens, {width}) embeddings: make them with embed.")
        return cond.to(device=xt.device, dtype=xt.dtype, non_blocking=True)

    def encode(self, images):
        """(N,C,H,W) pictures in [-1, 1] -> x0 in model space, at most about a million pixels at a time; no gradients."""
        return images if self.autoencoder is None else self.autoencoder.encode(images)

    def decode(self, latents):
        """x0 in model space -> (N,C,H,W) pictures; no gradients through an autoencoder."""
        return latents if self.autoencoder is None else self.autoencoder.decode(latents)

    def embed(self, texts):
        """(N, tokens, width) float32 on the CPU: the text encoder's last hidden state. Raises CheckpointError: the model takes no captions."""
        return self.text.embed(texts) if self.captions else super().embed(texts)

    def to(self, device):
        """Move every network; returns self."""
        for part in (self.network, self.autoencoder, self.text):
            if part is not None:
                part.to(device)
        return self

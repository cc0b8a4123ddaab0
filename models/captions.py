"""Captions to what a text-conditional network takes."""

import torch

AT_ONCE = 64  # captions; 77 tokens x 3,072 numbers each in the widest layer of Stable Diffusion's encoder


class TextEncoder:
    """A tokenizer with its CLIP text network.

    Args: tokenizer: models.tokenizer.ClipTokenizer; network: models.nets.clip_text.ClipText in evaluation mode.
    """

    def __init__(self, tokenizer, network):
        self.tokenizer, self.network, self._empty = tokenizer, network, None

    def embed(self, texts):
        """(N, tokens, width) float32 on the CPU: the last hidden state of each text, padded and cut to the tokenizer's length."""
        ids = torch.from_numpy(self.tokenizer.ids(list(texts)))
        device = next(self.network.parameters()).device
        with torch.inference_mode(False), torch.no_grad():  # an inference tensor could take no part in a gradient later
            return torch.cat([self.network(part.to(device)).cpu() for part in ids.split(AT_ONCE)])

    def empty(self, like):
        """The embedding of the empty caption for every image of `like`, on its device; computed once."""
        if self._empty is None or self._empty.device != like.device:
            with torch.inference_mode(False):
                self._empty = self.embed([""]).to(like.device)
        return self._empty.expand(len(like), -1, -1)

    def to(self, device):
        """Move the network; returns self."""
        self.network.to(device)
        return self

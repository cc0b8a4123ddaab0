"""The text encoder of CLIP, with the parameter names that transformers' CLIPTextModel saves (without their first part, `text_model.`).

    h = tokens + positions;  per layer  h = h + attention(norm(h)), causal;  h = h + mlp(norm(h));  then a last norm

Source: Radford et al. 2021 (arXiv:2103.00020), section 2.4.
Differs from source: no projection and no pooling, because Stable Diffusion reads every token's last hidden state; no dropout (evaluation only).
"""

import torch
from torch import nn
from torch.nn import functional

ACTIVATIONS = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": functional.gelu}


class ClipText(nn.Module):
    """(N, tokens) int64 ids -> (N, tokens, width) float32.

    Args: vocab, width, inner, layers, heads, length: whole numbers (tokens known, widths of the model and of its perceptrons, longest text in tokens);
        activation: of ACTIVATIONS; eps: of the layer norms.
    """

    def __init__(self, vocab, width, inner, layers, heads, length, activation="quick_gelu", eps=1e-5):
        super().__init__()
        self.embeddings = nn.ModuleDict({"token_embedding": nn.Embedding(vocab, width), "position_embedding": nn.Embedding(length, width)})
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(width, inner, heads, activation, eps) for _ in range(layers))})
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, ids):
        """Last hidden state of every token, after the last norm."""
        hidden = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"].weight[: ids.shape[1]]
        for layer in self.encoder["layers"]:
            hidden = layer(hidden)
        return self.final_layer_norm(hidden)


class _Layer(nn.Module):
    def __init__(self, width, inner, heads, activation, eps):
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden):
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        return hidden + self.mlp["fc2"](self.activation(self.mlp["fc1"](self.layer_norm2(hidden))))


class _Attention(nn.Module):
    """Each token looks at itself and at those before it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, hidden):
        count, tokens, width = hidden.shape
        q, k, v = (project(hidden).view(count, tokens, self.heads, -1).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).reshape(count, tokens, width))

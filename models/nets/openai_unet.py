"""The UNet of openai/improved-diffusion and openai/guided-diffusion, with their parameter names, so that loading is a strict load_state_dict.

One class covers both: what differs between their published models is in Layout (tensors show it) and Heads (nothing shows it).

Source: Nichol & Dhariwal 2021 (arXiv:2102.09672); Dhariwal & Nichol 2021 (arXiv:2105.05233).
Differs from source: never checkpoints, so that per-sample gradients are possible; float32 throughout.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

GROUPS = 32
ORDERS = ("legacy", "new")


@dataclass(frozen=True)
class Layout:
    """What the tensors of a checkpoint show.

    Attributes:
        in_channels, out_channels: of pictures, and of the output (twice as many with a learned variance).
        model_channels: width of the sinusoid; first_width: of the first convolution; widths: of each level, finest first.
        num_res_blocks: per level; attention: levels with attention (the middle always has it).
        scale_shift: the embedding scales and shifts the second norm; else it is added before it.
        resblock_updown: resampling inside residual blocks; else by convolutions.
        classes: number of labels, or None.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    first_width: int
    widths: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[int, ...]
    scale_shift: bool
    resblock_updown: bool
    classes: int | None


@dataclass(frozen=True)
class Heads:
    """What no tensor shows. num_heads on the way down and in the middle, num_heads_upsample on the way up; head_channels, when given, decides instead.

    order: how the rows of qkv are laid out: "legacy" (head, q/k/v, channel) or "new" (q/k/v, head, channel).
    """

    num_heads: int = 1
    num_heads_upsample: int = 1
    head_channels: int | None = None
    order: str = "legacy"

    def at(self, width, way):
        """Number of heads of a block of that width; way: "down" or "up"."""
        if self.head_channels:
            return width // self.head_channels
        return self.num_heads_upsample if way == "up" else self.num_heads


def sinusoid(t, width):
    """Timestep embedding, (N,) steps, fractions allowed -> (N, width) float32, cosines first; the frequency's divisor is width // 2."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    return functional.pad(embedding, (0, width % 2))


class _Sequence(nn.Sequential):
    """Passes the embedding to the blocks that take one."""

    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb) if isinstance(layer, _ResBlock) else layer(x)
        return x


class _Downsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x):
        return self.op(x)


class _Upsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(_double(x))


def _double(x):
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def _halve(x):
    return functional.avg_pool2d(x, 2)


class _ResBlock(nn.Module):
    """Norm, SiLU, conv; embedding; norm, SiLU, conv; plus the input. `resample` changes the size between the first SiLU and its convolution."""

    def __init__(self, width, out, emb_width, scale_shift, resample=None, dropout=0.0):
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, out), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if out == width else nn.Conv2d(width, out, 1)

    def forward(self, x, emb):
        norm, activation, conv = self.in_layers
        h = activation(norm(x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = conv(h)
        emb = self.emb_layers(emb)[:, :, None, None]
        norm, activation, dropout, conv = self.out_layers
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        return self.skip_connection(x) + conv(dropout(activation(h)))


class _Attention(nn.Module):
    """Self-attention over pixels, softmax(q k / sqrt(channels per head)) v, plus the input."""

    def __init__(self, width, heads, order):
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x):
        batch, width, height, breadth = x.shape
        flat = x.reshape(batch, width, height * breadth)
        qkv, per_head = self.qkv(self.norm(flat)), width // self.heads
        if self.order == "legacy":
            q, k, v = qkv.reshape(batch, self.heads, 3, per_head, -1).transpose(-1, -2).unbind(2)
        else:
            q, k, v = qkv.reshape(batch, 3, self.heads, per_head, -1).transpose(-1, -2).unbind(1)
        out = functional.scaled_dot_product_attention(q, k, v)
        return (flat + self.proj_out(out.transpose(-1, -2).reshape(batch, width, -1))).reshape(x.shape)


class OpenAIUNet(nn.Module):
    """forward(x (N,C,H,W), t (N,) float or int, labels (N,) int64 or None) -> (N, out_channels, H, W).

    Args: layout: Layout; heads: Heads; dropout: share dropped in training, in [0, 1).
    """

    def __init__(self, layout: Layout, heads: Heads, dropout=0.0):
        super().__init__()
        self.layout, emb_width = layout, 4 * layout.model_channels
        self.time_embed = nn.Sequential(nn.Linear(layout.model_channels, emb_width), nn.SiLU(), nn.Linear(emb_width, emb_width))
        if layout.classes is not None:
            self.label_emb = nn.Embedding(layout.classes, emb_width)

        def block(width, out, resample=None):
            return _ResBlock(width, out, emb_width, layout.scale_shift, resample, dropout)

        def attention(width, way):
            return _Attention(width, heads.at(width, way), heads.order)

        width, skips = layout.first_width, [layout.first_width]
        self.input_blocks = nn.ModuleList([_Sequence(nn.Conv2d(layout.in_channels, width, 3, padding=1))])
        for level, out in enumerate(layout.widths):
            for _ in range(layout.num_res_blocks):
                layers = [block(width, out)]
                width = out
                if level in layout.attention:
                    layers.append(attention(width, "down"))
                self.input_blocks.append(_Sequence(*layers))
                skips.append(width)
            if level < len(layout.widths) - 1:
                self.input_blocks.append(_Sequence(block(width, width, _halve) if layout.resblock_updown else _Downsample(width)))
                skips.append(width)
        self.middle_block = _Sequence(block(width, width), attention(width, "down"), block(width, width))
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(layout.widths))):
            for index in range(layout.num_res_blocks + 1):
                layers = [block(width + skips.pop(), out)]
                width = out
                if level in layout.attention:
                    layers.append(attention(width, "up"))
                if level and index == layout.num_res_blocks:
                    layers.append(block(width, width, _double) if layout.resblock_updown else _Upsample(width))
                self.output_blocks.append(_Sequence(*layers))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, layout.out_channels, 3, padding=1))

    def forward(self, x, t, labels=None):
        """See the class."""
        emb = self.time_embed(sinusoid(t, self.layout.model_channels).to(x.dtype))
        if self.layout.classes is not None:
            emb = emb + self.label_emb(labels)
        skips = []
        for layer in self.input_blocks:
            x = layer(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for layer in self.output_blocks:
            x = layer(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)

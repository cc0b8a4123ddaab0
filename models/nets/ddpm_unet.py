"""The UNet of w86763777/pytorch-ddpm, which SecMI and PIA train too, with its parameter names.

Source: Ho et al. 2020 (arXiv:2006.11239), appendix B, in that repository's PyTorch form: one attention head, a stored table of sines and cosines
(interleaved) for whole timesteps, no scale-shift.
Differs from source: no dropout (evaluation only).
"""

import torch
from torch import nn
from torch.nn import functional

GROUPS = 32


class _TimeEmbedding(nn.Module):
    def __init__(self, steps, width):
        super().__init__()
        self.timembedding = nn.Sequential(nn.Embedding(steps, width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))

    def forward(self, t):
        return self.timembedding(t)


class _Resample(nn.Module):
    """A convolution that halves the size, or follows a doubling of it."""

    def __init__(self, width, up):
        super().__init__()
        self.up = up
        self.main = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1)

    def forward(self, x, emb):
        return self.main(functional.interpolate(x, scale_factor=2, mode="nearest") if self.up else x)


class _Attention(nn.Module):
    """One head over all channels, plus the input."""

    def __init__(self, width):
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, width)
        self.proj_q, self.proj_k, self.proj_v, self.proj = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.group_norm(x)
        q, k, v = (projection(h).flatten(2).transpose(1, 2) for projection in (self.proj_q, self.proj_k, self.proj_v))
        out = functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj(out.transpose(1, 2).reshape(x.shape))


class _ResBlock(nn.Module):
    def __init__(self, width, out, emb_width, attention):
        super().__init__()
        self.block1 = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.temb_proj = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, out))
        self.block2 = nn.Sequential(nn.GroupNorm(GROUPS, out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1))  # 2 is the dropout's place
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)
        self.attn = _Attention(out) if attention else nn.Identity()

    def forward(self, x, emb):
        h = self.block1(x) + self.temb_proj(emb)[:, :, None, None]
        return self.attn(self.block2(h) + self.shortcut(x))


class DDPMUNet(nn.Module):
    """forward(x (N,C,H,W), t (N,) int64 below `steps`) -> (N,C,H,W).

    Args:
        steps: rows of the timestep table; channels: of pictures; first_width: of the first convolution; widths: of each level, finest first;
        num_res_blocks: per level; attention: levels with attention (the middle always has it).
    """

    def __init__(self, steps, channels, first_width, widths, num_res_blocks, attention):
        super().__init__()
        emb_width, width, skips = 4 * first_width, first_width, [first_width]
        self.time_embedding = _TimeEmbedding(steps, first_width)
        self.head = nn.Conv2d(channels, first_width, 3, padding=1)
        self.downblocks, self.upblocks = nn.ModuleList(), nn.ModuleList()
        for level, out in enumerate(widths):
            for _ in range(num_res_blocks):
                self.downblocks.append(_ResBlock(width, out, emb_width, level in attention))
                width = out
                skips.append(width)
            if level < len(widths) - 1:
                self.downblocks.append(_Resample(width, up=False))
                skips.append(width)
        self.middleblocks = nn.ModuleList([_ResBlock(width, width, emb_width, True), _ResBlock(width, width, emb_width, False)])
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks + 1):
                self.upblocks.append(_ResBlock(width + skips.pop(), out, emb_width, level in attention))
                width = out
            if level:
                self.upblocks.append(_Resample(width, up=True))
        self.tail = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x, t):
        """See the class."""
        emb, x = self.time_embedding(t), self.head(x)
        skips = [x]
        for layer in self.downblocks:
            x = layer(x, emb)
            skips.append(x)
        for layer in self.middleblocks:
            x = layer(x, emb)
        for layer in self.upblocks:
            x = layer(torch.cat([x, skips.pop()], dim=1) if isinstance(layer, _ResBlock) else x, emb)
        return self.tail(x)

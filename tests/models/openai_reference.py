"""improved- and guided-diffusion written down again, separately from models/: plain functions over a state dict, and the loss terms from their formulas.

Networks: what the two repositories compute for given flags. Diffusion: Ho et al. 2020 eq. 5-8, Nichol & Dhariwal 2021 eq. 15-17, in float64.
"""

import math

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, conv1d, conv2d, group_norm, interpolate, linear


def silu(x):
    return x / (1 + torch.exp(-x))


def embed(t, width):
    half = width // 2
    columns = [torch.cos(t.double() * 10_000 ** (-i / half)) for i in range(half)] + [torch.sin(t.double() * 10_000 ** (-i / half)) for i in range(half)]
    return torch.stack(columns, 1)


class Net:
    """The network for {name: tensor} and flags; every head is computed on its own."""

    def __init__(self, state, heads_down, heads_up=None, head_channels=None, order="legacy"):
        self.state, self.order = {k: v.double() for k, v in state.items()}, order
        self.heads_down, self.heads_up, self.head_channels = heads_down, heads_up or heads_down, head_channels

    def __call__(self, x, t, labels=None):
        s = self.state
        emb = embed(t, s["time_embed.0.weight"].shape[1])
        emb = linear(silu(linear(emb, s["time_embed.0.weight"], s["time_embed.0.bias"])), s["time_embed.2.weight"], s["time_embed.2.bias"])
        if labels is not None:
            emb = emb + s["label_emb.weight"][labels]
        x, kept, index = x.double(), [], 0
        while f"input_blocks.{index}.0.weight" in s or any(k.startswith(f"input_blocks.{index}.") for k in s):
            x = self.group(f"input_blocks.{index}", x, emb, "down")
            kept.append(x)
            index += 1
        x = self.group("middle_block", x, emb, "down")
        for index in range(len(kept)):
            x = self.group(f"output_blocks.{index}", torch.cat([x, kept.pop()], 1), emb, "up")
        return conv2d(silu(group_norm(x, 32, s["out.0.weight"], s["out.0.bias"])), s["out.2.weight"], s["out.2.bias"], padding=1)

    def group(self, name, x, emb, way):
        part = 0
        while any(k.startswith(f"{name}.{part}.") for k in self.state):
            here, s = f"{name}.{part}", self.state
            if f"{here}.weight" in s:
                x = conv2d(x, s[f"{here}.weight"], s[f"{here}.bias"], padding=1)
            elif f"{here}.op.weight" in s:
                x = conv2d(x, s[f"{here}.op.weight"], s[f"{here}.op.bias"], padding=1, stride=2)
            elif f"{here}.conv.weight" in s:
                x = conv2d(interpolate(x, scale_factor=2), s[f"{here}.conv.weight"], s[f"{here}.conv.bias"], padding=1)
            elif f"{here}.qkv.weight" in s:
                x = self.attention(here, x, way)
            else:
                resample = None
                if part and way == "up":
                    resample = "up"
                elif here in self.downs():
                    resample = "down"
                x = self.block(here, x, emb, resample)
            part += 1
        return x

    def downs(self):
        """Residual blocks that halve the size: known from the output side, as many per level."""
        ups = sorted(int(k.split(".")[1]) for k in self.state if k.startswith("output_blocks.") and k.split(".")[2] != "0" and k.endswith("in_layers.0.weight"))
        return {f"input_blocks.{u + 1}.0" for u in ups}

    def block(self, here, x, emb, resample):
        s = {k.removeprefix(here + "."): v for k, v in self.state.items() if k.startswith(here + ".")}
        h = silu(group_norm(x, 32, s["in_layers.0.weight"], s["in_layers.0.bias"]))
        if resample:
            h, x = (interpolate(v, scale_factor=2) if resample == "up" else avg_pool2d(v, 2) for v in (h, x))
        h = conv2d(h, s["in_layers.2.weight"], s["in_layers.2.bias"], padding=1)
        e = linear(silu(emb), s["emb_layers.1.weight"], s["emb_layers.1.bias"])[:, :, None, None]
        if e.shape[1] == 2 * h.shape[1]:
            width = h.shape[1]
            h = group_norm(h, 32, s["out_layers.0.weight"], s["out_layers.0.bias"]) * (1 + e[:, :width]) + e[:, width:]
        else:
            h = group_norm(h + e, 32, s["out_layers.0.weight"], s["out_layers.0.bias"])
        h = conv2d(silu(h), s["out_layers.3.weight"], s["out_layers.3.bias"], padding=1)
        return h + (conv2d(x, s["skip_connection.weight"], s["skip_connection.bias"]) if "skip_connection.weight" in s else x)

    def attention(self, here, x, way):
        s = self.state
        n, width, height, breadth = x.shape
        flat = x.reshape(n, width, -1)
        qkv = conv1d(group_norm(flat, 32, s[f"{here}.norm.weight"], s[f"{here}.norm.bias"]), s[f"{here}.qkv.weight"], s[f"{here}.qkv.bias"])
        heads = width // self.head_channels if self.head_channels else {"down": self.heads_down, "up": self.heads_up}[way]
        ch, outs = width // heads, []
        for head in range(heads):
            starts = [head * 3 * ch + i * ch for i in range(3)] if self.order == "legacy" else [i * width + head * ch for i in range(3)]
            q, k, v = (qkv[:, start : start + ch] for start in starts)
            weight = torch.softmax(torch.einsum("nct,ncs->nts", q, k) / math.sqrt(ch), dim=-1)
            outs.append(torch.einsum("nts,ncs->nct", weight, v))
        out = conv1d(torch.cat(outs, 1), s[f"{here}.proj_out.weight"], s[f"{here}.proj_out.bias"])
        return (flat + out).reshape(n, width, height, breadth)


def betas_of(schedule, steps):
    if schedule == "linear":
        scale = 1000 / steps
        return np.array([scale * 1e-4 + (scale * 0.02 - scale * 1e-4) * i / (steps - 1) for i in range(steps)])
    f = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    return np.array([min(1 - f[i + 1] / f[i], 0.999) for i in range(steps)])


class Diffusion:
    """vb (bits per dimension), xstart_mse, mse of every kept step and total_bpd, as calc_bpd_loop defines them.

    Args: net: callable (x, t_network, labels); kept: indices of the original schedule, None = all; rescale: the network is told t * 1000 / T.
    """

    def __init__(self, net, betas, variance, predicts="epsilon", rescale=False, kept=None):
        abar_all = np.cumprod(1 - betas)
        self.kept = list(range(len(betas))) if kept is None else sorted(kept)
        self.abar = abar_all[self.kept]
        self.prev = np.append(1.0, self.abar[:-1])
        self.betas = 1 - self.abar / self.prev
        self.net, self.variance, self.predicts, self.factor = net, variance, predicts, 1000 / len(betas) if rescale else 1

    def terms(self, x0, t, noise, clip, labels=None):
        """(vb, xstart_mse, mse) at kept step t, each (N,) float64; mse from the clipped x0 where `clip`."""
        x0, noise = x0.double(), noise.double()
        abar, prev, beta = self.abar[t], self.prev[t], self.betas[t]
        xt = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * noise
        out = self.net(xt, torch.full((len(x0),), self.kept[t] * self.factor, dtype=torch.float64), labels)
        small = [b * (1 - p) / (1 - a) for b, p, a in zip(self.betas, self.prev, self.abar, strict=True)]
        small[0] = small[1]
        channels = x0.shape[1]
        if self.variance == "learned_range":
            share = (out[:, channels:] + 1) / 2
            log_variance = share * math.log(beta) + (1 - share) * math.log(small[t])
            out = out[:, :channels]
        else:
            log_variance = torch.full_like(x0, math.log(small[t] if self.variance == "fixed_small" or t == 0 else beta))
        x0_hat = (xt - math.sqrt(1 - abar) * out) / math.sqrt(abar) if self.predicts == "epsilon" else out
        if clip:
            x0_hat = x0_hat.clamp(-1, 1)
        a, b = beta * math.sqrt(prev) / (1 - abar), (1 - prev) * math.sqrt(1 - beta) / (1 - abar)
        true_mean, mean = a * x0 + b * xt, a * x0_hat + b * xt
        if t:
            log_true = math.log(small[t])
            per_pixel = 0.5 * (-1 + log_variance - log_true + torch.exp(log_true - log_variance) + (true_mean - mean) ** 2 * torch.exp(-log_variance))
        else:
            per_pixel = -self.log_likelihood(x0, mean, torch.exp(0.5 * log_variance))
        vb = per_pixel.mean((1, 2, 3)) / math.log(2)
        eps_hat = (xt - math.sqrt(abar) * x0_hat) / math.sqrt(1 - abar)
        return vb, ((x0_hat - x0) ** 2).mean((1, 2, 3)), ((eps_hat - noise) ** 2).mean((1, 2, 3))

    def log_likelihood(self, x, mean, sigma):
        """Log probability of the 8-bit bin around x; the tanh approximation of the normal CDF, open bins at the ends, at least 1e-12."""

        def cdf(z):
            return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

        above, below = cdf((x - mean + 1 / 255) / sigma), cdf((x - mean - 1 / 255) / sigma)
        probability = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
        return torch.log(probability.clamp(min=1e-12))

    def prior_bpd(self, x0):
        """KL( q(x_T | x0) || N(0, 1) ), bits per dimension, (N,)."""
        mean, variance = math.sqrt(self.abar[-1]) * x0.double(), 1 - self.abar[-1]
        return (0.5 * (-1 - math.log(variance) + variance + mean**2)).mean((1, 2, 3)) / math.log(2)

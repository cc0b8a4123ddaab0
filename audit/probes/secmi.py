"""The SecMI probe: invert the image into noise without randomness, and measure how far one step up and one step back miss."""

import torch

from audit.errors import RequestError
from audit.probes.base import Probe, all_at, ddim_move
from audit.probes.lowpass import low_pass


class SecMI(Probe):
    """secmi_l2   sum over pixels of (back - there)^2: `there` is the image inverted by DDIM to t in steps of k = T/100, `back` after one step up and one back.

    x_0 = x;  x_(t+k) = DDIM step of x_t upwards;  there = x_t;  back = DDIM step of x_(t+k) from t+k down to t.
    secmi_l2_low is the same with `back - there` after audit.probes.lowpass, only where asked for.
    The step up from t is the next step of the inversion, and the prediction at t+k serves both: so all timesteps up to t cost t/k + 2 calls (12 at T/10).
    Source: arXiv:2302.01316 eq. 8-11, the statistic attack.  Differs from source: the released loop ends one step short (its t = 100 is the column t = 90 here).
    """

    name = "secmi"
    TABLES = ("secmi_l2",)
    FILTERED = ("secmi_l2_low",)
    ROW = "image"
    DRAWS = 0
    EXACT = True

    def step(self, length):
        """k, timesteps per step: 10 of 1,000."""
        return max(1, round(length / 100))

    def own_timesteps(self, length):
        """All multiples of k up to T/10."""
        k = self.step(length)
        last = max(1, round(length / 10 / k))
        return tuple(k * i for i in range(1, last + 1) if k * (i + 1) < length) or (0,)

    def row_calls(self, timesteps, draws, length):
        """The inversion up to one step beyond the largest timestep, and the way back from there."""
        return max(timesteps) // self.step(length) + 2

    def defined(self, denoiser, timesteps):
        """bool (1 or 2,K): where the whole way up can be measured and one step more lies inside the schedule. Raises RequestError: a step off the lattice."""
        length = len(denoiser.schedule)
        k = self.step(length)
        off = [t for t in timesteps if t % k]
        if off:
            raise RequestError(f"secmi was asked for t = {off[0]}. Expected multiples of {k}, its step on a schedule of {length}.")
        out = super().defined(denoiser, timesteps)
        for column, t in enumerate(timesteps):
            out[:, column] &= t + k < length and bool(denoiser.measurable[: t + k + 1 : k].all())
        return out

    def rows(self, denoiser, rows, clip):
        """The chain -> (1 or with `low` 2, B, K, 1) float64."""
        schedule, x0 = denoiser.schedule, rows.x0
        k, wanted, last = self.step(len(schedule)), set(rows.t.tolist()), int(rows.t.max())
        found, there, prediction = {}, x0, denoiser.predict(x0, all_at(0, x0), rows.cond)
        for t in range(0, last + 1, k):
            above = ddim_move(schedule, prediction, all_at(t + k, x0), x0)
            prediction = denoiser.predict(above, all_at(t + k, x0), rows.cond)
            if t in wanted:
                apart = ddim_move(schedule, prediction, all_at(t, x0), x0) - there
                found[t] = torch.stack([d.double().square().sum(dim=(1, 2, 3)) for d in (apart, *([low_pass(apart)] if self.low else []))])
            there = above
        return torch.stack([found[t] for t in rows.t.tolist()], dim=2)[..., None]

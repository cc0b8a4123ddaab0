"""What the engine asks of a probe."""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Rows:
    """One batch: B rows, each an image at one timestep with one noise draw.

    Attributes:
        x0, eps: (B,C,H,W) on the model's device, float32 (float64 where a test asks for it).
        t: (B,) int64 on the CPU, so that looking a coefficient up never waits for the device.
    """

    x0: torch.Tensor
    eps: torch.Tensor
    t: torch.Tensor


class Probe(Protocol):
    """One kind of pass through the model.

    Attributes:
        name: its line in PROBES; also part of what seeds the noise.
        VERSION: raise it whenever a number changes: stored shards of another version are not reused.
        TABLES: names of its tables, all with a timestep axis, in the order of `rows`.
        CALLS_PER_ROW: network calls that one row costs.
    """

    name: str
    VERSION: int
    TABLES: tuple[str, ...]
    CALLS_PER_ROW: int

    def defined(self, denoiser, timesteps):
        """bool (len(TABLES), K): which numbers exist for this model; the others become NaN, and where a column holds none no call is made."""

    def rows(self, denoiser, rows, clip):
        """One batch of rows -> (len(TABLES), B) float64 on the model's device; anything goes where a table is not defined."""

"""The noise bank: which Gaussian draw every image gets at one timestep.

eps depends on (run seed, t, draw, probe name) and on nothing else, so batch size, order and sharding cannot change a score, and all images share it
(common random numbers: what one draw does to an image is compared with what the same draw does to the others).
"""

import functools
import hashlib
from collections import OrderedDict

import torch

from audit.errors import RequestError

LIMIT_BYTES = 256 * 2**20


class NoiseBank:
    """Standard normal draws, made on demand and kept up to a limit.

    Args:
        seed: of the run, 0 … 2^63 - 1; probe: name of the probe.
        shape: (C,H,W) of one draw; draws: S, how many there are per timestep.
        limit_bytes: the least recently used draws are dropped above it.
    Source: SHA-256 of "seed/t/draw/probe" seeds torch's Mersenne Twister on the CPU.
    """

    def __init__(self, seed, probe, shape, draws, limit_bytes=LIMIT_BYTES):
        self.seed, self.probe, self.shape, self.draws, self.limit_bytes = int(seed), str(probe), tuple(shape), int(draws), int(limit_bytes)
        self._kept: OrderedDict[tuple[int, int], torch.Tensor] = OrderedDict()
        self._bytes = 0

    @property
    def kept_bytes(self):
        """Bytes of the draws in memory, at most `limit_bytes`."""
        return self._bytes

    def eps(self, t, draw):
        """One draw.

        Args: t: timestep, 0-based; draw: 0 … S-1.
        Returns: (C,H,W) float32 CPU tensor that must not be written to.
        Raises: RequestError: there is no such draw.
        """
        if not 0 <= draw < self.draws:
            raise RequestError(f"Noise draw {draw} was asked for. Expected 0 to {self.draws - 1}.")
        key = (int(t), int(draw))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = torch.randn(self.shape, generator=torch.Generator("cpu").manual_seed(self._seed_of(*key)), dtype=torch.float32)
        size = made.numel() * made.element_size()
        if size <= self.limit_bytes:
            self._kept[key] = made
            self._bytes += size
            while self._bytes > self.limit_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.numel() * dropped.element_size()
        return made

    def _seed_of(self, t, draw):
        digest = hashlib.sha256(f"{self.seed}/{t}/{draw}/{self.probe}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1  # manual_seed takes 63 bits without a sign


@functools.lru_cache(maxsize=1)
def bank(seed, probe, shape, draws):
    """The process's NoiseBank, kept between shards of a run; one at a time, so that the limit is the process's."""
    return NoiseBank(seed, probe, shape, draws)

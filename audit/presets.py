"""How densely a checkpoint is measured: K timesteps with S noise draws each."""

from dataclasses import dataclass

import numpy as np

from audit.errors import RequestError


@dataclass(frozen=True)
class Preset:
    """timesteps: K, or None for every one; draws: S; about: one line for people; untrained: whether the blind baseline also asks an untrained network."""

    timesteps: int | None
    draws: int
    about: str
    untrained: bool = False


PRESETS = {
    "quick": Preset(20, 2, "20 timesteps, 2 draws: a first look"),
    "standard": Preset(50, 4, "50 timesteps, 4 draws: the default"),
    "thorough": Preset(None, 2, "every timestep, 2 draws; the blind baseline also asks an untrained network", untrained=True),
}


def grid(timesteps, schedule_length):
    """The measured timesteps, round(linspace(0, T-1, K)).

    Args: timesteps: K >= 1, or None for all; schedule_length: T.
    Returns: int64 (K,), increasing and distinct (fewer than K where K > T).
    Raises: RequestError.
    """
    if timesteps is None:
        return np.arange(schedule_length)
    if timesteps < 1:
        raise RequestError(f"--timesteps is {timesteps}. Expected at least 1: use 20 (quick) or 50 (standard).")
    return np.unique(np.round(np.linspace(0, schedule_length - 1, timesteps)).astype(np.int64))

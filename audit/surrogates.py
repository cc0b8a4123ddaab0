"""Surrogates: what is trained on generated samples in place of the target, and under which name it is kept. No torch here.

`settings: {surrogate: {network: improved, steps: 20000}}` of --config; everything has a default that fits small pictures.
"""

import hashlib
import json
from dataclasses import dataclass, fields

from audit.errors import RequestError

NETWORKS = ("unet2d", "improved", "guided")
SCHEDULES = ("linear", "cosine")
TRAINER = 1  # raise it when the same settings would train another network
FOLDER = "surrogates"  # in AUDIT_HOME
BOUNDS = {  # name: (least, largest), of the numbers
    "steps": (1, 10**7), "batch_size": (1, 4096), "width": (8, 1024), "blocks": (1, 8), "train_timesteps": (21, 10_000), "validate_every": (1, 10**6), "patience": (1, 1000),
    "seed": (0, 2**31 - 1), "lr": (1e-7, 1.0), "dropout": (0.0, 0.9), "held_out": (0.0, 0.5), "ema_decay": (0.0, 0.999999),
}  # fmt: skip


@dataclass(frozen=True)
class SurrogateSettings:
    """How a surrogate is trained; refuses bad values when built.

    Attributes:
        network: "unet2d", "improved" or "guided" (models/trainable.py).
        steps: at most; batch_size; lr of AdamW; dropout; flip: mirror half of the samples; ema_decay of the averaged weights.
        width: channels of the first level (a multiple of 32 for improved and guided); blocks: residual blocks of a level. Levels follow from the picture's size.
        train_timesteps, beta_schedule: of the surrogate's own noise, whatever the target's is: the attacker does not know it.
        held_out: share of the samples that is not trained on; the weights with the smallest loss on them are kept, looked at every validate_every steps, and
            after `patience` looks without a smaller one the training ends. seed: of weights, order and noise.
    """

    network: str = "unet2d"
    steps: int = 4000
    batch_size: int = 64
    lr: float = 5e-4
    width: int = 32
    blocks: int = 1
    dropout: float = 0.0
    flip: bool = False
    ema_decay: float = 0.999
    train_timesteps: int = 1000
    beta_schedule: str = "linear"
    held_out: float = 0.1
    validate_every: int = 250
    patience: int = 8
    seed: int = 0

    def __post_init__(self):
        for name, allowed in (("network", NETWORKS), ("beta_schedule", SCHEDULES), ("flip", (True, False))):
            if getattr(self, name) not in allowed:
                raise RequestError(f"surrogate: {name} is {str(getattr(self, name))[:40]!r}. Expected one of {', '.join(map(str, allowed))}.")
        for name, (low, high) in BOUNDS.items():
            value, whole = getattr(self, name), isinstance(low, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
                raise RequestError(f"surrogate: {name} is {str(value)[:40]}. Expected a {'whole ' if whole else ''}number from {low:g} to {high:g}.")
        if self.network != "unet2d" and self.width % 32:
            raise RequestError(f"surrogate: width is {self.width}. Expected a multiple of 32 for network {self.network}.")

    def training(self, image_shape):
        """Keywords of models.train.TrainSettings for pictures of (C,H,W). Raises RequestError: they are not square, or of an odd side."""
        channels, height, side = image_shape
        if height != side:
            raise RequestError(f"A surrogate is trained on square pictures, these have {height} x {side}. Expected a square crop: leave surrogate attacks out.")
        mult = (1, 2, 2) if side <= 32 else (1, 2, 3, 4) if side <= 64 else (1, 1, 2, 3, 4)
        while side % 2 ** (len(mult) - 1):
            mult = mult[:-1]
        beta = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[self.beta_schedule]
        diffusion = {"num_train_timesteps": self.train_timesteps, "beta_schedule": beta if self.network == "unet2d" else self.beta_schedule}
        if self.network == "unet2d" and beta == "linear":  # OpenAI's line, which keeps the noise at the end whatever the number of steps
            diffusion |= {"beta_start": 0.1 / self.train_timesteps, "beta_end": 20 / self.train_timesteps}
        same = ("network", "steps", "batch_size", "lr", "dropout", "flip", "ema_decay", "held_out", "validate_every", "patience", "seed")
        return {name: getattr(self, name) for name in same} | {
            "image_size": side, "channels": channels, "scheduler_config": diffusion, "layers_per_block": self.blocks,
            "block_out_channels": [self.width * m for m in mult], "attention": [side // 2**level <= 8 for level in range(len(mult))],
        }  # fmt: skip


def surrogate_settings(given):
    """SurrogateSettings from a plain dict. Raises RequestError: unknown names, values out of bounds."""
    if not isinstance(given, dict):
        raise RequestError(f"settings of surrogate is {type(given).__name__}. Expected name: value pairs.")
    known = [field.name for field in fields(SurrogateSettings)]
    for name in given:
        if name not in known:
            raise RequestError(f"surrogate has no setting {str(name)[:40]!r}. Expected one of {', '.join(known)}.")
    return SurrogateSettings(**given)


def surrogate_key(pool_sha256, training, left_out=()):
    """16 hex digits that name a surrogate: the same samples and the same training give the same one.

    Args: training: of `SurrogateSettings.training`; left_out: indices of samples that are not used.
    """
    content = {"pool": pool_sha256, "training": training, "trainer": TRAINER} | ({"left_out": list(left_out)} if len(left_out) else {})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def is_on_surrogate(name):
    """Whether the attack of this canonical name is asked of a surrogate."""
    return name.startswith("surrogate_")


def needs_surrogate(attacks):
    """Whether any of these is."""
    return any(map(is_on_surrogate, attacks))

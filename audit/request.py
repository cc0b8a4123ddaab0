"""What somebody asked for: the content of request.json, and its identity."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field

from audit.api import parse_api
from audit.errors import RequestError
from audit.presets import PRESETS
from audit.surrogates import is_on_surrogate, needs_surrogate

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "tf32", "bf16")
DEFAULT_BUDGET, BUDGET_OF_ALL = 1, 10  # loss grids: without --attacks, and with --attacks all
SAMPLERS = ("ddim", "ancestral")
DEFAULT_POOL_STEPS, LEAST_POOL, MOST_POOL = 50, 10, 10**6
# fields that earlier versions did not have: left out of the identity where they are not used, so that their folders resume
ADDED = ("reference", "api", "labels", "captions", "pool", "pool_sampler", "pool_steps")
NOT_IDENTITY = ("name", "device", "batch_size")  # the same audit, whatever it is called and wherever it runs


@dataclass(frozen=True)
class Request:
    """One audit, before anything was read.

    Attributes:
        checkpoint, members, nonmembers: absolute paths; checkpoint None: only the samples of a given pool are attacked.
        name: what people call the run.
        preset: key of PRESETS; timesteps (K) and draws (S) override it.
        attacks: canonical names, or empty for all that fit the budget.
        seed: of noise, splits and permutations; device, batch_size (None = found by a probe), precision.
        settings: {attack: {setting: value}}: fixed by the user instead of chosen on the calibration half.
        manifest: absolute path of the manifest of a split that `split` drew, or None.
        randomised_split: the owner's word that the split was drawn at random before training; not together with a manifest, which shows it.
        overrides: {name: value} of models.overrides.OVERRIDES, what the checkpoint's files do not say; each value is checked when the checkpoint is opened.
        claimed_dp: (ε, δ) that somebody claims for the training, to be checked, or None; ε above 0, δ from 0 to below 1.
        budget: what attacks may cost beyond the loss grid, in loss grids; None = 1 for all attacks, no limit for named ones.
        reference: absolute path of a checkpoint whose scores are subtracted, or None.
        api: what an API shows, as audit.api.parse_api takes it (text or dict) and kept with every key, or None for the weights themselves.
        labels, captions: absolute paths of a CSV with the columns image,class or image,caption (audit.conditions), or None.
        pool: how many samples to draw from the checkpoint, or the absolute path of generated images, or None.
        pool_sampler: one of SAMPLERS, pool_steps: of DDIM; of a drawn pool only, None = ddim in 50 steps.
    """

    checkpoint: str | None
    members: str
    nonmembers: str
    name: str
    preset: str = "standard"
    attacks: tuple[str, ...] = ()
    timesteps: int | None = None
    draws: int | None = None
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    precision: str = "fp32"
    settings: dict = field(default_factory=dict)
    manifest: str | None = None
    randomised_split: bool = False
    claimed_dp: tuple[float, float] | None = None
    overrides: dict = field(default_factory=dict)
    budget: int | None = None
    reference: str | None = None
    api: dict | None = None
    labels: str | None = None
    captions: str | None = None
    pool: str | int | None = None
    pool_sampler: str | None = None
    pool_steps: int | None = None

    def __post_init__(self):
        for name in ("checkpoint", "members", "nonmembers", "name"):
            if not isinstance(getattr(self, name), str) and not (name == "checkpoint" and self.checkpoint is None):
                raise RequestError(f"{name} is {str(getattr(self, name))[:40]}. Expected text.")
        if isinstance(self.attacks, list):
            object.__setattr__(self, "attacks", tuple(self.attacks))
        if not (isinstance(self.attacks, tuple) and all(isinstance(name, str) for name in self.attacks)):
            raise RequestError(f"attacks is {str(self.attacks)[:40]}. Expected names.")
        if not isinstance(self.settings, dict):
            raise RequestError(f"settings is {str(self.settings)[:40]}. Expected attack: {{name: value}}.")
        plain = isinstance(self.overrides, dict) and all(isinstance(k, str) and isinstance(v, str | int | float) for k, v in self.overrides.items())
        if not plain:
            raise RequestError(f"overrides is {str(self.overrides)[:40]}. Expected name: value, one value each.")
        for name, allowed in (("preset", tuple(PRESETS)), ("device", DEVICES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise RequestError(f"--{name} is {str(getattr(self, name))[:40]!r}. Expected one of {', '.join(allowed)}.")
        for name in ("timesteps", "draws", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise RequestError(f"--{name.replace('_', '-')} is {value}. Expected a whole number of at least 1.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise RequestError(f"--seed is {self.seed}. Expected a whole number from 0 to 2^63 - 1.")
        if not isinstance(self.manifest, str | None) or not isinstance(self.randomised_split, bool):
            raise RequestError(f"--manifest is {str(self.manifest)[:40]!r}, --randomised-split {str(self.randomised_split)[:40]!r}. Expected a path, and true or false.")
        if self.manifest is not None and self.randomised_split:
            raise RequestError("--manifest and --randomised-split were both given. Expected one: a manifest shows what the other only says.")
        if not (self.reference is None or (isinstance(self.reference, str) and self.reference)):
            raise RequestError(f"--reference is {str(self.reference)[:40]!r}. Expected a path to a checkpoint.")
        for name, column in (("labels", "class"), ("captions", "caption")):
            value = getattr(self, name)
            if not (value is None or (isinstance(value, str) and value)):
                raise RequestError(f"--{name} is {str(value)[:40]!r}. Expected a path to a .csv with the columns image,{column}.")
        if self.api is not None:
            object.__setattr__(self, "api", parse_api(self.api).to_json())
        if self.claimed_dp is not None:
            object.__setattr__(self, "claimed_dp", dp_claim(self.claimed_dp))
        if self.budget is not None and (not isinstance(self.budget, int) or isinstance(self.budget, bool) or self.budget < 0):
            raise RequestError(f"--budget is {self.budget}. Expected a whole number of loss grids, 0 or more.")
        self._check_pool()

    def _check_pool(self):
        """Raise RequestError for a pool that cannot be, or for no checkpoint where one is needed."""
        drawn = isinstance(self.pool, int) and not isinstance(self.pool, bool)
        if not (self.pool is None or (isinstance(self.pool, str) and self.pool) or (drawn and LEAST_POOL <= self.pool <= MOST_POOL)):
            raise RequestError(f"--pool is {str(self.pool)[:40]}. Expected a number of samples to draw from {LEAST_POOL} to {MOST_POOL:,}, or a path to generated images.")
        if (self.pool_sampler is not None or self.pool_steps is not None) and not drawn:
            raise RequestError("--pool-sampler and --pool-steps say how a pool is drawn. Expected --pool with a number of samples beside them.")
        if self.pool_sampler not in (None, *SAMPLERS):
            raise RequestError(f"--pool-sampler is {str(self.pool_sampler)[:40]!r}. Expected one of {', '.join(SAMPLERS)}.")
        if self.pool_steps is not None and (isinstance(self.pool_steps, bool) or not isinstance(self.pool_steps, int) or self.pool_steps < 1):
            raise RequestError(f"--pool-steps is {str(self.pool_steps)[:40]}. Expected a whole number of at least 1.")
        if self.pool_sampler == "ancestral" and self.pool_steps is not None:
            raise RequestError("--pool-steps belongs to the ddim sampler: ancestral takes every step of the schedule. Leave it out.")
        if self.pool is None and needs_surrogate(self.attacks):
            raise RequestError(f"{next(filter(is_on_surrogate, self.attacks))} trains a model on generated samples. Expected --pool with a number of samples, or a path to them.")
        if self.checkpoint is not None:
            return
        if not isinstance(self.pool, str):
            raise RequestError("--checkpoint is missing. Expected a path to a checkpoint, or --pool with a path to images that the model generated.")
        said = [name for name in ("reference", "api") if getattr(self, name)] + sorted(self.overrides)
        if said:
            raise RequestError(f"--{said[0].replace('_', '-')} says something of a checkpoint, and none was given. Leave it out, or add --checkpoint.")

    @property
    def draws_pool(self):
        """Whether the pool is drawn from the checkpoint."""
        return isinstance(self.pool, int)

    @property
    def sampler(self):
        """(sampler, steps) of a drawn pool; steps None for the ancestral one, which takes all."""
        name = self.pool_sampler or SAMPLERS[0]
        return name, None if name == "ancestral" else self.pool_steps or DEFAULT_POOL_STEPS

    @property
    def grid_size(self):
        """K, or None for every timestep."""
        return self.timesteps if self.timesteps is not None else PRESETS[self.preset].timesteps

    @property
    def noise_draws(self):
        """S."""
        return self.draws if self.draws is not None else PRESETS[self.preset].draws

    @property
    def attack_budget(self):
        """Loss grids that attacks may cost beyond the first one, or None for no limit."""
        return self.budget if self.budget is not None or self.attacks else DEFAULT_BUDGET

    def to_json(self):
        """Plain dict; `from_json` is its inverse."""
        return dataclasses.asdict(self) | {"attacks": list(self.attacks), "claimed_dp": self.claimed_dp and list(self.claimed_dp)}

    @classmethod
    def from_json(cls, data):
        """Request from a plain dict. Raises RequestError on unknown or missing names."""
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(data, dict):
            raise RequestError(f"The request is a {type(data).__name__}. Expected the fields of audit.request.Request.")
        unknown, missing = set(data) - known, {"checkpoint", "members", "nonmembers", "name"} - set(data)
        if unknown or missing:
            raise RequestError(f"The request has unknown fields {sorted(unknown)} and lacks {sorted(missing)}. Expected the fields of audit.request.Request.")
        return cls(**data)

    def identity(self):
        """SHA-256 hex of everything that can change a number: two requests with the same identity are one audit."""
        content = {k: v for k, v in self.to_json().items() if k not in NOT_IDENTITY and not (k in ADDED and v is None)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def dp_claim(value):
    """A claimed (ε, δ) from text "3,1e-5" or a pair.

    Returns: (float, float). Raises RequestError: δ is missing, or one is no number or out of range.
    """
    parts = value.split(",") if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
    shown = value if isinstance(value, str) else ",".join(map(str, parts))
    try:
        epsilon, delta = (float("no") if isinstance(part, bool) else float(part) for part in parts)
    except (TypeError, ValueError):
        raise RequestError(f"--claimed-dp is {shown[:40]!r}. Expected EPS,DELTA such as 3,1e-5.") from None
    if not (0 < epsilon < math.inf and 0 <= delta < 1):
        raise RequestError(f"--claimed-dp is {shown[:40]!r}. Expected EPS above 0 and DELTA from 0 to below 1, such as 3,1e-5.")
    return epsilon, delta

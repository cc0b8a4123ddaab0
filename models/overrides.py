"""Settings that a user may give where the files are silent: their names, what each may be, and who wins.

    user > .yaml beside the file > recipe > inferred from the tensors > default

A setting that none of them decides is missing: opening then fails and says what to give. What the tensors do show cannot be overruled.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import CheckpointError
from models.safety import shown
from models.settings import PREDICTION_TYPES, Setting

MAX_YAML_BYTES = 64 * 2**10
YAML_SUFFIXES = (".yaml", ".yml")
MAX_STEPS = 100_000
WEIGHTS_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
CONFIGURATION = ("config.json", "scheduler_config.json", "scheduler", "vae", "vqvae", "text_encoder", "tokenizer")  # of diffusers, beside the weights of its UNet


@dataclass(frozen=True)
class Override:
    """One setting. kind: "choice", "whole", "number", "switch" or "text"; values: of a choice; low, high: bounds, inclusive; words: one line for people."""

    kind: str
    words: str
    values: tuple[str, ...] = ()
    low: float = 0
    high: float = 0

    @property
    def expected(self):
        """What may be given, in words."""
        if self.kind == "choice":
            return "one of " + ", ".join(self.values)
        if self.kind == "switch":
            return "true or false"
        if self.kind == "text":
            return "text"
        return f"a {'whole number' if self.kind == 'whole' else 'number'} from {self.low:g} to {self.high:g}"


OVERRIDES = {
    "recipe": Override("text", "named preset of a published model"),
    "weights": Override("choice", "which of the weights in the file", ("auto", "ema", "raw")),
    "image_size": Override("whole", "side of the pictures in pixels", low=1, high=8192),
    "train_timesteps": Override("whole", "timesteps of the training", low=2, high=MAX_STEPS),
    "beta_schedule": Override("choice", "noise schedule of the training", ("linear", "scaled_linear", "cosine", "squaredcos_cap_v2", "sigmoid")),
    "beta_start": Override("number", "first beta", low=1e-12, high=1),
    "beta_end": Override("number", "last beta", low=1e-12, high=1),
    "prediction_type": Override("choice", "what the network predicts", PREDICTION_TYPES),
    "variance": Override("choice", "reverse variance", ("fixed_small", "fixed_large", "learned_range")),
    "rescale_timesteps": Override("switch", "the network is told t·1000/T instead of t"),
    "respacing": Override("text", 'steps kept of the schedule: "", 100, 10,10 or ddim10'),
    "num_heads": Override("whole", "attention heads", low=1, high=1024),
    "num_heads_upsample": Override("whole", "attention heads on the way up", low=1, high=1024),
    "num_head_channels": Override("whole", "channels per attention head", low=1, high=16_384),
    "attention_order": Override("choice", "rows of qkv by head first (legacy) or by q, k, v first (new)", ("legacy", "new")),
}
SAME = {"beta_schedule": {"squaredcos_cap_v2": "cosine"}}


@dataclass(frozen=True)
class Takes:
    """What a format takes. narrowed: {name: values it knows} for choices that it knows fewer values of; names: all settings that may be given."""

    names: tuple[str, ...] = ()
    narrowed: dict[str, tuple[str, ...]] = field(default_factory=dict)


def check(given, said_by=""):
    """Overrides with every value checked and in its own type; None means not given.

    Args: given: {name: value}; values may be text where a number or switch is meant, as a .yaml or a form gives them; said_by: file name, for messages.
    Returns: dict without the Nones.
    Raises: CheckpointError: an unknown name, a value of another kind or out of bounds.
    """
    return {name: _value(name, value, said_by) for name, value in given.items() if value is not None}


def form(takes, recipes=()):
    """What somebody may be asked who opens a checkpoint by hand, as plain data for pages and JSON.

    Args: takes: Takes of a format; recipes: its names. A choice of one value is no question and is left out.
    Returns: [{"name", "words", "kind", "values", "low", "high"}]; values are of a choice, kind "choice" also where a format narrows text to some values.
    """
    asked = []
    for name in takes.names:
        override = OVERRIDES[name]
        values = list(takes.narrowed.get(name) or override.values or (recipes if name == "recipe" else ()))
        kind = "choice" if values else override.kind
        if len(values) != 1 or name == "recipe":
            asked.append({"name": name, "words": override.words, "kind": kind, "values": values, "low": override.low, "high": override.high})
    return asked


def _value(name, value, said_by):
    where = f"{said_by}: " if said_by else ""
    if name not in OVERRIDES:
        raise CheckpointError(f"{where}{shown(name, 40)} is not a setting of a checkpoint. Expected one of {', '.join(OVERRIDES)}.")
    override = OVERRIDES[name]
    converted = _converted(override, value)
    if converted is None:
        raise CheckpointError(f"{where}{name} is {shown(value, 40)}. Expected {override.expected}: correct it or leave it out.")
    return SAME.get(name, {}).get(converted, converted)


def _converted(override, value):
    """The value in its own type, or None where it does not fit."""
    if override.kind in ("choice", "text"):
        value = str(value) if type(value) is int and override.kind == "text" else value  # respacing: 100
        return value if isinstance(value, str) and (override.kind == "text" or value in override.values) else None
    if override.kind == "switch":
        return {"true": True, "false": False}.get(str(value).lower())
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or not override.low <= number <= override.high or (override.kind == "whole" and number != int(number)):
        return None
    return int(number) if override.kind == "whole" else number


def beside(path):
    """(settings, file name) of PATH's stem with .yaml or .yml, ({}, "") where there is none.

    Raises: CheckpointError: not a flat mapping of setting to value, or a value that `check` refuses.
    """
    import yaml

    file = next((f for suffix in YAML_SUFFIXES if (f := Path(path).with_suffix(suffix)).is_file()), None)
    if file is None:
        return {}, ""
    if file.stat().st_size > MAX_YAML_BYTES:
        raise CheckpointError(f"{file.name} has {file.stat().st_size // 1024} kB. Expected a few lines, setting: value.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError):
        raise CheckpointError(f"{file.name} is not readable YAML. Expected lines such as `num_heads: 4`: correct it or move it away.") from None
    if not isinstance(content, dict) or not all(isinstance(k, str) and isinstance(v, (str, int, float, bool)) for k, v in content.items()):
        raise CheckpointError(f"{file.name} is not a list of settings. Expected lines such as `num_heads: 4`, one value each: correct it or move it away.")
    return check(content, file.name), file.name


def files_beside(path):
    """Files and folders that decide, together with a weights file, what it is opened as; [] for any other path. Only those that are there."""
    path = Path(path)
    if path.suffix.lower() not in WEIGHTS_SUFFIXES or not path.is_file():
        return []
    return [place for place in (*(path.with_suffix(suffix) for suffix in YAML_SUFFIXES), *(path.parent / name for name in CONFIGURATION)) if place.exists()]


def fit(takes, given, words, said_by=""):
    """Raise CheckpointError unless a format takes every setting in `given`; `words`: the format, for the message."""
    where = f"{said_by}: " if said_by else ""
    for name, value in given.items():
        if name not in takes.names:
            known = f"Expected one of {', '.join(takes.names)}." if takes.names else "Its configuration files decide: edit scheduler_config.json or config.json."
            raise CheckpointError(f"{where}{name} cannot be set for {words}. {known}")
        if name in takes.narrowed and value not in takes.narrowed[name]:
            raise CheckpointError(f"{where}{name} {shown(value, 40)} is not known for {words}. Expected {' or '.join(takes.narrowed[name])}.")


@dataclass(frozen=True)
class Decided:
    """Settings and who decided each, in the order asked for. missing: names that nothing decides; fixed: those that the tensors show, which nobody can overrule."""

    settings: tuple[Setting, ...]
    missing: tuple[str, ...]
    fixed: tuple[str, ...] = ()

    def __getitem__(self, name):
        return next((s.value for s in self.settings if s.name == name), None)


def decide(wanted, user, from_yaml, yaml_name, recipe, inferred, default, certain=None):
    """Who decides each setting.

    Args:
        wanted: names in the order shown; user, from_yaml, recipe, inferred, default: {name: value}; yaml_name: the file's;
        certain: {name: value} that the tensors show beyond doubt.
    Returns: Decided.
    Raises: CheckpointError: somebody says otherwise than the tensors show.
    """
    certain = certain or {}
    sources = ((user, "user"), (from_yaml, yaml_name), (recipe, "recipe"), (inferred | certain, "inferred"), (default, "default"))
    settings, missing = [], []
    for name in wanted:
        value, who = next(((values[name], who) for values, who in sources if name in values), (None, None))
        if who is None:
            missing.append(name)
            continue
        if name in certain and value != certain[name]:
            raise CheckpointError(f"{name} is {value} by {'you' if who == 'user' else 'the ' * (who == 'recipe') + who}, the tensors show {certain[name]}. Leave {name} out.")
        settings.append(Setting(name, value, "inferred" if name in certain else who))
    return Decided(tuple(settings), tuple(missing), tuple(certain))

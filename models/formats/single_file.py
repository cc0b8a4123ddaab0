"""What formats of one weights file share: which file is meant, what was given beside it, and what is said about it."""

import re
from dataclasses import dataclass
from pathlib import Path

from models.base import CheckpointInfo, Setting
from models.errors import CheckpointError
from models.overrides import WEIGHTS_SUFFIXES, beside, check, fit
from models.safety import shown
from models.weights import Content, open_content

FOLDER_MARKS = ("model_index.json", "config.json", "unet")
# names that training scripts give to the averaged and the raw weights in one file; "ema_0.9999" and the like count as averaged too
EMA_KEYS = ("ema", "ema_model", "ema_unet", "unet_ema", "ema_state_dict")
RAW_KEYS = ("unet", "net_model", "model", "state_dict", "net", "model_state_dict")
# improved- and guided-diffusion write model040000.pt, ema_0.9999_040000.pt and opt040000.pt side by side
SAVED = re.compile(r"(?:(?P<ema>ema)_(?P<rate>[0-9.]+)_|model)(?P<step>[0-9]+)\.(?:pt|pth|safetensors)")


def pick(path, weights="auto"):
    """The weights file that a path means, or None.

    A file is itself. A folder without diffusers' configuration means its only weights file; beside each other, ema_RATE_STEP.pt goes before modelSTEP.pt
    ("raw": only the latter, "ema": only the former), then the highest step, then the highest rate.
    """
    path = Path(path)
    if path.is_file():
        return path if path.suffix.lower() in WEIGHTS_SUFFIXES else None
    if not path.is_dir() or any((path / name).exists() for name in FOLDER_MARKS):
        return None
    files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in WEIGHTS_SUFFIXES)
    if len(files) == 1:
        return files[0]
    saved = {p: found for p in files if (found := SAVED.fullmatch(p.name)) and weights in ("auto", kind_by_name(p))}
    return max(saved, key=lambda p: (saved[p]["ema"] is not None, int(saved[p]["step"][:18]), saved[p]["rate"] or ""), default=None)


def kind_by_name(path):
    """ "ema", "raw" or "only" (the name does not tell)."""
    found = SAVED.fullmatch(Path(path).name)
    if found:
        return "ema" if found["ema"] else "raw"
    return "ema" if re.match(r"ema[_.-]", Path(path).name) else "only"


def choose(content, sets, asked):
    """(kind, key) of the weights that are meant: "ema", "raw" or "only", and the key of their set.

    A file that is one set itself is of the kind that its name says, else of the kind asked for. Among several, the averaged go before the others.

    Args: content: models.weights.Content; sets: those of its sets that hold the network; asked: "auto", "ema" or "raw".
    Raises: CheckpointError: the weights asked for are not in it, or several would do.
    """
    if "" in sets:
        by_name = kind_by_name(content.path)
        if asked != "auto" and by_name not in ("only", asked):
            raise CheckpointError(f"{content.name} holds {by_name} weights by its name, not {asked}. Expected another file or weights {by_name}: give the file that you mean.")
        return (by_name if asked == "auto" else asked), ""
    ema = [key for key in EMA_KEYS if key in sets] or [key for key in sets if key.lower().startswith("ema")]
    raw = [key for key in RAW_KEYS if key in sets] or [key for key in sets if key not in ema]
    named, found = bool(ema or set(raw) & set(RAW_KEYS)), ", ".join(shown(key, 30) for key in sets) or "nothing"
    keys = {"ema": ema, "raw": raw, "auto": ema or raw}[asked]
    if not keys:
        raise CheckpointError(f"{content.name} holds no {asked} weights (found: {found}). Expected another value of weights: auto takes what there is.")
    if len(keys) > 1 and keys[0] not in EMA_KEYS + RAW_KEYS:
        raise CheckpointError(f"{content.name} holds several sets of weights ({found}). Expected one that its name tells: save the one that you mean alone.")
    return (("ema" if keys is ema else "raw") if named or asked != "auto" else "only"), keys[0]


@dataclass(frozen=True)
class Given:
    """A weights file with what the user and the .yaml beside it say, both checked."""

    content: Content
    user: dict[str, object]
    from_yaml: dict[str, object]
    yaml_name: str

    def __getitem__(self, name):
        return self.user.get(name, self.from_yaml.get(name))


def gather(path, takes, words, overrides):
    """Given of the file that `path` means.

    Args: takes: models.overrides.Takes of the format; words: the format's, for messages; overrides: {name: value} of the user, None = not given.
    Raises: CheckpointError: a setting that does not exist or does not fit.
    """
    user = check(overrides)
    fit(takes, user, words)
    file = pick(path, user.get("weights", "auto"))
    if file is None:
        raise CheckpointError(f"{Path(path).name} has no file with {user.get('weights')} weights by its name. Expected ema_RATE_STEP.pt or modelSTEP.pt: give the file itself.")
    from_yaml, yaml_name = beside(file)
    fit(takes, from_yaml, words, yaml_name)
    return Given(open_content(file), user, from_yaml, yaml_name)


def info_of(given, *, format_name, architecture, parameters, weights, decided, shown_by_tensors, image_shape, confidence, notes):
    """CheckpointInfo of one file; settings that are missing leave None where their value would stand.

    Args: decided: models.overrides.Decided; shown_by_tensors: {name: value}, listed after it as inferred.
    """
    return CheckpointInfo(
        sha256=given.content.sha256,
        format=format_name,
        architecture=architecture,
        parameters=parameters,
        weights=weights,
        prediction_type=decided["prediction_type"],
        train_timesteps=decided["train_timesteps"],
        image_shape=image_shape,
        settings=(*decided.settings, *(Setting(name, value, "inferred") for name, value in shown_by_tensors.items())),
        confidence="incomplete" if decided.missing else confidence,
        files=tuple(filter(None, (given.content.name, given.yaml_name))),
        missing=decided.missing,
        fixed=decided.fixed,
        notes=notes,
    )

"""Which vision backbone makes the features that attacks on samples compare: a model of timm by its name, and the file of its weights. No torch here.

    settings: {nearest: {backbone: vit_small_patch14_dinov2, weights: /models/dinov2_vits14.safetensors}}
"""

from dataclasses import dataclass
from pathlib import Path

from audit.errors import RequestError

SPACE = "features"


@dataclass(frozen=True)
class Backbone:
    """model: name of an architecture in timm; weights: absolute path of its .safetensors. Nothing is ever downloaded."""

    model: str
    weights: str


def backbone_of(settings):
    """The Backbone that attacks on samples name, or None.

    Args: settings: {attack: {setting: value}}.
    Raises: RequestError: half of one, two different ones, the space without one, or a path that cannot be its weights.
    """
    found = None
    for attack, values in settings.items():
        model, weights = values.get("backbone"), values.get("weights")
        if (model is None) != (weights is None):
            given, missing = ("backbone", "weights") if weights is None else ("weights", "backbone")
            raise RequestError(f"{attack}: {given} was given without {missing}. Expected both: a model of timm by its name, and the file of its weights.")
        if model is None:
            if values.get("space") == SPACE:
                raise RequestError(f"{attack}: the space {SPACE} needs a vision backbone. Expected settings backbone (a model of timm) and weights (its .safetensors).")
            continue
        _check(attack, model, weights)
        if found not in (None, Backbone(model, weights)):
            raise RequestError(f"{attack}: its backbone is another one than {found.model} before. Expected one for all attacks of an audit.")
        found = Backbone(model, weights)
    return found


def _check(attack, model, weights):
    if not model.replace("_", "").replace(".", "").isalnum():  # hf-hub:… and local-dir:… would be read from elsewhere
        raise RequestError(f"{attack}: backbone is {model[:60]!r}. Expected the name of a model in timm, such as vit_small_patch14_dinov2.")
    path = Path(weights)
    if not path.is_absolute() or path.suffix.lower() != ".safetensors":
        raise RequestError(f"{attack}: weights is {path.name[:60]!r}. Expected the absolute path of a .safetensors file.")

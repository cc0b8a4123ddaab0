"""One decided setting of a checkpoint, and what may be decided; no torch here."""

from dataclasses import dataclass

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class Setting:
    """`decided_by` is a file name, "inferred", "recipe", "user", "self-test" or "default"."""

    name: str
    value: object
    decided_by: str

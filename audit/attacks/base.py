"""What every attack has: a card for people, and three methods for the audit."""

from dataclasses import asdict, dataclass
from typing import Protocol

from audit.errors import RequestError
from audit.sources import TARGET

THREAT_MODELS = ("white-box", "gray-box", "black-box")


@dataclass(frozen=True)
class Setting:
    """One setting of a card: `choices` for words, or `low`/`high` (inclusive) for numbers; `default` None = chosen on the calibration half."""

    name: str
    about: str
    default: object = None
    choices: tuple | None = None
    low: float | None = None
    high: float | None = None

    def check(self, attack, value):
        """Raise RequestError unless the value is allowed."""
        if self.choices is not None:
            if value not in self.choices:
                raise RequestError(f"{attack}: {self.name} is {str(value)[:40]!r}. Expected one of {', '.join(map(str, self.choices))}.")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise RequestError(f"{attack}: {self.name} is {str(value)[:40]}. Expected a number from {self.low} to {self.high}.")


@dataclass(frozen=True)
class Card:
    """What an attack is, in words and names.

    Attributes:
        name: canonical (INTERFACE); short: at most 12 characters, for charts; title: for headings.
        threat_model: one of THREAT_MODELS; equation: in words; source; differs: from the source, or "".
        settings: what a user may fix; probes: names in audit.probes, or of what is measured without a network in audit.pool.measures;
            tables: tables it reads; weaknesses: known ones.
        needs: what an audit must have beside a checkpoint ("pool"): without it the attack is skipped.
        on: the source that its probes are run on, as in audit.sources: the target, or a surrogate.
        once: whether its model calls serve all images at once, whatever their number.
    """

    name: str
    short: str
    title: str
    threat_model: str
    equation: str
    source: str
    differs: str
    settings: tuple[Setting, ...]
    probes: tuple[str, ...]
    tables: tuple[str, ...]
    weaknesses: tuple[str, ...]
    needs: tuple[str, ...] = ()
    on: str = TARGET
    once: bool = False

    def to_json(self):
        """Plain dict for `audit attacks --json`."""
        return asdict(self)


class Attack(Protocol):
    """tables -> score per image. Every method is pure.

    card: Card.
    candidates(tables, fixed): list of settings objects with `.settings()`, those that the calibration half chooses from; `fixed`: settings the user gave.
    score(tables, choice, images): float64 (N,), HIGHER = MORE LIKELY A MEMBER; `images`: optional index into the N images.
    score_draw(tables, choice, draw, images): the same from one noise draw.
    steps_read(settings, timesteps): those of the measured timesteps that a choice with these settings reads.
    calls_at_setting(tables, choice): network calls per image that this choice alone needs.
    calls_per_image(tables): network calls per image as run, the whole grid included.
    one_draw (False where it is left out): its tables hold a single draw of noise, so how much the draw matters is not known.
    """

    card: Card

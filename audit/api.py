"""What an API shows of a model, and how it protects itself: the keys of `--api`. No torch here; audit.probes.api_view acts on it."""

from dataclasses import asdict, dataclass, fields

from audit.errors import RequestError

WHITE_BOX = "an API shows no weights: white-box attacks need them"
_BATCH = "--api batch is not simulated: a batch changes no picture's answer, and an answer about all of it has no score for one image. Expected steps, bits, noise or jpeg."


@dataclass(frozen=True)
class Api:
    """One answer is the clean picture that the model predicts from a noised one, through this; refuses bad values when built.

    Attributes:
        steps: how many steps of the schedule, evenly spread, can be asked about; None = all.
        bits: 1 to 8, depth of the pictures; noise: sd of Gaussian noise added to each picture, on the scale from -1 (black) to 1 (white), 0 to 2.
        jpeg: quality 1 to 100 of a JPEG compression after that, None = none.
    """

    steps: int | None = None
    bits: int = 8
    noise: float = 0.0
    jpeg: int | None = None

    def __post_init__(self):
        for name, low, high in (("steps", 2, 10**6), ("bits", 1, 8), ("jpeg", 1, 100)):
            value = getattr(self, name)
            if not (value is None and name != "bits") and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
                raise RequestError(f"--api {name} is {str(value)[:40]}. Expected a whole number from {low} to {high:,}.")
        if isinstance(self.noise, bool) or not isinstance(self.noise, int | float) or not 0 <= self.noise <= 2:
            raise RequestError(f"--api noise is {str(self.noise)[:40]}. Expected a number from 0 to 2, on the scale from -1 (black) to 1 (white).")
        object.__setattr__(self, "noise", float(self.noise))

    def to_json(self):
        """Plain dict with every key: measurement.api of report.json."""
        return asdict(self)


def parse_api(value):
    """Api from text such as "steps=20,bits=8" or from a dict. Raises RequestError: an unknown key, or a value that it cannot have."""
    given = _pairs(value) if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise RequestError(f"--api is {str(value)[:40]!r}. Expected KEY=VALUE,… such as steps=20,bits=8.")
    known = [f.name for f in fields(Api)]
    for key in given:
        if key == "batch":
            raise RequestError(_BATCH)
        if key not in known:
            raise RequestError(f"--api has no key {str(key)[:40]!r}. Expected {', '.join(known)}.")
    return Api(**given)


def _pairs(text):
    found = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key in found:
            raise RequestError(f"--api holds {part.strip()[:40]!r}. Expected KEY=VALUE,… such as steps=20,bits=8, each key once.")
        try:
            found[key] = float(value) if key == "noise" else int(value)
        except ValueError:
            found[key] = value  # Api says what it expected
    return found


def api_words(api):
    """`all steps, 8-bit pictures`; `20 steps, 4-bit pictures with noise of sd 0.02, as JPEG of quality 75`. Args: api: dict as of `to_json`."""
    steps = "all steps" if api["steps"] is None else f"{api['steps']:,} steps"
    noise = f" with noise of sd {api['noise']:g}" if api["noise"] else ""
    jpeg = f", as JPEG of quality {api['jpeg']}" if api["jpeg"] is not None else ""
    return f"{steps}, {api['bits']}-bit pictures{noise}{jpeg}"

"""How numbers are printed, everywhere: pages, command line and documents.

Pure functions from numbers to text. Bounds are rounded outward (a lower bound down, an upper bound up), so that a printed interval never
claims more than the computed one; values are rounded to nearest. A number that the data cannot carry becomes words, never a dash or a 0.
U+202F (narrow no-break space) stands before %, U+2212 is the minus sign.
"""

import math
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal

NARROW = "\u202f"
MINUS = "\u2212"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # not %b: that follows the machine's language
DECIMALS_FROM_N = 200  # below, one image is more than half a per cent and a decimal would be noise
P_LEVELS = (0.01, 0.05)  # p <= level is what the verdict asks: a printed p must not seem to be on the other side
LOWER_BOUND_FROM_N = {0.1: 36, 0.01: 368, 0.001: 3688}  # evaluation non-members from which a TPR at this FPR has a lower bound


def fixed(value: float, decimals: int, rounding: str = ROUND_HALF_UP) -> str:
    """A finite number with a fixed count of decimals; works on the shortest decimal form, so 0.924 rounded down to three is 0.924.

    Raises: ValueError: NaN or infinite; words are needed there, and the caller has them.
    """
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite number to print, got {value}.")
    return _digits(Decimal(repr(float(value))), decimals, rounding)


def _digits(value: Decimal, decimals: int, rounding: str) -> str:
    rounded = value.quantize(Decimal(1).scaleb(-decimals), rounding=rounding)
    text = f"{abs(rounded):,f}"
    return MINUS + text if rounded < 0 else text


def bounds(low: float, high: float, decimals: int) -> str:
    """`[low, high]`, low rounded down and high rounded up; an exact 0 stays `0` when no other decimals are printed."""
    return f"[{fixed(low, decimals, ROUND_FLOOR)}, {fixed(high, decimals, ROUND_CEILING)}]"


def auc(value: float) -> str:
    """`0.939`."""
    return fixed(value, 3)


def auc_bounds(low: float | None, high: float | None) -> str:
    """`[0.924, 0.951]`, kept inside [0, 1]; `no interval` where there is none."""
    if low is None or high is None:
        return "no interval"
    return bounds(max(low, 0.0), min(high, 1.0), 3)


def auc_interval(value: float, low: float | None, high: float | None) -> str:
    """`0.939 [0.924, 0.951]`."""
    return f"{auc(value)} {auc_bounds(low, high)}"


def value_interval(result: dict) -> str:
    """The same from a dict {value, low, high} of report.json."""
    return auc_interval(result["value"], result["low"], result["high"])


def below_chance(high: float | None) -> bool:
    """True when the whole interval lies under 0.5: then a warning belongs beside the number. The number itself is never flipped."""
    return high is not None and high < 0.5


def percent(share: float, decimals: int = 0, rounding: str = ROUND_HALF_UP) -> str:
    """A share in [0, 1] as `12.4 %` with U+202F."""
    return f"{_scaled(share, decimals, rounding)}{NARROW}%"


def percent_down(share: float) -> str:
    """A lower bound for running text: whole per cent, rounded down."""
    return percent(share, 0, ROUND_FLOOR)


def percent_up(share: float) -> str:
    """An upper bound or a smallest visible share for running text, rounded up: `12 %`, `2.1 %`, `2 %`; one decimal below 10 %."""
    text = _scaled(share, 1 if share < 0.1 else 0, ROUND_CEILING)
    return f"{text.removesuffix('.0')}{NARROW}%"


def fpr(value: float) -> str:
    """A target false positive rate as it is named: `10 %`, `1 %`, `0.1 %`."""
    return f"{format(Decimal(repr(float(value))) * 100, 'f').rstrip('0').rstrip('.') if value < 0.1 else _scaled(value, 0)}{NARROW}%"


def _scaled(share: float, decimals: int, rounding: str = ROUND_HALF_UP) -> str:
    """100 times the share, without the sign for per cent; scaled in decimal so that 0.29 is 29 and not 28.999…"""
    if not math.isfinite(share):
        raise ValueError(f"Expected a finite share to print, got {share}.")
    return _digits(Decimal(repr(float(share))) * 100, decimals, rounding)


def percent_bounds(low: float, high: float, decimals: int) -> str:
    """`[9.6, 15.6]` in per cent without the sign, kept inside [0, 100]; a bound of exactly 0 or 100 % is printed without decimals."""
    low, high = max(low, 0.0), min(high, 1.0)
    left = "0" if low == 0 else _scaled(low, decimals, ROUND_FLOOR)
    right = "100" if high == 1 else _scaled(high, decimals, ROUND_CEILING)
    return f"[{left}, {right}]"


def share(value: float, n: int) -> str:
    """A share of n images: one decimal from 200 images, none below."""
    return percent(value, _decimals(n))


def _decimals(n: int) -> int:
    return 1 if n >= DECIMALS_FROM_N else 0


def tpr(point: dict, members: int, nonmembers: int) -> str:
    """One entry of report.json's `tpr_at_fpr`, as it stands in tables.

    `12.4 % [9.6, 15.6]` · `0 of 500 [0, 0.8 %]` · `37.5 % [0, 58] coarse` · `not resolvable with n = 64`.

    Args: point: {fpr, tpr, low, high, resolution}; members, nonmembers: evaluation images behind it.
    """
    value, interval = tpr_value(point, members, nonmembers), tpr_bounds(point, members)
    return f"{value} {interval}" if interval else value


def tpr_value(point: dict, members: int, nonmembers: int) -> str:
    """The value alone: `12.4 %`, `0 of 500` or `not resolvable with n = 64`."""
    if point["resolution"] == "none" or point["tpr"] is None:
        return f"not resolvable with n = {count(nonmembers)}"
    if point["tpr"] == 0:
        return f"0 of {count(members)}"
    return share(point["tpr"], members)


def tpr_bounds(point: dict, members: int) -> str:
    """The interval alone, with its word: `[9.6, 15.6]`, `[0, 0.8 %]`, `[0, 58] coarse`, or `` where the value is not resolvable."""
    if point["resolution"] == "none" or point["tpr"] is None or point["high"] is None:
        return ""
    low = point["low"] or 0.0
    if point["resolution"] == "coarse":  # the interval is tens of per cent wide: decimals would be noise
        return f"{percent_bounds(low, point['high'], 0)} coarse"
    if point["tpr"] == 0:
        return f"[0, {percent(min(point['high'], 1.0), _decimals(members), ROUND_CEILING)}]"
    return percent_bounds(low, point["high"], _decimals(members))


def tpr_sentence(point: dict, nonmembers: int) -> str:
    """`12 % at 1 % FPR [9, 15]`, for running text; `no member at 1 % FPR [0, 0.8 %]`; `not resolvable with n = 64 at 1 % FPR`."""
    at = f"at {fpr(point['fpr'])} FPR"
    if point["resolution"] == "none" or point["tpr"] is None:
        return f"not resolvable with n = {count(nonmembers)} {at}"
    value = "no member" if point["tpr"] == 0 else percent(point["tpr"])
    if point["tpr"] == 0 or point["resolution"] == "coarse":
        return f"{value} {at} {tpr_bounds(point, nonmembers)}"
    return f"{value} {at} {percent_bounds(point['low'] or 0.0, point['high'], 0)}"


def tpr_help(point: dict, nonmembers: int) -> str | None:
    """The tooltip of a coarse or unresolvable TPR; None where the value is resolvable."""
    target = point["fpr"]
    needed = LOWER_BOUND_FROM_N.get(target)
    if point["resolution"] == "coarse":
        more = f"; from {count(needed)} evaluation non-members it does." if needed else "."
        return f"n = {count(nonmembers)} carries no lower bound at {fpr(target)} FPR{more}"
    if point["resolution"] == "none":
        one = percent(1 / nonmembers, 1)
        least = f"{fpr(target)} needs at least {count(round(1 / target))} for a coarse value" + (f", {count(needed)} for a lower bound." if needed else ".")
        high = f" Here: at most {percent(point['high'], 0, ROUND_CEILING)}." if point["high"] is not None else ""
        return f"One false alarm among {count(nonmembers)} non-members is already {one}. {least}{high}"
    return None


def p_value(p: float) -> str:
    """`p = 0.03`, `p = 0.004`, `p < 0.001`; three decimals where two would print a level of the verdict's rules, rounded up above it: 0.0504 is `p = 0.051`."""
    if p < 0.001:
        return "p < 0.001"
    if p < P_LEVELS[0]:
        return f"p = {fixed(p, 3)}"
    level = next((level for level in P_LEVELS if p != level and fixed(p, 2) == fixed(level, 2)), None)
    if level is None:
        return f"p = {fixed(p, 2)}"
    text = fixed(p, 3)
    return f"p = {fixed(p, 3, ROUND_CEILING) if p > level and text == fixed(level, 3) else text}"


def difference(value: float, low: float | None = None, high: float | None = None) -> str:
    """`−0.021 [−0.034, −0.009]`: three decimals, always signed."""
    text = _signed(value, ROUND_HALF_UP)
    return text if low is None or high is None else f"{text} [{_signed(low, ROUND_FLOOR)}, {_signed(high, ROUND_CEILING)}]"


def _signed(value: float, rounding: str) -> str:
    text = fixed(value, 3, rounding)
    if text.startswith(MINUS):
        return text
    return f"±{text}" if float(text.replace(",", "")) == 0 else f"+{text}"


def epsilon(value: float | None, confidence: float, ceiling: float | None, equivalent: bool = False) -> str:
    """`ε ≥ 2.1 (95 %), ceiling 4.6 for this n`; null `ε ≥ 0: nothing shown`; without a random split `ε-equivalent 2.1, not a bound`."""
    if value is None or value <= 0:
        text = "ε ≥ 0: nothing shown"
    elif equivalent:
        return f"ε-equivalent {fixed(value, 1, ROUND_FLOOR)}, not a bound"
    else:
        text = f"ε ≥ {fixed(value, 1, ROUND_FLOOR)} ({percent(confidence)})"
    return text if ceiling is None else f"{text}, ceiling {fixed(ceiling, 1, ROUND_FLOOR)} for this n"


def delta(value: float) -> str:
    """The δ of (ε, δ): `1e-5`, `0.001`."""
    return f"{value:g}".replace("e-0", "e-")


def count(n: int) -> str:
    """`1,680`."""
    return f"{n:,}"


def calls(n: int, what: str = "call") -> str:
    """`1 call`, `1,088 calls`; with "model call" `1 model call`."""
    return f"{count(n)} {what}{'' if n == 1 else 's'}"


def count_of(part: int, whole: int) -> str:
    """`1,680 of 4,000`."""
    return f"{count(part)} of {count(whole)}"


def number(value: float, decimals: int = 3) -> str:
    """A score or threshold: `1.444`, `−0.120`."""
    return fixed(value, decimals)


def millions(n: int) -> str:
    """A number of parameters: `35.7 M`, `812 k`, `96`."""
    if n >= 1_000_000:
        return f"{fixed(n / 1e6, 1)} M"
    return f"{fixed(n / 1e3, 0)} k" if n >= 1000 else str(n)


def duration(seconds: float) -> str:
    """`5 min 32 s`, `2 h 5 min`, `3 s`, `less than 1 s`."""
    if seconds < 1:
        return "less than 1 s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def time_left(seconds: float | None) -> str:
    """`about 3 min left`, `about 2 h 10 min left`, `less than a minute left`; `` while it cannot be known. Never seconds."""
    if seconds is None:
        return ""
    minutes = math.ceil(seconds / 60)
    if seconds < 60:
        return "less than a minute left"
    return f"about {minutes} min left" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min left"


def size(n_bytes: int) -> str:
    """Decimal units, as disks are sold: `512 B`, `87 kB`, `9 MB`, `143 MB`, `1.9 GB`."""
    for limit, unit, decimals in ((1e9, "GB", 1), (1e6, "MB", 0), (1e3, "kB", 0)):
        if n_bytes >= limit * (1 if decimals else 0.9995):  # 999,999 bytes are 1 MB, not 1,000 kB
            return f"{fixed(n_bytes / limit, decimals)} {unit}"
    return f"{n_bytes} B"


def window(first: int, last: int) -> str:
    """Timesteps kept, both ends included: `t = 82 … 265`."""
    return f"t = {first}" if first == last else f"t = {first} … {last}"


def moment(when: float | str) -> str:
    """Local time, `24 Nov, 02:14`, from seconds since 1970 or an ISO time."""
    local = _local(when)
    return f"{local.day} {MONTHS[local.month - 1]}, {local:%H:%M}"


def iso(when: float | str) -> str:
    """The same moment in full, for a tooltip: `2026-11-24T02:14:07+00:00`."""
    return _local(when).isoformat(timespec="seconds")


def clock(when: float | str) -> str:
    """Local time of day, `02:36`."""
    return f"{_local(when):%H:%M}"


def timestamp(when: str) -> float:
    """Seconds since 1970 of an ISO time; without a zone it is UTC.  Raises: ValueError."""
    return _local(when).timestamp()


def _local(when: float | str) -> datetime:
    if isinstance(when, str):
        moment_ = datetime.fromisoformat(when)
        return (moment_ if moment_.tzinfo else moment_.replace(tzinfo=UTC)).astimezone()
    return datetime.fromtimestamp(when, tz=UTC).astimezone()


def evaluated(queries: dict) -> str:
    """`500 + 500 images held out`, or below 400 a side `256 + 256 images, cross-fitted`; from report.json's `queries`."""
    both = f"{count(queries['evaluation_members'])} + {count(queries['evaluation_nonmembers'])} images"
    return f"{both}, cross-fitted" if queries["split"] == "cross-fitted" else f"{both} held out"


def fingerprint(sha256: str) -> str:
    """The first eight hex digits, enough to tell checkpoints apart: `9c41e07b`."""
    return sha256[:8]

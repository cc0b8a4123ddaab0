"""May this checkpoint go on? Limits against the intervals of a finished report, in three ways: kept, broken, undecided.

A limit is kept where it is at or above the upper bound, broken where it is below the lower bound, and undecided between: bounds decide, never the value.
Everything that has no bounds is undecided, never kept. Reads a report and nothing else.
"""

import math
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

from scipy.special import bdtrik, logit

from audit import format as fmt
from audit.errors import RequestError
from audit.report.words import LEVEL_WORDS, curve_images, verdict_words
from audit.stats.epsilon import LEVEL as EPSILON_LEVEL
from audit.stats.power import CRITICAL_Z_PLANNED, CROSS_FITTED_BELOW, POWER, POWER_Z, images_needed
from audit.stats.tpr import FLOOR_SLACK, FPRS, TAIL, clopper_pearson
from audit.stats.verdict import Policy

KEPT, BROKEN, UNDECIDED = "kept", "broken", "undecided"
EXIT_CODES = {KEPT: 0, BROKEN: 1, UNDECIDED: 3}
UPPER_Z = 1.96  # half width of a 95 % interval
NO_UPPER_EPSILON = "An audit bounds ε from below and never from above, so that it cannot keep this limit."
UPPER_END_SAYS = "The upper end bounds this attack's guesses, not the training."
LONGEST = 300  # characters of a text from outside
MOST_IMAGES = 10**9  # a limit that needs more than this needs no number


@dataclass(frozen=True)
class Limits:
    """What a report must stay under.

    Attributes:
        max_auc: above 0, at most 1, or None; max_tpr: ((fpr, tpr), …), one per FPR, fpr one of 0.1, 0.01, 0.001 and 0 < tpr <= 1; max_epsilon: above 0, or None.
        attacks: names that must have run; the limits hold for every attack that ran, named or not.
        min_images: images a side that the audit must have been given, or None.
    Raises: RequestError: a value that is not of this kind.
    """

    max_auc: float | None = None
    max_tpr: tuple[tuple[float, float], ...] = ()
    max_epsilon: float | None = None
    attacks: tuple[str, ...] = ()
    min_images: int | None = None

    def __post_init__(self):
        if self.max_auc is not None:
            _check("max_auc", self.max_auc, 1, "0.60")
        if self.max_epsilon is not None:
            _check("max_epsilon", self.max_epsilon, math.inf, "1")
        for fpr, tpr in self.max_tpr:
            _check("max_tpr", tpr, 1, "0.05")
            if fpr not in FPRS:
                raise RequestError(f"max_tpr names the false positive rate {_short(fpr)}. A report holds {', '.join(map(str, FPRS))}: choose one of them.")
        rates = [fpr for fpr, _ in self.max_tpr]
        if len(set(rates)) < len(rates):
            raise RequestError("max_tpr limits one false positive rate twice. Expected one limit for each.")
        if self.min_images is not None and (type(self.min_images) is not int or self.min_images < 1):
            raise RequestError(f"min_images is {_short(self.min_images)}. Expected a whole number of at least 1.")
        if not all(isinstance(name, str) and name for name in self.attacks):
            raise RequestError("attacks holds something that is not a name. Expected names such as loss_eps: see python -m audit attacks.")

    @property
    def any(self):
        """Whether there is a limit that could be broken."""
        return self.max_auc is not None or bool(self.max_tpr) or self.max_epsilon is not None

    def overridden(self, max_auc=None, max_tpr=(), max_epsilon=None):
        """A copy in which these limits replace those of the same kind, max_tpr for each FPR."""
        kept = tuple(pair for pair in self.max_tpr if pair[0] not in {fpr for fpr, _ in max_tpr})
        auc, epsilon = (mine if given is None else given for mine, given in ((self.max_auc, max_auc), (self.max_epsilon, max_epsilon)))
        return replace(self, max_auc=auc, max_tpr=(*kept, *max_tpr), max_epsilon=epsilon)


@dataclass(frozen=True)
class Row:
    """One limit, or the verdict.

    Attributes:
        key: max_auc, max_tpr, max_epsilon, attacks, min_images or verdict; limit: it in words; value: what came, with its interval, in words.
        attack: the attack that decides, or None; low, high: its bounds, or None; outcome: "kept" | "broken" | "undecided".
        words: why; needs: from how many images this can be kept, or "". Text from outside is cut and printable, not escaped.
    """

    key: str
    limit: str
    value: str
    outcome: str
    words: str
    attack: str | None = None
    low: float | None = None
    high: float | None = None
    needs: str = ""


@dataclass(frozen=True)
class Gate:
    """rows: tuple of Row, limits first, the verdict last; outcome: broken if any row is, else undecided if any is, else kept; exit_code: 0, 1 or 3."""

    rows: tuple[Row, ...]

    @property
    def outcome(self):
        outcomes = {row.outcome for row in self.rows}
        return next(o for o in (BROKEN, UNDECIDED, KEPT) if o in outcomes)

    @property
    def exit_code(self):
        return EXIT_CODES[self.outcome]


def read_policy(path):
    """Limits from a YAML file with the names max_auc, max_tpr ([{fpr, tpr}]), max_epsilon, attacks and min_images.

    Raises: RequestError: it cannot be read, or holds an unknown name, a name twice or a value of the wrong kind.
    """
    import yaml

    name = Path(path).name
    try:
        text = Path(path).read_text(encoding="utf-8")
        node, data = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # a date that does not exist is a ValueError
        raise RequestError(f"--policy: {name} cannot be read ({type(error).__name__}). Expected YAML such as max_auc: 0.60.") from None
    if not isinstance(data, dict):
        raise RequestError(f"--policy: {name} holds no limits. Expected YAML such as max_auc: 0.60.")
    names = [str(key.value).replace("-", "_") for key, _ in node.value]
    known = list(Limits.__dataclass_fields__)
    if unknown := sorted(set(names) - set(known)):
        raise RequestError(f"--policy: {name} holds {_short(unknown[0])}. Expected only the names {', '.join(known)}.")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise RequestError(f"--policy: {name} holds {twice[0]} twice. Expected each name once.")
    given = {str(key).replace("-", "_"): value for key, value in data.items() if value is not None}
    try:
        for key, pick in (("max_tpr", _pair), ("attacks", lambda item: item)):
            if key in given:
                if not isinstance(given[key], list):
                    raise RequestError(f"{key} is {_short(given[key])}. Expected a list.")
                given[key] = tuple(pick(item) for item in given[key])
        return Limits(**given)
    except RequestError as error:
        raise RequestError(f"--policy: {name}: {error}") from None


def _pair(item):
    """(fpr, tpr) of one entry of max_tpr."""
    if not isinstance(item, dict) or set(item) != {"fpr", "tpr"}:
        raise RequestError(f"max_tpr holds {_short(item)}. Expected entries such as {{fpr: 0.01, tpr: 0.05}}.")
    _check("max_tpr: fpr", item["fpr"], 1, "0.01")
    return float(item["fpr"]), item["tpr"]


def command(limits):
    """The command line that holds a run folder DIR against these limits; attacks and min_images have no flag and are left out."""
    flags = [] if limits.max_auc is None else [f"--max-auc {_exact(limits.max_auc)}"]
    flags += [f"--max-tpr {_exact(tpr)}@{_exact(fpr)}" for fpr, tpr in limits.max_tpr]
    flags += [] if limits.max_epsilon is None else [f"--max-epsilon {_exact(limits.max_epsilon)}"]
    return " ".join(["python -m audit gate DIR", *flags])


def parse_tpr_limit(text):
    """(fpr, tpr) of `0.05@0.01`: at most 5 % of the members at 1 % FPR.  Raises: RequestError."""
    tpr, _, fpr = text.partition("@")
    try:
        return float(fpr), float(tpr)
    except ValueError:
        raise RequestError(f"{_short(text)} is not a limit. Expected TPR@FPR such as 0.05@0.01") from None


def _check(name, value, most, example):
    """Raise RequestError unless 0 < value <= most, finite, and a number."""
    if type(value) not in (int, float) or not 0 < value <= most or math.isinf(value):
        allowed = f"a number above 0 and at most {most}" if most < math.inf else "a number above 0"
        raise RequestError(f"{name} is {_short(value)}. Expected {allowed}, such as {example}.")


def _short(value):
    """A value from outside inside an error."""
    return repr(value) if type(value) in (int, float) else repr(clean(str(value))[:40])


# --- three ways -------------------------------------------------------------------------------------------------------------------------------


def judge(limit, low, high):
    """One of the outcomes: broken where limit < low, kept where limit >= high, else undecided; a bound that is None decides nothing. Raising a limit never makes it worse."""
    if low is not None and limit < low:
        return BROKEN
    return KEPT if high is not None and limit >= high else UNDECIDED


def check(report, limits):
    """Judge a report.

    Each limit is held against every attack that ran: broken if one attack breaks it, kept if all keep it. An inconclusive verdict, an attack that the limits
    name and that did not run, and fewer images than they ask for are undecided: they never become kept, and a limit that is broken stays broken.

    Args: report: a dict as in report.json; limits: Limits with at least one limit.
    Returns: Gate.
    Raises: RequestError: no limit at all.
    """
    if not limits.any:
        raise RequestError("No limit was given. Expected at least one of max_auc, max_tpr, max_epsilon: --max-auc 0.60, --max-tpr 0.05@0.01, --max-epsilon 1 or --policy F.yaml.")
    rows = [] if limits.max_auc is None else [_auc_row(report, limits.max_auc)]
    rows += [_tpr_row(report, fpr, tpr) for fpr, tpr in limits.max_tpr]
    rows += [] if limits.max_epsilon is None else [_epsilon_row(report, limits.max_epsilon)]
    rows += [_attacks_row(report, limits.attacks)] if limits.attacks else []
    rows += [] if limits.min_images is None else [_images_row(report, limits.min_images)]
    return Gate((*rows, _verdict_row(report)))


def _auc_row(report, limit):
    def bounds(row):
        auc = row["auc"] or {}
        return _number(auc.get("low")), _number(auc.get("high"))

    outcome, row, (low, high), count = _worst(report, limit, bounds)
    text, needs = f"AUC at most {_exact(limit)}", auc_needs(limit)
    if row is None:
        return Row("max_auc", text, "no attack ran", UNDECIDED, "No attack ran, so there is nothing to judge.", needs=needs)
    value = _number((row["auc"] or {}).get("value"))
    shown = fmt.auc_interval(value, low, high) if value is not None else "no AUC"
    return Row("max_auc", text, shown, outcome, _why(outcome, count, high), clean(row["name"]), low, high, needs)


def _tpr_row(report, fpr, limit):
    members, nonmembers = curve_images(report)

    def point_of(row):
        return next((p for p in row["tpr_at_fpr"] or () if abs(p["fpr"] - fpr) < 1e-12), {})

    def bounds(row):
        point = point_of(row)
        if point.get("resolution") not in ("resolvable", "coarse"):
            return None, None  # the upper bound of an FPR that cannot be resolved is no result
        return _number(point["low"]), _number(point["high"])

    outcome, row, (low, high), count = _worst(report, limit, bounds)
    text, needs = f"TPR at {fmt.fpr(fpr)} FPR at most {_percent(limit)}", tpr_needs(fpr, limit)
    if row is None:
        return Row("max_tpr", text, "no attack ran", UNDECIDED, "No attack ran, so there is nothing to judge.", needs=needs)
    point, words, best = point_of(row), _why(outcome, count, high), smallest_upper(members)
    resolved = bounds(row) != (None, None)
    if outcome == UNDECIDED and not resolved:
        words = f"{fmt.fpr(fpr)} FPR is not resolvable with n = {fmt.count(nonmembers)} non-members."
    elif outcome == UNDECIDED and limit < best:
        words = f"Below what n = {fmt.count(members)} members can show: even with none found the upper bound is {fmt.percent_up(best)}."
    elif outcome == UNDECIDED and point["resolution"] == "coarse":
        words += f" {fmt.tpr_help(point, nonmembers)}"
    shown = fmt.tpr(point | {"low": low, "high": high}, members, nonmembers) if resolved else f"not resolvable with n = {fmt.count(nonmembers)}"
    return Row("max_tpr", text, shown, outcome, words, clean(row["name"]), low, high, needs)


def _epsilon_row(report, limit):
    bound = report.get("epsilon_lower_bound") or {}
    low, high = _number(bound.get("value")), epsilon_high(bound.get("guesses"), bound.get("correct"))
    text, needs = f"ε at most {_exact(limit)}", epsilon_needs(limit)
    if low is None:
        return Row("max_epsilon", text, "no ε", UNDECIDED, clean(bound.get("reason") or "This run has no ε."), needs=needs)
    outcome = judge(limit, low, None)
    shown = fmt.epsilon(low, 0.95, None) + (f", these guesses allow at most {fmt.fixed(high, 1, ROUND_CEILING)}" if high is not None else ", no upper end")
    why = _why(outcome, None, None) if outcome == BROKEN else NO_UPPER_EPSILON + (f" {UPPER_END_SAYS}" if high is not None else "")
    words = why + (" It rests on the owner's word that the split is random." if bound.get("basis") == "stated-random" else "")
    return Row("max_epsilon", text, shown, outcome, words, low=low, needs=needs)


def epsilon_high(guesses, correct):
    """The upper end of the ε that this attack's guesses could have earned: logit of the 97.5 % Clopper-Pearson upper bound of right guesses, at least 0.

    It bounds this attack on these images as the interval of an AUC does, and is shown beside the lower bound; it never keeps a limit, because no audit bounds
    the ε of a training from above.

    Args: guesses, correct: counts of the one-run bound, r >= 1 and 0 <= v <= r.
    Returns: float, or None where all guesses were right, or the counts are missing.
    """
    if type(guesses) is not int or type(correct) is not int or not 0 <= correct < guesses:
        return None
    return max(0.0, float(logit(clopper_pearson(correct, guesses)[1])))


def _attacks_row(report, names):
    found = {row["name"]: row for row in report["attacks"]}
    missing = [_missing(name, found.get(name)) for name in names if found.get(name, {}).get("status") != "done"]
    ran = f"{fmt.count_of(len(names) - len(missing), len(names))} ran"
    words = f"Did not run: {'; '.join(missing)}. No result is not a low result." if missing else "All attacks that the policy names ran."
    return Row("attacks", "attacks that must have run", ran, UNDECIDED if missing else KEPT, words)


def _missing(name, row):
    """`pia (not part of this run)` or `pia (failed: out of memory)`."""
    why = "not part of this run" if row is None else f"{row['status']}: {row.get('reason')}" if row.get("reason") else str(row["status"])
    return clean(f"{name} ({why})")


def _images_row(report, least):
    members, nonmembers = report["queries"]["members"], report["queries"]["nonmembers"]
    enough = min(members, nonmembers) >= least
    words = "" if enough else f"Fewer than {fmt.count(least)} images a side. Audit again with more."
    return Row("min_images", f"at least {fmt.count(least)} images a side", f"{fmt.count(members)} + {fmt.count(nonmembers)}", KEPT if enough else UNDECIDED, words)


def _verdict_row(report):
    level = report["verdict"]["level"]
    decided = level in LEVEL_WORDS and level != "inconclusive"
    words = _headline(report) if level in LEVEL_WORDS else "This verdict is not known to this version."
    left = [_missing(row["name"], row) for row in report["attacks"] if row["status"] != "done"]
    words += f" Not judged: {'; '.join(left)}." if left else ""
    return Row("verdict", "verdict not inconclusive", LEVEL_WORDS.get(level, clean(level)), KEPT if decided else UNDECIDED, words, needs="" if decided else VERDICT_NEEDS)


def _headline(report):
    """The verdict's sentence, or its level where the report lacks what the sentence speaks of: that must not stop a gate."""
    try:
        return verdict_words(report).headline
    except (KeyError, TypeError, ValueError, StopIteration):
        return f"{LEVEL_WORDS[report['verdict']['level']]}."


def _worst(report, limit, bounds):
    """(outcome, row, (low, high), (attacks with that outcome, attacks that ran)): broken before undecided before kept, then the highest bound."""
    judged = [(judge(limit, *bounds(row)), row, bounds(row)) for row in report["attacks"] if row["status"] == "done"]
    if not judged:
        return UNDECIDED, None, (None, None), (0, 0)
    outcome = next(o for o in (BROKEN, UNDECIDED, KEPT) if any(found == o for found, _, _ in judged))
    same = [entry for entry in judged if entry[0] == outcome]
    side = 0 if outcome == BROKEN else 1
    _, row, ends = max(same, key=lambda entry: math.inf if entry[2][side] is None else entry[2][side])
    return outcome, row, ends, (len(same), len(judged))


def _why(outcome, count, high):
    """The reason in a sentence; count: (attacks with this outcome, attacks that ran), or None for a number that has no attack of its own."""
    of = f" for {fmt.count_of(*count)} attacks" if count else ""
    if outcome == BROKEN:
        return f"The limit lies below the lower bound{of}."
    if outcome == KEPT:
        return f"The limit is at or above the upper bound{of}."
    return f"The limit lies inside the interval{of}." if high is not None else f"There is no upper bound{of}."


def _number(value):
    """A finite number of report.json, else None: what is not a number must not decide."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def clean(text):
    """A text from outside as one line without control characters, at most 300 characters; the narrow space of numbers stays."""
    line = " ".join(str(text).replace(fmt.NARROW, "\0").split()).replace("\0", fmt.NARROW)[:LONGEST]
    return "".join(c if c.isprintable() or c == fmt.NARROW else "?" for c in line)


def _exact(value):
    """A limit as it was given, unrounded: 0.6, 1."""
    text = format(value if isinstance(value, Decimal) else Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _percent(value):
    """A share as it was given, unrounded: 5 %, 12.5 %."""
    return f"{_exact(Decimal(repr(value)) * 100)}{fmt.NARROW}%"


# --- how many images a limit needs ------------------------------------------------------------------------------------------------------------


def smallest_upper(members):
    """Upper bound of a TPR when not one of `members` was found: 1 - 0.025^(1/members). No limit below it can be kept."""
    return -math.expm1(math.log(TAIL) / members)


def auc_images(limit):
    """(possible, likely): evaluated images a side from which an AUC of exactly 0.5 keeps the limit, and from which a model without a leak keeps it in 4 of 5 audits.

    images_needed with c = 1.96, the upper end of the interval. (None, None) for a limit of 0.5 or less, which chance alone breaks.
    """
    if limit <= 0.5:
        return None, None
    return images_needed(limit, UPPER_Z, power_z=0.0), images_needed(limit, UPPER_Z, POWER_Z)


def tpr_images(fpr, limit):
    """(possible, likely): evaluated images a side, as for `auc_images`.

    possible: 1 - 0.025^(1/m) <= limit, and 1/fpr non-members.
    likely: a model without a leak finds a share fpr of its members; with N members and N non-members that share is as uncertain as one of N/2 trials:
    the smallest N whose Clopper-Pearson upper bound at the 80 % point of Binomial(N/2, fpr) is at most the limit. None where limit <= fpr.

    Args: fpr, limit: in 0..1, both ends left out for fpr.
    Source: this project's own; tests/test_gate.py simulates it (0.76 to 0.92 for limits of 1.2 to 50 times the FPR).
    """
    resolved = math.ceil(1 / fpr - FLOOR_SLACK)
    possible = max(resolved, math.ceil(math.log(TAIL) / math.log1p(-limit) - FLOOR_SLACK) if limit < 1 else 1)
    if limit <= fpr:
        return possible, None
    trials = _first(lambda n: clopper_pearson(_point(n, fpr), n)[1] <= limit)
    return possible, trials and max(possible, 2 * trials)


def epsilon_guesses(limit):
    """The fewest guesses that can break an ε limit, all of them right and δ = 0: logit(0.05^(1/r)) > limit. None beyond 10^9.

    Source: audit.stats.epsilon.ceiling, solved for r.
    """
    rate = math.log1p(math.exp(-limit))
    guesses = math.floor(-math.log(EPSILON_LEVEL) / rate) + 1 if rate > 0 else math.inf
    return guesses if guesses <= MOST_IMAGES else None


def _point(n, share):
    """The 80 % point of Binomial(n, share)."""
    return min(n, max(0, math.ceil(float(bdtrik(POWER, n, share)) - FLOOR_SLACK)))


def _first(holds):
    """The smallest n with holds(n), by bisection: counts are whole, so the next few n may miss it by one. None beyond 10^9."""
    low, high = 0, 1
    while not holds(high):
        low, high = high, 2 * high
        if high > MOST_IMAGES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def auc_needs(limit):
    """A sentence: from how many images a side an AUC limit can be kept."""
    possible, likely = auc_images(limit)
    if possible is None:
        return f"No number of images keeps this limit: chance alone is an AUC of 0.5. Raise it above {_exact(0.5)}."
    return _sentence(_to_bring(max(possible, Policy().least_images)), _to_bring(max(likely, Policy().least_images)))


def tpr_needs(fpr, limit):
    """The same for a TPR limit. Only half of the images stand behind a TPR, also under cross-fitting."""
    possible, likely = tpr_images(fpr, limit)
    if likely is None:
        return f"This limit can pass only from {fmt.count(2 * possible)} images a side, and then by luck: a model without a leak finds {fmt.fpr(fpr)} of its members. Raise it."
    return _sentence(2 * possible, 2 * likely)


def epsilon_needs(limit):
    """What an ε limit can do: break, and never be kept."""
    guesses = epsilon_guesses(limit)
    breaks = "No audit of this size breaks it either." if guesses is None else f"It can break from {fmt.count(guesses)} guesses, all right, about a split drawn at random."
    return f"No number of images keeps this limit, so a gate with it ends broken or undecided. {breaks} Only a proof about the training bounds ε from above."


def _sentence(possible, likely):
    return f"This limit can pass only from {fmt.count(possible)} images a side; from {fmt.count(likely)} a model without a leak passes it in 4 of 5 audits (one attack)."


def _to_bring(evaluated):
    """Images a side to bring so that at least `evaluated` stand behind an AUC: all do below 400, half from there."""
    return evaluated if 2 * evaluated < CROSS_FITTED_BELOW else 2 * evaluated


VERDICT_NEEDS = (
    "Without a leak the verdict is not-detected only from about "
    f"{_to_bring(images_needed(Policy().largest_mda, CRITICAL_Z_PLANNED))} images a side; with fewer it is inconclusive, and so is the gate."
)


def needs(limits):
    """[(limit, sentence)] for every limit that can be counted in images, and the verdict; for a policy without a run.

    Raises: RequestError: no limit at all.
    """
    if not limits.any:
        raise RequestError("No limit was given. Expected at least one of max_auc, max_tpr, max_epsilon.")
    lines = [] if limits.max_auc is None else [(f"AUC at most {_exact(limits.max_auc)}", auc_needs(limits.max_auc))]
    lines += [(f"TPR at {fmt.fpr(fpr)} FPR at most {_percent(tpr)}", tpr_needs(fpr, tpr)) for fpr, tpr in limits.max_tpr]
    lines += [] if limits.max_epsilon is None else [(f"ε at most {_exact(limits.max_epsilon)}", epsilon_needs(limits.max_epsilon))]
    return [*lines, ("verdict not inconclusive", VERDICT_NEEDS)]

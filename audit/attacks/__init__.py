"""Attacks: tables + settings -> one score per image, HIGHER = MORE LIKELY A MEMBER. NumPy only.

An attack is one file with one class and one line here; contract tests, forms, README's table and the report pick it up by themselves.
"""

import math

from audit.backbones import backbone_of
from audit.errors import RequestError
from audit.registry import Registry
from audit.sources import TARGET
from audit.surrogates import surrogate_settings

ATTACKS = Registry(
    {
        "loss_vlb": "audit.attacks.loss_vlb:LossVLB",
        "loss_x0": "audit.attacks.loss_x0:LossX0",
        "loss_eps": "audit.attacks.loss_eps:LossEps",
        "gray_intermediate": "audit.attacks.gray_intermediate:GrayIntermediate",
        "gray_free": "audit.attacks.gray_free:GrayFree",
        "naive_loss": "audit.attacks.naive_loss:NaiveLoss",
        "pia": "audit.attacks.pia:PIA",
        "pian": "audit.attacks.pian:PIAN",
        "secmi": "audit.attacks.secmi:SecMI",
        "sima": "audit.attacks.sima:SimA",
        "sima_mc": "audit.attacks.sima_mc:SimAMC",
        "dime": "audit.attacks.dime:DIME",
        "dime_m": "audit.attacks.dime_m:DIMEM",
        "pfami": "audit.attacks.pfami:PFAMI",
        "nearest": "audit.attacks.nearest:Nearest",
        "nearest_calibrated": "audit.attacks.nearest_calibrated:NearestCalibrated",
        "rediffuse": "audit.attacks.rediffuse:ReDiffuse",
    },
    families={"surrogate_": "audit.attacks.surrogate:on_surrogate"},
)

GRID = "noised"  # the probe behind every loss: one loss grid is what budgets are counted in


def choose(names):
    """The canonical names to run: those asked for, in registry order, or all; surrogate_NAME only where it is named.

    Args: names: canonical names, empty for all, or ("all",), also beside others.
    Raises: RequestError: an unknown name.
    """
    unknown = [n for n in names if n not in ATTACKS and n != "all"]
    if unknown:
        raise RequestError(f"There is no attack {str(unknown[0])[:40]!r}. Expected one of {', '.join(ATTACKS)}, or surrogate_ and the name of a white- or gray-box one.")
    listed = [n for n in ATTACKS if not names or "all" in names or n in names]
    return (*listed, *(n for n in ATTACKS.derived() if n in names)) if set(names) - {"all", *ATTACKS} else tuple(listed)


def as_run(name, reference=False):
    """The Attack of one audit: the registered one, or with a reference the same calibrated by it where it asks the target."""
    from audit.attacks.relative import Relative

    return Relative(ATTACKS[name]) if reference and ATTACKS[name].card.on == TARGET else ATTACKS[name]


def asked_of(names, source):
    """Those of some canonical names whose probes are run on one source (audit.sources)."""
    return tuple(name for name in names if ATTACKS[name].card.on == source)


def filtered_probes(names, settings):
    """Probes whose low-pass tables somebody asked for: those of the attacks with `filter: low-pass` among their fixed settings.

    Args: names: canonical names that run; settings: {attack: {setting: value}}.
    """
    return {probe for name in names if settings.get(name, {}).get("filter") == "low-pass" for probe in ATTACKS[name].card.probes}


def within_budget(names, calls, grid_calls, budget):
    """Which attacks run when together they may cost so much: the cheapest first; a probe that several read is paid once.

    Args:
        names: canonical names; calls: {probe: network calls per image beyond the loss grid}, 0 for the probe that measures the grid; what is not in it asks no network.
        grid_calls: network calls per image of the loss grid; budget: in loss grids, None = no limit.
    Returns: (names that run, in the order given; {name: reason} of the others).
    """

    def cost(probes):
        return sum(calls.get(probe, 0) for probe in probes)

    limit = math.inf if budget is None else budget * grid_calls
    paid, reached, skipped = set(), set(), {}
    for name in sorted(names, key=lambda n: cost(ATTACKS[n].card.probes)):
        probes = set(ATTACKS[name].card.probes)
        more = cost(probes - paid)
        reached |= probes  # a larger budget pays for every cheaper attack first
        if cost(paid) + more > limit:
            skipped[name] = f"over the budget: {more:,} more model calls per image; --budget {math.ceil(cost(reached) / grid_calls)} has room for it"
        else:
            paid |= probes
    return tuple(n for n in names if n not in skipped), {n: skipped[n] for n in names if n in skipped}


def check_settings(settings):
    """Refuse settings of unknown attacks, unknown settings and values outside a card's bounds.

    Args: settings: {attack: {setting: value}}. Raises: RequestError.
    """
    for attack, values in settings.items():
        if attack == "surrogate":  # not an attack: how the model is trained that surrogate_NAME asks
            surrogate_settings(values)
            continue
        choose((attack,))
        if not isinstance(values, dict):
            raise RequestError(f"settings of {attack} is {type(values).__name__}. Expected name: value pairs.")
        specs = {s.name: s for s in ATTACKS[attack].card.settings}
        for name, value in values.items():
            if name not in specs:
                raise RequestError(f"{attack} has no setting {str(name)[:40]!r}. Expected one of {', '.join(specs)}.")
            specs[name].check(attack, value)
    backbone_of({attack: values for attack, values in settings.items() if attack != "surrogate"})

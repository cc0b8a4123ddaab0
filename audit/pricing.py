"""What each attack adds to the price of an audit before it runs, from what its probes cost; what several attacks read is counted once. No torch.

Of two attacks that need one probe, the first in the registry's order pays for it among those that run; for one that does not run: what ticking it would add.
"""

from dataclasses import dataclass

from audit.api import WHITE_BOX
from audit.attacks import ATTACKS, GRID, within_budget


@dataclass(frozen=True)
class Share:
    """What one attack adds. calls: new network calls per image; once: calls made once for all images; seconds: of both, on the machine that was measured;
    shared_with: the attack that pays for its probes already, or ""; skipped: why it would not run although it is asked for, or ""."""

    calls: int
    once: int
    seconds: float
    shared_with: str = ""
    skipped: str = ""


def shares(costs, asked, budget, api=False):
    """{attack: Share} of every registered attack.

    Args:
        costs: the `costs` of a check: probes ({probe: [network calls of one image, calls made once, what the budget counts per image]}), seconds_per_call,
            seconds_per_shared_call, images.
        asked: canonical names that are ticked; budget: loss grids beyond the first, None = no limit; api: the model is seen through one.
    """
    counted = {probe: cost[2] for probe, cost in costs["probes"].items()}
    skipped = {name: WHITE_BOX for name in ATTACKS if api and ATTACKS[name].card.threat_model == "white-box"}
    running, over = within_budget(tuple(name for name in asked if name not in skipped), counted | {GRID: 0}, counted[GRID], budget)
    skipped |= over
    payers, found = {}, {}
    for name in [*running, *(name for name in ATTACKS if name not in running)]:
        if ATTACKS[name].card.needs:
            found[name] = Share(0, 0, 0.0)
            continue
        probes = ATTACKS[name].card.probes
        new = [probe for probe in probes if probe not in payers]
        calls, once = (sum(costs["probes"][probe][k] for probe in new) for k in (0, 1))
        seconds = calls * costs["images"] * costs["seconds_per_call"] + once * costs["seconds_per_shared_call"]
        found[name] = Share(calls, once, seconds, "" if new else payers[probes[0]], skipped.get(name, "") if name in asked else "")
        if name in running:
            payers |= dict.fromkeys(new, name)
    return {name: found[name] for name in ATTACKS}

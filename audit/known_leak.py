"""The control on request: the same audit settings on the bundled leaky checkpoint, whose leak is known. What cannot find that one proves nothing by finding none.

`python -m audit control DIR` runs it as a job of its own, writes known_leak.json into the run folder and scores the run again; from then on the control is part of it.
"""

import dataclasses
import json
from pathlib import Path

from audit.demo import FOLDER, demo_request
from audit.errors import RunFolderError
from audit.stats.controls import Control
from audit.stats.permutation import LEVEL

OWN_POOL = 1000  # samples drawn from the bundled checkpoint where the run was given a folder of them
NAME, FILE = "bundled_leaky", "known_leak.json"
SETTINGS = ("preset", "attacks", "timesteps", "draws", "seed", "budget", "device", "batch_size", "precision", "settings", "api")  # of the run; images and checkpoint are the demo's


def request_like(request):
    """audit.request.Request for the bundled leaky checkpoint with another request's settings."""
    same = {name: getattr(request, name) for name in SETTINGS}
    pool = request.pool if request.pool is None or request.draws_pool else OWN_POOL  # somebody's own samples are not the demo's
    drawn = {"pool": pool, "pool_sampler": request.pool_sampler, "pool_steps": request.pool_steps}
    twin = request.reference and str(FOLDER / "twin")  # the bundled pair's natural reference
    return dataclasses.replace(demo_request("leaky"), name=f"control of {request.name}", reference=twin, **same, **drawn)


def found_in(report):
    """What known_leak.json holds: the headline of a finished report of the bundled leaky checkpoint.

    Returns: {"run", "checkpoint", "attack", "auc", "low", "high", "p_value"}; checkpoint is its SHA-256.
    """
    row = next(a for a in report["attacks"] if a["name"] == report["verdict"]["headline_attack"])
    figures = {name: row["auc"][key] for name, key in (("auc", "value"), ("low", "low"), ("high", "high"))}
    return {"run": report["run"]["id"], "checkpoint": report["checkpoint"]["sha256"], "attack": row["name"], **figures, "p_value": report["permutation"]["p_value"]}


def known_leak(folder):
    """The Control of a run folder, or None where nobody asked for it; passed: p <= 0.05 and the whole interval above 0.5.

    Raises: RunFolderError: known_leak.json cannot be read.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        auc, low, high, p = (float(found[name]) if found[name] is not None else None for name in ("auc", "low", "high", "p_value"))
        if not all(value is None or 0 <= value <= 1 for value in (auc, low, high, p)) or None in (auc, p):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(f"{FILE} of {path.parent.name} cannot be read. Remove it, and run python -m audit control DIR again.") from None
    passed = p <= LEVEL and low is not None and low > 0.5
    return Control(NAME, auc, low, high, passed, p, None if passed else f"these settings do not find the known leak of the bundled checkpoint (p = {p:.2g})")

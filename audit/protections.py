"""What each protection of an API costs an attacker: the gray-box attacks of a finished run once more, on some of its own images, through one API after another.

The settings are those that the run chose for the bare model, each timestep at the nearest step that is shown: an attacker who tunes for a protection may do better.
docs/protections.md says what protections.json holds. Nothing here imports torch; `plan_for` needs it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audit.api import Api, api_words
from audit.attacks import ATTACKS, as_run, filtered_probes
from audit.errors import AttackError, RequestError, RunFolderError
from audit.sources import REFERENCE
from audit.stats.evaluate import evaluate
from audit.stats.paired import holm, paired_difference
from audit.stats.streams import stream

FILE, SCHEMA_VERSION = "protections.json", 2
SWEEP = (None, Api(), Api(bits=6), Api(bits=4), Api(noise=0.01), Api(noise=0.03), Api(noise=0.1), Api(jpeg=95), Api(jpeg=75), Api(steps=100), Api(steps=20), Api(steps=10))
IMAGES, LEAST_IMAGES, MOST_IMAGES = 300, 40, 1000


@dataclass(frozen=True)
class Shown:
    """What one API lets be measured. timesteps: {probe: steps of its schedule}; fixed: {attack: settings there}; draws: {probe: S}; filtered: probes with a low pass."""

    timesteps: dict
    fixed: dict
    draws: dict
    filtered: tuple[str, ...]

    @property
    def plan(self):
        """Keywords of audit.engine.MeasurePlan."""
        own = tuple((probe, self.timesteps[probe], self.draws[probe]) for probe in self.timesteps)
        return {"timesteps": next(iter(self.timesteps.values())), "probes": tuple(self.timesteps), "own": own, "filtered": self.filtered}


def attacks_of(report):
    """{attack: chosen settings} of the gray-box attacks of a finished run that have scores, in the registry's order.

    Raises: RequestError: there is none, or the run saw the model through an API already.
    """
    if report["measurement"].get("api"):
        raise RequestError("This run saw the model through an API already, and its settings count the steps of that one. Expected a run without --api.")
    done = {row["name"]: row["settings"] for row in report["attacks"] if row["status"] == "done" and row["threat_model"] == "gray-box"}
    found = {name: done[name] for name in ATTACKS if name in done}
    if not found:
        raise RequestError("No gray-box attack of this run has scores. Expected one: audit again with --attacks sima, or with none left out.")
    return found


def images_of(run, count):
    """int64 (n,): images that are measured again: held-out ones, drawn once per run, as many of each class as there are, half of `count` at most.

    Args: run: audit.report.run.Run. Raises: RequestError: count out of range.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not LEAST_IMAGES <= count <= MOST_IMAGES:
        raise RequestError(f"--images is {str(count)[:40]}. Expected a whole number from {LEAST_IMAGES} to {MOST_IMAGES:,}.")
    inside, is_member = np.flatnonzero(run.evaluation), np.asarray(run.is_member)
    each = min(count // 2, *(int((is_member[inside] == side).sum()) for side in (True, False)))
    mixed = stream(run.report["run"]["seed"], "protections").permutation(inside)
    return np.sort(np.concatenate([mixed[is_member[mixed] == side][:each] for side in (True, False)]))


def plan_for(view, attacks, measurement):
    """Shown of one API, or of the bare model.

    Args: view: models.base.Denoiser or audit.probes.api_view.ApiView; attacks: of `attacks_of`; measurement: of the run's report.
    Raises: RequestError: an attack's timesteps have no step that can be measured here.
    """
    from audit.probes import PROBES

    steps, fixed, own = {}, {}, {row["probe"]: row["timesteps"] for row in measurement["own"]}
    for name, settings in attacks.items():
        (probe,) = ATTACKS[name].card.probes
        read = ATTACKS[name].steps_read(settings, own.get(probe, measurement["timesteps"]))
        there = sorted({_nearest(view, PROBES[probe], t) for t in read})
        steps.setdefault(probe, set()).update(there)
        moved = {"t": there[-1], "keep_from": there[0], "keep_until": there[-1]}
        fixed[name] = {key: moved.get(key, value) for key, value in settings.items()}
    draws = {probe: measurement["draws"] if PROBES[probe].DRAWS is None else max(1, PROBES[probe].DRAWS) for probe in steps}
    order = [probe for probe in PROBES if probe in steps]
    filtered = filtered_probes(tuple(attacks), attacks)
    return Shown({probe: tuple(sorted(steps[probe])) for probe in order}, fixed, draws, tuple(probe for probe in order if probe in filtered))


def _nearest(view, probe, t):
    """The step of `view` nearest to timestep t of the network where a probe can be measured."""
    shown = np.asarray(getattr(view, "shown", np.arange(len(view.schedule))))
    for step in np.argsort(np.abs(shown - t), kind="stable"):
        try:
            if probe.defined(view, (int(step),)).any():
                return int(step)
        except RequestError:  # off the lattice of this probe
            continue
    raise RequestError(f"{probe.name} can be measured at none of the steps that are shown.")


def scores_of(tables, fixed, reference):
    """({attack: scores (n,)}, {attack: why there are none}) at fixed settings. Args: tables: audit.tables.Tables; fixed: of Shown; reference: whether both models were measured."""
    scores, failed = {}, {}
    for name, settings in fixed.items():
        attack = as_run(name, reference)
        try:
            choice = attack.candidates(tables, settings)[0]
            scores[name] = attack.score(tables, choice)
            if not np.isfinite(scores[name]).all() or np.ptp(scores[name]) == 0:
                raise AttackError("all images score alike" if np.isfinite(scores[name]).all() else "a score is not finite")
        except AttackError as error:
            scores.pop(name, None)
            failed[name] = str(error)
    return scores, failed


def row_of(api, shown, calls, scores, failed, bare, is_member, clusters=None):
    """One entry of protections.json's `sweep`.

    Args: api: Api or None; shown: Shown; calls: network calls of all images; scores, failed: of `scores_of`; bare: scores through no API, on the same images;
        is_member: bool (n,); clusters: (n,) near duplicates, or None.
    """
    rows = []
    for name, settings in shown.fixed.items():
        row = {"name": name, "status": "failed" if name in failed else "done", "reason": failed.get(name), "settings": settings}
        if name in scores:
            found = evaluate(scores[name], is_member, clusters=clusters).to_json()
            row |= {"auc": found["auc"], "tpr_at_fpr": found["tpr_at_fpr"], "difference": None}
            if api is not None and name in bare:
                row["difference"] = paired_difference(bare[name], scores[name], is_member, clusters).to_json()
        rows.append(row)
    return entry(api, "done", None, calls, rows)


def adjusted(sweep):
    """The entries of a whole sweep with p_value of each change after Holm over all APIs that this attack was measured through; what it was before is p_unadjusted."""
    changes = {}
    for row in (row for entry in sweep for row in entry["attacks"]):
        if row.get("difference"):
            changes.setdefault(row["name"], []).append(row["difference"])
    for found in changes.values():
        for change, p in zip(found, holm([change["p_value"] for change in found]), strict=True):
            change |= {"p_value": p, "p_unadjusted": change["p_value"]}
    return sweep


def entry(api, status, reason, calls=0, attacks=()):
    """An entry of `sweep`, also of an API that could not be shown."""
    return {"api": api and api.to_json(), "shows": words_of(api), "status": status, "reason": reason, "model_calls": calls, "attacks": list(attacks)}


def words_of(api):
    """`no API`; `6-bit pictures`; `10 steps`: what sets one entry of the sweep apart from the plain API of 8-bit pictures at all steps."""
    if api is None:
        return "no API"
    if api.steps is not None:
        return f"{api.steps:,} steps"
    if api.jpeg is not None:
        return f"JPEG {api.jpeg}"
    return f"noise {api.noise:g}" if api.noise else f"{api.bits}-bit pictures"


def in_full(api):
    """The same with everything that such an API shows. Args: api: as `Api.to_json`, or None."""
    return "the model’s own answers" if api is None else api_words(api)


def sources(tables):
    """Whether both models were measured. Args: tables: names."""
    return any(name.startswith(REFERENCE) for name in tables)


def read(folder):
    """The content of a run folder's protections.json, or None where there is none. Raises RunFolderError: it cannot be read."""
    path = Path(folder) / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
        raise RunFolderError(f"{FILE} of {path.parent.name} cannot be read. Remove it, and run python -m audit protections DIR again.")
    return found

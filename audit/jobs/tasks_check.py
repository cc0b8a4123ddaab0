"""Device work of a check before an audit. audit.jobs.tasks says how tasks answer."""

from dataclasses import replace

import numpy as np

from audit.jobs.facts import describe, facts_of
from audit.jobs.outcome import task
from audit.jobs.tasks import device_of_place, networks, open_sources, prepare_process, probed, reference_problem, run_self_test
from audit.sources import TARGET

_looked: dict = {}  # what the check that is under way has opened: first the checkpoint, then with what stands beside it, tested once the images are read


@task
def recognise(place):
    """What a checkpoint is, before a tensor is read. Returns CheckpointInfo as JSON, with the `words` and `questions` of its format (models/checkpoint.py:form_of)."""
    from models.checkpoint import form_of, inspect_checkpoint

    info = inspect_checkpoint(place.checkpoint, **dict(place.overrides)).to_json()
    words, questions = form_of(info["format"])
    return info | {"words": words, "questions": questions}


@task
def look(place):
    """Open a checkpoint for a check, on the CPU and beside the network that an audit has loaded. Returns Opened."""
    prepare_process(place)
    _looked.clear()
    _looked[place.identity] = place.open()
    return describe(_looked[place.identity], device_of_place(replace(place, device="cpu")))


@task
def plan_check(place, wish):
    """Facts of a check, with the reference and the API of `place`. Args: wish: as `facts_of` takes it."""
    return facts_of(_looked_at(place), wish)


def _looked_at(place):
    """{source: Denoiser} of a check; what it has opened already is not opened again."""
    key = place.identity, place.reference, place.reference_version, place.api
    if key not in _looked:
        target = _looked.get(place.identity)
        _looked.clear()
        _looked[key] = open_sources(place, target)
    return _looked[key]


@task
def rank(place, images, count):
    """Which usual values of missing settings denoise these images best. Returns {"words", "best"}, or None where the format has nothing to compare."""
    from models.checkpoint import rank_missing
    from models.pixels import to_model_range

    prepare_process(place)
    found = rank_missing(place.checkpoint, to_model_range(np.load(images, allow_pickle=False)[:count]), **dict(place.overrides))
    return found and {"words": found.words, "best": found.best}


@task
def look_closer(place, images, count, settings, price_here, said=None):
    """Self-test of a check's networks and, on the CPU, their price; they are dropped afterwards.

    Args: settings: Facts.plan, or None where there is no plan to price; said: class labels or captions of the images, or None.
    Returns: (SelfTest as JSON, the reference's problem or "", Probed or None).
    """
    prepare_process(place)
    opened = _looked_at(place if settings else replace(place, reference=None, reference_version=None, api=None))
    _looked.clear()
    tested, problem = run_self_test(opened[TARGET], images, count, said).to_json(), reference_problem(opened, images, count, said)
    priced = probed(opened, device_of_place(replace(place, device="cpu")), images, count, settings, said) if price_here and settings else None
    return tested, problem, priced


@task
def price_on_device(place, images, count, settings, said=None):
    """Price of a check on the GPU, in turn with an audit's shards. Args: said: as in look_closer. Returns Probed."""
    return probed(*networks(place), images, count, settings, said)

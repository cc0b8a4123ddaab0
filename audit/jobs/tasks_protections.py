"""Device work of a sweep over protections. audit.jobs.tasks says how tasks answer."""

from audit.jobs.outcome import task
from audit.jobs.tasks import load_pictures, measured_on, networks
from audit.sources import TARGET


@task
def hashes(place):
    """SHA-256 of each network of `place`, the target first."""
    opened, _ = networks(place)
    return [denoiser.info.sha256 for denoiser in opened.values()]


@task
def measure_shown(place, api, images, count, wanted, flag):
    """Measure images as one API shows the networks of `place`, at the settings that a run chose.

    Args: api: audit.api.Api, or None for the networks themselves; images, count: of an images.npy; wanted: attacks (audit.protections.attacks_of), measurement,
        seed, batch_size, precision, said (class labels or captions of the images, or None); flag: a stop sign.
    Returns: ({table: float32 (S,n,K)}, {table: (axis, timesteps)}, audit.protections.Shown, network calls), or a sentence where this API cannot show these models.
    """
    from audit import engine
    from audit.errors import RequestError
    from audit.probes.api_view import ApiView
    from audit.protections import plan_for

    opened, _ = networks(place)
    try:
        views = opened if api is None else {source: ApiView(denoiser, api, wanted["seed"]) for source, denoiser in opened.items()}
        shown = plan_for(views[TARGET], wanted["attacks"], wanted["measurement"])
    except RequestError as error:
        return " ".join(str(error).split())
    plan = engine.MeasurePlan(**shown.plan, **{name: wanted[name] for name in ("seed", "batch_size", "precision")})
    pictures, tables, specs, calls = load_pictures(images, 0, count), {}, {}, 0
    for source, view in views.items():
        tables |= {source + name: values for name, values in measured_on(view, pictures, plan, flag, wanted["said"]).items()}
        specs |= {source + table: spec for table, spec in engine.specs(plan, view.schedule).items()}
        calls += engine.model_calls(plan, count, view)
    return tables, specs, shown, int(calls)

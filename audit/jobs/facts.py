"""What the driver learns of a network before anything is measured: what it is, which probes will run, and what they cost."""

from dataclasses import dataclass, field, replace

import numpy as np

from audit.api import WHITE_BOX
from audit.sources import REFERENCE, TARGET

SHARED_BY = 200  # images that calls made once are spread over when a budget is counted: the checkpoint is opened before the images are


@dataclass(frozen=True)
class Opened:
    """What the driver needs to know of a checkpoint: info as JSON, alphas_cumprod (T,) float64, device type and words, versions on the device worker, and what
    the model is asked with beside the picture (models.base.Denoiser)."""

    info: dict
    alphas_cumprod: np.ndarray
    pixel_space: bool
    device_type: str
    device_words: str
    torch_version: str
    diffusers_version: str
    classes: int | None = None
    captions: bool = False


@dataclass(frozen=True)
class Facts:
    """What follows from a plan before anything is measured.

    Attributes:
        plan: keywords of audit.engine.MeasurePlan, batch_size as asked (None = not known yet); specs: {table: (axis, timesteps or None)}.
        calls_per_image: network calls; values_per_image: float32 numbers that come back; versions: {probe: VERSION}.
        shared_calls: network calls that are made once for all images; skipped: {attack: reason} of those that do not run.
        Calls and values are those of all sources together. reference: what was recognised in the reference, or None; warnings: sentences for the report.
        costs: {probe: (network calls of one image, calls made once, what the budget counts per image)}, also of probes that do not run.
    """

    plan: dict
    specs: dict
    calls_per_image: int
    values_per_image: int
    versions: dict
    shared_calls: int = 0
    skipped: dict = field(default_factory=dict)
    reference: dict | None = None
    warnings: tuple[str, ...] = ()
    costs: dict = field(default_factory=dict)

    def calls(self, images):
        """Network calls of so many images."""
        return images * self.calls_per_image + self.shared_calls if images else 0

    @property
    def full_tables(self):
        """As many tables with every timestep and draw of the grid hold these numbers."""
        return -(-self.values_per_image // (max(1, len(self.plan["timesteps"])) * self.plan["draws"]))


def facts_of(opened, wish):
    """Facts of a plan on these networks.

    Args:
        opened: {source: Denoiser}, which have the same timesteps.
        wish: grid_size (K or None for all), draws, seed, batch_size (or None), precision, attacks (names, empty for all), budget (loss grids, None = no limit),
            also (probes that no attack reads), settings ({attack: {setting: value}} that the user fixed), api (None, or anything: the networks are seen through an API),
            captions (whether there are any).
    Raises: RequestError: the budget has room for none of the attacks.
    """
    from audit import engine
    from audit.attacks import asked_of, choose, filtered_probes
    from audit.presets import grid
    from audit.probes import PROBES
    from audit.sources import noise_warning

    denoiser = opened[TARGET]
    timesteps = tuple(int(t) for t in grid(wish["grid_size"], len(denoiser.schedule)))
    settings = {name: wish[name] for name in ("draws", "seed", "batch_size", "precision")} | {"timesteps": timesteps, "clip": None}
    probes, skipped, costs = _affordable(opened, settings, wish)
    filtered = filtered_probes(asked_of(choose(wish["attacks"]), TARGET), wish["settings"])
    settings |= {"filtered": tuple(p for p in probes if p in filtered)} if filtered else {}
    settings |= {"probes": probes, "own": engine.own_grids(probes, denoiser.schedule, wish["draws"])}
    plans = {source: plan_of(settings, source) for source in opened}
    specs = {source + table: spec for source, plan in plans.items() for table, spec in engine.specs(plan, denoiser.schedule).items()}
    values = sum(plan.of(name).draws * len(plan.probe(name).TABLES) * len(plan.of(name).timesteps) for plan in plans.values() for name in plan.probes)
    versions = {name: PROBES[name].VERSION for name in probes}
    calls, shared = (sum(int(count(plans[source], d)) for source, d in opened.items()) for count in (engine.calls_per_image, engine.shared_calls))
    reference = opened.get(REFERENCE)
    warning = reference and noise_warning(denoiser, reference)
    return Facts(settings, specs, calls, values, versions, shared, skipped, reference and reference.info.to_json(), (warning,) if warning else (), costs)


def joined(facts, other, source):
    """Facts of two measurements of the same images: `facts`, and `other` on a further source, whose tables get its prefix."""
    return replace(
        facts,
        specs=facts.specs | {source + table: spec for table, spec in other.specs.items()},
        calls_per_image=facts.calls_per_image + other.calls_per_image,
        values_per_image=facts.values_per_image + other.values_per_image,
        versions=facts.versions | {source + probe: version for probe, version in other.versions.items()},
        shared_calls=facts.shared_calls + other.shared_calls,
    )


def _affordable(opened, settings, wish):
    """(probes to run, in registry order; {attack: why it is left out}; Facts.costs)."""
    from audit import engine
    from audit.attacks import ATTACKS, GRID, asked_of, choose, within_budget
    from audit.errors import RequestError
    from audit.probes import PROBES

    names, denoiser, budget = asked_of(choose(wish["attacks"]), TARGET), opened[TARGET], wish["budget"]
    if not names:  # all of them ask a surrogate
        return tuple(probe for probe in PROBES if probe in wish["also"]), {}, {}
    hidden = {name: WHITE_BOX for name in names if wish["api"] and ATTACKS[name].card.threat_model == "white-box"}
    asked = denoiser.classes is not None or (denoiser.captions and wish.get("captions", False))
    unfit = {
        name: reason for name in names if name not in hidden
        for probe in ATTACKS[name].card.probes if probe in PROBES and (reason := PROBES[probe].unfit(asked))
    }  # fmt: skip
    unfit |= {name: reason for name in names if name not in hidden | unfit and (reason := _beyond(wish["settings"].get(name, {}), len(denoiser.schedule)))}
    names = tuple(name for name in names if name not in hidden | unfit)
    if not names and unfit:
        raise RequestError(f"None of the attacks asked for can run on this model: {next(iter(unfit.values()))}. Name other attacks or settings.")
    if not names:
        raise RequestError(f"--api leaves none of the attacks asked for: {WHITE_BOX}. Name gray-box ones, or leave --api out.")
    plan = engine.MeasurePlan(**settings, probes=tuple(PROBES), own=engine.own_grids(tuple(PROBES), denoiser.schedule, settings["draws"]))
    costs = {}
    for probe, each in engine.calls_of(plan, denoiser).items():
        once, asked = engine.shared_calls(replace(plan, probes=(probe,)), denoiser), 1 if PROBES[probe].OF_TARGET else len(opened)
        costs[probe] = tuple(int(asked * calls) for calls in (each, once, each - (-once // SHARED_BY)))  # each source allows the same timesteps and is asked the same
    counted = {probe: cost[2] for probe, cost in costs.items()}
    chosen, skipped = within_budget(names, counted | {GRID: 0}, counted[GRID], budget)
    if not chosen:
        raise RequestError(f"--budget {budget} has room for none of the attacks asked for: {next(iter(skipped.values()))}.")
    skipped |= hidden | unfit
    used = {probe for name in chosen for probe in ATTACKS[name].card.probes} | set(wish["also"])
    return tuple(probe for probe in PROBES if probe in used), skipped, costs


def _beyond(fixed, length):
    """Why an attack cannot run with these settings on a schedule of so many timesteps, or "": the nearest measured one would be far from what was asked for."""
    return next((f"{name} is fixed at {fixed[name]:,}, beyond the last timestep {length - 1:,} of this model" for name in ("t", "keep_from") if fixed.get(name, 0) >= length), "")


def plan_of(settings, source=TARGET):
    """The MeasurePlan of one source."""
    from audit.engine import MeasurePlan

    plan = MeasurePlan(**settings)
    return plan if source == TARGET else plan.for_reference()


def describe(denoiser, device):
    """Opened of a Denoiser on a torch.device."""
    import diffusers
    import torch

    words = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_words(torch.get_num_threads())
    abar = np.asarray(denoiser.schedule.alphas_cumprod, np.float64)
    info, asked_with = denoiser.info.to_json(), (denoiser.classes, denoiser.captions)
    return Opened(info, abar, denoiser.pixel_space, device.type, words, torch.__version__, diffusers.__version__, *asked_with)


def cpu_words(cores):
    """`CPU, 2 cores`."""
    return f"CPU, {cores} core{'' if cores == 1 else 's'}"

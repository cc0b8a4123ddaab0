"""What runs on a device worker. Each task returns an Outcome instead of raising: Dask would log an exception with the names of files in it.

What is needed of one checkpoint stays loaded between tasks, the last one per process, under `Place.identity`.
"""

import functools
import os
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from audit.api import WHITE_BOX, Api
from audit.sources import REFERENCE, SURROGATE, TARGET

SELF_TEST_IMAGES = 64
SHARED_BY = 200  # images that calls made once are spread over when a budget is counted: the checkpoint is opened before the images are


@dataclass(frozen=True)
class Place:
    """Where a task finds its network, and where it runs.

    Attributes:
        checkpoint: absolute path, already unpacked; version: what tells one state of that path from another (size and mtime of its files).
        device: "cpu", "cuda" or "auto"; threads: of torch on the CPU, or None to leave them alone.
        overrides: (name, value) pairs, what the checkpoint's files do not say.
        reference, reference_version: the same of a second network that is measured beside it, or None.
        api, seed: audit.api.Api through which both are seen, and the seed of its noise; None = the networks themselves.
        keep: folder in which a pickle is kept as safetensors, so that it is unpickled once; None, or not there on the device worker: not kept.
        surrogate, surrogate_version: the same of a surrogate, which is its trainer's own and seen as it is, or None.
    """

    checkpoint: str
    version: str
    device: str = "auto"
    threads: int | None = None
    overrides: tuple = ()
    reference: str | None = None
    reference_version: str | None = None
    api: Api | None = None
    seed: int = 0
    keep: str | None = None
    surrogate: str | None = None
    surrogate_version: str | None = None

    @property
    def identity(self):
        """What tells one opened network from another."""
        return self.checkpoint, self.version, self.overrides

    def open(self):
        """The Denoiser. Raises models.errors.ModelError."""
        from models import open_checkpoint

        return open_checkpoint(self.checkpoint, unpack_into=self._kept_in(), **dict(self.overrides))

    def open_reference(self):
        """The reference's Denoiser; what was said of the checkpoint holds for it too where its file is of the same kind. Raises models.errors.ModelError."""
        from models import open_checkpoint

        same = Path(self.reference).suffix.lower() == Path(self.checkpoint).suffix.lower()
        return open_checkpoint(self.reference, unpack_into=self._kept_in(), **dict(self.overrides if same else ()))

    def _kept_in(self):
        return self.keep if self.keep is not None and Path(self.keep).is_dir() else None


def place_of(request, checkpoint, version, threads, reference=None, reference_version=None, api=None, keep=None):
    """The Place of a Request's checkpoint, and of its reference where there is one. Args: as the attributes of Place."""
    overrides = tuple(sorted(request.overrides.items()))
    return Place(str(checkpoint), version, request.device, threads, overrides, reference, reference_version, api, request.seed, keep)


@dataclass(frozen=True)
class Outcome:
    """value, or why there is none: kind "stopped", "user" (a sentence for people in `error`) or "internal" (`error` = exception type, `trace` for the log)."""

    value: object = None
    kind: str = ""
    error: str = ""
    trace: str = ""


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


@dataclass(frozen=True)
class Probed:
    """Batch size and what two batches cost: seconds per call (one image, one timestep) and per call that is made once for all images, device memory in bytes or None."""

    batch_size: int
    seconds_per_call: float
    memory_bytes: int | None
    seconds_per_shared_call: float


def task(function):
    """Decorator: exceptions become Outcomes."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        from audit.engine import Stopped
        from audit.errors import AuditError
        from models.errors import ModelError

        try:
            return Outcome(function(*args, **kwargs))
        except Stopped:
            return Outcome(kind="stopped")
        except (AuditError, ModelError) as error:
            return Outcome(kind="user", error=" ".join(str(error).split()), trace=traceback.format_exc())
        except Exception as error:
            return Outcome(kind="internal", error=type(error).__name__, trace=traceback.format_exc())

    return run


class FileFlag:
    """A stop sign on a disk that the device workers share with the driver."""

    def __init__(self, path):
        self.path = str(path)

    def set(self):
        """Ask for the stop."""
        Path(self.path).touch()

    def clear(self):
        """Take it back."""
        Path(self.path).unlink(missing_ok=True)

    def is_set(self):
        """Called between batches: one stat."""
        return os.path.exists(self.path)


class ClusterFlag:
    """A stop sign kept by an external scheduler: its workers need not see the driver's disk."""

    ASK_EVERY_S = 1.0  # a question to the scheduler costs milliseconds; batches may be shorter
    ANSWER_S = 5.0  # a scheduler that died keeps its callers waiting for much longer

    def __init__(self, name, client=None):
        self.name, self._client, self._asked = name, client, 0.0

    def __getstate__(self):
        return {"name": self.name, "_client": None, "_asked": 0.0}  # on a worker, Dask finds the worker's own client

    def _ask(self, operation):
        """One of event_set, event_clear, event_is_set. Raises OSError: no answer."""
        from distributed import get_client

        client = self._client or get_client()
        try:
            return client.sync(getattr(client.scheduler, operation), name=self.name, callback_timeout=self.ANSWER_S)
        except (RuntimeError, ValueError) as error:  # the client is closed
            raise ConnectionError(str(error)) from error

    def set(self):
        """Ask for the stop. Raises OSError: the scheduler does not answer."""
        self._ask("event_set")

    def clear(self):
        """Take it back. Raises OSError: the scheduler does not answer."""
        self._ask("event_clear")

    def is_set(self):
        """Called between batches."""
        if time.monotonic() - self._asked < self.ASK_EVERY_S:
            return False
        self._asked = time.monotonic()
        return self._ask("event_is_set")


_cache: dict = {}
_cache_lock = threading.Lock()


def prepare_process(place):
    """torch's threads, once per process and value."""
    import torch

    warnings.simplefilter("ignore")  # this process writes to worker.log, which names no files
    if place.threads and torch.get_num_threads() != place.threads:
        torch.set_num_threads(place.threads)
    return torch


def device_of_place(place):
    from audit.engine import choose_device

    return choose_device(place.device)


def networks(place):
    """({source: Denoiser} of `place`, its device): the target, and the reference where there is one; opened when others were loaded before, whose memory is freed first.

    Raises: RequestError: the reference cannot stand beside the target.
    """
    torch = prepare_process(place)
    device = device_of_place(place)
    key = (place.identity, place.reference, place.reference_version, place.api, place.seed if place.api else 0, place.surrogate, place.surrogate_version, str(device))
    with _cache_lock:
        if _cache.get("key") != key:
            _cache.clear()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            _cache["networks"] = {source: denoiser.to(device) for source, denoiser in open_sources(place).items()}
            _cache["key"] = key
        return _cache["networks"], device


def free(device):
    """Drop the networks of this process: a training needs their memory."""
    import torch

    with _cache_lock:
        _cache.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def open_sources(place, target=None):
    """{source: Denoiser}, on the CPU. Args: target: its Denoiser where it is open already. Raises RequestError, models.errors.ModelError."""
    from audit.sources import align, require_comparable
    from models.errors import ModelError

    opened = {TARGET: target or place.open()} if place.checkpoint else {}
    if place.reference is not None:
        try:
            opened[REFERENCE] = place.open_reference()
        except ModelError as error:
            raise type(error)(f"--reference: {error}") from None
        require_comparable(opened[TARGET], opened[REFERENCE])
        align(opened[TARGET], opened[REFERENCE])
    if place.api is not None:
        from audit.probes.api_view import ApiView

        opened = {source: ApiView(denoiser, place.api, place.seed) for source, denoiser in opened.items()}
    if place.surrogate is not None:
        from models import open_checkpoint

        opened[SURROGATE] = open_checkpoint(place.surrogate)
    return opened


def load_pictures(images, first, stop):
    """(n,C,H,W) float32 in [-1, 1] on the CPU, of rows first … stop-1 of an images.npy."""
    import torch

    from models.pixels import to_model_range

    return torch.from_numpy(to_model_range(np.load(images, mmap_mode="r", allow_pickle=False)[first:stop]))


def load_x0(images, first, stop, denoiser):
    """x0 (n,C,H,W) float32 in model space on the CPU, of rows first … stop-1 of an images.npy."""
    from audit.latents import encoded

    return encoded(denoiser, load_pictures(images, first, stop))


def cond_of(denoiser, said):
    """What `predict` takes for some images. Args: said: their class labels or captions, or None. Returns: int64 (n,), embeddings (n,tokens,width), or None."""
    if said is None or (denoiser.classes is None and not denoiser.captions):  # a surrogate is asked with nothing
        return None
    return np.asarray(said, dtype=np.int64) if denoiser.classes is not None else denoiser.embed(list(said))


@task
def open_network(place, wish):
    """Open the checkpoint. Args: wish: as `facts_of` takes it. Returns (Opened, Facts)."""
    opened, device = networks(place)
    return describe(opened[TARGET], device), facts_of(opened, wish)


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


@task
def test_network(place, images, count, said=None):
    """Self-test on at most SELF_TEST_IMAGES images, half from each end of images.npy (members stand first).

    Args: said: class labels or captions of the images at both ends, in order (those of all will do), or None.
    Returns: the SelfTest as JSON.  Raises: SelfTestFailed.
    """
    from models.errors import SelfTestFailed

    opened, _ = networks(place)
    tested = run_self_test(opened[TARGET], images, count, said).require()
    if problem := reference_problem(opened, images, count, said):
        raise SelfTestFailed(problem)
    return tested.to_json()


def reference_problem(opened, images, count, said=None):
    """A sentence where there is a reference and it does not denoise these images, else "". Args: opened: {source: Denoiser}; the rest: as run_self_test."""
    if REFERENCE not in opened or (tested := run_self_test(opened[REFERENCE], images, count, said)).passed:
        return ""
    measured = f"noise error {tested.error:.2f}, {tested.baseline:.2f} by scaling the noisy image alone"
    return f"--reference does not denoise these images: {measured}. {tested.hint}"


def run_self_test(denoiser, images, count, said=None):
    """models.selftest.self_test on images of both sets: the first and the last of `count` in turn, because it may look at few. An API may show too little
    for it, so the network behind is asked."""
    import torch

    from models.selftest import self_test

    denoiser = getattr(denoiser, "behind", denoiser)
    half = min(SELF_TEST_IMAGES, count) // 2
    first, last = load_x0(images, 0, half, denoiser), load_x0(images, count - half, count, denoiser)
    told = None if said is None else [value for pair in zip(said[:half], said[-half:], strict=True) for value in pair]
    return self_test(denoiser, torch.stack([first, last], dim=1).flatten(0, 1), cond=cond_of(denoiser, told))


@task
def probe_network(place, images, count, settings, said=None, others=None):
    """Find the batch size unless the plan fixes it, check the precision, time two batches.

    Args: said: of the first SELF_TEST_IMAGES images; others: as of `measure`. Returns Probed.
    """
    return probed(*networks(place), images, count, settings, said, others)


def probed(opened, device, images, count, settings, said=None, others=None):
    """Probed of a plan on a device, the mean over the sources. Args: opened: {source: Denoiser}, on that device; the rest: as probe_network."""
    from audit.engine import check_precision

    found = []
    for source, denoiser in opened.items():
        own = (others or {}).get(source, settings)
        if not own["probes"]:
            continue
        plan = plan_of(own, source)
        x0 = load_x0(images, 0, min(count, SELF_TEST_IMAGES), denoiser)
        cond = cond_of(denoiser, said and said[: len(x0)])
        if plan.precision != "fp32":
            check_precision(denoiser, x0, plan, cond)
        found.append(price_of(denoiser, x0, plan, device, cond))
    each, once = (sum(getattr(p, name) for p in found) / len(found) for name in ("seconds_per_call", "seconds_per_shared_call"))
    return Probed(min(p.batch_size for p in found), each, found[-1].memory_bytes, once)


def price_of(denoiser, x0, plan, device, cond=None):
    """Probed of a plan on a device."""
    from audit.engine import price

    cost = price(denoiser, x0, plan, device, cond)
    return Probed(cost.batch_size, cost.seconds_per_call, cost.memory_bytes, cost.seconds_per_shared_call)


@task
def measure(place, images, first, stop, settings, flag, said=None, others=None):
    """Measure images first … stop-1.

    Args: settings: of the plan; said: class labels or captions of these images, or None; others: {source: settings of its own plan}, of the same batch size.
    Returns: ({table: float32 (S,n,K)}, seconds, batch size): a smaller size than asked for when memory ran out.
    """
    opened, _ = networks(place)
    pictures = load_pictures(images, first, stop)
    begun, sizes, tables = time.perf_counter(), [settings["batch_size"]], {}
    for source, denoiser in opened.items():
        own = (others or {}).get(source, settings)
        if not own["probes"]:
            continue
        measured = measured_on(denoiser, pictures, plan_of(own, source), flag, said, sizes.append)
        tables |= {source + name: values for name, values in measured.items()}
    return tables, time.perf_counter() - begun, min(sizes)


def measured_on(denoiser, pictures, plan, flag, said, on_batch_size=None):
    """{table: float32 (S,n,K)} of one source, from pictures (n,C,H,W) in [-1, 1]."""
    from audit.engine import measure_block
    from audit.latents import encoded

    seconds = {name: plan.probe(name).SECOND for name in plan.probes if plan.probe(name).SECOND is not None and not denoiser.pixel_space}
    seconds = {name: encoded(denoiser, second(pictures)) for name, second in seconds.items()}
    x0, cond = encoded(denoiser, pictures), cond_of(denoiser, said)
    return measure_block(denoiser, x0, plan, should_stop=flag.is_set, on_batch_size=on_batch_size, cond=cond, second=seconds)

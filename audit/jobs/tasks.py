"""What runs on a device worker. Each task returns an Outcome instead of raising: Dask would log an exception with the names of files in it.

What is needed of one checkpoint stays loaded between tasks, the last one per process, under `Place.identity`.
"""

import functools
import json
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

NO_CHECKPOINT = "needs a checkpoint"
SELF_TEST_IMAGES = 64
PROGRESS, PROGRESS_S, SAVE_S = "progress.json", 0.5, 20.0  # of a training: where it is, how often that is written, how much a crash can cost; seconds
OWN_SAMPLES, OWN_STEPS, SHEET_SIDE = 32, 50, 512  # pictures that a surrogate draws of itself, and their sheet in pixels
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
    surrogate: str | None = None
    surrogate_version: str | None = None

    @property
    def identity(self):
        """What tells one opened network from another."""
        return self.checkpoint, self.version, self.overrides

    def open(self):
        """The Denoiser. Raises models.errors.ModelError."""
        from models import open_checkpoint

        return open_checkpoint(self.checkpoint, **dict(self.overrides))

    def open_reference(self):
        """The reference's Denoiser; what was said of the checkpoint holds for it too where its file is of the same kind. Raises models.errors.ModelError."""
        from models import open_checkpoint

        same = Path(self.reference).suffix.lower() == Path(self.checkpoint).suffix.lower()
        return open_checkpoint(self.reference, **dict(self.overrides if same else ()))


def place_of(request, checkpoint, version, threads, reference=None, reference_version=None, api=None):
    """The Place of a Request's checkpoint, and of its reference where there is one. Args: as the attributes of Place."""
    return Place(str(checkpoint), version, request.device, threads, tuple(sorted(request.overrides.items())), reference, reference_version, api, request.seed)


@dataclass(frozen=True)
class Outcome:
    """value, or why there is none: kind "stopped", "user" (a sentence for people in `error`) or "internal" (`error` = exception type, `trace` for the log)."""

    value: object = None
    kind: str = ""
    error: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Opened:
    """What the driver needs to know of a checkpoint: info as JSON, alphas_cumprod (T,) float64, device type and words, versions on the device worker."""

    info: dict
    alphas_cumprod: np.ndarray
    pixel_space: bool
    device_type: str
    device_words: str
    torch_version: str
    diffusers_version: str


@dataclass(frozen=True)
class Facts:
    """What follows from a plan before anything is measured.

    Attributes:
        plan: keywords of audit.engine.MeasurePlan, batch_size as asked (None = not known yet); specs: {table: (axis, timesteps or None)}.
        calls_per_image: network calls; values_per_image: float32 numbers that come back; versions: {probe: VERSION}.
        shared_calls: network calls that are made once for all images; skipped: {attack: reason} of those that do not run.
        Calls and values are those of all sources together. reference: what was recognised in the reference, or None; warnings: sentences for the report.
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

    def calls(self, images):
        """Network calls of so many images."""
        return images * self.calls_per_image + self.shared_calls if images else 0

    @property
    def full_tables(self):
        """As many tables with every timestep and draw of the grid hold these numbers."""
        return -(-self.values_per_image // (max(1, len(self.plan["timesteps"])) * self.plan["draws"]))


@dataclass(frozen=True)
class Probed:
    """Batch size and what two batches cost: seconds per call (one image, one timestep), device memory in bytes or None."""

    batch_size: int
    seconds_per_call: float
    memory_bytes: int | None


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


def _prepare_process(place):
    """torch's threads, once per process and value."""
    import torch

    warnings.simplefilter("ignore")  # this process writes to worker.log, which names no files
    if place.threads and torch.get_num_threads() != place.threads:
        torch.set_num_threads(place.threads)
    return torch


def _device(place):
    from audit.engine import choose_device

    return choose_device(place.device)


def networks(place):
    """({source: Denoiser} of `place`, its device): the target, and the reference where there is one; opened when others were loaded before, whose memory is freed first.

    Raises: RequestError: the reference cannot stand beside the target.
    """
    torch = _prepare_process(place)
    device = _device(place)
    key = (place.identity, place.reference, place.reference_version, place.api, place.seed if place.api else 0, place.surrogate, place.surrogate_version, str(device))
    with _cache_lock:
        if _cache.get("key") != key:
            _cache.clear()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            _cache["networks"] = {source: denoiser.to(device) for source, denoiser in _open(place).items()}
            _cache["key"] = key
        return _cache["networks"], device


def _open(place):
    """{source: Denoiser}, on the CPU. Raises RequestError, models.errors.ModelError."""
    from audit.sources import align, require_comparable
    from models.errors import ModelError

    opened = {TARGET: place.open()} if place.checkpoint else {}
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


def load_x0(images, first, stop, denoiser):
    """x0 (n,C,H,W) float32 in model space on the CPU, of rows first … stop-1 of an images.npy."""
    import torch

    from models.pixels import to_model_range

    x0 = torch.from_numpy(to_model_range(np.load(images, mmap_mode="r", allow_pickle=False)[first:stop]))
    return x0 if denoiser.pixel_space else denoiser.encode(x0.to(next(denoiser.network.parameters()).device)).cpu()


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
            also (probes that no attack reads), settings ({attack: {setting: value}} that the user fixed), api (None, or anything: the networks are seen through an API).
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
    probes, skipped = _affordable(opened, settings, wish)
    filtered = filtered_probes(asked_of(choose(wish["attacks"]), TARGET), wish["settings"])
    settings |= {"filtered": tuple(p for p in probes if p in filtered)} if filtered else {}
    settings |= {"probes": probes, "own": engine.own_grids(probes, denoiser.schedule, wish["draws"])}
    plan = engine.MeasurePlan(**settings)
    specs = {source + table: spec for source in opened for table, spec in engine.specs(plan, denoiser.schedule).items()}
    values = len(opened) * sum(plan.of(name).draws * len(plan.probe(name).TABLES) * len(plan.of(name).timesteps) for name in probes)
    versions = {name: PROBES[name].VERSION for name in probes}
    calls, shared = (sum(int(count(plan, d)) for d in opened.values()) for count in (engine.calls_per_image, engine.shared_calls))
    reference = opened.get(REFERENCE)
    warning = reference and noise_warning(denoiser, reference)
    return Facts(settings, specs, calls, values, versions, shared, skipped, reference and reference.info.to_json(), (warning,) if warning else ())


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
    """(probes to run, in registry order; {attack: why it is left out})."""
    from audit import engine
    from audit.attacks import ATTACKS, asked_of, choose, within_budget
    from audit.errors import RequestError
    from audit.probes import PROBES

    names, denoiser, budget = asked_of(choose(wish["attacks"]), TARGET), opened[TARGET], wish["budget"]
    if not names:  # all of them ask a surrogate
        return tuple(probe for probe in PROBES if probe in wish["also"]), {}
    hidden = {name: WHITE_BOX for name in names if wish["api"] and ATTACKS[name].card.threat_model == "white-box"}
    names = tuple(name for name in names if name not in hidden)
    if not names:
        raise RequestError(f"--api leaves none of the attacks asked for: {WHITE_BOX}. Name gray-box ones, or leave --api out.")
    plan = engine.MeasurePlan(**settings, probes=tuple(PROBES), own=engine.own_grids(tuple(PROBES), denoiser.schedule, settings["draws"]))
    cost = engine.calls_of(plan, denoiser)
    for probe in PROBES:
        cost[probe] += -(-engine.shared_calls(replace(plan, probes=(probe,)), denoiser) // SHARED_BY)
        cost[probe] *= len(opened)  # each source allows the same timesteps and is asked the same
    chosen, skipped = within_budget(names, cost | {"noised": 0}, cost["noised"], budget)
    if not chosen:
        raise RequestError(f"--budget {budget} has room for none of the attacks asked for: {next(iter(skipped.values()))}.")
    skipped |= hidden
    used = {probe for name in chosen for probe in ATTACKS[name].card.probes} | set(wish["also"])
    return tuple(probe for probe in PROBES if probe in used), skipped


def _plan(settings):
    from audit.engine import MeasurePlan

    return MeasurePlan(**settings)


def describe(denoiser, device):
    """Opened of a Denoiser on a torch.device."""
    import diffusers
    import torch

    words = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_words(torch.get_num_threads())
    abar = np.asarray(denoiser.schedule.alphas_cumprod, np.float64)
    return Opened(denoiser.info.to_json(), abar, denoiser.pixel_space, device.type, words, torch.__version__, diffusers.__version__)


def cpu_words(cores):
    """`CPU, 2 cores`."""
    return f"CPU, {cores} core{'' if cores == 1 else 's'}"


@task
def test_network(place, images, count):
    """Self-test on at most SELF_TEST_IMAGES images, half from each end of images.npy (members stand first).

    Returns: the SelfTest as JSON.  Raises: SelfTestFailed.
    """
    from models.errors import SelfTestFailed

    (opened, _), found = networks(place), []
    for source, denoiser in opened.items():
        tested = run_self_test(getattr(denoiser, "behind", denoiser), images, count)  # an API may show too little for it
        if source == REFERENCE and not tested.passed:
            measured = f"noise error {tested.error:.2f}, {tested.baseline:.2f} by scaling the noisy image alone"
            raise SelfTestFailed(f"--reference does not denoise these images: {measured}. {tested.hint}")
        found.append(tested.require())
    return found[0].to_json()


def run_self_test(denoiser, images, count):
    """models.selftest.self_test on images of both sets: the first and the last of `count` in turn, because it may look at few."""
    import torch

    from models.selftest import self_test

    half = min(SELF_TEST_IMAGES, count) // 2
    first, last = load_x0(images, 0, half, denoiser), load_x0(images, count - half, count, denoiser)
    return self_test(denoiser, torch.stack([first, last], dim=1).flatten(0, 1))


@task
def train_surrogate(place, images, kept, training, folder, flag):
    """Train a surrogate on a pool, go on with it, or find it finished, in FOLDER/model; its own samples lie beside it.

    Args: images: path of the pool's .npy, uint8 (P,H,W,C); kept: int64, those of its samples that may be used; training: keywords of
        models.train.TrainSettings as audit.surrogates makes them; folder: of this surrogate in AUDIT_HOME; flag: stop sign, asked before every step.
    Returns: {"steps_done", "kept_step", "held_out_loss", "training_seconds", "stopped_early"}; None where no samples were held out.
    Raises: Stopped; models.errors.TrainingDiverged, ModelError.
    """
    from models.train import TrainingStopped, TrainSettings, contact_sheet, sample, train

    _prepare_process(place)
    device, out = _device(place), Path(folder) / "model"
    if not (out / "training.json").exists():
        _free(device)
        lists = {name: tuple(value) for name, value in training.items() if isinstance(value, list)}
        try:
            train(
                TrainSettings(**training | lists), _samples(images, kept), out, device=device, progress=_Progress(folder),
                should_stop=flag.is_set, save_every_s=SAVE_S,
            )  # fmt: skip
        except TrainingStopped:
            from audit.engine import Stopped

            raise Stopped from None
        (Path(folder) / "surrogate.png").unlink(missing_ok=True)
    if not (Path(folder) / "surrogate.png").exists():
        drawn = sample(out, OWN_SAMPLES, seed=training["seed"], batch_size=OWN_SAMPLES, steps=min(OWN_STEPS, training["scheduler_config"]["num_train_timesteps"]), device=device)
        tmp = Path(folder) / "drawn.png"
        sheet = contact_sheet(drawn, columns=8, scale=max(1, SHEET_SIDE // 8 // drawn.shape[1]))
        sheet.thumbnail((SHEET_SIDE, SHEET_SIDE))
        sheet.save(tmp)
        os.replace(tmp, Path(folder) / "surrogate.png")
    made = json.loads((out / "training.json").read_text(encoding="utf-8"))
    held_out = made.get("held_out") or {}
    return {
        "steps_done": made["steps_done"], "kept_step": held_out.get("kept_step"), "held_out_loss": held_out.get("loss"), "stopped_early": held_out.get("stopped_early"),
        "training_seconds": made["seconds"],
    }  # fmt: skip


def _samples(images, kept):
    """uint8 (N,H,W,C): the samples that may be used, on the disk where those are all."""
    found = np.load(images, mmap_mode="r", allow_pickle=False)
    return found if len(kept) == len(found) else found[kept]


class _Progress:
    """Writes where a training is for the driver to read."""

    def __init__(self, folder):
        self.path, self.told = Path(folder) / PROGRESS, 0.0

    def __call__(self, step, steps, loss):
        if time.monotonic() - self.told > PROGRESS_S:
            self.told, tmp = time.monotonic(), self.path.with_suffix(".tmp")
            tmp.write_text(json.dumps({"step": step, "steps": steps}), encoding="utf-8")
            os.replace(tmp, self.path)


def _free(device):
    """Drop the networks of this process: a training needs their memory."""
    import torch

    with _cache_lock:
        _cache.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()


@task
def open_surrogate(place, images, count, wish):
    """See whether a surrogate denoises the samples that it was trained on, and what is measured on it.

    Args: images, count: the pool's .npy; wish: as `facts_of` takes it, its attacks those that the surrogate is asked.
    Returns: (CheckpointInfo as JSON, Facts whose tables have no prefix).  Raises: SelfTestFailed.
    """
    from models.errors import SelfTestFailed

    surrogate = networks(place)[0][SURROGATE]
    tested = run_self_test(surrogate, images, count)
    if not tested.passed:
        found = f"noise error {tested.error:.2f}, {tested.baseline:.2f} by scaling the noisy image alone"
        raise SelfTestFailed(f"The surrogate does not denoise the samples that it was trained on: {found}. Give it more steps (settings of surrogate in --config).")
    return surrogate.info.to_json(), facts_of({TARGET: surrogate}, wish)


@task
def probe_network(place, images, count, settings, others=None):
    """Find the batch size unless the plan fixes it, check the precision, time two batches. Args: others: as of `measure`. Returns Probed."""
    from audit.engine import check_precision

    opened, device = networks(place)
    found = []
    for source, denoiser in opened.items():
        own = (others or {}).get(source, settings)
        if not own["probes"]:
            continue
        plan = _plan(own)
        x0 = load_x0(images, 0, min(count, SELF_TEST_IMAGES), denoiser)
        if plan.precision != "fp32":
            check_precision(denoiser, x0, plan)
        found.append(price_of(denoiser, x0, plan, device))
    return Probed(min(p.batch_size for p in found), sum(p.seconds_per_call for p in found) / len(found), found[-1].memory_bytes)


def price_of(denoiser, x0, plan, device):
    """Probed of a plan on a device."""
    from audit.engine import price

    cost = price(denoiser, x0, plan, device)
    return Probed(cost.batch_size, cost.seconds_per_call, cost.memory_bytes)


@task
def measure(place, images, first, stop, settings, flag, others=None):
    """Measure images first … stop-1.

    Args: settings: of the plan; others: {source: settings of its own plan}, of the same batch size.
    Returns: ({table: float32 (S,n,K)}, seconds, batch size): a smaller size than asked for when memory ran out.
    """
    from audit.engine import measure_block

    (opened, _), own = networks(place), others or {}
    begun, sizes, tables, kept = time.perf_counter(), [settings["batch_size"]], {}, {}
    for source, denoiser in opened.items():
        plan = own.get(source, settings)
        if not plan["probes"]:
            continue
        space = SURROGATE if source == SURROGATE else TARGET  # a surrogate works on pixels, whatever the target does
        if space not in kept:
            kept[space] = load_x0(images, first, stop, denoiser)
        measured = measure_block(denoiser, kept[space], _plan(plan), should_stop=flag.is_set, on_batch_size=sizes.append)
        tables |= {source + name: values for name, values in measured.items()}
    return tables, time.perf_counter() - begun, min(sizes)


@task
def device_facts(place, image_shape, wish):
    """(Opened, Facts) of an audit without a checkpoint: no network, so nothing of one is known. Args: image_shape: (C,H,W) of the pool."""
    import diffusers

    from audit.attacks import ATTACKS, choose

    torch, device = _prepare_process(place), _device(place)
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_words(torch.get_num_threads())
    opened = Opened(no_checkpoint(image_shape), np.empty(0), True, device.type, words, torch.__version__, diffusers.__version__)
    plan = {name: wish[name] for name in ("seed", "batch_size", "precision")} | {"timesteps": (), "draws": 1, "probes": (), "own": ()}
    return opened, Facts(plan, {}, 0, 0, {}, skipped={name: NO_CHECKPOINT for name in choose(wish["attacks"]) if "pool" not in ATTACKS[name].card.needs})


def no_checkpoint(image_shape):
    """What report.json says of the checkpoint where there is none: every field null but the shape, and why."""
    nothing = dict.fromkeys(("sha256", "format", "architecture", "parameters", "weights", "prediction_type", "train_timesteps", "confidence"))
    return nothing | {"image_shape": list(image_shape), "settings": [], "files": [], "missing": [], "notes": [], "reason": "no checkpoint was given, only samples"}


@task
def draw_samples(place, source, first, stop, sampler, steps, seed, flag):
    """Draw samples first … stop-1 from the network of one source. Returns (uint8 (n,H,W,C), seconds).

    An API's view changes nothing here: it is the finished samples that a black-box attacker sees.
    """
    from audit.pool.sampler import draw

    begun = time.perf_counter()
    denoiser = networks(place)[0][source]
    denoiser = getattr(denoiser, "behind", denoiser)
    indices = np.arange(first, stop)
    labels = None if denoiser.classes is None else indices % denoiser.classes
    return draw(denoiser, indices, sampler, steps, seed, labels, flag.is_set), time.perf_counter() - begun


@task
def pool_facts(place, source, sampler, steps):
    """(sha256 of the network, classes or None, network calls per sample) of one source."""
    from audit.pool.sampler import calls_per_sample

    denoiser = networks(place)[0][source]
    denoiser = getattr(denoiser, "behind", denoiser)
    return denoiser.info.sha256, denoiser.classes, calls_per_sample(denoiser, sampler, steps)


@task
def search_pool(place, names, images, first, stop, clusters, folder, left_out, flag):
    """Measure query images first … stop-1 against a pool. Args: names: in MEASURES. Returns ({table: float32 (1,n,K)}, seconds)."""
    from audit.pool import open_pool
    from audit.pool.measures import MEASURES

    _prepare_process(place)
    begun, tables, queries, pool = time.perf_counter(), {}, np.load(images, mmap_mode="r", allow_pickle=False), open_pool(folder, left_out)
    for name in names:
        tables |= MEASURES[name].measure(queries, first, stop, np.asarray(clusters), pool, _device(place), flag.is_set)
    return tables, time.perf_counter() - begun


_looked: dict = {}  # the network of the check that is under way: a check opens it first, and tests it once the images are read


@task
def look(place, wish):
    """Open a checkpoint for a check, on the CPU and beside the network that an audit has loaded. Returns (Opened, Facts)."""
    _prepare_process(place)
    _looked.clear()
    denoiser = place.open()
    _looked[place.identity] = denoiser
    return describe(denoiser, _device(replace(place, device="cpu"))), facts_of({TARGET: denoiser}, wish)


@task
def look_closer(place, images, count, settings, price_here):
    """Self-test of a check's network and, on the CPU, its price; the network is dropped afterwards.

    Returns: (SelfTest as JSON, Probed or None).
    """
    _prepare_process(place)
    denoiser = _looked.pop(place.identity, None) or place.open()
    _looked.clear()
    tested = run_self_test(denoiser, images, count).to_json()
    if not price_here:
        return tested, None
    return tested, price_of(denoiser, load_x0(images, 0, count, denoiser), _plan(settings), _device(replace(place, device="cpu")))


@task
def price_on_device(place, images, count, settings):
    """Price of a check on the GPU, in turn with an audit's shards. Returns Probed."""
    opened, device = networks(place)
    denoiser = opened[TARGET]
    return price_of(denoiser, load_x0(images, 0, count, denoiser), _plan(settings), device)

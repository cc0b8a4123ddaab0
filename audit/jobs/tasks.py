"""What runs on a device worker.

What is needed of one checkpoint stays loaded between tasks, the last one per process, under `Place.identity`.
"""

import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audit.api import Api
from audit.jobs.facts import describe, facts_of, plan_of
from audit.jobs.outcome import task
from audit.sources import REFERENCE, SURROGATE, TARGET

SELF_TEST_IMAGES = 64


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
class Probed:
    """Batch size and what two batches cost: seconds per call (one image, one timestep) and per call that is made once for all images, device memory in bytes or None."""

    batch_size: int
    seconds_per_call: float
    memory_bytes: int | None
    seconds_per_shared_call: float


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

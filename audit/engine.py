"""Runs probes over images: makes the rows (image, timestep, draw), batches them, and lays the numbers out as tables.

Each probe has its own timesteps and draws: the audit's grid, or those in MeasurePlan.own. A probe may take all draws of a timestep, or all of an image, as one row.
A block of images is measured in the order of its timesteps: rows go through t, then draw, then image, and are cut into batches of equal size, so a batch
mixes images and timesteps, each noise draw is made once per block, and what stands in a batch follows from the block alone. On one CPU the tables are then
bit-equal however often a job was stopped; with another batch size they agree to about 1e-5.
"""

import contextlib
import functools
import sys
import time
import weakref
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import rankdata

from audit.errors import RequestError
from audit.latents import decoded, encoded, shape_of
from audit.probes import PROBES
from audit.request import PRECISIONS
from audit.rows import RowSource, as_cond, as_images, as_noise
from models.errors import CheckpointError

CPU_PIXELS = 2**15  # rows x height x width of a default batch on the CPU: activations stay in the cache; the demo network is fastest at 128 rows of 16 x 16
CPU_ROWS = 128
LARGEST_BATCH, SMALLEST_TRIED, ALWAYS_TRIED = 1024, 16, 128
NEARLY_BEST = 0.97  # of the largest throughput: the smallest such batch is taken
PROBE_BUDGET_S, PROBE_SWEEPS = 3.0, 3
BLOCK_BYTES = 64 * 2**20  # what `measure` keeps of one block of images, and of its numbers before they are averaged over draws
PRECISION_IMAGES, LEAST_RANK_CORRELATION = 64, 0.999


class Stopped(Exception):
    """should_stop() became true between two batches."""


@dataclass(frozen=True)
class MeasurePlan:
    """What is measured of every image; plain values, so that it travels between processes.

    Attributes:
        timesteps: 0-based; draws: S noise draws per timestep; seed: of the noise bank.
        batch_size: rows per forward pass, None = not decided; precision: "fp32", "tf32" or "bf16".
        probes: names in PROBES; clip: clamp x0_hat to [-1, 1], None = for pixel models only.
        own: (probe, timesteps, draws) of the probes that do not follow `timesteps` and `draws`; see `own_grids`.
        filtered: those of `probes` that also make their low-pass tables.
    """

    timesteps: tuple[int, ...]
    draws: int = 1
    seed: int = 0
    batch_size: int | None = None
    precision: str = "fp32"
    probes: tuple[str, ...] = ("noised",)
    clip: bool | None = None
    own: tuple[tuple[str, tuple[int, ...], int], ...] = ()
    filtered: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "timesteps", tuple(int(t) for t in self.timesteps))
        object.__setattr__(self, "probes", tuple(self.probes))
        object.__setattr__(self, "filtered", tuple(self.filtered))
        object.__setattr__(self, "own", tuple((name, tuple(int(t) for t in timesteps), draws) for name, timesteps, draws in self.own))
        if not self.timesteps:
            raise RequestError("No timesteps were given. Expected at least one.")
        for name in ("draws", "batch_size"):
            value = getattr(self, name)
            if (value is not None or name == "draws") and (isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1):
                raise RequestError(f"{name} is {value!r}. Expected a whole number of at least 1.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or not 0 <= self.seed < 2**63:
            raise RequestError(f"seed is {self.seed!r}. Expected a whole number from 0 to 2^63 - 1.")
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision is {str(self.precision)[:40]!r}. Expected one of {', '.join(PRECISIONS)}.")
        for name in self.probes:
            if name not in PROBES:
                raise RequestError(f"There is no probe {str(name)[:40]!r}. Expected one of {', '.join(PROBES)}.")

    def probe(self, name):
        """The Probe of one of its names, with low-pass tables where they are asked for."""
        return _low_passed(name) if name in self.filtered else PROBES[name]

    def for_reference(self):
        """The plan of a second model beside this one's target: without the probes that only a target is asked."""
        return replace(self, probes=tuple(name for name in self.probes if not PROBES[name].OF_TARGET))

    def of(self, name):
        """The plan of one of its probes alone, with that probe's timesteps and draws."""
        timesteps, draws = next(((t, s) for probe, t, s in self.own if probe == name), (self.timesteps, self.draws))
        return replace(self, timesteps=timesteps, draws=1 if PROBES[name].DRAWS == 0 else draws, probes=(name,), own=())


@functools.cache
def _low_passed(name):
    return PROBES[name].low_passed()


def own_grids(probes, schedule, draws):
    """MeasurePlan.own of an audit: where each probe that has timesteps of its own is measured.

    Args: probes: names; schedule: models.schedule.Schedule; draws: S that the audit asks for.
    """
    found = ((name, PROBES[name].own_timesteps(len(schedule)), PROBES[name].DRAWS) for name in probes)
    return tuple((name, timesteps, draws if fixed is None else max(1, fixed)) for name, timesteps, fixed in found if timesteps is not None)


def specs(plan, schedule):
    """{table: ("timestep", timesteps)} of all tables of a plan, for audit.tables.write_tables. Raises RequestError: a timestep outside the schedule."""
    found = {}
    for name in plan.probes:
        timesteps = plan.of(name).timesteps
        _check_timesteps(timesteps, len(schedule))
        found |= dict.fromkeys(plan.probe(name).TABLES, ("timestep", timesteps))
    return found


def calls_of(plan, denoiser):
    """{probe: network calls that one image costs} of a plan, without those that an audit makes once for all images."""
    found = {}
    for name in plan.probes:
        probe, own = plan.probe(name), plan.of(name)
        measured = _measured(probe, own, denoiser)
        rows = {"draw": len(measured) * own.draws, "timestep": len(measured), "image": min(1, len(measured))}[probe.ROW]
        found[name] = rows * probe.row_calls(measured, own.draws, len(denoiser.schedule)) if rows else 0
    return found


def _measured(probe, plan, denoiser):
    """Timesteps of a one-probe plan at which this model has any number."""
    return [t for t, any_table in zip(plan.timesteps, probe.defined(denoiser, plan.timesteps).any(axis=0), strict=True) if any_table]


def calls_per_image(plan, denoiser):
    """Network calls that one image costs."""
    return sum(calls_of(plan, denoiser).values())


def shared_calls(plan, denoiser):
    """Network calls that an audit makes once, however many images it has."""
    return sum(PROBES[name].shared_calls(_measured(PROBES[name], plan.of(name), denoiser), plan.of(name).draws, denoiser) for name in plan.probes)


def model_calls(plan, images, denoiser):
    """Network calls of a whole audit of `images` images."""
    return images * calls_per_image(plan, denoiser) + shared_calls(plan, denoiser)


def choose_device(name="auto"):
    """torch.device for "auto" (a CUDA device where there is one), "cpu" or "cuda". Raises RequestError."""
    if name not in ("auto", "cpu", "cuda"):
        raise RequestError(f"device is {str(name)[:40]!r}. Expected auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("device is cuda, but torch finds no CUDA device here. Use --device cpu, or install a CUDA build of torch and its driver.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def measure_block(denoiser, x0, plan, should_stop=None, on_calls=None, noise=None, on_batch_size=None, cond=None, second=None):
    """Measure one block of images with every probe of a plan, on the device where the denoiser is.

    Args:
        denoiser: models.base.Denoiser in evaluation mode; x0: (n,C,H,W) float, model space, on the CPU, NumPy or torch.
        plan: MeasurePlan; should_stop(): asked before every batch; on_calls(calls): told after every batch how many network calls it took.
        noise: None, or float (S,K,C,H,W) or (S,K,n,C,H,W) instead of the bank.
        on_batch_size(size): told when the device's memory was too small and batches were halved.
        cond: as audit.rows.as_cond takes it, one entry per image; expanded over timesteps and draws as x0 is.
        second: {probe: (n,C,H,W)}, of a latent model, the encoded pictures of probes with SECOND; those that are missing are made from the decoded x0.
    Returns: {table: float32 (S,n,K)}; NaN = not measured.
    Raises: Stopped; RequestError; models.errors.CheckpointError: the model returned NaN or infinity.
    """
    x0 = as_images(x0)
    cond = as_cond(cond, denoiser, len(x0))
    tables = {}
    for name in plan.probes:
        own, shown = plan.of(name), (second or {}).get(name)
        tables |= _measure_probe(denoiser, x0, plan.probe(name), own, noise, (should_stop, on_calls, on_batch_size), cond, shown)
    return tables


def _measure_probe(denoiser, x0, probe, plan, noise, watchers, cond, second):
    """{table: float32 (S,n,K)} of one probe. Args: plan: of this probe alone; watchers: as in measure_block; second: its own, or None."""
    _check_timesteps(plan.timesteps, len(denoiser.schedule))
    if reason := probe.unfit(cond is not None):
        raise RequestError(f"The probe {probe.name} cannot be measured: {reason}.")
    defined = probe.defined(denoiser, plan.timesteps)
    if probe.SECOND is not None and not denoiser.pixel_space and second is None:
        second = encoded(denoiser, probe.SECOND(decoded(denoiser, x0)))
    source = RowSource(x0, plan, probe, np.flatnonzero(defined.any(axis=0)), device_of(denoiser), noise, cond, second)
    out = np.full((len(probe.TABLES), plan.draws, len(x0), len(plan.timesteps)), np.nan, dtype=np.float32)
    if source.total:
        values = _run(denoiser, probe, plan, source, *watchers)
        tables, columns, images = len(probe.TABLES), len(source.columns), len(x0)
        lengths, order = {
            "draw": ((tables, columns, plan.draws, images), (0, 2, 3, 1)),
            "timestep": ((tables, columns, images, plan.draws), (0, 3, 2, 1)),
            "image": ((tables, images, columns, plan.draws), (0, 3, 1, 2)),
        }[probe.ROW]
        out[..., source.columns] = values.reshape(lengths).transpose(order)
    _require_finite(out, defined, plan.timesteps)
    out[np.broadcast_to(~defined[:, None, None], out.shape)] = np.nan
    return dict(zip(probe.TABLES, out, strict=True))


def _run(denoiser, probe, plan, source, should_stop, on_calls, on_batch_size):
    """All rows of a source, in order -> float64 (tables, rows, …); the device is waited for once, at the end."""
    size, first, parts = plan.batch_size or default_batch_size(denoiser, plan, source.device), 0, []
    calls = probe.row_calls([plan.timesteps[c] for c in source.columns], plan.draws, len(denoiser.schedule))
    with arithmetic("fp32" if probe.EXACT else plan.precision, source.device):
        while first < source.total:
            if should_stop and should_stop():
                raise Stopped
            last = min(first + rows_at_once(probe, size), source.total)
            values = _without_running_out(probe, denoiser, source, (first, last, size), _clip(plan, denoiser))
            if values is None:
                size = _halved(size, source.device)
                if on_batch_size:
                    on_batch_size(size)
                continue
            parts.append(values)
            if on_calls:
                on_calls((last - first) * calls)
            first = last
        return torch.cat(parts, dim=1).cpu().numpy()


def rows_at_once(probe, size):
    """Rows of one batch where the network is asked about `size` images at once."""
    return max(1, size // probe.WIDTH)


def _without_running_out(probe, denoiser, source, batch, clip):
    """One batch, or None when the device has too little memory for it; the exception, which holds the batch's tensors, is gone by then.

    Args: batch: (first row, row after the last, images of one network call).
    """
    try:
        return probe.rows(denoiser, source.rows(*batch), clip)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    return None


def _is_out_of_memory(error):
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _halved(size, device):
    """Half the batch, with the device's cache freed. Raises RequestError at 1."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if size == 1:
        raise RequestError(f"One image at a time does not fit into the memory of this {device.type} device. Use a device with more memory.")
    return size // 2


@contextlib.contextmanager
def arithmetic(precision, device):
    """Inference at one precision: TF32 explicitly off unless asked for, bfloat16 by autocast; the caller's settings come back afterwards."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def device_of(denoiser):
    """Where the network's weights are, put into the layout that this device likes; the CPU for a denoiser without weights."""
    parameter = next(denoiser.network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    if device.type == "cuda":
        denoiser.network.to(memory_format=torch.channels_last)
    return device


def _clip(plan, denoiser):
    return denoiser.pixel_space if plan.clip is None else plan.clip


def _check_timesteps(timesteps, length):
    wrong = [t for t in timesteps if not 0 <= t < length]
    if wrong:
        raise RequestError(f"Timestep {wrong[0]} is outside the schedule. Expected 0 (least noisy) to {length - 1}.")


def _require_finite(out, defined, timesteps):
    """Raise CheckpointError when a number that exists for this model is not finite: NaN in a table would read as "not measured"."""
    wrong = ~np.isfinite(out).all(axis=(1, 2)) & defined
    if wrong.any():
        table, column = np.argwhere(wrong)[0]
        images = int((~np.isfinite(out[table, :, :, column])).any(axis=0).sum())
        raise CheckpointError(
            f"The model returned NaN or infinity at t = {timesteps[column]} for {images} of {out.shape[2]} images. "
            "Expected finite numbers: check that the weights are whole, and use fp32."
        )


def measure_images(denoiser, x0, timesteps, probe="noised", seed=0, draws=1, noise=None, clip=None, cond=None, batch_size=None, device="auto"):
    """audit.probes.measure, where it is described."""
    plan = MeasurePlan((0,), probes=(probe,))  # refuses an unknown name
    plan = MeasurePlan(tuple(np.asarray(timesteps).reshape(-1).tolist()), draws, seed, batch_size, "fp32", (probe,), clip)
    if noise is not None:
        if PROBES[probe].DRAWS == 0 or PROBES[probe].ROW == "image":
            raise RequestError(f"noise was given, but the probe {probe} takes none from outside. Leave noise out.")
        noise = torch.as_tensor(noise)
        if noise.ndim not in (5, 6) or draws not in (1, noise.shape[0]):
            raise RequestError(f"noise has the shape {tuple(noise.shape)} and draws is {draws}. Expected (S,K,C,H,W) or (S,K,N,C,H,W), and draws left out or equal to S.")
        plan = replace(plan, draws=int(noise.shape[0]))
    x0 = as_images(x0)
    if denoiser.pixel_space and tuple(x0.shape[1:]) != tuple(denoiser.image_shape):
        raise RequestError(f"x0 holds images of {tuple(x0.shape[1:])} (C,H,W). Expected the model's {tuple(denoiser.image_shape)}.")
    cond = as_cond(cond, denoiser, len(x0))
    plan = plan.of(probe)
    if noise is not None:
        noise = as_noise(noise, plan, x0)
    place = choose_device(device)
    denoiser.to(place)
    plan = replace(plan, batch_size=plan.batch_size or default_batch_size(denoiser, plan, place))
    numbers = len(PROBES[probe].TABLES) * len(plan.timesteps) * plan.draws * 8
    step = max(1, BLOCK_BYTES // max(numbers, x0[0].numel() * 4))
    blocks = []
    for first in range(0, len(x0), step):
        part = noise[:, :, first : first + step] if noise is not None and noise.ndim == 6 else noise
        tables = measure_block(denoiser, x0[first : first + step], plan, noise=part, cond=None if cond is None else cond[first : first + step])
        blocks.append({name: values.mean(axis=0, dtype=np.float64).astype(np.float32) for name, values in tables.items()})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


_found = weakref.WeakKeyDictionary()  # denoiser -> batch size on CUDA, where the best one depends on the card


def default_batch_size(denoiser, plan, device):
    """Rows per forward pass when nobody decided: on the CPU by a fixed rule, so that results repeat to the bit; on CUDA found once per denoiser."""
    if device.type != "cpu":
        if denoiser not in _found:
            _found[denoiser] = find_batch_size(denoiser, plan, device)
        return _found[denoiser]
    _, height, width = shape_of(denoiser)
    return int(np.clip(CPU_PIXELS // (height * width), 1, CPU_ROWS))


def _timed(plan):
    """(Probe, its plan) of the probe that speed is measured with: the noised one, which has the most rows, or the first whose rows ask the network."""
    asking = [name for name in plan.probes if PROBES[name].CALLS_PER_ROW]
    if not asking:  # all calls are made once, whatever the images are
        asking, plan = ["noised"], _as_noised(plan)
    name = "noised" if "noised" in asking else asking[0]
    return plan.probe(name), plan.of(name)


def _as_noised(plan):
    """The noised probe, whose rows are one call each, at the timesteps of a plan's first probe."""
    return replace(plan, probes=("noised",), timesteps=plan.of(plan.probes[0]).timesteps, own=())


def _timer(denoiser, plan, device, x0=None, cond=None):
    """A function that measures one batch of a given size and returns the seconds it took, or None when memory ran out."""
    if x0 is None:
        picture = torch.rand((SMALLEST_TRIED, *denoiser.image_shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
        x0 = encoded(denoiser, picture)
    if cond is None and denoiser.classes is not None:
        cond = np.zeros(len(x0), dtype=np.int64)  # which class costs no more than another
    probe, plan = _timed(plan)
    columns = np.flatnonzero(probe.defined(denoiser, plan.timesteps).any(axis=0))
    if not len(columns):
        raise RequestError("None of the timesteps can be measured on this model: its schedule keeps no signal there. Choose less noisy timesteps.")
    device_of(denoiser)
    source = RowSource(as_images(x0), plan, probe, columns, device, cond=as_cond(cond, denoiser, len(x0)))
    start = source.total // 2  # t = 0 costs a little more than the rest

    def seconds(size):
        with arithmetic(plan.precision, device):
            begun = time.perf_counter()
            values = _without_running_out(probe, denoiser, source, (start, start + rows_at_once(probe, size), size), _clip(plan, denoiser))
            if values is None:
                return None
            values.cpu()  # waits for the device
            return time.perf_counter() - begun

    return seconds


def find_batch_size(denoiser, plan, device, budget_s=PROBE_BUDGET_S):
    """The smallest power of two whose throughput is within 3 % of the best, from a probe of a few seconds.

    Other work on the machine only ever slows a batch down, so each size counts with its fastest of up to PROBE_SWEEPS turns.

    Args: denoiser: on `device` already; budget_s: no size is tried that would exceed it (the first always is).
    Returns: int, 1 … 1024.
    Raises: RequestError: not even one image fits into memory.
    """
    if "noised" not in plan.probes:  # a row of a long probe would use the time up before the second size is tried
        plan = _as_noised(plan)
    begun, seconds = time.perf_counter(), _timer(denoiser, plan, device)
    singles = [seconds(1) for _ in range(3)]  # the first warms up
    if None in singles:
        _halved(1, device)
    size = SMALLEST_TRIED if SMALLEST_TRIED * min(singles) < budget_s / 2 else 1
    while seconds(size) is None:
        size = _halved(size, device)
    fastest, best_at = {}, size

    def rate(tried):
        return tried / fastest[tried]

    while size <= LARGEST_BATCH and (took := seconds(size)) is not None:
        fastest[size] = took
        if rate(size) > rate(best_at) / NEARLY_BEST:
            best_at = size
        size *= 2
        enough = size > max(4 * best_at, ALWAYS_TRIED)  # two sizes without gain
        if enough or time.perf_counter() - begun + 3 * took > budget_s:
            break
    for _ in range(PROBE_SWEEPS - 1):
        for tried in fastest:
            if time.perf_counter() - begun + fastest[tried] < budget_s and (took := seconds(tried)) is not None:
                fastest[tried] = min(fastest[tried], took)
    best = max(map(rate, fastest), default=0.0)
    return min((tried for tried in fastest if rate(tried) >= NEARLY_BEST * best), default=1)


@dataclass(frozen=True)
class Price:
    """What measuring costs here: seconds_per_call (one image, one timestep, one draw), batch_size it holds for, calls_per_image of the plan, device type,
    memory_bytes: largest memory so far of the device (CUDA) or of this process (CPU), None where the system does not tell; seconds_per_shared_call: of those calls
    that are made once for all images, whose batches are smaller."""

    seconds_per_call: float
    batch_size: int
    calls_per_image: int
    device: str
    memory_bytes: int | None
    seconds_per_shared_call: float = 0.0


def price(denoiser, x0, plan, device, cond=None):
    """Price of a plan from two batches of the given images.

    Args: x0: (n,C,H,W), as many as there are, a batch repeats them; device: where the denoiser is; plan.batch_size None = found first; cond: as in measure_block,
        None = any class.
    Raises: RequestError: memory is too small for one image.
    """
    size = plan.batch_size or find_batch_size(denoiser, plan, device)
    seconds = _timer(denoiser, plan, device, x0, cond)
    seconds(1)  # warms up
    while None in (took := [seconds(size), seconds(size)]):
        size = _halved(size, device)
    probe, own = _timed(plan)
    calls = 2 * rows_at_once(probe, size) * probe.row_calls(_measured(probe, own, denoiser), own.draws, len(denoiser.schedule))
    shared = _shared_price(denoiser, x0, plan, device, cond, size)
    return Price(sum(took) / max(1, calls), size, calls_per_image(plan, denoiser), device.type, _peak_memory(device), shared)


def _shared_price(denoiser, x0, plan, device, cond, fits):
    """Seconds of one of the calls that a plan makes once for all images, 0 where it makes none. Args: fits: a batch size that memory is large enough for."""
    once = {name: count for name in plan.probes if (count := shared_calls(replace(plan, probes=(name,)), denoiser))}
    seconds, total = _timer(denoiser, _as_noised(plan), device, x0, cond) if once else None, 0.0
    for name, count in once.items():
        size = min(fits, PROBES[name].SHARED_AT_ONCE)
        seconds(size)  # warms up
        total += count * sum(seconds(size) for _ in range(2)) / (2 * size)
    return total / max(1, sum(once.values()))


def _peak_memory(device):
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def check_precision(denoiser, x0, plan, cond=None):
    """Refuse a reduced precision that reorders images.

    At every measured timestep of every table, the Spearman rank correlation over at most 64 images between plan.precision and fp32 (one draw, same noise)
    must reach 0.999. Probes that are always measured in fp32 pass.

    Args: x0: (n,C,H,W); cond: as in measure_block.
    Returns: {table: lowest correlation over timesteps}; {} for fp32, which is the reference.
    Raises: RequestError: names the table, the timestep and the correlation.
    """
    if plan.precision == "fp32":
        return {}
    x0, plan = as_images(x0)[:PRECISION_IMAGES], replace(plan, draws=1)
    run = functools.partial(measure_block, denoiser, x0, cond=None if cond is None else cond[:PRECISION_IMAGES])
    exact, reduced = run(replace(plan, precision="fp32")), run(plan)
    lowest, timesteps = {}, specs(plan, denoiser.schedule)
    for name, values in exact.items():
        measured = ~np.isnan(values[0]).all(axis=0)
        if not measured.any():
            continue
        found = _rank_correlation(values[0][:, measured], reduced[name][0][:, measured])
        lowest[name] = float(found.min())
        if lowest[name] < LEAST_RANK_CORRELATION:
            t = np.asarray(timesteps[name][1])[measured][found.argmin()]
            raise RequestError(
                f"With {plan.precision} the images rank differently than with fp32: rank correlation {lowest[name]:.4f} for {name} at t = {t} on {len(x0)} images. "
                f"Expected at least {LEAST_RANK_CORRELATION}: use --precision fp32."
            )
    return lowest


def _rank_correlation(a, b):
    """(K,) Spearman correlations of the columns of two (n,K) arrays; 1 where both are constant, 0 where one is."""
    ranks = [rankdata(values, axis=0) for values in (a, b)]
    centred = [r - r.mean(axis=0) for r in ranks]
    spread = [np.sqrt((c**2).sum(axis=0)) for c in centred]
    product, scale = (centred[0] * centred[1]).sum(axis=0), spread[0] * spread[1]
    return np.where(scale > 0, product / np.where(scale > 0, scale, 1), (spread[0] == spread[1]).astype(float))

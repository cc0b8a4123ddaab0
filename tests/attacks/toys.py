"""Runs on toy models, as an audit would measure them: every probe at its own timesteps, the tables in a folder."""

import numpy as np
import torch

from audit.attacks import ATTACKS
from audit.engine import MeasurePlan, measure_block, own_grids, specs
from audit.pool.nearest import Nearest
from audit.pool.sampler import draw
from audit.pool.store import PoolFolder, pool_key
from audit.presets import grid
from audit.probes import PROBES
from audit.tables import Tables, write_tables
from models.toy import Gaussian, Memoriser, small_schedule

SHAPE = (1, 8, 8)
STEPS = 100
DRAWS = 2
POOL = 120


def pictures(count, seed=0, shape=SHAPE):
    """(N,C,H,W) float32 in [-1, 1]: soft blobs, so that a crop changes them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[1], 0 : shape[2]]
    centre, width = rng.uniform(1, 6, (2, count, 1, 1)), rng.uniform(1.0, 3.0, (count, 1, 1))
    blobs = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))
    values = 1.6 * blobs - 0.8 + rng.normal(0, 0.05, (count, *shape[1:]))
    return torch.from_numpy(np.clip(values, -1, 1)[:, None].astype(np.float32)).repeat(1, shape[0], 1, 1)


def memoriser(members):
    """Knows the given images, float64 inside."""
    return Memoriser(members, small_schedule(STEPS))


def gaussian(variance=0.25):
    """Knows nothing but the spread of the data."""
    return Gaussian(variance, small_schedule(STEPS), SHAPE)


def plan_of(model, names=tuple(ATTACKS), draws=DRAWS, seed=0, batch_size=None, filtered=()):
    """The MeasurePlan of an audit with these attacks, on a grid of 10 timesteps. filtered: probes that also make their low-pass tables."""
    probes = tuple(p for p in PROBES if any(p in ATTACKS[n].card.probes for n in names))
    return MeasurePlan(grid(10, len(model.schedule)), draws, seed, batch_size, probes=probes, own=own_grids(probes, model.schedule, draws), filtered=filtered)


def tables_of(folder, model, x0, **changes):
    """Tables of a run folder after such an audit, with a pool of the model's own samples where an attack needs one."""
    plan, found, blocks = plan_of(model, **changes), {}, []
    if any("pool" in ATTACKS[name].card.needs for name in changes.get("names", ATTACKS)):
        pooled = pool_tables(folder / "pool", x0, samples_of(model, POOL, changes.get("seed", 0)))
        found, blocks = dict.fromkeys(pooled, ("feature", None)), [(0, pooled)]
    if plan.probes:
        found, blocks = found | specs(plan, model.schedule), [*blocks, (0, measure_block(model, x0, plan))]
    write_tables(folder, len(x0), found, blocks)
    return Tables.load(folder)


def samples_of(model, count, seed=0):
    """uint8 (count,H,W,C) from the model's own DDIM sampler in 20 steps."""
    return draw(model, range(count), "ddim", 20, seed)


def pool_tables(folder, x0, samples):
    """{table: float32 (1,N,K)} of pictures beside a pool of samples; every picture is a cluster of its own."""
    pool = PoolFolder(folder, pool_key(kind="toy")).finish(len(samples), samples.shape[1:], [samples])
    queries = ((x0.double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Nearest().measure(queries, 0, len(queries), np.arange(len(queries)), pool, "cpu")

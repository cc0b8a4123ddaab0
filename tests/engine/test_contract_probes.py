"""What every registered probe must keep, tested the day it is registered."""

import numpy as np
import pytest
import torch

from audit.engine import MeasurePlan, calls_per_image, measure_block
from audit.probes import PROBES, measure
from audit.probes.base import Rows
from tests.engine.common import SHAPE, denoiser, images, noise

STEPS = (0, 3, 4, 11, 19)
pytestmark = pytest.mark.parametrize("name", list(PROBES))


def run(name, x0=None, steps=STEPS, **changes):
    return measure(denoiser(), images(7) if x0 is None else x0, steps, probe=name, **changes)


def same(a, b, **tolerance):
    return a.keys() == b.keys() and all(np.allclose(a[k], b[k], **tolerance) if tolerance else np.array_equal(a[k], b[k]) for k in a)


def test_it_names_itself_and_its_version(name):
    probe = PROBES[name]
    assert probe.name == name and isinstance(probe.VERSION, int) and probe.VERSION >= 1 and probe.CALLS_PER_ROW >= 1
    others = [table for other in PROBES if other != name for table in PROBES[other].TABLES]
    assert len(set(probe.TABLES)) == len(probe.TABLES) > 0 and not set(probe.TABLES) & set(others)


def test_tables_are_float32_images_by_timesteps_and_finite(name):
    got = run(name, draws=2)
    assert tuple(got) == PROBES[name].TABLES
    assert all(v.shape == (7, len(STEPS)) and v.dtype == np.float32 and np.isfinite(v).all() for v in got.values())


def test_results_repeat_to_the_bit(name):
    assert same(run(name, draws=2), run(name, draws=2))


def test_the_seed_matters(name):
    first, other = run(name), run(name, seed=1)
    assert all(not np.array_equal(first[k], other[k]) for k in first)


def test_draws_matter_and_are_averaged(name):
    plan = MeasurePlan(STEPS, 3, probes=(name,))
    each, mean = measure_block(denoiser(), images(7), plan), run(name, draws=3)
    for table, values in each.items():
        assert values.shape == (3, 7, len(STEPS)) and not np.array_equal(values[0], values[1])
        assert mean[table] == pytest.approx(values.mean(axis=0, dtype=np.float64), rel=1e-6)
    assert same({k: v[0] for k, v in each.items()}, run(name, draws=1), rtol=1e-5)


def test_a_number_belongs_to_its_image_and_timestep_alone(name):
    """Not to the order, the neighbours, the other timesteps or the batch."""
    whole = run(name, draws=2)
    order, columns = np.array([6, 0, 3]), [4, 1]
    part = run(name, images(7)[order], [STEPS[c] for c in columns], draws=2)
    assert same(part, {k: v[order][:, columns] for k, v in whole.items()}, rtol=1e-5, atol=1e-9)
    for size in (1, 7, 70, 1000):
        assert same(run(name, draws=2, batch_size=size), whole, rtol=1e-5, atol=1e-9)


def test_equal_images_have_equal_numbers(name):
    x0 = images(7)
    x0[4] = x0[2]
    got = run(name, x0, batch_size=3)
    assert all(np.allclose(v[4], v[2], rtol=1e-5) and not np.allclose(v[4], v[3], rtol=1e-2) for v in got.values())


def test_given_noise_replaces_the_bank(name):
    shared = noise(2, len(STEPS))
    first, repeated = run(name, noise=shared), run(name, noise=np.repeat(shared[:, :, None], 7, axis=2), seed=99)
    assert same(first, repeated, rtol=1e-5) and not same(first, run(name, draws=2), rtol=1e-5)
    own = noise(1, len(STEPS), count=7)
    alone = run(name, images(7)[5:6], noise=own[:, :, 5])
    assert same({k: v[5:6] for k, v in run(name, noise=own, batch_size=4).items()}, alone, rtol=1e-5)


def test_the_network_is_called_as_often_as_it_says_in_evaluation_of_no_gradient(name):
    model = denoiser()
    measure(model, images(7), STEPS, probe=name, draws=2)
    assert model.network.calls == 7 * calls_per_image(MeasurePlan(STEPS, 2, probes=(name,)), model)


def test_rows_are_computed_in_the_precision_of_the_images(name):
    """float64 in, float64 through: toys check formulas to 1e-20 this way."""
    eps, t = torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor(STEPS)
    exact = PROBES[name].rows(denoiser(), Rows(images(5, dtype=torch.float64), eps, t), True)
    single = PROBES[name].rows(denoiser(), Rows(images(5), eps.float(), t), True)
    assert exact.dtype == single.dtype == torch.float64 and exact.shape == (len(PROBES[name].TABLES), 5)
    assert not torch.equal(exact, single) and torch.allclose(exact, single, rtol=1e-4)


def test_it_writes_to_none_of_its_inputs(name):
    x0, eps, t = images(5), torch.randn((5, *SHAPE)), torch.tensor(STEPS)
    kept = x0.clone(), eps.clone(), t.clone()
    PROBES[name].rows(denoiser(), Rows(x0, eps, t), True)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x0, eps, t), strict=True))


def test_random_state_outside_is_left_alone(name):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(name)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])

"""What every registered probe must keep, tested the day it is registered."""

import numpy as np
import pytest
import torch

from audit.engine import MeasurePlan, calls_per_image, measure_block, model_calls, own_grids
from audit.errors import RequestError
from audit.probes import PROBES, measure
from audit.probes.base import ROWS, Rows
from models.schedule import betas_for
from tests.engine.common import SHAPE, denoiser, images, noise

STEPS = (0, 3, 4, 11, 18)  # below the last: SecMI steps up once more
pytestmark = pytest.mark.parametrize("name", list(PROBES))


def run(name, x0=None, steps=STEPS, **changes):
    return measure(denoiser(), images(7) if x0 is None else x0, steps, probe=name, **changes)


def takes_noise(name):
    return PROBES[name].DRAWS != 0


def rows_of(name, dtype, count=5):
    """A batch as the engine would make it, with noise of its own."""
    probe, t = PROBES[name], torch.tensor(STEPS)
    lead = {"draw": (count,), "timestep": (count, 3), "image": (2, probe.NOISES_PER_DRAW)}[probe.ROW]
    eps = torch.randn((*lead, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) if takes_noise(name) else None
    return Rows(images(count, dtype=dtype), eps, t)


def same(a, b, **tolerance):
    return a.keys() == b.keys() and all(np.allclose(a[k], b[k], **tolerance) if tolerance else np.array_equal(a[k], b[k]) for k in a)


def test_it_names_itself_and_its_version(name):
    probe = PROBES[name]
    assert probe.name == name and isinstance(probe.VERSION, int) and probe.VERSION >= 1 and probe.ROW in ROWS
    others = [table for other in PROBES if other != name for table in PROBES[other].TABLES]
    assert len(set(probe.TABLES)) == len(probe.TABLES) > 0 and not set(probe.TABLES) & set(others)


def test_tables_are_float32_images_by_timesteps_and_finite(name):
    got = run(name, draws=2)
    assert tuple(got) == PROBES[name].TABLES
    assert all(v.shape == (7, len(STEPS)) and v.dtype == np.float32 and np.isfinite(v).all() for v in got.values())


def test_results_repeat_to_the_bit(name):
    assert same(run(name, draws=2), run(name, draws=2))


def test_the_seed_matters_where_noise_is_drawn(name):
    first, other = run(name), run(name, seed=1)
    assert all(np.array_equal(first[k], other[k]) != takes_noise(name) for k in first)


def test_draws_matter_and_are_averaged(name):
    plan = MeasurePlan(STEPS, 3, probes=(name,))
    each, mean = measure_block(denoiser(), images(7), plan), run(name, draws=3)
    for table, values in each.items():
        if not takes_noise(name):
            assert values.shape == (1, 7, len(STEPS)) and np.array_equal(values[0], mean[table])
            continue
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
    assert all(np.allclose(v[4], v[2], rtol=1e-5) and not np.allclose(v[4], v[3], rtol=1e-4) for v in got.values())


def test_given_noise_replaces_the_bank(name):
    if not takes_noise(name) or PROBES[name].ROW == "image":
        with pytest.raises(RequestError, match=f"the probe {name} takes none"):
            run(name, noise=noise(1, len(STEPS)))
        return
    shared = noise(2, len(STEPS))
    first, repeated = run(name, noise=shared), run(name, noise=np.repeat(shared[:, :, None], 7, axis=2), seed=99)
    assert same(first, repeated, rtol=1e-5) and not same(first, run(name, draws=2), rtol=1e-5)
    own = noise(1, len(STEPS), count=7)
    alone = run(name, images(7)[5:6], noise=own[:, :, 5])
    assert same({k: v[5:6] for k, v in run(name, noise=own, batch_size=4).items()}, alone, rtol=1e-5)


def test_the_network_is_called_as_often_as_it_says_in_evaluation_of_no_gradient(name):
    model = denoiser()
    plan, told = MeasurePlan(STEPS, 2, probes=(name,)), []
    measure_block(model, images(7), plan, on_calls=told.append)
    asked = PROBES[name].copy_of(model) if name == "untrained" else model  # its network is a copy
    assert 7 * len(STEPS) <= asked.network.calls == model_calls(plan, 7, model) and sum(told) == 7 * calls_per_image(plan, model)


def test_its_own_timesteps_lie_in_the_schedule_and_can_be_measured(name):
    for length in (2, 7, 50, 250, 1000, 4000):
        model = denoiser(betas=betas_for({"num_train_timesteps": length, "beta_start": 0.1 / length, "beta_end": min(0.5, 20 / length)}))
        for _, timesteps, draws in own_grids((name,), model.schedule, 3):
            assert list(timesteps) == sorted(set(timesteps)) and timesteps[0] >= 0 and timesteps[-1] < length and draws >= 1
            assert PROBES[name].defined(model, timesteps).all()


@pytest.mark.parametrize(("prediction_type", "pixel_space"), [("v_prediction", True), ("sample", True), ("epsilon", False)])
def test_other_models_have_numbers_too(name, prediction_type, pixel_space):
    """v and sample models are asked for the same eps_hat; of latents only what needs a picture is missing."""
    model, plan = denoiser(prediction_type, pixel_space=pixel_space), MeasurePlan((2, 11), 1, probes=(name,))
    got, defined = measure_block(model, images(3), plan), PROBES[name].defined(model, plan.timesteps)
    assert all((np.isfinite(values) == defined[k]).all() for k, values in enumerate(got.values()))
    assert defined.all() or (not pixel_space and name == "noised")


def test_rows_are_computed_in_the_precision_of_the_images(name):
    """float64 in, float64 through: toys check formulas to 1e-20 this way."""
    exact, single = (PROBES[name].rows(denoiser(), rows_of(name, dtype), True) for dtype in (torch.float64, torch.float32))
    shape = {"draw": (5,), "timestep": (5, 3 if takes_noise(name) else 1), "image": (5, len(STEPS), 2 if takes_noise(name) else 1)}[PROBES[name].ROW]
    assert exact.dtype == single.dtype == torch.float64 and exact.shape == (len(PROBES[name].TABLES), *shape)
    assert not torch.equal(exact, single) and torch.allclose(exact, single, rtol=1e-4, atol=1e-5)


def test_it_writes_to_none_of_its_inputs(name):
    rows = rows_of(name, torch.float32)
    given = [value for value in (rows.x0, rows.eps, rows.t) if value is not None]
    kept = [value.clone() for value in given]
    PROBES[name].rows(denoiser(), rows, True)
    assert all(torch.equal(a, b) for a, b in zip(kept, given, strict=True))


def test_random_state_outside_is_left_alone(name):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(name)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("batch", [1, 6, 24])
def test_one_network_call_holds_at_most_the_batch(name, batch):
    """What the batch size is for: the memory of one call. A probe that asks with several images per row fills it with fewer rows."""
    model, held = denoiser(), []
    run_network = model.run_network
    model.run_network = lambda x, *more: held.append(len(x)) or run_network(x, *more)
    measure(model, images(2), STEPS, probe=name, draws=3, batch_size=batch)
    assert max(held, default=0) <= batch or PROBES[name].shared_calls(STEPS, 3, model)
    if PROBES[name].WIDTH > 1 and batch > 2 * PROBES[name].WIDTH:
        assert max(held) == 2 * PROBES[name].WIDTH

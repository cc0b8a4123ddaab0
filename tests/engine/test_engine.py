"""The engine: batches, stopping, memory, precision, and the two short measurements before a run."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from audit import engine
from audit.engine import MeasurePlan, Stopped, calls_per_image, check_precision, choose_device, find_batch_size, measure_block, model_calls, price, specs
from audit.errors import RequestError
from audit.probes import measure
from models.base import CheckpointInfo, Denoiser
from models.errors import CheckpointError
from models.schedule import betas_for, from_betas
from tests.engine.common import SHAPE, denoiser, images, noise
from tests.models import tiny

CPU = torch.device("cpu")
STEPS = (0, 3, 9, 19)


@pytest.fixture(scope="module")
def unet():
    """A Denoiser around a real, untrained UNet2DModel of 8 x 8 grey pictures."""
    schedule = from_betas(betas_for({"num_train_timesteps": 20}))
    info = CheckpointInfo("0" * 64, "test", "UNet2DModel", 1, "only", "epsilon", 20, (1, 8, 8), ())
    return Denoiser(tiny.network(), schedule, (1, 8, 8), "epsilon", "fixed_small", info)


def watch(model, seen, limit=None, error=None):
    """Record (rows, timesteps) of every call of predict; raise `error` above `limit` rows."""
    honest = model.predict

    def predict(xt, t, cond=None):
        if limit is not None and len(xt) > limit:
            raise error
        seen.append((len(xt), t.tolist()))
        return honest(xt, t, cond)

    model.predict = predict
    return model


# ---------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    "wrong",
    [
        {"timesteps": ()},
        {"draws": 0},
        {"draws": None},
        {"draws": 1.5},
        {"batch_size": 0},
        {"batch_size": True},
        {"seed": -1},
        {"seed": 2**63},
        {"precision": "fp16"},
        {"probes": ("nosuch",)},
    ],
    ids=str,
)
def test_a_plan_refuses_bad_values_when_built(wrong):
    with pytest.raises(RequestError, match="Expected"):
        MeasurePlan(**{"timesteps": STEPS, **wrong})


def test_a_plan_travels_between_processes():
    plan = MeasurePlan(np.array(STEPS), 2, 5, 16)
    assert pickle.loads(pickle.dumps(plan)) == plan and plan.timesteps == STEPS and type(plan.timesteps[0]) is int


def test_the_price_in_calls_is_known_before():
    plan, model = MeasurePlan(range(10), 4), denoiser(betas=np.append(np.full(9, 0.1), 1.0))
    assert calls_per_image(plan, denoiser(steps=10)) == 40 and calls_per_image(plan, model) == 36 and model_calls(plan, 7, model) == 252
    told = []
    measure_block(model, images(7), plan, on_calls=told.append)
    assert sum(told) == model.network.calls == 252


def test_specs_name_every_table_and_check_the_timesteps():
    plan = MeasurePlan(STEPS)
    assert specs(plan, denoiser().schedule) == {t: ("timestep", STEPS) for t in ("eps_mse", "x0_mse", "vlb_bits", "eps_hat_l2", "eps_hat_l4", "x0_8bit_mse")}
    with pytest.raises(RequestError, match=r"Timestep 19 is outside the schedule\. Expected 0 .* to 18"):
        specs(plan, denoiser(steps=19).schedule)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(RequestError, match="no CUDA device"):
        choose_device("cuda")
    with pytest.raises(RequestError, match="Expected auto, cpu or cuda"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == choose_device("cuda").type == "cuda" and choose_device("cpu") == CPU


# ---------------------------------------------------------------------- batches


def test_batches_mix_images_and_timesteps_and_follow_from_the_block_alone():
    seen, again = [], []
    plan = MeasurePlan(STEPS, 2, batch_size=12)
    measure_block(watch(denoiser(), seen), images(5), plan)
    measure_block(watch(denoiser(), again), images(5, seed=1), MeasurePlan(STEPS, 2, seed=4, batch_size=12))
    assert [rows for rows, _ in seen] == [12, 12, 12, 4] and seen == again
    assert [t for _, batch in seen for t in batch] == [t for t in STEPS for _ in range(10)] and len(set(seen[0][1])) > 1


def test_a_block_is_bit_equal_whatever_was_measured_or_stopped_before(unet):
    x0, plan = images(12, (1, 8, 8)), MeasurePlan(STEPS, 2, batch_size=16)
    first = [measure_block(unet, x0[i : i + 6], plan) for i in (0, 6)]
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        measure_block(unet, x0[6:], plan, should_stop=lambda: next(answers))
    second = [measure_block(unet, x0[i : i + 6], plan) for i in (6, 0)]
    assert all(np.array_equal(a[k], b[k]) for a, b in zip(first, reversed(second), strict=True) for k in a)


def test_cutting_and_batch_size_change_the_fifth_digit_at_most(unet):
    x0 = images(12, (1, 8, 8))
    whole = measure_block(unet, x0, MeasurePlan(STEPS, 2, batch_size=64))
    for size, cut in ((64, 5), (7, 12), (1, 12)):
        parts = [measure_block(unet, x0[i : i + cut], MeasurePlan(STEPS, 2, batch_size=size)) for i in range(0, 12, cut)]
        for name in set(whole) - {"x0_8bit_mse"}:  # rounding to the 8-bit grid may move one pixel by one step
            assert np.concatenate([p[name] for p in parts], axis=1) == pytest.approx(whole[name], rel=1e-5, abs=1e-9)


def test_stopping_happens_between_batches():
    seen, plan = [], MeasurePlan(STEPS, batch_size=5)
    with pytest.raises(Stopped):
        measure_block(watch(denoiser(), seen), images(5), plan, should_stop=lambda: len(seen) == 3)
    assert len(seen) == 3


def test_measure_cuts_many_images_into_blocks(monkeypatch, unet):
    x0, shared, own = images(9, (1, 8, 8)), noise(2, 4, (1, 8, 8)), noise(2, 4, (1, 8, 8), count=9)
    whole = [measure(unet, x0, STEPS, **given) for given in ({"draws": 2}, {"noise": shared}, {"noise": own})]
    seen = []
    monkeypatch.setattr(engine, "BLOCK_BYTES", 2 * 6 * 4 * 2 * 8)  # two images' numbers
    monkeypatch.setattr(engine, "measure_block", lambda d, part, *a, **k: seen.append(len(part)) or measure_block(d, part, *a, **k))
    cut = [measure(unet, x0, STEPS, **given) for given in ({"draws": 2}, {"noise": shared}, {"noise": own})]
    assert seen == [2, 2, 2, 2, 1] * 3
    for name in set(cut[0]) - {"x0_8bit_mse"}:
        assert all(a[name] == pytest.approx(b[name], rel=1e-5) for a, b in zip(whole, cut, strict=True))


def test_numpy_and_torch_double_and_single_give_the_same(unet):
    x0 = images(4, (1, 8, 8))
    given = [x0, x0.numpy(), x0.double(), x0.double().numpy(), x0.clone().requires_grad_()]
    got = [measure(unet, each, np.array(STEPS))["eps_mse"] for each in given]
    assert all(np.array_equal(got[0], other) for other in got)


def test_the_default_batch_follows_a_fixed_rule_on_the_cpu():
    sizes = {side: engine.default_batch_size(denoiser(shape=(3, side, side)), MeasurePlan(STEPS), CPU) for side in (8, 16, 32, 64, 512)}
    assert sizes == {8: 128, 16: 128, 32: 32, 64: 8, 512: 1}


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x0": images(3)[0]}, "Expected (N,C,H,W)"),
        ({"x0": images(3)[:0]}, "at least one image"),
        ({"x0": images(3, (1, 6, 5))}, "Expected the model's (2, 6, 5)"),
        ({"x0": (images(3) * 127).to(torch.uint8)}, "k / 127.5 - 1"),
        ({"x0": images(3) * np.nan}, "NaN"),
        ({"timesteps": [0, 20]}, "Timestep 20 is outside the schedule. Expected 0 (least noisy) to 19."),
        ({"timesteps": [-1]}, "Timestep -1"),
        ({"timesteps": []}, "at least one"),
        ({"noise": noise(1, 3)}, "Expected (1, 4, 2, 6, 5) (S,K,C,H,W) or (1, 4, 3, 2, 6, 5)"),
        ({"noise": noise(1, 4)[0]}, "(S,K,C,H,W)"),
        ({"noise": noise(2, 4), "draws": 3}, "equal to S"),
        ({"noise": noise(1, 4) * np.inf}, "finite"),
        ({"cond": torch.zeros(3)}, "unconditional"),
        ({"probe": "nosuch"}, "There is no probe 'nosuch'. Expected one of noised"),
        ({"device": "tpu"}, "Expected auto"),
        ({"batch_size": 0}, "at least 1"),
    ],
    ids=lambda v: "" if isinstance(v, str) else next(iter(v)),
)
def test_measure_says_what_it_expected(changes, says):
    with pytest.raises(RequestError) as caught:
        measure(denoiser(), **{"x0": images(3), "timesteps": STEPS, "device": "cpu", **changes})
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_nan_from_the_model_is_an_error_and_never_a_gap_in_the_tables():
    model = denoiser()
    model.network.mix[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinity at t = 0 for 5 of 5 images"):
        measure(model, images(5), STEPS)
    partly = denoiser()
    honest = partly.run_network

    def bad_for_one_row(xt, t, cond):
        out = honest(xt, t, cond).clone()
        out[(t == 9).nonzero()[0]] = float("inf")
        return out

    partly.run_network = bad_for_one_row
    with pytest.raises(CheckpointError, match="at t = 9 for 1 of 5 images"):
        measure(partly, images(5), STEPS)


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError()], ids=str)
def test_too_little_memory_halves_the_batch_and_goes_on(error):
    seen, sizes, told = [], [], []
    plan = MeasurePlan(STEPS, batch_size=16)
    got = measure_block(watch(denoiser(), seen, 5, error), images(5), plan, on_batch_size=sizes.append, on_calls=told.append)
    assert sizes == [8, 4] and {rows for rows, _ in seen} == {4} and sum(told) == 20
    assert got["eps_mse"] == pytest.approx(measure_block(denoiser(), images(5), plan)["eps_mse"], rel=1e-5)


def test_too_little_memory_for_one_image_is_an_error():
    with pytest.raises(RequestError, match="One image at a time does not fit into the memory"):
        measure_block(watch(denoiser(), [], 0, torch.OutOfMemoryError()), images(5), MeasurePlan(STEPS, batch_size=4))


def test_other_errors_of_the_network_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure_block(watch(denoiser(), [], 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied")), images(5), MeasurePlan(STEPS))


# ---------------------------------------------------------------------- precision


@pytest.mark.parametrize(("precision", "expected"), [("fp32", ("ieee", "ieee", False)), ("tf32", ("tf32", "tf32", False)), ("bf16", ("ieee", "ieee", True))])
def test_precision_is_set_for_the_pass_and_restored_after_it(precision, expected):
    def now():
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision, torch.is_autocast_enabled("cpu")

    model, before, seen = denoiser(), now(), []
    honest = model.run_network
    model.run_network = lambda *args: seen.append((*now(), torch.is_inference_mode_enabled())) or honest(*args)
    measure_block(model, images(3), MeasurePlan(STEPS, precision=precision))
    assert set(seen) == {(*expected, True)} and now() == before and not torch.is_inference_mode_enabled()


def test_precision_that_reorders_images_is_refused(unet):
    plan = MeasurePlan(STEPS, 2, precision="bf16")
    x0 = images(40, (1, 8, 8))
    with pytest.raises(RequestError, match=r"rank differently .* rank correlation 0\.\d{4} for \w+ at t = \d+ on 40 images"):
        check_precision(unet, x0, plan)
    assert check_precision(unet, x0, MeasurePlan(STEPS)) == {}


def test_precision_that_changes_nothing_is_taken(unet):
    found = check_precision(unet, images(70, (1, 8, 8)), MeasurePlan(STEPS, precision="tf32", batch_size=64))  # without effect on the CPU
    assert min(found.values()) == pytest.approx(1) and len(found) == 6


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(0).integers(0, 9, (2, 30, 4)).astype(float)
    b[:, 3], a[:, 3] = 2.0, 2.0
    b[:, 2] = 2.0
    got = engine._rank_correlation(a, b)
    assert got[:2] == pytest.approx([spearmanr(a[:, k], b[:, k]).statistic for k in range(2)]) and list(got[2:]) == [0, 1]


# ---------------------------------------------------------------------- batch size and price


def pretend(monkeypatch, seconds, memory=10**9):
    """Make the timer answer seconds(size), None above `memory`; returns the sizes asked for."""
    asked = []

    def timer(*_):
        return lambda size: asked.append(size) or (seconds(size) if size <= memory else None)

    monkeypatch.setattr(engine, "_timer", timer)
    return asked


def test_the_smallest_batch_within_three_per_cent_of_the_best_is_taken(monkeypatch):
    asked = pretend(monkeypatch, lambda size: 1e-3 + size * 1e-3)  # throughput rises as size / (1 + size)
    assert find_batch_size(denoiser(), MeasurePlan(STEPS), CPU) == 32  # 0.970 against 0.992 at 128; 16 has 0.941
    assert max(asked) <= 256  # larger ones bring nothing
    pretend(monkeypatch, lambda size: size * 1e-4 + 1e-2)
    assert find_batch_size(denoiser(), MeasurePlan(STEPS), CPU) == 1024
    pretend(monkeypatch, lambda size: size * 1e-4 * (1 + size / 100))  # larger is worse
    assert find_batch_size(denoiser(), MeasurePlan(STEPS), CPU) == 16


def test_a_slow_turn_does_not_decide(monkeypatch):
    """Another process that gets in the way once, at the size that is best."""
    turns = []
    pretend(monkeypatch, lambda size: turns.append(size) or (1e-3 + size * 1e-3) * (5 if size == 64 and turns.count(64) == 1 else 1) * (2 if size < 64 else 1))
    assert find_batch_size(denoiser(), MeasurePlan(STEPS), CPU) == 64


def test_memory_and_slow_networks_bound_the_search(monkeypatch):
    pretend(monkeypatch, lambda size: 1e-3, memory=100)
    assert find_batch_size(denoiser(), MeasurePlan(STEPS), CPU) == 64
    pretend(monkeypatch, lambda size: 1e-3, memory=5)
    assert find_batch_size(denoiser(), MeasurePlan(STEPS), CPU) == 4
    asked = pretend(monkeypatch, lambda size: 12.0 * size)
    assert find_batch_size(denoiser(), MeasurePlan(STEPS), CPU, budget_s=30.0) == 1 and set(asked) == {1}
    pretend(monkeypatch, lambda size: 1e-3, memory=0)
    with pytest.raises(RequestError, match="does not fit"):
        find_batch_size(denoiser(), MeasurePlan(STEPS), CPU)


def test_a_real_search_returns_a_power_of_two_and_keeps_its_budget(unet):
    size = find_batch_size(unet, MeasurePlan(STEPS), CPU, budget_s=0.5)
    assert size & (size - 1) == 0 and 1 <= size <= 1024


def test_the_search_times_rows_of_one_call_whatever_is_measured(monkeypatch):
    """A row of ReDiffuse alone is 60 calls: timed with it, three rows would use up the budget and the batch stay at 1."""
    plans = []
    monkeypatch.setattr(engine, "_timer", lambda model, plan, device: plans.append(plan) or (lambda size: 1e-3 + size * 1e-3))
    plan = MeasurePlan(STEPS, probes=("rediffuse",), own=(("rediffuse", (2, 4, 6), 1),))
    assert find_batch_size(denoiser(), plan, CPU) == 32 and [(p.probes, p.timesteps) for p in plans] == [(("noised",), (2, 4, 6))]


@pytest.mark.parametrize(("probes", "timed"), [(("gray_free",), "noised"), (("gray_free", "pia"), "pia"), (("pia", "noised"), "noised")])
def test_a_call_is_timed_where_rows_ask_the_network(probes, timed, unet):
    """Free generation compares with pictures that are there: its rows are 0 calls, and their seconds are no price of one."""
    plan = MeasurePlan(STEPS, probes=probes, own=engine.own_grids(probes, unet.schedule, 2), batch_size=8)
    probe, own = engine._timed(plan)
    assert probe.name == timed and own.timesteps == plan.of(probes[-1]).timesteps
    assert price(unet, images(3, (1, 8, 8)), plan, CPU).seconds_per_call < 0.1


def test_a_price_holds_for_its_batch_size(unet):
    plan = MeasurePlan(STEPS, 2, batch_size=8)
    found = price(unet, images(3, (1, 8, 8)), plan, CPU)
    assert found.batch_size == 8 and 0 < found.seconds_per_call < 1 and found.calls_per_image == 8 and found.device == "cpu" and found.memory_bytes > 10**7


def test_a_price_from_two_batches_is_their_mean(monkeypatch):
    took = iter([9.0, 1.0, 3.0])  # the first only warms up
    monkeypatch.setattr(engine, "_timer", lambda *_: lambda size: next(took))
    assert price(denoiser(), images(3), MeasurePlan(STEPS, batch_size=8), CPU).seconds_per_call == pytest.approx(4 / 16)


def test_calls_made_once_are_priced_in_batches_of_their_own_size(monkeypatch):
    """A generation asks about 8 pictures at a time: at the speed of a large batch it would take half as long as it does."""
    plans = []
    monkeypatch.setattr(engine, "_timer", lambda model, plan, *_: plans.append(plan) or (lambda size: 0.01 + size * 1e-3))
    plan = MeasurePlan(STEPS, probes=("noised", "gray_free"), own=engine.own_grids(("gray_free",), denoiser().schedule, 1), batch_size=50)
    found = price(denoiser(), images(3), plan, CPU)
    assert found.seconds_per_call == pytest.approx(0.06 / 50) and found.seconds_per_shared_call == pytest.approx(0.018 / 8) and plans[-1].probes == ("noised",)
    assert price(denoiser(), images(3), replace(plan, batch_size=4), CPU).seconds_per_shared_call == pytest.approx(0.014 / 4)
    assert price(denoiser(), images(3), MeasurePlan(STEPS, batch_size=50), CPU).seconds_per_shared_call == 0


def test_a_model_without_a_measurable_timestep_cannot_be_priced():
    model = denoiser(betas=np.append(np.full(9, 0.1), 1.0))
    with pytest.raises(RequestError, match="keeps no signal"):
        price(model, images(3), MeasurePlan([9], batch_size=2), CPU)
    assert model.image_shape == SHAPE and all(np.isnan(v).all() for v in measure(model, images(3), [9]).values())

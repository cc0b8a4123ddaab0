"""The low-pass filter against sums written out, and the tables that it adds."""

import cmath
import math

import numpy as np
import pytest
import torch

from audit.attacks import filtered_probes
from audit.engine import MeasurePlan, calls_of, measure_block, specs
from audit.noise import bank
from audit.probes import PROBES
from audit.probes.lowpass import low_pass
from tests.engine.common import denoiser, images

SHAPE = (2, 12, 11)
FILTERED = [name for name in PROBES if PROBES[name].FILTERED]


def plain(picture):
    """FreMIA's filter of one (H,W) picture: every frequency from -5 to 4 along both axes as it is, the others times 0.2; by the definition of the transform."""
    height, width = picture.shape
    spectrum = {}
    for u in range(-(height // 2), height - height // 2):
        for v in range(-(width // 2), width - width // 2):
            total = sum(picture[y, x] * cmath.exp(-2j * math.pi * (u * y / height + v * x / width)) for y in range(height) for x in range(width))
            spectrum[u, v] = total * (1 if -5 <= u < 5 and -5 <= v < 5 else 0.2)
    return np.array(
        [
            [sum(s * cmath.exp(2j * math.pi * (u * y / height + v * x / width)) for (u, v), s in spectrum.items()).real / (height * width) for x in range(width)]
            for y in range(height)
        ]
    )


def test_the_filter_is_the_sources():
    x = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = low_pass(x)
    assert got.shape == x.shape and got.dtype == torch.float64 and low_pass(x.float()).dtype == torch.float32
    for channel in range(SHAPE[0]):
        np.testing.assert_allclose(got[0, channel].numpy(), plain(x[0, channel].numpy()), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(got, x, rtol=1e-2) and torch.allclose(low_pass(x[..., :10, :10]), x[..., :10, :10])


@pytest.mark.parametrize("name", FILTERED)
def test_its_tables_come_at_no_call_and_change_no_other_number(name):
    model, x0 = denoiser(shape=SHAPE), images(3, shape=SHAPE)
    bare, asked = (MeasurePlan((0, 2, 11), 2, probes=(name,), filtered=filtered) for filtered in ((), (name,)))
    before, after = measure_block(model, x0, bare), measure_block(model, x0, asked)
    assert calls_of(bare, model) == calls_of(asked, model) and set(specs(asked, model.schedule)) == set(after) == set(before) | set(PROBES[name].FILTERED)
    assert all(np.array_equal(before[table], after[table]) for table in before) and "low" not in "".join(PROBES[name].TABLES)
    for table in PROBES[name].FILTERED:
        unfiltered = after[table.removesuffix("_low")]
        assert np.isfinite(after[table]).all() and after[table].shape == unfiltered.shape and not np.allclose(after[table], unfiltered, rtol=1e-2)


@pytest.mark.parametrize("t", [3, 11])
def test_each_distance_is_that_of_the_filtered_difference(t):
    """The formulas once more, one image at a time in float64, with the filter by its definition; 1e-5: what float32 keeps."""
    model, x0 = denoiser(shape=SHAPE), images(2, shape=SHAPE)
    abar = model.schedule.alphas_cumprod

    def eps_hat(x, step):
        return model.predict(x[None], torch.tensor([step])).eps_hat[0]

    def low(difference):
        return np.stack([plain(channel) for channel in difference.numpy()])

    def move(x, at, to):
        e = eps_hat(x, at)
        return math.sqrt(abar[to]) * (x - math.sqrt(1 - abar[at]) * e) / math.sqrt(abar[at]) + math.sqrt(1 - abar[to]) * e

    noise = bank(0, "noised", SHAPE, 1).eps(t, 0).double()
    plan = MeasurePlan((t,), 1, probes=("noised", "pia", "pian", "secmi"), filtered=("noised", "pia", "pian", "secmi"))
    got = measure_block(model, x0, plan)
    for i, x in enumerate(x0.double()):
        e0 = eps_hat(x, 0)
        sized = e0 * math.sqrt(2 / math.pi) / e0.abs().mean()
        there = x
        for step in range(t):
            there = move(there, step, step + 1)
        back = move(move(there, t, t + 1), t + 1, t)
        predicted = model.predict((math.sqrt(abar[t]) * x + math.sqrt(1 - abar[t]) * noise)[None], torch.tensor([t])).x0_hat[0].clamp(-1, 1)
        answers = {"x0_mse_low": np.mean(low(predicted - x) ** 2)}
        answers |= {"eps_mse_low": np.mean(low(eps_hat(math.sqrt(abar[t]) * x + math.sqrt(1 - abar[t]) * noise, t) - noise) ** 2), "secmi_l2_low": np.sum(low(back - there) ** 2)}
        for table, start in (("pia_l4_low", e0), ("pian_l4_low", sized)):
            answers[table] = np.sum(low(start - eps_hat(math.sqrt(abar[t]) * x + math.sqrt(1 - abar[t]) * start, t)) ** 4) ** 0.25
        for table, answer in answers.items():
            assert got[table][0, i, 0] == pytest.approx(answer, rel=2e-5), table


def test_it_is_measured_only_where_an_attack_that_runs_asks_for_it():
    low = {"filter": "low-pass"}
    assert filtered_probes(("pia", "secmi", "sima"), {"pia": low, "naive_loss": low, "secmi": {"filter": "none"}}) == {"pia"}
    assert filtered_probes(("naive_loss",), {"naive_loss": low | {"t": 3}}) == {"noised"} and filtered_probes(("naive_loss",), {}) == set()

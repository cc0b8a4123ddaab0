"""The noise bank: the same draw whoever asks, standard normal, and bounded memory."""

import subprocess
import sys

import pytest
import torch

from audit.errors import RequestError
from audit.noise import NoiseBank, bank

SHAPE = (3, 8, 8)


def make(**changes):
    return NoiseBank(**{"seed": 7, "probe": "noised", "shape": SHAPE, "draws": 4, **changes})


def test_a_draw_depends_on_seed_timestep_draw_and_probe_and_on_nothing_else():
    eps = make().eps(5, 2)
    assert eps.shape == SHAPE and eps.dtype == torch.float32 and eps.device.type == "cpu"
    asked_before = make(draws=3)
    for t in (900, 5, 0):
        asked_before.eps(t, 1)
    assert torch.equal(asked_before.eps(5, 2), eps)
    others = [make(seed=8).eps(5, 2), make(probe="pia").eps(5, 2), make().eps(6, 2), make().eps(5, 3)]
    assert not any(torch.equal(a, b) for i, a in enumerate([eps, *others]) for b in others[i:])


def test_arguments_do_not_run_into_each_other():
    assert not torch.equal(make().eps(1, 1), make(draws=20).eps(11, 1)) and not torch.equal(make(seed=1).eps(11, 1), make(seed=11).eps(1, 1))


def test_torchs_own_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make().eps(0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(make().eps(0, 0), first)


@pytest.mark.slow
def test_another_process_draws_the_same():
    code = "from audit.noise import NoiseBank; print(NoiseBank(7, 'noised', (3, 8, 8), 4).eps(5, 2).double().sum().item().hex())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == make().eps(5, 2).double().sum().item().hex()


def test_the_draws_are_standard_normal_and_uncorrelated():
    drawn = torch.stack([make().eps(t, d) for t in range(100) for d in range(4)]).flatten(1).double()
    n = drawn.numel()  # 76,800: mean and variance are known to 1/sqrt(n) and sqrt(2/n); 5 standard errors
    assert abs(drawn.mean()) < 5 / n**0.5 and abs(drawn.var() - 1) < 5 * (2 / n) ** 0.5
    between = torch.corrcoef(drawn) - torch.eye(len(drawn), dtype=torch.float64)
    assert between.abs().max() < 6 / drawn.shape[1] ** 0.5  # largest of 80,000 correlations of 192 numbers


def test_seeds_of_63_bits_are_taken():
    assert not torch.equal(make(seed=2**63 - 1).eps(0, 0), make(seed=2**63 - 2).eps(0, 0))


def test_memory_stays_below_the_limit_and_the_oldest_goes_first():
    one = 3 * 8 * 8 * 4
    small = make(limit_bytes=3 * one)
    kept = [small.eps(t, 0) for t in range(3)]
    assert small.eps(0, 0) is kept[0] and small.kept_bytes == 3 * one
    small.eps(3, 0)
    assert small.kept_bytes == 3 * one and small.eps(0, 0) is kept[0]
    again = small.eps(1, 0)
    assert again is not kept[1] and torch.equal(again, kept[1])


def test_a_draw_larger_than_the_limit_is_made_but_not_kept():
    tiny = make(limit_bytes=10)
    assert torch.equal(tiny.eps(0, 0), make().eps(0, 0)) and tiny.kept_bytes == 0


@pytest.mark.parametrize("draw", [-1, 4])
def test_a_draw_that_does_not_exist_is_refused(draw):
    with pytest.raises(RequestError, match="Expected 0 to 3"):
        make().eps(0, draw)


def test_the_process_keeps_one_bank_between_blocks():
    assert bank(1, "noised", SHAPE, 2) is bank(1, "noised", SHAPE, 2) and bank(1, "noised", SHAPE, 2).limit_bytes <= 256 * 2**20

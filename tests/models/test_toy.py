"""The exact denoisers against their closed forms."""

import numpy as np
import pytest
import torch

from models.base import Denoiser
from models.errors import CheckpointError
from models.schedule import Schedule, betas_for, from_betas, q_sample
from models.toy import Gaussian, Memoriser, Oracle, small_schedule

SHAPES = [(1, 14, 12), (3, 8, 8)]


def pictures(count, shape, seed=0, dtype=torch.float64):
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def checkers(count, shape, seed=0):
    """Random black-and-white pictures, far enough apart for the oracle."""
    return pictures(count, shape, seed).sign()


def noise_error(model, x0, t, seed=1):
    """(N,) mean (eps_hat - eps)² with noise of its own for each image."""
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=x0.dtype)
    steps = torch.full((len(x0),), t)
    got = model.predict(q_sample(model.schedule, x0, steps, eps), steps)
    return ((got.eps_hat - eps) ** 2).mean((1, 2, 3))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_oracle_has_no_loss_at_any_t(shape):
    x0 = checkers(7, shape)
    model = Oracle(x0, small_schedule())
    for t in range(len(model.schedule)):
        assert noise_error(model, x0, t).max() < 1e-20


def test_one_image_needs_no_guess_even_at_pure_noise():
    x0 = pictures(1, (1, 4, 4))
    model = Oracle(x0, from_betas(betas_for({"rescale_betas_zero_snr": True})))
    assert all(noise_error(model, x0, t).max() < 1e-20 for t in (0, 1, 500, 998, 999))


def test_the_oracle_answers_for_any_batch_and_order():
    x0 = checkers(9, (1, 14, 12))
    model = Oracle(x0, small_schedule())
    order, t = torch.tensor([8, 0, 3, 3]), torch.tensor([0, 19, 4, 11])
    got = model.predict(q_sample(model.schedule, x0[order], t, torch.randn(4, 1, 14, 12, dtype=torch.float64)), t)
    assert torch.equal(got.x0_hat, x0[order])
    other = model.predict(torch.zeros(2, 1, 14, 12, dtype=torch.float64), torch.tensor([19, 19]), cond=torch.tensor([5, 6]))
    assert torch.equal(other.x0_hat, x0[5:7])


def test_the_oracle_catches_a_timestep_that_is_off_by_one():
    x0 = checkers(5, (1, 14, 12))
    model = Oracle(x0, small_schedule())
    shifted = Schedule(model.schedule.alphas_cumprod[1:], model.schedule.betas[1:], np.arange(19))
    eps = torch.randn(x0.shape, dtype=torch.float64)
    t = torch.full((5,), 8)
    error = (model.predict(q_sample(shifted, x0, t, eps), t).eps_hat - eps) ** 2
    assert error.mean() > 1e-4


@pytest.mark.parametrize("variance", [0.05, 0.25, 1.0])
def test_the_gaussian_reaches_its_closed_form(variance):
    model = Gaussian(variance, from_betas(betas_for({"num_train_timesteps": 50, "beta_end": 0.3})), (1, 8, 8))
    rng = torch.Generator().manual_seed(3)
    x0 = torch.randn((4000, 1, 8, 8), generator=rng, dtype=torch.float64) * variance**0.5
    for t in (0, 10, 49):
        abar = model.schedule.alphas_cumprod[t]
        expected = 1 - (1 - abar) / (abar * variance + 1 - abar)
        # mean of 256,000 squared normals: relative standard error sqrt(2 / 256000) = 0.28 %; four of them
        assert noise_error(model, x0, t).mean().item() == pytest.approx(expected, rel=0.0112)
        assert model.expected_eps_mse()[t] == pytest.approx(expected, rel=1e-12)


def test_the_gaussian_is_finite_at_zero_terminal_snr():
    model = Gaussian(0.3, from_betas(betas_for({"rescale_betas_zero_snr": True})), (1, 4, 4))
    xt = torch.randn(2, 1, 4, 4)
    got = model.predict(xt, torch.tensor([999, 999]))
    assert model.measurable.all() and torch.equal(got.eps_hat, xt) and torch.equal(got.x0_hat, torch.zeros_like(xt))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_memoriser_knows_members_and_only_them(shape):
    members, others = pictures(20, shape, 4), pictures(20, shape, 5)
    model = Memoriser(members, small_schedule())
    for t in (0, 6, 12):
        assert noise_error(model, members, t).max() < noise_error(model, others, t).min()


def test_the_memoriser_is_the_posterior_mean():
    """Against the definition, written out with a loop over two training images."""
    x = pictures(2, (1, 1, 2), 6)
    model = Memoriser(x, small_schedule(5))
    t, xt = torch.tensor([2]), torch.tensor([[[[0.3, -0.2]]]], dtype=torch.float64)
    abar = model.schedule.alphas_cumprod[2]
    weights = [np.exp(-((xt - abar**0.5 * image) ** 2).sum().item() / (2 * (1 - abar))) for image in x]
    expected = (weights[0] * x[0] + weights[1] * x[1]) / sum(weights)
    torch.testing.assert_close(model.predict(xt, t).x0_hat[0], expected, rtol=1e-10, atol=1e-12)


def test_toys_are_denoisers_with_distinct_identities():
    x0 = pictures(3, (1, 10, 10))
    toys = [
        Oracle(x0, small_schedule()),
        Memoriser(x0, small_schedule()),
        Memoriser(x0, small_schedule(21)),
        Memoriser(x0[:2], small_schedule()),
        Gaussian(0.2, small_schedule(), (1, 10, 10)),
    ]
    assert all(isinstance(t, Denoiser) for t in toys) and len({t.info.sha256 for t in toys}) == len(toys)
    got = toys[0].predict(pictures(2, (1, 10, 10), dtype=torch.float32), torch.tensor([0, 1]))
    assert got.eps_hat.dtype == got.x0_hat.dtype == torch.float32
    with pytest.raises(CheckpointError, match="images"):
        Oracle(torch.zeros(3, 10, 10), small_schedule())


def test_small_schedule_has_the_ends_that_were_asked_for():
    schedule = small_schedule(7, 0.99, 0.1)
    assert len(schedule) == 7
    np.testing.assert_allclose(schedule.alphas_cumprod[[0, -1]], [0.99, 0.1], rtol=1e-12)
    np.testing.assert_allclose(np.diff(np.log(schedule.snr)), np.diff(np.log(schedule.snr))[0], rtol=1e-9)

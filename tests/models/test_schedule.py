"""Noise levels against diffusers' own arrays, and the conversions against their definitions."""

import diffusers
import numpy as np
import pytest
import torch

from models.base import CheckpointInfo, Denoiser, posterior_log_variance
from models.errors import CheckpointError
from models.schedule import Schedule, betas_for, check_against, from_betas, q_sample, to_eps_and_x0, training_target

LINEAR = from_betas(betas_for({}))


def schedule_of(cls, **config):
    scheduler = getattr(diffusers, cls)(**config)
    return from_betas(betas_for(scheduler.config)), scheduler.alphas_cumprod.double().numpy()


@pytest.mark.parametrize(
    ("cls", "config"),
    [
        *(("DDPMScheduler", {"beta_schedule": name}) for name in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")),
        ("HeunDiscreteScheduler", {"beta_schedule": "exp"}),
        ("DDPMScheduler", {"trained_betas": [0.01, 0.02, 0.3], "num_train_timesteps": 3}),
        ("DDPMScheduler", {"rescale_betas_zero_snr": True}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True}),
        ("DDPMScheduler", {"num_train_timesteps": 4000, "beta_schedule": "squaredcos_cap_v2"}),
        ("DDPMScheduler", {"num_train_timesteps": 50, "beta_end": 0.4}),
        ("LCMScheduler", {}),
    ],
    ids=str,
)
def test_noise_levels_agree_with_the_schedulers_own(cls, config):
    ours, theirs = schedule_of(cls, **config)
    check_against(ours, theirs)
    # float32 rounding of 1 - beta, accumulated over T steps: absolute, because abar itself becomes tiny
    np.testing.assert_allclose(ours.alphas_cumprod, theirs, atol=2e-5, rtol=0)
    assert ours.alphas_cumprod.dtype == np.float64 and np.all(np.diff(ours.alphas_cumprod) < 0)


@pytest.mark.parametrize("wrong", [{"beta_end": 0.021}, {"beta_schedule": "scaled_linear"}, {"num_train_timesteps": 999}, {"rescale_betas_zero_snr": True}], ids=str)
def test_a_wrong_schedule_is_noticed(wrong):
    _, theirs = schedule_of("DDPMScheduler")
    with pytest.raises(CheckpointError):
        check_against(from_betas(betas_for(wrong)), theirs)


def test_noise_levels_that_are_not_numbers_are_noticed():
    with pytest.raises(CheckpointError):
        check_against(LINEAR, np.full(1000, np.nan))


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.5], [0.1, float("nan")], [[0.1]]], ids=str)
def test_betas_outside_their_range_are_refused(betas):
    with pytest.raises(CheckpointError, match="betas"):
        from_betas(betas)


def test_an_unknown_schedule_is_named():
    with pytest.raises(CheckpointError, match="'quadratic'"):
        betas_for({"beta_schedule": "quadratic"})


def test_t_zero_is_the_least_noisy_step_and_its_abar_is_one_minus_beta_zero():
    assert LINEAR.alphas_cumprod[0] == 1 - LINEAR.betas[0] == 1 - 1e-4
    assert LINEAR.alphas_cumprod_prev[0] == 1 and LINEAR.alphas_cumprod_prev[7] == LINEAR.alphas_cumprod[6]


def test_posterior_variance_follows_its_formula_and_its_rule_at_t_zero():
    small, large = np.exp(posterior_log_variance(LINEAR, "fixed_small")), np.exp(posterior_log_variance(LINEAR, "fixed_large"))
    abar, betas = np.cumprod(1 - LINEAR.betas), LINEAR.betas
    for t in (1, 2, 500, 999):
        assert small[t] == pytest.approx(betas[t] * (1 - abar[t - 1]) / (1 - abar[t]), rel=1e-9)
        assert large[t] == pytest.approx(betas[t], rel=1e-12)
    assert small[0] == small[1] == large[0]
    with pytest.raises(CheckpointError, match="learned"):
        posterior_log_variance(LINEAR, "learned")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 1, 400, 999])
def test_the_training_target_read_back_gives_eps_and_x0(kind, t):
    rng = torch.Generator().manual_seed(t)
    x0, eps = (torch.randn(3, 2, 4, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    steps = torch.full((3,), t)
    xt = q_sample(LINEAR, x0, steps, eps)
    eps_hat, x0_hat = to_eps_and_x0(LINEAR, training_target(LINEAR, x0, eps, steps, kind), xt, steps, kind)
    # float64 divided by sqrt(abar_999) = 6e-3 or sqrt(1 - abar_0) = 1e-2
    torch.testing.assert_close(eps_hat, eps, atol=1e-12, rtol=0)
    torch.testing.assert_close(x0_hat, x0, atol=1e-12, rtol=0)


def test_v_is_diffusers_velocity():
    scheduler = diffusers.DDPMScheduler()
    x0, eps, t = torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3), torch.tensor([0, 10, 500, 999])
    # diffusers computes abar in float32: 2e-4 relative in 1 - abar_0, half of that in its root
    torch.testing.assert_close(training_target(LINEAR, x0, eps, t, "v_prediction"), scheduler.get_velocity(x0, eps, t), atol=1e-4, rtol=0)
    torch.testing.assert_close(q_sample(LINEAR, x0, t, eps), scheduler.add_noise(x0, eps, t), atol=1e-4, rtol=0)


def test_unclamped_identity_between_noise_error_and_image_error():
    rng = torch.Generator().manual_seed(1)
    x0, eps, output = (torch.randn(2, 1, 6, 6, generator=rng, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([3, 700])
    for kind in ("epsilon", "v_prediction", "sample"):
        eps_hat, x0_hat = to_eps_and_x0(LINEAR, output, q_sample(LINEAR, x0, t, eps), t, kind)
        eps_mse, x0_mse = ((eps_hat - eps) ** 2).mean((1, 2, 3)), ((x0_hat - x0) ** 2).mean((1, 2, 3))
        torch.testing.assert_close(eps_mse, torch.as_tensor(LINEAR.snr)[t] * x0_mse, rtol=1e-9, atol=0)


def test_an_unknown_prediction_type_is_named():
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(CheckpointError, match="flow"):
        to_eps_and_x0(LINEAR, x, x, torch.zeros(1, dtype=torch.int64), "flow")


class Fixed(Denoiser):
    """Returns the same output whatever comes in."""

    def __init__(self, schedule, output, kind, variance="fixed_small"):
        super().__init__(torch.nn.Identity(), schedule, (1, 2, 2), kind, variance, CheckpointInfo("", "toy", "", 0, "only", kind, len(schedule), (1, 2, 2), ()))
        self.output = output

    def run_network(self, xt, t_network, cond):
        return self.output.expand(len(xt), -1, -1, -1)


def test_nothing_is_divided_by_zero_at_zero_terminal_snr():
    schedule = from_betas(betas_for({"rescale_betas_zero_snr": True}))
    assert schedule.alphas_cumprod[-1] == 0
    xt, t = torch.ones(2, 1, 2, 2), torch.tensor([500, 999])
    output = torch.full((1, 1, 2, 2), 0.5)
    epsilon = Fixed(schedule, output, "epsilon")
    assert list(epsilon.measurable) == list(schedule.alphas_cumprod >= 1e-6) and not epsilon.measurable[-1]
    got = epsilon.predict(xt, t)
    assert got.x0_hat[1].isnan().all() and got.x0_hat[0].isfinite().all() and got.eps_hat.isfinite().all()
    v = Fixed(schedule, output, "v_prediction")
    assert v.measurable.all()
    torch.testing.assert_close(v.predict(xt, t).x0_hat[1], -output[0])  # at pure noise v = -x0
    torch.testing.assert_close(v.predict(xt, t).eps_hat[1], xt[1])
    assert Fixed(schedule, output, "sample").measurable.all()


def test_a_sample_model_is_not_measured_without_noise():
    schedule = Schedule(np.array([1 - 1e-9, 0.5]), np.array([1e-9, 0.5]), np.arange(2))
    model = Fixed(schedule, torch.zeros(1, 1, 2, 2), "sample")
    assert list(model.measurable) == [False, True]
    got = model.predict(torch.ones(2, 1, 2, 2), torch.tensor([0, 1]))
    assert got.eps_hat[0].isnan().all() and got.eps_hat[1].isfinite().all() and got.x0_hat.isfinite().all()


@pytest.mark.parametrize("t", [1, 40, 99])
def test_learned_range_interpolates_as_diffusers_does(t):
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", num_train_timesteps=100, beta_end=0.2)
    schedule = from_betas(betas_for(scheduler.config))
    raw = torch.linspace(-1, 1, 4).view(1, 1, 2, 2)
    model = Fixed(schedule, torch.cat([torch.zeros_like(raw), raw], 1), "epsilon", "learned_range")
    got = model.predict(torch.zeros(1, 1, 2, 2), torch.tensor([t])).log_variance
    # float32 beta of 1e-2 to 2e-1 inside diffusers
    torch.testing.assert_close(got, scheduler._get_variance(t, predicted_variance=raw), atol=1e-4, rtol=1e-4)

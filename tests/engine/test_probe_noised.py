"""The noised probe against its closed forms, the identities between its tables, and a slow float64 version written from the formulas alone."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from audit.probes import PROBES, measure
from audit.probes.base import Rows
from audit.probes.noised import _normal_cdf, _vlb_bits
from models.base import posterior_log_variance
from models.toy import Gaussian, Memoriser, Oracle, small_schedule
from tests.engine.common import SHAPE, denoiser, images, noise

TABLES = PROBES["noised"].TABLES
T = 20


def checkers(count, shape, dtype=torch.float64):
    """Random black-and-white pictures, far enough apart for the oracle."""
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(3), dtype=dtype).sub(0.5).sign()


def rows_at(x0, t, seed=5):
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=x0.dtype)
    return Rows(x0, eps, torch.as_tensor(t))


# ---------------------------------------------------------------------- toys


def test_the_oracle_has_no_loss_at_any_t():
    x0 = checkers(T, (1, 14, 12))
    model = Oracle(x0, small_schedule(T))
    got = dict(zip(TABLES, PROBES["noised"].rows(model, rows_at(x0, range(T)), True), strict=True))
    assert max(got["eps_mse"].max(), got["x0_mse"].max(), got["x0_8bit_mse"].max()) < 1e-20
    assert got["vlb_bits"][1:].abs().max() < 1e-20 and got["vlb_bits"][0] > 0


def test_the_oracle_catches_a_timestep_that_is_off_by_one(monkeypatch):
    x0 = checkers(4, (1, 14, 12))
    model = Oracle(x0, small_schedule(T))
    honest = type(model).predict
    monkeypatch.setattr(type(model), "predict", lambda self, xt, t, cond=None: honest(self, xt, t + 1, cond))
    got = PROBES["noised"].rows(model, rows_at(x0, [3] * 4), True)
    assert got[TABLES.index("eps_mse")].min() > 1e-4


def test_the_gaussian_has_the_loss_of_its_closed_form():
    variance, n = 0.7, 4000
    model = Gaussian(variance, small_schedule(T), (1, 2, 2))
    x0 = np.random.default_rng(0).normal(0, variance**0.5, (n, 1, 2, 2)).astype(np.float32)
    steps = [0, 6, 13, 19]
    per_image = np.random.default_rng(1).standard_normal((1, len(steps), n, 1, 2, 2)).astype(np.float32)
    got = measure(model, x0, steps, noise=per_image, clip=False)
    a = model.schedule.alphas_cumprod[steps]
    expected = 1 - (1 - a) / (a * variance + 1 - a)
    error = got["eps_mse"].std(axis=0) / n**0.5
    assert np.all(np.abs(got["eps_mse"].mean(axis=0, dtype=np.float64) - expected) < 4 * error)
    assert np.all(np.abs(got["x0_mse"].mean(axis=0, dtype=np.float64) - expected * (1 - a) / a) < 4 * error * (1 - a) / a)
    second_moment = (a * variance + 1 - a) * (1 - a) / (a * variance + 1 - a) ** 2  # of one eps_hat; eps_hat_l2² sums 4 of them
    assert np.all(np.abs((got["eps_hat_l2"] ** 2).mean(axis=0, dtype=np.float64) / 4 / second_moment - 1) < 5 * (2 / (4 * n)) ** 0.5)


def test_an_attack_on_the_gaussian_finds_nothing_and_on_the_memoriser_everything():
    x0 = images(60, (1, 6, 6), seed=4)
    steps, is_member = range(2, T), np.arange(60) < 30
    memoriser, gaussian = Memoriser(x0[:30].double(), small_schedule(T)), Gaussian(0.4, small_schedule(T), (1, 6, 6))
    for table in ("eps_mse", "x0_mse", "vlb_bits", "x0_8bit_mse"):
        assert auc(-measure(memoriser, x0, steps)[table].sum(axis=1), is_member) > 0.95
        assert abs(auc(-measure(gaussian, x0, steps)[table].sum(axis=1), is_member) - 0.5) < 3 * (61 / (12 * 30 * 30)) ** 0.5  # Mann-Whitney's standard error


def auc(scores, is_member):
    members, others = scores[is_member, None], scores[~is_member]
    return ((members > others) + (members == others) / 2).mean()


# ---------------------------------------------------------------------- identities


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_unclamped_the_noise_error_is_the_snr_times_the_image_error(prediction_type):
    model = denoiser(prediction_type)
    got = measure(model, images(9), range(T), draws=2, clip=False)
    assert got["eps_mse"] == pytest.approx(got["x0_mse"] * model.schedule.snr, rel=2e-5)  # float32 x0_hat: 1e-7 beside an error of 1e-2 and more


@pytest.mark.parametrize("clip", [True, False])
def test_with_a_small_fixed_variance_the_bound_is_the_snrs_difference_times_the_image_error(clip):
    model = denoiser(variance="fixed_small")
    got, snr = measure(model, images(9), range(T), draws=2, clip=clip), model.schedule.snr
    expected = got["x0_mse"][:, 1:].astype(np.float64) * (snr[:-1] - snr[1:]) / (2 * math.log(2))
    assert got["vlb_bits"][:, 1:] == pytest.approx(expected, rel=1e-6)  # two roundings to float32


@pytest.mark.parametrize("variance", ["fixed_large", "learned_range"])
def test_the_identity_does_not_hold_for_other_variances(variance):
    model = denoiser(variance=variance)
    got, snr = measure(model, images(9), range(T)), model.schedule.snr
    expected = got["x0_mse"][:, 1:] * (snr[:-1] - snr[1:]) / (2 * math.log(2))
    assert np.abs(got["vlb_bits"][:, 1:] / expected - 1).max() > 0.05


# ---------------------------------------------------------------------- a plain version


def plain(model, x0, t, eps, clip):
    """One row from the formulas of Ho et al. 2020 and calc_bpd_loop, pixel by pixel in Python floats."""
    s = model.schedule
    beta, abar, before = s.betas[t], s.alphas_cumprod[t], s.alphas_cumprod[t - 1] if t else 1.0
    xt = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * eps
    out = model.network(torch.from_numpy(xt)[None], torch.tensor([t])).sample[0].numpy()
    half = len(out) // 2 if model.variance.startswith("learned") else len(out)
    output, raw = out[:half], out[half:]
    if model.prediction_type == "epsilon":
        eps_hat, x0_hat = output, (xt - math.sqrt(1 - abar) * output) / math.sqrt(abar)
    elif model.prediction_type == "v_prediction":
        eps_hat, x0_hat = math.sqrt(abar) * output + math.sqrt(1 - abar) * xt, math.sqrt(abar) * xt - math.sqrt(1 - abar) * output
    else:
        eps_hat, x0_hat = (xt - math.sqrt(abar) * output) / math.sqrt(1 - abar), output
    clamped = np.clip(x0_hat, -1, 1)
    kept = clamped if clip else x0_hat
    beta1, abar1 = s.betas[1], s.alphas_cumprod[1]
    small = beta * (1 - before) / (1 - abar) if t else beta1 * (1 - s.alphas_cumprod[0]) / (1 - abar1)
    c1, c2 = beta * math.sqrt(before) / (1 - abar), (1 - before) * math.sqrt(1 - beta) / (1 - abar)
    terms = []
    for index, x in np.ndenumerate(x0):
        if model.variance == "fixed_small":
            log_variance = math.log(small)
        elif model.variance == "fixed_large":
            log_variance = math.log(beta if t else small)
        else:
            share = (raw[index] + 1) / 2
            log_variance = share * math.log(beta) + (1 - share) * math.log(small)
        mean, true_mean = c1 * kept[index] + c2 * xt[index], c1 * x + c2 * xt[index]
        terms.append(minus_log_likelihood(x, mean, log_variance) if t == 0 else normal_kl(true_mean, math.log(small), mean, log_variance))
    grid = np.round((clamped + 1) * 127.5) / 127.5 - 1
    return {
        "eps_mse": np.mean((eps_hat - eps) ** 2),
        "x0_mse": np.mean((kept - x0) ** 2),
        "vlb_bits": np.mean(terms) / math.log(2) if t or model.pixel_space else math.nan,
        "eps_hat_l2": np.sum(np.abs(eps_hat) ** 2) ** 0.5,
        "eps_hat_l4": np.sum(np.abs(eps_hat) ** 4) ** 0.25,
        "x0_8bit_mse": np.mean((grid - x0) ** 2) if model.pixel_space else math.nan,
    }


def normal_kl(mean1, log1, mean2, log2):
    return 0.5 * (-1 + log2 - log1 + math.exp(log1 - log2) + (mean1 - mean2) ** 2 * math.exp(-log2))


def minus_log_likelihood(x, mean, log_variance):
    def cdf(value):
        return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))

    inverse = math.exp(-0.5 * log_variance)
    upper, lower = cdf(inverse * (x - mean + 1 / 255)), cdf(inverse * (x - mean - 1 / 255))
    probability = upper if x < -0.999 else 1 - lower if x > 0.999 else upper - lower
    return -math.log(max(probability, 1e-12))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("prediction_type", "variance"),
    [("epsilon", "fixed_small"), ("epsilon", "fixed_large"), ("epsilon", "learned_range"), ("v_prediction", "fixed_large"), ("sample", "learned_range")],
)
def test_every_table_agrees_with_the_plain_version(prediction_type, variance, clip):
    model = denoiser(prediction_type, variance)
    x0, steps, eps = images(3), [0, 1, 2, 11, 19], noise(2, 5, count=3)
    got = measure(model, x0, steps, noise=eps, clip=clip)
    for i in range(3):
        for k, t in enumerate(steps):
            slow = [plain(model, x0[i].double().numpy(), t, eps[s, k, i].astype(np.float64), clip) for s in range(2)]
            for name in TABLES:
                # float32 x0_hat differs by 1e-6 (divided by sqrt(abar)); at a rounding boundary of the 8-bit grid one pixel of 60 may move by 1/127.5
                tolerance = {"rel": 2e-4, "abs": 1e-4} if name == "x0_8bit_mse" else {"rel": 5e-5, "abs": 1e-9}
                assert got[name][i, k] == pytest.approx(np.mean([row[name] for row in slow]), **tolerance), (name, t)


def test_a_learned_variance_near_the_true_one_keeps_its_digits():
    """KL near 0 is a difference of numbers near 1: written as in calc_bpd_loop, float32 loses all of it."""
    model, rows = denoiser(variance="learned_range"), rows_at(images(4, (2, 32, 32), dtype=torch.float64), [7] * 4)
    off = 1e-3 * rows.eps
    error, log_variance = 1e-4 * rows.x0, posterior_log_variance(model.schedule, "fixed_small")[7] + off
    snr = model.schedule.snr
    exact = (torch.expm1(-off) + off + (snr[6] - snr[7]) * torch.exp(-off) * error**2).mean((1, 2, 3)) / 2 / math.log(2)
    single = _vlb_bits(model, rows, error.float() + rows.x0.float(), error.float(), None, log_variance.float())
    assert single.numpy() == pytest.approx(exact.numpy(), rel=1e-3)  # the logarithm itself is rounded by 2e-7, beside 1e-3


def test_the_tanh_cdf_is_close_to_the_normal_one():
    x = torch.linspace(-6, 6, 500, dtype=torch.float64)
    assert np.abs(_normal_cdf(x).numpy() - [NormalDist().cdf(v) for v in x.tolist()]).max() < 5e-4


def test_norms_are_averaged_over_draws_after_the_root():
    model = denoiser()
    x0, eps = images(2), noise(3, 1, seed=9)
    each = [measure(model, x0, [12], noise=eps[s : s + 1])["eps_hat_l4"] for s in range(3)]
    assert measure(model, x0, [12], noise=eps)["eps_hat_l4"] == pytest.approx(np.mean(each, axis=0), rel=1e-6)
    assert np.ptp(each) > 0.1


# ---------------------------------------------------------------------- what is not defined


def test_latent_models_have_no_likelihood_no_8_bit_picture_and_no_clamp():
    model = denoiser(pixel_space=False)
    x0 = 3 * images(4)
    got, clipped = measure(model, x0, range(T)), measure(model, x0, range(T), clip=True)
    assert np.isnan(got["vlb_bits"][:, 0]).all() and np.isfinite(got["vlb_bits"][:, 1:]).all() and np.isnan(got["x0_8bit_mse"]).all()
    assert got["eps_mse"] == pytest.approx(got["x0_mse"] * model.schedule.snr, rel=2e-5) and clipped["x0_mse"].mean() > 1.5 * got["x0_mse"][:, :3].mean()


def test_epsilon_models_are_not_measured_where_no_signal_is_left_and_cost_no_call_there():
    betas = np.append(np.full(9, 0.1), 1.0)  # zero terminal signal
    for prediction_type, measured in (("epsilon", 9), ("v_prediction", 10), ("sample", 10)):
        model = denoiser(prediction_type, betas=betas)
        got = measure(model, images(3), [9, 4, 0, *range(1, 4), *range(5, 9)], draws=2)
        missing = np.isnan(np.stack(list(got.values())))
        assert model.network.calls == measured * 3 * 2
        assert (missing == (np.arange(10) < 10 - measured)).all()


def test_abar_just_above_the_limit_is_measured():
    betas = np.array([0.1, 0.1, 1 - 1.5e-6])
    got = measure(denoiser(betas=betas), images(2), range(3))
    assert all(np.isfinite(v).all() for v in got.values())


def test_images_of_the_paper_are_clamped_for_pixel_models_only():
    model = denoiser()
    default, clipped, free = (measure(model, images(4), [19], clip=c) for c in (None, True, False))
    assert np.array_equal(default["x0_mse"], clipped["x0_mse"]) and (free["x0_mse"] > 1.5 * clipped["x0_mse"]).all()
    assert np.array_equal(free["eps_mse"], clipped["eps_mse"]) and np.array_equal(free["x0_8bit_mse"], clipped["x0_8bit_mse"]) and model.image_shape == SHAPE

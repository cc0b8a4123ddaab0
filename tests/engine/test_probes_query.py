"""The query probes against slow float64 versions, one image at a time, written from the papers' formulas alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from audit.engine import MeasurePlan, calls_per_image, measure_block, model_calls, own_grids, shared_calls
from audit.errors import RequestError
from audit.noise import NoiseBank
from audit.probes import PROBES, measure
from audit.probes.base import Rows
from audit.probes.pfami import closer
from audit.probes.ssim import ssim
from models.toy import Gaussian, Memoriser, Oracle, small_schedule
from tests.engine.common import SHAPE, denoiser, images

STEPS = [1, 2, 7, 13]
T = 20


class Plain:
    """One model in float64 NumPy: eps(x, t) of a single picture, and the schedule."""

    def __init__(self, model):
        self.model, self.abar = model, model.schedule.alphas_cumprod

    def eps(self, x, t):
        if isinstance(self.model, Oracle | Memoriser | Gaussian):
            return self.model.predict(torch.from_numpy(x)[None], torch.tensor([t])).eps_hat[0].numpy()
        out = self.model.network(torch.from_numpy(x)[None], torch.tensor([t])).sample[0].numpy()
        out = out[: len(x)]
        a, s = math.sqrt(self.abar[t]), math.sqrt(1 - self.abar[t])
        return {"epsilon": out, "v_prediction": a * out + s * x, "sample": (x - a * out) / s}[self.model.prediction_type]

    def q(self, x, t, eps):
        return math.sqrt(self.abar[t]) * x + math.sqrt(1 - self.abar[t]) * eps

    def ddim(self, x, t, to):
        eps = self.eps(x, t)
        x0 = (x - math.sqrt(1 - self.abar[t]) * eps) / math.sqrt(self.abar[t])
        return math.sqrt(self.abar[to]) * x0 + math.sqrt(1 - self.abar[to]) * eps


def l4(x):
    return sum(abs(float(v)) ** 4 for v in x.ravel()) ** 0.25


def plain_pia(p, x, t, eps):
    e0 = p.eps(x, 0)
    return [l4(e0 - p.eps(p.q(x, t, e0), t))]


def plain_pian(p, x, t, eps):
    e0 = p.eps(x, 0)
    e0 = e0 / np.mean(np.abs(e0)) * math.sqrt(2 / math.pi)
    return [l4(e0 - p.eps(p.q(x, t, e0), t))]


def plain_secmi(p, x, t, eps, k=1):
    y = x
    for step in range(0, t, k):
        y = p.ddim(y, step, step + k)
    back = p.ddim(p.ddim(y, t, t + k), t + k, t)
    return [np.sum((back - y) ** 2)]


def plain_sima(p, x, t, eps):
    return [l4(p.eps(x, t)), l4(p.eps(math.sqrt(p.abar[t]) * x, t))]


def plain_dime(p, x, t, eps, gamma=0.2):
    g, sigma = math.sqrt(p.abar[t]) * x, math.sqrt(1 - p.abar[t])
    sizes, slopes = [], []
    for draw in eps:
        z = np.sign(draw)
        e = p.eps(g + gamma * sigma * z, t)
        sizes.append(np.linalg.norm(e))
        slopes.append(np.sum(z * (e - p.eps(g, t))) / (gamma * sigma))
    return [sigma * np.mean(sizes), sigma**3 * np.mean(slopes)]


def plain_pfami(p, x, t, eps):
    return [np.mean([np.mean((p.eps(p.q(y, t, e), t) - e) ** 2) for e in eps]) for y in (x, zoomed(x))]


def zoomed(x, share=0.95 - 5 * 0.25 / 9):
    """Centre crop and bilinear resize with pixel centres at half integers, by hand."""
    out = np.empty_like(x)
    _, height, width = x.shape
    h, w = round(share * height), round(share * width)
    top, left = round((height - h) / 2), round((width - w) / 2)
    for i in range(height):
        for j in range(width):
            y, z = min(max((i + 0.5) * h / height - 0.5, 0), h - 1), min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            y0, z0 = int(y), int(z)
            y1, z1 = min(y0 + 1, h - 1), min(z0 + 1, w - 1)
            corner = x[:, top : top + h, left : left + w]
            upper = (1 - (z - z0)) * corner[:, y0, z0] + (z - z0) * corner[:, y0, z1]
            lower = (1 - (z - z0)) * corner[:, y1, z0] + (z - z0) * corner[:, y1, z1]
            out[:, i, j] = (1 - (y - y0)) * upper + (y - y0) * lower
    return out


def plain_gray_free(p, x, t, starts, steps):
    """The mean squared distance to the nearest of the pictures shown at t, one generation after the other."""
    found = []
    for y in starts:
        for step, to in zip(steps[:0:-1], steps[-2::-1], strict=True):
            if step == t:
                break
            eps = p.eps(y, step)
            x0 = np.clip((y - math.sqrt(1 - p.abar[step]) * eps) / math.sqrt(p.abar[step]), -1, 1)
            y = math.sqrt(p.abar[to]) * x0 + math.sqrt(1 - p.abar[to]) * eps
        x0 = np.clip((y - math.sqrt(1 - p.abar[t]) * p.eps(y, t)) / math.sqrt(p.abar[t]), -1, 1)
        found.append(np.mean((np.round((x0 + 1) * 127.5) / 127.5 - 1 - x) ** 2))
    return min(found)


def plain_ssim(x, y):
    """Every window on its own, every pixel by hand."""
    side = min(7, *x.shape[1:])
    side -= 1 - side % 2
    found, c1, c2 = [], 0.02**2, 0.06**2
    for a, b in zip(x, y, strict=True):
        for i in range(a.shape[0] - side + 1):
            for j in range(a.shape[1] - side + 1):
                p, q = (c[i : i + side, j : j + side].ravel() for c in (a, b))
                covariance = np.cov(p, q)  # n - 1
                above = (2 * p.mean() * q.mean() + c1) * (2 * covariance[0, 1] + c2)
                found.append(above / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)))
    return np.mean(found)


def plain_rediffuse(p, x, t, starts, k):
    """Distances of the mean of the variations, one after the other, step by step."""
    pictures = []
    for eps in starts:
        y, here = p.q(x, t, eps), t
        while here - k > 0:
            y, here = p.ddim(y, here, here - k), here - k
        clean = (y - math.sqrt(1 - p.abar[here]) * p.eps(y, here)) / math.sqrt(p.abar[here])
        pictures.append(np.clip(clean, -1, 1))
    average = np.mean(pictures, axis=0)
    return [1 - plain_ssim(x, average), math.sqrt(np.sum((x - average) ** 2))]


PLAIN = {"pia": plain_pia, "pian": plain_pian, "secmi": plain_secmi, "sima": plain_sima, "dime": plain_dime, "pfami": plain_pfami}
DRAWS = {"dime": 3, "pfami": 2}


def models():
    x0 = images(3, dtype=torch.float64)
    return {
        "epsilon": denoiser(),
        "learned": denoiser(variance="learned_range"),
        "v": denoiser("v_prediction"),
        "sample": denoiser("sample"),
        "memoriser": Memoriser(x0[:2], small_schedule(T)),
        "gaussian": Gaussian(0.3, small_schedule(T), SHAPE),
    }


def float64(name, model, x0, steps, eps):
    """{(image, column): the tables' values, mean over draws} of the probe in float64."""
    probe, out = PROBES[name], {}
    for k, t in enumerate(steps):
        for i in range(len(x0)):
            if probe.ROW == "image":
                got = probe.rows(model, Rows(x0[i : i + 1], None, torch.tensor(steps)), True)[:, 0, k, 0]
            elif probe.ROW == "timestep":
                got = probe.rows(model, Rows(x0[i : i + 1], None if probe.DRAWS == 0 else eps[:, k][None], torch.tensor([t])), True)[:, 0].mean(dim=1)
            else:
                got = torch.stack([probe.rows(model, Rows(x0[i : i + 1], e[k][None], torch.tensor([t])), True)[:, 0] for e in eps]).mean(dim=0)
            out[i, k] = got.numpy()
    return out


@pytest.mark.parametrize("kind", models())
@pytest.mark.parametrize("name", PLAIN)
def test_every_table_agrees_with_the_plain_version(name, kind):
    model, x0 = models()[kind], images(3, dtype=torch.float64)
    draws, seed = DRAWS.get(name, 1), 4
    bank = NoiseBank(seed, name, SHAPE, draws)
    eps = torch.stack([torch.stack([bank.eps(t, d) for t in STEPS]) for d in range(draws)]).double()
    plain, exact = Plain(model), float64(name, model, x0, STEPS, eps)
    single = measure(model, x0.float(), STEPS, probe=name, seed=seed, draws=draws)
    for i in range(3):
        for k, t in enumerate(STEPS):
            slow = np.array(PLAIN[name](plain, x0[i].numpy(), t, eps[:, k].numpy()))
            np.testing.assert_allclose(exact[i, k], slow, rtol=1e-9, atol=1e-12)  # predictions are of size 1: a memoriser's differences are their rounding
            # float32: differences of predictions of size 1 keep 1e-7 of that, whatever is left of them; squared, of their own size
            got = np.array([single[table][i, k] for table in PROBES[name].TABLES])
            np.testing.assert_allclose(got, slow, rtol=1e-5 if kind in ("epsilon", "learned") else 1e-3, atol=1e-5, err_msg=f"{kind} t={t}")


@pytest.mark.parametrize("kind", models())
def test_free_generations_agree_with_the_plain_version(kind):
    model, x0 = models()[kind], images(3, dtype=torch.float64)
    plain, bank = Plain(model), NoiseBank(4, "gray_free", SHAPE, 32)
    starts = torch.stack([bank.eps(0, g) for g in range(32)]).double()
    exact = PROBES["gray_free"].rows(model, Rows(x0, starts[None], torch.tensor(STEPS)), True)[0, :, :, 0]
    single = measure(model, x0.float(), STEPS, probe="gray_free", seed=4)["gray_free_mse"]
    for i in range(3):
        for k, t in enumerate(STEPS):
            slow = plain_gray_free(plain, x0[i].numpy(), t, starts.numpy(), tuple(range(T)))
            assert exact[i, k].item() == pytest.approx(slow, rel=1e-9, abs=1e-12)
            assert single[i, k] == pytest.approx(slow, rel=1e-3, abs=1e-6)  # at a rounding boundary one pixel of 60 may move by 1/127.5


@pytest.mark.parametrize("kind", models())
def test_variations_agree_with_the_plain_version(kind):
    model, x0 = models()[kind], images(3, dtype=torch.float64)
    plain, bank = Plain(model), NoiseBank(4, "rediffuse", SHAPE, 10)
    starts = torch.stack([bank.eps(0, g) for g in range(10)]).double()
    exact = PROBES["rediffuse"].rows(model, Rows(x0, starts[None], torch.tensor(STEPS)), True)[..., 0]
    single = measure(model, x0.float(), STEPS, probe="rediffuse", seed=4)
    for i in range(3):
        for column, t in enumerate(STEPS):
            slow = plain_rediffuse(plain, x0[i].numpy(), t, starts.numpy(), k=2)
            np.testing.assert_allclose(exact[:, i, column].numpy(), slow, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose([single[name][i, column] for name in PROBES["rediffuse"].TABLES], slow, rtol=1e-3, atol=1e-5)


def test_variations_take_t_over_k_steps_each():
    model = denoiser(betas=np.linspace(1e-4, 0.02, 1000))
    plan = MeasurePlan((0,), probes=("rediffuse",), own=own_grids(("rediffuse",), model.schedule, 4)).of("rediffuse")
    assert plan.timesteps == (100, 200, 300) and plan.draws == 1
    measure(model, images(1), [200], probe="rediffuse")
    assert model.network.calls == 20 and PROBES["rediffuse"].path(200, 1000) == [200, 100]
    assert [PROBES["rediffuse"].own_timesteps(length) for length in (2, 10, 15)] == [(1,), (1, 2, 3), (2, 4, 6)]


def test_similarity_is_the_plain_one_and_that_of_scikit_image():
    """Golden: skimage.metrics.structural_similarity(a, b, data_range=2.0, channel_axis=0), scikit-image 0.26.0, on these two pictures."""
    random = np.random.default_rng(0)
    a = random.uniform(-1, 1, (3, 11, 9))
    b = np.clip(a + random.normal(0, 0.3, a.shape), -1, 1)
    got = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None]).item()
    assert got == pytest.approx(plain_ssim(a, b), abs=1e-12) and got == pytest.approx(0.7888274969203649, abs=1e-9)
    small = torch.rand((2, 1, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert ssim(small, small).tolist() == [1.0, 1.0] and ssim(small, 0.5 - small).max() < 0


def test_generations_are_made_once_for_all_shards_and_again_for_other_noise():
    model, x0 = denoiser(), images(9)
    plan = MeasurePlan(STEPS, probes=("gray_free",), own=(("gray_free", STEPS, 2),))
    parts = [measure_block(model, x0[i : i + 3], plan)["gray_free_mse"] for i in (0, 3, 6)]
    assert model.network.calls == shared_calls(plan, model) == 2 * 32 * 19 == model_calls(plan, 9, model) and calls_per_image(plan, model) == 0  # t = 19 down to 1
    assert np.array_equal(np.concatenate(parts, axis=1), measure_block(denoiser(), x0, plan)["gray_free_mse"])
    other = measure_block(model, x0[:3], replace(plan, seed=1))["gray_free_mse"]
    assert model.network.calls == 2 * 2 * 32 * 19 and not np.array_equal(other, parts[0])
    with pytest.raises(RequestError, match=r"asked for t = 1\. Expected steps of its generation: 0, 53, 105"):
        measure(denoiser(betas=np.full(1000, 1e-3)), x0, [1], probe="gray_free")


def test_the_crop_is_the_plain_one_at_the_released_share():
    x = torch.rand((1, 2, 37, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(closer(x)[0].numpy(), zoomed(x[0].numpy()), atol=1e-12)


def test_secmi_walks_its_lattice_and_pays_for_the_path_once():
    betas = np.linspace(1e-4, 0.02, 1000)
    model = denoiser(betas=betas)
    plan = MeasurePlan((0,), probes=("secmi",), own=own_grids(("secmi",), model.schedule, 4)).of("secmi")
    assert plan.timesteps == tuple(range(10, 101, 10)) and plan.draws == 1
    got = measure(model, images(1), plan.timesteps, probe="secmi")["secmi_l2"][0]
    assert model.network.calls == 12  # ten up to 100, one more up, one back
    x = images(1, dtype=torch.float64)[0].numpy()
    for column in (0, 8, 9):
        assert got[column] == pytest.approx(plain_secmi(Plain(model), x, plan.timesteps[column], None, k=10)[0], rel=1e-3)
    with pytest.raises(RequestError, match=r"t = 15\. Expected multiples of 10"):
        measure(model, images(1), [10, 15], probe="secmi")
    assert np.isnan(measure(model, images(1), [990, 10], probe="secmi")["secmi_l2"][0]).tolist() == [True, False]


def test_own_timesteps_are_shares_of_the_schedule():
    def at(name, length):
        model = denoiser(betas=np.full(length, 1e-3))
        return own_grids((name,), model.schedule, 4)[0][1:]

    assert at("pia", 1000) == ((50, 100, 200, 300), 1) and at("pia", 250) == ((12, 25, 50, 75), 1)
    assert at("sima", 1000) == ((50, 100, 150, 200), 1) and at("dime", 4000) == ((200, 400, 600, 800), 10)
    assert at("pfami", 1000) == (tuple(range(0, 500, 50)), 4) and at("secmi", 4000) == (tuple(range(40, 401, 40)), 1)
    assert at("secmi", 50) == ((1, 2, 3, 4, 5), 1) and at("sima", 3) == ((0, 1), 1)


def test_the_oracle_has_no_loss_and_its_members_are_still():
    """Queries without noise give back the picture: no noise is seen, nothing moves. Catches an off-by-one in t."""
    x0 = torch.rand((4, 1, 14, 12), generator=torch.Generator().manual_seed(3)).sub(0.5).sign()
    model, got = Oracle(x0, small_schedule(T)), {}
    for name in PLAIN:
        got |= measure(model, x0, STEPS, probe=name)
    assert got["pfami_mse"].max() < 1e-8 and got["sima_scaled_l4"].max() < 1e-3 and got["dime_bias"].max() > 0.1
    assert got["pia_l4"].max() < 2e-2 and got["secmi_l2"].max() < 1e-6


def test_divergence_of_the_gaussian_is_its_closed_form():
    """eps_hat = c x_t with c = s / (a^2 var + s^2): every direction gives z.(c gamma s z) / (gamma s) = c d, so the table is s^3 c d exactly."""
    model = Gaussian(0.3, small_schedule(T), SHAPE)
    got = measure(model, images(5), STEPS, probe="dime", draws=2)["dime_spread"]
    a2 = model.schedule.alphas_cumprod[STEPS]
    s = np.sqrt(1 - a2)
    assert got == pytest.approx(np.tile(s**3 * s / (a2 * 0.3 + s**2) * math.prod(SHAPE), (5, 1)), rel=1e-3)  # float32: 1e-7 of a prediction over a step of gamma s, 0.006 at t = 1


def test_the_exact_probes_keep_float32_in_a_run_of_lower_precision():
    for name in ("pia", "pian", "secmi", "dime", "pfami"):
        low, full = (measure_block(denoiser(), images(3), MeasurePlan(STEPS, probes=(name,), precision=precision)) for precision in ("bf16", "fp32"))
        assert all(np.array_equal(low[table], full[table]) for table in full)

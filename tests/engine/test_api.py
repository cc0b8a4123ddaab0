"""A model seen through an API: what is shown, at which steps, and what each protection does to it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from audit.api import Api, api_words, parse_api
from audit.attacks import ATTACKS
from audit.errors import RequestError
from audit.probes import PROBES, measure
from audit.probes.api_view import ApiView
from audit.stats.auc import auc
from models.base import Denoiser
from models.toy import Oracle, small_schedule
from tests.attacks.toys import memoriser, pictures, tables_of
from tests.engine.common import denoiser, images

PIXELS = (1, 12, 13)


def ask(view, count=6, t=3, seed=0):
    xt = torch.randn((count, *view.image_shape), generator=torch.Generator().manual_seed(seed))
    return xt, view.predict(xt, torch.full((count,), t))


@pytest.mark.parametrize("bits", [8, 3, 1])
def test_pictures_are_clamped_and_rounded_and_the_noise_follows_from_them(bits):
    model = denoiser()
    view = ApiView(model, Api(bits=bits))
    xt, shown = ask(view)
    abar, levels = model.schedule.alphas_cumprod[3], 2**bits - 1
    expected = np.round((np.clip(model.predict(xt, torch.full((6,), 3)).x0_hat.numpy(), -1, 1) + 1) / 2 * levels) / levels * 2 - 1
    np.testing.assert_allclose(shown.x0_hat, expected, atol=1e-6)
    assert shown.log_variance is None and len(np.unique(expected)) > 1 and len(torch.unique(shown.x0_hat)) <= levels + 1
    np.testing.assert_allclose(shown.eps_hat, (xt.numpy() - np.sqrt(abar) * expected) / np.sqrt(1 - abar), rtol=1e-4, atol=1e-4)


def test_an_oracle_loses_nothing_of_pictures_of_eight_bits():
    """Closed form: what it answers lies on the API's grid already, so every loss stays 0."""
    x0 = torch.where(torch.rand((5, 1, 16, 16), generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    view = ApiView(Oracle(x0, small_schedule()), Api())
    assert measure(view, x0, range(20))["eps_mse"].max() < 1e-6


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("name", [name for name in PROBES if any(name in ATTACKS[n].card.probes for n in ATTACKS)])
def test_no_probe_asks_at_a_step_that_is_not_shown(name, steps, monkeypatch, tmp_path):
    model, asked, predict = denoiser(steps=20), [], Denoiser.predict
    view = ApiView(model, Api(steps=steps))
    assert np.allclose(view.schedule.alphas_cumprod, model.schedule.alphas_cumprod[view.shown.numpy()], rtol=1e-12) and len(view.schedule) == steps
    monkeypatch.setattr(Denoiser, "predict", lambda self, xt, t, cond=None: asked.extend(torch.as_tensor(t).tolist()) or predict(self, xt, t, cond))
    names = [n for n in ATTACKS if name in ATTACKS[n].card.probes]
    tables = tables_of(tmp_path, view, images(4), names=tuple(names))
    allowed = set(np.round(np.linspace(0, 19, steps)).astype(int).tolist())
    assert asked and set(asked) <= allowed
    if steps == 20:
        assert all(np.isfinite(ATTACKS[n].score(tables, ATTACKS[n].candidates(tables, {})[0])).all() for n in names)


def test_a_query_gets_one_answer_and_noise_of_the_size_asked_for():
    model = denoiser(shape=PIXELS)
    view, plain, reseeded = ApiView(model, Api(noise=0.1), 1), ApiView(model, Api(), 1), ApiView(model, Api(noise=0.1), 2)
    (xt, first), (_, again), (_, bare) = ask(view, 40), ask(view, 40), ask(plain, 40)
    assert torch.equal(first.x0_hat, again.x0_hat) and not torch.equal(first.x0_hat, ask(reseeded, 40)[1].x0_hat)
    one = view.predict(xt[7:8], torch.tensor([3]))  # whoever else asks
    assert torch.allclose(one.x0_hat, first.x0_hat[7:8], atol=2 / 255 + 1e-6)
    inside = bare.x0_hat.abs() < 0.6
    added = (first.x0_hat - bare.x0_hat)[inside]
    assert inside.sum() > 500 and abs(float(added.std()) - 0.1) < 0.01 and abs(float(added.mean())) < 0.01
    moved = view.picture(bare.x0_hat, xt + 1e-3, torch.full((40,), 3)) - view.picture(bare.x0_hat, xt, torch.full((40,), 3))
    assert float(moved[inside].std()) > 0.1  # another query, other noise: sqrt(2) times its sd


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_the_shown_picture(channels):
    view = ApiView(denoiser(shape=(channels, 16, 16)), Api(jpeg=40))
    plain = ApiView(view.behind, Api())
    shown, before = ask(view)[1].x0_hat, ask(plain)[1].x0_hat
    for mine, picture in zip(shown, before, strict=True):
        levels, file = np.rint((picture.numpy().transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8), io.BytesIO()
        Image.fromarray(levels.squeeze()).save(file, format="jpeg", quality=40)
        again = np.array(Image.open(io.BytesIO(file.getvalue()))).reshape(16, 16, channels).transpose(2, 0, 1)
        np.testing.assert_allclose(mine, again / 127.5 - 1, atol=1e-6)
    assert not torch.equal(shown, before)


def test_a_memoriser_is_found_through_an_api_and_a_protection_costs_the_attacker(tmp_path):
    x0, is_member = pictures(40), np.arange(40) < 20
    found = {}
    for k, api in enumerate((Api(), Api(noise=1.5, bits=1))):
        tables = tables_of(tmp_path / str(k), ApiView(memoriser(x0[is_member]), api), x0, names=("naive_loss",))
        attack = ATTACKS["naive_loss"]
        found[k] = max(auc(attack.score(tables, c), is_member) for c in attack.candidates(tables, {}))
    assert found[0] > 0.95 and found[1] < found[0] - 0.05


def test_what_cannot_be_shown_is_refused():
    for model, api, said in (
        (denoiser(pixel_space=False), Api(), "needs a model of pixels"),
        (denoiser(), Api(steps=21), "Expected at most 20"),
        (denoiser(), Api(jpeg=5), "1 or 3 channels. These have 2"),
    ):
        with pytest.raises(RequestError, match=said):
            ApiView(model, api)


def test_text_and_mapping_give_the_same_and_a_bad_one_is_one_line():
    assert parse_api("steps=20, bits=4,noise=0.02,jpeg=75") == parse_api({"steps": 20, "bits": 4, "noise": 0.02, "jpeg": 75}) == Api(20, 4, 0.02, 75)
    assert parse_api("steps=20").to_json() == {"steps": 20, "bits": 8, "noise": 0.0, "jpeg": None}
    assert api_words(Api().to_json()) == "all steps, 8-bit pictures"
    assert api_words(Api(20, 4, 0.02, 75).to_json()) == "20 steps, 4-bit pictures with noise of sd 0.02, as JPEG of quality 75"
    for text, said in (
        ("depth=3", "no key 'depth'. Expected steps, bits, noise, jpeg"),
        ("batch=8", "batch is not simulated"),
        ("steps", "holds 'steps'. Expected KEY=VALUE"),
        ("bits=8,bits=4", "each key once"),
        ("bits=9", "bits is 9. Expected a whole number from 1 to 8"),
        ("steps=1", "steps is 1"),
        ("steps=few", "steps is few"),
        ("noise=loud", "noise is loud"),
        ("noise=nan", "noise is nan"),
        ("noise=-1", "noise is -1"),
        ("jpeg=0", "jpeg is 0"),
        ("", "holds ''"),
        ([1], "Expected KEY=VALUE"),
        ({"bits": None}, "bits is None"),
        ({"steps": True}, "steps is True"),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            parse_api(text)
        assert "\n" not in str(caught.value)

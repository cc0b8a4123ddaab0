"""Class labels, captions and latents through the engine: what belongs to an image goes with it into every batch, timestep and draw."""

import numpy as np
import pytest
import torch

from audit import latents
from audit.api import Api
from audit.engine import MeasurePlan, check_precision, default_batch_size, find_batch_size, measure_block, price
from audit.errors import RequestError
from audit.probes import PROBES, measure
from audit.probes.api_view import ApiView
from audit.probes.pfami import closer
from audit.sources import require_comparable
from models.selftest import self_test
from tests.engine.common import Captioned, Labelled, Pooled, denoiser, images, other

CPU = torch.device("cpu")
LABELS = np.array([0, 4, 2, 2, 1])
CONDITIONED = [name for name in PROBES if name != "gray_free"]


def by_hand(model, label, x0, **settings):
    """The same numbers from a model without classes that always answers as for one label."""
    fixed = denoiser()
    fixed.run_network = lambda xt, t, cond: Labelled.run_network(fixed, xt, t, torch.full((len(xt),), label))
    return measure(fixed, x0, **settings)


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_label_goes_with_its_image(name):
    model, x0, settings = other(Labelled), images(5), {"timesteps": [0, 3, 9], "probe": name, "draws": 2, "seed": 3}
    got = measure(model, x0, cond=LABELS, batch_size=3, **settings)
    turned = measure(model, x0.flip(0), cond=LABELS[::-1].copy(), batch_size=7, **settings)
    for table, values in got.items():
        np.testing.assert_allclose(values, turned[table][::-1], rtol=1e-5, atol=1e-6)
        for i, label in enumerate(LABELS):
            if name != "untrained":  # whose weights are drawn anew
                np.testing.assert_allclose(values[i], by_hand(model, label, x0[i : i + 1], **settings)[table][0], rtol=1e-5, atol=1e-6)
        changed = measure(model, x0, cond=np.where(np.arange(5) == 1, 3, LABELS), **settings)[table]
        assert not np.allclose(changed[1], values[1], rtol=1e-3) and np.allclose(np.delete(changed, 1, 0), np.delete(values, 1, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_caption_goes_with_its_image_and_none_is_the_empty_prompt(name):
    model, x0, settings = other(Captioned), images(3), {"timesteps": [0, 3, 9], "probe": name}
    said = model.embed(["", "a cat", "two cats on a mat"])
    got, empty = measure(model, x0, cond=said, batch_size=2, **settings), measure(model, x0, **settings)
    for table in got:
        np.testing.assert_allclose(got[table][0], empty[table][0], rtol=1e-5, atol=1e-6)
        assert not np.allclose(got[table][1:], empty[table][1:], rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "cond", "words"),
    [
        (Labelled, None, "The model has 5 classes and needs a label for every image"),
        (Labelled, [0, 1, 5], "run from 0 to 5. Expected 0 to 4"),
        (Labelled, [0, 1, -1], "run from -1 to 1. Expected 0 to 4"),
        (Labelled, [0, 1], "one whole number for each of 3 images"),
        (Labelled, [0.0, 1.0, 2.0], "one whole number"),
        (Labelled, [True, False, True], "one whole number"),
        (Captioned, [0, 1, 2], "finite embeddings"),
        (Captioned, np.full((3, 3, 4), np.nan, np.float32), "finite embeddings"),
        (Captioned, np.zeros((2, 3, 4), np.float32), "finite embeddings"),
        (None, [0, 1, 2], "this model is unconditional"),
    ],
)
def test_what_does_not_fit_is_one_error(kind, cond, words):
    model = denoiser() if kind is None else other(kind)
    for call in (lambda: measure(model, images(3), [1], cond=cond), lambda: measure_block(model, images(3), MeasurePlan((1,)), cond=cond)):
        with pytest.raises(RequestError, match=words):
            call()


def test_free_generations_are_refused_where_each_class_or_caption_needs_its_own():
    for model, cond in ((other(Labelled), LABELS), (other(Captioned), other(Captioned).embed("abcde"))):
        with pytest.raises(RequestError, match="generates for each class label or caption anew"):
            measure(model, images(5), [0], probe="gray_free", cond=cond)
    assert np.isfinite(measure(other(Captioned), images(5), [0], probe="gray_free")["gray_free_mse"]).all()  # the empty prompt is one for all


def test_speed_precision_and_self_test_are_asked_with_labels_too():
    model, plan = other(Labelled), MeasurePlan((1, 9), batch_size=4)
    assert find_batch_size(model, plan, CPU, budget_s=0.01) >= 1 and price(model, images(5), plan, CPU).seconds_per_call > 0
    assert price(model, images(5), plan, CPU, LABELS).batch_size == 4
    with pytest.raises(RequestError, match="Expected 0 to 4"):
        price(model, images(5), plan, CPU, LABELS + 1)
    seen = []
    model.run_network = lambda xt, t, cond: seen.append(cond) or Labelled.run_network(model, xt, t, cond)
    check_precision(model, images(5), MeasurePlan((1,), precision="tf32", batch_size=5), LABELS)
    self_test(model, images(5), cond=LABELS)
    assert seen and all(torch.equal(cond, torch.as_tensor(LABELS)) for cond in seen)


def test_an_api_is_asked_with_labels_too():
    view = ApiView(other(Labelled), Api())
    assert view.classes == 5
    a, b = (measure(view, images(5), [3], cond=cond)["x0_mse"] for cond in (LABELS, LABELS[::-1].copy()))
    assert not np.allclose(a, b)


def test_a_picture_is_encoded_and_the_crop_is_one_of_the_picture():
    model, pictures = other(Pooled), images(3, (2, 8, 12))
    x0 = latents.encoded(model, pictures)
    assert torch.equal(x0, model.encode(pictures)) and latents.shape_of(model) == (2, 4, 6) and torch.equal(latents.decoded(model, x0), model.decode(x0).clamp(-1, 1))
    plan = MeasurePlan((2, 5), probes=("noised", "pfami", "sima"))
    got = measure_block(model, x0, plan, second={"pfami": latents.encoded(model, closer(pictures))})
    crop = measure_block(model, model.encode(closer(pictures)), MeasurePlan((2, 5), probes=("pfami",)))
    np.testing.assert_allclose(got["pfami_crop_mse"], crop["pfami_mse"], rtol=1e-6)
    assert not np.allclose(got["pfami_crop_mse"], got["pfami_mse"], rtol=1e-3)
    guessed = measure_block(model, x0, plan)["pfami_crop_mse"]  # without pictures: of those that the latents decode to
    expected = measure_block(model, model.encode(closer(model.decode(x0).clamp(-1, 1))), MeasurePlan((2, 5), probes=("pfami",)))["pfami_mse"]
    np.testing.assert_allclose(guessed, expected, rtol=1e-6)
    first = measure_block(model, x0, MeasurePlan((0, 2)))
    assert np.isnan(first["vlb_bits"][..., 0]).all() and np.isfinite(first["vlb_bits"][..., 1]).all() and np.isnan(first["x0_8bit_mse"]).all()


def test_latents_are_never_clamped():
    model = other(Pooled)
    x0 = 5 * latents.encoded(model, images(3, (2, 8, 12)))
    free, clipped = measure(model, x0, [4]), measure(model, x0, [4], clip=True)
    assert (clipped["x0_mse"] != free["x0_mse"]).all()
    t, eps = torch.full((3,), 4), torch.zeros_like(x0)
    bare = measure(model, x0, [4], noise=eps[None, None])["x0_mse"][:, 0]
    xt = np.sqrt(model.schedule.alphas_cumprod[4]).astype(np.float32) * x0
    np.testing.assert_allclose(bare, (model.predict(xt, t).x0_hat - x0).square().mean(dim=(1, 2, 3)), rtol=1e-5)


def test_a_few_pictures_are_encoded_at_once(monkeypatch):
    model, sizes = other(Pooled), []
    model.encode = lambda pictures: sizes.append(len(pictures)) or Pooled.encode(model, pictures)
    monkeypatch.setattr(latents, "ENCODED_AT_ONCE", 2 * 8 * 12)
    assert torch.equal(latents.encoded(model, images(5, (2, 8, 12))), Pooled.encode(model, images(5, (2, 8, 12)))) and sizes == [2, 2, 1]
    assert default_batch_size(model, MeasurePlan((1,)), CPU) == 128


def test_a_reference_is_asked_the_same_and_lives_in_the_same_latent_space():
    def another(kind=None, **changes):
        model = denoiser(**changes) if kind is None else other(kind, **changes)
        object.__setattr__(model.info, "sha256", "1" * 64)
        return model

    fewer, coarser = another(Labelled), another(Pooled)
    fewer.classes, coarser.encode = 4, lambda pictures: torch.nn.functional.avg_pool2d(pictures, 4)
    for mine, reference, words in (
        (other(Labelled), fewer, "1 of 4 classes, the checkpoint 1 of 5 classes"),
        (other(Labelled), another(), "beside the picture that are none"),
        (other(Captioned), another(Labelled), "the checkpoint a caption"),
        (other(Pooled), coarser, r"latents of \(C,H,W\) = \(2, 2, 3\)"),
    ):
        with pytest.raises(RequestError, match=words):
            require_comparable(mine, reference)
    for kind in (Labelled, Captioned, Pooled):
        require_comparable(other(kind), another(kind))

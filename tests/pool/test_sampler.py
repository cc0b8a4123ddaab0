"""The samplers beside diffusers' own on the bundled checkpoint, and what a sample may depend on."""

import numpy as np
import pytest
import torch

from audit.demo import FOLDER
from audit.engine import Stopped
from audit.pool.sampler import START, ancestral, calls_per_sample, ddim, draw, noise_of, path_of
from models import open_checkpoint
from models.base import Prediction
from models.errors import CheckpointError
from models.toy import Gaussian, Memoriser, small_schedule
from tests.attacks.toys import gaussian, pictures


@pytest.fixture(scope="module")
def bundled():
    torch.set_num_threads(1)
    return open_checkpoint(str(FOLDER / "leaky"))


def test_ddim_is_diffusers_pipeline_from_the_same_noise(bundled):
    """Differences: float64 coefficients here, float32 there."""
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline.from_pretrained(str(FOLDER / "leaky"), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=2, num_inference_steps=20, eta=0.0, generator=torch.Generator().manual_seed(3), output_type="np").images
    start = torch.randn((2, *bundled.image_shape), generator=torch.Generator().manual_seed(3))
    path = [int(t) for t in pipeline.scheduler.timesteps]
    assert path == list(range(950, -1, -50))
    with torch.inference_mode():
        ours = ddim(bundled, start, path)
    np.testing.assert_allclose((ours.permute(0, 2, 3, 1).numpy() + 1) / 2, theirs, atol=1e-4)


def test_ancestral_steps_are_diffusers_ddpm_steps(bundled):
    from diffusers import DDPMScheduler

    scheduler, noise = DDPMScheduler.from_pretrained(str(FOLDER / "leaky"), subfolder="scheduler"), {}
    start = xt = torch.randn((2, *bundled.image_shape), generator=torch.Generator().manual_seed(4))
    path = list(range(30, -1, -1))
    with torch.inference_mode():
        for t in path:
            generator = torch.Generator().manual_seed(t)
            noise[t] = torch.randn(xt.shape, generator=torch.Generator().manual_seed(t))
            xt = scheduler.step(bundled.network(xt, torch.tensor([t, t])).sample, t, xt, generator=generator).prev_sample
        ours = ancestral(bundled, start, path, None, noise.__getitem__)
    torch.testing.assert_close(ours, xt, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_sample_follows_from_seed_and_index_alone(sampler):
    model = gaussian()
    whole = draw(model, range(6), sampler, 10, seed=2)
    assert whole.shape == (6, 8, 8, 1) and whole.dtype == np.uint8 and len(np.unique(whole)) > 50
    assert np.array_equal(np.concatenate([draw(model, part, sampler, 10, seed=2) for part in (range(2), range(2, 6))]), whole)
    assert not np.array_equal(draw(model, range(6), sampler, 10, seed=3), whole)
    assert not torch.equal(noise_of(2, 0, START, (1, 8, 8)), noise_of(2, 1, START, (1, 8, 8)))


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_samples_have_the_spread_of_the_data_and_a_memorisers_are_its_pictures(sampler):
    samples = draw(Gaussian(0.04, small_schedule(200, 0.9999, 1e-4), (1, 8, 8)), range(64), sampler, 200) / 127.5 - 1
    assert abs(samples.mean()) < 0.02 and samples.std() == pytest.approx(0.2, rel=0.05)
    known = pictures(5)
    drawn = draw(Memoriser(known, small_schedule(50)), range(20), sampler, 50)
    levels = ((known.double() + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert all((np.abs(levels - sample).max(axis=(1, 2, 3)) <= 2).any() for sample in drawn.astype(float))


def test_the_path_leaves_out_what_cannot_be_measured_and_labels_reach_the_network():
    model, asked = gaussian(), []
    model.measurable = np.arange(100) < 90
    assert path_of(model, "ddim", 12)[0] == 81 and path_of(model, "ancestral", 0) == list(range(89, -1, -1)) and calls_per_sample(model, "ancestral", 0) == 90
    predict = model.predict
    model.predict = lambda xt, t, cond=None: asked.append(cond.tolist()) or predict(xt, t)
    draw(model, range(3), "ddim", 2, cond=np.array([0, 1, 2]))
    assert asked and all(labels == [0, 1, 2] for labels in asked)


def test_nan_is_one_error_that_names_the_step_and_a_stop_is_heard():
    model = gaussian()
    predict = model.predict

    def broken(xt, t, cond=None):
        made = predict(xt, t)
        return made if int(t[0]) > 40 else Prediction(made.eps_hat, made.x0_hat * torch.nan, None)

    model.predict = broken
    with pytest.raises(CheckpointError, match=r"The sampler met NaN or infinity at t = 33 in 4 of 4 samples"):
        draw(model, range(4), "ddim", 4)
    with pytest.raises(Stopped):
        draw(gaussian(), range(4), "ddim", 4, should_stop=lambda: True)

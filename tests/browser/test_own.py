"""An owner's way: a colour checkpoint and images of another size than the demo's, from the inbox to the verdict; the images hold what real folders hold."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from audit.jobs.store import Store
from models.pixels import to_model_range
from tests import browser
from tests.models import tiny

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "-")]

SIDE, EACH, STEPS = 16, 60, 300


def colour_pictures(count):
    """uint8 (N,16,16,3): soft coloured slopes."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    ends = rng.uniform(0, 255, (3, count, 1, 1, 3))
    mixed = ends[0] * x[None, ..., None] + ends[1] * (1 - x)[None, ..., None] * y[None, ..., None] + ends[2] * ((1 - x) * (1 - y))[None, ..., None]
    return np.round(mixed).astype(np.uint8)


def trained(folder, images):
    """A DDPM of three channels with v_prediction and a cosine schedule."""
    import diffusers

    config = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    network, scheduler = tiny.network(sample_size=SIDE, in_channels=3, out_channels=3), diffusers.DDPMScheduler(**config)
    x0, generator = torch.from_numpy(to_model_range(images)), torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(network.train().parameters(), lr=4e-3)
    for _ in range(STEPS):
        batch = x0[torch.randint(len(x0), (32,), generator=generator)]
        noise, t = torch.randn(batch.shape, generator=generator), torch.randint(100, (32,), generator=generator)
        loss = (network(scheduler.add_noise(batch, noise, t), t).sample - scheduler.get_velocity(batch, noise, t)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tiny.save(folder, scheduler_config=config, unet=network.eval())


def choose(page, key, name):
    """Pick an entry of the inbox."""
    page.locator(f".st-key-new_inbox_{key} input").click()
    page.get_by_role("option", name=name, exact=True).click()
    browser.settled(page)


def test_own_checkpoint_to_verdict(tmp_path):
    home, inbox = tmp_path / "home", tmp_path / "inbox"
    images = colour_pictures(2 * EACH)
    trained(inbox / "slopes", images[:EACH])
    for name, part in (("photos-in", images[:EACH]), ("photos-out", images[EACH:])):
        (inbox / name / "deeper").mkdir(parents=True)
        for i, pixels in enumerate(part):
            Image.fromarray(pixels).resize((40, 24)).save(inbox / name / "deeper" / f"{i}.png")
    (inbox / "photos-in" / "broken.png").write_bytes(b"no picture")
    with browser.served(home, tmp_path / "app.log", AUDIT_IDLE_EXIT="30", AUDIT_INBOX=str(inbox)) as url, browser.browser() as chromium:
        page = chromium.new_page(viewport={"width": 1440, "height": 1100})
        page.set_default_timeout(90_000)
        complaints = browser.complaints(page)
        page.goto(f"{url}/new")
        choose(page, "checkpoint", "slopes/")
        page.get_by_text("3 × 16 × 16").first.wait_for(state="attached")  # a table is drawn on a canvas, with its cells hidden beside it
        page.get_by_role("button", name="Next: images").click()
        choose(page, "members", "photos-in/")
        choose(page, "nonmembers", "photos-out/")
        page.get_by_text("1 not a PNG, JPEG, WebP or BMP image").first.wait_for()
        page.locator("button:enabled", has_text="Next: attacks and price").click()
        page.get_by_role("radio", name="Quick").click()
        page.locator("button:enabled", has_text="Start audit").click()
        page.get_by_role("heading", name="Finished", exact=True).wait_for()
        job = Store(home).list()[0]
        with open(f"{job.folder}/report.json", encoding="utf-8") as handle:
            report = json.load(handle)
        assert (report["checkpoint"]["image_shape"], report["checkpoint"]["prediction_type"]) == ([3, SIDE, SIDE], "v_prediction")
        assert report["queries"]["split"] == "cross-fitted" and "broken.png" in [x["path"] for x in report["queries"]["left_out"]]
        page.goto(f"{url}/?run={job.id}")
        auc = next(a["auc"]["value"] for a in report["attacks"] if a["name"] == report["verdict"]["headline_attack"])
        page.get_by_text(f"{auc:.3f}").first.wait_for(state="attached")
        for path in ("roc", "trajectories", "truncation", "images", "report"):
            page.goto(f"{url}/{path}?run={job.id}")
            page.get_by_role("heading", level=1).first.wait_for()
            browser.settled(page)
            assert not page.get_by_text("Traceback").count()
        assert complaints == []

"""Each format from the inbox to a finished audit, as the page leads: what a file does not say is said beside it or in the form."""

import json
import shutil

import pytest
import yaml

from audit.jobs.store import Store
from tests import browser
from tests.browser.test_own import choose
from tests.jobs import pair, trained
from tests.models import tiny

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "-")]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory):
    root = tmp_path_factory.mktemp("inbox")
    pair.make_pair(root)
    trained.save_openai(root / "model000400.pt").with_suffix(".yaml").write_text(yaml.safe_dump(trained.OPENAI))
    trained.save_pytorch_ddpm(root / "ckpt.pt")
    trained.save_latent_pipeline(root / "latent", tiny.save_latent)
    trained.save_latent_pipeline(root / "sd", tiny.save_stable_diffusion)
    bare = root / "bare"
    shutil.copytree(root / "tiny-ddpm" / "unet", bare)
    shutil.copy(root / "tiny-ddpm" / "scheduler" / "scheduler_config.json", bare)
    return root


def fill_recipe(page):
    """What a ckpt.pt of pytorch-ddpm does not say."""
    form = page.locator(".st-key-new_loader")
    form.get_by_label("recipe", exact=True).click()
    page.get_by_role("option", name="pytorch-ddpm", exact=True).click()
    browser.settled(page)
    form.get_by_label("image_size", exact=True).fill("8")
    form.get_by_label("image_size", exact=True).press("Enter")
    browser.settled(page)


@pytest.mark.parametrize(
    ("name", "architecture", "fill"),
    [
        ("bare/", "UNet2DModel", None),
        ("model000400.pt", "OpenAI UNet", None),
        ("ckpt.pt", "pytorch-ddpm", fill_recipe),
        ("latent/", "UNet2DModel", None),
        ("sd/", "UNet2DConditionModel", None),
    ],
)
def test_a_format_from_the_inbox_to_the_report(inbox, tmp_path, name, architecture, fill):
    home = tmp_path / "home"
    with browser.served(home, tmp_path / "app.log", AUDIT_IDLE_EXIT="30", AUDIT_INBOX=str(inbox)) as url, browser.browser() as chromium:
        page = chromium.new_page(viewport={"width": 1440, "height": 1100})
        page.set_default_timeout(90_000)
        complaints = browser.complaints(page)
        page.goto(f"{url}/new")
        choose(page, "checkpoint", name)
        if fill:
            fill(page)
        page.locator("button:enabled", has_text="Next: images").click()
        choose(page, "members", "members/")
        choose(page, "nonmembers", "nonmembers/")
        page.locator("button:enabled", has_text="Next: attacks and price").click()
        page.get_by_role("radio", name="Quick").click()
        page.locator("button:enabled", has_text="Start audit").click()
        page.get_by_role("heading", name="Finished", exact=True).wait_for()
        (job,) = Store(home).list()
        assert (job.state, job.error) == ("done", "")
        with open(f"{job.folder}/report.json", encoding="utf-8") as handle:
            report = json.load(handle)
        assert architecture in report["checkpoint"]["architecture"] and len([a for a in report["attacks"] if a["status"] == "done"]) >= 4
        page.goto(f"{url}/?run={job.id}")
        page.get_by_role("heading", name="You may not say").wait_for()
        assert complaints == []

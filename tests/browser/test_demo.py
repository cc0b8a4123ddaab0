"""A first visitor's way: run the demo, look at the evidence, download the report."""

import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from audit.jobs.store import Store
from tests import browser

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "-")]

PATIENCE_S = 600


def headline_auc(report):
    """The AUC that the verdict rests on."""
    return next(a["auc"]["value"] for a in report["attacks"] if a["name"] == report["verdict"]["headline_attack"])


def go(page, title):
    """Through the menu."""
    page.get_by_test_id("stSidebar").get_by_text(title, exact=True).click()
    page.get_by_role("heading", name=title, exact=True, level=1).wait_for()


def wait_for_jobs(page, home):
    """Both demo audits, done; the page goes on drawing meanwhile."""
    store, until = Store(home), time.monotonic() + PATIENCE_S
    while any(job.active for job in store.list()) and time.monotonic() < until:
        page.wait_for_timeout(1000)
    jobs = store.list()
    assert sorted((job.name, job.state) for job in jobs) == [("leaky-fmnist", "done"), ("twin-fmnist", "done")], [(j.name, j.state, j.phase, j.error) for j in jobs]
    return {job.id: job for job in jobs}


def test_first_visit_to_report(tmp_path):
    home = tmp_path / "home"
    with browser.served(home, tmp_path / "app.log", AUDIT_IDLE_EXIT="30") as url, browser.browser() as chromium:
        page = chromium.new_page(viewport={"width": 1440, "height": 900}, accept_downloads=True)
        page.set_default_timeout(60_000)
        complaints = browser.complaints(page)

        page.goto(url)
        page.get_by_role("button", name="Run the demo").click()
        page.get_by_role("heading", name="Runs", exact=True, level=1).wait_for()
        page.get_by_test_id("stProgress").first.wait_for()
        jobs = wait_for_jobs(page, home)
        page.get_by_role("heading", name="Finished", exact=True).wait_for()

        go(page, "ROC")
        page.locator(".js-plotly-plot .main-svg").first.wait_for()

        go(page, "Truncation")
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        browser.settled(page)
        word = page.get_by_text("exploratory")
        assert word.count() == 0, "the slider does not start at the calibrated choice"
        page.get_by_role("slider").first.press("ArrowRight")
        word.first.wait_for()

        go(page, "Report")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Report, JSON").click()
        downloaded = json.loads(waiting.value.path().read_text(encoding="utf-8"))
        shown = jobs[parse_qs(urlsplit(page.url).query)["run"][0]]
        with open(f"{shown.folder}/report.json", encoding="utf-8") as handle:
            written = json.load(handle)
        assert headline_auc(downloaded) == headline_auc(written)
        browser.settled(page)
        assert complaints == []

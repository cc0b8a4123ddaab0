"""Pictures for the README: python docs/screenshots.py --home DIR --out docs/screenshots

DIR is an AUDIT_HOME with both demo audits finished (`python -m audit demo`). Needs Debian's chromium and playwright.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audit.demo import NAMES
from audit.jobs.store import Store
from tests import browser

PICTURES = (  # file, page, which run, colours, has charts
    ("verdict-leaky-light", "", "leaky", "light", True),
    ("verdict-twin-dark", "", "twin", "dark", True),
    ("roc-light", "roc", "leaky", "light", True),
    ("trajectories-light", "trajectories", "leaky", "light", True),
    ("truncation-dark", "truncation", "leaky", "dark", True),
    ("runs-light", "runs", "leaky", "light", False),
)
SIZE = {"width": 1440, "height": 900}


def demo_ids(home):
    """{"leaky": id, "twin": id} of the newest finished ones."""
    done = [job for job in Store(home).list() if job.state == "done"]
    ids = {which: max((job for job in done if job.name == name), key=lambda job: job.finished, default=None) for which, name in NAMES.items()}
    lacking = [NAMES[which] for which, job in ids.items() if job is None]
    if lacking:
        raise SystemExit(f"{home} has no finished {' and no finished '.join(lacking)}. Run `AUDIT_HOME={home} python -m audit demo` first.")
    return {which: job.id for which, job in ids.items()}


def picture(chromium, url, file, colours, charts):
    """One page in one colour scheme, saved once all is drawn."""
    context = chromium.new_context(viewport=SIZE, color_scheme=colours, locale="en-GB")
    try:
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(url)
        page.get_by_role("heading", level=1).first.wait_for()
        if charts:
            page.locator(".js-plotly-plot .main-svg").first.wait_for()
        browser.settled(page)
        page.evaluate("document.fonts.ready.then(() => true)")
        page.wait_for_timeout(1500)  # charts redraw once when their width is known
        page.screenshot(path=str(file))
    finally:
        context.close()


def main():
    """Read the options, start the app, take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="AUDIT_HOME with both demo audits finished")
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"), help="folder for the PNG files")
    args = parser.parse_args()
    if why := browser.missing():
        raise SystemExit(why)
    home, out = args.home.resolve(), args.out.resolve()
    ids = demo_ids(home)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser.served(home, Path(folder) / "app.log") as url, browser.browser() as chromium:
        for name, stem, which, colours, charts in PICTURES:
            picture(chromium, f"{url}/{stem}?run={ids[which]}", out / f"{name}.png", colours, charts)
            print(out / f"{name}.png")


if __name__ == "__main__":
    main()

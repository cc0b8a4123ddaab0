"""The dashboard's first page and its memory, in a real browser on two synthetic runs.

    python tests/benchmarks/bench_dashboard.py

Targets: first page under 3 s after the start of the server; under 200 MB without torch after every evidence page.
"""

import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests import browser
from tests.synthetic import synthetic_run

PAGES = ("", "roc", "trajectories", "truncation", "images", "samples", "attacks", "report", "runs", "new")


def server_of(port):
    """The process that listens on the port."""
    pid = next(c.pid for c in psutil.net_connections("inet") if c.laddr.port == port and c.status == psutil.CONN_LISTEN)
    return psutil.Process(pid)


def main():
    """Print the figures. Returns 0, or 1 when torch was loaded."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        for name in ("high", "quiet"):
            synthetic_run(home / "runs" / name, name=name, leak=4.0 if name == "high" else 0.0)
        home.chmod(0o700)
        with browser.browser() as chromium:
            began = time.monotonic()
            with browser.served(home, Path(folder) / "log") as address:
                page = chromium.new_page(viewport={"width": 1440, "height": 900})
                page.goto(address)
                page.get_by_role("heading", level=1).first.wait_for()
                print(f"first page: {time.monotonic() - began:.1f} s after the server's start (target 3)")
                process = server_of(int(address.rpartition(":")[2]))
                for name in PAGES:
                    page.goto(f"{address}/{name}")
                    page.get_by_role("heading", level=1).first.wait_for()
                    page.wait_for_timeout(2500)
                    memory = process.memory_full_info()
                    print(f"/{name}: resident {memory.rss / 1e6:.0f} MB, of it its own {memory.uss / 1e6:.0f} MB (target 200)")
                torch = any("libtorch" in m.path for m in process.memory_maps())
                print("torch is loaded" if torch else "torch is not loaded")
    return int(torch)


if __name__ == "__main__":
    sys.exit(main())

"""The real app in a real browser: Debian's chromium, driven by playwright. docs/screenshots.py uses the same helpers."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PROBED = ("/_stcore/health", "/_stcore/host-config")  # Streamlit looks for its base path below deep links, and logs a 404 for each


def missing():
    """Why no browser can be started here, or ""."""
    if not CHROMIUM.exists():
        return f"{CHROMIUM} is not there: apt-get install chromium"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install -r requirements-dev.txt"
    return ""


@contextlib.contextmanager
def served(home, log, **variables):
    """The address of an app of its own on AUDIT_HOME=home. At the end the server ends, and the worker of that home when it began after the server.

    Args: home, log: Path; variables: more environment, as in AUDIT_IDLE_EXIT="30".
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_", "STREAMLIT_"))} | {"AUDIT_HOME": str(home)} | variables
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.address", "127.0.0.1", "--server.headless", "true"]
    began = time.time()
    with open(log, "wb") as out:
        server = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        _wait_for(server, f"http://127.0.0.1:{port}/_stcore/health", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        family = _family(server.pid)
        worker = _worker(home, began)
        end(family + ([worker, *_children(worker)] if worker else []))
        server.wait(timeout=10)


def _wait_for(server, url, log, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"The app did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _family(pid):
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return []
    return [process, *_children(process)]


def _children(process):
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _worker(home, began):
    """The worker of this home, by the pid that it wrote; None when it has ended or is older than the server."""
    try:
        process = psutil.Process(json.loads((home / "worker.json").read_text(encoding="utf-8"))["pid"])
        ours = process.environ().get("AUDIT_HOME") == str(home) and process.create_time() >= began - 1
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return process if ours else None


def end(processes):
    """Terminate, wait, and kill what is left."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=10)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def browser():
    """A headless chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


def complaints(page):
    """A list that fills with the console errors and uncaught exceptions of a page."""
    found = []

    def console(message):
        if message.type == "error" and not ("404" in message.text and message.location["url"].split("?")[0].endswith(PROBED)):
            found.append(f"{message.text} ({message.location['url']})")

    page.on("console", console)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def settled(page):
    """Wait until the script has run and nothing is drawn as a placeholder."""
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for(timeout=60_000)
    page.wait_for_function("document.querySelectorAll('[data-testid=stSkeleton]').length === 0", timeout=60_000)

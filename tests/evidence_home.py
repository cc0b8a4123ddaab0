"""An AUDIT_HOME with two synthetic runs, and evidence pages opened in it; for the page tests and the figure tests."""

import json
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.synthetic import synthetic_run

APP = Path(__file__).resolve().parents[1] / "app.py"


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory):
    """Folder with the runs `clear` (450 + 450, four draws, leak) and `few` (64 + 64)."""
    folder = tmp_path_factory.mktemp("runs")
    synthetic_run(folder / "clear", draws=4, leak=3.0, name="clear")
    synthetic_run(folder / "few", members=64, nonmembers=64, leak=0.7, seed=5, name="few")
    return folder


@pytest.fixture
def home(run_folders, tmp_path, monkeypatch):
    """AUDIT_HOME with both runs, put there by hand."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(run_folders, home / "runs")
    monkeypatch.setenv("AUDIT_HOME", str(home))
    for name in ("AUDIT_INBOX", "AUDIT_SCHEDULER"):
        monkeypatch.delenv(name, raising=False)
    return home


def open_page(page, **query):
    """The page as a visitor sees it who follows a link with this query; a list is a repeated parameter."""
    at = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    at.switch_page(f"pages/{page}.py")
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception, [e.message for e in at.exception]
    return at


def specs(at):
    """The drawn figures, as dicts."""
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def trace(spec, name):
    """The one trace with that name."""
    found = [t for t in spec["data"] if t.get("name") == name]
    assert len(found) == 1, [t.get("name") for t in spec["data"]]
    return found[0]


def badges(at):
    """The words of all `exploratory` and `held out` badges, in the order of the page."""
    return [word for m in at.markdown for word in ("exploratory", "held out") if "-badge[" in m.value and word in m.value]


def control(at, label, kind):
    """The one widget of a kind with that label."""
    found = [w for w in getattr(at, kind) if w.label == label]
    assert len(found) == 1, [w.label for w in getattr(at, kind)]
    return found[0]

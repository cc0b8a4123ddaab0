"""The arrows of the design: app, pages -> audit -> models; streamlit only on top; no torch behind a page."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIGHT = ["audit", "audit.config", "audit.request", "audit.presets", "audit.tables", "audit.format", "audit.glossary", "audit.attacks", "audit.analysis", "audit.sweep"]
LIGHT += ["audit.measured", "audit.planner", "audit.provenance", "audit.gate"]
LIGHT += ["audit.jobs.store", "audit.jobs.launch", "audit.jobs.submit", "audit.report.build", "audit.report.run", "audit.report.words", "audit.report.figures", "audit.report.html"]
LIGHT += ["audit.demo", "audit.report.export", "audit.stats", "models"]


def imported(path):
    """Top-level names of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def sources(*folders):
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("models"), ids=lambda p: str(p.relative_to(ROOT)))
def test_models_know_nothing_of_audit_or_pages(path):
    assert not {n.split(".")[0] for n in imported(path)} & {"audit", "pages", "app", "streamlit"}


@pytest.mark.parametrize("path", sources("audit"), ids=lambda p: str(p.relative_to(ROOT)))
def test_audit_knows_nothing_of_pages_or_streamlit(path):
    assert not {n.split(".")[0] for n in imported(path)} & {"pages", "app", "streamlit"}


@pytest.mark.parametrize("path", [*sources("pages"), ROOT / "app.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_import_neither_torch_nor_models(path):
    assert not {n.split(".")[0] for n in imported(path)} & {"torch", "diffusers", "models"}


@pytest.mark.parametrize("path", sorted((ROOT / "pages").glob("*.py")), ids=lambda p: p.name)
def test_every_file_in_pages_is_a_page_that_begins_with_the_guard(path):
    body = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if not isinstance(n, ast.Expr) or not isinstance(n.value, ast.Constant)]
    calls = [n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    first = calls[0].value.func
    assert getattr(first, "id", getattr(first, "attr", "")) == "guard"


def test_nothing_behind_a_page_loads_torch_even_indirectly():
    code = f"import sys\nfor m in {LIGHT!r}:\n __import__(m)\nheavy = {{'torch', 'diffusers', 'streamlit'}} & set(sys.modules)\nassert not heavy, heavy\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]

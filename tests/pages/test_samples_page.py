"""Page Samples: pairs stand as they were measured, a blurred page holds no sharp byte, and every page lives with a run that has no checkpoint."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from audit import format as fmt
from audit.report import pictures
from audit.report.run import open_run
from tests.evidence_home import control, open_page
from tests.pages.test_images_page import pictures_of, pixels
from tests.synthetic import synthetic_run


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Folder with the runs `drawn` (a checkpoint and 50 of its samples) and `alone` (samples alone); nobody writes there."""
    folder = tmp_path_factory.mktemp("sampled")
    for name, given in (("drawn", {"attacks": ("loss_eps",)}), ("alone", {"checkpoint": False})):
        synthetic_run(folder / name, members=40, nonmembers=40, leak=3.0, name=name, pool=50, timesteps=5, **given)
    return folder


@pytest.fixture
def place(sampled, tmp_path, monkeypatch):
    """AUDIT_HOME with both."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copytree(sampled, home / "runs", ignore=shutil.ignore_patterns("tmp*"))
    monkeypatch.setenv("AUDIT_HOME", str(home))
    return home / "runs"


def text_of(at):
    return "\n".join(e.value for kind in ("markdown", "text", "caption", "header", "code") for e in getattr(at, kind))


def test_pairs_and_sheet_are_what_was_measured(place):
    at = open_page("samples", run="drawn")
    run = open_run(place / "drawn")
    distance, around = run.tables["nearest_pixels"].values[0], run.tables["neighbours_pixels"].values.mean(axis=0)
    order = np.argsort(distance / around, kind="stable")
    shown = [t.value for t in at.text if "of its neighbourhood" in t.value]
    assert shown == [f"{fmt.number(distance[i] / around[i], 2)} of its neighbourhood · distance {fmt.number(distance[i], 2)}" for i in order[:12]]
    kinds = [c.value for c in at.caption if c.value in ("● member", "○ non-member")]
    assert kinds == ["● member" if run.is_member[i] else "○ non-member" for i in order[:12]] and kinds[0] == "● member"
    assert f"50 samples, drawn by DDIM in 50 steps, seed 0, in {fmt.duration(61.0)}." in text_of(at)
    members = int(run.is_member[order[:60]].sum())
    assert f"Of the **60** query images closest to a sample, beside their own neighbourhood, **{members}** are members; {fmt.percent(0.5)} of all query images are." in text_of(at)
    assert "The first 50 of 50 samples, as they came; 1–36 shown." in text_of(at)
    assert len(pictures_of(at)) == 2 * 12 + 36
    assert len([w for w in at.get("page_link") if w.label == "Samples"]) == 1


def test_blur_is_on_by_default_and_sends_no_sharp_byte(place):
    at = open_page("samples", run="drawn")
    run = open_run(place / "drawn")
    sharp = {file.read_bytes() for folder in ("pool", "thumbnails") for file in (run.folder / folder).glob("*.png")}
    sent = pictures_of(at)
    assert not sharp & set(sent) and all(len(np.unique(pixels(png))) <= 16 for png in sent)
    control(at, "Blur thumbnails", "toggle").set_value(False).run()
    assert set(pictures_of(at)) <= sharp and not at.exception


def test_pages_of_pairs_and_of_samples_follow_the_address(place):
    found = pictures.samples(open_run(place / "drawn"))
    at = open_page("samples", run="drawn", pairs="2", sheet="2")
    shown = [t.value for t in at.text if "of its neighbourhood" in t.value]
    assert shown[0].startswith(fmt.number(found["pairs"][12]["relative"], 2)) and "37–50 shown" in text_of(at)


def test_damaged_evidence_is_said(place):
    (place / "drawn" / "pool" / "samples.json").write_text("{")
    assert "are not in the run folder" in text_of(open_page("samples", run="drawn"))
    (place / "alone" / "pool" / "samples.json").write_text(json.dumps({"shown": [10**7], "pairs": []}))
    at = open_page("samples", run="alone")
    assert "No attack of this run compared images with the samples." in text_of(at) and "no picture" in text_of(at)


def test_without_a_pool_the_page_names_the_flag(home):
    assert "This run has no samples." in text_of(open_page("samples", run="clear")) and "--pool 2000" in text_of(open_page("samples", run="clear"))


@pytest.mark.parametrize("page", ["verdict", "roc", "trajectories", "truncation", "images", "attacks", "report", "samples", "runs"])
def test_every_page_lives_without_a_checkpoint(page, place):
    at = open_page(page, run="alone")
    said = text_of(at)
    assert "None" not in said.replace("None of", "").replace("None told", ""), said
    if page == "verdict":
        assert "samples only" in said
    if page == "samples":
        assert "50 samples, given by the owner." in said


def test_a_surrogate_shows_its_own_samples_and_how_it_was_trained(place):
    at = open_page("samples", run="drawn")
    assert "Surrogate" not in [h.value for h in at.header]
    report = json.loads((place / "drawn" / "report.json").read_text())
    trained = {"architecture": "UNet2DModel", "parameters": 11_201, "steps_done": 1250, "kept_step": 1000, "training_seconds": 61.0}
    (place / "drawn" / "report.json").write_text(json.dumps(report | {"surrogate": trained}))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128), dtype=np.uint8)).save(place / "drawn" / "surrogate.png")
    at = open_page("samples", run="drawn")
    words = f"UNet2DModel, 11,201 parameters, trained for 1,250 steps in {fmt.duration(61.0)}, weights of step 1,000, which did best on held-out samples."
    assert words in text_of(at) and "Surrogate" in [h.value for h in at.header] and not at.exception
    sharp = (place / "drawn" / "surrogate.png").read_bytes()
    assert sharp not in pictures_of(at) and len(pictures_of(at)) == 2 * 12 + 36 + 1
    control(at, "Blur thumbnails", "toggle").set_value(False).run()
    assert sharp in pictures_of(at)

"""The control on request: the run's settings on the bundled leaky checkpoint."""

import json
import shutil

import pytest

from audit.analysis import analyse, compute
from audit.cli import main
from audit.errors import RunFolderError
from audit.known_leak import FILE, OWN_POOL, found_in, known_leak, request_like
from audit.measured import read_measured
from audit.report.build import build_report
from audit.report.words import verdict_words
from audit.request import Request
from tests.synthetic import synthetic_run

FOUND = {"run": "1", "checkpoint": "ab", "attack": "loss_eps", "auc": 0.9, "low": 0.87, "high": 0.92, "p_value": 2e-5}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quiet"
    synthetic_run(folder, name="quiet", leak=0.0, seed=3, thumbnails=False)
    return folder


@pytest.fixture
def run(quiet, tmp_path):
    return shutil.copytree(quiet, tmp_path / "run")


def test_the_request_has_the_runs_settings_and_the_demos_images():
    mine = Request("/mine", "/a", "/b", "mine", "thorough", ("loss_eps",), 7, 3, 11, "cpu", 5, "bf16", {"loss_eps": {"statistic": "max"}})
    made = request_like(mine)
    assert made.name == "control of mine" and made.checkpoint.endswith("leaky") and made.manifest.endswith("manifest.json")
    assert (made.preset, made.attacks, made.timesteps, made.draws, made.seed) == ("thorough", ("loss_eps",), 7, 3, 11)
    assert (made.device, made.batch_size, made.precision, made.settings) == ("cpu", 5, "bf16", {"loss_eps": {"statistic": "max"}})


def test_samples_are_drawn_from_the_demos_checkpoint_too():
    drawn = request_like(Request("/mine", "/a", "/b", "mine", pool=40, pool_steps=5))
    assert (drawn.pool, drawn.pool_steps) == (40, 5) and request_like(Request("/mine", "/a", "/b", "mine")).pool is None
    assert request_like(Request(None, "/a", "/b", "mine", pool="/samples")).pool == OWN_POOL  # somebody else's samples say nothing of the demo's network


def test_a_run_that_was_not_asked_has_three_controls_and_says_so(quiet):
    report = json.loads((quiet / "report.json").read_text())
    assert [c["name"] for c in report["controls"]] == ["shuffled_labels", "nonmembers_twice", "planted_leak"]
    assert any("python -m audit control DIR" in line for line in report["verdict"]["not_tested"])


def test_a_known_leak_that_is_found_is_a_fourth_control(run, quiet):
    before = json.loads((quiet / "report.json").read_text())
    (run / FILE).write_text(json.dumps(FOUND), encoding="utf-8")
    report = analyse(run)
    assert report["controls"][3] == {"name": "bundled_leaky", "auc": 0.9, "low": 0.87, "high": 0.92, "passed": True, "p_value": 2e-5}
    assert report["verdict"]["level"] == before["verdict"]["level"] == "not-detected" and report["attacks"] == before["attacks"]
    assert not any("control DIR" in line for line in report["verdict"]["not_tested"])
    assert "All 4 controls gave the known answer." in [c["text"] for c in report["verdict"]["claims"]["allowed"]]
    again = (run / "report.json").read_bytes()
    analyse(run)
    assert (run / "report.json").read_bytes() == again


@pytest.mark.parametrize("changes", [{"p_value": 0.06}, {"low": 0.49}, {"low": None, "high": None}])
def test_a_known_leak_that_is_missed_makes_the_audit_inconclusive(run, changes):
    (run / FILE).write_text(json.dumps(FOUND | changes), encoding="utf-8")
    report = build_report(compute(read_measured(run)))
    assert (report["verdict"]["level"], report["verdict"]["kind"]) == ("inconclusive", "control") and not report["controls"][3]["passed"]
    words = verdict_words(report)
    assert "the known leak of the bundled checkpoint was not found" in words.reason and words.next.startswith("measure more timesteps")


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(FOUND | {"auc": 2}), json.dumps(FOUND | {"auc": None}), json.dumps(FOUND | {"p_value": "x"})])
def test_a_damaged_file_is_one_line(run, text):
    (run / FILE).write_text(text)
    with pytest.raises(RunFolderError, match=r"known_leak\.json of run cannot be read\. Remove it"):
        known_leak(run)


def test_what_is_kept_is_the_headline_of_the_control(quiet):
    report = json.loads((quiet / "report.json").read_text())
    kept = found_in(report)
    row = next(a for a in report["attacks"] if a["name"] == kept["attack"])
    assert kept["attack"] == report["verdict"]["headline_attack"] and (kept["auc"], kept["low"], kept["high"]) == tuple(row["auc"][k] for k in ("value", "low", "high"))
    assert kept["p_value"] == report["permutation"]["p_value"]


def test_something_that_is_no_run_is_refused_before_anything_starts(tmp_path, capsys):
    assert main(["control", str(tmp_path)]) == 2
    assert "is not a finished run" in capsys.readouterr().err

"""The command line's streams and exit codes on bad input: one line on stderr, nothing run, exit 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from audit.attacks import ATTACKS
from audit.cli import _parser, main, request_from
from audit.errors import RequestError
from tests.synthetic import synthetic_run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def paths(tmp_path):
    for name in ("checkpoint", "members", "nonmembers"):
        (tmp_path / name).mkdir()
    return tmp_path


def run_flags(paths, *more):
    return ["run", *(part for n in ("checkpoint", "members", "nonmembers") for part in (f"--{n}", str(paths / n))), *more]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "--checkpoint is missing"),
        (["frobnicate"], "invalid choice"),
        (["run", "--checkpoint", "/nowhere/x", "--members", "a", "--nonmembers", "b"], "x was not found"),
        (["inspect", "/nowhere/model"], "model"),
        (["rescore", "/nowhere"], "request.json is missing"),
        (["report", "/nowhere", "--html", "x.html"], "not a finished run"),
        (["export", "/nowhere", "--tables", "x.npz"], "not a finished run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, words, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--timesteps", "0"], "at least 1"),
        (["--timesteps", "few"], "not a whole number"),
        (["--attacks", "loss_eps,magic"], "no attack 'magic'"),
        (["--preset", "huge"], "Expected one of quick"),
        (["--device", "tpu"], "Expected one of auto"),
        (["--precision", "fp8"], "Expected one of fp32"),
        (["--seed", "-1"], "--seed is -1"),
        (["--budget", "-1"], "--budget is -1"),
    ],
)
def test_bad_flags_of_run(paths, more, words, capsys):
    assert main(run_flags(paths, *more)) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_flag_wins_over_the_config_file(paths):
    file = paths / "audit.yaml"
    file.write_text(yaml.safe_dump({"preset": "quick", "seed": 5, "attacks": "loss_eps", "settings": {"loss_eps": {"statistic": "median"}}}))
    request, out = request_from(_parser().parse_args(run_flags(paths, "--config", str(file), "--seed", "6", "--out", str(paths / "out"))))
    assert (request.preset, request.seed, request.attacks, request.settings) == ("quick", 6, ("loss_eps",), {"loss_eps": {"statistic": "median"}})
    assert out == paths / "out" and request.name == "checkpoint"
    file.write_text(yaml.safe_dump({"pressure": "high"}))
    with pytest.raises(RequestError, match="pressure"):
        request_from(_parser().parse_args(run_flags(paths, "--config", str(file))))


def test_the_budget_follows_from_the_attacks_unless_it_is_given(paths):
    def asked(*more):
        request, _ = request_from(_parser().parse_args(run_flags(paths, *more)))
        return request.attacks, request.attack_budget

    assert asked() == ((), 1) and asked("--budget", "3") == ((), 3)
    assert asked("--attacks", "all") == (tuple(ATTACKS), 10) and asked("--attacks", "all", "--budget", "2") == (tuple(ATTACKS), 2)
    assert asked("--attacks", "dime") == (("dime",), None) and asked("--attacks", "dime", "--budget", "0") == (("dime",), 0)


def test_rescore_report_and_export_on_a_run(tmp_path, capsys):
    synthetic_run(tmp_path / "run", leak=4.0)
    assert main(["rescore", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run"), "--html", str(tmp_path / "r.html")]) == 0
    assert main(["export", str(tmp_path / "run"), "--tables", str(tmp_path / "t.npz")]) == 0
    out, err = capsys.readouterr()
    assert "High. This checkpoint gives its training images away." in out and err == ""
    assert (tmp_path / "r.html").stat().st_size > 100_000
    with np.load(tmp_path / "t.npz") as data:
        assert data["eps_mse"].shape == (900, 20)


def test_cards_as_json(capsys):
    assert main(["attacks", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == list(ATTACKS)


def test_version_and_help_work_as_a_module():
    done = subprocess.run([sys.executable, "-m", "audit", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("afterimage 0.") and done.stderr == ""

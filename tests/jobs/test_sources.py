"""Whole jobs that measure more than the bare checkpoint: beside a reference, through an API."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from audit import cli, cli_request
from audit.analysis import analyse
from audit.errors import RequestError
from audit.jobs import submit, tasks
from audit.jobs.store import Store
from audit.report import series
from audit.report.evidence import evidence
from audit.report.run import open_run
from audit.request import Request
from audit.stats.auc import auc
from tests.jobs.test_driver_inline import driver, fail_in, no_background_worker, run  # noqa: F401, the fixture acts by being here

ATTACKS = ("naive_loss", "sima")


def report_of(job):
    return json.loads((Path(job.folder) / "report.json").read_text())


def test_a_reference_is_measured_beside_the_checkpoint(home, request_for, base, calls_made):
    job = run(home, request_for(attacks=ATTACKS, draws=2, reference=base, settings={"naive_loss": {"filter": "low-pass"}}))
    assert (job.state, job.error) == ("done", "")
    opened, report = open_run(job.folder), report_of(job)
    per_image = 2 * (5 * 2 + 4 * 2)  # both models: the grid, sima
    assert sum(calls_made) == report["measurement"]["model_calls"] == 48 * per_image == job.total_calls and report["measurement"]["model_calls_per_image"] == per_image
    assert report["measurement"]["reference"]["sha256"] not in (None, report["checkpoint"]["sha256"]) and "attacks[].reference_auc" not in report["not_checked"]
    assert {f"reference/{name}" for name in ("eps_mse", "sima_l4")} <= set(opened.tables)
    for row in report["attacks"]:
        assert row["status"] == "done" and row["auc"]["noise_sd"] is not None
    row = opened.attack("naive_loss")
    eps, other = opened.tables["eps_mse_low"], opened.tables["reference/eps_mse_low"]
    column = list(eps.timesteps).index(row["settings"]["t"])
    np.testing.assert_allclose(opened.scores_of("naive_loss"), other.values[column] - eps.values[column].astype(np.float64), rtol=1e-5, atol=1e-7)
    inside = opened.evaluation
    assert row["reference_auc"] == pytest.approx(auc(-other.values[column][inside], opened.is_member[inside])) and row["model_calls_at_setting"] == 4
    before = (Path(job.folder) / "report.json").read_bytes()
    analyse(job.folder)
    assert (Path(job.folder) / "report.json").read_bytes() == before  # rescored from the stored tables of both
    said = evidence(opened)["auc"]
    assert "relative to a reference model" in said.settings and any("reference__" in file for file in said.files)
    page = (Path(job.folder) / "report.html").read_text()
    assert "on the reference alone: AUC" in page and report["measurement"]["reference"]["sha256"] in page
    assert "relative to a reference model" in json.dumps(report["verdict"]) and any("without another model" in c["text"] for c in report["verdict"]["claims"]["blocked"])
    assert series.attack_of(opened, "eps_mse") is None  # the sliders move over one model's losses, which no attack of this run scores alone


@pytest.mark.slow
def test_a_reference_is_part_of_the_request_of_the_shards_and_of_what_must_not_change(home, request_for, base, monkeypatch, tmp_path):
    plain, with_one = request_for(attacks=("sima",)), request_for(attacks=("sima",), reference=base)
    assert plain.identity() != with_one.identity() and Request.from_json(with_one.to_json()) == with_one
    fail_in(monkeypatch, "measure", RuntimeError("stop"), after=5)
    broken = run(home, with_one, out=tmp_path / "run")
    (plan,) = Path(broken.folder).glob("shards/*/plan.json")
    monkeypatch.undo()
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)
    measured, real = [], tasks.measure
    monkeypatch.setattr(tasks, "measure", lambda *args: measured.append(args[2]) or real(*args))
    Store(home.home).resume(broken.id)
    driver(home).run_waiting()
    done = Store(home.home).get(broken.id)
    assert done.state == "done" and len(measured) == 7 and plan.parent.name  # five of twelve shards were kept
    whole = run(home, with_one, out=tmp_path / "whole")
    assert all((tmp_path / "run" / "tables" / p.name).read_bytes() == p.read_bytes() for p in (tmp_path / "whole" / "tables").glob("reference__*")) and whole.state == "done"
    moving = Path(shutil.copytree(base, tmp_path / "moving"))

    def touching(*args):
        os.utime(moving / "model_index.json", (1, 1))
        return real(*args)

    monkeypatch.setattr(tasks, "measure", touching)
    job = run(home, request_for(attacks=("sima",), reference=str(moving)))
    assert job.state == "failed" and job.error.startswith("The reference checkpoint (moving) changed while the audit ran.")


@pytest.mark.parametrize("which", ["itself", "shape", "steps", "untrained", "no checkpoint"])
def test_a_reference_that_does_not_fit_is_one_line_before_device_time(which, home, request_for, pair, tmp_path, monkeypatch):
    from tests.models import tiny

    place = tmp_path / "other"
    if which == "itself":
        shutil.copytree(pair["checkpoint"], place)
    elif which == "shape":
        tiny.save(place, scheduler_config={"num_train_timesteps": 200}, unet=tiny.network(sample_size=16))
    elif which == "no checkpoint":
        place.mkdir()
    else:
        tiny.save(place, scheduler_config={"num_train_timesteps": 100 if which == "steps" else 200})
    calls = fail_in(monkeypatch, "measure", RuntimeError("must not be reached"))
    job = run(home, request_for(reference=str(place)))
    assert job.state == "failed" and job.error.startswith("--reference") and "\n" not in job.error and str(tmp_path) not in job.error and not calls and job.done_calls == 0
    expected = {"itself": "audited checkpoint itself", "shape": "(1, 16, 16)", "steps": "number of timesteps that is 100", "untrained": "does not denoise", "no checkpoint": ""}
    assert expected[which] in job.error


def test_the_command_line_takes_a_reference_from_flag_and_file(pair, base, tmp_path, capsys):
    config = tmp_path / "audit.yaml"
    config.write_text(f"reference: {base}\n")
    common = ["run", *(part for name in ("checkpoint", "members", "nonmembers") for part in (f"--{name}", pair[name]))]
    for extra in (["--reference", base], ["--config", str(config)]):
        request, _ = cli_request.request_from(cli._parser().parse_args([*common, *extra]))
        assert request.reference == base
    assert cli.main([*common, "--reference", str(tmp_path / "gone")]) == 2
    assert "--reference: gone was not found" in capsys.readouterr().err
    with pytest.raises(RequestError, match="--reference is '3'"):
        Request("c", "m", "n", "x", reference=3)


def test_through_an_api_white_box_attacks_are_skipped_and_the_others_see_pictures(home, request_for, base):
    request = request_for(attacks=("loss_eps", "naive_loss", "gray_intermediate", "sima"), api="steps=10,bits=6", reference=base)
    assert request.api == {"steps": 10, "bits": 6, "noise": 0.0, "jpeg": None} and Request.from_json(request.to_json()) == request
    assert request.identity() == request_for(attacks=request.attacks, api={"bits": 6, "steps": 10}, reference=base).identity() != request_for(attacks=request.attacks).identity()
    job = run(home, request)
    report = report_of(job)
    rows = {row["name"]: row for row in report["attacks"]}
    assert rows["loss_eps"]["status"] == "skipped" and "shows no weights" in rows["loss_eps"]["reason"] and rows["loss_eps"]["auc"] is None
    assert [n for n, row in rows.items() if row["status"] == "done"] == ["gray_intermediate", "naive_loss", "sima"]
    assert report["measurement"]["api"] == request.api and "measurement.api" not in report["not_checked"] and max(report["measurement"]["timesteps"]) == 9
    made = json.loads((Path(job.folder) / "measurement.json").read_text())
    assert len(made["schedule"]["alphas_cumprod"]) == 10
    assert "through an API that shows 10 steps, 6-bit pictures" in json.dumps(report["verdict"]) and "10 steps, 6-bit pictures" in (Path(job.folder) / "report.html").read_text()
    assert any("whoever has the weights" in c["text"] for c in report["verdict"]["claims"]["blocked"])
    none_left = run(home, request_for(attacks=("loss_x0",), api="bits=8"))
    assert none_left.state == "failed" and none_left.error.startswith("--api leaves none of the attacks asked for") and none_left.done_calls == 0
    too_many = run(home, request_for(api="steps=1000"))
    assert too_many.state == "failed" and too_many.error == "--api steps is 1,000. Expected at most 200, the steps of this model."


def test_the_command_line_takes_an_api_from_flag_and_file(pair, tmp_path, capsys):
    config = tmp_path / "audit.yaml"
    config.write_text("api: {steps: 20, noise: 0.02}\n")
    common = ["run", *(part for name in ("checkpoint", "members", "nonmembers") for part in (f"--{name}", pair[name]))]
    for extra in (["--api", "steps=20,noise=0.02"], ["--config", str(config)]):
        request, _ = cli_request.request_from(cli._parser().parse_args([*common, *extra]))
        assert request.api == {"steps": 20, "bits": 8, "noise": 0.02, "jpeg": None}
    assert cli.main([*common, "--api", "depth=3"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    config.write_text("api: 3\n")
    assert cli.main([*common, "--config", str(config)]) == 2 and "KEY=VALUE" in capsys.readouterr().err

"""Whole jobs with a surrogate: trained as a step of the audit, kept, measured beside the target or without one, its failure its attacks' alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audit import cli, cli_request
from audit.analysis import analyse
from audit.errors import RequestError
from audit.jobs import submit, surrogate, tasks_surrogate
from audit.jobs.flags import FileFlag
from audit.jobs.store import Store
from audit.report.run import open_run
from models import train
from tests.jobs.pair import pictures, save_pictures
from tests.jobs.test_driver_inline import driver, log_of, no_background_worker, run  # noqa: F401, the fixture acts by being here

TINY = {"steps": 80, "width": 8, "batch_size": 32, "lr": 8e-3, "train_timesteps": 60, "held_out": 0.1, "ema_decay": 0.9, "validate_every": 40}
ATTACKS = ("sima", "surrogate_sima", "surrogate_loss_eps")


@pytest.fixture(scope="module")
def given_pool(tmp_path_factory):
    """A folder of pictures that stand for a model's samples."""
    return str(save_pictures(tmp_path_factory.mktemp("pool") / "samples", pictures(60, seed=9)))


@pytest.fixture(autouse=True)
def few_samples_of_its_own(monkeypatch):
    monkeypatch.setattr(tasks_surrogate, "OWN_SAMPLES", 4)
    monkeypatch.setattr(tasks_surrogate, "OWN_STEPS", 4)


@pytest.fixture
def asking(request_for, given_pool):
    """Makes a Request with a pool and a tiny surrogate; keywords change it, `training` its settings."""

    def make(training=None, **changes):
        return request_for(**{"attacks": ATTACKS, "pool": given_pool, "settings": {"surrogate": TINY | (training or {})}, **changes})

    return make


def report_of(job):
    return json.loads((Path(job.folder) / "report.json").read_text())


def folders(home):
    return sorted(p.name for p in (home.home / "surrogates").iterdir())


@pytest.mark.slow
def test_a_surrogate_is_trained_and_measured_beside_the_target(home, asking, calls_made):
    job = run(home, asking())
    assert (job.state, job.error) == ("done", "")
    opened, report = open_run(job.folder), report_of(job)
    rows = {row["name"]: row for row in report["attacks"]}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(ATTACKS, "done")
    per_image = 8 + 5 + 8  # sima of the target; the grid and sima of the surrogate
    assert sum(calls_made) == report["measurement"]["model_calls"] == 48 * per_image == job.done_calls
    tables = opened.tables
    assert {"surrogate/eps_mse", "surrogate/sima_l4", "sima_l4"} <= set(tables) and "eps_mse" not in tables
    assert list(tables["surrogate/eps_mse"].timesteps) == [0, 15, 30, 44, 59] and list(tables["sima_l4"].timesteps) == [10, 20, 30, 40]  # each on its own schedule
    trained = report["surrogate"]
    assert trained["steps_done"] == 80 and trained["kept_step"] in (40, 80) and trained["settings"]["width"] == 8 and trained["parameters"] > 0
    needed = rows["surrogate_sima"]["needed"]
    assert (needed["samples"], needed["access"]) == (60, "samples") and needed["training_hours"] == pytest.approx(trained["training_seconds"] / 3600)
    assert rows["sima"]["needed"]["training_hours"] is None
    assert "hours of training" in (Path(job.folder) / "report.html").read_text() and (Path(job.folder) / "surrogate.png").exists()
    assert folders(home) == [trained["key"]] and "Training the surrogate" in log_of(job)


@pytest.mark.slow
def test_it_is_kept_for_the_next_audit_and_numbers_come_back_without_it(home, asking, monkeypatch):
    job, seen = run(home, asking()), []
    real = train.train
    monkeypatch.setattr(train, "train", lambda *args, **given: seen.append(1) or real(*args, **given))
    again = run(home, asking(seed=1, attacks=("surrogate_pia",)))
    assert again.state == "done" and seen == [] and len(folders(home)) == 1
    assert report_of(again)["surrogate"]["sha256"] == report_of(job)["surrogate"]["sha256"]
    other = run(home, asking({"seed": 1}, attacks=("surrogate_pia",)))
    assert other.state == "done" and seen == [1] and len(folders(home)) == 2
    before = (Path(job.folder) / "report.json").read_bytes()
    analyse(job.folder)
    assert (Path(job.folder) / "report.json").read_bytes() == before


@pytest.mark.slow
def test_a_step_beyond_its_own_schedule_costs_the_attack_on_the_surrogate_alone(home, asking):
    request = asking(attacks=("sima", "surrogate_pia", "surrogate_sima"))
    request = replace(request, settings=request.settings | {"surrogate_pia": {"t": 60}, "sima": {"t": 60}})
    rows = {row["name"]: row for row in report_of(run(home, request))["attacks"]}
    assert {name: row["status"] for name, row in rows.items()} == {"sima": "done", "surrogate_pia": "failed", "surrogate_sima": "done"}
    assert rows["surrogate_pia"]["reason"] == "t is fixed at 60, beyond the last timestep 59 of this model"


@pytest.mark.slow
def test_without_a_checkpoint_only_the_surrogate_is_asked(home, asking):
    job = run(home, asking(checkpoint=None, attacks=("nearest", "surrogate_sima", "pia")))
    assert (job.state, job.error) == ("done", "")
    rows = {row["name"]: row for row in report_of(job)["attacks"]}
    assert {name: row["status"] for name, row in rows.items()} == {"pia": "skipped", "nearest": "done", "surrogate_sima": "done"}
    assert set(open_run(job.folder).tables) >= {"surrogate/sima_l4", "nearest_pixels"} and report_of(job)["measurement"]["model_calls"] == 48 * 8


@pytest.mark.slow
def test_a_surrogate_that_diverges_costs_its_own_attacks_only_and_the_reason_is_kept(home, asking):
    job = run(home, asking({"lr": 1.0, "steps": 300, "ema_decay": 0.0, "held_out": 0.0, "seed": 3}))
    rows = {row["name"]: row for row in report_of(job)["attacks"]}
    assert job.state == "done" and rows["sima"]["status"] == "done"
    assert {rows[name]["status"] for name in ATTACKS[1:]} == {"failed"}
    reason = rows["surrogate_sima"]["reason"]
    assert "diverged at step" in reason or "does not denoise the samples" in reason
    assert report_of(job)["surrogate"] is None and reason in log_of(job)
    alone = run(home, asking({"lr": 1.0, "steps": 300, "ema_decay": 0.0, "held_out": 0.0, "seed": 3}, attacks=("surrogate_sima",)))
    assert alone.state == "failed" and reason in alone.error and not alone.error.endswith("..")


@pytest.mark.slow
def test_a_cancelled_training_goes_on_where_it_stopped(home, asking, monkeypatch):
    real, asked = FileFlag.is_set, []

    def stop_at_fifty(flag):
        asked.append(1)
        if len(asked) == 50:
            Store(home.home).request_cancel(job.id)
            worker._beat_once()
        return real(flag)

    monkeypatch.setattr(FileFlag, "is_set", stop_at_fifty)
    job, _ = submit.submit_audit(home, asking())
    worker = driver(home)
    worker.run_waiting()
    stopped = Store(home.home).get(job.id)
    assert stopped.state == "cancelled" and not list((home.home / "surrogates").rglob("training.json")) and list((home.home / "surrogates").rglob("unfinished.pt"))
    monkeypatch.setattr(FileFlag, "is_set", real)
    steps = []
    monkeypatch.setattr(tasks_surrogate._Progress, "__call__", lambda self, step, of, loss: steps.append(step))
    Store(home.home).resume(job.id)
    driver(home).run_waiting()
    assert Store(home.home).get(job.id).state == "done" and steps[0] == 50 and steps[-1] == 80


@pytest.mark.slow
def test_samples_that_are_query_images_are_not_trained_on(home, asking, request_for, tmp_path):
    import shutil

    mixed = Path(shutil.copytree(asking().pool, tmp_path / "mixed"))
    for i, member in enumerate(sorted(Path(request_for().members).iterdir())[:3]):
        shutil.copy(member, mixed / f"leaked_{i}.png")
    job = run(home, asking(pool=str(mixed), attacks=("surrogate_sima",)))
    (made,) = (home.home / "surrogates").rglob("training.json")
    manifest = json.loads(made.read_text())
    trained = {entry["image_id"] for part in (manifest["images"], manifest["held_out"]["images"]) for entry in part}
    queries = {image["image_id"] for image in json.loads((Path(job.folder) / "queries.json").read_text())["images"]}
    assert job.state == "done" and len(manifest["images"]) + len(manifest["held_out"]["images"]) == 60 and not trained & queries


def test_samples_are_needed_and_the_command_line_says_so(pair, given_pool, tmp_path, capsys, request_for):
    with pytest.raises(RequestError, match=r"surrogate_pia trains a model on generated samples\. Expected --pool"):
        request_for(attacks=("pia", "surrogate_pia"))
    config = tmp_path / "audit.yaml"
    config.write_text("settings: {surrogate: {network: guided, steps: 10}}\n")
    common = ["run", *(part for name in ("checkpoint", "members", "nonmembers") for part in (f"--{name}", pair[name])), "--attacks", "surrogate_pia", "--config", str(config)]
    request, _ = cli_request.request_from(cli._parser().parse_args([*common, "--pool", given_pool]))
    assert request.settings["surrogate"] == {"network": "guided", "steps": 10} and surrogate.asked(request) == ("surrogate_pia",)
    assert cli.main(common) == 2 and "Expected --pool" in capsys.readouterr().err
    config.write_text("settings: {surrogate: {network: dit}}\n")
    assert cli.main([*common, "--pool", given_pool]) == 2 and capsys.readouterr().err.count("\n") == 1


def test_progress_is_told_in_twentieths(tmp_path):
    assert surrogate.progress_words(tmp_path) == ""
    for step, words in ((1, "0 %"), (99, "0 %"), (100, "5 %"), (2000, "100 %")):
        (tmp_path / tasks_surrogate.PROGRESS).write_text(json.dumps({"step": step, "steps": 2000}))
        assert surrogate.progress_words(tmp_path) == f"Training the surrogate: {words} of 2,000 steps"
    (tmp_path / tasks_surrogate.PROGRESS).write_text("{")
    assert surrogate.progress_words(tmp_path) == ""


def test_other_pictures_than_square_ones_fail_its_attacks_with_the_reason():
    from types import SimpleNamespace

    request = SimpleNamespace(settings={}, attacks=("surrogate_pia",))
    pool = SimpleNamespace(folder=Path("."), info={"shape": [8, 16, 1], "sha256": "0"}, left_out=np.empty(0, int), kept=np.arange(3))
    made, reason = surrogate.prepare(SimpleNamespace(request=request, ticket=None), pool)
    assert made is None and "square pictures, these have 8 x 16" in reason

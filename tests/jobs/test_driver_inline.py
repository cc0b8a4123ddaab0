"""Whole jobs in this process: the same steps as in the worker, with the device replaced by a plain call where something must go wrong."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from audit.errors import HomeError, RequestError, RunFolderError
from audit.jobs import check as check_module
from audit.jobs import launch, steps, submit, tasks, ticket
from audit.jobs.cluster import EngineLost, Engines, Inline, TaskKilled
from audit.jobs.driver import Driver
from audit.jobs.store import MAX_ATTEMPTS, Store
from audit.measured import read_measured
from audit.tables import Tables

CHECK = dict.fromkeys(submit.CHECK_FIELDS) | {"preset": "quick", "device": "cpu", "seed": 0, "precision": "fp32", "attacks": []}


@pytest.fixture(autouse=True)
def no_background_worker(monkeypatch):
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)


def driver(home, make=Inline):
    return Driver(home, Engines(home, make))


def run(home, request, make=Inline, out=None):
    job, _ = submit.submit_audit(home, request, out)
    driver(home, make).run_waiting()
    return Store(home.home).get(job.id)


def log_of(job):
    return (Path(job.folder) / "log.txt").read_text(encoding="utf-8")


def shard_files(job):
    return {p.name: p.stat().st_mtime_ns for p in Path(job.folder).glob("shards/*/*.safetensors")}


def table_bytes(folder):
    return {p.name: p.read_bytes() for p in sorted((Path(folder) / "tables").iterdir())}


def fail_in(monkeypatch, name, error, after=0, module=tasks):
    """Make a task return an internal error, or raise in the driver, at its call number `after`."""
    real, calls = getattr(module, name), []

    def broken(*args):
        calls.append(args)
        if len(calls) > after:
            raise error
        return real(*args)

    monkeypatch.setattr(module, name, broken)
    return calls


def test_a_whole_audit(home, request_for):
    job = run(home, request_for())
    assert (job.state, job.error, job.phase, job.attempts) == ("done", "", "Done", 1)
    calls = 48 * (5 + 5)  # the grid, and PIA: a budget of one grid
    assert (job.done_images, job.total_images, job.done_shards, job.total_shards, job.done_calls, job.total_calls) == (48, 48, 12, 12, calls, calls)
    folder = Path(job.folder)
    assert folder == home.runs / job.id
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "request.json", "report.json", "scores.csv", "images.csv", "features.npz", "log.txt", "report.html", "thumbnails", "tables",
        "queries.json", "measurement.json", "images.npy",
    }  # fmt: skip
    made = json.loads((folder / "measurement.json").read_text())
    assert made["run"] == {"id": job.id, "name": "tiny", "created": made["run"]["created"]} and made["run"]["created"].endswith("Z")
    assert made["measurement"]["model_calls"] == 480 and made["measurement"]["batch_size"] == 16 and made["self_test"]["passed"]
    assert len(made["schedule"]["alphas_cumprod"]) == 200 and made["cost"]["throughput"] > 0 and made["cost"]["device"].startswith("CPU, ")
    report = json.loads((folder / "report.json").read_text())
    assert job.result["level"] == report["verdict"]["level"] and job.result["sha256"] == report["checkpoint"]["sha256"] and job.result["members"] == 24
    assert Tables.load(folder / "tables")["eps_mse"].images == 48
    assert not list(home.tmp.iterdir())


def test_each_probe_runs_once_however_many_attacks_read_it_and_its_calls_are_those_that_were_made(home, request_for, calls_made):
    """dime and dime_m share one probe, naive_loss and loss_x0 another."""
    attacks = ("loss_x0", "naive_loss", "pia", "secmi", "dime", "dime_m", "pfami", "gray_free")
    job = run(home, request_for(attacks=attacks, draws=2))
    report = json.loads((Path(job.folder) / "report.json").read_text())
    per_image = 5 * 2 + (4 + 1) + 12 + 4 * 11 + 10 * 2 * 2  # noised, pia, secmi, dime, pfami
    once = 2 * 32 * 20  # free generations
    measured = report["measurement"]
    assert measured["probes"] == ["noised", "pia", "secmi", "dime", "pfami", "gray_free"] and measured["skipped"] == {}
    assert sum(calls_made) == measured["model_calls"] == 48 * per_image + once == report["cost"]["model_calls"] == job.done_calls
    assert {p["probe"]: (len(p["timesteps"]), p["draws"]) for p in measured["own"]} == {"pia": (4, 1), "secmi": (10, 1), "dime": (4, 10), "pfami": (10, 2), "gray_free": (20, 2)}
    assert {a["name"]: a["status"] for a in report["attacks"]} == dict.fromkeys(attacks, "done")


def test_a_thorough_audit_asks_an_untrained_network_for_the_blind_baseline(home, request_for):
    job = run(home, request_for(preset="thorough", attacks=("loss_x0",)))
    report, run_folder = json.loads((Path(job.folder) / "report.json").read_text()), Path(job.folder)
    assert report["measurement"]["probes"] == ["noised", "untrained"] and report["measurement"]["model_calls_per_image"] == 5 + 8
    names = [f["name"] for f in report["blind_baseline"]["features"]]
    assert not any("untrained" in name for name in names), "the list names single features; these are read together"
    measured = read_measured(run_folder)
    assert len(measured.blind_features.names) == len(measured.features.names) + 8 and measured.blind_features.names[-1] == "untrained loss at t = 180"
    assert [a["name"] for a in report["attacks"]] == ["loss_x0"] and job.state == "done"


def test_attacks_beyond_the_budget_are_not_measured_and_say_why(home, request_for):
    job = run(home, request_for(budget=3))
    report = json.loads((Path(job.folder) / "report.json").read_text())
    measured = report["measurement"]
    assert measured["probes"] == ["noised", "pia", "pian"] and measured["model_calls_per_image"] == 15  # the grid has 5 calls; sima's 8 do not fit
    assert set(measured["skipped"]) == {"gray_free", "secmi", "sima", "dime", "dime_m", "pfami", "rediffuse"}
    assert measured["skipped"]["sima"] == "over the budget: 8 more model calls per image; --budget 5 has room for it"  # free generations, 7, come before it
    pooled = dict.fromkeys(("nearest", "nearest_calibrated"), "needs a sample pool")
    assert {a["name"]: a["reason"] for a in report["attacks"] if a["status"] != "done"} == measured["skipped"] | pooled
    assert {a["status"] for a in report["attacks"]} == {"done", "skipped"}
    failed = run(home, request_for(attacks=("dime",), budget=1))
    assert failed.state == "failed" and failed.error.startswith("--budget 1 has room for none of the attacks asked for: over the budget")


@pytest.mark.parametrize("api", [None, "steps=20"])
def test_a_step_beyond_the_schedule_skips_its_attack_with_the_reason_and_the_others_go_on(api, home, request_for):
    last = 19 if api else 199  # through an API timesteps count the steps that it shows
    fixed = {"pia": {"t": last + 1}, "secmi": {"t": last}, "gray_intermediate": {"keep_from": 5000}}
    job = run(home, request_for(attacks=("gray_intermediate", "pia", "secmi", "sima"), settings=fixed, api=api))
    rows = {row["name"]: row for row in json.loads((Path(job.folder) / "report.json").read_text())["attacks"]}
    assert (rows["pia"]["status"], rows["pia"]["reason"]) == ("skipped", f"t is fixed at {last + 1}, beyond the last timestep {last} of this model")
    assert (rows["gray_intermediate"]["status"], rows["gray_intermediate"]["reason"]) == ("skipped", f"keep_from is fixed at 5,000, beyond the last timestep {last} of this model")
    assert {name for name, row in rows.items() if row["status"] == "done"} == {"secmi", "sima"} and rows["secmi"]["settings"]["t"] <= last // 10 + 1
    alone = run(home, request_for(attacks=("pia",), settings=fixed, api=api))
    assert alone.state == "failed" and alone.done_calls == 0 and alone.error.startswith("None of the attacks asked for can run on this model: t is fixed at")


@pytest.mark.slow
def test_cut_size_changes_nothing_that_matters(home, request_for, monkeypatch, tmp_path):
    one = run(home, request_for())
    other = run(type(home)(**{**vars(home), "shard_images": 48}), request_for(), out=tmp_path / "other")
    a, b = (Tables.load(Path(job.folder) / "tables") for job in (one, other))
    for name in a:
        np.testing.assert_allclose(a[name].values, b[name].values, rtol=1e-5, atol=1e-6)  # across batch compositions float32 sums differ in the last digits


@pytest.mark.slow
def test_an_interrupted_audit_goes_on_to_equal_bytes(home, request_for, monkeypatch, tmp_path):
    whole = run(home, request_for(), out=tmp_path / "whole")
    calls = fail_in(monkeypatch, "measure", RuntimeError("device on fire"), after=5)
    broken = run(home, request_for(), out=tmp_path / "broken")
    assert broken.state == "failed" and broken.error == "An internal error stopped the audit (RuntimeError). The log holds the details."
    assert "device on fire" in log_of(broken) and "Traceback" in log_of(broken)
    assert "device" not in broken.error and (broken.done_shards, broken.total_shards) == (5, 12)
    kept = shard_files(broken)
    assert len(kept) == 5
    monkeypatch.undo()
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the stored plan wins: another number of threads changes last digits
    measured = []
    real = tasks.measure
    monkeypatch.setattr(tasks, "measure", lambda *args: measured.append(args[2]) or real(*args))
    monkeypatch.setattr(steps, "remove_shards", lambda folder: measured.append(shard_files(broken)))
    again, created = submit.submit_audit(home, request_for(), tmp_path / "broken")
    assert not created and again.id == broken.id and again.state == "queued"
    driver(home).run_waiting()
    done = Store(home.home).get(broken.id)
    files = measured.pop()
    assert done.state == "done" and len(measured) == 7 and kept.items() <= files.items() and len(calls) == 6
    assert table_bytes(tmp_path / "broken") == table_bytes(tmp_path / "whole") == table_bytes(whole.folder)


def test_a_cancelled_audit_keeps_its_shards(home, request_for, monkeypatch):
    real, store = tasks.measure, Store(home.home)

    def cancelling(*args):
        outcome = real(*args)
        if len(shard_files(job)) == 3:
            store.request_cancel(job.id)
            running._beat_once()
        return outcome

    monkeypatch.setattr(tasks, "measure", cancelling)
    job, _ = submit.submit_audit(home, request_for())
    running = driver(home)
    running.run_waiting()
    job = store.get(job.id)
    assert job.state == "cancelled" and job.error == "Cancelled at 33\u202f%. 4 of 12 shards kept." and job.error in log_of(job)
    assert len(shard_files(job)) == 4 and not (Path(job.folder) / "report.json").exists()
    monkeypatch.setattr(tasks, "measure", real)
    store.resume(job.id)
    driver(home).run_waiting()
    assert store.get(job.id).state == "done"


def test_cancel_while_images_are_read(home, request_for, monkeypatch):
    from audit import images

    store, seen = Store(home.home), []

    def reading(*sets, on_progress, **others):
        store.request_cancel(job.id)
        running._beat_once()
        seen.append(1)
        on_progress(1, 2)

    monkeypatch.setattr(images, "prepare", reading)
    job, _ = submit.submit_audit(home, request_for())
    running = driver(home)
    running.run_waiting()
    assert seen and store.get(job.id).state == "cancelled" and store.get(job.id).error.startswith("Cancelled at 0")


def test_the_queue_goes_on_after_failures(home, request_for, tmp_path, pair):
    text = tmp_path / "weights.ckpt"
    text.write_text("not a checkpoint")
    few = tmp_path / "few"
    few.mkdir()
    for source in sorted(Path(pair["members"]).iterdir())[:3]:
        shutil.copy(source, few)
    ids = [submit.submit_audit(home, request_for(**change))[0].id for change in ({"checkpoint": str(text)}, {"members": str(few)}, {})]
    driver(home).run_waiting()
    jobs = [Store(home.home).get(i) for i in ids]
    assert [j.state for j in jobs] == ["failed", "failed", "done"]
    assert all(j.error and "\n" not in j.error and str(tmp_path) not in j.error and "internal" not in j.error for j in jobs[:2])


def test_an_untrained_checkpoint_is_refused_before_device_time(home, request_for, tmp_path, monkeypatch):
    from tests.models import tiny

    tiny.save(tmp_path / "untrained", scheduler_config={"num_train_timesteps": 200})
    calls = fail_in(monkeypatch, "measure", RuntimeError("must not be reached"))
    job = run(home, request_for(checkpoint=str(tmp_path / "untrained")))
    assert job.state == "failed" and "does not denoise" in job.error and not calls and job.done_calls == 0


@pytest.mark.slow
def test_a_zip_checkpoint_is_unpacked_once(home, request_for, tmp_path, pair):
    made = shutil.make_archive(str(tmp_path / "model"), "zip", pair["checkpoint"])
    first = run(home, request_for(checkpoint=made))
    (unpacked,) = (home.home / "checkpoints").iterdir()
    before = {p: p.stat().st_mtime_ns for p in unpacked.rglob("*")}
    second = run(home, request_for(checkpoint=made, seed=1))
    assert first.state == second.state == "done" and {p: p.stat().st_mtime_ns for p in unpacked.rglob("*")} == before
    assert list((home.home / "checkpoints").iterdir()) == [unpacked]


def test_inputs_that_change_meanwhile_fail_the_job(home, request_for, tmp_path, pair, monkeypatch):
    members = Path(shutil.copytree(pair["members"], tmp_path / "members"))
    real = tasks.measure

    def touching(*args):
        os.utime(sorted(members.iterdir())[0], (1, 1))
        return real(*args)

    monkeypatch.setattr(tasks, "measure", touching)
    job = run(home, request_for(members=str(members)))
    assert job.state == "failed" and job.error.startswith("The set of members (members) changed while the audit ran.")
    assert not (Path(job.folder) / "report.json").exists()


@pytest.mark.slow
def test_changed_images_never_meet_old_shards(home, request_for, tmp_path, pair, monkeypatch):
    members = Path(shutil.copytree(pair["members"], tmp_path / "members"))
    fail_in(monkeypatch, "measure", RuntimeError("stop"), after=5)
    job = run(home, request_for(members=str(members)))
    assert len(shard_files(job)) == 5
    sorted(members.iterdir())[0].unlink()
    monkeypatch.undo()
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)
    Store(home.home).resume(job.id)
    measured, real = [], tasks.measure
    monkeypatch.setattr(tasks, "measure", lambda *args: measured.append(args[2]) or real(*args))
    driver(home).run_waiting()
    done = Store(home.home).get(job.id)
    assert done.state == "done" and done.total_images == 47 and len(measured) == done.total_shards


def test_a_full_disk_is_noticed_before_the_start(home, request_for, monkeypatch):
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    calls = fail_in(monkeypatch, "measure", RuntimeError("must not be reached"))
    job = run(home, request_for())
    assert job.state == "failed" and job.error.startswith("Disk: 0.0 GB free, this audit writes") and not calls


def test_a_disk_that_fills_up_leaves_a_resumable_job(home, request_for, monkeypatch):
    from audit.jobs import shards

    real, count = shards.save, []

    def full(*args, **kwargs):
        count.append(1)
        if len(count) > 2:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(shards, "save", full)
    job = run(home, request_for())
    assert job.state == "failed" and job.error.startswith("Disk: it is full.") and len(shard_files(job)) == 2


def test_a_smaller_batch_is_kept_for_the_rest_of_the_job(home, request_for, monkeypatch):
    from audit import engine

    asked, real = [], engine.measure_block

    def small(denoiser, x0, plan, should_stop=None, on_batch_size=None, **more):
        asked.append(plan.batch_size)
        if len(asked) == 4:
            on_batch_size(8)
            on_batch_size(4)
        return real(denoiser, x0, plan, should_stop, **more)

    monkeypatch.setattr(engine, "measure_block", small)
    job = run(home, request_for())
    assert job.state == "done" and asked[:4] == [16] * 4 and set(asked[-6:]) == {4} and "batch size 4" in log_of(job)
    assert json.loads((Path(job.folder) / "measurement.json").read_text())["measurement"]["batch_size"] == 4


class Losing(Inline):
    """An engine that is lost in the middle of every attempt."""

    def submit(self, label, function, *args, device=False):
        if label.startswith("Shard 4 "):
            raise EngineLost("the connection ended")
        return super().submit(label, function, *args, device=device)


def test_a_lost_engine_is_tried_three_times(home, request_for):
    job = run(home, request_for(), Losing)
    assert job.state == "failed" and job.attempts == MAX_ATTEMPTS and "lost 3 times" in job.error and "Finished shards are kept" in job.error
    assert log_of(job).count("attempt") >= 3 and len(set(shard_files(job))) <= 3


class Killing(Inline):
    """An engine on which the shard of image 9 ends its device worker, and with it those that wait behind."""

    def wait(self, handles, timeout):
        for handle in handles:
            if "call" in handle.future and "(images 9 " in handle.label:
                for doomed in handles:
                    doomed.future.pop("call", None)
                    doomed.future["result"] = "killed"
        return super().wait(handles, timeout)

    def result(self, handle):
        if handle.future["result"] == "killed":
            raise TaskKilled(handle.label)
        return super().result(handle)


def test_a_shard_that_kills_its_worker_is_named_and_the_others_are_kept(home, request_for):
    job = run(home, request_for(), Killing)
    assert job.state == "failed" and job.error.startswith("Shard 3 of 12 (images 9 to 12): its device worker died each time") and job.attempts == 1
    assert len(shard_files(job)) >= 9


def test_a_worker_that_died_before_the_last_update_is_not_measured_again(home, request_for, monkeypatch):
    job = run(home, request_for())
    import sqlite3

    with sqlite3.connect(home.home / "jobs.sqlite") as db:
        db.execute("UPDATE jobs SET state='queued', result=NULL, finished=NULL WHERE id=?", (job.id,))
    fail_in(monkeypatch, "open_network", RuntimeError("must not be reached"))
    driver(home).run_waiting()
    again = Store(home.home).get(job.id)
    assert again.state == "done" and again.result == job.result


def test_a_lost_lease_ends_quietly(home, request_for, monkeypatch):
    store = Store(home.home)

    def stolen(*args):
        import sqlite3

        with sqlite3.connect(home.home / "jobs.sqlite") as db:
            db.execute("UPDATE jobs SET owner='thief'")
        return real(*args)

    real = tasks.probe_network
    monkeypatch.setattr(tasks, "probe_network", stolen)
    job, _ = submit.submit_audit(home, request_for())
    driver(home).run_waiting()
    assert (store.get(job.id).owner, store.get(job.id).state) == ("thief", "running")


def test_told_to_end_the_job_goes_back_to_the_queue(home, request_for, monkeypatch):
    real = tasks.measure

    def ending(*args):
        running.end()
        next(iter(running._tickets.values())).stop(ending=True)
        return real(*args)

    monkeypatch.setattr(tasks, "measure", ending)
    job, _ = submit.submit_audit(home, request_for())
    running = driver(home)
    running.run_job(running.store.claim(running.owner))
    waiting = Store(home.home).get(job.id)
    assert waiting.state == "queued" and waiting.owner == ""


def test_the_folder_of_an_audit_that_measured_nothing_is_taken_by_a_corrected_request(home, request_for, tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "cat.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    failed = run(home, request_for(members=str(tmp_path / "wrong")), out=out)
    assert failed.state == "failed" and {path.name for path in out.iterdir()} == {"request.json", "log.txt"}
    job, created = submit.submit_audit(home, request_for(), out)
    assert created and [listed.id for listed in Store(home.home).list()] == [job.id] != [failed.id]
    assert json.loads((out / "request.json").read_text())["members"] == request_for().members
    Store(home.home).request_cancel(job.id)
    (out / "queries.json").touch()  # something of an audit that had begun
    with pytest.raises(RunFolderError, match="another audit"):
        submit.submit_audit(home, request_for(seed=1), out)


def test_out_folders(home, request_for, tmp_path, pair):
    out = tmp_path / "out"
    job, created = submit.submit_audit(home, request_for(), out)
    assert created and job.folder == str(out) and json.loads((out / "request.json").read_text())["name"] == "tiny"
    assert submit.submit_audit(home, request_for(name="other", batch_size=4), out)[0].id == job.id  # neither can change a number
    with pytest.raises(RunFolderError, match="another audit"):
        submit.submit_audit(home, request_for(seed=1), out)
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").touch()
    with pytest.raises(RunFolderError, match="other files"):
        submit.submit_audit(home, request_for(seed=2), foreign)
    with pytest.raises(RequestError, match="--out lies inside --members"):
        submit.submit_audit(home, request_for(seed=2), Path(pair["members"]) / "out")
    with pytest.raises(RequestError, match="gone was not found"):
        submit.submit_audit(home, request_for(members=str(tmp_path / "gone")))
    assert len(Store(home.home).list()) == 1 and [p.name for p in foreign.iterdir()] == ["cat.png"]
    driver(home).run_waiting()
    done, created = submit.submit_audit(home, request_for(), out)
    assert not created and done.state == "done"


def test_a_finished_folder_from_another_home_is_taken_as_it_is(home, request_for, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(home, request_for(), out=out)
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "second"))
    from audit.config import load

    second = load().prepare_home()
    fail_in(monkeypatch, "open_network", RuntimeError("must not be reached"))
    job = run(second, request_for(), out=out)
    assert job.state == "done" and job.result == first.result


# ---------------------------------------------------------------------- checks


def check(home, **payload):
    job = submit.submit_check(home, CHECK | payload)
    driver(home).run_waiting()
    return Store(home.home).get(job.id)


def test_a_check_answers_everything(home, pair):
    job = check(home, **pair)
    result = job.result
    assert job.state == "done" and result["checkpoint"]["image_shape"] == [1, 8, 8] and result["checkpoint_error"] is None and result["images_error"] is None
    assert (result["images"]["members"], result["images"]["nonmembers"], result["images"]["shape"]) == (24, 24, [1, 8, 8])
    assert result["self_test"]["passed"] and set(result["self_test"]) >= {"passed", "error", "baseline", "per_t", "hint"}
    price = result["price"]
    assert price["model_calls"] == 48 * 70 + 1280 and price["calls_per_image"] == 70 and price["low"] < price["seconds"] < price["high"]
    each, once = price["seconds_per_call"], result["costs"]["seconds_per_shared_call"]
    assert price["seconds"] == pytest.approx(each * 48 * 70 + once * 1280) and each != once > 0 and price["disk_bytes"] > 0
    assert not list(home.tmp.iterdir())


def test_a_check_says_what_it_can(home, pair, tmp_path):
    only = check(home, checkpoint=pair["checkpoint"]).result
    assert only["checkpoint"] and only["images"] is only["self_test"] is only["price"] is None
    bad = tmp_path / "x.ckpt"
    bad.write_text("text")
    wrong = check(home, **pair | {"checkpoint": str(bad)})
    assert wrong.state == "done" and wrong.result["checkpoint"] is None and wrong.result["checkpoint_error"] and "\n" not in wrong.result["checkpoint_error"]
    empty = tmp_path / "empty"
    empty.mkdir()
    none = check(home, **pair | {"members": str(empty)}).result
    assert none["checkpoint"] and none["images"] is None and none["images_error"] and none["price"] is None
    with pytest.raises(RequestError, match="unknown fields"):
        submit.submit_check(home, {"shell": "rm"})


def test_a_check_of_sets_too_large_to_read_counts_them(home, pair, monkeypatch):
    monkeypatch.setattr(check_module, "IMAGES_S", -1)
    result = check(home, **pair).result
    assert (result["images"]["members"], result["images"]["nonmembers"], result["images"]["complete"]) == (24, 24, False)
    assert result["self_test"]["passed"] and result["price"]["model_calls"] == 4640


def test_a_check_prices_each_probe_with_a_reference_through_an_api_and_names_what_cannot_be(home, pair, base):
    api = {"steps": 20, "bits": 6, "noise": 0.0, "jpeg": None}
    alone = check(home, **pair).result["costs"]["probes"]
    found = check(home, **pair, reference=base, api=api).result
    assert found["plan"]["reference"]["format"] == "diffusers" and "loss_eps" in found["plan"]["skipped"] and found["plan_error"] is None
    costs = found["costs"]
    assert costs["images"] == 48 and costs["seconds_per_call"] > 0 and costs["probes"]["pia"][0] == 2 * alone["pia"][0] and alone["gray_free"][:2] == [0, 1280]
    assert found["price"]["calls_per_image"] % 2 == 0
    wrong = check(home, **pair, api=api | {"steps": 1000}).result
    assert wrong["plan_error"] == "--api steps is 1,000. Expected at most 200, the steps of this model." and wrong["self_test"]["passed"] and wrong["price"] is None
    broke = check(home, **pair, attacks=["dime"], budget=0).result
    assert broke["plan_error"].startswith("--budget 0 has room for none") and broke["checkpoint"] and broke["images"]


def test_a_check_of_a_file_that_does_not_say_everything_says_what_is_missing_and_ranks(home, pair, tmp_path):
    import torch

    from models.nets.openai_unet import Heads, Layout, OpenAIUNet

    path = tmp_path / "model000400.pt"
    torch.save(OpenAIUNet(Layout(1, 1, 32, 32, (32, 32), 1, (1,), True, False, None), Heads(num_heads=4)).state_dict(), path)
    said = {"image_size": 8, "train_timesteps": 100, "beta_schedule": "linear", "prediction_type": "epsilon", "variance": "fixed_small", "rescale_timesteps": True}
    result = check(home, **pair | {"checkpoint": str(path)}, overrides=said | {"attention_order": "new"}).result
    found = result["checkpoint"]
    assert found["missing"] == ["num_heads"] and found["confidence"] == "incomplete" and "variance" not in found["fixed"]
    kinds = {q["name"]: q["kind"] for q in found["questions"]}
    assert (kinds["recipe"], kinds["num_heads"], kinds["rescale_timesteps"], kinds["beta_schedule"]) == ("choice", "whole", "switch", "choice")
    assert result["images"]["members"] == 24 and "cannot tell" in result["ranking"]["words"] and result["self_test"] is result["price"] is None
    whole = check(home, **pair | {"checkpoint": str(path)}, overrides=said | {"attention_order": "new", "num_heads": 4}).result
    assert whole["checkpoint"]["missing"] == [] and not whole["self_test"]["passed"] and whole["price"]["seconds"] > 0


# ---------------------------------------------------------------------- tickets and launching


def test_a_hanging_task_is_ended_after_the_hard_stop(home, monkeypatch):
    class Hanging(Inline):
        def wait(self, handles, timeout):
            time.sleep(0.01)
            return []

    store = Store(home.home)
    store.submit("audit", "n", {}, "1", "")
    held = ticket.Ticket(store, "w", store.claim("w"))
    engines = Engines(home, Hanging)
    engine = engines.get("cpu")
    monkeypatch.setattr(ticket, "HARD_STOP_S", 0.2)
    threading.Timer(0.1, lambda: held.stop(cancelled=True)).start()
    begun = time.monotonic()
    with pytest.raises(ticket.Cancelled):
        steps.run_task(engines, engine, held, "x", print)
    assert engine.killed and 0.2 < time.monotonic() - begun < 2


def test_a_worker_that_cannot_start_is_visible(home, monkeypatch):
    monkeypatch.setattr(launch.sys, "executable", shutil.which("false") or "/bin/false")
    assert launch.ensure_worker(home) and not launch.ensure_worker(home)  # not tried again at once
    home.worker_log.write_text("Traceback\nModuleNotFoundError: torch\n")
    status = launch.worker_status(home)
    assert not status.alive and status.device_words == "" and status.log_tail.endswith("torch")
    monkeypatch.setattr(launch.sys, "executable", "/no/such/python")
    launch._started.clear()
    with pytest.raises(HomeError, match="cannot be started"):
        launch.ensure_worker(home)

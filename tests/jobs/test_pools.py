"""Whole jobs with samples: drawn from the checkpoint, drawn beside a reference, or given in a folder with no checkpoint at all."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from audit import cli
from audit.analysis import analyse
from audit.errors import RequestError
from audit.jobs import submit, tasks_pool
from audit.jobs.store import Store
from audit.pool import open_pool
from audit.pool import store as pool_store
from audit.report.run import open_run
from audit.request import Request
from models.base import Denoiser
from tests.jobs.conftest import count_calls
from tests.jobs.pair import pictures, save_pictures
from tests.jobs.test_driver_inline import driver, fail_in, no_background_worker, run  # noqa: F401, the fixture acts by being here

BOTH = ("nearest", "nearest_calibrated")


@pytest.fixture
def drawn(request_for, monkeypatch):
    """A Request of 20 samples in 4 steps, 5 samples a shard; keywords change it."""
    monkeypatch.setattr(pool_store, "CPU_PIXELS", 5 * 64)
    return lambda **changes: request_for(**{"pool": 20, "pool_steps": 4, "attacks": BOTH, "draws": 1, **changes})


def report_of(job):
    return json.loads((Path(job.folder) / "report.json").read_text())


def pool_folders(home):
    return [f for f in (home.home / "pools").iterdir()]


def test_samples_are_drawn_searched_and_reported(home, drawn, monkeypatch):
    made = count_calls(monkeypatch, tasks_pool, "draw_samples")
    job = run(home, drawn(attacks=("loss_eps", *BOTH)))
    assert (job.state, job.error) == ("done", "")
    report, (folder,) = report_of(job), pool_folders(home)
    pool = open_pool(folder)
    assert sum(made) == 80 and job.done_calls == job.total_calls == 48 * 5 + 80 == report["cost"]["model_calls"]
    assert report["pool"]["images"] == 20 and report["pool"]["sha256"] == pool.info["sha256"] and report["pool"]["seconds"] > 0
    assert (report["pool"]["sampler"], report["pool"]["steps"], report["pool"]["seed"], report["pool"]["kind"]) == ("ddim", 4, 0, "drawn") and "pool" not in report["not_checked"]
    rows = {row["name"]: row for row in report["attacks"]}
    assert {row["status"] for row in rows.values()} == {"done"} and rows["nearest"]["model_calls_at_setting"] == 0
    assert rows["nearest"]["needed"] == {"access": "samples", "samples": 20, "steps": 4, "model_calls_per_image": None, "model_calls_once": None, "training_hours": None}
    assert rows["loss_eps"]["needed"]["access"] == "weights" and rows["loss_eps"]["needed"]["samples"] is None
    opened = open_run(job.folder)
    table, chosen = opened.tables["nearest_pixels"], rows["nearest"]["settings"]
    x, g = (a.reshape(len(a), -1) / 127.5 for a in (np.load(Path(job.folder) / "images.npy"), pool.images))
    np.testing.assert_allclose(table.values[0], np.sqrt(((x[:, None] - g[None]) ** 2).sum(axis=2)).min(axis=1), rtol=1e-5)
    read = opened.tables[f"nearest_{chosen['space'].replace('-', '')}{'_mirrored' if chosen['mirrored'] == 'yes' else ''}"]
    np.testing.assert_allclose(opened.scores_of("nearest"), -read.values[0].astype(np.float64))
    page = (Path(job.folder) / "report.html").read_text()
    assert "20 samples, drawn by DDIM in 4 steps, seed 0" in page and "20 finished samples of 4 steps each, and no query about an image" in page
    before = (Path(job.folder) / "report.json").read_bytes()
    shutil.rmtree(folder)
    analyse(job.folder)
    assert (Path(job.folder) / "report.json").read_bytes() == before  # a run folder needs no pool
    shown = json.loads((Path(job.folder) / "pool" / "samples.json").read_text())
    assert shown["shown"] == list(range(20)) and len(shown["pairs"]) == 48 and all((Path(job.folder) / "pool" / f"{i:08d}.png").exists() for i in range(20))
    assert [p["relative"] for p in shown["pairs"]] == sorted(p["relative"] for p in shown["pairs"])


def test_a_pool_is_shared_by_runs_and_goes_on_where_it_stopped_with_the_same_bytes(home, drawn, monkeypatch, tmp_path):
    whole = run(home, drawn(), out=tmp_path / "whole")
    (first,) = pool_folders(home)
    bytes_of_it, calls = (first / "images.npy").read_bytes(), []
    real = tasks_pool.draw_samples
    monkeypatch.setattr(tasks_pool, "draw_samples", lambda *args: calls.append(args[2]) or real(*args))
    again = run(home, drawn(attacks=("nearest",)), out=tmp_path / "again")
    assert again.state == whole.state == "done" and not calls and report_of(again)["pool"] == report_of(whole)["pool"]
    shutil.rmtree(first)
    fail_in(monkeypatch, "draw_samples", RuntimeError("stop"), after=2, module=tasks_pool)
    broken = run(home, drawn(seed=0, name="broken"), out=tmp_path / "broken")
    assert broken.state == "failed" and not (first / "index.json").exists() and len(list(first.glob("shards/*.npz"))) == 2
    calls.clear()
    monkeypatch.setattr(tasks_pool, "draw_samples", lambda *args: calls.append(args[2]) or real(*args))
    (first / "shards" / "00000000-00000005.npz").write_bytes(b"cut short")
    Store(home.home).resume(broken.id)
    driver(home).run_waiting()
    assert Store(home.home).get(broken.id).state == "done" and calls == [0, 10, 15]
    assert (first / "images.npy").read_bytes() == bytes_of_it and not (first / "shards").exists()
    other = run(home, drawn(seed=1), out=tmp_path / "other")
    assert other.state == "done" and len(pool_folders(home)) == 2


def test_a_reference_gets_a_pool_of_its_own(home, drawn, base):
    job = run(home, drawn(reference=base, pool_sampler=None))
    assert job.state == "done" and len(pool_folders(home)) == 2
    opened = open_run(job.folder)
    row = opened.attack("nearest")
    assert row["status"] == "done" and row["reference_auc"] is not None
    read = f"nearest_{row['settings']['space'].replace('-', '')}{'_mirrored' if row['settings']['mirrored'] == 'yes' else ''}"
    difference = opened.tables[f"reference/{read}"].values[0].astype(np.float64) - opened.tables[read].values[0]
    np.testing.assert_allclose(opened.scores_of("nearest"), difference, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(opened.tables[f"reference/{read}"].values, opened.tables[read].values)


@pytest.fixture
def folder(tmp_path, pair):
    """25 generated images: near copies of ten members, and pictures of nothing."""
    members = pictures(48, 0)[:24]
    return save_pictures(tmp_path / "generated", np.concatenate([members[:10] ^ 1, pictures(15, 9)]))


def given(pair, folder, **changes):
    sets = {name: pair[name] for name in ("members", "nonmembers")}
    return Request(**{"checkpoint": None, **sets, "name": "given", "preset": "quick", "device": "cpu", "pool": str(folder), **changes})


def test_without_a_checkpoint_only_samples_are_attacked(home, pair, folder):
    job = run(home, given(pair, folder))
    assert (job.state, job.error) == ("done", "")
    report, opened = report_of(job), open_run(job.folder)
    assert report["checkpoint"]["sha256"] is None and report["checkpoint"]["image_shape"] == [1, 8, 8] and report["checkpoint"]["reason"] and report["self_test"] is None
    assert (report["pool"]["kind"], report["pool"]["images"], report["pool"]["steps"]) == ("given", 25, None) and report["measurement"]["timesteps"] == []
    status = {row["name"]: (row["status"], row["reason"]) for row in report["attacks"]}
    assert {name for name, (state, _) in status.items() if state == "done"} == set(BOTH)
    assert {reason for state, reason in status.values() if state == "skipped"} == {"needs a checkpoint"} and report["cost"]["model_calls"] == 0
    assert set(opened.tables) >= {"nearest_pixels", "neighbours_pixels"} and "eps_mse" not in opened.tables
    assert opened.attack("nearest")["needed"]["samples"] == 25 and opened.attack("nearest")["needed"]["steps"] is None
    members = opened.is_member
    assert (opened.tables["nearest_pixels"].values[0][members] < 0.2).sum() == 10 > (opened.tables["nearest_pixels"].values[0][~members] < 0.2).sum()
    page = re.sub("<script.*?</script>", "", (Path(job.folder) / "report.html").read_text(), flags=re.DOTALL)
    assert "none: no checkpoint was given, only samples" in page and "None" not in page.replace("None of", "")
    assert any("15 of 17 attacks did not run: " in line and ", 11 more (needs a checkpoint)." in line for line in report["verdict"]["not_tested"])
    assert any(claim["text"] == "The model was audited." for claim in report["verdict"]["claims"]["blocked"])
    before = (Path(job.folder) / "report.json").read_bytes()
    analyse(job.folder)
    assert (Path(job.folder) / "report.json").read_bytes() == before


def test_samples_that_are_query_images_are_named_and_left_out(home, pair, folder):
    shutil.copy(Path(pair["members"]) / "members_003.png", folder / "stolen.png")
    job = run(home, given(pair, folder, checkpoint=pair["checkpoint"], attacks=("nearest",)))
    report, opened = report_of(job), open_run(job.folder)
    (warning,) = [w for w in report["warnings"] if "stolen.png" in w]
    assert warning.startswith("1 sample is also among the query images (first: stolen.png) and left out") and "leak" in warning
    assert report["pool"]["images"] == 25 and report["pool"]["query_images"] == 1 and (opened.tables["nearest_pixels"].values[0] > 0).all()
    assert report["checkpoint"]["sha256"] and report["measurement"]["probes"] == [] and report["self_test"]["passed"]


def test_samples_of_another_size_are_resized_once_and_that_is_said(home, pair, folder):
    from PIL import Image

    Image.open(folder / "generated_000.png").resize((16, 16)).save(folder / "generated_000.png")
    job = run(home, given(pair, folder, checkpoint=pair["checkpoint"], attacks=("nearest",)))
    assert "1 of 25 samples had another size and were brought to 8 x 8 once: finer detail of theirs is not compared." in report_of(job)["warnings"]
    alone = run(home, given(pair, folder))
    assert report_of(alone)["checkpoint"]["image_shape"] == [1, 8, 8]  # the commonest size


@pytest.mark.parametrize("what", ["empty", "few", "only queries", "colour"])
def test_a_pool_that_cannot_be_used_is_one_line(what, home, pair, tmp_path, monkeypatch):
    place = tmp_path / "samples"
    if what == "empty":
        place.mkdir()
    elif what == "few":
        save_pictures(place, pictures(4, 3))
    elif what == "only queries":
        shutil.copytree(pair["members"], place)
    else:
        from PIL import Image

        place.mkdir()
        for i in range(12):
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(place / f"{i}.png")
    job = run(home, given(pair, place, checkpoint=pair["checkpoint"] if what == "colour" else None))
    assert job.state == "failed" and job.error.startswith("--pool: ") and "\n" not in job.error and str(tmp_path) not in job.error
    expected = {"empty": "0 usable images in 0 files", "few": "4 usable images in 4 files", "only queries": "are query images", "colour": "takes 1-channel grey images"}
    assert expected[what] in job.error


def test_a_sampler_that_yields_nan_is_one_line(home, drawn, monkeypatch):
    import torch

    from models.base import Prediction

    real, predict = tasks_pool.draw_samples, Denoiser.predict

    def broken(*args):
        monkeypatch.setattr(Denoiser, "predict", lambda self, xt, t, cond=None: Prediction(xt, xt * torch.nan, None))
        outcome = real(*args)
        monkeypatch.setattr(Denoiser, "predict", predict)
        return outcome

    monkeypatch.setattr(tasks_pool, "draw_samples", broken)
    job = run(home, drawn())
    assert job.state == "failed" and job.error.startswith("The sampler met NaN or infinity at t = 199 in 5 of 5 samples.")


def test_what_a_request_may_say_of_a_pool(pair, request_for):
    plain = request_for()
    assert request_for(pool=20).identity() != plain.identity() != request_for(pool=20, pool_steps=10).identity() != request_for(pool=20).identity()
    assert Request.from_json(request_for(pool=20, pool_steps=4).to_json()) == request_for(pool=20, pool_steps=4)
    assert request_for(pool=20).sampler == ("ddim", 50) and request_for(pool=20, pool_sampler="ancestral").sampler == ("ancestral", None)
    for words, changes in (
        ("--pool is 5", {"pool": 5}), ("--pool is True", {"pool": True}),
        ("say how a pool is drawn", {"pool_steps": 5}), ("--pool-sampler is 'euler'", {"pool": 20, "pool_sampler": "euler"}),
        ("--pool-steps is 0", {"pool": 20, "pool_steps": 0}), ("belongs to the ddim sampler", {"pool": 20, "pool_sampler": "ancestral", "pool_steps": 5}),
        ("--checkpoint is missing", {"checkpoint": None}), ("--checkpoint is missing", {"checkpoint": None, "pool": 20}),
        ("--reference says something of a checkpoint", {"checkpoint": None, "pool": "/p", "reference": "/r"}),
        ("--num-heads says something of a checkpoint", {"checkpoint": None, "pool": "/p", "overrides": {"num_heads": 4}}),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=words):
            request_for(**changes)


def test_attacks_that_nothing_was_given_for_are_refused_when_the_job_is_submitted(home, pair, request_for, folder):
    with pytest.raises(RequestError, match="names only nearest, which needs samples: add --pool"):
        submit.submit_audit(home, request_for(attacks=("nearest",)))
    with pytest.raises(RequestError, match="names only pia, sima, which need the model: add --checkpoint"):
        submit.submit_audit(home, given(pair, folder, attacks=("pia", "sima")))
    with pytest.raises(RequestError, match="--pool: gone was not found"):
        submit.submit_audit(home, request_for(pool=str(folder.parent / "gone")))
    with pytest.raises(RequestError, match="lies inside --pool"):
        submit.submit_audit(home, request_for(pool=str(folder)), out=folder / "run")


def test_the_command_line_takes_a_pool_from_flag_and_file(pair, folder, tmp_path, capsys):
    common = ["run", *(part for name in ("members", "nonmembers") for part in (f"--{name}", pair[name]))]

    def request(*flags):
        return cli.request_from(cli._parser().parse_args([*common, *flags]))[0]

    made = request("--checkpoint", pair["checkpoint"], "--pool", "200", "--pool-steps", "20")
    assert (made.pool, made.pool_steps, made.pool_sampler) == (200, 20, None)
    alone = request("--pool", str(folder))
    assert (alone.checkpoint, alone.pool, alone.name) == (None, str(folder), "generated")
    config = tmp_path / "audit.yaml"
    config.write_text("pool: 30\npool-sampler: ancestral\n")
    assert request("--checkpoint", pair["checkpoint"], "--config", str(config)).sampler == ("ancestral", None)
    for flags, words in ((["--pool", str(tmp_path / "gone")], "--pool: gone was not found"), (["--pool", "200"], "--checkpoint is missing"), ([], "--checkpoint is missing")):
        assert cli.main([*common, *flags]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1



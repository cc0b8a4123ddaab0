"""A sweep over protections, as a whole job: same images, settings of the run, paired, and only with the checkpoint that was audited."""

import json
from pathlib import Path

import numpy as np
import pytest

from audit import cli, protections
from audit.api import Api
from audit.errors import RequestError
from audit.jobs import submit
from audit.jobs.store import Store
from audit.report import html, protected
from audit.report.run import open_run
from audit.request import Request
from audit.stats.paired import holm
from tests.jobs.test_driver_inline import driver, no_background_worker, run  # noqa: F401, the fixture acts by being here

SWEEP = (None, Api(), Api(noise=0.5), Api(steps=10), Api(steps=1000))


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(protections, "SWEEP", SWEEP)
    monkeypatch.setattr(protections, "LEAST_IMAGES", 10)


def swept(home, folder, request, images=20):
    job = submit.submit_protections(home, folder, request, images)
    driver(home).run_waiting()
    return Store(home.home).get(job.id)


def test_a_sweep_measures_the_runs_attacks_again_and_writes_what_each_api_leaves(home, request_for, short, pair):
    request = request_for(attacks=("loss_x0", "gray_intermediate", "naive_loss", "secmi", "pfami", "sima"), draws=2)
    audit = run(home, request)
    job = swept(home, audit.folder, request)
    assert (job.state, job.error) == ("done", "") and not list(home.tmp.iterdir())
    opened = open_run(audit.folder)
    found = protected.protections_of(opened)
    assert [e["status"] for e in found["sweep"]] == ["done"] * 4 + ["skipped"] and "Expected at most 200" in found["sweep"][4]["reason"]
    assert found["images"] == {"members": 10, "nonmembers": 10} and found["model_calls"] == sum(e["model_calls"] for e in found["sweep"]) > 0
    names = [row["name"] for row in found["sweep"][0]["attacks"]]
    assert names == ["gray_intermediate", "naive_loss", "secmi", "sima", "pfami"] and all(r["status"] == "done" for e in found["sweep"][:3] for r in e["attacks"])
    index, is_member = protections.images_of(opened, 20), np.asarray(opened.is_member)
    assert opened.evaluation[index].all() and is_member[index].sum() == 10
    from audit.stats.auc import auc

    bare = {row["name"]: row for row in found["sweep"][0]["attacks"]}
    for name in names:  # without an API these are the run's own scores
        assert bare[name]["auc"]["value"] == pytest.approx(auc(opened.scores_of(name)[index], is_member[index]), abs=1e-9), name
        assert bare[name]["difference"] is None
        assert {k: v for k, v in bare[name]["settings"].items() if k not in ("keep_from", "keep_until", "t")}.items() <= opened.attack(name)["settings"].items()
    for entry in found["sweep"][1:4]:
        for row in entry["attacks"]:
            if row["status"] == "done":
                assert row["difference"]["value"] == pytest.approx(row["auc"]["value"] - bare[row["name"]]["auc"]["value"])
    for name in names:  # each attack's changes were looked at together
        changes = [row["difference"] for e in found["sweep"][1:4] for row in e["attacks"] if row["name"] == name and row["status"] == "done"]
        assert len(changes) >= 2 and [c["p_value"] for c in changes] == holm([c["p_unadjusted"] for c in changes])
    assert any(c["p_value"] > c["p_unadjusted"] for e in found["sweep"] for row in e["attacks"] if (c := row.get("difference")) and c["p_value"] is not None)
    assert "p after Holm over the 3 APIs" in protected.note(found) and any(", p " in line for line in protected.lines(found))
    ten = {row["name"]: row["settings"] for row in found["sweep"][3]["attacks"]}
    assert all(settings.get("t", 0) <= 9 and settings.get("keep_until", 0) <= 9 for settings in ten.values())
    document = html.render(opened)
    assert "What protections of an API cost an attacker" in document and (Path(audit.folder) / "report.html").read_text() == document
    assert any("noise 0.5" in line for line in protected.lines(found))
    assert protected.figure(found, opened).layout.meta["alt"] and protected.figure(found, opened, "TPR").data


def test_another_checkpoint_an_api_run_or_a_wrong_count_is_one_line(home, request_for, short, pair, tmp_path, capsys):
    import shutil

    moved = shutil.copytree(pair["checkpoint"], tmp_path / "model")
    request = request_for(attacks=("sima",), checkpoint=str(moved))
    audit = run(home, request)
    with pytest.raises(RequestError, match="--images is 3"):
        submit.submit_protections(home, audit.folder, request, 3)
    from safetensors.numpy import load_file, save_file

    (weights,) = Path(moved).rglob("*.safetensors")
    save_file({name: w * 1.01 for name, w in load_file(weights).items()}, weights, metadata={"format": "pt"})
    job = swept(home, audit.folder, request)
    assert job.state == "failed" and job.error.startswith("The checkpoint is another one than was audited (SHA-256 ") and not (Path(audit.folder) / "protections.json").exists()
    shutil.rmtree(moved)
    job = swept(home, audit.folder, request, 22)
    assert job.state == "failed" and job.error == "The checkpoint model is not where it was. Expected it there, unchanged since the run: put it back."
    path = Path(audit.folder) / "report.json"
    report = json.loads(path.read_text())
    report["measurement"]["api"] = Api().to_json()
    path.write_text(json.dumps(report))
    assert cli.main(["protections", audit.folder]) == 2 and "already" in capsys.readouterr().err
    assert Request.from_json(open_run(audit.folder).request) == request

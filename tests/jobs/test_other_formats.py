"""Checkpoints that are no diffusers folder, through a whole audit: the settings that the file does not say come with the request."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from audit.jobs import submit
from audit.jobs.cluster import Engines, Inline
from audit.jobs.driver import Driver
from audit.jobs.inputs import fingerprint
from audit.jobs.store import Store
from tests.jobs.trained import OPENAI, PYTORCH_DDPM, save_latent_pipeline, save_openai, save_pytorch_ddpm
from tests.models import tiny


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)


@pytest.fixture(scope="module")
def openai_file(tmp_path_factory):
    return str(save_openai(tmp_path_factory.mktemp("openai") / "model000400.pt"))


@pytest.mark.slow
def test_an_openai_file_with_its_settings(home, request_for, openai_file):
    def run(overrides):
        job, _ = submit.submit_audit(home, request_for(checkpoint=openai_file, overrides=overrides, attacks=("loss_vlb", "pia", "sima")))
        Driver(home, Engines(home, Inline)).run_waiting()
        return Store(home.home).get(job.id)

    job = run(OPENAI)
    assert (job.state, job.error) == ("done", "")
    report = json.loads((Path(job.folder) / "report.json").read_text())
    assert report["checkpoint"]["format"] == "openai" and {a["name"]: a["status"] for a in report["attacks"]} == dict.fromkeys(("loss_vlb", "pia", "sima"), "done")
    assert {s["name"]: s["decided_by"] for s in report["checkpoint"]["settings"]}["num_heads"] == "user"
    missing = run({k: v for k, v in OPENAI.items() if k != "num_heads"})
    assert missing.state == "failed" and "num_heads" in missing.error
    wrong = run(OPENAI | {"rescale_timesteps": False, "beta_schedule": "cosine", "prediction_type": "sample"})
    assert wrong.state == "failed" and wrong.error.startswith("The checkpoint does not denoise these images") and wrong.error.endswith("give --prediction-type epsilon.")


@pytest.mark.slow
def test_the_file_of_pytorch_ddpm(home, request_for, tmp_path):
    attacks = ("loss_vlb", "secmi", "sima")
    job, _ = submit.submit_audit(home, request_for(checkpoint=str(save_pytorch_ddpm(tmp_path / "ckpt.pt")), overrides=PYTORCH_DDPM, attacks=attacks))
    Driver(home, Engines(home, Inline)).run_waiting()
    job = Store(home.home).get(job.id)
    assert (job.state, job.error) == ("done", "")
    report = json.loads((Path(job.folder) / "report.json").read_text())
    assert (report["checkpoint"]["format"], report["checkpoint"]["weights"]) == ("pytorch_ddpm", "ema")
    assert {a["name"]: a["status"] for a in report["attacks"]} == dict.fromkeys(attacks, "done")


@pytest.mark.slow
def test_a_pickle_is_converted_once_into_the_home_and_read_from_there(home, request_for, openai_file, monkeypatch):
    def run(seed):
        job, _ = submit.submit_audit(home, request_for(checkpoint=openai_file, overrides=OPENAI, attacks=("sima",), seed=seed))
        Driver(home, Engines(home, Inline)).run_waiting()
        return Store(home.home).get(job.id)

    first = run(0)
    assert first.state == "done", first.error
    sha256 = json.loads((Path(first.folder) / "report.json").read_text())["checkpoint"]["sha256"]
    assert [p.name for p in (home.home / "checkpoints").iterdir()] == [f"{sha256[:32]}.safetensors"]

    def unpickle(*args, **kwargs):
        raise AssertionError("unpickled again")

    monkeypatch.setattr(torch, "load", unpickle)
    monkeypatch.setattr("audit.jobs.tasks._cache", {})
    second = run(1)
    assert second.state == "done", second.error


@pytest.mark.slow
def test_settings_beside_the_file_are_read_again_when_they_change(home, request_for, openai_file, tmp_path):
    """The worker keeps the last network open, pools are shared by runs, and the file of the weights itself stays as it is."""
    import yaml

    path = Path(shutil.copy(openai_file, tmp_path))
    asked = {"checkpoint": str(path), "attacks": ("loss_vlb", "nearest"), "pool": 12, "pool_sampler": "ancestral"}

    def run(variance):
        path.with_suffix(".yaml").write_text(yaml.safe_dump(OPENAI | {"variance": variance}))
        job, _ = submit.submit_audit(home, request_for(**asked))
        Driver(home, Engines(home, Inline)).run_waiting()
        job = Store(home.home).get(job.id)
        assert (job.state, job.error) == ("done", "")
        report = json.loads((Path(job.folder) / "report.json").read_text())
        said = {s["name"]: (s["value"], s["decided_by"]) for s in report["checkpoint"]["settings"]}["variance"]
        return said, (Path(job.folder) / "tables" / "vlb_bits.npy").read_bytes(), report["pool"]["sha256"]

    (small, its_bits, its_pool), (large, other_bits, other_pool) = run("fixed_small"), run("fixed_large")
    assert (small, large) == (("fixed_small", path.with_suffix(".yaml").name), ("fixed_large", path.with_suffix(".yaml").name))
    assert its_bits != other_bits and its_pool != other_pool


def test_the_fingerprint_of_a_weights_file_follows_what_is_read_beside_it(tmp_path):
    file, seen = tmp_path / "model.pt", []
    file.write_bytes(b"1")
    for name in ("model.yaml", "config.json", "scheduler/scheduler_config.json", "vqvae/config.json"):
        seen.append(fingerprint(file))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a: 1")
        seen.append(fingerprint(file))
        os.utime(tmp_path / name, ns=(1, 1))
    seen.append(fingerprint(file))
    assert len(set(seen)) == 9 and fingerprint(file) == seen[-1]
    for name in ("other.pt", "other.yaml", "notes.json"):
        (tmp_path / name).write_text("a: 1")
    assert fingerprint(file) == seen[-1]  # somebody else's files


@pytest.mark.slow
@pytest.mark.parametrize(("save", "architecture"), [(tiny.save_latent, "UNet2DModel"), (tiny.save_stable_diffusion, "UNet2DConditionModel")], ids=["latent", "stable diffusion"])
def test_a_latent_pipeline_goes_through_a_whole_audit(home, request_for, tmp_path, save, architecture):
    attacks = ("loss_vlb", "loss_x0", "pia", "secmi", "sima")
    job, _ = submit.submit_audit(home, request_for(checkpoint=str(save_latent_pipeline(tmp_path / "model", save)), attacks=attacks))
    Driver(home, Engines(home, Inline)).run_waiting()
    job = Store(home.home).get(job.id)
    assert (job.state, job.error) == ("done", "")
    report = json.loads((Path(job.folder) / "report.json").read_text())
    assert report["checkpoint"]["architecture"].startswith(architecture) and report["checkpoint"]["image_shape"] == [1, 16, 16]
    assert {a["name"]: a["status"] for a in report["attacks"]} == dict.fromkeys(attacks, "done")

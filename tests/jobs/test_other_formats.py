"""Checkpoints that are no diffusers folder, through a whole audit: the settings that the file does not say come with the request."""

import copy
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
from models import open_checkpoint
from models.nets.openai_unet import Heads, Layout, OpenAIUNet
from models.pixels import to_model_range
from models.schedule import betas_for, from_betas, openai_betas
from tests.jobs import pair
from tests.models import tiny

STEPS, TRAINED = 100, 400
SETTINGS = {"image_size": 8, "train_timesteps": STEPS, "beta_schedule": "linear", "rescale_timesteps": True, "prediction_type": "epsilon", "variance": "fixed_small"}
SETTINGS |= {"num_heads": 4, "attention_order": "legacy"}


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    monkeypatch.setattr(submit, "ensure_worker", lambda config: False)


@pytest.fixture(scope="module")
def openai_file(tmp_path_factory):
    """An improved-diffusion .pt with one channel, trained on the pictures of the pair just long enough to beat the self-test."""
    torch.manual_seed(0)
    network = OpenAIUNet(Layout(1, 1, 32, 32, (32, 32), 1, (1,), True, False, None), Heads(num_heads=4)).train()
    abar = torch.from_numpy(from_betas(openai_betas("linear", STEPS)).alphas_cumprod).float()
    x0, generator = torch.from_numpy(to_model_range(pair.pictures(24, 0))), torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(TRAINED):
        batch = x0[torch.randint(len(x0), (16,), generator=generator)]
        noise, t = torch.randn(batch.shape, generator=generator), torch.randint(STEPS, (16,), generator=generator)
        a = abar[t].view(-1, 1, 1, 1)
        loss = (network(a.sqrt() * batch + (1 - a).sqrt() * noise, t.float() * 1000 / STEPS) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("openai") / "model000400.pt"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.mark.slow
def test_an_openai_file_with_its_settings(home, request_for, openai_file):
    def run(overrides):
        job, _ = submit.submit_audit(home, request_for(checkpoint=openai_file, overrides=overrides, attacks=("loss_vlb", "pia", "sima")))
        Driver(home, Engines(home, Inline)).run_waiting()
        return Store(home.home).get(job.id)

    job = run(SETTINGS)
    assert (job.state, job.error) == ("done", "")
    report = json.loads((Path(job.folder) / "report.json").read_text())
    assert report["checkpoint"]["format"] == "openai" and {a["name"]: a["status"] for a in report["attacks"]} == dict.fromkeys(("loss_vlb", "pia", "sima"), "done")
    assert {s["name"]: s["decided_by"] for s in report["checkpoint"]["settings"]}["num_heads"] == "user"
    missing = run({k: v for k, v in SETTINGS.items() if k != "num_heads"})
    assert missing.state == "failed" and "num_heads" in missing.error
    wrong = run(SETTINGS | {"rescale_timesteps": False, "beta_schedule": "cosine", "prediction_type": "sample"})
    assert wrong.state == "failed" and wrong.error.startswith("The checkpoint does not denoise these images") and wrong.error.endswith("give --prediction-type epsilon.")


@pytest.mark.slow
def test_a_pickle_is_converted_once_into_the_home_and_read_from_there(home, request_for, openai_file, monkeypatch):
    def run(seed):
        job, _ = submit.submit_audit(home, request_for(checkpoint=openai_file, overrides=SETTINGS, attacks=("sima",), seed=seed))
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
        path.with_suffix(".yaml").write_text(yaml.safe_dump(SETTINGS | {"variance": variance}))
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


def trained_latent(folder, save):
    """A latent pipeline whose random autoencoder stays, and whose network learns the latents of the pair's pictures just long enough to beat the self-test."""
    network, autoencoder = save(folder)[:2]
    network, x0 = copy.deepcopy(network).requires_grad_(True).train(), torch.from_numpy(to_model_range(pair.pictures(24, 0)))
    with torch.no_grad():
        latents = autoencoder.encode(torch.nn.functional.interpolate(x0, scale_factor=2)).latent_dist.mean
    scale = 1 / float(latents.std())
    tiny.edit(folder / ("vae" if (folder / "vae").exists() else "vqvae") / "config.json", scaling_factor=scale)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    abar, generator = torch.from_numpy(from_betas(betas_for(config)).alphas_cumprod).float(), torch.Generator().manual_seed(1)
    optimiser, more = torch.optim.AdamW(network.parameters(), lr=4e-3), {}
    if hasattr(network.config, "cross_attention_dim"):
        more["encoder_hidden_states"] = open_checkpoint(folder).embed([""]).expand(16, -1, -1)
    for _ in range(TRAINED):
        batch, t = latents[torch.randint(len(latents), (16,), generator=generator)] * scale, torch.randint(len(abar), (16,), generator=generator)
        noise, a = torch.randn(batch.shape, generator=generator), abar[t].view(-1, 1, 1, 1)
        loss = (network(a.sqrt() * batch + (1 - a).sqrt() * noise, t, **more).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.save_pretrained(folder / "unet")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("save", "architecture"), [(tiny.save_latent, "UNet2DModel"), (tiny.save_stable_diffusion, "UNet2DConditionModel")], ids=["latent", "stable diffusion"])
def test_a_latent_pipeline_goes_through_a_whole_audit(home, request_for, tmp_path, save, architecture):
    attacks = ("loss_vlb", "loss_x0", "pia", "secmi", "sima")
    job, _ = submit.submit_audit(home, request_for(checkpoint=trained_latent(tmp_path / "model", save), attacks=attacks))
    Driver(home, Engines(home, Inline)).run_waiting()
    job = Store(home.home).get(job.id)
    assert (job.state, job.error) == ("done", "")
    report = json.loads((Path(job.folder) / "report.json").read_text())
    assert report["checkpoint"]["architecture"].startswith(architecture) and report["checkpoint"]["image_shape"] == [1, 16, 16]
    assert {a["name"]: a["status"] for a in report["attacks"]} == dict.fromkeys(attacks, "done")

"""Checkpoints that are no diffusers folder, through a whole audit: the settings that the file does not say come with the request."""

import json
from pathlib import Path

import pytest
import torch

from audit.jobs import submit
from audit.jobs.cluster import Engines, Inline
from audit.jobs.driver import Driver
from audit.jobs.store import Store
from models.nets.openai_unet import Heads, Layout, OpenAIUNet
from models.pixels import to_model_range
from models.schedule import from_betas, openai_betas
from tests.jobs import pair

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

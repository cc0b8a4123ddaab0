"""`python -m audit run` on a class-conditional and on a latent model: tiny networks, trained just long enough to beat the self-test."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.nets.openai_unet import Heads, Layout, OpenAIUNet
from models.pixels import to_model_range
from models.schedule import from_betas, openai_betas
from tests.jobs import pair
from tests.jobs.test_worker import worker  # noqa: F401, a fixture
from tests.models import tiny

STEPS = 100
FLAGS = ("--image-size", "8", "--train-timesteps", str(STEPS), "--beta-schedule", "linear", "--rescale-timesteps", "--prediction-type", "epsilon")
FLAGS += ("--variance", "fixed_small", "--num-heads", "4", "--attention-order", "legacy")
pytestmark = pytest.mark.slow


def command(*args):
    """(exit code, stdout, stderr)."""
    done = subprocess.run([sys.executable, "-m", "audit", *map(str, args)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."}, timeout=300)
    return done.returncode, done.stdout, done.stderr


def train(network, x0, abar, answer, steps, rate):
    """Fit answer(xt, t, images) to the noise."""
    generator, optimiser = torch.Generator().manual_seed(1), torch.optim.AdamW(network.train().parameters(), lr=rate)
    for _ in range(steps):
        chosen = torch.randint(len(x0), (16,), generator=generator)
        noise, t = torch.randn((16, *x0.shape[1:]), generator=generator), torch.randint(len(abar), (16,), generator=generator)
        a = abar[t].view(-1, 1, 1, 1)
        loss = (answer(a.sqrt() * x0[chosen] + (1 - a).sqrt() * noise, t, chosen) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()


def test_a_class_conditional_file_with_class_sub_folders(worker, tmp_path):  # noqa: F811
    torch.manual_seed(0)
    network, images = OpenAIUNet(Layout(1, 1, 32, 32, (32, 32), 1, (1,), True, False, 3), Heads(num_heads=4)), pair.pictures(48, 0)
    labels = torch.arange(48) % 3
    abar = torch.from_numpy(from_betas(openai_betas("linear", STEPS)).alphas_cumprod).float()
    train(network, torch.from_numpy(to_model_range(images[:24])), abar, lambda xt, t, i: network(xt, t.float() * 1000 / STEPS, labels[i]), 400, 2e-3)
    torch.save(network.state_dict(), tmp_path / "model000400.pt")
    for side, part in (("members", images[:24]), ("nonmembers", images[24:])):
        for label in range(3):
            pair.save_pictures(tmp_path / side / str(label), part[label::3])
    given = ("run", "--checkpoint", tmp_path / "model000400.pt", "--members", tmp_path / "members", "--nonmembers", tmp_path / "nonmembers", *FLAGS)
    given += ("--preset", "quick", "--timesteps", "5", "--draws", "1", "--batch-size", "16", "--device", "cpu", "--attacks", "naive_loss,pia,sima,gray_free")
    code, _, err = command(*given, "--out", tmp_path / "run")
    assert code in (0, 3) and err == "", err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {a["name"]: a["status"] for a in report["attacks"]} == {"gray_free": "skipped", "naive_loss": "done", "pia": "done", "sima": "done"}
    assert report["warnings"] == ["Class labels are the numbers of the sub-folders (3 of the model's 3 classes)."]
    images = json.loads((tmp_path / "run" / "queries.json").read_text())["images"]
    assert all(image["path"].startswith(f"{image['label']}/") for image in images)
    (tmp_path / "labels.csv").write_text("image,class\n" + "".join(f"{'members' if i['is_member'] else 'nonmembers'}/{i['path']},{i['label']}\n" for i in images))
    assert command(*given, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "same")[0] == code
    assert (tmp_path / "same" / "tables" / "eps_mse.npy").read_bytes() == (tmp_path / "run" / "tables" / "eps_mse.npy").read_bytes()
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text().replace(",2\n", ",3\n"))
    code, _, err = command(*given, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "wrong")
    assert code == 2 and err.count("\n") == 1 and "has class 3. Expected 0 to 2, the model's 3 classes" in err


def test_a_latent_pipeline(worker, tmp_path):  # noqa: F811
    pytest.importorskip("models.latent", reason="latent pipelines do not open in this version")
    import diffusers

    images = pair.pictures(48, 0).repeat(2, axis=1).repeat(2, axis=2)
    torch.manual_seed(0)
    config = {"in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    config |= {"latent_channels": 2, "norm_num_groups": 4, "sample_size": 16}
    vae = diffusers.AutoencoderKL(**config).eval()
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(to_model_range(images))).latent_dist.mode()
        factor = float(1 / latents.std())
    vae.register_to_config(scaling_factor=factor)
    network = tiny.network(**tiny.PLAIN | {"in_channels": 2, "out_channels": 2})
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=200)
    train(network, latents[:24] * factor, scheduler.alphas_cumprod, lambda xt, t, i: network(xt, t).sample, 80, 8e-3)
    place = tmp_path / "ldm"
    for part, made in (("unet", network), ("vqvae", vae), ("scheduler", scheduler)):
        made.save_pretrained(place / part)
    entries = {"unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "AutoencoderKL"], "scheduler": ["diffusers", "DDPMScheduler"]}
    (place / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline", "_diffusers_version": diffusers.__version__} | entries))
    for side, part in (("members", images[:24]), ("nonmembers", images[24:])):
        pair.save_pictures(tmp_path / side, part)
    given = ("run", "--checkpoint", place, "--members", tmp_path / "members", "--nonmembers", tmp_path / "nonmembers", "--preset", "quick", "--timesteps", "5", "--draws", "1")
    given += ("--batch-size", "16", "--device", "cpu", "--attacks", "all", "--budget", "100", "--out", tmp_path / "run")
    code, _, err = command(*given)
    assert code in (0, 3) and err == "", err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    left = {a["name"]: a["status"] for a in report["attacks"] if a["status"] != "done"}
    assert left == dict.fromkeys(("gray_intermediate", "nearest", "nearest_calibrated"), "skipped") and report["checkpoint"]["image_shape"] == [1, 16, 16]
    x0_mse = np.load(tmp_path / "run" / "tables" / "x0_mse.npy")
    assert np.isfinite(x0_mse).all() and np.isnan(np.load(tmp_path / "run" / "tables" / "vlb_bits.npy")[0]).all()
    assert len(list((tmp_path / "run" / "thumbnails").iterdir())) == 48


def test_a_pipeline_that_takes_text(worker, tmp_path):  # noqa: F811
    pytest.importorskip("models.captions", reason="text-conditional pipelines do not open in this version")
    from models import open_checkpoint

    images = pair.pictures(48, 0).repeat(2, axis=1).repeat(2, axis=2)
    tiny.save_stable_diffusion(tmp_path / "sd", scheduler_config={"num_train_timesteps": 200})
    model = open_checkpoint(tmp_path / "sd")
    said = [f"the cat on {i % 5}" for i in range(24)]
    x0, embedded = model.encode(torch.from_numpy(to_model_range(images[:24]))), model.embed(said)
    factor = float(model.autoencoder.scale / x0.std())
    tiny.edit(tmp_path / "sd" / "vae" / "config.json", scaling_factor=factor)
    abar, network = torch.from_numpy(model.schedule.alphas_cumprod).float(), model.network.requires_grad_(True)
    train(network, x0 / x0.std(), abar, lambda xt, t, i: network(xt, t, encoder_hidden_states=embedded[i]).sample, 150, 8e-3)
    network.save_pretrained(tmp_path / "sd" / "unet")
    rows = [f"{side}_{i:03}.png,{text}" for side in ("members", "nonmembers") for i, text in enumerate(said)]
    (tmp_path / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    for side, part in (("members", images[:24]), ("nonmembers", images[24:])):
        pair.save_pictures(tmp_path / side, part)
    given = ("run", "--checkpoint", tmp_path / "sd", "--members", tmp_path / "members", "--nonmembers", tmp_path / "nonmembers", "--preset", "quick", "--timesteps", "5")
    given += ("--draws", "1", "--batch-size", "16", "--device", "cpu", "--attacks", "naive_loss,pia,pfami,gray_free")
    reports, losses = [], []
    for name, more in (("with", ("--captions", tmp_path / "captions.csv")), ("without", ())):
        code, _, err = command(*given, *more, "--out", tmp_path / name)
        assert code in (0, 3) and err == "", err
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
        losses.append(np.load(tmp_path / name / "tables" / "eps_mse.npy"))
    status = [{a["name"]: a["status"] for a in report["attacks"]} for report in reports]
    assert status[0] == dict.fromkeys(status[0], "done") | {"gray_free": "skipped"} and set(status[1].values()) == {"done"}
    assert reports[0]["warnings"] == [] and reports[1]["warnings"][0].startswith("The model takes text and no captions were given")
    assert not np.allclose(*losses, rtol=1e-3)

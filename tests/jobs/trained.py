"""Checkpoints of other formats than a diffusers folder, trained on the pictures of the pair just long enough to beat the self-test."""

import copy
import json

import torch

from models import open_checkpoint
from models.nets.ddpm_unet import DDPMUNet
from models.nets.openai_unet import Heads, Layout, OpenAIUNet
from models.pixels import to_model_range
from models.schedule import betas_for, from_betas, openai_betas
from tests.jobs import pair
from tests.models import tiny

STEPS, TRAINED = 100, 400
OPENAI = {"image_size": 8, "train_timesteps": STEPS, "beta_schedule": "linear", "rescale_timesteps": True, "prediction_type": "epsilon", "variance": "fixed_small"}
OPENAI |= {"num_heads": 4, "attention_order": "legacy"}
PYTORCH_DDPM = {"recipe": "pytorch-ddpm", "image_size": 8}


def _members():
    """float32 (24,1,8,8), the members of the pair."""
    return torch.from_numpy(to_model_range(pair.pictures(24, 0)))


def _train(network, answer, x0, abar, rate):
    """TRAINED steps on the noise error. Args: answer(xt, t): the network's eps_hat."""
    generator, optimiser = torch.Generator().manual_seed(1), torch.optim.AdamW(network.train().parameters(), lr=rate)
    for _ in range(TRAINED):
        batch, t = x0[torch.randint(len(x0), (16,), generator=generator)], torch.randint(len(abar), (16,), generator=generator)
        noise, a = torch.randn(batch.shape, generator=generator), abar[t].view(-1, 1, 1, 1)
        loss = (answer(a.sqrt() * batch + (1 - a).sqrt() * noise, t) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def save_openai(path):
    """An improved-diffusion .pt with one channel, whose settings are OPENAI. Returns its path."""
    torch.manual_seed(0)
    network = OpenAIUNet(Layout(1, 1, 32, 32, (32, 32), 1, (1,), True, False, None), Heads(num_heads=4))
    abar = torch.from_numpy(from_betas(openai_betas("linear", STEPS)).alphas_cumprod).float()
    _train(network, lambda xt, t: network(xt, t.float() * 1000 / STEPS), _members(), abar, 2e-3)
    torch.save(network.state_dict(), path)
    return path


def save_pytorch_ddpm(path):
    """A ckpt.pt of pytorch-ddpm with one channel, whose settings are PYTORCH_DDPM; its raw weights are random. Returns its path."""
    torch.manual_seed(0)
    network, raw = (DDPMUNet(STEPS, 1, 32, (32, 32), 1, (1,)) for _ in range(2))
    with torch.no_grad():
        for one in (network, raw):
            one.time_embedding.timembedding[0].weight.copy_(tiny.interleaved_table(STEPS, 32))
    network.time_embedding.timembedding[0].weight.requires_grad_(False)
    abar = torch.from_numpy(from_betas(torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64).numpy()).alphas_cumprod).float()
    _train(network, network, _members(), abar, 2e-3)
    torch.save({"net_model": raw.state_dict(), "ema_model": network.state_dict(), "step": TRAINED}, path)
    return path


def save_latent_pipeline(folder, save):
    """A latent pipeline whose random autoencoder stays, and whose network learns the latents of the pair's pictures just long enough to beat the self-test."""
    network, autoencoder = save(folder)[:2]
    network, x0 = copy.deepcopy(network).requires_grad_(True), _members()
    with torch.no_grad():
        latents = autoencoder.encode(torch.nn.functional.interpolate(x0, scale_factor=2)).latent_dist.mean
    scale = 1 / float(latents.std())
    tiny.edit(folder / ("vae" if (folder / "vae").exists() else "vqvae") / "config.json", scaling_factor=scale)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    abar, more = torch.from_numpy(from_betas(betas_for(config)).alphas_cumprod).float(), {}
    if hasattr(network.config, "cross_attention_dim"):
        more["encoder_hidden_states"] = open_checkpoint(folder).embed([""]).expand(16, -1, -1)
    _train(network, lambda xt, t: network(xt, t, **more).sample, latents * scale, abar, 4e-3)
    network.save_pretrained(folder / "unet")
    return folder

"""A checkpoint that really denoises, and two small sets of pictures: what a whole audit needs, made in seconds."""

import numpy as np
import torch
from PIL import Image

from models.pixels import to_model_range
from tests.models import tiny

SIDE = 8


def pictures(count, seed):
    """uint8 (N,8,8,1): soft blobs, smooth enough that a tiny network learns them in a few steps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    centre, width, height = rng.uniform(1, 6, (2, count, 1, 1)), rng.uniform(1.5, 3, (count, 1, 1)), rng.uniform(120, 255, (count, 1, 1))
    blobs = height * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))
    return np.round(blobs).astype(np.uint8)[..., None]


def save_pictures(folder, images):
    """One PNG each."""
    folder.mkdir(parents=True)
    for i, pixels in enumerate(images):
        Image.fromarray(pixels[..., 0]).save(folder / f"{folder.name}_{i:03}.png")
    return folder


def save_checkpoint(folder, images, steps=60):
    """A diffusers DDPM folder, trained on `images` just long enough to beat the self-test."""
    import diffusers

    network, scheduler = tiny.network(), diffusers.DDPMScheduler(num_train_timesteps=200)
    x0, generator = torch.from_numpy(to_model_range(images)), torch.Generator().manual_seed(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine the threads of so small a network wait for each other most of the time
    optimiser = torch.optim.AdamW(network.train().parameters(), lr=8e-3)
    for _ in range(steps):
        batch = x0[torch.randint(len(x0), (32,), generator=generator)]
        noise, t = torch.randn(batch.shape, generator=generator), torch.randint(200, (32,), generator=generator)
        loss = (network(scheduler.add_noise(batch, noise, t), t).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.set_num_threads(threads)
    tiny.save(folder, scheduler_config={"num_train_timesteps": 200}, unet=network.eval())
    return folder


def make_pair(root, members=24, nonmembers=24):
    """{"checkpoint", "members", "nonmembers"}: absolute paths as text."""
    images = pictures(members + nonmembers, 0)
    save_checkpoint(root / "tiny-ddpm", images[:members])
    save_pictures(root / "members", images[:members])
    save_pictures(root / "nonmembers", images[members:])
    return {name: str(root / folder) for name, folder in (("checkpoint", "tiny-ddpm"), ("members", "members"), ("nonmembers", "nonmembers"))}

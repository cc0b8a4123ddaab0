"""Train a small pixel-space diffusion model and save it as a diffusers folder.

    python -m models.train --images FOLDER --out CHECKPOINT --image-size 32 --steps 20000

Made for targets of experiments, for the bundled demo and for surrogates: AdamW, an exponential moving average (saved beside the raw weights),
optional flips, any diffusers scheduler, exact resume. Beside the weights stands `training.json`: every setting, the loss, and the list of training
images with their hashes, so that an audit of the result can prove who was a member.

Randomness of step n depends on (seed, n) only, so a resumed run gives the weights of an uninterrupted one.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models import pixels
from models.errors import ImageError, ModelError
from models.imagefiles import ImageFile, pixels_of, read_set
from models.schedule import betas_for, from_betas, q_sample, training_target


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training; refuses bad values when built.

    image_size in pixels; steps of `batch_size` images; lr of AdamW; ema_decay in [0, 1), 0 = no average; flip: mirror half of the images;
    scheduler: class name in diffusers, scheduler_config: its JSON settings; block_out_channels and attention: one entry per level.
    """

    image_size: int = 32
    channels: int = 3
    steps: int = 10_000
    batch_size: int = 64
    lr: float = 2e-4
    weight_decay: float = 0.0
    warmup: int = 200
    ema_decay: float = 0.999
    flip: bool = False
    dropout: float = 0.0
    scheduler: str = "DDPMScheduler"
    scheduler_config: dict = dataclasses.field(default_factory=dict)
    block_out_channels: tuple[int, ...] = (64, 128, 128)
    attention: tuple[bool, ...] = (False, False, True)
    layers_per_block: int = 1
    seed: int = 0

    def __post_init__(self):
        for name in ("image_size", "channels", "steps", "batch_size", "layers_per_block"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}. Expected at least 1.")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.dropout < 1 or self.lr <= 0:
            raise ModelError("Expected ema_decay and dropout in [0, 1) and lr above 0.")
        if len(self.attention) != len(self.block_out_channels):
            raise ModelError("Expected one attention entry (0 or 1) per level of block_out_channels.")
        if self.image_size % 2 ** (len(self.block_out_channels) - 1):
            raise ModelError(f"image_size {self.image_size} cannot be halved {len(self.block_out_channels) - 1} times: use fewer levels.")


def build_network(settings):
    """A UNet2DModel for these settings, freshly initialised from settings.seed."""
    from diffusers import UNet2DModel

    torch.manual_seed(settings.seed)
    groups = int(np.gcd.reduce([16, *settings.block_out_channels]))
    return UNet2DModel(
        sample_size=settings.image_size,
        in_channels=settings.channels,
        out_channels=settings.channels,
        block_out_channels=settings.block_out_channels,
        layers_per_block=settings.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in settings.attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(settings.attention)),
        norm_num_groups=groups,
        attention_head_dim=groups,
        dropout=settings.dropout,
    )


def build_scheduler(settings):
    """The diffusers scheduler that is saved with the weights."""
    import diffusers

    cls = getattr(diffusers, settings.scheduler, None)
    if cls is None or not settings.scheduler.endswith("Scheduler"):
        raise ModelError(f"diffusers has no scheduler {settings.scheduler!r}. Expected a class name such as DDPMScheduler or DDIMScheduler.")
    return cls(**settings.scheduler_config)


def train(settings, images, out, names=None, device="cpu", save_every=1000, progress=None):
    """Train on images and save a diffusers folder; resumes when `out` holds an unfinished training with the same settings and images.

    Args:
        images: uint8 (N,H,W,C), already at settings.image_size.
        out: folder; gets unet/ (EMA weights), unet_raw/, scheduler/, model_index.json, training.json.
        names: N names for training.json; progress: called as progress(step, steps, mean_loss).
    Returns: Path of `out`.
    Raises: ModelError.
    """
    from diffusers.training_utils import EMAModel

    out, device = Path(out), torch.device(device)
    if not len(images):
        raise ModelError("No training images. Expected at least one.")
    identity = {"settings": dataclasses.asdict(settings), "images": [pixels.image_id(p) for p in images]}
    network, scheduler = build_network(settings).to(device).train(), build_scheduler(settings)
    schedule = from_betas(betas_for(scheduler.config))
    prediction_type = scheduler.config.get("prediction_type", "epsilon")
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    ema = EMAModel(network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75) if settings.ema_decay else None
    start, losses, seconds = _resume(out, identity, network, optimizer, ema, device)
    data = torch.from_numpy(pixels.to_model_range(images))
    began = time.monotonic()
    for step in range(start, settings.steps):
        x0, t, eps = _batch(data, settings, schedule, step)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, (step + 1) / max(1, settings.warmup))
        xt = q_sample(schedule, x0, t, eps).to(device)
        target = training_target(schedule, x0, eps, t, prediction_type).to(device)
        loss = torch.nn.functional.mse_loss(network(xt, t.to(device)).sample, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if ema:
            ema.step(network.parameters())
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise ModelError(f"Training diverged at step {step} (loss {losses[-1]}). Use a smaller lr.")
        if progress:
            progress(step + 1, settings.steps, float(np.mean(losses[-100:])))
        if (step + 1) % save_every == 0 and step + 1 < settings.steps:
            _save_state(out, identity, network, optimizer, ema, step + 1, losses, seconds + time.monotonic() - began)
    _save_result(out, identity, names, settings, network, ema, scheduler, losses, seconds + time.monotonic() - began)
    return out


def _batch(data, settings, schedule, step):
    """(x0, t, eps) of one step; without replacement within an epoch, from (seed, step) alone."""
    size = min(settings.batch_size, len(data))
    per_epoch = max(1, len(data) // size)
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([settings.seed, 1, epoch]).permutation(len(data))[index * size : (index + 1) * size]
    rng = torch.Generator().manual_seed(int(np.random.SeedSequence([settings.seed, 2, step]).generate_state(1, np.uint64)[0] >> 1))
    x0 = data[order]
    t = torch.randint(0, len(schedule), (len(x0),), generator=rng)
    eps = torch.randn(x0.shape, generator=rng)
    if settings.flip:
        mirrored = torch.rand(len(x0), generator=rng) < 0.5
        x0 = torch.where(mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
    return x0, t, eps


def _state_file(out):
    return out / "unfinished.pt"


def _save_state(out, identity, network, optimizer, ema, step, losses, seconds):
    out.mkdir(parents=True, exist_ok=True)
    state = {"identity": json.dumps(identity), "network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "losses": losses, "seconds": seconds}
    if ema:
        state["ema"] = ema.state_dict()
    tmp = _state_file(out).with_suffix(".tmp")
    torch.save(state, tmp)
    os.replace(tmp, _state_file(out))


def _resume(out, identity, network, optimizer, ema, device):
    """(step to begin with, losses so far, seconds so far)."""
    if (out / "training.json").exists():
        raise ModelError(f"{out.name} already holds a finished training. Choose another --out or delete it.")
    if not _state_file(out).exists():
        return 0, [], 0.0
    state = torch.load(_state_file(out), map_location=device, weights_only=True)
    if state["identity"] != json.dumps(identity):
        raise ModelError(f"{out.name} holds an unfinished training with other settings or images. Choose another --out or delete it.")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    if ema:
        ema.load_state_dict(state["ema"])
    return state["step"], list(state["losses"]), state["seconds"]


def _save_result(out, identity, names, settings, network, ema, scheduler, losses, seconds):
    import diffusers

    network.eval().save_pretrained(out / "unet_raw")
    if ema:
        ema.copy_to(network.parameters())
    network.save_pretrained(out / "unet")
    scheduler.save_pretrained(out / "scheduler")
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": diffusers.__version__, "scheduler": ["diffusers", settings.scheduler], "unet": ["diffusers", "UNet2DModel"]}
    (out / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
    every = max(1, len(losses) // 100)
    manifest = {
        "settings": identity["settings"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "loss": [{"step": i + every, "mean": round(float(np.mean(losses[i : i + every])), 6)} for i in range(0, len(losses), every)],
        "seconds": round(seconds, 1),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "images": [{"name": n, "image_id": i} for n, i in zip(names or [""] * len(identity["images"]), identity["images"], strict=True)],
    }
    tmp = out / "training.tmp"
    tmp.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(tmp, out / "training.json")
    _state_file(out).unlink(missing_ok=True)


def load_images(paths, image_size, channels, resample="bicubic"):
    """(uint8 (N,H,W,C), names, left_out) of one or more image sets; left_out: list of (name, reason)."""
    images, names, left_out = [], [], []
    for path in paths:
        for entry in read_set(path):
            if not isinstance(entry, ImageFile):
                left_out.append(entry)
                continue
            try:
                images.append(pixels.fit(pixels_of(entry, channels), (image_size, image_size), resample))
                names.append(entry.name)
            except ImageError as error:
                left_out.append((entry.name, str(error)))
    return np.stack(images) if images else np.empty((0, image_size, image_size, channels), np.uint8), names, left_out


def sample(checkpoint, count, seed=0, batch_size=64, steps=None, device="cpu"):
    """Images drawn from a saved checkpoint by its own scheduler, uint8 (count,H,W,C)."""
    import diffusers
    from diffusers import UNet2DModel

    checkpoint = Path(checkpoint)
    network = UNet2DModel.from_pretrained(checkpoint / "unet", local_files_only=True).to(device).eval()
    config = json.loads((checkpoint / "scheduler" / "scheduler_config.json").read_text())
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(steps or scheduler.config.num_train_timesteps)
    rng, size = torch.Generator().manual_seed(seed), network.config.sample_size
    out = []
    for first in range(0, count, batch_size):
        x = torch.randn((min(batch_size, count - first), network.config.in_channels, size, size), generator=rng)
        for t in scheduler.timesteps:
            with torch.inference_mode():
                eps_hat = network(x.to(device), t).sample.cpu()
            x = scheduler.step(eps_hat, t, x, generator=rng).prev_sample
        out.append(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


def contact_sheet(images, columns, scale=4):
    """One picture with all images side by side; uint8 (N,H,W,C) -> PIL image, enlarged without smoothing."""
    from PIL import Image

    n, height, width, channels = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * height, columns * width, channels), np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _parser():
    parser = argparse.ArgumentParser(prog="python -m models.train", description="Train a small diffusion model on your images and save it as a diffusers folder.")
    parser.add_argument("--images", required=True, action="append", metavar="P", help="folder, .zip or .npz of training images; may be given more than once")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the checkpoint; an unfinished training there is resumed")
    numbers = {"image-size": "pixels a side", "channels": "1 grey, 3 colour", "steps": "optimiser steps", "batch-size": "images a step"}
    numbers |= {"warmup": "steps of linear warm-up", "layers-per-block": "residual blocks a level", "seed": "seed of weights, order, noise"}
    for name, text in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(TrainSettings, name.replace("-", "_")), help=f"{text} (%(default)s)")
    for name, text in {"lr": "AdamW step size", "weight-decay": "AdamW decay", "ema-decay": "decay of the averaged weights, 0 = none", "dropout": "dropout in the network"}.items():
        parser.add_argument(f"--{name}", type=float, default=getattr(TrainSettings, name.replace("-", "_")), help=f"{text} (%(default)s)")
    parser.add_argument("--flip", action="store_true", help="mirror half of the images")
    parser.add_argument("--scheduler", default=TrainSettings.scheduler, help="class name in diffusers (%(default)s)")
    parser.add_argument("--scheduler-config", default="{}", metavar="JSON", help='its settings, e.g. \'{"prediction_type": "v_prediction"}\'')
    parser.add_argument("--block-out-channels", default="64,128,128", metavar="N,N,…", help="channels of each level (%(default)s)")
    parser.add_argument("--attention", default="0,0,1", metavar="0|1,…", help="attention at each level (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--save-every", type=int, default=1000, metavar="N", help="steps between resumable saves (%(default)s)")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="also draw N images into samples.png")
    return parser


def main(argv=None):
    """Command line; exit code 0, or 2 with one line on stderr."""
    from tqdm import tqdm

    args = _parser().parse_args(argv)
    try:
        fields = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainSettings) if f.name not in ("scheduler_config", "block_out_channels", "attention")}
        settings = TrainSettings(
            **fields,
            scheduler_config=json.loads(args.scheduler_config),
            block_out_channels=tuple(int(n) for n in args.block_out_channels.split(",")),
            attention=tuple(n.strip() == "1" for n in args.attention.split(",")),
        )
        images, names, left_out = load_images(args.images, settings.image_size, settings.channels)
        for name, reason in left_out:
            print(f"left out {name}: {reason}")
        with tqdm(total=settings.steps, unit="step", file=sys.stdout, mininterval=5) as bar:

            def show(step, _, loss):
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update(step - bar.n)

            out = train(settings, images, args.out, names, args.device, args.save_every, show)
        if args.samples:
            contact_sheet(sample(out, args.samples, settings.seed, device=args.device), columns=min(16, args.samples)).save(out / "samples.png")
        print(f"saved {out} ({len(images)} training images)")
    except (ModelError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

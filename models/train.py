"""Train a small pixel-space diffusion model and save it as a checkpoint that open_checkpoint reads.

    python -m models.train --images FOLDER --out CHECKPOINT --image-size 32 --steps 20000

Made for targets of experiments, for the bundled demo and for surrogates: one of three networks (models/trainable.py), AdamW, an exponential moving average
(saved beside the raw weights), optional flips, exact resume, early stop on images that are held out (models/heldout.py). Beside the weights stands
`training.json`: every setting, the loss, and the list of training images with their hashes, so that an audit of the result can prove who was a member.

Randomness of step n depends on (seed, n) only, so a resumed run gives the weights of an uninterrupted one.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models import heldout, pixels
from models.errors import ImageError, ModelError, TrainingDiverged
from models.imagefiles import ImageFile, pixels_of, read_set
from models.schedule import q_sample, training_target
from models.trainable import NETWORKS, trainable

LOOK_BACK, RISEN = 50, 3.0  # the loss has diverged when the mean of the last so many steps is so many times that of the first
DIVERGED = "diverged.json"


class TrainingStopped(Exception):
    """should_stop() became true between two steps; what was done is saved and is gone on with next time."""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training; refuses bad values when built.

    network: a name in models.trainable.NETWORKS; image_size in pixels; steps of `batch_size` images; lr of AdamW; ema_decay in [0, 1), 0 = no average;
    flip: mirror half of the images; scheduler: class name in diffusers, scheduler_config: its JSON settings (for improved and guided only
    num_train_timesteps and beta_schedule, linear or cosine); block_out_channels and attention: one entry per level; layers_per_block: residual blocks of a
    level; num_heads: of improved, num_head_channels: of guided. held_out: share of the images that is not trained on; every validate_every steps their loss is
    taken, and after `patience` times without a new smallest one the training ends; the averaged weights with the smallest are kept.
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
    network: str = "unet2d"
    num_heads: int = 4
    num_head_channels: int = 32
    held_out: float = 0.0
    validate_every: int = 500
    patience: int = 5

    def __post_init__(self):
        for name in ("image_size", "channels", "steps", "batch_size", "layers_per_block", "num_heads", "num_head_channels", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}. Expected at least 1.")
        if self.network not in NETWORKS:
            raise ModelError(f"network is {str(self.network)[:40]!r}. Expected one of {', '.join(NETWORKS)}.")
        if not 0 <= self.held_out <= 0.5:
            raise ModelError(f"held_out is {self.held_out}. Expected a share from 0 to 0.5 of the images.")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.dropout < 1 or self.lr <= 0:
            raise ModelError("Expected ema_decay and dropout in [0, 1) and lr above 0.")
        if len(self.attention) != len(self.block_out_channels):
            raise ModelError("Expected one attention entry (0 or 1) per level of block_out_channels.")
        if self.image_size % 2 ** (len(self.block_out_channels) - 1):
            raise ModelError(f"image_size {self.image_size} cannot be halved {len(self.block_out_channels) - 1} times: use fewer levels.")


def train(settings, images, out, names=None, device="cpu", save_every=1000, progress=None, should_stop=None, save_every_s=None):
    """Train on images and save a checkpoint; resumes when `out` holds an unfinished training with the same settings and images.

    Args:
        images: uint8 (N,H,W,C), already at settings.image_size; may be a memory map.
        out: folder; gets the averaged weights, the raw ones, what opens them, and training.json.
        names: N names for training.json; progress: called as progress(step, steps, mean_loss).
        save_every: steps between resumable saves; save_every_s: and seconds, or None.
        should_stop: asked before every step.
    Returns: Path of `out`.
    Raises: TrainingStopped; TrainingDiverged: the reason stays in `out`, and the same training is not begun again; ModelError.
    """
    out, device = Path(out), torch.device(device)
    if not len(images):
        raise ModelError("No training images. Expected at least one.")
    aside = heldout.chosen(len(images), settings.held_out, settings.seed)
    identity = {"settings": dataclasses.asdict(settings), "images": [pixels.image_id(p) for p in images]}
    _refuse_diverged(out, identity)
    kind = trainable(settings)
    run = _Run(out, identity, kind, settings, heldout.HeldOut(images[aside], settings, kind) if aside.any() else None, device)
    run.resume()
    used = np.flatnonzero(~aside)
    while run.step < settings.steps and not run.ended:
        if should_stop and should_stop():
            run.save()
            raise TrainingStopped
        run.one_step(*_batch(images, used, settings, kind.schedule, run.step))
        if progress:
            progress(run.step, settings.steps, float(np.mean(run.losses[-100:])))
        due = run.step % save_every == 0 or (save_every_s is not None and time.monotonic() - run.saved_at >= save_every_s)
        if due and run.step < settings.steps and not run.ended:
            run.save()
    _save_result(run, names, aside)
    return out


def seconds_per_step(settings, device="cpu", steps=2):
    """Wall seconds of one optimiser step of a training with these settings: the fastest of a few on noise, after one that warms up. Nothing is written."""
    side, device = settings.image_size, torch.device(device)
    images = np.random.default_rng(0).integers(0, 256, (settings.batch_size, side, side, settings.channels), dtype=np.uint8)
    kind, took = trainable(settings), []
    run = _Run(None, None, kind, settings, None, device)
    for step in range(steps + 1):
        began = time.perf_counter()
        run.one_step(*_batch(images, np.arange(len(images)), settings, kind.schedule, step))  # ends with loss.item(), which waits for the device
        took.append(time.perf_counter() - began)
    return min(took[1:])


class _Run:
    """A training between two of its steps: everything that a resumable save holds."""

    def __init__(self, out, identity, kind, settings, held_out, device):
        from diffusers.training_utils import EMAModel

        self.out, self.identity, self.kind, self.settings, self.held_out, self.device = out, identity, kind, settings, held_out, device
        kind.network.to(device).train()
        self.optimizer = torch.optim.AdamW(kind.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.ema = EMAModel(kind.network.parameters(), decay=settings.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75) if settings.ema_decay else None
        self.step, self.losses, self.ended, self.seconds = 0, [], False, 0.0
        self.began = self.saved_at = time.monotonic()

    @property
    def elapsed(self):
        """Seconds of training, those of earlier attempts included."""
        return self.seconds + time.monotonic() - self.began

    def one_step(self, x0, t, eps):
        """One optimiser step, and a look at the held-out images where it is due. Raises TrainingDiverged."""
        settings, kind = self.settings, self.kind
        if settings.dropout:
            torch.manual_seed(_seed(settings.seed, 6, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, (self.step + 1) / max(1, settings.warmup))
        xt = q_sample(kind.schedule, x0, t, eps).to(self.device)
        target = training_target(kind.schedule, x0, eps, t, kind.prediction_type).to(self.device)
        loss = torch.nn.functional.mse_loss(kind.output(xt, t.to(self.device)), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(kind.network.parameters(), 1.0)
        self.optimizer.step()
        if self.ema:
            self.ema.step(kind.network.parameters())
        self.losses.append(loss.item())
        self.step += 1
        self._check_divergence()
        if self.held_out and self.held_out.due(self.step):
            with self.averaged():
                self.ended = self.held_out.look(self.step, kind.network.parameters())

    def _check_divergence(self):
        last, losses = self.losses[-1], self.losses
        first, now = np.mean(losses[:LOOK_BACK]), np.mean(losses[-LOOK_BACK:])
        if np.isfinite(last) and not (len(losses) >= 2 * LOOK_BACK and now > RISEN * first):
            return
        how = f"it began at {first:.3g}" if np.isfinite(last) else "no number any more"
        reason = f"Training diverged at step {self.step} (loss {now if np.isfinite(last) else last:.3g}, {how}). Use a smaller lr, or a longer warmup."
        self.out.mkdir(parents=True, exist_ok=True)
        _write_json(self.out / DIVERGED, {"identity": _digest(self.identity), "step": self.step, "reason": reason})
        raise TrainingDiverged(reason)

    @contextlib.contextmanager
    def averaged(self):
        """The averaged weights in the network for as long as it lasts."""
        if self.ema:
            self.ema.store(self.kind.network.parameters())
            self.ema.copy_to(self.kind.network.parameters())
        try:
            yield
        finally:
            if self.ema:
                self.ema.restore(self.kind.network.parameters())

    def save(self):
        """Write what a later call needs to go on."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {"identity": json.dumps(self.identity), "network": self.kind.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"step": self.step, "losses": self.losses, "seconds": self.elapsed}
        if self.ema:
            state["ema"] = self.ema.state_dict()
        if self.held_out:
            state["held_out"] = self.held_out.state()
        tmp = _state_file(self.out).with_suffix(".tmp")
        torch.save(state, tmp)
        os.replace(tmp, _state_file(self.out))
        self.saved_at = time.monotonic()

    def resume(self):
        """Go on where an earlier call was saved. Raises ModelError: the folder holds another training, or a finished one."""
        if (self.out / "training.json").exists():
            raise ModelError(f"{self.out.name} already holds a finished training. Choose another --out or delete it.")
        if not _state_file(self.out).exists():
            return
        state = torch.load(_state_file(self.out), map_location=self.device, weights_only=True)
        if state["identity"] != json.dumps(self.identity):
            raise ModelError(f"{self.out.name} holds an unfinished training with other settings or images. Choose another --out or delete it.")
        self.kind.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        if self.held_out:
            self.held_out.load(state["held_out"])
        self.step, self.losses, self.seconds = state["step"], list(state["losses"]), state["seconds"]


def _seed(*parts):
    """63 bits that follow from whole numbers, for torch's generators."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _batch(images, used, settings, schedule, step):
    """(x0, t, eps) of one step; without replacement within an epoch, from (seed, step) alone. Args: used: positions in images that are trained on."""
    size = min(settings.batch_size, len(used))
    per_epoch = max(1, len(used) // size)
    epoch, index = divmod(step, per_epoch)
    order = np.random.default_rng([settings.seed, 1, epoch]).permutation(len(used))[index * size : (index + 1) * size]
    rng = torch.Generator().manual_seed(_seed(settings.seed, 2, step))
    x0 = torch.from_numpy(pixels.to_model_range(images[used[order]]))
    t = torch.randint(0, len(schedule), (len(x0),), generator=rng)
    eps = torch.randn(x0.shape, generator=rng)
    if settings.flip:
        mirrored = torch.rand(len(x0), generator=rng) < 0.5
        x0 = torch.where(mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
    return x0, t, eps


def _state_file(out):
    return out / "unfinished.pt"


def _digest(identity):
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _refuse_diverged(out, identity):
    """Raise TrainingDiverged with the kept reason where just this training ended so before."""
    if not (out / DIVERGED).exists():
        return
    kept = json.loads((out / DIVERGED).read_text())
    if kept["identity"] == _digest(identity):
        raise TrainingDiverged(kept["reason"])


def _write_json(path, data):
    tmp = path.with_suffix(".json.tmp")
    tmp.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(tmp, path)


def _save_result(run, names, aside):
    import diffusers

    network, losses, held_out = run.kind.network, run.losses, run.held_out
    run.out.mkdir(parents=True, exist_ok=True)
    network.eval()
    run.kind.save(run.out, averaged=False)
    if held_out:
        held_out.restore(network.parameters())
    elif run.ema:
        run.ema.copy_to(network.parameters())
    run.kind.save(run.out, averaged=True)
    every = max(1, len(losses) // 100)
    listed = [{"name": n, "image_id": i} for n, i in zip(names or [""] * len(aside), run.identity["images"], strict=True)]
    manifest = {
        "settings": run.identity["settings"],
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps_done": run.step,
        "loss": [{"step": i + every, "mean": round(float(np.mean(losses[i : i + every])), 6)} for i in range(0, len(losses), every)],
        "seconds": round(run.elapsed, 1),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "images": [entry for entry, out in zip(listed, aside, strict=True) if not out],
    }
    if held_out:
        early = run.step < run.settings.steps
        manifest["held_out"] = {"kept_step": held_out.best_step, "loss": held_out.best, "stopped_early": early, "history": held_out.history}
        manifest["held_out"]["images"] = [entry for entry, out in zip(listed, aside, strict=True) if out]
    _write_json(run.out / "training.json", manifest)
    for left in (_state_file(run.out), run.out / DIVERGED):
        left.unlink(missing_ok=True)


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
    """Images drawn from a saved checkpoint, uint8 (count,H,W,C): a diffusers folder by its own scheduler, another in `steps` (100) deterministic steps."""
    checkpoint, out = Path(checkpoint), []
    draw = _diffusers_sampler(checkpoint, steps, device) if (checkpoint / "unet").is_dir() else _ddim_sampler(checkpoint, steps or 100, device)
    rng = torch.Generator().manual_seed(seed)
    for first in range(0, count, batch_size):
        x = draw(min(batch_size, count - first), rng)
        out.append(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


def _diffusers_sampler(checkpoint, steps, device):
    """A function (count, generator) -> (count,C,H,W) on the CPU."""
    import diffusers
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(checkpoint / "unet", local_files_only=True).to(device).eval()
    config = json.loads((checkpoint / "scheduler" / "scheduler_config.json").read_text())
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(steps or scheduler.config.num_train_timesteps)
    size = network.config.sample_size

    def draw(count, rng):
        x = torch.randn((count, network.config.in_channels, size, size), generator=rng)
        for t in scheduler.timesteps:
            with torch.inference_mode():
                answer = network(x.to(device), t).sample.cpu()
            x = scheduler.step(answer, t, x, generator=rng).prev_sample
        return x

    return draw


def _ddim_sampler(checkpoint, steps, device):
    """The same by deterministic steps evenly spread over the schedule, x0_hat clamped (Song et al. 2021 eq. 12 with sigma = 0)."""
    from models import open_checkpoint

    denoiser = open_checkpoint(checkpoint).to(device)
    last = len(denoiser.schedule) - 1
    path = [int(t) for t in np.unique(np.linspace(0, last, min(steps, last + 1)).round())[::-1] if denoiser.measurable[int(t)]]

    def draw(count, rng):
        x = torch.randn((count, *denoiser.image_shape), generator=rng).to(device)
        for t, to in zip(path, [*path[1:], None], strict=True):
            with torch.inference_mode():
                answer = denoiser.predict(x, torch.full((count,), t))
                x0_hat = answer.x0_hat.clamp(-1, 1)
                x = x0_hat if to is None else q_sample(denoiser.schedule, x0_hat, torch.full((count,), to), answer.eps_hat)
        return x.cpu()

    return draw


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
    numbers |= {"num-heads": "attention heads of improved", "num-head-channels": "channels per attention head of guided"}
    numbers |= {"validate-every": "steps between two looks at the held-out images", "patience": "looks without a new smallest loss before the training ends"}
    for name, text in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=getattr(TrainSettings, name.replace("-", "_")), help=f"{text} (%(default)s)")
    parser.add_argument("--network", default=TrainSettings.network, metavar="|".join(NETWORKS), help="what is trained (%(default)s)")
    shares = {"lr": "AdamW step size", "weight-decay": "AdamW decay", "ema-decay": "decay of the averaged weights, 0 = none", "dropout": "dropout in the network"}
    shares |= {"held-out": "share of the images that is held out: the weights with the smallest loss on them are kept"}
    for name, text in shares.items():
        parser.add_argument(f"--{name}", type=float, default=getattr(TrainSettings, name.replace("-", "_")), help=f"{text} (%(default)s)")
    parser.add_argument("--flip", action="store_true", help="mirror half of the images")
    parser.add_argument("--scheduler", default=TrainSettings.scheduler, help="class name in diffusers, of unet2d (%(default)s)")
    schedule = 'its settings, e.g. \'{"prediction_type": "v_prediction"}\'; of improved and guided: num_train_timesteps, beta_schedule'
    parser.add_argument("--scheduler-config", default="{}", metavar="JSON", help=schedule)
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

"""A diffusers checkpoint small enough to make in a test, and the ways to spoil it."""

import functools
import json
import tempfile
from pathlib import Path

import torch

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


def network(**changes):
    """UNet2DModel with weights from a fixed seed."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(**UNET | changes).eval()


def save(folder, scheduler="DDPMScheduler", scheduler_config=None, index=True, unet=None, **changes):
    """Write unet/, scheduler/ and model_index.json; returns the network that was saved, which other tests share unless `unet` was given."""
    import diffusers

    if unet is None:
        made, files = _saved(json.dumps(changes))
        for name, data in files.items():
            (folder / "unet").mkdir(parents=True, exist_ok=True)
            (folder / "unet" / name).write_bytes(data)
    else:
        made = unet
        made.save_pretrained(folder / "unet")
    getattr(diffusers, scheduler)(**scheduler_config or {}).save_pretrained(folder / "scheduler")
    if index:
        entries = {"_class_name": "DDPMPipeline", "_diffusers_version": diffusers.__version__, "scheduler": ["diffusers", scheduler], "unet": ["diffusers", "UNet2DModel"]}
        (folder / "model_index.json").write_text(json.dumps(entries))
    return made


@functools.cache
def _saved(changes):
    """(network, {file name: bytes}) of `network(**changes)` as diffusers saves it: to build and write one takes longer than most tests that need it."""
    made = network(**json.loads(changes))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return made.requires_grad_(False), {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def edit(path, **changes):
    """Change keys of a JSON file; a value of ... removes the key."""
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

"""What the tensors of an OpenAI checkpoint show: which network it is, or which of its look-alikes.

Shapes only; see models/nets/openai_unet.py:Layout. Rules checked on every published layout of both repositories.
"""

import re

from models.errors import CheckpointError
from models.formats import foreign
from models.nets.openai_unet import GROUPS, Layout
from models.safety import shown

IMAGE_SIZES = {(1, 2, 2, 2): 32, (1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256, (0.5, 1, 1, 2, 2, 4, 4): 512}  # by channel_mult, as the scripts choose it
MARKS = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight")
LATENT_MARKS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
ADVICE = "Expected a diffusion network of pictures (model*.pt or ema_*.pt): give that file"


def short(name):
    """A tensor's name without the prefix that DistributedDataParallel adds."""
    return name.removeprefix("module.")


def looks_like_one(shapes):
    """True for OpenAI's UNet and for what is built from its parts: classifiers, super-resolution, latent diffusion."""
    names = {short(name) for name in shapes}
    if any(foreign.is_transformer(name) for name in names):
        return False
    return all(mark in names for mark in MARKS) or any(name.startswith(LATENT_MARKS) for name in names)


def is_optimizer(keys):
    """True for opt*.pt, which holds no network."""
    return set(keys) == {"state", "param_groups"}


def layout_of(shapes, file_name):
    """Layout from {tensor name: shape}.

    Raises: CheckpointError: a classifier, a super-resolution, latent or consistency network, by name; or a layout that neither repository can make.
    """
    shapes = {short(name): shape for name, shape in shapes.items()}
    _refuse_kin(shapes, file_name)
    try:
        return _layout(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        where = shown(str(error).strip("'"), 60)
        raise CheckpointError(
            f"{file_name} has the tensor names of OpenAI's UNet, but not its layout (at {where}). Expected improved- or guided-diffusion: copy it again."
        ) from None


def _refuse_kin(shapes, file_name):
    """Name what is built from the same parts and is no diffusion network of pictures."""
    if any(name.startswith("conditioner.") for name in shapes):
        raise CheckpointError(f"{file_name} is an SDXL file: two text encoders, told sizes and crops, are not supported. Expected Stable Diffusion 1 or 2 as a diffusers folder.")
    if shapes.get("model.diffusion_model.input_blocks.0.0.weight", (0, 4))[1:2] == (9,):
        raise CheckpointError(f"{file_name} is an inpainting model: it takes a mask and the masked picture too. Expected a plain text-to-image model as a diffusers folder.")
    if any(name.startswith(LATENT_MARKS) or ".transformer_blocks." in name or ".proj_in." in name for name in shapes):
        raise CheckpointError(
            f"{file_name} is a latent diffusion (LDM or Stable Diffusion) file. Expected its diffusers folder: convert it with diffusers' from_single_file(…).save_pretrained(…)."
        )
    if not any(name.startswith("output_blocks.") for name in shapes):
        raise CheckpointError(f"{file_name} is a noisy classifier of guided-diffusion: it has no output_blocks. {ADVICE}.")
    channels = shapes["input_blocks.0.0.weight"][1:2]
    if channels in ((2,), (6,)):
        raise CheckpointError(f"{file_name} is a super-resolution network: it takes {channels[0]} channels, a small picture beside the noisy one. {ADVICE} of the base model.")
    if channels not in ((1,), (3,)):
        raise CheckpointError(f"{file_name} takes {' x '.join(map(str, channels)) or 'no'} channels. Expected 1 or 3, pictures: latent networks come as a diffusers folder.")
    qkv = next((shape for name, shape in shapes.items() if name.endswith(".qkv.weight")), ())
    if len(qkv) == 4:
        raise CheckpointError(f"{file_name} is a network of openai/consistency_models, whose EDM scaling is not supported. {ADVICE} of improved- or guided-diffusion.")


def _layout(shapes):
    """Layout, or KeyError, IndexError, ValueError that says where the tensors do not fit."""
    n_in, n_out = _count(shapes, "input_blocks"), _count(shapes, "output_blocks")
    if max(n_in, n_out) > len(shapes):
        raise ValueError("numbers of blocks")
    upsamplers = {}  # output block -> whether it is a residual block
    for name in shapes:
        if found := re.fullmatch(r"output_blocks\.(\d+)\.([12])\.(conv|in_layers\.0)\.weight", name):
            upsamplers[int(found[1])] = found[3] != "conv"
    per_level, levels = (min(upsamplers) + 1 if upsamplers else n_out), len(upsamplers) + 1
    if not n_in == n_out == levels * per_level or per_level < 2 or sorted(upsamplers) != [per_level * (i + 1) - 1 for i in range(levels - 1)] or len(set(upsamplers.values())) > 1:
        raise ValueError(f"{n_in} input and {n_out} output blocks")
    widths = tuple(shapes[f"input_blocks.{1 + level * per_level}.0.out_layers.3.weight"][0] for level in range(levels))
    attention = tuple(level for level in range(levels) if f"input_blocks.{1 + level * per_level}.1.qkv.weight" in shapes)
    first_width, in_channels = shapes["input_blocks.0.0.weight"][:2]
    model_channels, out_channels = shapes["time_embed.0.weight"][1], shapes["out.2.weight"][0]
    if any(width % GROUPS or not width for width in (first_width, *widths)) or out_channels not in (in_channels, 2 * in_channels) or model_channels < 2:
        raise ValueError(f"widths {first_width}, {', '.join(map(str, widths))} and {out_channels} channels out")
    rows = shapes["middle_block.0.emb_layers.1.weight"][0]
    if rows not in (widths[-1], 2 * widths[-1]):
        raise ValueError("middle_block.0.emb_layers.1.weight")
    return Layout(
        in_channels=in_channels,
        out_channels=out_channels,
        model_channels=model_channels,
        first_width=first_width,
        widths=widths,
        num_res_blocks=per_level - 1,
        attention=attention,
        scale_shift=rows == 2 * widths[-1],
        resblock_updown=any(upsamplers.values()),
        classes=shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None,
    )


def _count(shapes, group):
    """1 + the largest index of a group of blocks."""
    return 1 + max((int(found[1]) for name in shapes if (found := re.match(rf"{group}\.(\d{{1,9}})\.", name))), default=-1)


def channel_mult(layout):
    """Widths over model_channels, whole numbers where they are whole."""
    return tuple(int(m) if m == int(m) else m for m in (width / layout.model_channels for width in layout.widths))


def image_size(layout):
    """Side that the scripts pair with this channel_mult, or None: a guess, since the network takes any size."""
    return IMAGE_SIZES.get(channel_mult(layout))

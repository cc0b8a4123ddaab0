"""ckpt.pt of w86763777/pytorch-ddpm, as SecMI and PIA train and attack it: {net_model, ema_model, sched, optim, step, x_T}.

Tensors show the network and T (the rows of its timestep table). The line of betas, what is predicted, the variance and the side of the pictures leave no
trace: they come from the user, a .yaml beside the file or the recipe, which is the published training script's defaults.
"""

import re

import torch

from models.base import Denoiser
from models.errors import CheckpointError
from models.formats import single_file
from models.nets.ddpm_unet import GROUPS, DDPMUNet
from models.overrides import Takes, decide
from models.safety import shown
from models.schedule import float32_linear_betas, from_betas
from models.weights import load_into, parameter_count

FAMILY = "pytorch-ddpm"
DIFFUSION = ("image_size", "train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type", "variance")
# flags of its main.py; SecMI and PIA keep them
RECIPES = {"pytorch-ddpm": {"image_size": 32, "beta_start": 1e-4, "beta_end": 0.02, "prediction_type": "epsilon", "variance": "fixed_large"}}
PUBLISHED = {"first_width": 128, "widths": (128, 256, 256, 256), "num_res_blocks": 2, "attention": (1,)}
MARKS = ("time_embedding.timembedding.0.weight", "head.weight", "middleblocks.0.block1.0.weight", "tail.2.weight")


class PytorchDDPM:
    """See the module's docstring."""

    name = "pytorch_ddpm"
    words = "ckpt.pt of pytorch-ddpm, SecMI and PIA"
    takes = Takes(
        ("recipe", "weights", *DIFFUSION),
        {"beta_schedule": ("linear",), "prediction_type": ("epsilon", "sample"), "variance": ("fixed_small", "fixed_large"), "recipe": tuple(RECIPES)},
    )
    recipes = tuple(RECIPES)

    def recognise(self, path):
        """True for its tensor names, in the file itself or in one of its sets."""
        file = single_file.pick(path)
        return file is not None and any(_is_one(weights) for weights in single_file.open_content(file).sets.values())

    def inspect(self, path, **overrides):
        """CheckpointInfo from the names and shapes of the tensors; `missing` names what has to be given."""
        return _parse(path, overrides)[0]

    def load(self, path, **overrides):
        """Denoiser. Raises CheckpointError naming every setting that is missing."""
        info, weights, layout, decided = _parse(path, overrides)
        if info.missing:
            raise CheckpointError(
                f"{info.files[0]} is a network of {FAMILY} ({info.architecture}, {layout['steps']} steps); its tensors do not show {', '.join(info.missing)}. "
                f"Expected recipe {' or '.join(RECIPES)}, the training script's defaults, or each setting: give them as for the training."
            )
        schedule = from_betas(float32_linear_betas(decided["beta_start"], decided["beta_end"], layout["steps"]))
        with torch.device("meta"):
            network = DDPMUNet(**layout)
        load_into(network, weights, _short, said_by="its own layout").eval()
        return _PytorchDDPMDenoiser(network, schedule, info.image_shape, info.prediction_type, decided["variance"], info)


class _PytorchDDPMDenoiser(Denoiser):
    def run_network(self, xt, t_network, cond):
        """Raw output, (N,C,H,W); the network looks whole timesteps up in a table."""
        return self.network(xt, t_network)


def _short(name):
    return name.removeprefix("module.")


def _is_one(weights):
    names = {_short(name) for name in weights.shapes}
    return all(mark in names for mark in MARKS)


def _parse(path, overrides):
    """(CheckpointInfo, Weights, arguments of DDPMUNet, Decided)."""
    given = single_file.gather(path, PytorchDDPM.takes, FAMILY, overrides)
    present = {key: weights for key, weights in given.content.sets.items() if _is_one(weights)}
    kind, key = single_file.choose(given.content, present, given["weights"] or "auto")
    weights = given.content.sets[key]
    layout = _layout(weights, given.content.name)
    recipe = RECIPES.get(given["recipe"], {})
    decided = decide(DIFFUSION, given.user, given.from_yaml, given.yaml_name, recipe, {}, {"beta_schedule": "linear"}, {"train_timesteps": layout["steps"]})
    halvings, size = len(layout["widths"]) - 1, decided["image_size"]
    if size and size % 2**halvings:
        raise CheckpointError(f"image_size is {size}, but {given.content.name} halves its pictures {halvings} times. Expected a multiple of {2**halvings}.")
    tensors = {
        "weights": key or given.content.name,
        "num_channels": layout["first_width"],
        "widths": ",".join(map(str, layout["widths"])),
        "num_res_blocks": layout["num_res_blocks"],
        "attention_at": ", ".join(f"1/{2**level}" for level in layout["attention"]) or "middle only",
    }
    info = single_file.info_of(
        given,
        format_name=PytorchDDPM.name,
        architecture=f"pytorch-ddpm UNet {tensors['widths']}",
        parameters=parameter_count(weights),
        weights=kind,
        decided=decided,
        shown_by_tensors=tensors,
        image_shape=(layout["channels"], size, size),
        confidence="certain" if not recipe or all(layout[name] == value for name, value in PUBLISHED.items()) else "likely",
        notes=("another line of betas would load as well and give other numbers: it does not change with the number of steps, unlike OpenAI's linear",),
    )
    return info, weights, layout, decided


def _layout(weights, file_name):
    """Arguments of DDPMUNet. Raises CheckpointError: tensors that the repository's code cannot make."""
    shapes = {_short(name): shape for name, shape in weights.shapes.items()}
    try:
        return _infer(shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{file_name} has the tensor names of {FAMILY}, but not its layout (at {shown(str(error).strip(chr(39)), 60)}). Expected a file of its main.py: copy it again."
        ) from None


def _infer(shapes):
    down, up = _kinds(shapes, "downblocks"), _kinds(shapes, "upblocks")
    levels = down.count("main") + 1
    blocks = down.index("main") if "main" in down else len(down)
    expected = (["block1"] * blocks + ["main"]) * levels
    expected_up = (["block1"] * (blocks + 1) + ["main"]) * levels
    if blocks < 1 or down != expected[:-1] or up != expected_up[:-1]:
        raise ValueError(f"{len(down)} down and {len(up)} up blocks")
    first = [level * (blocks + 1) for level in range(levels)]
    widths = tuple(shapes[f"downblocks.{index}.block2.3.weight"][0] for index in first)
    attention = tuple(level for level, index in enumerate(first) if f"downblocks.{index}.attn.proj_q.weight" in shapes)
    first_width, channels = shapes["head.weight"][:2]
    steps = shapes[MARKS[0]][0]
    if any(width % GROUPS or not width for width in (first_width, *widths)):
        raise ValueError(f"widths {first_width}, {', '.join(map(str, widths))}")
    if channels not in (1, 3) or not 2 <= steps <= 100_000:
        raise ValueError(f"{channels} channels and {steps} steps")
    return {"steps": steps, "channels": channels, "first_width": first_width, "widths": widths, "num_res_blocks": blocks, "attention": attention}


def _kinds(shapes, group):
    """["block1" or "main" per block of a flat list], in order."""
    found = {}
    for name in shapes:
        if part := re.match(rf"{group}\.(\d{{1,9}})\.(block1|main)\.", name):
            found[int(part[1])] = part[2]
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"{group} {max(found)}")
    return [found[index] for index in range(len(found))]

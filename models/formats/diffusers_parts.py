"""The networks of a diffusers checkpoint: which classes are known, what their configurations may say, where their weights are, and how they are built.

Classes come from KINDS, never from a file. Every number is checked before anything is built; a network is built on the meta device, run once there, and gets its
memory only when the weights' header has exactly its tensors.
"""

import importlib
import inspect
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from models.errors import CheckpointError
from models.formats import foreign, shards, single_file
from models.nets.clip_text import ACTIVATIONS, ClipText
from models.overrides import WEIGHTS_SUFFIXES
from models.safety import read_json, refuse_code, shown
from models.weights import load_into, open_content, open_weights, parameter_count

MAX_WIDTH = 16_384
_BLOCK_LIMITS = {"layers_per_block": 64, "block_out_channels": MAX_WIDTH, "norm_num_groups": MAX_WIDTH, "in_channels": 64, "out_channels": 128, "sample_size": 8192}
_SEVERAL = ("block_out_channels", "sample_size", "layers_per_block", "attention_head_dim", "transformer_layers_per_block")  # one number, or one per level


@dataclass(frozen=True)
class Kind:
    """A class of network.

    Attributes:
        limits: {setting: largest whole number}, 1 being the smallest; blocks: {setting: block classes it may name};
        defaults: what the class assumes where its file is silent, for the settings that are looked at here.
    """

    limits: dict
    blocks: dict
    defaults: dict


_PIXEL_BLOCKS = tuple(f"{kind}{{way}}Block2D" for kind in ("", "Attn", "Skip", "AttnSkip"))
_AUTOENCODER = Kind(
    _BLOCK_LIMITS | {"latent_channels": 64, "num_vq_embeddings": 2**20, "vq_embed_dim": 64},
    {"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")},
    {"in_channels": 3, "out_channels": 3, "block_out_channels": (64,), "latent_channels": 4},
)
KINDS = {
    "UNet2DModel": Kind(
        _BLOCK_LIMITS
        | {"time_embedding_dim": 4 * MAX_WIDTH, "attn_norm_num_groups": MAX_WIDTH, "attention_head_dim": MAX_WIDTH, "num_train_timesteps": 100_000, "num_class_embeds": 10**6},
        {
            "down_block_types": (*(name.format(way="Down") for name in _PIXEL_BLOCKS), "ResnetDownsampleBlock2D"),
            "up_block_types": (*(name.format(way="Up") for name in _PIXEL_BLOCKS), "ResnetUpsampleBlock2D"),
        },
        {"in_channels": 3, "out_channels": 3, "block_out_channels": (224, 448, 672, 896)},
    ),
    "UNet2DConditionModel": Kind(
        _BLOCK_LIMITS | {"time_embedding_dim": 4 * MAX_WIDTH, "attention_head_dim": MAX_WIDTH, "cross_attention_dim": MAX_WIDTH, "transformer_layers_per_block": 64},
        {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
        {"in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 1280},
    ),
    "AutoencoderKL": _AUTOENCODER,
    "VQModel": replace(_AUTOENCODER, defaults=_AUTOENCODER.defaults | {"latent_channels": 3}),
    "CLIPTextModel": Kind(
        {"vocab_size": 2**20, "hidden_size": MAX_WIDTH, "intermediate_size": 4 * MAX_WIDTH, "num_hidden_layers": 128, "num_attention_heads": 1024, "max_position_embeddings": 1024},
        {},
        {
            "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77,
            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        },
    ),
}  # fmt: skip
# Settings of UNet2DConditionModel that only other families use: what plain Stable Diffusion says, and whose they are otherwise.
PLAIN = {
    "addition_embed_type": (None, "SDXL, its refiner and DeepFloyd IF"),
    "encoder_hid_dim_type": (None, "Kandinsky and DeepFloyd IF"),
    "class_embed_type": (None, "unCLIP and upscalers"),
    "num_class_embeds": (None, "upscalers"),
    "time_cond_proj_dim": (None, "latent consistency models, which are distilled and not trained on noise"),
    "attention_type": ("default", "GLIGEN"),
    "time_embedding_type": ("positional", "score models in continuous time"),
    "only_cross_attention": (False, "upscalers"),
    "dual_cross_attention": (False, "versatile diffusion"),
}
OTHER_INPUTS = {9: "an inpainting model: it takes a mask and the masked picture too", 8: "InstructPix2Pix or an editing model: it takes a second picture"}
OTHER_INPUTS |= {5: "a depth-to-image model: it takes a depth map too", 7: "an upscaler: it takes a small picture too"}
WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.fp16.bin",
)
# with several shards beside it, as save_pretrained(…, max_shard_size=…) writes
INDEX_FILES = tuple(f"{name}.safetensors.index{variant}.json" for variant in ("", ".fp16") for name in ("diffusion_pytorch_model", "model"))
PICKLED_INDEX_FILES = ("diffusion_pytorch_model.bin.index.json", "pytorch_model.bin.index.json")
# diffusers before 0.15 named the attention projections so (google/ddpm-cifar10-32, the autoencoder of Stable Diffusion 1)
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Part:
    """One network, described before anything is built.

    Attributes:
        root: Path of the checkpoint; folder: relative, "" for root; cls: name in KINDS; config: its checked configuration; config_name, weights_name: relative names;
        key: which set of tensors in the weights' file.
    """

    root: Path
    folder: str
    cls: str
    config: dict
    config_name: str
    weights_name: str
    key: str = ""

    def __getitem__(self, setting):
        value = self.config.get(setting)
        return KINDS[self.cls].defaults.get(setting) if value is None else value

    @cached_property
    def weights(self):
        """models.weights.Weights; the header alone is read."""
        found = self._weights()
        if self.cls != "CLIPTextModel":
            return found
        kept = [name for name in found.shapes if not name.endswith("position_ids")]  # counts 0, 1, 2 …; newer files leave it out
        tensors = lambda: ((name, tensor) for name, tensor in found.tensors() if not name.endswith("position_ids"))  # noqa: E731
        return replace(found, shapes={name: found.shapes[name] for name in kept}, dtypes={name: found.dtypes[name] for name in kept}, tensors=tensors)

    def _weights(self):
        """All tensors of its files."""
        if self.is_sharded:
            return shards.open_shards(self.root, self.weights_name)
        path = self.root / self.weights_name
        return open_content(path).sets[self.key] if self.key else open_weights(path)

    @property
    def parameters(self):
        """Numbers in its tensors."""
        return parameter_count(self.weights)

    @property
    def width(self):
        """Its widths in words: 320-640-1280-1280."""
        return "-".join(str(n) for n in numbers(self["block_out_channels"]))

    @property
    def factor(self):
        """How many times smaller its coarsest level is than its input."""
        return 2 ** (len(numbers(self["block_out_channels"])) - 1)

    @property
    def is_sharded(self):
        """Whether its weights lie in several files, which `weights_name` lists."""
        return self.weights_name.endswith(".json")

    @cached_property
    def files(self):
        """Relative names of its files."""
        return self.config_name, self.weights_name, *(shards.read_index(self.root, self.weights_name) if self.is_sharded else ())


def numbers(value):
    """A list of what a setting holds, one number or several."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def read_part(root, folder, index_entry, allowed, what, weights_name=None):
    """Part of a folder, its configuration checked.

    Args: root, folder: where; index_entry: model_index.json's line for it, or None; allowed: classes it may be; what: "networks" or "autoencoders", for messages;
        weights_name: relative name of its weights where the user named the file, else they are looked for.
    Raises: CheckpointError, UnsafeCheckpoint.
    """
    config_name = f"{folder}/config.json" if folder else "config.json"
    if weights_name is not None and shards.is_shard(weights_name):
        raise CheckpointError(f"{weights_name} is one of several files of one network. Expected all of them and their .index.json: give the folder.")
    if weights_name is None:
        refuse_code(root, (folder,))  # beside a single file there may be anything
    config = read_json(root, config_name)
    cls = _text_class(config, config_name) if "CLIPTextModel" in allowed else class_of(config, config_name, index_entry, allowed, what)
    _check(cls, config, config_name)
    return Part(root, folder, cls, config, config_name, weights_name or _weights_file(root, folder))


def class_of(config, name, index_entry, allowed, what):
    """Class name that a configuration, or else model_index.json, gives; refused unless it is on our list."""
    listed = index_entry[1] if isinstance(index_entry, list) and len(index_entry) == 2 else None
    found = config.get("_class_name", listed)
    if found is None:
        raise CheckpointError(f"{name} names no class (_class_name). Expected one of {len(allowed)} {what} of diffusers, {allowed[0]} for instance: add the line.")
    if not isinstance(found, str) or found not in allowed:
        reason = foreign.family_of(found) if isinstance(found, str) else None
        raise CheckpointError(
            f"{name} names the class {shown(found)}, which is not supported{f' ({reason})' if reason else ''}. "
            f"Expected one of {', '.join(allowed[:4])}{' …' if len(allowed) > 4 else ''}: audit such a checkpoint."
        )
    return found


def _text_class(config, name):
    """transformers names its classes elsewhere than diffusers does."""
    architectures = config.get("architectures") or ["CLIPTextModel" if config.get("model_type") == "clip_text_model" else None]
    if architectures != ["CLIPTextModel"]:
        raise CheckpointError(f"{name} names the text encoder {shown(architectures)}. Expected CLIPTextModel, as in Stable Diffusion 1 and 2: others are not supported.")
    return "CLIPTextModel"


def _check(cls, config, name):
    """Refuse numbers that are absurd and blocks that are not known."""
    kind = KINDS[cls]
    for key, limit in kind.limits.items():
        for number in numbers(config.get(key)) if key in _SEVERAL else (config.get(key),):
            if number is not None and not (type(number) is int and 1 <= number <= limit):
                raise CheckpointError(f"{name}: {key} is {shown(config[key])}. Expected whole numbers from 1 to {limit}: copy the file again.")
    for key, known in kind.blocks.items():
        for block in numbers(config.get(key)) if key in config else ():
            if block not in known:
                raise CheckpointError(f"{name}: {key} names {shown(block)}. Expected blocks of {cls} such as {known[0]} and {known[1]}: copy the file again.")
    levels = len(numbers(config.get("block_out_channels")))
    if not 1 <= levels <= 16:
        raise CheckpointError(f"{name}: block_out_channels has {levels} levels. Expected 1 to 16: copy the file again.")
    if cls == "UNet2DModel":
        _check_unet(config, name)
    elif cls == "UNet2DConditionModel":
        _check_conditional(config, name)
    elif cls == "CLIPTextModel":
        _check_text(config, name)
    elif config.get("shift_factor") or config.get("latents_mean") or config.get("latents_std") or config.get("norm_type", "group") != "group":
        raise CheckpointError(f"{name} shifts its latents or has spatial norms, as SD3, Flux and MoVQ do. Expected a plain AutoencoderKL or VQModel: those are not supported.")


def _check_unet(config, name):
    if config.get("time_embedding_type", "positional") not in ("positional", "learned"):
        raise CheckpointError(
            f"{name}: time_embedding_type {shown(config['time_embedding_type'])} is not supported. Expected positional or learned: score-SDE networks have no discrete timesteps."
        )
    if config.get("class_embed_type") is not None:
        raise CheckpointError(
            f"{name}: class_embed_type is {shown(config['class_embed_type'])}, not a table of labels. Expected num_class_embeds alone: other class labels are not supported."
        )


def _check_conditional(config, name):
    for key, (plain, whose) in PLAIN.items():
        value = config.get(key, plain)
        if value is not None and any(part != plain for part in numbers(value)):
            said = {None: "null", False: "false"}.get(plain, plain)
            raise CheckpointError(f"{name}: {key} is {shown(value, 30)}, as in {whose}. Expected plain Stable Diffusion 1 or 2 ({key} {said}): others are not supported.")
    if type(config.get("cross_attention_dim", 1280)) is not int:
        raise CheckpointError(f"{name}: cross_attention_dim is {shown(config['cross_attention_dim'])}. Expected one number, the text encoder's width: copy the file again.")
    channels = config.get("in_channels", 4)
    if channels in OTHER_INPUTS and channels != config.get("out_channels", 4):
        raise CheckpointError(f"{name} takes {channels} channels and is {OTHER_INPUTS[channels]}. Expected a plain text-to-image UNet: audit the model that it was made from.")


def _check_text(config, name):
    act, eps, width, heads = (config.get(k, KINDS["CLIPTextModel"].defaults[k]) for k in ("hidden_act", "layer_norm_eps", "hidden_size", "num_attention_heads"))
    if act not in ACTIVATIONS:
        raise CheckpointError(f"{name}: hidden_act is {shown(act)}. Expected {' or '.join(ACTIVATIONS)}: copy the file again.")
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise CheckpointError(f"{name}: layer_norm_eps is {shown(eps)}. Expected a small positive number: copy the file again.")
    if width % heads:
        raise CheckpointError(f"{name}: {heads} attention heads do not divide a width of {width}. Expected a divisor: copy the file again.")
    if config.get("use_attention_mask"):
        raise CheckpointError(f"{name} hides padding from the text encoder (use_attention_mask). Expected CLIP as in Stable Diffusion, which sees it: others are not supported.")


def _weights_file(root, folder):
    prefix = f"{folder}/" if folder else ""
    for name in WEIGHT_FILES:
        if (root / folder / name).is_file():
            return prefix + name
    if name := next((name for name in INDEX_FILES if (root / folder / name).is_file()), None):
        return prefix + name
    if any((root / folder / name).is_file() for name in PICKLED_INDEX_FILES):
        raise CheckpointError(
            f"The weights in {folder or 'the folder'} are split over several pickles. Expected safetensors: save the model again with save_pretrained(…, safe_serialization=True)."
        )
    others = [p.name for p in (root / folder).iterdir() if p.suffix.lower() in WEIGHTS_SUFFIXES and p.is_file()]
    if len(others) == 1 and not shards.is_shard(others[0]):
        return prefix + others[0]
    raise CheckpointError(f"{prefix}{WEIGHT_FILES[0]} is missing. Expected the weights beside {prefix}config.json: copy the whole folder.")


def choose_set(part, asked):
    """(Part, "ema" | "raw" | None) of a weights file that may hold several sets of tensors, as training scripts save them; None where there is only one.

    Raises: CheckpointError: the weights asked for are not in it.
    """
    if part.is_sharded:
        return part, None
    content = open_content(part.root / part.weights_name)
    if "" in content.sets or not content.sets:
        return part, None  # one set, or none: part.weights says what the file holds instead
    kind, key = single_file.choose(content, content.sets, asked)
    return replace(part, key=key), kind


def build(part, example, size):
    """The network with its weights, float32 on the CPU, in evaluation mode.

    Args: part: Part; example: callable that runs the network once on the meta device and raises where its sizes do not fit; size: what it is run on, in words.
    Raises: CheckpointError: the configuration describes no such network, or other tensors than the file holds.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            network = _clip(part) if part.cls == "CLIPTextModel" else _diffusers(part)
            example(network)
    # Whatever diffusers raises for numbers that do not fit together, the finding is the same one line.
    except Exception as error:
        reason = shown(" ".join(str(error).split()) or error.__class__.__name__, 120)
        raise CheckpointError(
            f"{part.config_name} does not describe a {part.cls} that can be built for {size} ({reason}). Expected the file of the training: copy it again."
        ) from None
    return load_into(network, part.weights, _current_name, said_by=part.config_name).eval()


def _diffusers(part):
    if part.cls not in KINDS or part.cls == "CLIPTextModel":
        raise AssertionError(part.cls)
    cls = getattr(importlib.import_module("diffusers"), part.cls)
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    return cls(**{k: v for k, v in part.config.items() if k in known})


def _clip(part):
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "hidden_act", "layer_norm_eps")
    return ClipText(*(part[name] for name in names))


def _current_name(name):
    """Tensor name in today's diffusers, and in our text encoder."""
    parts = name.removeprefix("text_model.").split(".")
    if len(parts) > 2 and "attentions" in parts and parts[-2] in OLD_ATTENTION:
        parts[-2] = OLD_ATTENTION[parts[-2]]
    return ".".join(parts)

"""diffusers checkpoints: pixel-space and latent UNet2DModel, and Stable Diffusion 1 and 2.

    unet/config.json    scheduler/scheduler_config.json    as DDPMPipeline.save_pretrained writes, with or without model_index.json
    … vqvae/ or vae/                                       a latent model (LDMPipeline)
    … vae/ text_encoder/ tokenizer/                        Stable Diffusion; safety_checker/ and feature_extractor/ are not read
    unet_ema/                                              goes before unet/, unless weights says raw
    config.json         scheduler_config.json              all in one folder, or a weights file beside them
    config.json alone                                      what the scheduler's file would say comes from the user or a .yaml beside the weights file

Nothing here calls from_pretrained: configuration is JSON that is checked value by value (diffusers_parts.py, diffusers_scheduler.py), classes come from the
lists there and below, and weights go through models/weights.py. diffusers itself is imported only by `load`, so that inspecting stays fast.
"""

import itertools
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from models.base import CheckpointInfo, Setting
from models.captions import TextEncoder
from models.errors import CheckpointError, UnsafeCheckpoint
from models.formats import diffusers_scheduler, foreign
from models.formats.diffusers_denoiser import DiffusersDenoiser
from models.formats.diffusers_parts import Part, build, choose_set, class_of, numbers, read_part
from models.formats.diffusers_scheduler import OURS, SCHEDULERS, Noise
from models.latent import Autoencoder
from models.overrides import WEIGHTS_SUFFIXES, Takes, beside, check, fit
from models.safety import files_sha256, read_json, refuse_code, shown
from models.tokenizer import files_of, read_tokenizer
from models.weights import open_content

UNCONDITIONAL, CONDITIONAL, AUTOENCODERS = "UNet2DModel", "UNet2DConditionModel", ("AutoencoderKL", "VQModel")
_PIXELS = {"unet": (UNCONDITIONAL,), "scheduler": tuple(SCHEDULERS)}
_LATENTS = _PIXELS | {"vqvae": AUTOENCODERS, "vae": AUTOENCODERS}
_TEXT = {"unet": (CONDITIONAL,), "scheduler": tuple(SCHEDULERS), "vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel",), "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast")}
# {pipeline: {component: classes that it may be}}
PIPELINES = dict.fromkeys(("DDPMPipeline", "DDIMPipeline", "PNDMPipeline", "RePaintPipeline"), _PIXELS) | {"LDMPipeline": _LATENTS}
PIPELINES |= dict.fromkeys(("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"), _TEXT)
LIBRARIES = {"text_encoder": "transformers", "tokenizer": "transformers"}  # all others are diffusers' own
NOT_READ = {"safety_checker": ("stable_diffusion", "diffusers"), "feature_extractor": ("transformers",), "image_encoder": ("transformers",)}
KL_SCALE = 0.18215  # what diffusers' pipelines multiplied by before autoencoders named their factor
VQ_SCALE = 1.0  # and VQ latents were not scaled then
USUAL = {
    "train_timesteps": [{"train_timesteps": steps} for steps in (1000, 4000)],
    "beta_schedule": [{"beta_schedule": "linear"}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, {"beta_schedule": "cosine"}],
    "prediction_type": [{"prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")],
}


@dataclass(frozen=True)
class _Parsed:
    """Everything the files say, checked. latents: (c,h,w) that the network works on; tokenizer: relative names of its files; scale: of the latents, with who decided it."""

    root: Path
    unet: Part
    noise: Noise
    latents: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    size_by: str
    weights_kind: str
    autoencoder: Part | None
    scale: Setting | None
    text: Part | None
    tokenizer: tuple[str, ...]
    not_read: tuple[str, ...]
    files: tuple[str, ...]


class DiffusersFolder:
    """See the module's docstring."""

    name = "diffusers"
    words = "diffusers folder or .zip: DDPM, DDIM, latent or Stable Diffusion 1 or 2, or a UNet's weights beside config.json"
    takes = Takes(("weights", *OURS))

    def recognise(self, path):
        """True for a folder with model_index.json, unet/config.json or config.json, and for a UNet's weights file beside a config.json of diffusers."""
        path = Path(path)
        if path.is_dir():
            return any((path / name).is_file() for name in ("model_index.json", "unet/config.json", "unet_ema/config.json", "config.json"))
        if path.suffix.lower() not in WEIGHTS_SUFFIXES or not (path.parent / "config.json").is_file():
            return False
        return any("down_blocks." in name for weights in open_content(path).sets.values() for name in weights.shapes)

    def inspect(self, path, **overrides):
        """CheckpointInfo from the JSON files and the headers of the weights; `missing` names what has to be given."""
        return _info(_parse(Path(path), overrides))

    def load(self, path, **overrides):
        """Denoiser; names, shapes and the scheduler's own noise levels are compared first. Raises CheckpointError naming every setting that is missing."""
        parsed = _parse(Path(path), overrides)
        if parsed.noise.missing:
            raise CheckpointError(
                f"The checkpoint has no scheduler/scheduler_config.json, and {', '.join(parsed.noise.missing)} cannot be seen in {parsed.unet.config_name}. "
                f"Expected the file that was saved with it (the folder above, where this one is unet/), or each of these settings: give them as for the training."
            )
        return _denoiser(parsed)

    def candidates(self, path, **overrides):
        """{"name value, …": Denoiser} for the usual values of what a missing scheduler's file would say, all on one network; {} where nothing is missing.

        For models/selftest.py:rank.
        """
        parsed, made, like = _parse(Path(path), overrides), {}, None
        for combination in itertools.product(*(USUAL[name] for name in parsed.noise.missing if name in USUAL)) if parsed.noise.missing else ():
            values = {name: value for part in combination for name, value in part.items()}
            tried = _parse(Path(path), overrides | values)
            if tried.noise.missing:
                return {}  # beta_start without beta_schedule's usual values: nothing to compare
            like = made[", ".join(f"{name} {value}" for name, value in values.items())] = _denoiser(tried, like)
        return made


# ------------------------------------------------------------------ reading


def _parse(path, overrides):
    """_Parsed of a folder, or of a weights file beside config.json. Raises CheckpointError."""
    user = check(overrides)
    from_yaml, yaml_name = beside(path) if path.is_file() else ({}, "")
    fit(DiffusersFolder.takes, from_yaml, "a diffusers checkpoint", yaml_name)
    root = path.parent if path.is_file() else path
    index = read_json(root, "model_index.json") if path.is_dir() and os.path.lexists(root / "model_index.json") else {}
    roles, not_read = _check_index(index)
    asked = user.get("weights", from_yaml.get("weights", "auto"))
    folder, kind = ("", None) if path.is_file() else _unet_folder(root, asked)
    if path.is_dir():
        refuse_code(root, ("", "scheduler"))
    unet = read_part(root, folder, index.get("unet"), roles["unet"], "networks", path.name if path.is_file() else None)
    unet, kind_of_set = choose_set(unet, "auto" if kind else asked)
    text, tokenizer = _text(root, index, roles, unet)
    autoencoder = _autoencoder(root, index, roles, unet)
    noise = _noise(root, index, user, from_yaml, yaml_name, _learned(unet), unet)
    size, size_by = _size(unet)
    latents = (unet["in_channels"], *size)
    image_shape = latents if autoencoder is None else (autoencoder["in_channels"], *(n * autoencoder.factor for n in size))
    parts = [part for part in (unet, autoencoder, text) if part is not None]
    files = {*(file for part in parts for file in part.files), *tokenizer, *filter(None, ("model_index.json" if index else "", noise.name, yaml_name))}
    scale = autoencoder and _scale(autoencoder)
    not_read = not_read if index else tuple(role for role in NOT_READ if (root / role).is_dir() and text is not None)
    kind = kind or kind_of_set or ("only" if asked == "auto" else asked)
    return _Parsed(root, unet, noise, latents, image_shape, size_by, kind, autoencoder, scale, text, tokenizer, not_read, tuple(sorted(files)))


def _check_index(index):
    """({component: classes that it may be}, components that are not read) of model_index.json, {} where there is none; nothing is imported to find out.

    Raises: CheckpointError: a pipeline or component of another kind, by name; UnsafeCheckpoint: code.
    """
    if not index:
        return _LATENTS | _TEXT | {"unet": (UNCONDITIONAL, CONDITIONAL), "vae": AUTOENCODERS}, ()
    pipeline = index.get("_class_name", "DDPMPipeline")
    if not isinstance(pipeline, str):
        raise UnsafeCheckpoint(f"model_index.json names code ({shown(pipeline)}) and was not opened. Expected one of diffusers' pipelines: {', '.join(PIPELINES)}.")
    if pipeline not in PIPELINES:
        reason = foreign.family_of(pipeline)
        raise CheckpointError(f"{shown(pipeline)} is not supported{f' ({reason})' if reason else ''}. Expected one of {', '.join(PIPELINES)}: audit such a checkpoint.")
    roles, not_read = PIPELINES[pipeline], []
    for role, entry in index.items():
        if role.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue  # plain numbers and switches are settings of the pipeline's sampler
        pair = [str(part) for part in entry]
        libraries = NOT_READ.get(role) or (LIBRARIES.get(role, "diffusers") if role in roles else "diffusers",)
        if len(pair) != 2 or pair[0] not in libraries:
            raise UnsafeCheckpoint(
                f"model_index.json names {shown('.'.join(pair))} as {shown(role, 30)} and was not opened. Expected the classes of {pipeline} only: {', '.join(roles)}."
            )
        if role in NOT_READ and roles is _TEXT:
            not_read.append(role)
        elif pair[1] not in roles.get(role, ()):
            reason = foreign.family_of(pair[1])
            raise CheckpointError(
                f"{shown(pair[1])} ({shown(role, 30)}) is not supported in {pipeline}{f': it belongs to {reason}' if reason else ''}. "
                f"Expected {' or '.join(roles.get('unet', ()))} with a DDPM-like scheduler: audit such a checkpoint."
            )
    return roles, tuple(not_read)


def _unet_folder(root, asked):
    """(folder of the network, "ema" | "raw" | None where the folders do not tell). Raises CheckpointError."""
    there = {kind: (root / folder / "config.json").is_file() for kind, folder in (("ema", "unet_ema"), ("raw", "unet"))}
    if asked in there and any(there.values()) and not there[asked]:
        raise CheckpointError(f"The checkpoint has no {'unet_ema' if asked == 'ema' else 'unet'}/ with {asked} weights. Expected another value: auto takes what there is.")
    if there["ema"] and asked != "raw":
        return "unet_ema", "ema"
    if there["raw"]:
        return "unet", "raw" if there["ema"] or asked == "raw" else None
    if (root / "config.json").is_file():
        return "", None
    raise CheckpointError("The checkpoint has no unet/config.json. Expected a pipeline with unet/ and scheduler/: copy the whole folder.")


def _learned(unet):
    """Whether the network returns a variance too. Raises CheckpointError: its channels fit neither."""
    channels, out = unet["in_channels"], unet["out_channels"]
    if out not in (channels, 2 * channels) or (unet.cls == CONDITIONAL and out != channels):
        twice = "" if unet.cls == CONDITIONAL else f", or {2 * channels} with a learned variance"
        raise CheckpointError(f"{unet.config_name}: out_channels is {out} with {channels} in. Expected {channels}{twice}: copy the file again.")
    return out == 2 * channels


def _noise(root, index, user, from_yaml, yaml_name, learned, unet):
    name = next((n for n in diffusers_scheduler.PLACES if (root / n).is_file()), None)
    if name is None:
        noise = diffusers_scheduler.from_user(user, from_yaml, yaml_name, learned)
    else:
        noise = diffusers_scheduler.from_file(root, name, index.get("scheduler"), from_yaml | user, class_of, learned, unet.config_name)
    embedded = unet["num_train_timesteps"] or 0
    if unet["time_embedding_type"] == "learned" and noise.steps and embedded < noise.steps:
        raise CheckpointError(
            f"{unet.config_name} embeds {embedded} timesteps, {noise.name or 'train_timesteps'} has {noise.steps}. Expected the same number: copy both files of one model."
        )
    return noise


def _autoencoder(root, index, roles, unet):
    """Part of a latent model's autoencoder, None for a pixel model. Raises CheckpointError: missing, or of another model."""
    there = [role for role in ("vae", "vqvae") if (isinstance(index.get(role), list) and index[role] != [None, None] if index else (root / role / "config.json").is_file())]
    channels = unet["in_channels"]
    if not there and unet.cls == UNCONDITIONAL and index.get("_class_name") != "LDMPipeline":
        if channels not in (1, 3):
            raise CheckpointError(
                f"{unet.config_name}: in_channels is {channels}. Expected 1 or 3, a model of pictures, or vae/ or vqvae/ beside {unet.folder or 'it'} for a latent one: "
                "super-resolution networks are not supported."
            )
        return None
    role = there[0] if there else "vqvae" if unet.cls == UNCONDITIONAL else "vae"
    if not (root / role / "config.json").is_file():
        kind = index.get("_class_name") or unet.cls
        raise CheckpointError(f"{kind} works on latents, and {role}/config.json is missing. Expected the autoencoder beside {unet.folder or 'it'}: copy the whole folder.")
    part = read_part(root, role, index.get(role), roles[role], "autoencoders")
    latent = (part["vq_embed_dim"] if part.cls == "VQModel" else None) or part["latent_channels"]
    if latent != channels:
        raise CheckpointError(f"{part.config_name} makes {latent} latent channels, {unet.config_name} takes {channels}. Expected files of one model: copy both again.")
    if part["in_channels"] not in (1, 3) or part["in_channels"] != part["out_channels"]:
        raise CheckpointError(
            f"{part.config_name} takes {part['in_channels']} channels and gives {part['out_channels']}. Expected 1 or 3 both ways, pictures: other autoencoders are not supported."
        )
    return part


def _scale(autoencoder):
    """Setting scaling_factor of an autoencoder. Raises CheckpointError."""
    said = autoencoder.config.get("scaling_factor")
    if said is None:
        return Setting("scaling_factor", KL_SCALE if autoencoder.cls == "AutoencoderKL" else VQ_SCALE, "inferred")
    if type(said) not in (int, float) or not 0 < said < math.inf:
        raise CheckpointError(f"{autoencoder.config_name}: scaling_factor is {shown(said)}. Expected a positive number: copy the file again.")
    return Setting("scaling_factor", float(said), autoencoder.config_name)


def _text(root, index, roles, unet):
    """(Part of the text encoder, names of the tokenizer's files), (None, ()) for a model without captions. Raises CheckpointError."""
    if unet.cls != CONDITIONAL:
        return None, ()
    if not (root / "text_encoder" / "config.json").is_file():
        raise CheckpointError(
            f"{unet.config_name} is a text-conditional UNet, and text_encoder/config.json is missing. Expected the whole pipeline: give the folder of its model_index.json."
        )
    part = read_part(root, "text_encoder", index.get("text_encoder"), roles["text_encoder"], "text encoders")
    if part["hidden_size"] != unet["cross_attention_dim"]:
        raise CheckpointError(
            f"{part.config_name} makes {part['hidden_size']} numbers per token, {unet.config_name} takes {unet['cross_attention_dim']}. "
            "Expected files of one model: copy both again."
        )
    refuse_code(root, ("tokenizer",))
    return part, files_of(root, "tokenizer")


def _size(unet):
    """((h, w) that the network works on, who decided it). Raises CheckpointError."""
    size = numbers(unet["sample_size"])
    if size == [None] or len(size) > 2:
        raise CheckpointError(f'{unet.config_name} does not say the image size. Expected sample_size: add "sample_size": 32, or whatever the model was trained on.')
    version = re.match(r"0\.(\d+)\.", str(unet.config.get("_diffusers_version", "")))
    if unet.cls == CONDITIONAL and version and int(version[1]) < 9 and max(size) < 64:
        return (64, 64), "inferred"  # as diffusers' pipeline: files before 0.9 said 32 for models of 512 x 512
    return (size[0], size[-1]), unet.config_name


# ------------------------------------------------------------------ saying


def _info(parsed):
    unet, noise = parsed.unet, parsed.noise
    _, height, width = parsed.image_shape
    rows = [*noise.settings, Setting("image_size", f"{height} x {width}", parsed.size_by), Setting("channels", parsed.image_shape[0], unet.config_name)]
    notes, doubts = [], list(noise.notes)
    if unet["num_class_embeds"] is not None:
        rows.append(Setting("classes", unet["num_class_embeds"], unet.config_name))
        notes.append("every image needs its class label; another label gives other numbers")
    if parsed.autoencoder is not None:
        part = parsed.autoencoder
        rows += [Setting("latents", " x ".join(map(str, parsed.latents)), unet.config_name), parsed.scale]
        rows.append(Setting("autoencoder", f"{part.cls} {part.width}, {part.parameters:,} parameters", part.config_name))
        if parsed.scale.decided_by == "inferred":
            doubts.append(f"{part.config_name} does not say its scaling_factor: {parsed.scale.value:g} is what files without one were trained with")
        notes.append("losses are those of the autoencoder's latents; another scaling_factor would load as well and give other numbers")
    if parsed.text is not None:
        rows.append(Setting("text_encoder", f"CLIPTextModel, {parsed.text.parameters:,} parameters", parsed.text.config_name))
        notes.append("without captions the empty one is used, without guidance; the captions of the training find members better")
    if parsed.not_read:
        notes.append(f"{' and '.join(parsed.not_read)} {'is' if len(parsed.not_read) == 1 else 'are'} not read: not part of the denoising")
    rows.append(Setting("weights", unet.weights_name + (f": {unet.key}" if unet.key else ""), "inferred"))
    return CheckpointInfo(
        sha256=files_sha256(parsed.root, parsed.files),
        format=DiffusersFolder.name,
        architecture=f"{unet.cls} {unet.width}",
        parameters=unet.parameters,
        weights=parsed.weights_kind,
        prediction_type=noise.prediction_type,
        train_timesteps=noise.steps,
        image_shape=parsed.image_shape,
        settings=tuple(rows),
        confidence="incomplete" if noise.missing else "likely" if doubts else "certain",
        files=parsed.files,
        missing=noise.missing,
        notes=(*doubts, *notes),
    )


# ------------------------------------------------------------------ building


def _denoiser(parsed, like=None):
    """DiffusersDenoiser; like: one of the same checkpoint, whose networks it then shares."""
    noise = parsed.noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stderr belongs to our one error line
        diffusers_scheduler.check(noise)
        network, autoencoder, text = _networks(parsed) if like is None else (like.network, like.autoencoder, like.text)
    classes = parsed.unet["num_class_embeds"]
    return DiffusersDenoiser(network, noise.schedule, parsed.image_shape, noise.prediction_type, noise.variance, _info(parsed), classes, autoencoder, text)


def _networks(parsed):
    """(network, Autoencoder or None, TextEncoder or None), the small ones first: a file that does not fit is refused before the large one is read."""
    autoencoder, text, tokenizer = None, None, None
    if parsed.text is not None:
        part = parsed.text
        tokenizer = read_tokenizer(parsed.root, "tokenizer", part["vocab_size"], part["max_position_embeddings"])
        text = TextEncoder(tokenizer, build(part, lambda network: network(torch.zeros(1, 3, dtype=torch.int64)), "any text"))
    if parsed.autoencoder is not None:
        autoencoder = Autoencoder(build(parsed.autoencoder, lambda module: _try_autoencoder(module, parsed), _pixels(parsed.image_shape)), parsed.scale.value)
    network = build(parsed.unet, lambda network: _try_unet(network, parsed), _pixels(parsed.latents))
    return network, autoencoder, text


def _pixels(shape):
    return f"{shape[1]} x {shape[2]} pixels"


def _try_unet(network, parsed):
    channels, height, width = parsed.latents
    cond = {}
    if parsed.text is not None:
        cond["encoder_hidden_states"] = torch.empty(1, 3, parsed.unet["cross_attention_dim"])
    if parsed.unet["num_class_embeds"] is not None:
        cond["class_labels"] = torch.zeros(1, dtype=torch.int64)
    out = network(torch.empty(1, channels, height, width), torch.zeros(1, dtype=torch.int64), **cond).sample
    if out.shape[-2:] != (height, width):
        raise ValueError(f"{tuple(out.shape[-2:])} pixels out")


def _try_autoencoder(module, parsed):
    module = Autoencoder(module, 1.0)
    latents = module.encode(torch.empty(1, *parsed.image_shape))
    if tuple(latents.shape[1:]) != parsed.latents:
        raise ValueError(f"latents of {tuple(latents.shape[1:])}, where the network takes {parsed.latents}")
    if tuple(module.decode(latents).shape[1:]) != parsed.image_shape:
        raise ValueError("pictures of another shape come back")

"""diffusers folders with a pixel-space UNet2DModel.

Three layouts, each with or without model_index.json:

    unet/config.json    scheduler/scheduler_config.json    as DDPMPipeline.save_pretrained writes
    config.json         scheduler_config.json              all in one folder
    config.json         scheduler/scheduler_config.json

Nothing here calls from_pretrained: configuration is JSON that is checked value by value, classes come from the lists below, and weights go
through models/weights.py. diffusers itself is imported only by `load`, so that inspecting stays fast.
"""

import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from models import schedule as schedules
from models.base import PREDICTION_TYPES, CheckpointInfo, Denoiser, Setting
from models.errors import CheckpointError, UnsafeCheckpoint
from models.safety import files_sha256, read_json, refuse_code, shown
from models.weights import load_into, open_weights, parameter_count

NETWORKS = ("UNet2DModel",)
PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline", "RePaintPipeline")
DDPM_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
# What each scheduler class assumes where its file is silent, as far as it differs from DDPM. Samplers of one trained model: the noise it was trained with is the same.
SCHEDULERS = {
    "DDPMScheduler": {"variance_type": "fixed_small"},
    "DDPMParallelScheduler": {"variance_type": "fixed_small"},
    "DDIMScheduler": {},
    "DDIMParallelScheduler": {},
    "DDIMInverseScheduler": {},
    "PNDMScheduler": {},
    "RePaintScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverMultistepInverseScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "DEISMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    "SASolverScheduler": {},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "HeunDiscreteScheduler": _LATENT,
    "KDPM2DiscreteScheduler": _LATENT,
    "KDPM2AncestralDiscreteScheduler": _LATENT,
    "LCMScheduler": _LATENT | {"beta_schedule": "scaled_linear"},
    "TCDScheduler": _LATENT | {"beta_schedule": "scaled_linear"},
}
VARIANCE_OF = {kind: kind.removesuffix("_log") for kind in ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")}
WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)
SHARDED = ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.bin.index.json")
BLOCKS = (*(f"{kind}{way}Block2D" for way in ("Down", "Up") for kind in ("", "Attn", "Skip", "AttnSkip")), "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
# diffusers before 0.15 named the attention projections so (google/ddpm-cifar10-32 and its kin)
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
MAX_STEPS = 100_000
MAX_WIDTH = 16_384
LIMITS = {
    "sample_size": 8192,
    "layers_per_block": 64,
    "block_out_channels": MAX_WIDTH,
    "time_embedding_dim": 4 * MAX_WIDTH,
    "norm_num_groups": MAX_WIDTH,
    "attn_norm_num_groups": MAX_WIDTH,
    "attention_head_dim": MAX_WIDTH,
    "num_train_timesteps": MAX_STEPS,
}


@dataclass(frozen=True)
class _Parsed:
    """Everything the JSON files say, checked; `scheduler` has the defaults of its class filled in."""

    root: Path
    unet: dict
    scheduler: dict
    scheduler_class: str
    image_shape: tuple[int, int, int]
    variance: str
    schedule: schedules.Schedule
    weights_file: str
    weights_kind: str
    files: tuple[str, ...]
    settings: tuple[Setting, ...]


class DiffusersFolder:
    """See the module's docstring."""

    name = "diffusers"
    words = "diffusers folder or .zip: DDPM/DDIM pipeline, or UNet2DModel with scheduler_config.json"

    def recognise(self, path):
        """True for a folder that holds model_index.json, unet/config.json or config.json."""
        path = Path(path)
        return path.is_dir() and any((path / name).is_file() for name in ("model_index.json", "unet/config.json", "unet_ema/config.json", "config.json"))

    def inspect(self, path):
        """CheckpointInfo from the JSON files and the header of the weights."""
        parsed = _parse(Path(path))
        return _info(parsed, open_weights(parsed.root / parsed.weights_file))

    def load(self, path):
        """Denoiser; names, shapes and the scheduler's own noise levels are compared first."""
        parsed = _parse(Path(path))
        weights = open_weights(parsed.root / parsed.weights_file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # stderr belongs to our one error line
            _check_scheduler(parsed)
            network = load_into(_build(parsed), weights, _current_name).eval()
        return Denoiser(network, parsed.schedule, parsed.image_shape, parsed.scheduler["prediction_type"], parsed.variance, _info(parsed, weights))


def _parse(root):
    """_Parsed of a folder. Raises CheckpointError."""
    index = read_json(root, "model_index.json") if (root / "model_index.json").is_file() else {}
    _check_index(index)
    folder = next((f for f in ("unet_ema", "unet", "") if (root / f / "config.json").is_file()), None)
    if folder is None:
        raise CheckpointError("The checkpoint has no unet/config.json. Expected a pipeline with unet/ and scheduler/: copy the whole folder.")
    refuse_code(root, ("", *(["unet_ema", "unet"] if folder else []), "scheduler"))
    unet_name = f"{folder}/config.json" if folder else "config.json"
    scheduler_name = next((n for n in ("scheduler/scheduler_config.json", "scheduler_config.json") if (root / n).is_file()), None)
    if scheduler_name is None:
        raise CheckpointError(
            "The checkpoint has no scheduler/scheduler_config.json, so its noise levels are unknown. "
            "Expected unet/ and scheduler/ side by side: give the folder that holds both, or add the file."
        )
    unet, given = read_json(root, unet_name), read_json(root, scheduler_name)
    _class_of(unet, unet_name, index.get("unet"), NETWORKS, "networks")
    scheduler_class = _class_of(given, scheduler_name, index.get("scheduler"), tuple(SCHEDULERS), "schedulers")
    scheduler = DDPM_DEFAULTS | SCHEDULERS[scheduler_class] | {k: v for k, v in given.items() if not k.startswith("_")}
    shape = _check_unet(unet, unet_name)
    schedule = _schedule(scheduler, scheduler_name)
    embedded = unet.get("num_train_timesteps") or 0
    if unet.get("time_embedding_type") == "learned" and embedded < len(schedule):
        raise CheckpointError(f"{unet_name} embeds {embedded} timesteps, {scheduler_name} has {len(schedule)}. Expected the same number: copy both files of one model.")
    variance = _variance(scheduler, scheduler_class, scheduler_name, shape[0], unet.get("out_channels", 3), unet_name)
    weights_file = _weights_file(root, folder)
    files = tuple(sorted(filter(None, ("model_index.json" if index else None, unet_name, scheduler_name, weights_file))))
    settings = _settings(scheduler, given, scheduler_class, scheduler_name, variance, shape, unet_name, weights_file)
    return _Parsed(root, unet, scheduler, scheduler_class, shape, variance, schedule, weights_file, "ema" if folder == "unet_ema" else "only", files, settings)


def _check_index(index):
    """Refuse a pipeline or component of another kind, by name; nothing is imported to find out."""
    pipeline = index.get("_class_name", "DDPMPipeline")
    if not isinstance(pipeline, str):
        raise UnsafeCheckpoint(f"model_index.json names code ({shown(pipeline)}) and was not opened. Expected one of diffusers' pipelines: {', '.join(PIPELINES)}.")
    for role, entry in index.items():
        if role.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue  # plain numbers and switches are settings of the pipeline's sampler
        pair = [str(part) for part in entry]
        if len(pair) != 2 or pair[0] != "diffusers":
            raise UnsafeCheckpoint(
                f"model_index.json names {shown('.'.join(pair))} as {shown(role, 30)} and was not opened. Expected classes of diffusers only: UNet2DModel with a scheduler."
            )
        if pair[1] not in NETWORKS and pair[1] not in SCHEDULERS:
            raise CheckpointError(f"{shown(pair[1])} ({shown(role, 30)}) is not supported. Expected a pixel-space UNet2DModel with a DDPM-like scheduler: audit such a checkpoint.")
    if pipeline not in PIPELINES:
        raise CheckpointError(f"{shown(pipeline)} is not supported. Expected one of {', '.join(PIPELINES)}: audit such a checkpoint.")


def _class_of(config, name, index_entry, allowed, what):
    """Class name that a configuration, or else model_index.json, gives; refused unless it is on our list."""
    listed = index_entry[1] if isinstance(index_entry, list) and len(index_entry) == 2 else None
    found = config.get("_class_name", listed)
    if found is None:
        raise CheckpointError(f"{name} names no class (_class_name). Expected one of {len(allowed)} {what} of diffusers, {allowed[0]} for instance: add the line.")
    if not isinstance(found, str) or found not in allowed:
        raise CheckpointError(
            f"{name} names the class {shown(found)}, which is not supported. Expected one of {', '.join(allowed[:4])}{' …' if len(allowed) > 4 else ''}: audit such a checkpoint."
        )
    return found


def _numbers(value):
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _check_unet(unet, name):
    """(C,H,W) of the pictures, after checking that no number in the network's configuration is absurd."""
    for key, limit in LIMITS.items():
        for number in _numbers(unet.get(key)):
            if number is not None and not (type(number) is int and 1 <= number <= limit):
                raise CheckpointError(f"{name}: {key} is {shown(unet[key])}. Expected whole numbers from 1 to {limit}: copy the file again.")
    channels, out, size = unet.get("in_channels", 3), unet.get("out_channels", 3), _numbers(unet.get("sample_size"))
    if unet.get("num_class_embeds") is not None or unet.get("class_embed_type") is not None:
        raise CheckpointError(
            f"{name} describes a network with class labels (num_class_embeds {shown(unet.get('num_class_embeds'))}), which is not supported yet. "
            "Expected an unconditional UNet2DModel: audit such a checkpoint."
        )
    if channels not in (1, 3) or type(channels) is not int:
        raise CheckpointError(f"{name}: in_channels is {shown(channels)}. Expected 1 or 3, a model of pictures: latent and super-resolution networks are not supported.")
    if out not in (channels, 2 * channels) or type(out) is not int:
        raise CheckpointError(f"{name}: out_channels is {shown(out)} with {channels} in. Expected {channels}, or {2 * channels} with a learned variance: copy the file again.")
    if size == [None] or len(size) > 2:
        raise CheckpointError(f'{name} does not say the image size. Expected sample_size: add "sample_size": 32, or whatever the model was trained on.')
    if unet.get("time_embedding_type", "positional") not in ("positional", "learned"):
        raise CheckpointError(
            f"{name}: time_embedding_type {shown(unet['time_embedding_type'])} is not supported. Expected positional or learned: score-SDE networks have no discrete timesteps."
        )
    for key in ("down_block_types", "up_block_types"):
        for block in _numbers(unet.get(key)) if key in unet else ():
            if block not in BLOCKS:
                raise CheckpointError(f"{name}: {key} names {shown(block)}. Expected blocks of UNet2DModel such as DownBlock2D and AttnDownBlock2D: copy the file again.")
    levels = len(_numbers(unet.get("block_out_channels")))
    if levels > 16:
        raise CheckpointError(f"{name}: block_out_channels has {levels} levels. Expected at most 16: copy the file again.")
    return channels, size[0], size[-1]


def _schedule(scheduler, name):
    """Schedule of a scheduler's configuration, every number checked before it is used."""
    prediction_type = scheduler["prediction_type"]
    if prediction_type not in PREDICTION_TYPES:
        raise CheckpointError(f"{name}: prediction_type is {shown(prediction_type)}. Expected {', '.join(PREDICTION_TYPES)}: flow-matching models are not supported.")
    if scheduler.get("use_flow_sigmas"):
        raise CheckpointError(f"{name} uses flow sigmas. Expected a DDPM-like noise schedule: flow-matching models are not supported.")
    steps, trained = scheduler["num_train_timesteps"], scheduler["trained_betas"]
    if type(steps) is not int or not 2 <= steps <= MAX_STEPS:
        raise CheckpointError(f"{name}: num_train_timesteps is {shown(steps)}. Expected a whole number from 2 to {MAX_STEPS}: copy the file again.")
    if trained is not None:
        if not isinstance(trained, list) or len(trained) != steps or not all(type(b) in (int, float) for b in trained):
            came = f"{len(trained)} entries" if isinstance(trained, list) else shown(trained)
            raise CheckpointError(f"{name}: trained_betas has {came} for {steps} timesteps. Expected one number per timestep: copy the file again.")
    elif not all(type(scheduler[key]) in (int, float) and 0 < scheduler[key] < 1 for key in ("beta_start", "beta_end")):
        raise CheckpointError(
            f"{name}: beta_start {shown(scheduler['beta_start'])} and beta_end {shown(scheduler['beta_end'])}. Expected numbers between 0 and 1: copy the file again."
        )
    return schedules.from_betas(schedules.betas_for(scheduler))


def _variance(scheduler, scheduler_class, name, channels, out_channels, unet_name):
    """One of models.base.VARIANCES, or an error where the two files contradict each other."""
    said = scheduler.get("variance_type")
    if said is not None and (not isinstance(said, str) or said not in VARIANCE_OF):
        raise CheckpointError(f"{name}: variance_type is {shown(said)}. Expected one of {', '.join(VARIANCE_OF)}: copy the file again.")
    learned = said in ("learned", "learned_range")
    if learned != (out_channels == 2 * channels):
        expected = f"out_channels {2 * channels}" if learned else "variance_type learned or learned_range"
        raise CheckpointError(
            f"{name} says variance_type {said}, {unet_name} has {out_channels} channels out for {channels} in. Expected {expected}: copy both files of one model."
        )
    if learned or scheduler_class.startswith("DDPM"):
        return VARIANCE_OF[said or "fixed_small"]
    return "fixed_small"  # other samplers have no reverse variance of their own: the posterior's, as Ho et al. 2020


def _weights_file(root, folder):
    prefix = f"{folder}/" if folder else ""
    for name in WEIGHT_FILES:
        if (root / folder / name).is_file():
            return prefix + name
    if any((root / folder / name).is_file() for name in SHARDED):
        raise CheckpointError(
            f'The weights in {folder or "the folder"} are split over several files. Expected one: save the model again with save_pretrained(…, max_shard_size="100GB").'
        )
    raise CheckpointError(f"{prefix}{WEIGHT_FILES[0]} is missing. Expected the weights beside {prefix}config.json: copy the whole folder.")


def _settings(scheduler, given, scheduler_class, scheduler_name, variance, shape, unet_name, weights_file):
    """How each setting was decided: the file that says it, or "default" where diffusers' class fills it in."""
    betas = ("trained_betas",) if scheduler["trained_betas"] else ("beta_schedule", "beta_start", "beta_end")
    rows = [Setting("scheduler", scheduler_class, scheduler_name)]
    for name in ("prediction_type", "num_train_timesteps", *betas, "rescale_betas_zero_snr"):
        value = f"{len(scheduler[name])} numbers" if name == "trained_betas" else scheduler[name]
        rows.append(Setting(name, value, scheduler_name if name in given else "default"))
    said = given.get("variance_type") is not None and (variance.startswith("learned") or scheduler_class.startswith("DDPM"))
    rows.append(Setting("variance", variance, scheduler_name if said else "default"))
    rows.append(Setting("image_size", f"{shape[1]} x {shape[2]}", unet_name))
    rows.append(Setting("channels", shape[0], unet_name))
    rows.append(Setting("weights", weights_file, "inferred"))
    return tuple(rows)


def _info(parsed, weights):
    width = "-".join(str(n) for n in _numbers(parsed.unet.get("block_out_channels", (224, 448, 672, 896))))
    return CheckpointInfo(
        sha256=files_sha256(parsed.root, parsed.files),
        format=DiffusersFolder.name,
        architecture=f"UNet2DModel {width}",
        parameters=parameter_count(weights),
        weights=parsed.weights_kind,
        prediction_type=parsed.scheduler["prediction_type"],
        train_timesteps=len(parsed.schedule),
        image_shape=parsed.image_shape,
        settings=parsed.settings,
        files=parsed.files,
    )


def _build(parsed):
    """UNet2DModel on the meta device, run once there: no memory, but every size and block is tried."""
    from diffusers import UNet2DModel

    known = set(inspect.signature(UNet2DModel.__init__).parameters) - {"self"}
    channels, height, width = parsed.image_shape
    try:
        with torch.device("meta"), torch.no_grad():
            network = UNet2DModel(**{k: v for k, v in parsed.unet.items() if k in known})
            out = network(torch.empty(1, channels, height, width), torch.zeros(1, dtype=torch.int64)).sample
            if out.shape[-2:] != (height, width):
                raise ValueError(f"{tuple(out.shape[-2:])} pixels out")
    # Whatever diffusers raises for numbers that do not fit together, the finding is the same one line.
    except Exception as error:
        reason = shown(" ".join(str(error).split()) or error.__class__.__name__, 120)
        raise CheckpointError(
            f"config.json does not describe a UNet2DModel that can be built for {height} x {width} pixels ({reason}). Expected the file of the training: copy it again."
        ) from None
    return network


def _check_scheduler(parsed):
    """Compare our float64 noise levels with those of the scheduler's own class."""
    import diffusers

    cls = getattr(diffusers, parsed.scheduler_class)
    known = set(inspect.signature(cls.__init__).parameters) & (set(DDPM_DEFAULTS) - {"prediction_type"})
    try:
        own = cls(**{k: parsed.scheduler[k] for k in known}).alphas_cumprod
    except Exception as error:  # NotImplementedError for a schedule that this class does not have, ValueError for others
        raise CheckpointError(
            f"{parsed.scheduler_class} refuses its configuration ({shown(' '.join(str(error).split()), 100)}). Expected the file of the training: check scheduler_config.json."
        ) from None
    schedules.check_against(parsed.schedule, own)


def _current_name(name):
    """Tensor name in today's diffusers."""
    parts = name.split(".")
    if len(parts) > 2 and "attentions" in parts and parts[-2] in OLD_ATTENTION:
        parts[-2] = OLD_ATTENTION[parts[-2]]
    return ".".join(parts)

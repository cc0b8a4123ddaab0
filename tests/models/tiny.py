"""A diffusers checkpoint small enough to make in a test, and the ways to spoil it."""

import functools
import json
import math
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
PLAIN = {"block_out_channels": (12,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "add_attention": False}  # one level: half the time a call


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

# Code that defines peak(), the most MB a process ever held. ru_maxrss starts at what its parent held, so that growth below that goes unseen.
PEAK = "peak = lambda: int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]) / 1024\n"


# latent and text-conditional pipelines

AUTOENCODER = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 2,
    "norm_num_groups": 4,
    "sample_size": 16,
}
CONDITIONAL = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "hidden_act": "quick_gelu",
}
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789.,'!-"
MERGES = ("t h", "th e</w>", "c a", "ca t</w>", "o n</w>", "' s</w>", "! !", "! !</w>", "!! !!</w>")
VOCAB = [*SIGNS, *(f"{sign}</w>" for sign in SIGNS), *(pair.replace(" ", "") for pair in MERGES), "<|startoftext|>", "<|endoftext|>"]


@functools.cache
def _files_of(cls, changes, seed):
    """(network, {file name: bytes}) of a diffusers class as it saves itself."""
    import diffusers

    torch.manual_seed(seed)
    made = getattr(diffusers, cls)(**json.loads(changes)).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return made, {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def save_part(folder, cls, config, seed=0):
    """Write a network of diffusers with random weights; returns it, shared with other tests."""
    made, files = _files_of(cls, json.dumps(config), seed)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return made


def save_latent(folder, cls="AutoencoderKL", role="vqvae", index=True, autoencoder=None, scheduler_config=None, **changes):
    """Write an LDMPipeline: pictures of 1 x 16 x 16, latents of 2 x 8 x 8; returns (network, autoencoder)."""
    import diffusers

    unet = UNET | {"in_channels": 2, "out_channels": 2} | changes
    made = save_part(folder / "unet", "UNet2DModel", unet), save_part(folder / role, cls, AUTOENCODER | (autoencoder or {}), 1)
    diffusers.DDIMScheduler(**scheduler_config or {}).save_pretrained(folder / "scheduler")
    if index:
        entries = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIMScheduler"], role: ["diffusers", cls]}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline", "_diffusers_version": diffusers.__version__} | entries))
    return made


def text_state(seed=2, width=8, inner=16, layers=2, length=16):
    """State dict of a CLIP text encoder, by the names that transformers writes; every tensor random."""
    shapes = {"embeddings.token_embedding.weight": (len(VOCAB), width), "embeddings.position_embedding.weight": (length, width)}
    for layer in range(layers):
        place = f"encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{place}self_attn.{name}.weight": (width, width), f"{place}self_attn.{name}.bias": (width,)}
        shapes |= {f"{place}mlp.fc1.weight": (inner, width), f"{place}mlp.fc1.bias": (inner,), f"{place}mlp.fc2.weight": (width, inner), f"{place}mlp.fc2.bias": (width,)}
        shapes |= {f"{place}layer_norm{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    shapes |= {f"final_layer_norm.{part}": (width,) for part in ("weight", "bias")}
    rng = torch.Generator().manual_seed(seed)
    return {f"text_model.{name}": torch.randn(shape, generator=rng) * 0.5 for name, shape in shapes.items()}


def save_tokenizer(folder, length=12, pad="<|endoftext|>"):
    """Write CLIPTokenizer's files with a vocabulary of a few signs and words."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(VOCAB)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "pad_token": pad}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad, "bos_token": {"content": "<|startoftext|>", "lstrip": False}}))


def save_stable_diffusion(folder, index=True, scheduler_config=None, text=None, **changes):
    """Write a StableDiffusionPipeline: pictures of 1 x 16 x 16; returns (network, autoencoder, state dict of the text encoder)."""
    import diffusers
    from safetensors.torch import save_file

    unet, autoencoder = save_part(folder / "unet", "UNet2DConditionModel", CONDITIONAL | changes), save_part(folder / "vae", "AutoencoderKL", AUTOENCODER, 1)
    given = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    diffusers.DDIMScheduler(**given | (scheduler_config or {})).save_pretrained(folder / "scheduler")
    state = text_state()
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text(json.dumps(TEXT | {"vocab_size": len(VOCAB)} | (text or {})))
    save_file(state | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, folder / "text_encoder" / "model.safetensors")
    save_tokenizer(folder / "tokenizer")
    if index:
        entries = {name: ["diffusers", cls] for name, cls in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("scheduler", "DDIMScheduler"))}
        entries |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"], "requires_safety_checker": True}
        entries |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "feature_extractor": ["transformers", "CLIPImageProcessor"]}
        entries |= {"image_encoder": [None, None]}
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__} | entries))
    return unet, autoencoder, state


def interleaved_table(steps, width):
    """float32 (steps,width), the timestep table that pytorch-ddpm stores: sines and cosines, interleaved."""
    rows = [[f(t * math.exp(-2 * i / width * math.log(10_000))) for i in range(width // 2) for f in (math.sin, math.cos)] for t in range(steps)]
    return torch.tensor(rows, dtype=torch.float32)

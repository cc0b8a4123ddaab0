"""Checkpoints of known families that are not opened: named, with the reason, instead of called unknown."""

import re

from models.errors import CheckpointError, UnsafeCheckpoint

OTHERS = "Expected a diffusers folder, or a .pt of improved-diffusion, guided-diffusion or pytorch-ddpm: audit such a checkpoint"
START_BYTES = 2**16
NO_UNET = "only UNets are supported"


def family_of(class_name):
    """What a class of diffusers belongs to, with the reason why it is not opened; None where it is not known."""
    return next((f"{family}: {why}" for pattern, family, why in CLASSES if re.search(pattern, class_name)), None)


# by the names of pipelines and networks; the first that fits
CLASSES = (
    ("ControlNet|T2IAdapter", "ControlNet or T2I-Adapter", "it steers another network by a second picture"),
    ("Inpaint", "an inpainting model", "it takes a mask and the masked picture too"),
    ("Upscale|SuperResolution", "an upscaler", "it takes a small picture too"),
    ("InstructPix2Pix|Depth2Img", "a model that edits pictures", "it takes a second picture"),
    ("StableDiffusionXL|SDXL", "SDXL or its refiner", "it has two text encoders, and is told sizes and crops"),
    ("StableDiffusion3|SD3", "Stable Diffusion 3", f"a transformer trained by flow matching, and {NO_UNET}"),
    ("Flux", "FLUX", f"a transformer trained by flow matching, and {NO_UNET}"),
    ("Transformer|DiT|PixArt|Sana|Lumina|HunyuanImage|Qwen|Chroma", "a diffusion transformer", NO_UNET),
    ("Video|AnimateDiff|UNet3D|UNetSpatioTemporal|Motion", "a video model", "only models of single pictures are supported"),
    ("ScoreSde|KarrasVe|EDM", "a model of continuous noise levels", "it has no timesteps to audit"),
    ("Consistency|LCM", "a consistency model", "it is distilled, and not trained to tell the noise"),
    ("FlowMatch", "flow matching", "its noise levels are not those of a diffusion model"),
    ("IFPipeline|^IF", "DeepFloyd IF", "its text encoder is T5"),
    ("Kandinsky|unCLIP|UnCLIP|Wuerstchen|StableCascade|Paella", "a model in two stages", "its network takes picture embeddings"),
    ("LDMTextToImage|LDMBert|AltDiffusion|VQDiffusion|UniDiffuser", "a model with another text encoder", "only CLIP's is supported"),
)


def refuse(content):
    """Raise CheckpointError with the family's name when the tensors of models.weights.Content tell it."""
    names = [name for weights in content.sets.values() for name in weights.shapes]
    for family, is_one, why in FAMILIES:
        if any(is_one(name) for name in names):
            raise CheckpointError(f"{content.name} is {family}: {why}. {OTHERS}.")
    if any("down_blocks." in name and ".resnets." in name for name in names):
        kind = "a diffusers autoencoder, one part of a latent model" if any(name.startswith(("encoder.", "decoder.")) for name in names) else "a diffusers network"
        raise CheckpointError(
            f"{content.name} holds {len(names)} tensors but no configuration: {kind}. Expected config.json and scheduler_config.json beside it: give the folder."
        )


def refuse_pickled_source(path):
    """Raise UnsafeCheckpoint for the pickles of NVlabs' code, told by their first bytes; nothing is unpickled."""
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except OSError:
        return  # whoever reads the weights says why
    if path.suffix.lower() != ".safetensors" and b"_reconstruct_persistent_obj" in start:
        raise UnsafeCheckpoint(
            f"{path.name} is a pickle of NVlabs' EDM (or StyleGAN) code, which brings Python source along, and was not opened. "
            f"It is trained on continuous noise levels, too. {OTHERS}."
        )


def is_transformer(name):
    """True for a tensor of DiT, PixArt, SD3 or FLUX."""
    return any(mark in name for mark in ("adaLN_modulation", "adaln_single.", "joint_blocks.", "double_blocks.", "single_blocks.", "single_transformer_blocks."))


def _lucidrains(name):
    return name.endswith(("init_conv.weight", "mid_attn.mem_kv", "sqrt_recipm1_alphas_cumprod")) and not name.startswith("init_conv")


def _changes(name):
    return "lora_" in name or ".lora" in name or any(mark in name for mark in (".hada_w1", ".lokr_w1", "ip_adapter."))


FAMILIES = (
    (
        "a checkpoint of lucidrains' denoising-diffusion-pytorch",
        _lucidrains,
        "its network exists in that package alone and changes between its versions, and one tensor in the wrong place would give wrong numbers in silence",
    ),
    ("a LoRA or adapter", _changes, "it holds changes to a network, not the network"),
    ("a ControlNet", lambda name: name.startswith(("control_model.", "controlnet_")) or "input_hint_block." in name, "it steers another network by a second picture"),
    ("a diffusion transformer (DiT, SD3 or FLUX)", is_transformer, NO_UNET),
    ("an EDM network of NVlabs", lambda name: any(mark in f".{name}" for mark in (".map_noise.", ".map_layer0.", ".emb_fourier.")), "it is trained on continuous noise levels"),
    ("a network of k-diffusion", lambda name: name.startswith("inner_model."), "it is trained on continuous noise levels"),
    ("a network of score_sde", lambda name: "all_modules." in name, "its tensors carry numbers for names, which do not tell its layout"),
    (
        "a network with the names of Ho et al.'s first code (ermongroup's ddim, for instance)",
        lambda name: name.endswith("temb.dense.0.weight"),
        "diffusers' script convert_ddpm_original_checkpoint_to_diffusers.py makes the folder that is read here",
    ),
    ("a text encoder", lambda name: "text_model.encoder.layers." in name, "it is one part of a text-to-image model; give the whole folder"),
)

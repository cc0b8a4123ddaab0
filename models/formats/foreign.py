"""Weights files of known families that are not opened: named, with the reason, instead of called unknown."""

from models.errors import CheckpointError

OTHERS = "Expected a diffusers folder, or a .pt of improved-diffusion, guided-diffusion or pytorch-ddpm: audit such a checkpoint"


def refuse(content):
    """Raise CheckpointError with the family's name when the tensors of models.weights.Content tell it."""
    names = [name for weights in content.sets.values() for name in weights.shapes]
    for family, is_one, why in FAMILIES:
        if any(is_one(name) for name in names):
            raise CheckpointError(f"{content.name} is {family}: {why}. {OTHERS}.")
    if any("down_blocks." in name and ".resnets." in name for name in names):
        raise CheckpointError(
            f"{content.name} holds {len(names)} tensors but no configuration: a diffusers network. Expected config.json and scheduler_config.json beside it: give the folder."
        )


def _lucidrains(name):
    return name.endswith(("init_conv.weight", "mid_attn.mem_kv", "sqrt_recipm1_alphas_cumprod")) and not name.startswith("init_conv")


FAMILIES = (
    (
        "a checkpoint of lucidrains' denoising-diffusion-pytorch",
        _lucidrains,
        "its network exists in that package alone and changes between its versions, and one tensor in the wrong place would give wrong numbers in silence",
    ),
    ("a LoRA", lambda name: "lora_" in name or ".lora." in name, "it holds changes to a network, not the network"),
    ("a diffusion transformer (DiT, SD3 or FLUX)", lambda name: "adaLN_modulation" in name or "joint_blocks." in name or "double_blocks." in name, "only UNets are supported"),
    ("an EDM network of NVlabs", lambda name: ".map_noise." in name or ".map_layer0." in name or name.startswith("map_layer0."), "it is trained on continuous noise levels"),
)

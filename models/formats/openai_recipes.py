"""Published models of openai/improved-diffusion and openai/guided-diffusion: what their README's flags say and no tensor shows.

A recipe may be named for a network of another size that was trained with the same flags. What it must not do is pass one published model off as
another: `check` refuses a recipe when the tensors have exactly the layout of a different one.

Source: the two READMEs ("Models and Hyperparameters"; "Sampling from pre-trained models") and the defaults of their script_util.py.
"""

from dataclasses import dataclass

from models.errors import CheckpointError
from models.formats.openai_layout import channel_mult
from models.nets.openai_unet import Layout


@dataclass(frozen=True)
class Published:
    """One published layout: model_channels, channel_mult, blocks per level, levels with attention, scale-shift, residual resampling, class labels (None: both exist)."""

    model_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention: tuple[int, ...]
    scale_shift: bool
    resblock_updown: bool
    class_conditional: bool | None

    def fits(self, layout: Layout):
        """True when the tensors have exactly this layout."""
        same = (self.model_channels, self.channel_mult, self.num_res_blocks, self.attention, self.scale_shift, self.resblock_updown)
        theirs = (layout.model_channels, channel_mult(layout), layout.num_res_blocks, layout.attention, layout.scale_shift, layout.resblock_updown)
        return same == theirs and self.class_conditional in (None, layout.classes is not None)


@dataclass(frozen=True)
class Recipe:
    """settings: {override: value}; with_classes: those that differ for the class-conditional model; published: its layouts."""

    settings: dict[str, object]
    published: tuple[Published, ...]
    with_classes: dict[str, object]

    def values(self, layout: Layout):
        """{override: value} for that network."""
        return self.settings | (self.with_classes if layout.classes is not None else {})


def _recipe(image_size, steps, schedule, rescale, heads, *published, order="legacy", with_classes=None):
    settings = {
        "image_size": image_size,
        "train_timesteps": steps,
        "beta_schedule": schedule,
        "rescale_timesteps": rescale,
        "prediction_type": "epsilon",
        "respacing": "",
        "attention_order": order,
        **heads,
    }
    return Recipe(settings, published, with_classes or {})


_64, _256 = (1, 2, 3, 4), (1, 1, 2, 2, 4, 4)
_FOUR, _WIDE = {"num_heads": 4}, {"num_head_channels": 64}
RECIPES = {
    "improved-cifar10": _recipe(32, 4000, "cosine", True, _FOUR, Published(128, (1, 2, 2, 2), 3, (1, 2), True, False, False)),
    # the class-conditional ImageNet-64 model alone was trained with --rescale_timesteps False
    "improved-imagenet64": _recipe(
        64, 4000, "cosine", True, _FOUR,
        Published(128, _64, 3, (2, 3), True, False, False), Published(192, _64, 3, (2, 3), True, False, True),
        with_classes={"rescale_timesteps": False},
    ),
    "improved-lsun256": _recipe(256, 1000, "linear", False, {"num_heads": 1}, Published(128, _256, 2, (4,), False, False, False)),
    "guided-64": _recipe(64, 1000, "cosine", False, _WIDE, Published(192, _64, 3, (1, 2, 3), True, True, True), order="new"),
    "guided-128": _recipe(128, 1000, "linear", False, _FOUR, Published(256, (1, 1, 2, 3, 4), 2, (2, 3, 4), True, True, True)),
    "guided-256": _recipe(256, 1000, "linear", False, _WIDE, Published(256, _256, 2, (3, 4, 5), True, True, None)),
    "guided-512": _recipe(512, 1000, "linear", False, _WIDE, Published(256, (0.5, 1, 1, 2, 2, 4, 4), 2, (4, 5, 6), True, True, True)),
    "guided-lsun": _recipe(256, 1000, "linear", False, _WIDE, Published(256, _256, 2, (3, 4, 5), True, True, False)),
}


def fitting(layout):
    """Names of the recipes that were published with exactly this layout."""
    return [name for name, recipe in RECIPES.items() if any(p.fits(layout) for p in recipe.published)]


def check(name, layout, file_name):
    """The Recipe of that name.

    Raises: CheckpointError: no such recipe, or the tensors are exactly those of another published model.
    """
    if name not in RECIPES:
        raise CheckpointError(f"recipe is {str(name)[:40]!r}. Expected one of {', '.join(RECIPES)}.")
    others = fitting(layout)
    if others and name not in others:
        raise CheckpointError(f"{file_name} has the layout of {' or '.join(others)}, not of {name}. Expected the recipe of the published model: give {others[0]}.")
    return RECIPES[name]

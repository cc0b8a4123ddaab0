"""Checkpoints of openai/improved-diffusion and openai/guided-diffusion: model*.pt and ema_*.pt, or the same tensors as safetensors.

Tensors show the network up to its attention heads (openai_layout.py). Heads, their order, the noise schedule, its length, rescaled timesteps, what is
predicted and a fixed variance leave no trace, and a wrong one loads without an error: they come from the user, a .yaml beside the file or a recipe
(openai_recipes.py), or the file is not opened.
"""

import dataclasses
import itertools

import torch

from models.base import Denoiser, labels_for
from models.errors import CheckpointError
from models.formats import openai_layout, openai_recipes, single_file
from models.nets.openai_unet import ORDERS, Heads, OpenAIUNet
from models.overrides import Takes, decide
from models.schedule import from_betas, openai_betas, respace
from models.weights import load_into, parameter_count

DIFFUSION = ("image_size", "train_timesteps", "beta_schedule", "rescale_timesteps", "prediction_type", "variance", "respacing")
HEADS = ("num_heads", "num_head_channels")
FAMILY = "improved- or guided-diffusion"


class OpenAI:
    """See the module's docstring."""

    name = "openai"
    words = "improved-diffusion and guided-diffusion .pt"
    takes = Takes(("recipe", "weights", *DIFFUSION, *HEADS, "num_heads_upsample", "attention_order"), {"beta_schedule": ("linear", "cosine")})
    recipes = tuple(openai_recipes.RECIPES)

    def recognise(self, path):
        """True for OpenAI's tensor names, their optimizer files, and networks built from the same parts, which are then refused by name."""
        file = single_file.pick(path)
        if file is None:
            return False
        content = single_file.open_content(file)
        return openai_layout.is_optimizer(content.keys) or any(openai_layout.looks_like_one(weights.shapes) for weights in content.sets.values())

    def inspect(self, path, **overrides):
        """CheckpointInfo from the names and shapes of the tensors; `missing` names what has to be given."""
        return _parse(path, overrides).info

    def load(self, path, **overrides):
        """Denoiser. Raises CheckpointError naming every setting that is missing."""
        parsed = _parse(path, overrides)
        if parsed.info.missing:
            raise CheckpointError(_what_is_missing(parsed))
        return _build(parsed)

    def candidates(self, path, **overrides):
        """What the file could be: {"name value, …": Denoiser} for the usual values of every missing setting, all on one set of weights; {} if none is missing.

        For models/selftest.py:rank. The variance, which no noise error shows, is set to fixed_large where it is missing, and does not appear in the names.
        Raises: CheckpointError: image_size is missing, which no candidate can stand for.
        """
        parsed = _parse(path, overrides)
        if "image_size" in parsed.info.missing:
            raise CheckpointError(f"{parsed.info.files[0]} does not show the size of its pictures. Expected image_size: give it, then its other settings can be compared.")
        choices = _choices(parsed)
        filled, network, made = {"variance": "fixed_large"} if "variance" in parsed.info.missing else {}, None, {}
        for combination in itertools.product(*choices) if choices else ():
            values = {name: value for part in combination for name, value in part.items()}
            tried = _parse(path, overrides | filled | values)
            if values.get("attention_order") == "new" and _one_head(tried):
                continue  # both orders are the same
            denoiser = _build(tried, network)
            network = network or denoiser.network
            made[", ".join(f"{name} {value}" for name, value in values.items())] = denoiser
        return made


class OpenAIDenoiser(Denoiser):
    """A Denoiser whose network takes fractional timesteps and, where it was trained with classes, labels.

    Args beyond Denoiser's: scale: what the original index is multiplied by for the network (1000 / T), None where it is not rescaled; classes: number or None.
    """

    def __init__(self, network, schedule, info, variance, scale, classes):
        super().__init__(network, schedule, info.image_shape, info.prediction_type, variance, info)
        self.scale, self.classes = scale, classes

    def run_network(self, xt, t_network, cond):
        """Raw output, (N,C or 2C,H,W); cond: (N,) class labels of a class-conditional network."""
        t = t_network if self.scale is None else t_network.float() * self.scale
        return self.network(xt, t, None if self.classes is None else labels_for(cond, self.classes, xt))


def _one_head(parsed):
    """True where every attention block has a single head."""
    heads = _heads(parsed.decided)
    return all(heads.at(width, way) == 1 for width in _attention_widths(parsed.layout) for way in ("down", "up"))


def _choices(parsed):
    """[[{setting: value}, …] per missing setting], the usual values that fit; heads are counted per block or by channels."""
    widths = _attention_widths(parsed.layout)
    heads = [{name: n} for name, numbers in (("num_heads", (1, 2, 4, 8)), ("num_head_channels", (32, 64))) for n in numbers if all(w % n == 0 for w in widths)]
    if len(widths) == 1:  # then the two ways of counting are one
        heads = list({(widths[0] // h["num_head_channels"] if "num_head_channels" in h else h["num_heads"]): h for h in reversed(heads)}.values())
    usual = {
        "train_timesteps": [{"train_timesteps": steps} for steps in (1000, 4000)],
        "beta_schedule": [{"beta_schedule": name} for name in ("linear", "cosine")],
        "rescale_timesteps": [{"rescale_timesteps": switch} for switch in (True, False)],
        "prediction_type": [{"prediction_type": kind} for kind in ("epsilon", "sample")],
        "num_heads": heads,
        "attention_order": [{"attention_order": order} for order in ORDERS],
    }
    return [usual[name] for name in parsed.info.missing if name in usual]


def _build(parsed, like=None):
    """Denoiser of a file with nothing missing; like: a network with the same tensors, whose weights it then shares."""
    decided, layout = parsed.decided, parsed.layout
    full = from_betas(openai_betas(decided["beta_schedule"], decided["train_timesteps"]))
    with torch.device("meta"):
        network = OpenAIUNet(layout, _heads(decided))
    if like is None:
        load_into(network, parsed.weights, openai_layout.short, said_by="its own layout")
    else:
        network.load_state_dict(like.state_dict(), assign=True)
    scale = 1000 / len(full) if decided["rescale_timesteps"] else None
    return OpenAIDenoiser(network.requires_grad_(False).eval(), respace(full, decided["respacing"]), parsed.info, decided["variance"], scale, layout.classes)


@dataclasses.dataclass(frozen=True)
class _Parsed:
    layout: object
    weights: object
    decided: object
    info: object
    recipes: list[str]


def _parse(path, overrides):
    given = single_file.gather(path, OpenAI.takes, FAMILY, overrides)
    weights, kind, kind_setting = _set_of(given)
    layout = openai_layout.layout_of(weights.shapes, given.content.name)
    recipe = openai_recipes.check(given["recipe"], layout, given.content.name) if given["recipe"] is not None else None
    decided = _decide(given, recipe, layout)
    _check_fit(decided, layout, given.content.name)
    size, doubts = decided["image_size"], _doubts(decided, recipe, layout, given)
    info = single_file.info_of(
        given,
        format_name=OpenAI.name,
        architecture=f"OpenAI UNet {layout.model_channels} x {','.join(f'{m:g}' for m in openai_layout.channel_mult(layout))}",
        parameters=parameter_count(weights),
        weights=kind,
        decided=decided,
        shown_by_tensors=kind_setting | _shown(layout),
        image_shape=(layout.in_channels, size, size),
        confidence="certain" if not doubts else "likely",
        notes=(*doubts, *_notes(layout)),
    )
    return _Parsed(layout, weights, decided, info, openai_recipes.fitting(layout))


def _set_of(given):
    """(Weights of the network, "ema" | "raw" | "only", {setting: value}). Raises CheckpointError: an optimizer's file, or not the weights asked for."""
    content = given.content
    if openai_layout.is_optimizer(content.keys):
        raise CheckpointError(f"{content.name} is the state of an optimizer, without the network. {openai_layout.ADVICE}, from the same folder.")
    present = {key: weights for key, weights in content.sets.items() if openai_layout.looks_like_one(weights.shapes)}
    kind, key = single_file.choose(content, present, given["weights"] or "auto")
    return present[key], kind, {"weights": content.name + (f": {key}" if key else "")}


def _decide(given, recipe, layout):
    """models.overrides.Decided for the diffusion and the heads."""
    learned = layout.out_channels == 2 * layout.in_channels
    values = dict(recipe.values(layout)) if recipe else {}
    if recipe:
        values["variance"] = "learned_range" if learned else "fixed_large"  # sigma_small is False in both repositories' scripts
    user, from_yaml = dict(given.user), dict(given.from_yaml)
    if "num_head_channels" in user and "num_heads" in user:
        raise CheckpointError("num_head_channels decides the number of heads at every width. Expected it or num_heads, not both: leave one out.")
    if any(name in user for name in HEADS):  # one way of counting heads replaces the other
        from_yaml = {name: value for name, value in from_yaml.items() if name not in HEADS}
    if any(name in user or name in from_yaml for name in HEADS):
        values = {name: value for name, value in values.items() if name not in HEADS}
    said = values | from_yaml | user
    if "num_head_channels" in said and "num_heads_upsample" in user:
        raise CheckpointError("num_head_channels decides the number of heads on the way up too. Expected it or num_heads with num_heads_upsample, not both: leave one out.")
    by_channels, default = "num_head_channels" in said, {"respacing": ""}
    if not by_channels and "num_heads" in said:
        default["num_heads_upsample"] = said["num_heads"]
    inferred = {"image_size": size} if (size := openai_layout.image_size(layout)) else {}
    if not by_channels and said.get("num_heads") == said.get("num_heads_upsample", said.get("num_heads")) == 1:
        inferred["attention_order"] = "legacy"  # with one head both orders are the same
    wanted = [*DIFFUSION]
    wanted += ["num_head_channels"] if by_channels else ["num_heads", *(["num_heads_upsample"] if "num_heads" in said else [])]
    wanted.append("attention_order")
    return decide(wanted, user, from_yaml, given.yaml_name, values, inferred, default, {"variance": "learned_range"} if learned else {})


def _heads(decided):
    return Heads(decided["num_heads"] or 1, decided["num_heads_upsample"] or 1, decided["num_head_channels"], decided["attention_order"])


def _check_fit(decided, layout, file_name):
    """Refuse what cannot be with these tensors: heads that do not divide a width with attention, a learned variance, sides that cannot be halved."""
    for width in _attention_widths(layout):
        for name in (*HEADS, "num_heads_upsample"):
            if decided[name] and width % decided[name]:
                raise CheckpointError(f"{name} is {decided[name]}, but {file_name} has attention at {width} channels. Expected a divisor of {width}: correct it.")
    if decided["image_size"] and decided["image_size"] % 2 ** (len(layout.widths) - 1):
        raise CheckpointError(
            f"image_size is {decided['image_size']}, but {file_name} halves its pictures {len(layout.widths) - 1} times. Expected a multiple of {2 ** (len(layout.widths) - 1)}."
        )
    if decided["variance"] == "learned_range" and layout.out_channels == layout.in_channels:
        raise CheckpointError(f"variance is learned_range, but {file_name} has {layout.out_channels} channels out. Expected fixed_small or fixed_large: correct it.")


def _attention_widths(layout):
    """Widths of the levels with attention and of the middle, increasing."""
    return sorted({layout.widths[-1], *(layout.widths[level] for level in layout.attention)})


def _shown(layout):
    """What the tensors show, under the names of OpenAI's flags."""
    mult = openai_layout.channel_mult(layout)
    return {
        "num_channels": layout.model_channels,
        "channel_mult": ",".join(f"{m:g}" for m in mult),
        "num_res_blocks": layout.num_res_blocks,
        "attention_at": ", ".join(f"1/{2**level}" for level in layout.attention) or "middle only",
        "use_scale_shift_norm": layout.scale_shift,
        "resblock_updown": layout.resblock_updown,
        "learn_sigma": layout.out_channels == 2 * layout.in_channels,
        "classes": layout.classes,
    }


def _doubts(decided, recipe, layout, given):
    """What was guessed, a line each."""
    doubts = []
    if any(s.name == "image_size" and s.decided_by == "inferred" for s in decided.settings):
        doubts.append(f"image_size {decided['image_size']} is what OpenAI's scripts pair with these widths; the network itself takes any size")
    if recipe and not any(p.fits(layout) for p in recipe.published):
        doubts.append(f"no published model of recipe {given['recipe']} has this layout: the recipe is right only if the training used the same flags")
    return doubts


def _notes(layout):
    """What would change the answer, a line each."""
    fitting = openai_recipes.fitting(layout)
    known = [f"the layout is that of recipe {' or '.join(fitting)}"] if fitting else []
    return (*known, "another head count, attention order, schedule or timestep scaling would load as well and give other numbers")


def _what_is_missing(parsed):
    """The error for a network whose settings nobody gave."""
    missing = ["num_heads (or num_head_channels)" if name == "num_heads" else name for name in parsed.info.missing]
    layout, mult = parsed.layout, ",".join(f"{m:g}" for m in openai_layout.channel_mult(parsed.layout))
    choice = f"recipe {' or '.join(parsed.recipes)}, whose layout it has," if parsed.recipes else f"a recipe ({', '.join(openai_recipes.RECIPES)})"
    return (
        f"{parsed.info.files[0]} is a network of {FAMILY} ({layout.model_channels} channels x {mult}); its tensors do not show {', '.join(missing)}. "
        f"Expected {choice} or each setting: give them as for the training."
    )

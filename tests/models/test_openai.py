"""improved- and guided-diffusion checkpoints against a separate re-implementation: outputs, loss terms, inference, recipes, refusals."""

import functools
import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from audit.probes import measure
from models import open_checkpoint
from models.checkpoint import inspect_checkpoint
from models.errors import CheckpointError
from models.formats.openai_layout import layout_of
from models.formats.openai_recipes import RECIPES, fitting
from models.nets.openai_unet import Heads, Layout, OpenAIUNet
from models.schedule import betas_for, from_betas, kept_steps, openai_betas, respace
from tests.models import openai_reference as reference

FULL = {"image_size": 8, "train_timesteps": 100, "beta_schedule": "linear", "rescale_timesteps": True, "prediction_type": "epsilon", "num_heads": 4, "attention_order": "legacy"}


def layout(widths=(32, 64), model_channels=32, blocks=1, attention=(1,), scale_shift=True, updown=False, classes=None, learned=True, channels=3, first=None):
    out = channels * (1 + learned)
    return Layout(channels, out, model_channels, first or widths[0], tuple(widths), blocks, tuple(attention), scale_shift, updown, classes)


def random_state(made, seed=0):
    """State dict of that layout with every tensor random: nothing that starts at zero can hide."""
    return {name: tensor.clone() for name, tensor in _random_state(made, seed).items()}


@functools.cache
def _random_state(made, seed):
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in OpenAIUNet(made, Heads()).state_dict().items()}
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=rng)
        if name.endswith("bias"):
            values *= 0.1
        elif len(shape) == 1:
            values = 1 + 0.2 * values
        elif not name.startswith("label_emb"):
            values /= np.prod(shape[1:]) ** 0.5
        state[name] = values
    return state


def save(path, made=None, **state_changes):
    state = random_state(made or layout()) | state_changes
    torch.save(state, path)
    return state


# the network

NETWORKS = {
    "improved, four heads": (layout(), {"num_heads": 4}),
    "improved, added embedding, two blocks": (layout(blocks=2, scale_shift=False, learned=False), {"num_heads": 4}),
    "improved, one head": (layout(attention=(0, 1)), {"num_heads": 1}),
    "improved, other heads on the way up": (layout(widths=(32, 64, 64), attention=(1, 2)), {"num_heads": 4, "num_heads_upsample": 2}),
    "four heads at several widths": (layout(widths=(32, 64, 96), attention=(0, 1, 2)), {"num_heads": 4}),
    "attention with a gap": (layout(widths=(32, 32, 64), attention=(0, 2), classes=7), {"num_heads": 2}),
    "guided, residual resampling, legacy order": (layout(updown=True, widths=(32, 64, 64), attention=(1, 2), classes=5), {"num_head_channels": 16}),
    "guided, residual resampling, new order": (layout(updown=True, blocks=2, attention=(0, 1)), {"num_head_channels": 16, "attention_order": "new"}),
    "guided, convolutions, new order, fixed heads": (layout(attention=(0, 1), scale_shift=False), {"num_heads": 4, "attention_order": "new"}),
    "first multiplier one half": (layout(widths=(32, 64, 64), model_channels=64, updown=True, attention=(2,)), {"num_head_channels": 32}),
    "first multiplier two": (layout(widths=(64, 32), model_channels=32, attention=(1,)), {"num_heads": 2}),
    "one level": (layout(widths=(64,), attention=()), {"num_heads": 2}),
    "first convolution narrower than the first level": (layout(widths=(64, 64), first=32, attention=(1,)), {"num_heads": 2}),
    "grey pictures": (layout(channels=1), {"num_heads": 4}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_the_originals(tmp_path, name):
    made, heads = NETWORKS[name]
    state = save(tmp_path / "model000100.pt", made)
    settings = FULL | {"num_heads": None} | heads | ({} if made.out_channels == 2 * made.in_channels else {"variance": "fixed_large"})
    model = open_checkpoint(tmp_path / "model000100.pt", **settings)
    net = reference.Net(state, heads.get("num_heads"), heads.get("num_heads_upsample"), heads.get("num_head_channels"), heads.get("attention_order", "legacy"))
    rng = torch.Generator().manual_seed(1)
    xt, t = torch.randn(3, made.in_channels, 8, 8, generator=rng), torch.tensor([0, 3, 99])
    labels = None if made.classes is None else torch.tensor([0, 1, made.classes - 1])
    with torch.inference_mode():
        got = model.run_network(xt, t, labels)
    expected = net(xt, t * 10, labels)
    assert 0.2 < expected.std() < 20
    torch.testing.assert_close(got.double(), expected, atol=2e-5, rtol=0)
    assert model.info.parameters == sum(p.numel() for p in model.network.parameters()) and not model.network.training
    other = open_checkpoint(tmp_path / "model000100.pt", **settings | {"attention_order": "new" if net.order == "legacy" else "legacy"})
    with torch.inference_mode():
        differs = (other.run_network(xt, t, labels) - got).abs().max()
    assert differs > 1e-3 or heads.get("num_heads") == 1  # the order matters, except with one head


def test_weights_in_half_precision_are_computed_in_float32(tmp_path):
    state = {name: tensor.half() for name, tensor in random_state(layout()).items()}
    torch.save(state, tmp_path / "model.pt")
    model = open_checkpoint(tmp_path / "model.pt", **FULL)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    xt, t = torch.randn(2, 3, 8, 8), torch.tensor([5, 60])
    with torch.inference_mode():
        torch.testing.assert_close(model.run_network(xt, t, None).double(), reference.Net(state, 4)(xt, t * 10), atol=2e-5, rtol=0)


@pytest.mark.parametrize("wrapped", ["safetensors", "legacy file", "module prefix", "zip"])
def test_the_same_tensors_in_another_wrapping_give_the_same_numbers(tmp_path, wrapped):
    import zipfile

    state = save(tmp_path / "model.pt")
    path = tmp_path / "other.pt"
    if wrapped == "safetensors":
        path = tmp_path / "other.safetensors"
        save_file(state, path)
    elif wrapped == "legacy file":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif wrapped == "module prefix":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        path = tmp_path / "other.zip"
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(FULL))
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "model.pt", "run/model.pt")
            archive.write(tmp_path / "model.yaml", "run/model.yaml")
    one, other = open_checkpoint(tmp_path / "model.pt", **FULL), open_checkpoint(path, **({} if wrapped == "zip" else FULL))
    xt, t = torch.randn(2, 3, 8, 8), torch.tensor([0, 99])
    assert torch.equal(one.predict(xt, t).eps_hat, other.predict(xt, t).eps_hat)


def test_per_sample_gradients_are_possible(tmp_path):
    save(tmp_path / "model.pt", layout(classes=4))
    model = open_checkpoint(tmp_path / "model.pt", **FULL)
    xt, t, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 7, 50]), torch.tensor([0, 1, 3])
    parameters = {name: p.detach() for name, p in model.network.named_parameters()}

    def loss(parameters, x, step, label):
        return torch.func.functional_call(model.network, parameters, (x[None], step[None].float(), label[None])).square().mean()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(parameters, xt, t, labels)
    model.network.requires_grad_(True)
    for index in range(3):
        model.network.zero_grad()
        model.predict(xt[index : index + 1], t[index : index + 1], labels[index : index + 1])  # through the Denoiser too
        model.network(xt[index : index + 1], t[index : index + 1], labels[index : index + 1]).square().mean().backward()
        for name, p in model.network.named_parameters():
            torch.testing.assert_close(together[name][index], p.grad, atol=1e-4, rtol=1e-3)


# schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [50, 1000, 4000])
def test_betas_are_openais(schedule, steps):
    np.testing.assert_allclose(openai_betas(schedule, steps), reference.betas_of(schedule, steps), rtol=1e-12)
    if schedule == "linear" and steps == 1000:
        np.testing.assert_allclose(openai_betas(schedule, steps), betas_for({}), rtol=1e-12)


@pytest.mark.parametrize(
    ("steps", "respacing", "kept"),
    [
        (5, "", [0, 1, 2, 3, 4]),
        (10, "3", [0, 4, 9]),  # 4.5 is rounded to even, as Python rounds
        (10, "2,2", [0, 4, 5, 9]),
        (11, "3,1", [0, 2, 5, 6]),  # the first section takes the odd step: 0-5 and 6-10; round(2.5) is 2
        (10, "ddim5", [0, 2, 4, 6, 8]),
        (10, "ddim4", [0, 3, 6, 9]),
        (10, "10", list(range(10))),
    ],
)
def test_respacing_keeps_these_steps(steps, respacing, kept):
    assert list(kept_steps(steps, respacing)) == kept
    full = from_betas(openai_betas("cosine", steps))
    spaced = respace(full, respacing)
    np.testing.assert_allclose(spaced.alphas_cumprod, full.alphas_cumprod[kept], rtol=1e-9)
    assert list(spaced.timestep_map) == kept and spaced.timestep_map.dtype == np.int64


@pytest.mark.parametrize("respacing", ["0", "101", "60,60", "ddim30", "ddim", "ten", "10,", "-5", "1.5", "ddim0", "10;10", "9" * 50])
def test_respacing_that_cannot_be_is_refused(respacing):
    with pytest.raises(CheckpointError, match="Expected"):
        kept_steps(100, respacing)


# loss terms


CASES = {
    "iddpm: cosine, learned, rescaled": ({"beta_schedule": "cosine"}, True, {}),
    "adm: linear, learned": ({"rescale_timesteps": False}, True, {}),
    "fixed small": ({"variance": "fixed_small"}, False, {}),
    "fixed large, predicts x0": ({"variance": "fixed_large", "prediction_type": "sample", "beta_schedule": "cosine"}, False, {}),
    "respaced, rescaled": ({"respacing": "10,10"}, True, {}),
    "ddim spacing, fixed large": ({"respacing": "ddim25", "variance": "fixed_large"}, False, {}),
    "four thousand steps, quarters": ({"train_timesteps": 4000, "beta_schedule": "cosine", "respacing": "20"}, True, {}),
    "labels": ({}, True, {"classes": 3}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("clip", [True, False])
def test_loss_terms_are_those_of_the_originals(tmp_path, name, clip):
    changes, learned, more = CASES[name]
    made, settings = layout(learned=learned, widths=(32,), model_channels=32, attention=(), **more), FULL | changes
    state = save(tmp_path / "model.pt", made)
    model = open_checkpoint(tmp_path / "model.pt", **settings)
    spacing, steps = settings.get("respacing", ""), settings["train_timesteps"]
    kept = None if not spacing else list(range(0, steps, 4)) if spacing == "ddim25" else list(kept_steps(steps, spacing))
    betas = reference.betas_of(settings["beta_schedule"], steps)
    variance = settings.get("variance", "learned_range")
    diffusion = reference.Diffusion(reference.Net(state, 4), betas, variance, settings["prediction_type"], settings["rescale_timesteps"], kept)
    assert len(model.schedule) == len(diffusion.kept) and list(model.schedule.timestep_map) == diffusion.kept
    rng = torch.Generator().manual_seed(2)
    x0 = torch.round((torch.rand(2, 3, 8, 8, generator=rng)) * 255) / 127.5 - 1
    # the cosine schedule's last steps hold no signal: an epsilon model is not measured there
    timesteps = np.unique(np.linspace(0, np.flatnonzero(model.measurable)[-1], 7).astype(int))
    noise = torch.randn(1, len(timesteps), 3, 8, 8, generator=rng)
    labels = torch.tensor([0, 2]) if made.classes else None
    tables = measure(model, x0, timesteps, noise=noise, clip=clip) if labels is None else with_labels(model, x0, timesteps, noise, clip, labels)
    total = diffusion.prior_bpd(x0)
    for column, t in enumerate(timesteps):
        vb, xstart_mse, mse = diffusion.terms(x0, int(t), noise[0, column].expand_as(x0), clip, labels)
        # the figures that issue and research agreed on; at t = 0 the CDF's float32 tails differ
        np.testing.assert_allclose(tables["vlb_bits"][:, column], vb, rtol=2e-3 if t == 0 else 1e-4, atol=2e-6)
        np.testing.assert_allclose(tables["x0_mse"][:, column], xstart_mse, rtol=1e-4, atol=2e-6)
        if not clip:  # eps_mse is the raw error by design; the original recomputes it from the clipped x0
            np.testing.assert_allclose(tables["eps_mse"][:, column], mse, rtol=1e-4, atol=2e-6)
        else:
            np.testing.assert_allclose(tables["x0_mse"][:, column] * model.schedule.snr[t], mse, rtol=1e-4, atol=2e-6)
        total = total + vb
    ours = tables["vlb_bits"].sum(1) + diffusion.prior_bpd(x0).numpy()
    np.testing.assert_allclose(ours, total, rtol=1e-4, atol=2e-6)


def as_layout(published, classes=None):
    """Layout of a published recipe."""
    widths = tuple(int(m * published.model_channels) for m in published.channel_mult)
    return layout(widths, published.model_channels, published.num_res_blocks, published.attention, published.scale_shift, published.resblock_updown, classes)


def with_labels(model, x0, timesteps, noise, clip, labels):
    from audit.probes.base import Rows
    from audit.probes.noised import Noised

    plain = model.predict
    columns = []
    for column, t in enumerate(timesteps):
        model.predict = lambda xt, steps, cond=None: plain(xt, steps, labels)
        with torch.inference_mode():
            columns.append(Noised().rows(model, Rows(x0, noise[0, column].expand_as(x0), torch.full((len(x0),), int(t))), clip).numpy())
    stacked = np.stack(columns, -1)
    return {name: stacked[index] for index, name in enumerate(Noised.TABLES)}


# what tensors show, what they do not


@pytest.mark.parametrize("name", RECIPES)
def test_published_layouts_are_inferred_from_shapes_alone(name):
    for published in RECIPES[name].published:
        for classes in {None: (None, 1000), True: (1000,), False: (None,)}[published.class_conditional]:
            made = as_layout(published, classes)
            with torch.device("meta"):
                shapes = {f"module.{k}": tuple(v.shape) for k, v in OpenAIUNet(made, Heads()).state_dict().items()}
            assert layout_of(shapes, "x.pt") == made and name in fitting(made)


def test_parameter_counts_are_the_published_ones():
    """README and papers: 50M (CIFAR-10), 270M (ImageNet-64, with classes); 554M (ADM-256): arXiv:2105.05233 table 5."""
    counts = {}
    for name in ("improved-cifar10", "improved-imagenet64", "guided-256"):
        published = RECIPES[name].published[-1]
        made = as_layout(published, 1000 if published.class_conditional is not False else None)
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in OpenAIUNet(made, Heads()).parameters())
    assert round(counts["improved-cifar10"] / 1e6, 1) == 52.5 and round(counts["improved-imagenet64"] / 1e6) == 273 and round(counts["guided-256"] / 1e6) == 554


@pytest.mark.parametrize("missing", [name for name in FULL if name != "image_size"])
def test_a_setting_that_nobody_gives_is_required(tmp_path, missing):
    save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=f"tensors do not show.* {missing}") as caught:
        open_checkpoint(tmp_path / "model.pt", **FULL | {missing: None})
    assert all(recipe in str(caught.value) for recipe in RECIPES) and len(str(caught.value)) < 480 and "\n" not in str(caught.value)
    info = inspect_checkpoint(tmp_path / "model.pt", **FULL | {missing: None})
    assert info.missing == (missing,) and info.confidence == "incomplete"
    json.dumps(info.to_json(), allow_nan=False)


def test_a_fixed_variance_and_an_unusual_size_are_required(tmp_path):
    save(tmp_path / "model.pt", layout(learned=False))
    assert inspect_checkpoint(tmp_path / "model.pt", **FULL | {"image_size": None}).missing == ("image_size", "variance")


def test_one_head_needs_no_order(tmp_path):
    save(tmp_path / "model.pt")
    info = inspect_checkpoint(tmp_path / "model.pt", **FULL | {"num_heads": 1, "attention_order": None})
    assert not info.missing and {s.name: s.decided_by for s in info.settings}["attention_order"] == "inferred"


def decided(info):
    return {s.name: (s.value, s.decided_by) for s in info.settings}


def test_user_goes_before_yaml_before_recipe_before_what_is_inferred(tmp_path):
    save(tmp_path / "ema_0.9999_000100.pt", layout(widths=(32, 64, 64, 64), classes=10))
    (tmp_path / "ema_0.9999_000100.yaml").write_text("train_timesteps: 500\nnum_head_channels: 16\nimage_size: 16\n")
    info = inspect_checkpoint(tmp_path / "ema_0.9999_000100.pt", recipe="improved-cifar10", image_size=24)
    got = decided(info)
    assert got["image_size"] == (24, "user") and got["train_timesteps"] == (500, "ema_0.9999_000100.yaml")
    assert got["num_head_channels"] == (16, "ema_0.9999_000100.yaml") and "num_heads" not in got  # one way of counting heads replaces the other
    assert got["beta_schedule"] == ("cosine", "recipe") and got["variance"] == ("learned_range", "inferred") and got["classes"] == (10, "inferred")
    assert info.weights == "ema" and info.confidence == "likely" and not info.missing and info.image_shape == (3, 24, 24)
    assert info.files == ("ema_0.9999_000100.pt", "ema_0.9999_000100.yaml") and info.train_timesteps == 500
    model = open_checkpoint(tmp_path / "ema_0.9999_000100.pt", recipe="improved-cifar10", image_size=24)
    assert model.info == info and model.classes == 10 and len(model.schedule) == 500
    plain = decided(inspect_checkpoint(tmp_path / "ema_0.9999_000100.pt", num_heads=2))
    assert plain["num_heads"] == (2, "user") and plain["num_heads_upsample"] == (2, "default") and "num_head_channels" not in plain


def test_a_recipe_cannot_pass_one_published_model_off_as_another(tmp_path):
    made = as_layout(RECIPES["improved-cifar10"].published[0])
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in OpenAIUNet(made, Heads()).state_dict().items()}
    torch.save({k: torch.zeros(1).expand(s).clone().half() if len(s) == 1 else torch.zeros(s, dtype=torch.float16) for k, s in shapes.items()}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="layout of improved-cifar10, not of guided-64"):
        open_checkpoint(tmp_path / "m.pt", recipe="guided-64")
    info = inspect_checkpoint(tmp_path / "m.pt", recipe="improved-cifar10")
    assert info.confidence == "certain" and not info.missing and info.image_shape == (3, 32, 32)
    with pytest.raises(CheckpointError, match="Expected recipe improved-cifar10, whose layout it has"):
        open_checkpoint(tmp_path / "m.pt")


def test_the_class_conditional_imagenet_model_alone_does_not_rescale_timesteps(tmp_path):
    recipe = RECIPES["improved-imagenet64"]
    assert recipe.values(layout())["rescale_timesteps"] is True and recipe.values(layout(classes=1000))["rescale_timesteps"] is False


UNFIT = [
    ({"num_heads": 3}, "num_heads is 3, .* attention at 64 channels"),
    ({"num_heads": None, "num_head_channels": 24}, "num_head_channels is 24"),
    ({"num_head_channels": 16}, "not both"),
    ({"num_heads": None, "num_heads_upsample": 2, "recipe": "guided-64"}, "way up too.*num_heads_upsample, not both"),
    ({"variance": "fixed_small"}, "variance is fixed_small by you, the tensors show learned_range"),
    ({"image_size": 9}, "halves its pictures 1 times"),
    ({"beta_schedule": "sigmoid"}, "sigmoid is not known"),
    ({"beta_start": 1e-4}, "beta_start cannot be set"),
    ({"respacing": "1000"}, "section 1 of 1 has 100"),
    ({"train_timesteps": 10}, "betas outside"),
    ({"recipe": "guided-1024"}, "recipe is 'guided-1024'"),
    ({"heads": 4}, "heads is not a setting"),
    ({"num_heads": "four"}, "num_heads is four. Expected a whole number from 1"),
    ({"num_heads": True}, "num_heads is true"),
    ({"num_heads": 10**9}, "num_heads is 1000000000"),
    ({"rescale_timesteps": "perhaps"}, "Expected true or false"),
    ({"prediction_type": "v"}, "Expected one of epsilon, v_prediction, sample"),
    ({"attention_order": 4}, "Expected one of legacy, new"),
    ({"train_timesteps": float("nan")}, "train_timesteps is NaN"),
]


@pytest.mark.parametrize(("change", "match"), UNFIT, ids=lambda v: str(v)[:40])
def test_settings_that_do_not_fit_are_refused_in_one_line(tmp_path, change, match):
    save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(tmp_path / "model.pt", **FULL | change)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_text_from_a_form_is_read_as_number_and_switch(tmp_path):
    save(tmp_path / "model.pt")
    model = open_checkpoint(tmp_path / "model.pt", **FULL | {"num_heads": "4", "rescale_timesteps": "false", "train_timesteps": 100.0, "respacing": 50})
    assert model.scale is None and len(model.schedule) == 50


def test_labels_are_asked_for_and_checked(tmp_path):
    save(tmp_path / "model.pt", layout(classes=3))
    model = open_checkpoint(tmp_path / "model.pt", **FULL)
    xt, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    wrong = [(None, "needs a label for every image.*cond"), ([0, 3], "from 0 to 3. Expected 0 to 2"), ([-1, 0], "from -1"), ([0], "one whole number"), ([0.0, 1.0], "float32")]
    for cond, match in wrong:
        with pytest.raises(CheckpointError, match=match):
            model.predict(xt, t, cond)
    one, two = (model.predict(xt, t, cond).eps_hat for cond in ([0, 1], torch.tensor([0, 2])))
    assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
    assert open_checkpoint_classes(tmp_path) is None


def open_checkpoint_classes(tmp_path):
    save(tmp_path / "plain.pt")
    return open_checkpoint(tmp_path / "plain.pt", **FULL).classes


def test_a_training_folder_gives_its_newest_ema_file(tmp_path):
    for name in ("model000100.pt", "ema_0.9999_000100.pt", "ema_0.999_000200.pt", "ema_0.9999_000200.pt", "model000300.pt"):
        save(tmp_path / name)
    torch.save({"state": {0: {"step": 1}}, "param_groups": [{"lr": 1.0, "params": [0]}]}, tmp_path / "opt000300.pt")
    assert inspect_checkpoint(tmp_path).files == ("ema_0.9999_000200.pt",)
    assert inspect_checkpoint(tmp_path, weights="raw").files == ("model000300.pt",)
    with pytest.raises(CheckpointError, match="holds raw weights by its name, not ema"):
        inspect_checkpoint(tmp_path / "model000300.pt", weights="ema")


@pytest.mark.parametrize(("ema", "raw"), [("ema", "model"), ("ema_model", "net_model"), ("ema_0.9999", "state_dict")])
def test_of_several_sets_in_a_file_the_averaged_one_is_used_unless_raw_is_asked_for(tmp_path, ema, raw):
    states = {raw: random_state(layout(), 1), ema: random_state(layout(), 2)}
    torch.save(states | {"step": 7, "opt": {"state": {}, "param_groups": []}}, tmp_path / "checkpoint.pt")
    for asked, kind, key in (("auto", "ema", ema), ("ema", "ema", ema), ("raw", "raw", raw)):
        model = open_checkpoint(tmp_path / "checkpoint.pt", **FULL, weights=asked)
        assert torch.equal(model.network.state_dict()["out.2.weight"], states[key]["out.2.weight"])
        assert model.info.weights == kind and decided(model.info)["weights"] == (f"checkpoint.pt: {key}", "inferred")
    torch.save({raw: states[raw]}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=rf"holds no ema weights \(found: {raw}\)"):
        open_checkpoint(tmp_path / "checkpoint.pt", **FULL, weights="ema")


def test_of_several_sets_without_a_known_name_none_is_guessed(tmp_path):
    torch.save({"first": random_state(layout(), 1), "second": random_state(layout(), 2)}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"several sets of weights \(first, second\).* save the one that you mean alone"):
        inspect_checkpoint(tmp_path / "checkpoint.pt", **FULL)
    torch.save({"first": random_state(layout(), 1)}, tmp_path / "checkpoint.pt")
    assert inspect_checkpoint(tmp_path / "checkpoint.pt", **FULL).weights == "only"


# kin, refused by name


def without(state, *starts):
    return {name: tensor for name, tensor in state.items() if not name.startswith(starts)}


KIN = {
    "optimizer": (lambda s: {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}, "state of an optimizer"),
    "classifier": (lambda s: without(s, "output_blocks"), "noisy classifier"),
    "super-resolution": (lambda s: s | {"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, "super-resolution network: it takes 6"),
    "four channels": (lambda s: s | {"input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}, "takes 4 channels"),
    "latent": (lambda s: s | {"input_blocks.3.1.transformer_blocks.0.norm.weight": torch.zeros(2)}, "latent diffusion"),
    "stable diffusion": (lambda s: {"state_dict": {f"model.diffusion_model.{k}": v for k, v in s.items()}, "global_step": 3}, "latent diffusion"),
    "consistency": (lambda s: {k: v[..., None] if "qkv.weight" in k else v for k, v in s.items()}, "consistency_models"),
    "no middle": (lambda s: without(s, "middle_block.0.emb"), "not its layout"),
    "a level missing": (lambda s: without(s, "output_blocks.3", "output_blocks.2"), "not its layout .at 4 input and 2 output"),
    "block numbered a billion": (lambda s: s | {"output_blocks.900000000.1.conv.weight": torch.zeros(1)}, "not its layout"),
    "width of no group": (lambda s: s | {"input_blocks.1.0.out_layers.3.weight": torch.zeros(33, 33, 3, 3)}, "not its layout .at widths"),
    "tensor of no dimension": (lambda s: s | {"input_blocks.0.0.weight": torch.zeros(())}, "takes no channels"),
    "one tensor too many": (lambda s: s | {"stranger": torch.zeros(2)}, "holds stranger, which its own layout has no place for"),
    "one bias of another size": (lambda s: s | {"out.2.bias": torch.zeros(9)}, "out.2.bias is 9 in the weights, 6 by"),
    "nan": (lambda s: s | {"out.2.bias": torch.full((6,), torch.nan)}, "out.2.bias holds NaN"),
}


@pytest.mark.parametrize("name", KIN)
def test_look_alikes_and_damaged_networks_are_named(tmp_path, name):
    spoil, match = KIN[name]
    torch.save(spoil(random_state(layout())), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(tmp_path / "model.pt", **FULL)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 and text.startswith("model.pt") and text.count(". ") >= 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("num_heads: [4]", "one value each"),
        ("- 4", "not a list of settings|one value each"),
        ("a: &a [x]\nb: *a", "one value each"),
        ("!!python/object/apply:os.system ['true']", "not readable YAML"),
        ("num_heads: 4\n\tx: :", "not readable YAML"),
        ("heads: 4", "model.yaml: heads is not a setting"),
        ("num_heads: many", "model.yaml: num_heads is many"),
        ("beta_start: 0.1", "model.yaml: beta_start cannot be set"),
        ("# " + "x" * 70_000, "has 68 kB"),
    ],
    ids=lambda v: v[:20],
)
def test_a_yaml_that_is_not_a_few_settings_is_refused(tmp_path, text, match):
    save(tmp_path / "model.pt")
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(tmp_path / "model.pt", **FULL)
    assert "\n" not in str(caught.value)

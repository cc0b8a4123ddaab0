"""ckpt.pt of pytorch-ddpm (SecMI, PIA) against diffusers' UNet2DModel, onto which its tensors map one to one; and families refused by name."""

import functools

import numpy as np
import pytest
import torch

from audit.probes import measure
from models import open_checkpoint
from models.checkpoint import inspect_checkpoint
from models.errors import CheckpointError, UnsafeCheckpoint
from models.nets.ddpm_unet import DDPMUNet
from tests.models import openai_reference as reference
from tests.models.tiny import interleaved_table

SMALL = {"steps": 50, "channels": 3, "first_width": 32, "widths": (32, 64, 64), "num_res_blocks": 1, "attention": (1,)}
RECIPE = {"recipe": "pytorch-ddpm", "image_size": 16}


def random_state(seed=0, **changes):
    return {name: tensor.clone() for name, tensor in _random_state(seed, tuple(changes.items())).items()}


@functools.cache
def _random_state(seed, changes):
    arguments = SMALL | dict(changes)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in DDPMUNet(**arguments).state_dict().items()}
    rng, state = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=rng)
        state[name] = 0.1 * values if name.endswith("bias") else 1 + 0.2 * values if len(shape) == 1 else values / np.prod(shape[1:]) ** 0.5
    return state | {"time_embedding.timembedding.0.weight": interleaved_table(arguments["steps"], arguments["first_width"])}


def checkpoint(**changes):
    """What main.py saves, optimizer and all."""
    adam = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    sets = {"net_model": random_state(1), "ema_model": random_state(2)}
    return sets | {"sched": {"last_epoch": 3, "_last_lr": [2e-4]}, "optim": adam, "step": 3, "x_T": torch.zeros(2, 3, 16, 16)} | changes


def diffusers_twin(state, arguments=None):
    """UNet2DModel with the same tensors, renamed by hand; its sinusoid is [sin | cos], so the first linear layer's columns are reordered."""
    from diffusers import UNet2DModel

    a = arguments or SMALL
    levels = len(a["widths"])
    down = tuple("AttnDownBlock2D" if level in a["attention"] else "DownBlock2D" for level in range(levels))
    twin = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=a["widths"], layers_per_block=a["num_res_blocks"], down_block_types=down,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)), attention_head_dim=None, norm_num_groups=32, norm_eps=1e-5,
        downsample_padding=1, flip_sin_to_cos=False, freq_shift=0,
    )  # fmt: skip
    rows, per = {}, a["num_res_blocks"]
    block = {"block1.0": "norm1", "block1.2": "conv1", "temb_proj.1": "time_emb_proj", "block2.0": "norm2", "block2.3": "conv2", "shortcut": "conv_shortcut"}
    attention = {"group_norm": "group_norm", "proj_q": "to_q", "proj_k": "to_k", "proj_v": "to_v", "proj": "to_out.0"}

    def copy(ours, theirs, names):
        for mine, his in names.items():
            for kind in ("weight", "bias"):
                if f"{ours}.{mine}.{kind}" in state:
                    value = state[f"{ours}.{mine}.{kind}"]
                    rows[f"{theirs}.{his}.{kind}"] = value[:, :, 0, 0] if his.startswith("to_") and kind == "weight" else value

    def group(flat, count, side, level, names):
        for j in range(count):
            copy(f"{flat}.{j + names}", f"{side}_blocks.{level}.resnets.{j}", block)
            copy(f"{flat}.{j + names}.attn", f"{side}_blocks.{level}.attentions.{j}", attention)

    for level in range(levels):
        group("downblocks", per, "down", level, level * (per + 1))
        copy(f"downblocks.{level * (per + 1) + per}", f"down_blocks.{level}.downsamplers.0", {"main": "conv"})
        group("upblocks", per + 1, "up", level, level * (per + 2))
        copy(f"upblocks.{level * (per + 2) + per + 1}", f"up_blocks.{level}.upsamplers.0", {"main": "conv"})
    for index in (0, 1):
        copy(f"middleblocks.{index}", f"mid_block.resnets.{index}", block)
    copy("middleblocks.0.attn", "mid_block.attentions.0", attention)
    flat = {"head": "conv_in", "tail.0": "conv_norm_out", "tail.2": "conv_out"}
    flat |= {f"time_embedding.timembedding.{mine}": f"time_embedding.linear_{his}" for mine, his in ((1, 1), (3, 2))}
    for mine, his in flat.items():
        for kind in ("weight", "bias"):
            rows[f"{his}.{kind}"] = state[f"{mine}.{kind}"]
    first = rows["time_embedding.linear_1.weight"]
    rows["time_embedding.linear_1.weight"] = torch.cat([first[:, 0::2], first[:, 1::2]], 1)
    twin.load_state_dict(rows, strict=True)
    return twin.eval()


@pytest.mark.parametrize(("weights", "key"), [("auto", "ema_model"), ("ema", "ema_model"), ("raw", "net_model")])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_outputs_are_those_of_the_diffusers_twin(tmp_path, weights, key, prefix):
    saved = checkpoint()
    saved |= {name: {prefix + k: v for k, v in saved[name].items()} for name in ("net_model", "ema_model")}
    torch.save(saved, tmp_path / "ckpt.pt")
    model = open_checkpoint(tmp_path / "ckpt.pt", weights=weights, **RECIPE)
    twin = diffusers_twin(random_state(1 if key == "net_model" else 2))
    xt, t = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 7, 49])
    with torch.inference_mode():
        got, expected = model.predict(xt, t).eps_hat, twin(xt, t).sample
    assert expected.std() > 0.2
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
    assert model.info.weights == ("raw" if weights == "raw" else "ema") and dict((s.name, s.value) for s in model.info.settings)["weights"] == key


def test_loss_terms_follow_the_unscaled_float32_line_of_betas(tmp_path):
    torch.save(checkpoint(), tmp_path / "ckpt.pt")
    model = open_checkpoint(tmp_path / "ckpt.pt", **RECIPE)
    twin = diffusers_twin(random_state(2)).double()
    step = (np.float32(0.02) - np.float32(1e-4)) / np.float32(49)
    betas = np.array([np.float32(1e-4) + np.float32(i) * step for i in range(50)]).astype(np.float64)
    np.testing.assert_allclose(model.schedule.betas, betas, rtol=3e-7)  # one float32 rounding
    assert model.schedule.betas[-1] == pytest.approx(0.02, rel=1e-6)  # OpenAI's linear would end at 0.4
    diffusion = reference.Diffusion(lambda x, t, labels: twin(x, t.long()).sample, model.schedule.betas, "fixed_large")
    rng = torch.Generator().manual_seed(2)
    x0 = torch.round(torch.rand(2, 3, 16, 16, generator=rng) * 255) / 127.5 - 1
    timesteps, noise = np.array([0, 1, 20, 49]), torch.randn(1, 4, 3, 16, 16, generator=rng)
    tables = measure(model, x0, timesteps, noise=noise, clip=True)
    with torch.inference_mode():
        for column, t in enumerate(timesteps):
            vb, xstart_mse, _ = diffusion.terms(x0, int(t), noise[0, column].expand_as(x0), True)
            np.testing.assert_allclose(tables["vlb_bits"][:, column], vb, rtol=2e-3 if t == 0 else 1e-4, atol=2e-6)
            np.testing.assert_allclose(tables["x0_mse"][:, column], xstart_mse, rtol=1e-4, atol=2e-6)


def test_what_the_file_does_not_say_is_required_and_what_it_says_cannot_be_overruled(tmp_path):
    torch.save(checkpoint(), tmp_path / "ckpt.pt")
    info = inspect_checkpoint(tmp_path / "ckpt.pt")
    assert info.missing == ("image_size", "beta_start", "beta_end", "prediction_type", "variance") and info.train_timesteps == 50 and info.confidence == "incomplete"
    with pytest.raises(CheckpointError, match=r"tensors do not show image_size, beta_start.*recipe pytorch-ddpm"):
        open_checkpoint(tmp_path / "ckpt.pt")
    for settings, match in [
        ({"train_timesteps": 1000}, "train_timesteps is 1000 by you, the tensors show 50"),
        ({"num_heads": 4}, "num_heads cannot be set"),
        ({"recipe": "guided-64"}, "guided-64 is not known"),
        ({"beta_schedule": "cosine"}, "cosine is not known"),
        ({"image_size": 18}, "halves its pictures 2 times"),
        ({"beta_end": 2}, "beta_end is 2. Expected a number from"),
    ]:
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(tmp_path / "ckpt.pt", **RECIPE | settings)
    given = {"image_size": 16, "beta_start": 1e-4, "beta_end": 0.3, "prediction_type": "sample", "variance": "fixed_small"}
    model = open_checkpoint(tmp_path / "ckpt.pt", **given)
    assert model.prediction_type == "sample" and model.variance == "fixed_small" and model.info.confidence == "certain"


def test_weights_that_are_not_there_are_not_replaced(tmp_path):
    saved = checkpoint()
    del saved["ema_model"]
    torch.save(saved, tmp_path / "ckpt.pt")
    assert open_checkpoint(tmp_path / "ckpt.pt", **RECIPE).info.weights == "raw"
    with pytest.raises(CheckpointError, match=r"holds no ema weights \(found: net_model\)"):
        open_checkpoint(tmp_path / "ckpt.pt", weights="ema", **RECIPE)


OTHER_LAYOUTS = [{"attention": ()}, {"num_res_blocks": 2, "attention": (0, 2)}, {"widths": (32,), "attention": ()}, {"widths": (64, 64), "first_width": 32}]


@pytest.mark.parametrize("changes", OTHER_LAYOUTS, ids=str)
def test_layouts_are_inferred(tmp_path, changes):
    torch.save(random_state(3, **changes), tmp_path / "net.pt")
    model = open_checkpoint(tmp_path / "net.pt", **RECIPE)
    assert model.info.weights == "only" and model.predict(torch.randn(1, 3, 16, 16), torch.tensor([3])).eps_hat.isfinite().all()


def test_the_published_size_is_recognised(tmp_path):
    """Ho et al. 2020, appendix B: 35.7 million parameters for CIFAR-10."""
    with torch.device("meta"):
        network = DDPMUNet(1000, 3, 128, (128, 256, 256, 256), 2, (1,))
    table_rows = 1000 * 128
    assert round((sum(p.numel() for p in network.parameters()) - table_rows) / 1e6, 1) == 35.7


DAMAGED = {
    "a block without its second half": (lambda s: {k: v for k, v in s.items() if "downblocks.0.block2" not in k}, "not its layout"),
    "an up block missing": (lambda s: {k: v for k, v in s.items() if "upblocks.7" not in k}, "not its layout"),
    "table of one step": (lambda s: s | {"time_embedding.timembedding.0.weight": torch.zeros(1, 32)}, "3 channels and 1 steps"),
    "blocks numbered a million": (lambda s: s | {"downblocks.1000000.main.weight": torch.zeros(1)}, "not its layout"),
    "nan": (lambda s: s | {"tail.2.bias": torch.full((3,), torch.nan)}, "tail.2.bias holds NaN"),
    "wrong shape": (lambda s: s | {"tail.2.bias": torch.zeros(4)}, "tail.2.bias is 4 in the weights"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_networks_are_refused_by_place(tmp_path, name):
    spoil, match = DAMAGED[name]
    torch.save(checkpoint(ema_model=spoil(random_state(2))), tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(tmp_path / "ckpt.pt", **RECIPE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


FOREIGN = {
    "lucidrains": ({"step": 3, "model": {"model.init_conv.weight": torch.zeros(8, 3, 7, 7), "betas": torch.zeros(9)}, "opt": {}, "version": "2.3.1"}, "lucidrains"),
    "lucidrains, ema alone": ({"ema": {"ema_model.model.init_conv.weight": torch.zeros(8, 3, 7, 7), "initted": torch.tensor(1)}}, "lucidrains"),
    "lora": ({"unet.down_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 2)}, "is a LoRA"),
    "dit": ({"blocks.0.adaLN_modulation.1.weight": torch.zeros(2, 2)}, "diffusion transformer"),
    "edm": ({"ema": {"model.map_layer0.weight": torch.zeros(2, 2)}}, "EDM network"),
    "sd3 single file": ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(2, 2)}, "DiT, SD3 or FLUX"),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2), "single_blocks.0.linear1.weight": torch.zeros(2)}, "DiT, SD3 or FLUX"),
    "sdxl single file": ({"conditioner.embedders.0.x": torch.zeros(2), "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}, "an SDXL file"),
    "inpainting single file": ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3), "first_stage_model.x": torch.zeros(1)}, "an inpainting model"),
    "stable diffusion single file": ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3), "first_stage_model.x": torch.zeros(1)}, "from_single_file"),
    "kohya lora": ({"lora_unet_down_blocks_0.alpha": torch.zeros(1)}, "is a LoRA"),
    "controlnet": ({"control_model.input_blocks.0.0.weight": torch.zeros(2, 2)}, "is a ControlNet"),
    "text encoder alone": ({"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2)}, "is a text encoder"),
    "autoencoder alone": ({"encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(2, 2)}, "a diffusers autoencoder, one part of a latent model"),
    "ddim of ermongroup": ([{"module.temb.dense.0.weight": torch.zeros(2, 2), "module.conv_in.weight": torch.zeros(2)}, {"state": {}}, 3], "convert_ddpm_original"),
    "score_sde": ({"model": {"module.all_modules.0.W": torch.zeros(2)}, "ema": {"shadow_params": [torch.zeros(2)]}, "step": 3}, "a network of score_sde"),
    "edm2": ({"unet.emb_fourier.freqs": torch.zeros(2)}, "EDM network"),
    "k-diffusion": ({"model": {"inner_model.patch_in.weight": torch.zeros(2)}, "model_ema": {"inner_model.patch_in.weight": torch.zeros(2)}}, "k-diffusion"),
    "unknown, in sets": ({"generator": {"a.weight": torch.zeros(2)}, "critic": {"c": torch.zeros(1)}}, "2 tensors .found: generator, critic., but of no network"),
    "diffusers network alone": ({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(2, 2)}, "no configuration: a diffusers network"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_families_are_refused_by_name(tmp_path, name):
    content, match = FOREIGN[name]
    torch.save(content, tmp_path / "model-10.pt")
    for action in (open_checkpoint, inspect_checkpoint):
        with pytest.raises(CheckpointError, match=match) as caught:
            action(tmp_path / "model-10.pt")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
def test_pickles_of_nvlabs_are_named_and_never_unpickled(tmp_path, suffix, monkeypatch):
    """network-snapshot-*.pkl of EDM brings its own Python source."""
    path = tmp_path / f"network-snapshot-000001{suffix}"
    path.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x17torch_utils.persistence\x8c\x1b_reconstruct_persistent_obj\x93.")

    def load(*args, **kwargs):
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", load)
    for action in (open_checkpoint, inspect_checkpoint):
        with pytest.raises(UnsafeCheckpoint, match="a pickle of NVlabs' EDM") as caught:
            action(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400

"""Latent diffusers pipelines: pictures go through the checkpoint's own autoencoder, as diffusers' classes do it, and never a wrong one in silence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import open_checkpoint
from models.checkpoint import inspect_checkpoint
from models.errors import CheckpointError
from models.formats.diffusers_parts import KINDS, OLD_ATTENTION
from models.latent import Autoencoder
from tests.models import tiny

PICTURES = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
LATENTS = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("role", ["vae", "vqvae"])
@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_kl_latents_are_the_posterior_mean_times_the_scaling_factor(tmp_path, role, index):
    network, autoencoder = tiny.save_latent(tmp_path, role=role, index=index, autoencoder={"scaling_factor": 0.3})
    model = open_checkpoint(tmp_path)
    assert not model.pixel_space and model.image_shape == (1, 16, 16) == model.info.image_shape and not model.captions
    with torch.inference_mode():
        posterior = autoencoder.encode(PICTURES).latent_dist
        torch.testing.assert_close(model.encode(PICTURES), posterior.mean * 0.3)
        torch.testing.assert_close(model.decode(LATENTS), autoencoder.decode(LATENTS / 0.3).sample)
        assert (posterior.sample() - posterior.mean).abs().max() > 0.1  # a sample would have been another number
        t = torch.tensor([0, 5, 500, 900, 999])
        torch.testing.assert_close(model.run_network(LATENTS, t, None), network(LATENTS, t).sample)
    got = model.predict(model.encode(PICTURES), t)
    assert got.eps_hat.shape == LATENTS.shape and got.eps_hat.isfinite().all()


def test_vq_latents_are_not_quantised_and_their_pictures_are(tmp_path):
    _, autoencoder = tiny.save_latent(tmp_path, "VQModel", autoencoder={"num_vq_embeddings": 16, "vq_embed_dim": 2, "scaling_factor": 0.4})
    model = open_checkpoint(tmp_path)
    with torch.inference_mode():
        latents = autoencoder.encode(PICTURES).latents
        torch.testing.assert_close(model.encode(PICTURES), latents * 0.4)
        torch.testing.assert_close(model.decode(LATENTS), autoencoder.decode(LATENTS / 0.4).sample)
        assert (autoencoder.quantize(latents)[0] - latents).abs().max() > 1e-3


@pytest.mark.parametrize(("cls", "expected"), [("VQModel", 1.0), ("AutoencoderKL", 0.18215)])
def test_a_file_without_a_scaling_factor_is_older_than_the_factor_and_said_to_be(tmp_path, cls, expected):
    """diffusers would take 0.18215 for both, and then draws wrong pictures with CompVis' VQ models (huggingface/diffusers issue 6725)."""
    _, autoencoder = tiny.save_latent(tmp_path, cls)
    tiny.edit(tmp_path / "vqvae" / "config.json", scaling_factor=...)
    model = open_checkpoint(tmp_path)
    encoded = autoencoder.encode(PICTURES)
    torch.testing.assert_close(model.encode(PICTURES), (encoded.latents if cls == "VQModel" else encoded.latent_dist.mean) * expected)
    assert {s.name: (s.value, s.decided_by) for s in model.info.settings}["scaling_factor"] == (expected, "inferred")
    assert model.info.confidence == "likely" and "does not say its scaling_factor" in model.info.notes[0]


def test_encoding_is_cut_into_parts_that_change_nothing_and_takes_no_gradient(tmp_path, monkeypatch):
    tiny.save_latent(tmp_path)
    model = open_checkpoint(tmp_path)
    whole, back = model.encode(PICTURES), model.decode(LATENTS)
    sizes = []
    real = Autoencoder._latents
    monkeypatch.setattr(Autoencoder, "_latents", lambda self, part: (sizes.append(len(part)), real(self, part))[1])
    monkeypatch.setattr("models.latent.PIXELS_AT_ONCE", 2 * 16 * 16)
    torch.testing.assert_close(model.encode(PICTURES.requires_grad_(False)), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.decode(LATENTS), back, atol=1e-6, rtol=1e-5)
    assert sizes == [2, 2, 1] and not whole.requires_grad
    assert model.encode(PICTURES[:0]).shape == (0, 2, 8, 8)
    assert not model.encode(PICTURES.clone().requires_grad_(True)).requires_grad


def test_the_whole_checkpoint_is_hashed_and_described(tmp_path):
    _, autoencoder = tiny.save_latent(tmp_path)
    info = inspect_checkpoint(tmp_path)
    assert info.files == (
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors",
    )  # fmt: skip
    settings = {s.name: (s.value, s.decided_by) for s in info.settings}
    count = sum(p.numel() for p in autoencoder.parameters())
    assert settings["latents"] == ("2 x 8 x 8", "unet/config.json") and settings["image_size"] == ("16 x 16", "unet/config.json")
    assert settings["autoencoder"] == (f"AutoencoderKL 8-8, {count:,} parameters", "vqvae/config.json") and info.confidence == "certain"
    before = info.sha256
    tiny.edit(tmp_path / "vqvae" / "config.json", scaling_factor=0.2)
    assert inspect_checkpoint(tmp_path).sha256 != before


def test_old_attention_names_of_the_autoencoder_open(tmp_path):
    """Stable Diffusion 1's autoencoder was written before diffusers renamed the attention projections."""
    _, autoencoder = tiny.save_latent(tmp_path)
    file, old = tmp_path / "vqvae" / "diffusion_pytorch_model.safetensors", {}
    for name, tensor in load_file(file).items():
        for before, now in OLD_ATTENTION.items():
            name = name.replace(f".{now}.", f".{before}.")
        old[name] = tensor
    assert any(".proj_attn." in name for name in old)
    save_file(old, file)
    torch.testing.assert_close(open_checkpoint(tmp_path).encode(PICTURES), autoencoder.encode(PICTURES).latent_dist.mean * 0.18215)


def test_a_learned_variance_of_latents_opens(tmp_path):
    tiny.save_latent(tmp_path, out_channels=4, scheduler_config=None)
    tiny.edit(tmp_path / "scheduler" / "scheduler_config.json", variance_type="learned_range")
    got = open_checkpoint(tmp_path).predict(LATENTS, torch.tensor([1, 5, 500, 900, 999]))
    assert got.eps_hat.shape == got.log_variance.shape == LATENTS.shape


def test_a_class_conditional_latent_model_takes_labels(tmp_path):
    network, _ = tiny.save_latent(tmp_path, num_class_embeds=4)
    model, t, labels = open_checkpoint(tmp_path), torch.tensor([1, 5, 500, 900, 999]), torch.tensor([0, 1, 2, 3, 3])
    assert model.classes == 4
    with torch.inference_mode():
        torch.testing.assert_close(model.run_network(LATENTS, t, labels), network(LATENTS, t, class_labels=labels).sample)


LIES = [
    ({}, {"latent_channels": 4}, "makes 4 latent channels, unet/config.json takes 2"),
    ({}, {"in_channels": 3, "out_channels": 3}, "disagree"),
    ({}, {"in_channels": 2, "out_channels": 2}, "takes 2 channels and gives 2"),
    ({}, {"scaling_factor": 0}, "scaling_factor is 0"),
    ({}, {"scaling_factor": float("nan")}, "scaling_factor is NaN"),
    ({}, {"scaling_factor": "0.1"}, "scaling_factor is 0.1"),
    ({}, {"shift_factor": 0.1}, "shifts its latents"),
    ({}, {"latents_mean": [0.1, 0.2]}, "shifts its latents"),
    ({}, {"block_out_channels": [200_000, 8]}, "block_out_channels is"),
    ({}, {"block_out_channels": []}, "0 levels"),
    ({}, {"layers_per_block": 10**9}, "layers_per_block is 1000000000"),
    ({}, {"down_block_types": ["DownEncoderBlock2D", "DownBlock2D"]}, "names DownBlock2D"),
    ({}, {"up_block_types": ["UpDecoderBlock2D"]}, "which vqvae/config.json has no place for"),
    ({}, {"norm_num_groups": 3}, "does not describe a AutoencoderKL"),
    ({}, {"latent_channels": [2]}, "latent_channels is"),
    ({}, {"_class_name": "AutoencoderDC"}, "AutoencoderDC"),
    ({}, {"_class_name": "UNet2DModel"}, "names the class UNet2DModel"),
    ({"in_channels": 3, "out_channels": 3}, {}, "makes 2 latent channels, unet/config.json takes 3"),
    ({"sample_size": 7}, {}, "7 x 7"),
]


@pytest.mark.parametrize(("unet", "autoencoder", "match"), LIES, ids=lambda v: str(v)[:40])
def test_configuration_that_cannot_be_is_refused(tmp_path, unet, autoencoder, match):
    tiny.save_latent(tmp_path)
    tiny.edit(tmp_path / "unet" / "config.json", **unet)
    tiny.edit(tmp_path / "vqvae" / "config.json", **autoencoder)
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_autoencoder_that_is_missing_is_asked_for(tmp_path):
    tiny.save_latent(tmp_path)
    shutil.rmtree(tmp_path / "vqvae")
    with pytest.raises(CheckpointError, match=r"LDMPipeline works on latents, and vqvae/config\.json is missing"):
        open_checkpoint(tmp_path)
    (tmp_path / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match=r"in_channels is 2\. Expected 1 or 3, .* vae/ or vqvae/"):
        open_checkpoint(tmp_path)


def test_an_autoencoder_beside_a_pixel_pipeline_is_left_alone(tmp_path):
    tiny.save(tmp_path)
    tiny.save_part(tmp_path / "vae", "AutoencoderKL", tiny.AUTOENCODER)
    assert open_checkpoint(tmp_path).pixel_space


@pytest.mark.parametrize("cls", ["UNet2DModel", "UNet2DConditionModel", "AutoencoderKL", "VQModel"])
def test_our_table_of_class_defaults_is_diffusers_own(cls):
    import inspect

    import diffusers

    parameters = inspect.signature(getattr(diffusers, cls).__init__).parameters
    for key, value in KINDS[cls].defaults.items():
        assert parameters[key].default == value, key
    assert set(KINDS[cls].limits) - set(parameters) <= {"num_vq_embeddings", "vq_embed_dim"}


def test_nan_in_the_autoencoder_is_found(tmp_path):
    tiny.save_latent(tmp_path)
    file = tmp_path / "vqvae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["encoder.conv_in.bias"][0] = torch.nan
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.bias holds NaN"):
        open_checkpoint(tmp_path)
    json.dumps(inspect_checkpoint(tmp_path).to_json(), allow_nan=False)

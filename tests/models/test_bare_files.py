"""A UNet's weights file beside config.json: what its scheduler's file would say is read, or asked for, never assumed; and which of several weights is meant."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from models import open_checkpoint
from models.checkpoint import inspect_checkpoint, rank_missing
from models.errors import CheckpointError
from models.schedule import betas_for, from_betas
from tests.models import test_openai, tiny
from tests.models.test_formats import blobs, trained

NOISE = {"train_timesteps": 100, "beta_schedule": "linear", "prediction_type": "epsilon"}
XT, T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 90])


@pytest.fixture
def bare(tmp_path):
    """(network, folder with weights.safetensors, config.json)."""
    network, folder = tiny.save(tmp_path / "saved"), tmp_path / "bare"
    folder.mkdir()
    shutil.copy(tmp_path / "saved" / "unet" / "config.json", folder)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return network, folder


def same(model, network):
    with torch.inference_mode():
        return torch.equal(model.run_network(XT, T, None), network(XT, T).sample)


@pytest.mark.parametrize("given", ["folder", "file", ".pt", ".ckpt", "legacy"])
def test_a_weights_file_of_any_name_opens_beside_its_configuration(bare, given):
    network, folder = bare
    shutil.copy(folder.parent / "saved" / "scheduler" / "scheduler_config.json", folder)
    (folder / "train.py").write_text("beside a single file there may be anything")
    path = folder / "weights.safetensors"
    if given not in ("folder", "file"):
        path.unlink()
        path = folder / f"weights{given if given.startswith('.') else '.pt'}"
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=given != "legacy")
    if given == "folder":
        (folder / "train.py").unlink()
        path = folder
    model = open_checkpoint(path)
    assert same(model, network) and inspect_checkpoint(path) == model.info and model.info.weights == "only" and not model.info.missing
    assert set(model.info.files) == {"config.json", "scheduler_config.json", "weights.safetensors" if given in ("folder", "file") else path.name}


def test_what_no_file_says_is_asked_for(bare):
    network, folder = bare
    path = folder / "weights.safetensors"
    info = inspect_checkpoint(path)
    assert info.missing == ("train_timesteps", "beta_schedule", "prediction_type") and info.confidence == "incomplete" and info.prediction_type is None
    with pytest.raises(CheckpointError, match=r"train_timesteps, beta_schedule, prediction_type cannot be seen in config\.json") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    model = open_checkpoint(path, **NOISE)
    assert same(model, network) and {s.name: s.decided_by for s in model.info.settings}["beta_schedule"] == "user"
    torch.testing.assert_close(torch.as_tensor(model.schedule.betas), torch.linspace(1e-4, 0.02, 100, dtype=torch.float64))
    assert model.info.confidence == "likely" and model.info.notes[0] == "beta_start 0.0001 is diffusers' default: nobody said it"
    assert open_checkpoint(path, **NOISE, beta_start=1e-4, beta_end=0.02, variance="fixed_large").info.confidence == "certain"
    cosine = open_checkpoint(folder, **NOISE | {"beta_schedule": "cosine", "prediction_type": "sample"})
    assert cosine.prediction_type == "sample" and cosine.info.confidence == "certain"
    expected = from_betas(betas_for({"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"})).alphas_cumprod
    assert (cosine.schedule.alphas_cumprod == expected).all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (NOISE | {"beta_schedule": "scaled_linear"}, "beta_start, beta_end cannot be seen"),
        (NOISE | {"beta_schedule": "cosine", "beta_start": 0.1}, "beta_start means nothing with beta_schedule cosine"),
        (NOISE | {"variance": "learned_range"}, "variance is learned_range, but the network has as many channels out as in"),
        ({k: v for k, v in NOISE.items() if k != "prediction_type"}, r"and prediction_type cannot be seen"),
    ],
)
def test_settings_that_do_not_do_are_refused(bare, settings, match):
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(bare[1], **settings)


def test_a_schedulers_file_cannot_be_overruled(bare):
    shutil.copy(bare[1].parent / "saved" / "scheduler" / "scheduler_config.json", bare[1])
    for name, value in NOISE.items():
        with pytest.raises(CheckpointError, match=f"{name} cannot be set where scheduler_config.json says it"):
            open_checkpoint(bare[1], **{name: value})


def test_a_yaml_beside_the_file_says_it_too_and_the_user_wins(bare):
    path = bare[1] / "weights.safetensors"
    (bare[1] / "weights.yaml").write_text("train_timesteps: 100\nbeta_schedule: linear\nprediction_type: sample\n")
    info = inspect_checkpoint(path, prediction_type="epsilon")
    decided = {s.name: (s.value, s.decided_by) for s in info.settings}
    assert decided["prediction_type"] == ("epsilon", "user") and decided["train_timesteps"] == (100, "weights.yaml") and "weights.yaml" in info.files
    (bare[1] / "weights.yaml").write_text("num_heads: 4\n")
    with pytest.raises(CheckpointError, match=r"weights\.yaml: num_heads cannot be set"):
        open_checkpoint(path)


def test_a_learned_variance_is_seen_in_the_tensors(tmp_path):
    tiny.save(tmp_path, out_channels=2)
    shutil.rmtree(tmp_path / "scheduler")
    (tmp_path / "model_index.json").unlink()
    model = open_checkpoint(tmp_path, **NOISE)
    assert model.variance == "learned_range" and any("learned_range" in note for note in model.info.notes) and model.predict(XT, T).log_variance.shape == XT.shape
    with pytest.raises(CheckpointError, match="the tensors show learned_range"):
        open_checkpoint(tmp_path, **NOISE, variance="fixed_small")


def averaged():
    made = tiny.network()
    with torch.no_grad():
        made.conv_out.bias.add_(1)
    return made


@pytest.mark.parametrize("keys", [("ema", "unet"), ("ema_model", "model"), ("unet_ema", "state_dict")])
def test_of_several_sets_in_a_file_the_averaged_one_is_used_unless_raw_is_asked_for(bare, keys):
    network, folder = bare
    (folder / "weights.safetensors").unlink()
    torch.save({keys[0]: averaged().state_dict(), keys[1]: network.state_dict(), "step": 7}, folder / "weights.pt")
    for weights, expected, kind in (("auto", averaged(), "ema"), ("ema", averaged(), "ema"), ("raw", network, "raw")):
        model = open_checkpoint(folder / "weights.pt", **NOISE, weights=weights)
        assert same(model, expected) and model.info.weights == kind
        assert {s.name: s.value for s in model.info.settings}["weights"] == f"weights.pt: {keys[kind == 'raw']}"
    torch.save({keys[1]: network.state_dict()}, folder / "weights.pt")
    with pytest.raises(CheckpointError, match=r"weights\.pt holds no ema weights"):
        open_checkpoint(folder / "weights.pt", **NOISE, weights="ema")


def test_of_two_folders_the_averaged_one_is_used_unless_raw_is_asked_for(tmp_path):
    network = tiny.save(tmp_path)
    with pytest.raises(CheckpointError, match="has no unet_ema/ with ema weights"):
        open_checkpoint(tmp_path, weights="ema")
    assert inspect_checkpoint(tmp_path).weights == "only" and inspect_checkpoint(tmp_path, weights="raw").weights == "raw"
    averaged().save_pretrained(tmp_path / "unet_ema")
    for weights, expected, kind in (("auto", averaged(), "ema"), ("ema", averaged(), "ema"), ("raw", network, "raw")):
        model = open_checkpoint(tmp_path, weights=weights)
        assert same(model, expected) and model.info.weights == kind
        assert any(name.startswith("unet_ema/") for name in model.info.files) == (kind == "ema")
    shutil.rmtree(tmp_path / "unet")
    with pytest.raises(CheckpointError, match="has no unet/ with raw weights"):
        open_checkpoint(tmp_path, weights="raw")


def test_an_openai_file_beside_some_configuration_is_still_one(bare):
    test_openai.save(bare[1] / "model000100.pt")
    assert open_checkpoint(bare[1] / "model000100.pt", **test_openai.FULL).info.format == "openai"


def test_several_files_without_a_known_name_are_not_guessed_among(bare):
    save_file(bare[0].state_dict(), bare[1] / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors is missing"):
        open_checkpoint(bare[1], **NOISE)


def test_pickles_in_a_folder_are_converted_once(tmp_path, monkeypatch):
    network, kept = tiny.save(tmp_path / "model"), tmp_path / "kept"
    kept.mkdir()
    file = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    torch.save(network.state_dict(), file.with_suffix(".bin"))
    plain = open_checkpoint(tmp_path / "model")
    assert open_checkpoint(tmp_path / "model", unpack_into=kept).info == plain.info and len(list(kept.iterdir())) == 1

    def unpickle(*args, **kwargs):
        raise AssertionError("unpickled again")

    monkeypatch.setattr(torch, "load", unpickle)
    again = open_checkpoint(tmp_path / "model", unpack_into=kept)
    assert again.info == plain.info and same(again, network)


@pytest.mark.slow
def test_the_users_images_rank_what_is_missing(tmp_path):
    trained(tmp_path, "sample", steps=150)
    shutil.rmtree(tmp_path / "scheduler")
    (tmp_path / "model_index.json").unlink()
    known = {"train_timesteps": 1000, "beta_schedule": "linear"}
    assert rank_missing(tmp_path, blobs(32, seed=9), **known).best == "prediction_type sample"
    assert rank_missing(tmp_path, blobs(32, seed=9), **known, prediction_type="sample") is None

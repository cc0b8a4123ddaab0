"""What every registered checkpoint format keeps, tested the day it is registered: add how to make a small one to MAKE."""

import hashlib
import json

import numpy as np
import pytest
import torch

from models import open_checkpoint
from models.checkpoint import inspect_checkpoint
from models.errors import CheckpointError
from models.formats import FORMATS, get
from models.overrides import OVERRIDES
from models.schedule import q_sample
from tests.models import test_openai, test_pytorch_ddpm, tiny


def diffusers(folder):
    tiny.save(folder / "model")
    return folder / "model", {}


def diffusers_with_labels(folder):
    tiny.save(folder / "model", num_class_embeds=4)
    return folder / "model", {}


def latent(folder):
    tiny.save_latent(folder / "model")
    return folder / "model", {}


def latent_vq(folder):
    tiny.save_latent(folder / "model", "VQModel", autoencoder={"num_vq_embeddings": 16}, index=False)
    return folder / "model", {}


def stable_diffusion(folder):
    tiny.save_stable_diffusion(folder / "model")
    return folder / "model", {}


def bare_file(folder):
    """Weights beside config.json, without a scheduler's file."""
    network = tiny.save(folder / "saved")
    torch.save(network.state_dict(), folder / "weights.pt")
    (folder / "config.json").write_bytes((folder / "saved" / "unet" / "config.json").read_bytes())
    return folder / "weights.pt", {"train_timesteps": 100, "beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.02, "prediction_type": "v_prediction"}


def openai(folder):
    test_openai.save(folder / "model000100.pt")
    return folder / "model000100.pt", test_openai.FULL


def openai_with_labels(folder):
    test_openai.save(folder / "ema_0.9999_000100.pt", test_openai.layout(classes=4, updown=True))
    return folder / "ema_0.9999_000100.pt", test_openai.FULL | {"respacing": "20"}


def pytorch_ddpm(folder):
    torch.save(test_pytorch_ddpm.checkpoint(), folder / "ckpt.pt")
    return folder / "ckpt.pt", test_pytorch_ddpm.RECIPE


MAKE = {"diffusers": (diffusers, diffusers_with_labels, latent, latent_vq, stable_diffusion, bare_file), "openai": (openai, openai_with_labels), "pytorch_ddpm": (pytorch_ddpm,)}
SAMPLES = [(name, make) for name in FORMATS for make in MAKE[name]]


@pytest.fixture(params=SAMPLES, ids=lambda sample: sample[1].__name__)
def sample(request, tmp_path):
    """(format's name, path, settings)."""
    name, make = request.param
    return name, *make(tmp_path)


def batch(model, size=5):
    rng = torch.Generator().manual_seed(0)
    x0 = model.encode(torch.rand(size, *model.image_shape, generator=rng) * 2 - 1)
    eps = torch.randn(x0.shape, generator=rng)
    t = torch.linspace(0, np.flatnonzero(model.measurable)[-1], size).long()
    cond = None if model.classes is None else torch.arange(size) % model.classes
    if model.captions:
        cond = model.embed(["the cat", "", "on the cat", "a", "b!"][:size])
    return q_sample(model.schedule, x0, t, eps), t, cond


def test_it_is_recognised_by_its_format_alone_and_inspected_as_it_is_opened(sample):
    name, path, settings = sample
    assert [other for other in FORMATS if get(other).recognise(path)] == [name]
    info, model = inspect_checkpoint(path, **settings), open_checkpoint(path, **settings)
    assert info == model.info and info.format == name and not info.missing and info.confidence in ("certain", "likely")
    assert info.parameters == sum(tensor.numel() for tensor in model.network.state_dict().values())
    assert info.train_timesteps == int(settings.get("train_timesteps", info.train_timesteps)) and info.image_shape == model.image_shape
    assert all(s.decided_by in ("inferred", "recipe", "user", "self-test", "default") or s.decided_by in (*info.files, path.name) for s in info.settings)
    json.dumps(info.to_json(), allow_nan=False)
    if info.files == (path.name,):
        assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and info.files[0] == path.name


def test_inspecting_reads_no_tensor(sample, monkeypatch):
    _, path, settings = sample

    def read(*args, **kwargs):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("models.weights._read", read)
    monkeypatch.setattr("models.weights._tensor", read)
    inspect_checkpoint(path, **settings)
    with pytest.raises(AssertionError):
        open_checkpoint(path, **settings)


def test_a_denoiser_keeps_its_contract(sample):
    _, path, settings = sample
    model = open_checkpoint(path, **settings)
    assert not model.network.training and not any(p.requires_grad for p in model.network.parameters())
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.network.parameters())
    schedule = model.schedule
    assert schedule.alphas_cumprod.dtype == schedule.betas.dtype == np.float64 and schedule.timestep_map.dtype == np.int64
    assert len(schedule.alphas_cumprod) == len(schedule.betas) == len(schedule.timestep_map) == len(model.measurable)
    assert np.all(np.diff(schedule.alphas_cumprod) < 0) and np.all(np.diff(schedule.timestep_map) > 0) and schedule.timestep_map[-1] < model.info.train_timesteps
    xt, t, cond = batch(model)
    got = model.predict(xt, t, cond)
    for value in (got.eps_hat, got.x0_hat):
        assert value.shape == xt.shape and value.dtype == torch.float32 and value.isfinite().all()
    torch.testing.assert_close(q_sample(schedule, got.x0_hat, t, got.eps_hat), xt, atol=1e-4, rtol=1e-4)
    assert (got.log_variance is not None) == model.variance.startswith("learned")
    pictures = torch.rand(2, *model.image_shape) * 2 - 1
    encoded = model.encode(pictures)
    assert torch.equal(encoded, pictures) == model.pixel_space and encoded.shape[1:] == xt.shape[1:] and encoded.isfinite().all()
    assert model.decode(encoded).shape == pictures.shape and torch.equal(model.decode(encoded), pictures) == model.pixel_space
    again = model.predict(xt, t, cond)
    assert torch.equal(got.eps_hat, again.eps_hat)


def test_neither_batch_size_nor_order_matters(sample):
    _, path, settings = sample
    model = open_checkpoint(path, **settings)
    xt, t, cond = batch(model)
    whole = model.predict(xt, t, cond).eps_hat
    for index in range(len(xt)):
        part = slice(index, index + 1)
        torch.testing.assert_close(model.predict(xt[part], t[part], None if cond is None else cond[part]).eps_hat, whole[part], atol=2e-5, rtol=0)
    back = torch.arange(len(xt)).flip(0)
    torch.testing.assert_close(model.predict(xt[back], t[back], None if cond is None else cond[back]).eps_hat, whole[back], atol=2e-5, rtol=0)


def test_gradients_flow_to_the_input_and_to_every_parameter(sample):
    _, path, settings = sample
    model = open_checkpoint(path, **settings)
    model.network.requires_grad_(True)
    xt, t, cond = batch(model, 2)
    xt.requires_grad_(True)
    got = model.predict(xt, t, cond)
    (got.eps_hat.square().sum() + (0 if got.log_variance is None else got.log_variance.sum())).backward()
    assert xt.grad.abs().max() > 0
    frozen = {name for name, p in model.network.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not frozen


def test_a_class_conditional_model_asks_for_labels_and_the_others_do_not(sample):
    _, path, settings = sample
    model = open_checkpoint(path, **settings)
    xt, t, _ = batch(model, 2)
    if model.captions:
        assert not torch.equal(model.predict(xt, t).eps_hat, model.predict(xt, t, model.embed(["the cat", "a"])).eps_hat)
    elif model.classes is None:
        assert torch.equal(model.predict(xt, t).eps_hat, model.predict(xt, t, torch.tensor([0, 1])).eps_hat)
    else:
        with pytest.raises(CheckpointError, match="cond"):
            model.predict(xt, t)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_takes_exists_and_anything_else_is_refused(name, tmp_path):
    path, settings = MAKE[name][0](tmp_path)
    takes = getattr(get(name), "takes", None)
    names = takes.names if takes else ()
    assert set(names) <= set(OVERRIDES) and set(settings) <= set(names)
    values = {"choice": lambda o: o.values[0], "text": lambda o: "x", "switch": lambda o: True, "whole": lambda o: int(o.low), "number": lambda o: o.high}
    for other in set(OVERRIDES) - set(names):
        with pytest.raises(CheckpointError, match=f"{other} cannot be set") as caught:
            inspect_checkpoint(path, **settings | {other: values[OVERRIDES[other].kind](OVERRIDES[other])})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(CheckpointError, match="colour is not a setting"):
        open_checkpoint(path, **settings | {"colour": 1})
    assert inspect_checkpoint(path, **settings | dict.fromkeys(OVERRIDES, None) | settings) == inspect_checkpoint(path, **settings)  # None means not given

"""Checkpoints that must open, and what is said about them."""

import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models import open_checkpoint
from models.base import CheckpointInfo, Denoiser
from models.checkpoint import inspect_checkpoint
from models.errors import CheckpointError, SelfTestFailed, UnsafeCheckpoint
from models.formats import FORMATS, get
from models.formats.diffusers_parts import OLD_ATTENTION
from models.formats.diffusers_scheduler import DDPM_DEFAULTS, SCHEDULERS
from models.schedule import betas_for, from_betas, q_sample
from models.selftest import self_test
from models.toy import Memoriser
from models.weights import convert_to_safetensors
from tests.models import tiny

ROOT = Path(__file__).resolve().parents[2]


def zip_folder(folder, target, top=""):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, top + file.relative_to(folder).as_posix())
    return target


def same_output(model, network, channels=1):
    xt, t = torch.randn(3, channels, 8, 8), torch.tensor([0, 17, 999])
    with torch.inference_mode():
        return torch.equal(model.run_network(xt, t, None), network(xt, t).sample)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_the_contract(name):
    made = get(name)
    assert made.name == name and made.words and not made.recognise(ROOT / "models")
    assert all(callable(getattr(made, method)) for method in ("recognise", "inspect", "load"))


@pytest.mark.parametrize("layout", ["pipeline", "no index", "flat", "flat with scheduler folder", "zip", "zip with one top folder", "folder in a folder", "bin", "fp16 file"])
def test_layouts_open_to_the_same_network(tmp_path, layout):
    saved, given = tmp_path / "saved", tmp_path / "given"
    network = tiny.save(saved, index=layout != "no index")
    if layout == "flat":
        shutil.copytree(saved / "unet", given)
        shutil.copy(saved / "scheduler" / "scheduler_config.json", given)
    elif layout == "flat with scheduler folder":
        shutil.copytree(saved / "unet", given)
        shutil.copytree(saved / "scheduler", given / "scheduler")
    elif layout.startswith("zip"):
        (saved / "README.md").write_text("not needed, stays packed")
        given = zip_folder(saved, tmp_path / "given.zip", "my model/" if "top" in layout else "")
    elif layout == "folder in a folder":
        shutil.copytree(saved, given / "inner")
    else:
        shutil.copytree(saved, given)
        file = given / "unet" / "diffusion_pytorch_model.safetensors"
        if layout == "bin":
            torch.save(load_file(file), file.with_suffix(".bin"))
            file.unlink()
        elif layout == "fp16 file":
            file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = open_checkpoint(given)
    assert isinstance(model, Denoiser) and same_output(model, network)
    assert model.image_shape == (1, 8, 8) and not model.network.training and not any(p.requires_grad for p in model.network.parameters())
    assert inspect_checkpoint(given) == model.info
    assert sum(p.numel() for p in network.parameters()) == model.info.parameters
    json.dumps(model.info.to_json(), allow_nan=False)


def test_the_sha256_is_that_of_the_files_used_whether_packed_or_not(tmp_path):
    folder = tmp_path / "model"
    tiny.save(folder)
    (folder / "training.json").write_text("{}")
    info = inspect_checkpoint(folder)
    assert info.files == ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors")
    lines = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in info.files)
    assert info.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert inspect_checkpoint(zip_folder(folder, tmp_path / "model.zip")).sha256 == info.sha256
    (folder / "training.json").write_text("[]")
    assert inspect_checkpoint(folder).sha256 == info.sha256
    tiny.edit(folder / "scheduler" / "scheduler_config.json", beta_end=0.03)
    assert inspect_checkpoint(folder).sha256 != info.sha256


def test_a_zip_leaves_nothing_behind_unless_a_folder_keeps_it(tmp_path, monkeypatch):
    tiny.save(tmp_path / "saved")
    packed = zip_folder(tmp_path / "saved", tmp_path / "given.zip")
    (tmp_path / "temporary").mkdir()
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    model = open_checkpoint(packed)
    assert not list((tmp_path / "temporary").iterdir())
    assert model.predict(torch.zeros(1, 1, 8, 8), torch.tensor([5])).eps_hat.isfinite().all()  # the weights do not hang on the deleted files
    open_checkpoint(packed, unpack_into=tmp_path / "kept")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [hashlib.sha256(packed.read_bytes()).hexdigest()[:32]]


def test_files_before_diffusers_0_9_say_that_the_picture_is_predicted_by_another_name(tmp_path):
    """Today's diffusers passes over that name and would read such a model's output as noise."""
    tiny.save(tmp_path)
    config = tmp_path / "scheduler" / "scheduler_config.json"
    written = json.loads(config.read_text())
    del written["prediction_type"]
    for says, kind in ((False, "sample"), (True, "epsilon")):
        config.write_text(json.dumps(written | {"predict_epsilon": says}))
        model = open_checkpoint(tmp_path)
        settings = {s.name: (s.value, s.decided_by) for s in model.info.settings}
        assert model.prediction_type == kind and settings["prediction_type"] == (kind, "scheduler/scheduler_config.json")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_prediction_types_are_read_as_diffusers_reads_them(tmp_path, kind):
    import diffusers

    network = tiny.save(tmp_path, "DDIMScheduler", {"prediction_type": kind, "clip_sample": False, "set_alpha_to_one": False})
    model = open_checkpoint(tmp_path)
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    scheduler.set_timesteps(1000)
    xt, t = torch.randn(2, 1, 8, 8), 600
    with torch.inference_mode():
        got = model.predict(xt, torch.tensor([t, t]))
        step = scheduler.step(network(xt, t).sample, t, xt)
    # float32 schedule of diffusers against ours: 2e-4 relative in 1 - abar, divided by sqrt(abar_600) = 0.16
    torch.testing.assert_close(got.x0_hat, step.pred_original_sample, atol=2e-3, rtol=1e-3)
    assert model.info.prediction_type == model.prediction_type == kind
    rebuilt = q_sample(model.schedule, got.x0_hat, torch.tensor([t, t]), got.eps_hat)
    torch.testing.assert_close(rebuilt, xt, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "config", [{"beta_schedule": n} for n in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")] + [{"rescale_betas_zero_snr": True}], ids=str
)
def test_every_beta_schedule_opens(tmp_path, config):
    tiny.save(tmp_path, scheduler_config=config)
    model = open_checkpoint(tmp_path)
    np.testing.assert_array_equal(model.schedule.alphas_cumprod, from_betas(betas_for(config)).alphas_cumprod)
    assert model.info.train_timesteps == 1000


def test_trained_betas_open(tmp_path):
    betas = [float(b) for b in np.linspace(0.001, 0.3, 40)]
    tiny.save(tmp_path, scheduler_config={"trained_betas": betas, "num_train_timesteps": 40})
    model = open_checkpoint(tmp_path)
    np.testing.assert_allclose(model.schedule.betas, betas, rtol=1e-15)
    assert {s.name: s.value for s in model.info.settings}["trained_betas"] == "40 numbers"


@pytest.mark.parametrize(
    ("scheduler", "said", "out", "variance"),
    [
        ("DDPMScheduler", "fixed_small", 1, "fixed_small"),
        ("DDPMScheduler", "fixed_small_log", 1, "fixed_small"),
        ("DDPMScheduler", "fixed_large", 1, "fixed_large"),
        ("DDPMScheduler", "fixed_large_log", 1, "fixed_large"),
        ("DDPMScheduler", "learned", 2, "learned"),
        ("DDPMScheduler", "learned_range", 2, "learned_range"),
        ("DPMSolverMultistepScheduler", "learned_range", 2, "learned_range"),
        ("DDIMScheduler", None, 1, "fixed_small"),
        ("PNDMScheduler", None, 1, "fixed_small"),
    ],
)
def test_variances(tmp_path, scheduler, said, out, variance):
    tiny.save(tmp_path, scheduler, {"variance_type": said} if said else {}, out_channels=out)
    model = open_checkpoint(tmp_path)
    got = model.predict(torch.randn(2, 1, 8, 8), torch.tensor([0, 500]))
    assert model.variance == variance and got.eps_hat.shape == (2, 1, 8, 8)
    assert (got.log_variance is None) == (out == 1)
    assert got.log_variance is None or (got.log_variance.shape == (2, 1, 8, 8) and got.log_variance.isfinite().all())


@pytest.mark.parametrize("cls", SCHEDULERS)
def test_our_table_of_scheduler_defaults_is_diffusers_own(cls):
    import diffusers

    parameters = inspect.signature(getattr(diffusers, cls).__init__).parameters
    for key, value in (DDPM_DEFAULTS | SCHEDULERS[cls]).items():
        if key in parameters:
            assert parameters[key].default == value, key
        else:
            assert key in ("rescale_betas_zero_snr", "prediction_type"), key


@pytest.mark.parametrize("cls", SCHEDULERS)
def test_a_scheduler_file_that_only_names_its_class_gives_its_defaults(tmp_path, cls):
    """LCM, TCD, Heun and KDPM2 assume other betas than DDPM where the file is silent; the class's own noise levels are compared on loading."""
    tiny.save(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": cls}))
    model = open_checkpoint(tmp_path)
    assert {s.name: s.decided_by for s in model.info.settings}["beta_start"] == "default"
    assert model.schedule.betas[0] == pytest.approx(SCHEDULERS[cls].get("beta_start", 1e-4))


def test_settings_name_the_file_that_decided(tmp_path):
    tiny.save(tmp_path)
    tiny.edit(tmp_path / "scheduler" / "scheduler_config.json", beta_start=...)
    decided = {s.name: (s.value, s.decided_by) for s in inspect_checkpoint(tmp_path).settings}
    assert decided["beta_end"] == (0.02, "scheduler/scheduler_config.json") and decided["beta_start"] == (0.0001, "default")
    assert decided["image_size"] == ("8 x 8", "unet/config.json") and decided["weights"] == ("unet/diffusion_pytorch_model.safetensors", "inferred")


def test_ema_weights_are_used_where_a_folder_says_so(tmp_path):
    tiny.save(tmp_path)
    assert inspect_checkpoint(tmp_path).weights == "only"
    averaged = tiny.network()
    with torch.no_grad():
        averaged.conv_out.bias.add_(1)
    averaged.save_pretrained(tmp_path / "unet_ema")
    model = open_checkpoint(tmp_path)
    assert model.info.weights == "ema" and same_output(model, averaged) and "unet_ema/config.json" in model.info.files


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_weights_become_float32(tmp_path, dtype):
    tiny.save(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v.to(dtype) for k, v in load_file(file).items()}, file)
    model = open_checkpoint(tmp_path)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}


def test_old_attention_names_open(tmp_path):
    """google/ddpm-cifar10-32 and its kin were written before diffusers renamed the attention projections."""
    network = tiny.save(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        for before, now in OLD_ATTENTION.items():
            name = name.replace(f".{now}.", f".{before}.")
        old[name] = tensor
    assert any(".proj_attn." in n for n in old)
    save_file(old, file)
    assert same_output(open_checkpoint(tmp_path), network)


@pytest.mark.parametrize(
    ("down", "up"),
    [("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"), ("SkipDownBlock2D", "SkipUpBlock2D"), ("AttnSkipDownBlock2D", "AttnSkipUpBlock2D"), ("DownBlock2D", "UpBlock2D")],
)
def test_every_kind_of_block_opens(tmp_path, down, up):
    wide = {"block_out_channels": (16, 32), "norm_num_groups": 4} if "Skip" not in down else {"block_out_channels": (32, 32), "norm_num_groups": 8}
    network = tiny.save(tmp_path, down_block_types=(down, down), up_block_types=(up, up), in_channels=3, out_channels=3, sample_size=(8, 8), **wide)
    assert same_output(open_checkpoint(tmp_path), network, 3)


def test_a_learned_time_embedding_opens(tmp_path):
    network = tiny.save(tmp_path, time_embedding_type="learned", num_train_timesteps=1000)
    assert same_output(open_checkpoint(tmp_path), network)


def test_bin_weights_convert_once_to_safetensors(tmp_path):
    state = tiny.network().state_dict()
    torch.save(state, tmp_path / "weights.bin")
    (tmp_path / "into").mkdir()
    target = convert_to_safetensors(tmp_path / "weights.bin", tmp_path / "into")
    assert target == tmp_path / "into" / "weights.safetensors" and [p.name for p in target.parent.iterdir()] == ["weights.safetensors"]
    written = load_file(target)
    assert written.keys() == state.keys() and all(torch.equal(written[k], state[k]) for k in state)


def test_unknown_overrides_are_refused(tmp_path):
    tiny.save(tmp_path)
    with pytest.raises(CheckpointError, match="beta_start cannot be set"):
        open_checkpoint(tmp_path, beta_start=0.1)


@pytest.mark.slow
def test_opening_writes_nothing_to_stderr_and_fetches_nothing(tmp_path):
    tiny.save(tmp_path)
    tiny.edit(tmp_path / "unet" / "config.json", an_unknown_key=3)
    code = f"import os; from models import open_checkpoint; open_checkpoint({str(tmp_path)!r}); print(os.environ['HF_HUB_OFFLINE'], os.environ['DIFFUSERS_DISABLE_REMOTE_CODE'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1 1", "")


def test_inspecting_is_quick_small_and_reads_no_tensor(tmp_path):
    """On 60 MB of weights: below a second and 100 MB beyond torch, and diffusers is not even imported."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    tiny.save(tmp_path)
    save_file({"conv_in.weight": torch.zeros(60_000_000 // 4)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    code = (
        f"import sys, time, torch\n{tiny.PEAK}"
        f"before, began = peak(), time.process_time()\nfrom models.checkpoint import inspect_checkpoint\ninfo = inspect_checkpoint({str(tmp_path)!r})\n"
        "print(time.process_time() - began, peak() - before, 'diffusers' in sys.modules, info.parameters)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    seconds, megabytes, imported, parameters = done.stdout.split()
    assert float(seconds) < 1 and float(megabytes) < 100 and imported == "False" and int(parameters) == 60_000_000 // 4


def blobs(count, seed=0):
    """Smooth 8 x 8 pictures, (N,1,8,8) in [-1, 1]: one bright spot each."""
    rng = np.random.default_rng(seed)
    grid = np.arange(8)
    centre, width = rng.uniform(1, 6, (2, count, 1, 1)), rng.uniform(0.8, 2.0, (count, 1, 1))
    spot = np.exp(-((grid[:, None] - centre[0]) ** 2 + (grid[None, :] - centre[1]) ** 2) / (2 * width**2))
    return torch.as_tensor(2 * spot - 1, dtype=torch.float32)[:, None]


def trained(folder, kind, steps=60):
    """A network of one level trained for a second, saved; the only kind of checkpoint that must get through the self-test."""
    schedule = from_betas(betas_for({}))
    from models.schedule import training_target

    network, x0, rng = tiny.network(**tiny.PLAIN).train(), blobs(256), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=8e-3)
    for _ in range(steps):
        batch, t = x0[torch.randint(0, 256, (32,), generator=rng)], torch.randint(0, 1000, (32,), generator=rng)
        eps = torch.randn(batch.shape, generator=rng)
        loss = ((network(q_sample(schedule, batch, t, eps), t).sample - training_target(schedule, batch, eps, t, kind)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tiny.save(folder, scheduler_config={"prediction_type": kind}, unet=network.eval())


@pytest.fixture(scope="module")
def trained_models(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("epsilon", "v_prediction", "sample")}
    for kind, folder in folders.items():
        trained(folder, kind)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_trained_network_gets_through_the_self_test_and_a_misread_one_is_told_how_to_read_it(trained_models, kind, tmp_path):
    unseen = blobs(32, seed=9)
    outcome = self_test(open_checkpoint(trained_models[kind]), unseen)
    assert outcome.passed and outcome.require() is outcome and outcome.error < 0.6 * outcome.baseline < 0.6 and outcome.hint == ""
    assert self_test(open_checkpoint(trained_models[kind]), unseen.numpy()) == outcome
    for wrong in {"epsilon", "v_prediction", "sample"} - {kind}:
        copy = shutil.copytree(trained_models[kind], tmp_path / wrong)
        tiny.edit(copy / "scheduler" / "scheduler_config.json", prediction_type=wrong)
        misread = self_test(open_checkpoint(copy), unseen)
        assert not misread.passed and misread.hint.startswith(f"Prediction type {kind} gives 0.")
        with pytest.raises(SelfTestFailed, match=f"Prediction type {kind}") as caught:
            misread.require()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("zero", [False, True], ids=["random", "zero"])
def test_an_untrained_network_fails_the_self_test_with_the_settings_to_check(tmp_path, kind, zero):
    network = tiny.network()
    if zero:
        with torch.no_grad():
            network.conv_out.weight.zero_()
            network.conv_out.bias.zero_()
    tiny.save(tmp_path, scheduler_config={"prediction_type": kind}, unet=network)
    outcome = self_test(open_checkpoint(tmp_path), blobs(16))
    assert not outcome.passed and all(word in outcome.hint for word in (f"prediction type ({kind})", "pixel range", "noise schedule (linear, 1000 steps)", "image size (8 x 8)"))
    json.dumps(outcome.to_json(), allow_nan=False)


def test_the_self_test_takes_exact_denoisers_and_refuses_images_of_another_shape():
    x0 = blobs(8)
    model = Memoriser(x0, from_betas(betas_for({})))
    assert self_test(model, x0).error < 0.05
    with pytest.raises(CheckpointError, match=r"takes 1 x 8 x 8 .* images are 3 x 8 x 8"):
        self_test(model, torch.zeros(4, 3, 8, 8))


def test_a_network_that_returns_nan_fails_the_self_test(tmp_path):
    tiny.save(tmp_path)
    model = open_checkpoint(tmp_path)
    model.network.conv_out.bias.fill_(torch.nan)
    outcome = self_test(model, blobs(4))
    assert not outcome.passed and outcome.to_json()["error"] is None


def test_info_is_plain_data():
    info = CheckpointInfo("0", "diffusers", "n", 1, "only", "epsilon", 10, (1, 8, 8), ())
    assert info.to_json()["image_shape"] == [1, 8, 8] and issubclass(UnsafeCheckpoint, CheckpointError)

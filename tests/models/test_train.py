"""The trainer: a resumed training is the uninterrupted one, its result opens, its manifest proves who was a member."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import open_checkpoint, pixels
from models.errors import ModelError
from models.imagefiles import read_set
from models.train import TrainSettings, contact_sheet, load_images, main, sample, train

TINY = {"image_size": 8, "channels": 1, "batch_size": 4, "warmup": 2, "block_out_channels": (8, 16), "attention": (False, True), "flip": True, "lr": 1e-3, "seed": 5}


def images(count=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def weights(folder, which="unet"):
    return load_file(folder / which / "diffusion_pytorch_model.safetensors")


class Stop(Exception):
    """Ends a training from its own progress call."""


def stop_at(step):
    def progress(done, steps, loss):
        if done == step:
            raise Stop

    return progress


def test_a_resumed_training_gives_the_weights_of_an_uninterrupted_one(tmp_path):
    settings = TrainSettings(steps=8, **TINY)
    whole = train(settings, images(), tmp_path / "whole")
    with pytest.raises(Stop):
        train(settings, images(), tmp_path / "parts", save_every=3, progress=stop_at(5))
    assert (tmp_path / "parts" / "unfinished.pt").exists() and not (tmp_path / "parts" / "training.json").exists()
    seen = []
    parts = train(settings, images(), tmp_path / "parts", save_every=3, progress=lambda done, *_: seen.append(done))
    assert seen == [4, 5, 6, 7, 8]
    for which in ("unet", "unet_raw"):
        assert all(torch.equal(weights(whole, which)[name], tensor) for name, tensor in weights(parts, which).items())
    assert json.loads((whole / "training.json").read_text())["loss"] == json.loads((parts / "training.json").read_text())["loss"]
    assert not (parts / "unfinished.pt").exists()


def test_averaged_weights_differ_from_raw_ones_and_the_averaged_are_opened(tmp_path):
    out = train(TrainSettings(steps=6, **TINY), images(), tmp_path / "out")
    assert not torch.equal(weights(out)["conv_in.weight"], weights(out, "unet_raw")["conv_in.weight"])
    model = open_checkpoint(out)
    assert torch.equal(model.network.conv_in.weight, weights(out)["conv_in.weight"]) and model.info.image_shape == (1, 8, 8)


def test_another_seed_or_other_images_give_other_weights(tmp_path):
    first = weights(train(TrainSettings(steps=2, **TINY), images(), tmp_path / "a"))["conv_in.weight"]
    assert torch.equal(first, weights(train(TrainSettings(steps=2, **TINY), images(), tmp_path / "b"))["conv_in.weight"])
    assert not torch.equal(first, weights(train(TrainSettings(steps=2, **TINY | {"seed": 6}), images(), tmp_path / "c"))["conv_in.weight"])
    assert not torch.equal(first, weights(train(TrainSettings(steps=2, **TINY), images(seed=1), tmp_path / "d"))["conv_in.weight"])


@pytest.mark.parametrize("kind", ["epsilon", pytest.param("v_prediction", marks=pytest.mark.slow), pytest.param("sample", marks=pytest.mark.slow)])
def test_the_loss_falls_for_every_prediction_type(tmp_path, kind):
    one = np.zeros((4, 8, 8, 1), np.uint8)
    one[:, 2:6, 2:6] = 255
    losses = []
    small = TINY | {"lr": 1e-2, "flip": False, "batch_size": 16, "block_out_channels": (8,), "attention": (False,)}
    settings = TrainSettings(steps=40, **small, scheduler="DDIMScheduler", scheduler_config={"prediction_type": kind})
    out = train(settings, np.repeat(one, 4, axis=0), tmp_path / "out")
    losses = [row["mean"] for row in json.loads((out / "training.json").read_text())["loss"]]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert open_checkpoint(out).prediction_type == kind


def test_the_manifest_lists_every_member_by_its_hash(tmp_path):
    data = images()
    out = train(TrainSettings(steps=2, **TINY), data, tmp_path / "out", names=[f"{i}.png" for i in range(10)])
    manifest = json.loads((out / "training.json").read_text())
    assert manifest["images"] == [{"name": f"{i}.png", "image_id": pixels.image_id(p)} for i, p in enumerate(data)]
    assert manifest["settings"]["flip"] is True and manifest["settings"]["steps"] == 2 and manifest["parameters"] == open_checkpoint(out).info.parameters


def test_a_folder_of_another_training_is_not_overwritten(tmp_path):
    settings = TrainSettings(steps=4, **TINY)
    with pytest.raises(Stop):
        train(settings, images(), tmp_path / "out", save_every=1, progress=stop_at(3))
    with pytest.raises(ModelError, match="other settings or images"):
        train(settings, images(seed=1), tmp_path / "out")
    train(settings, images(), tmp_path / "out")
    with pytest.raises(ModelError, match="already holds a finished training"):
        train(settings, images(), tmp_path / "out")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"attention": (True,)}, "one attention entry"),
        ({"image_size": 9}, "cannot be halved"),
        ({"lr": 0.0}, "lr"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_built(bad, match):
    with pytest.raises(ModelError, match=match):
        TrainSettings(**{"steps": 4} | TINY | bad)


def test_no_images_and_an_unknown_scheduler_are_refused(tmp_path):
    with pytest.raises(ModelError, match="No training images"):
        train(TrainSettings(steps=2, **TINY), images(0), tmp_path / "out")
    with pytest.raises(ModelError, match="no scheduler 'UNet2DModel'"):
        train(TrainSettings(steps=2, **TINY | {"scheduler": "UNet2DModel"}), images(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_samples_follow_the_seed_and_are_pictures(tmp_path):
    out = train(TrainSettings(steps=2, **TINY, scheduler_config={"num_train_timesteps": 10}), images(), tmp_path / "out")
    drawn = sample(out, 5, seed=1, batch_size=2)
    assert drawn.shape == (5, 8, 8, 1) and drawn.dtype == np.uint8
    assert np.array_equal(drawn, sample(out, 5, seed=1, batch_size=2)) and not np.array_equal(drawn, sample(out, 5, seed=2, batch_size=2))
    assert contact_sheet(drawn, columns=3, scale=2).size == (48, 32)


def test_the_command_line_trains_from_files_and_says_errors_in_one_line(tmp_path, capsys):
    np.savez_compressed(tmp_path / "set.npz", images=images())
    arguments = [
        "--images",
        str(tmp_path / "set.npz"),
        "--out",
        str(tmp_path / "out"),
        "--image-size",
        "8",
        "--channels",
        "1",
        "--block-out-channels",
        "8,16",
        "--attention",
        "0,1",
    ]
    assert main([*arguments, "--steps", "2", "--batch-size", "4", "--scheduler-config", '{"num_train_timesteps": 5}', "--samples", "2"]) == 0
    assert "(10 training images)" in capsys.readouterr().out and (tmp_path / "out" / "samples.png").exists()
    loaded, names, left_out = load_images([tmp_path / "set.npz"], 8, 1)
    assert np.array_equal(loaded, images()) and names[3] == "images[3]" and left_out == [] and len(list(read_set(tmp_path / "set.npz"))) == 10
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([*arguments, "--scheduler-config", "{"]) == 2 and capsys.readouterr().err.count("\n") == 1

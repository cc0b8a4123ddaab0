"""The trainer: a resumed training is the uninterrupted one, its result opens, its manifest proves who was a member."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import open_checkpoint, pixels
from models.errors import ModelError, TrainingDiverged
from models.heldout import chosen
from models.imagefiles import read_set
from models.train import TrainingStopped, TrainSettings, contact_sheet, load_images, main, sample, train
from models.trainable import trainable

TINY = {"image_size": 8, "channels": 1, "batch_size": 4, "warmup": 2, "block_out_channels": (8, 16), "attention": (False, True), "flip": True, "lr": 1e-3, "seed": 5}
OPENAI = {"block_out_channels": (32, 64), "scheduler_config": {"num_train_timesteps": 50, "beta_schedule": "cosine"}}


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
        ({"network": "unet3d"}, "network is 'unet3d'. Expected one of unet2d, improved, guided"),
        ({"held_out": 0.6}, "held_out is 0.6"),
        ({"patience": 0}, "patience is 0"),
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


@pytest.mark.parametrize("network", ["improved", "guided"])
def test_the_other_networks_open_as_they_were_trained(tmp_path, network):
    """Heads, their order, the schedule and the scaling of t leave no trace in the tensors: the saved .yaml must say all of them."""
    settings = TrainSettings(steps=3, **TINY | OPENAI, network=network, num_head_channels=16)
    out = train(settings, images(), tmp_path / network)
    model, kind = open_checkpoint(out), trainable(settings)
    assert (model.info.format, model.info.weights, model.info.confidence, model.image_shape) == ("openai", "ema", "certain", (1, 8, 8))
    kind.network.load_state_dict(model.network.state_dict())
    xt, t = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([0, 7, 31, 49])
    with torch.inference_mode():
        assert torch.equal(model.predict(xt, t).eps_hat, kind.network.eval() and kind.output(xt, t))
    assert np.array_equal(model.schedule.alphas_cumprod, kind.schedule.alphas_cumprod) and model.prediction_type == "epsilon"
    raw = open_checkpoint(out, weights="raw")
    assert raw.info.weights == "raw" and not torch.equal(raw.network.out[2].weight, model.network.out[2].weight)
    assert sample(out, 2, steps=4).shape == (2, 8, 8, 1)


def test_networks_are_told_t_as_their_families_do():
    improved, guided = (trainable(TrainSettings(steps=1, **TINY | OPENAI, network=name)) for name in ("improved", "guided"))
    seen = []
    for kind in (improved, guided):
        kind.network.forward = lambda xt, t: seen.append(t.tolist())
        kind.output(None, torch.tensor([0, 10]))
    assert seen == [[0.0, 200.0], [0, 10]]
    assert not improved.network.layout.resblock_updown and guided.network.layout.resblock_updown


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"block_out_channels": (32, 48)}, "block_out_channels has 48. Expected multiples of 32"),
        ({"num_heads": 5}, "num_heads is 5. Expected a divisor of 64"),
        ({"network": "guided", "num_head_channels": 24}, "num_head_channels is 24. Expected a divisor of 64"),
        ({"scheduler": "DDIMScheduler"}, "takes no scheduler of diffusers"),
        ({"scheduler_config": {"prediction_type": "sample"}}, "takes no scheduler of diffusers"),
        ({"scheduler_config": {"num_train_timesteps": 20}}, "num_train_timesteps is 20"),
        ({"scheduler_config": {"beta_schedule": "sigmoid"}}, "beta_schedule is 'sigmoid'"),
    ],
)
def test_what_the_other_networks_cannot_have_is_refused(tmp_path, bad, match):
    with pytest.raises(ModelError, match=match):
        train(TrainSettings(**{"steps": 1, "network": "improved"} | TINY | OPENAI | bad), images(), tmp_path / "out")


HELD = {"held_out": 0.3, "validate_every": 2, "dropout": 0.2}


def test_with_held_out_images_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    settings = TrainSettings(steps=8, **TINY, **HELD, patience=9)
    whole = train(settings, images(), tmp_path / "whole")
    asked = iter([False] * 5 + [True])
    with pytest.raises(TrainingStopped):
        train(settings, images(), tmp_path / "parts", should_stop=lambda: next(asked))
    seen = []
    parts = train(settings, images(), tmp_path / "parts", progress=lambda done, *_: seen.append(done))
    assert seen == [6, 7, 8]
    assert all(torch.equal(weights(whole)[name], tensor) for name, tensor in weights(parts).items())
    first, second = (json.loads((folder / "training.json").read_text()) for folder in (whole, parts))
    assert first["held_out"] == second["held_out"] and [entry["step"] for entry in first["held_out"]["history"]] == [2, 4, 6, 8]
    aside = chosen(10, 0.3, 5)
    assert [entry["image_id"] for entry in first["images"]] == [pixels.image_id(p) for p in images()[~aside]]
    assert [entry["image_id"] for entry in first["held_out"]["images"]] == [pixels.image_id(p) for p in images()[aside]] and aside.sum() == 3


@pytest.mark.slow
def test_the_training_ends_when_held_out_loss_stops_falling_and_the_best_weights_are_kept(tmp_path):
    """Random pictures cannot be generalised from: what is learned of the others makes the held-out loss rise."""
    settings = TINY | {"lr": 2e-2, "flip": False, "ema_decay": 0.5, "held_out": 0.4, "validate_every": 10, "patience": 3, "block_out_channels": (16,), "attention": (False,)}
    out = train(TrainSettings(steps=2000, **settings), images(), tmp_path / "out")
    made = json.loads((out / "training.json").read_text())
    history = {entry["step"]: entry["loss"] for entry in made["held_out"]["history"]}
    best = min(history, key=history.get)
    assert made["held_out"]["stopped_early"] and made["steps_done"] == max(history) == best + 30 < 2000 and made["held_out"]["kept_step"] == best
    assert made["held_out"]["loss"] == history[best]
    same = train(TrainSettings(**{"steps": best, **settings}), images(), tmp_path / "same")  # ends just there, so its average is that of the best step
    assert all(torch.equal(weights(same)[name], tensor) for name, tensor in weights(out).items())


def test_a_diverged_training_says_so_once_and_is_not_begun_again(tmp_path):
    settings = TrainSettings(steps=300, **TINY | {"lr": 30.0, "ema_decay": 0.0, "block_out_channels": (8,), "attention": (False,)})
    with pytest.raises(TrainingDiverged, match=r"diverged at step \d+ \(loss .*\)\. Use a smaller lr") as first:
        train(settings, images(), tmp_path / "out")
    seen = []
    with pytest.raises(TrainingDiverged) as second:
        train(settings, images(), tmp_path / "out", progress=lambda *_: seen.append(1))
    assert str(first.value) == str(second.value) and seen == [] and not (tmp_path / "out" / "training.json").exists()
    train(TrainSettings(steps=2, **TINY), images(), tmp_path / "out")
    assert not (tmp_path / "out" / "diverged.json").exists()


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    settings = TrainSettings(steps=5, **TINY | {"lr": 1e36, "warmup": 1, "ema_decay": 0.0})
    with pytest.raises(TrainingDiverged, match="no number any more"):
        train(settings, images(), tmp_path / "out")

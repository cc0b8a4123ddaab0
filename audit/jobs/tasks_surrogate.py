"""Device work of a surrogate: its training, and a look at what came out. audit.jobs.tasks says how tasks answer."""

import json
import os
import time
from pathlib import Path

import numpy as np

from audit.jobs.facts import facts_of
from audit.jobs.outcome import task
from audit.jobs.tasks import device_of_place, free, networks, prepare_process, run_self_test
from audit.sources import SURROGATE, TARGET

PROGRESS, PROGRESS_S, SAVE_S = "progress.json", 0.5, 20.0  # of a training: where it is, how often that is written, how much a crash can cost; seconds
OWN_SAMPLES, OWN_STEPS, SHEET_SIDE = 32, 50, 512  # pictures that a surrogate draws of itself, and their sheet in pixels


@task
def train_surrogate(place, images, kept, training, folder, flag):
    """Train a surrogate on a pool, go on with it, or find it finished, in FOLDER/model; its own samples lie beside it.

    Args: images: path of the pool's .npy, uint8 (P,H,W,C); kept: int64, those of its samples that may be used; training: keywords of
        models.train.TrainSettings as audit.surrogates makes them; folder: of this surrogate in AUDIT_HOME; flag: stop sign, asked before every step.
    Returns: {"steps_done", "kept_step", "held_out_loss", "training_seconds", "stopped_early"}; None where no samples were held out.
    Raises: Stopped; models.errors.TrainingDiverged, ModelError.
    """
    from models.train import TrainingStopped, contact_sheet, sample, train

    prepare_process(place)
    device, out = device_of_place(place), Path(folder) / "model"
    if not (out / "training.json").exists():
        free(device)
        try:
            train(
                settings_of(training), _samples(images, kept), out, device=device, progress=_Progress(folder), should_stop=flag.is_set, save_every_s=SAVE_S,
            )  # fmt: skip
        except TrainingStopped:
            from audit.engine import Stopped

            raise Stopped from None
        (Path(folder) / "surrogate.png").unlink(missing_ok=True)
    if not (Path(folder) / "surrogate.png").exists():
        drawn = sample(out, OWN_SAMPLES, seed=training["seed"], batch_size=OWN_SAMPLES, steps=min(OWN_STEPS, training["scheduler_config"]["num_train_timesteps"]), device=device)
        tmp = Path(folder) / "drawn.png"
        sheet = contact_sheet(drawn, columns=8, scale=max(1, SHEET_SIDE // 8 // drawn.shape[1]))
        sheet.thumbnail((SHEET_SIDE, SHEET_SIDE))
        sheet.save(tmp)
        os.replace(tmp, Path(folder) / "surrogate.png")
    made = json.loads((out / "training.json").read_text(encoding="utf-8"))
    held_out = made.get("held_out") or {}
    return {
        "steps_done": made["steps_done"], "kept_step": held_out.get("kept_step"), "held_out_loss": held_out.get("loss"), "stopped_early": held_out.get("stopped_early"),
        "training_seconds": made["seconds"],
    }  # fmt: skip


@task
def price_training(place, training):
    """Seconds of one optimiser step here. Args: training: as for `train_surrogate`. Raises: ModelError; RequestError: it does not fit."""
    from audit.errors import RequestError
    from models.train import seconds_per_step

    torch = prepare_process(place)
    try:
        return seconds_per_step(settings_of(training), device_of_place(place))
    except torch.OutOfMemoryError:
        raise RequestError("A training step of the surrogate does not fit into this device's memory. Expected a smaller network: less width, fewer samples a step.") from None


def settings_of(training):
    """models.train.TrainSettings of what audit.surrogates makes, lists as tuples."""
    from models.train import TrainSettings

    return TrainSettings(**training | {name: tuple(value) for name, value in training.items() if isinstance(value, list)})


def _samples(images, kept):
    """uint8 (N,H,W,C): the samples that may be used, on the disk where those are all."""
    found = np.load(images, mmap_mode="r", allow_pickle=False)
    return found if len(kept) == len(found) else found[kept]


class _Progress:
    """Writes where a training is for the driver to read."""

    def __init__(self, folder):
        self.path, self.told = Path(folder) / PROGRESS, 0.0

    def __call__(self, step, steps, loss):
        if time.monotonic() - self.told > PROGRESS_S:
            self.told, tmp = time.monotonic(), self.path.with_suffix(".tmp")
            tmp.write_text(json.dumps({"step": step, "steps": steps}), encoding="utf-8")
            os.replace(tmp, self.path)


@task
def open_surrogate(place, images, count, wish):
    """See whether a surrogate denoises the samples that it was trained on, and what is measured on it.

    Args: images, count: the pool's .npy; wish: as `facts_of` takes it, its attacks those that the surrogate is asked.
    Returns: (CheckpointInfo as JSON, Facts whose tables have no prefix).  Raises: SelfTestFailed.
    """
    from models.errors import SelfTestFailed

    surrogate = networks(place)[0][SURROGATE]
    tested = run_self_test(surrogate, images, count)
    if not tested.passed:
        found = f"noise error {tested.error:.2f}, {tested.baseline:.2f} by scaling the noisy image alone"
        raise SelfTestFailed(f"The surrogate does not denoise the samples that it was trained on: {found}. Give it more steps (settings of surrogate in --config).")
    return surrogate.info.to_json(), facts_of({TARGET: surrogate}, wish)

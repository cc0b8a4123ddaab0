"""A surrogate of exact toys: trained on the samples of a memoriser it gives the members away, trained on those of a Gaussian it does not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audit.attacks import ATTACKS
from audit.engine import MeasurePlan, measure_block, own_grids, specs
from audit.jobs import tasks, tasks_surrogate
from audit.jobs.flags import FileFlag
from audit.presets import grid
from audit.sources import SURROGATE
from audit.stats import evaluate
from audit.surrogates import surrogate_settings
from audit.tables import Tables, write_tables
from models import open_checkpoint
from models.toy import Gaussian, Memoriser, small_schedule
from tests.attacks.toys import SHAPE, pictures, samples_of

N, POOL, STEPS = 60, 300, 20  # members and as many others; samples; steps of the toys' schedule
SURROGATE_OF_TOYS = {"steps": 500, "width": 16, "batch_size": 32, "lr": 4e-3, "train_timesteps": 50, "ema_decay": 0.98, "held_out": 0.1, "validate_every": 100}
pytestmark = pytest.mark.slow


def interval(toy, x0, folder, seed=0):
    """The AUC interval of surrogate_loss_eps: settings chosen on every other image, judged on the rest."""
    np.save(folder / "pool.npy", samples_of(toy, POOL))
    training = surrogate_settings(SURROGATE_OF_TOYS | {"seed": seed}).training(SHAPE)
    place = tasks.Place("", "", "cpu", 1)
    outcome = tasks_surrogate.train_surrogate(place, str(folder / "pool.npy"), np.arange(POOL), training, str(folder), FileFlag(folder / "stop"))
    assert outcome.kind == "", outcome.trace
    assert (folder / "surrogate.png").exists() and outcome.value["training_seconds"] > 0 and outcome.value["kept_step"] % 100 == 0
    model = open_checkpoint(Path(folder) / "model")
    plan = MeasurePlan(grid(10, len(model.schedule)), 2, probes=("noised",), own=own_grids(("noised",), model.schedule, 2))
    measured = {SURROGATE + name: values for name, values in measure_block(model, x0, plan).items()}
    write_tables(folder / "tables", len(x0), {SURROGATE + name: spec for name, spec in specs(plan, model.schedule).items()}, [(0, measured)])
    tables, attack, is_member = Tables.load(folder / "tables"), ATTACKS["surrogate_loss_eps"], np.arange(2 * N) < N
    first = np.arange(2 * N) % 2 == 0
    best = max(attack.candidates(tables, {}), key=lambda c: evaluate(attack.score(tables, c, first), is_member[first]).auc.value)
    return evaluate(attack.score(tables, best, ~first), is_member[~first]).auc


def test_samples_of_a_memoriser_give_its_members_away(tmp_path):
    x0 = pictures(2 * N)
    found = interval(Memoriser(x0[:N].double(), small_schedule(STEPS)), x0, tmp_path)
    assert found.low > 0.5, found


def test_samples_of_a_gaussian_give_nobody_away(tmp_path):
    x0 = (torch.randn((2 * N, *SHAPE), generator=torch.Generator().manual_seed(7)) / 2).clamp(-1, 1)
    found = interval(Gaussian(0.25, small_schedule(STEPS), SHAPE), x0, tmp_path)
    assert found.low < 0.5 < found.high, found

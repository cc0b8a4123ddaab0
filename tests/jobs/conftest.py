"""One trained tiny checkpoint with its two sets, shared by the tests of jobs."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from audit.config import load
from audit.request import Request


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """{"checkpoint", "members", "nonmembers"}: paths."""
    from tests.jobs.pair import make_pair

    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def base(pair, tmp_path_factory):
    """Another network that denoises too: the checkpoint with every weight moved a little."""
    from safetensors.numpy import load_file, save_file

    place, random = Path(shutil.copytree(pair["checkpoint"], tmp_path_factory.mktemp("base") / "base-ddpm")), np.random.default_rng(0)
    (weights,) = place.rglob("*.safetensors")
    save_file({name: (w * (1 + 0.03 * random.standard_normal(w.shape))).astype(w.dtype) for name, w in load_file(weights).items()}, weights, metadata={"format": "pt"})
    return str(place)


@pytest.fixture
def request_for(pair):
    """Makes a Request on the pair; keywords change it."""

    def make(**changes):
        return Request(**{**pair, "name": "tiny", "preset": "quick", "timesteps": 5, "draws": 1, "device": "cpu", "batch_size": 16, **changes})

    return make


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Config of a fresh home, set in the environment for workers too: 4 images a shard."""
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AUDIT_SHARD_IMAGES", "4")
    monkeypatch.setenv("AUDIT_IDLE_EXIT", "60")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a network this small gains nothing from a second thread, and equal bits need equal threads
    return load().prepare_home()


def count_calls(monkeypatch, module, task):
    """A list that grows by the batch of every call of a network that one task of this process makes, and of no other. Args: module, task: where, and its name."""
    from models.base import Denoiser

    made, real, predict = [], getattr(module, task), Denoiser.predict

    def counted(*args):
        with monkeypatch.context() as patch:
            patch.setattr(Denoiser, "predict", lambda self, xt, t, cond=None: made.append(len(xt)) or predict(self, xt, t, cond))
            return real(*args)

    monkeypatch.setattr(module, task, counted)
    return made


@pytest.fixture
def calls_made(monkeypatch):
    """The calls of the measuring tasks (count_calls)."""
    from audit.jobs import tasks

    return count_calls(monkeypatch, tasks, "measure")

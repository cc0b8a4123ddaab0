"""One trained tiny checkpoint with its two sets, shared by the tests of jobs."""

import pytest

from audit.config import load
from audit.request import Request


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """{"checkpoint", "members", "nonmembers"}: paths."""
    from tests.jobs.pair import make_pair

    return make_pair(tmp_path_factory.mktemp("pair"))


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


@pytest.fixture
def calls_made(monkeypatch):
    """Grows by the batch of every call of a network that a measuring task of this process makes, and of no other task."""
    from audit.jobs import tasks
    from models.base import Denoiser

    made, measure, predict = [], tasks.measure, Denoiser.predict

    def counted(*args):
        with monkeypatch.context() as patch:
            patch.setattr(Denoiser, "predict", lambda self, xt, t, cond=None: made.append(len(xt)) or predict(self, xt, t, cond))
            return measure(*args)

    monkeypatch.setattr(tasks, "measure", counted)
    return made

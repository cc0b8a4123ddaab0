import numpy as np
import torch

from audit.api import Api
from audit.jobs.facts import facts_of
from audit.probes import measure
from audit.probes.api_view import ApiView
from audit.probes.untrained import untrained
from audit.sources import REFERENCE, TARGET
from models import open_checkpoint
from tests.engine.common import denoiser
from tests.models import tiny


def opened(folder, seed=0):
    torch.manual_seed(seed)
    tiny.save(folder, scheduler_config={"num_train_timesteps": 50})
    return open_checkpoint(folder)


def test_the_copy_knows_nothing_of_the_weights_and_the_original_stays(tmp_path):
    model = opened(tmp_path)
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    x0 = np.random.default_rng(0).uniform(-1, 1, (3, 1, 8, 8))
    first = measure(model, x0, (5, 20), probe="untrained")["untrained/eps_mse"]
    assert all(torch.equal(before[k], v) for k, v in model.network.state_dict().items())
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(1.0)
    other = opened(tmp_path / "again", seed=9)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(3.0)
    assert np.array_equal(measure(other, x0, (5, 20), probe="untrained")["untrained/eps_mse"], first)
    trained = measure(other, x0, (5, 20))["eps_mse"]
    assert not np.allclose(trained, first, rtol=1e-3)


def test_every_parameter_is_drawn_anew(tmp_path):
    model = opened(tmp_path)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.fill_(7.0)
    fresh = untrained(model)
    assert all((p != 7.0).all() for p in fresh.network.parameters())
    state = torch.random.get_rng_state()
    untrained(model)
    assert torch.equal(state, torch.random.get_rng_state()), "the process's own generator is left alone"


def test_through_an_api_the_untrained_copy_answers_and_not_the_network_behind(tmp_path):
    model, x0 = opened(tmp_path), np.random.default_rng(0).uniform(-1, 1, (3, 1, 8, 8))
    view = ApiView(model, Api(steps=20, bits=6))
    first, trained = measure(view, x0, (3, 9), probe="untrained")["untrained/eps_mse"], measure(view, x0, (3, 9))["eps_mse"]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(3.0)
    again = ApiView(model, Api(steps=20, bits=6))
    assert np.array_equal(measure(again, x0, (3, 9), probe="untrained")["untrained/eps_mse"], first)
    assert not np.allclose(measure(again, x0, (3, 9))["eps_mse"], trained) and view.behind is model


def test_a_reference_is_not_asked_for_what_is_no_score():
    wish = {"grid_size": 5, "draws": 2, "seed": 0, "batch_size": 4, "precision": "fp32", "attacks": ("naive_loss",), "budget": None, "settings": {}, "api": None}
    both = {TARGET: denoiser(), REFERENCE: denoiser(seed=1)}
    bare, asked = (facts_of(both, wish | {"also": also}) for also in ((), ("untrained",)))
    assert asked.calls_per_image - bare.calls_per_image == 8 and bare.calls_per_image == 2 * 5 * 2
    assert set(asked.specs) - set(bare.specs) == {"untrained/eps_mse"} and asked.values_per_image - bare.values_per_image == 8

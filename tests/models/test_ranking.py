"""The self-test's ranking names the right reading of a checkpoint, or says that it cannot tell; never a wrong one."""

import itertools

import numpy as np
import pytest
import torch

from models import open_checkpoint
from models.base import CheckpointInfo, Denoiser
from models.checkpoint import rank_missing
from models.errors import CheckpointError
from models.formats.openai import OpenAI, OpenAIDenoiser
from models.nets.openai_unet import Heads, OpenAIUNet
from models.schedule import from_betas, openai_betas, per_image, q_sample, training_target
from models.selftest import rank
from models.toy import Gaussian, Memoriser, Oracle, small_schedule
from tests.models.test_openai import FULL, layout, save

STEPS, SIDE = 200, 8
READINGS = list(itertools.product(("epsilon", "sample", "v_prediction"), ("linear", "cosine"), (True, False)))


def pictures(count, seed):
    """(count,3,8,8): a soft blob on a ramp, each of its own place, size and colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    cx, cy, size, tilt = (rng.random((count, 1, 1, 1)) for _ in range(4))
    colour, ground = rng.uniform(-1, 1, (2, count, 3, 1, 1))
    blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.05 + 0.1 * size))
    return torch.tensor(np.clip(ground + (colour - ground) * blob + 0.5 * (tilt - 0.5) * x, -1, 1), dtype=torch.float32)


def denoiser(network, reading):
    kind, schedule, rescale = reading
    info = CheckpointInfo("", "toy", "", 0, "only", kind, STEPS, (3, SIDE, SIDE), ())
    return OpenAIDenoiser(network, from_betas(openai_betas(schedule, STEPS)), info, "fixed_large", 1000 / STEPS if rescale else None, None)


def trained(made, heads, reading, steps=150, seed=0):
    torch.manual_seed(seed)
    network = OpenAIUNet(made, heads)
    model = denoiser(network, reading)
    data, optimizer, rng = pictures(256, 4 * seed + 1), torch.optim.Adam(network.parameters(), 2e-3), torch.Generator().manual_seed(4 * seed + 2)
    for _ in range(steps):
        x0 = data[torch.randint(0, len(data), (16,), generator=rng)]
        t, eps = torch.randint(0, STEPS, (16,), generator=rng), torch.randn(x0.shape, generator=rng)
        output = model.run_network(q_sample(model.schedule, x0, t, eps), t, None)
        weight = per_image(np.minimum(model.schedule.snr, 5) / 5, t, x0) if reading[0] == "sample" else 1
        loss = (weight * (output - training_target(model.schedule, x0, eps, t, reading[0])).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False).eval()


def with_heads(network, reading):
    """{(heads, order): Denoiser} of the usual counts and both orders on one network's weights; with one head the orders are the same."""
    made = {}
    for count, order in ((1, "legacy"), *itertools.product((2, 4, 8), ("legacy", "new"))):
        other = OpenAIUNet(network.layout, Heads(count, count, order=order)).requires_grad_(False).eval()
        other.load_state_dict(network.state_dict())
        made[count, order] = denoiser(other, reading)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("truth", READINGS, ids=str)
def test_prediction_type_schedule_and_rescaling_are_found_or_left_open(truth):
    network = trained(layout(widths=(32,), attention=(), learned=False), Heads(), truth)
    ranking = rank({reading: denoiser(network, reading) for reading in READINGS}, pictures(64, 3))
    assert ranking.best in (truth, None), ranking
    # most of these small networks are told from all the eleven other readings; which ones is printed when the test fails
    assert ranking.best == truth or "cannot tell" in ranking.words


@pytest.mark.slow
def test_the_head_count_is_found_where_the_error_shows_it():
    reading, made = ("epsilon", "cosine", True), layout(widths=(32,), attention=(0,), learned=False)
    network = trained(made, Heads(4, 4), reading, steps=250)
    found = rank(with_heads(network, reading), pictures(64, 3))
    assert found.best in ((4, "legacy"), None), found


class Read(Denoiser):
    """A toy whose exact answer is spoilt by a fraction of noise."""

    def __init__(self, toy, spoil, seed):
        super().__init__(torch.nn.Identity(), toy.schedule, toy.image_shape, "epsilon", "fixed_small", toy.info)
        self.toy, self.spoil, self.seed = toy, spoil, seed

    def predict(self, xt, t, cond=None):
        got = self.toy.predict(xt, t, cond)
        return type(got)(got.eps_hat + self.spoil * torch.randn(xt.shape, generator=torch.Generator().manual_seed(self.seed)), got.x0_hat, None)


@pytest.fixture(scope="module")
def black_and_white():
    return torch.where(torch.rand(32, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)


def test_a_clearly_better_candidate_is_named(black_and_white):
    toy = Memoriser(black_and_white, small_schedule(60))
    found = rank({"bad": Read(toy, 0.6, 1), "good": Read(toy, 0.2, 2), "worse": Read(toy, 0.9, 3)}, black_and_white)
    assert found.best == "good" and [name for name, _ in found.ratios] == ["good", "bad", "worse"] and "good denoises best" in found.words


@pytest.mark.parametrize("case", ["the same twice", "alike", "none denoises", "one alone", "few images"])
def test_it_says_when_it_cannot_tell(black_and_white, case):
    toy, images = Memoriser(black_and_white, small_schedule(60)), black_and_white
    candidates = {
        "the same twice": {"a": Read(toy, 0.2, 1), "b": Read(toy, 0.2, 1)},
        "alike": {"a": Read(toy, 0.2, 1), "b": Read(toy, 0.201, 2)},
        "none denoises": {"a": Read(toy, 3, 1), "b": Read(toy, 9, 2)},
        "one alone": {"a": Read(toy, 0.2, 1)},
        "few images": {"a": Read(toy, 0.2, 1), "b": Read(toy, 0.9, 2)},
    }[case]
    found = rank(candidates, images[:4] if case == "few images" else images)
    assert found.best is None and "cannot tell" in found.words


def test_outputs_that_are_not_finite_come_last(black_and_white):
    toy = Oracle(black_and_white, small_schedule(60))
    found = rank({"nan": Read(toy, float("nan"), 1), "good": Read(toy, 0.2, 2)}, black_and_white)
    assert found.best == "good" and np.isfinite([ratio for _, ratio in found.ratios]).all()


def test_images_of_another_shape_are_refused():
    with pytest.raises(CheckpointError, match="The model takes 1 x 4 x 4"):
        rank({"a": Gaussian(0.5, small_schedule(), (1, 4, 4))}, torch.zeros(9, 1, 5, 5))


def test_with_one_head_the_two_orders_are_one_candidate(tmp_path):
    """Two names for the same numbers would denoise alike, and one head could never be found."""
    save(tmp_path / "model.pt")
    names = list(OpenAI().candidates(tmp_path / "model.pt", **{k: v for k, v in FULL.items() if k not in ("num_heads", "attention_order")}))
    assert [name for name in names if name.startswith("num_heads 1,")] == ["num_heads 1, attention_order legacy"]
    upsampling = {"num_heads_upsample": 4} | {k: v for k, v in FULL.items() if k not in ("num_heads", "attention_order")}
    assert sum(name.startswith("num_heads 1,") for name in OpenAI().candidates(tmp_path / "model.pt", **upsampling)) == 2  # four heads on the way up tell them apart


def test_missing_settings_are_ranked_as_a_hint_and_stay_required(tmp_path):
    made = layout(classes=3)
    save(tmp_path / "model.pt", made)
    images, labels = torch.rand(9, 3, 8, 8) * 2 - 1, torch.arange(9) % 3
    given = FULL | {"beta_schedule": None, "num_heads": None, "attention_order": None}
    candidates = OpenAI().candidates(tmp_path / "model.pt", **{k: v for k, v in given.items() if v is not None})
    assert len(candidates) == 2 * (1 + 3 * 2) and "beta_schedule cosine, num_heads 4, attention_order new" in candidates
    weights = {p.data_ptr() for d in candidates.values() for p in d.network.parameters()}
    assert len(weights) == len(list(OpenAIUNet(made, Heads()).parameters()))  # one set of weights for all
    found = rank_missing(tmp_path / "model.pt", images, labels, **given)
    assert found.best is None and "none of the candidates denoises" in found.words and len(found.ratios) == 14
    with pytest.raises(CheckpointError, match="do not show beta_schedule"):
        open_checkpoint(tmp_path / "model.pt", **given)
    assert rank_missing(tmp_path / "model.pt", images, labels, **FULL) is None
    with pytest.raises(CheckpointError, match="Expected image_size"):
        rank_missing(tmp_path / "model.pt", images, labels)

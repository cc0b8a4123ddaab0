"""Scores calibrated by a reference, and what a reference must share with the checkpoint."""

import dataclasses

import numpy as np
import pytest
import torch

from audit.attacks import ATTACKS, as_run
from audit.errors import AttackError, RequestError
from audit.sources import REFERENCE, align, noise_warning, require_comparable, view
from audit.stats.auc import auc
from models.schedule import betas_for
from models.toy import Memoriser, small_schedule
from tests.attacks.toys import DRAWS, STEPS, memoriser, pictures, tables_of
from tests.engine.common import denoiser

N = 40
IS_MEMBER = np.arange(N) < N // 2


def beside(target, reference):
    """Tables of both sources, as a run folder holds them."""
    return {**target, **{REFERENCE + name: table for name, table in reference.items()}}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(target alone, another model alone) on the same pictures; members and non-members are of unequal difficulty."""
    x0 = pictures(N)
    models = memoriser(x0[IS_MEMBER]), memoriser(pictures(30, seed=9))
    return tuple(tables_of(tmp_path_factory.mktemp("source"), model, x0) for model in models)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_score_is_the_targets_minus_the_references_at_the_same_settings(name, measured):
    target, other = measured
    attack, relative, both = ATTACKS[name], as_run(name, True), beside(*measured)
    assert as_run(name) is attack and relative.card is attack.card
    candidates = relative.candidates(both, {})
    assert candidates == attack.candidates(target, {})
    for choice in candidates[:: max(1, len(candidates) // 5)]:
        expected = attack.score(target, choice) - attack.score(other, choice)
        assert np.array_equal(relative.score(both, choice), expected) and np.array_equal(relative.score(both, choice, [5, 1]), expected[[5, 1]])
        assert np.array_equal(relative.alone(both, choice), attack.score(other, choice))
        for draw in range(DRAWS):
            assert np.array_equal(relative.score_draw(both, choice, draw), attack.score_draw(target, choice, draw) - attack.score_draw(other, choice, draw))
        assert relative.calls_at_setting(both, choice) == 2 * attack.calls_at_setting(target, choice)
    assert relative.calls_per_image(both) == 2 * attack.calls_per_image(target)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_target_as_its_own_reference_leaves_nothing(name, measured):
    relative, both = as_run(name, True), beside(measured[0], measured[0])
    assert not relative.score(both, relative.candidates(both, {})[-1]).any()


def test_a_reference_removes_the_difficulty_of_the_images(tmp_path):
    """Every picture lies u from one that both models know, and the target also knows one 0.7 u from each member: u hides the leak, and cancels."""
    is_member, draw, crowd = np.arange(2 * N) < N, torch.Generator().manual_seed(2), pictures(2 * N, seed=5)
    u = torch.linspace(0.02, 0.6, 2 * N)[torch.randperm(2 * N, generator=draw)].view(-1, 1, 1, 1)
    x0 = crowd + u * torch.randn(crowd.shape, generator=draw)
    near = (x0 + 0.7 * u * torch.randn(crowd.shape, generator=draw))[is_member]
    target, other = Memoriser(torch.cat([near, crowd]), small_schedule(STEPS)), memoriser(crowd)
    both = beside(*(tables_of(tmp_path / str(k), model, x0, names=("naive_loss",)) for k, model in enumerate((target, other))))
    alone, relative = ATTACKS["naive_loss"], as_run("naive_loss", True)
    choice = alone.candidates(both, {"t": 22})[0]
    plain, calibrated, reference = (auc(s, is_member) for s in (alone.score(both, choice), relative.score(both, choice), relative.alone(both, choice)))
    assert abs(reference - 0.5) < 0.15 and calibrated > plain + 0.1 and calibrated > 0.8, (plain, calibrated, reference)


def test_a_table_missing_on_the_reference_is_said(measured):
    with pytest.raises(AttackError, match="on the reference: needs the table secmi_l2"):
        as_run("secmi", True).candidates(measured[0], {})
    assert set(view(beside(*measured), REFERENCE)) == set(measured[1])


def sha(model, digest):
    model.info = dataclasses.replace(model.info, sha256=digest * 64)
    return model


def test_a_reference_that_cannot_stand_beside_the_target_is_refused():
    target = denoiser()
    with pytest.raises(RequestError, match="the audited checkpoint itself"):
        require_comparable(target, denoiser(seed=1))  # by its hash, whatever the path
    for other, what in ((denoiser(shape=(1, 6, 5)), r"pictures of \(C,H,W\) = \(1, 6, 5\)"), (denoiser(pixel_space=False), "a model of latents"), (denoiser(steps=30), "30")):
        with pytest.raises(RequestError, match=rf"--reference has .*{what}.*Expected the same"):
            require_comparable(target, sha(other, "1"))
    require_comparable(target, sha(denoiser(seed=1), "1"))


def test_both_are_measured_where_both_can_be_and_another_noise_is_said():
    zero = betas_for({"num_train_timesteps": 20, "beta_start": 1e-3, "beta_end": 0.3, "rescale_betas_zero_snr": True})
    target, other = denoiser("v_prediction", betas=zero), denoiser(betas=zero)
    assert target.measurable[-1] and not other.measurable[-1]
    align(target, other)
    assert not target.measurable[-1] and np.array_equal(target.measurable, other.measurable) and target.measurable[:-1].all()
    assert noise_warning(target, other) is None and "other noise" in noise_warning(denoiser(), other)

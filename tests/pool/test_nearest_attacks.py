"""Both black-box attacks on samples of models whose leak is known, and what each setting does."""

import numpy as np
import pytest
import torch

from audit.attacks import ATTACKS, check_settings
from audit.errors import AttackError, RequestError
from audit.stats.auc import auc
from audit.tables import Tables, write_tables
from tests.attacks.toys import SHAPE, gaussian, memoriser, pictures, pool_tables, samples_of, tables_of

N = 60
IS_MEMBER = np.arange(N) < N // 2
BOTH = ("nearest", "nearest_calibrated")


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    x0 = pictures(N, seed=3)
    return tables_of(tmp_path_factory.mktemp("leaky"), memoriser(x0[IS_MEMBER]), x0, names=BOTH)


@pytest.mark.parametrize("fixed", [{}, {"relative_to": "queries"}])
def test_a_memoriser_is_found_at_every_setting_that_does_not_ask_its_own_copies(leaky, fixed):
    attack = ATTACKS["nearest_calibrated" if fixed else "nearest"]
    for choice in attack.candidates(leaky, fixed):
        assert auc(attack.score(leaky, choice), IS_MEMBER) > 0.9, choice
        assert auc(attack.score_draw(leaky, choice, 1), IS_MEMBER) > 0.9 and attack.calls_at_setting(leaky, choice) == 0


def test_a_model_that_memorised_nothing_gives_chance_at_every_setting(tmp_path):
    x0 = torch.randn((300, *SHAPE), generator=torch.Generator().manual_seed(1)) / 2
    tables, half = tables_of(tmp_path, gaussian(), x0, names=BOTH), np.arange(300) < 150
    for name in BOTH:
        for choice in ATTACKS[name].candidates(tables, {}):
            assert abs(auc(ATTACKS[name].score(tables, choice), half) - 0.5) < 3 * np.sqrt(301 / (12 * 150 * 150)), choice


@pytest.mark.parametrize("name", BOTH)
def test_scores_are_the_formula_on_the_cards(name, leaky):
    attack = ATTACKS[name]
    for choice in attack.candidates(leaky, {}):
        said = choice.settings()
        space = {"pixels": "pixels", "low-pass": "lowpass"}[said["space"]]
        near = leaky[f"nearest_{space}{'_mirrored' if said['mirrored'] == 'yes' else ''}"].values.astype(np.float64)
        expected = -near[0]
        if name == "nearest_calibrated":
            around = leaky[f"neighbours_{space}"].values[: said["k"]] if said["relative_to"] == "queries" else near[1 : said["k"] + 1]
            expected = np.where(near[0] > 0, -near[0] / np.maximum(around.astype(np.float64).mean(axis=0), 1e-300), 0)
        np.testing.assert_allclose(attack.score(leaky, choice), expected, rtol=1e-6)
        assert np.array_equal(attack.score(leaky, choice, [4, 2]), attack.score(leaky, choice)[[4, 2]])


@pytest.mark.parametrize("name", BOTH)
def test_every_setting_of_the_card_changes_the_score(name, tmp_path):
    attack, values = ATTACKS[name], {"space": ("pixels", "low-pass"), "mirrored": ("no", "yes"), "relative_to": ("queries", "pool"), "k": (1, 7)}
    shape = (1, 14, 14)  # beyond the square that the low-pass filter keeps
    x0, samples = (torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (40, *shape)).astype(np.float32)) for seed in (1, 2))
    levels = ((samples + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    arrays = pool_tables(tmp_path / "pool", x0, levels)
    write_tables(tmp_path / "tables", 40, dict.fromkeys(arrays, ("feature", None)), [(0, arrays)])
    tables = Tables.load(tmp_path / "tables")
    chosen = [s for s in attack.card.settings if not s.text]  # those that are text say what is measured: tests/pool/test_features.py
    assert {s.name for s in chosen} == set(attack.candidates(tables, {})[0].settings()) <= set(values)
    for setting in chosen:
        scores = []
        for value in values[setting.name]:
            check_settings({name: {setting.name: value}})
            choice = attack.candidates(tables, {setting.name: value})[0]
            assert choice.settings()[setting.name] == value
            scores.append(attack.score(tables, choice))
        assert not np.allclose(*scores, rtol=1e-3), setting.name
    with pytest.raises(RequestError, match="space is 'fourier'"):
        check_settings({name: {"space": "fourier"}})


def test_a_copy_scores_highest_and_without_a_pool_nothing_does(leaky, tmp_path):
    x0 = pictures(30, seed=8)
    samples = samples_of(gaussian(), 40)
    samples[7] = ((x0[4].double() + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    arrays = pool_tables(tmp_path / "pool", x0, samples)
    write_tables(tmp_path / "tables", 30, dict.fromkeys(arrays, ("feature", None)), [(0, arrays)])
    tables = Tables.load(tmp_path / "tables")
    for name in BOTH:
        for choice in ATTACKS[name].candidates(tables, {}):
            scores = ATTACKS[name].score(tables, choice)
            assert scores[4] == 0 and scores.argmax() == 4 and (np.delete(scores, 4) < 0).all()
        with pytest.raises(AttackError, match="needs a sample pool"):
            ATTACKS[name].candidates({}, {})

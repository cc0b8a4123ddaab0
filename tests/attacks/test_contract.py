"""Every registered attack's card, and the attacks on one loss table: direction, no signal, order, window. A new attack is tested the day it is registered."""

import numpy as np
import pytest

from audit.attacks import ATTACKS, check_settings, choose, within_budget
from audit.attacks.base import THREAT_MODELS
from audit.attacks.windowed import WindowedAttack
from audit.errors import RequestError
from audit.presets import grid
from audit.stats.auc import auc
from audit.sweep import Jury, sweep
from audit.tables import Tables, write_tables
from tests.synthetic import loss_tables

N, T = 160, grid(20, 1000)
IS_MEMBER = np.arange(N) < N // 2
EVERYONE = np.ones(N, bool)
WINDOWED = [name for name in ATTACKS if isinstance(ATTACKS[name], WindowedAttack)]  # on synthetic losses; the others on toy models: test_query.py


def stored(folder, arrays):
    write_tables(folder, N, {name: ("timestep", T) for name in arrays}, [(0, arrays)])
    return Tables.load(folder)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("leaky"), loss_tables(IS_MEMBER, T, 2, 3.0, 0))


@pytest.mark.parametrize("name", ATTACKS)
def test_card_is_complete(name):
    card = ATTACKS[name].card
    assert card.name == name and card.threat_model in THREAT_MODELS and 0 < len(card.short) <= 12
    assert card.equation and card.source and card.weaknesses and card.probes and card.tables
    assert all(s.choices or s.text or (s.low is not None and s.high is not None) for s in card.settings)


@pytest.mark.parametrize("name", WINDOWED)
def test_members_with_lower_loss_score_higher(name, leaky):
    attack = ATTACKS[name]
    trial = sweep(attack, leaky, [Jury(EVERYONE, IS_MEMBER)])
    chosen = trial.candidates[trial.best(0)]
    scores = attack.score(leaky, chosen)
    assert scores.shape == (N,) and scores.dtype == np.float64 and np.isfinite(scores).all()
    assert auc(scores, IS_MEMBER) > 0.8
    assert auc(scores, ~IS_MEMBER) == pytest.approx(1 - auc(scores, IS_MEMBER), abs=1e-12)


@pytest.mark.parametrize("name", WINDOWED)
def test_no_signal_gives_chance(name, tmp_path):
    attack, aucs = ATTACKS[name], []
    for seed in range(20):
        tables = stored(tmp_path / str(seed), loss_tables(IS_MEMBER, T, 1, 0.0, seed))
        window = attack.candidates(tables, {})[0]
        aucs.append(auc(attack.score(tables, window), IS_MEMBER))
    standard_error = np.sqrt((N + 1) / (12 * (N / 2) ** 2)) / np.sqrt(20)
    assert abs(np.mean(aucs) - 0.5) < 3 * standard_error


@pytest.mark.parametrize("name", WINDOWED)
def test_order_of_images_does_not_matter(name, leaky, tmp_path):
    attack, order = ATTACKS[name], np.random.default_rng(1).permutation(N)
    arrays = {k: v[:, order] for k, v in loss_tables(IS_MEMBER, T, 2, 3.0, 0).items()}
    window = attack.candidates(leaky, {})[3]
    np.testing.assert_allclose(attack.score(stored(tmp_path, arrays), window), attack.score(leaky, window)[order], rtol=1e-5)


@pytest.mark.parametrize("name", WINDOWED)
def test_values_outside_the_window_do_not_matter(name, leaky, tmp_path):
    attack = ATTACKS[name]
    window = next(c for c in attack.candidates(leaky, {"statistic": "median"}) if c.truncate_by == "time" and c.keep_until < 500)
    arrays = loss_tables(IS_MEMBER, T, 2, 3.0, 0)
    outside = (window.keep_from > T) | (window.keep_until < T)
    for values in arrays.values():
        values[:, :, outside] *= 7
    np.testing.assert_allclose(attack.score(stored(tmp_path, arrays), window), attack.score(leaky, window), rtol=1e-6)


@pytest.mark.parametrize("name", WINDOWED)
def test_every_setting_changes_the_score(name, leaky):
    attack = ATTACKS[name]
    wide = {"keep_from": int(T[1]), "keep_until": int(T[-1])}
    base = attack.score(leaky, attack.candidates(leaky, {"statistic": "mean", **wide})[0])
    for changed in (
        {"statistic": "median", **wide},
        {"statistic": "mean", **wide, "keep_until": int(T[8])},
        {"statistic": "mean", **wide, "keep_from": int(T[5])},
        {"statistic": "mean", "keep_share": 0.4},
    ):
        other = attack.score(leaky, attack.candidates(leaky, changed)[0])
        assert not np.allclose(base, other)
    by_value = [attack.score(leaky, attack.candidates(leaky, {"statistic": "mean", "truncate_by": "value", "keep_share": s})[0]) for s in (0.3, 0.8)]
    assert not np.allclose(*by_value)


@pytest.mark.parametrize("name", WINDOWED)
def test_one_draw_is_what_was_measured_in_that_draw(name, leaky):
    attack = ATTACKS[name]
    window = attack.candidates(leaky, {"statistic": "mean", "truncate_by": "time"})[0]
    mean = np.mean([attack.score_draw(leaky, window, d) for d in range(2)], axis=0)
    np.testing.assert_allclose(mean, attack.score(leaky, window), rtol=1e-5)


@pytest.mark.parametrize("name", WINDOWED)
def test_calls_follow_the_window(name, leaky):
    attack = ATTACKS[name]
    one = attack.candidates(leaky, {"keep_from": int(T[3]), "keep_until": int(T[3])})[0]
    assert attack.calls_at_setting(leaky, one) == 2
    assert attack.calls_per_image(leaky) == 2 * len(T)


def test_unknown_names_and_values_are_refused():
    with pytest.raises(RequestError, match="no attack 'magic'"):
        choose(("magic",))
    with pytest.raises(RequestError, match="no setting"):
        check_settings({"loss_eps": {"tau": 3}})
    with pytest.raises(RequestError, match="keep_share is 2"):
        check_settings({"loss_eps": {"keep_share": 2}})
    assert choose(("all",)) == tuple(ATTACKS) == choose(())


def test_the_cheapest_attacks_fit_the_budget_and_a_shared_probe_is_paid_once():
    names, calls = ("loss_eps", "naive_loss", "dime_m", "pia", "secmi", "dime", "pfami"), {"noised": 0, "pia": 5, "secmi": 12, "dime": 44, "pfami": 40}
    assert within_budget(names, calls, 40, None) == (names, {})
    chosen, skipped = within_budget(names, calls, 40, 1)
    assert chosen == ("loss_eps", "naive_loss", "pia", "secmi") and set(skipped) == {"dime", "dime_m", "pfami"}
    assert within_budget(names, calls, 40, 2)[1] == dict.fromkeys(("dime_m", "dime"), skipped["dime"])
    assert within_budget(names, calls, 40, 3) == (names, {})  # 101 of 120, with the probe of both DIMEs once
    assert within_budget(names, calls, 40, 0)[0] == ("loss_eps", "naive_loss")
    assert within_budget(("dime",), calls, 44, 1) == (("dime",), {})


def test_the_budget_that_a_skipped_attack_names_has_room_for_it_and_no_smaller_one_has():
    calls, grid_calls = {"noised": 0, "gray_free": 7, "pia": 5, "pian": 5, "sima": 8, "secmi": 12, "pfami": 40, "dime": 44, "rediffuse": 60}, 5
    for name, reason in within_budget(tuple(ATTACKS), calls, grid_calls, 2)[1].items():
        enough = int(reason.split("--budget ")[1].split()[0])
        assert [name in within_budget(tuple(ATTACKS), calls, grid_calls, budget)[0] for budget in (enough - 1, enough)] == [False, True], name

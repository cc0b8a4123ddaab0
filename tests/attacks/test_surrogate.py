"""Attacks on a surrogate: derived from the others, found by name, never among all, and read from the surrogate's tables alone."""

import numpy as np
import pytest

from audit.attacks import ATTACKS, as_run, asked_of, check_settings, choose
from audit.attacks.relative import Relative
from audit.errors import AttackError, RequestError
from audit.sources import SURROGATE, TARGET
from audit.stats.auc import auc
from audit.surrogates import SurrogateSettings, needs_surrogate, surrogate_key, surrogate_settings
from tests.attacks.toys import gaussian, memoriser, pictures, tables_of

N = 40
IS_MEMBER = np.arange(N) < N // 2
EVEN = np.arange(N) % 2 == 0
BASES = [name for name in ATTACKS if ATTACKS[name].card.threat_model != "black-box"]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Tables of a target that memorised nothing, and of a surrogate that knows the members."""
    x0, folder = pictures(N), tmp_path_factory.mktemp("both")
    target, knowing = tables_of(folder / "target", gaussian(), x0), tables_of(folder / "surrogate", memoriser(x0[IS_MEMBER]), x0)
    return dict(target), dict(target) | {SURROGATE + name: table for name, table in knowing.items()}


def test_every_white_and_gray_box_attack_has_one_and_no_black_box_one():
    assert ATTACKS.derived() == [f"surrogate_{name}" for name in BASES] and not set(ATTACKS.derived()) & set(ATTACKS)
    assert "surrogate_pia" in ATTACKS and "surrogate_rediffuse" not in ATTACKS and "surrogate_surrogate_pia" not in ATTACKS and 3 not in ATTACKS
    with pytest.raises(KeyError):
        ATTACKS["surrogate_magic"]
    assert ATTACKS["surrogate_pia"] is ATTACKS["surrogate_pia"]


def test_they_run_only_where_they_are_named():
    assert not needs_surrogate(choose(())) and not needs_surrogate(choose(("all",)))
    assert choose(("surrogate_pia", "loss_eps", "surrogate_loss_eps")) == ("loss_eps", "surrogate_loss_eps", "surrogate_pia")
    assert choose(("all", "surrogate_pia")) == (*ATTACKS, "surrogate_pia")
    assert asked_of(choose(("surrogate_pia", "pia")), SURROGATE) == ("surrogate_pia",) and asked_of(choose(("surrogate_pia", "pia")), TARGET) == ("pia",)
    with pytest.raises(RequestError, match=r"no attack 'surrogate_rediffuse'.*or surrogate_ and the name of a white- or gray-box one"):
        choose(("surrogate_rediffuse",))


@pytest.mark.parametrize("base", BASES)
def test_its_card_is_the_attacks_with_what_the_surrogate_changes(base):
    card, own = ATTACKS[f"surrogate_{base}"].card, ATTACKS[base].card
    assert (card.name, card.threat_model, card.on) == (f"surrogate_{base}", "black-box", SURROGATE) and own.on == TARGET and 0 < len(card.short) <= 12
    assert card.tables == tuple(SURROGATE + table for table in own.tables) and (card.settings, card.probes) == (own.settings, own.probes)
    assert set(own.weaknesses) < set(card.weaknesses) and own.equation in card.equation


@pytest.mark.parametrize("base", BASES)
def test_it_scores_as_the_attack_does_on_the_surrogate_alone(base, both):
    target, tables = both
    attack, plain = ATTACKS[f"surrogate_{base}"], ATTACKS[base]
    best = max(attack.candidates(tables, {}), key=lambda c: auc(attack.score(tables, c, EVEN), IS_MEMBER[EVEN]))
    scores = attack.score(tables, best)
    assert auc(scores[~EVEN], IS_MEMBER[~EVEN]) > 0.8
    assert not np.array_equal(scores, plain.score(target, plain.candidates(target, {})[0]))
    knowing = {name.removeprefix(SURROGATE): table for name, table in tables.items() if name.startswith(SURROGATE)}
    assert np.array_equal(scores, plain.score(knowing, best)) and np.array_equal(attack.score(tables, best, EVEN), scores[EVEN])
    assert np.array_equal(attack.score_draw(tables, best, 0), plain.score_draw(knowing, best, 0))
    assert (attack.calls_at_setting(tables, best), attack.calls_per_image(tables)) == (plain.calls_at_setting(knowing, best), plain.calls_per_image(knowing))
    with pytest.raises(AttackError, match=r"^needs a sample pool$"):
        attack.candidates(target, {})


def test_a_reference_stays_with_the_attacks_that_ask_the_target():
    assert isinstance(as_run("pia", reference=True), Relative) and as_run("surrogate_pia", reference=True) is ATTACKS["surrogate_pia"]


def test_settings_of_the_training_are_checked_with_those_of_the_attacks():
    check_settings({"surrogate": {"network": "guided", "steps": 100, "width": 64}, "surrogate_pia": {"t": 100}})
    for bad, words in (
        ({"surrogate": {"network": "dit"}}, "network is 'dit'. Expected one of unet2d, improved, guided"),
        ({"surrogate": {"steps": 0}}, "steps is 0. Expected a whole number from 1"),
        ({"surrogate": {"steps": True}}, "steps is True"),
        ({"surrogate": {"lr": 2}}, "lr is 2"),
        ({"surrogate": {"depth": 2}}, "no setting 'depth'"),
        ({"surrogate": {"network": "improved", "width": 48}}, "width is 48. Expected a multiple of 32"),
        ({"surrogate": 3}, "settings of surrogate is int"),
        ({"surrogate_pia": {"steps": 3}}, "surrogate_pia has no setting 'steps'"),
    ):
        with pytest.raises(RequestError, match=words):
            check_settings(bad)


def test_everything_that_changes_the_surrogate_changes_its_name():
    changes = {"network": "guided", "steps": 5, "batch_size": 5, "lr": 1e-3, "width": 64, "blocks": 2, "dropout": 0.1, "flip": True, "ema_decay": 0.9}
    changes |= {"train_timesteps": 500, "beta_schedule": "cosine", "held_out": 0.2, "validate_every": 7, "patience": 3, "seed": 1}
    assert set(changes) == set(vars(SurrogateSettings()))
    shape = (1, 16, 16)
    keys = {surrogate_key("a" * 64, surrogate_settings({name: value}).training(shape)) for name, value in changes.items()}
    keys |= {surrogate_key("a" * 64, SurrogateSettings().training(shape)), surrogate_key("b" * 64, SurrogateSettings().training(shape))}
    assert len(keys) == len(changes) + 2


@pytest.mark.parametrize("network", ["unet2d", "improved", "guided"])
@pytest.mark.parametrize("side", [8, 16, 28, 32, 64, 100])
def test_what_it_says_of_the_training_can_be_trained(network, side):
    from models.train import TrainSettings

    training = surrogate_settings({"network": network, "beta_schedule": "cosine", "train_timesteps": 50}).training((3, side, side))
    made = TrainSettings(**training | {name: tuple(value) for name, value in training.items() if isinstance(value, list)})
    assert made.network == network and made.attention[-1] == (side // 2 ** (len(made.attention) - 1) <= 8)


def test_its_noise_ends_alike_whatever_the_number_of_steps():
    from models.train import TrainSettings
    from models.trainable import trainable

    def last(network, steps):
        training = surrogate_settings({"network": network, "train_timesteps": steps}).training((1, 8, 8))
        return trainable(TrainSettings(**training | {name: tuple(value) for name, value in training.items() if isinstance(value, list)})).schedule.alphas_cumprod[-1]

    assert last("unet2d", 1000) == last("improved", 1000) and last("unet2d", 100) == last("guided", 100) < 1e-4


def test_pictures_that_are_not_square_are_refused():
    with pytest.raises(RequestError, match="square pictures, these have 8 x 16"):
        SurrogateSettings().training((1, 8, 16))

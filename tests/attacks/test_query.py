"""Every registered attack on exact toy models: a memoriser is found, a Gaussian is not, and nothing but the image and the settings matters."""

import numpy as np
import pytest
import torch

from audit.attacks import ATTACKS, check_settings
from audit.attacks.base import Attack
from audit.attacks.stepped import SteppedAttack
from audit.engine import calls_of, shared_calls
from audit.errors import AttackError
from audit.stats.auc import auc
from tests.attacks.toys import DRAWS, SHAPE, gaussian, memoriser, pictures, plan_of, tables_of
from tests.engine.common import denoiser, images

N = 40
IS_MEMBER = np.arange(N) < N // 2
EVEN = np.arange(N) % 2 == 0
LARGE = (2, 12, 11)  # beyond the square that the low-pass filter keeps
ASKING = [name for name in ATTACKS if "pool" not in ATTACKS[name].card.needs]
STEPPED = [name for name in ATTACKS if isinstance(ATTACKS[name], SteppedAttack)]


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    x0 = pictures(N)
    return tables_of(tmp_path_factory.mktemp("leaky"), memoriser(x0[IS_MEMBER]), x0)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    x0 = torch.randn((400, *SHAPE), generator=torch.Generator().manual_seed(7)) / 2
    return tables_of(tmp_path_factory.mktemp("quiet"), gaussian(), x0)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A smooth model whose numbers depend on everything."""
    model = denoiser(steps=100, shape=LARGE)
    return tables_of(tmp_path_factory.mktemp("varied"), model, images(12, shape=LARGE), filtered=("noised", "pia", "pian", "secmi"))


def best(attack, tables, inside, fixed=None):
    """The candidate with the largest AUC on some images."""
    return max(attack.candidates(tables, fixed or {}), key=lambda c: auc(attack.score(tables, c, inside), IS_MEMBER[inside]))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_memoriser_is_found_and_members_score_higher(name, leaky):
    attack = ATTACKS[name]
    scores = attack.score(leaky, best(attack, leaky, EVEN))
    assert scores.shape == (N,) and scores.dtype == np.float64 and np.isfinite(scores).all()
    assert auc(scores[~EVEN], IS_MEMBER[~EVEN]) > 0.8


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_that_memorised_nothing_gives_chance(name, quiet):
    attack, half = ATTACKS[name], np.arange(400) < 200
    candidates = attack.candidates(quiet, {})
    for choice in (candidates[0], candidates[len(candidates) // 2], candidates[-1]):
        value = auc(attack.score(quiet, choice), half)
        assert abs(value - 0.5) < 3 * np.sqrt(401 / (12 * 200 * 200)), choice  # null spread of an AUC of 200 + 200


@pytest.mark.parametrize("name", ATTACKS)
def test_order_and_neighbours_of_images_do_not_matter(name, tmp_path):
    attack, model, order = ATTACKS[name], denoiser(steps=100), np.random.default_rng(1).permutation(12)
    whole, mixed = (tables_of(tmp_path / str(k), model, images(12)[rows], names=(name,)) for k, rows in enumerate((np.arange(12), order)))
    for choice in attack.candidates(whole, {})[:3]:
        assert same(attack.score(mixed, choice), attack.score(whole, choice)[order])


@pytest.mark.parametrize("name", ATTACKS)
def test_batch_size_changes_the_fifth_digit_at_most_and_the_seed_more_where_noise_is_drawn(name, tmp_path):
    attack, model = ATTACKS[name], denoiser(steps=100)
    one, other, reseeded = (tables_of(tmp_path / str(k), model, images(12), names=(name,), **given) for k, given in enumerate(({"batch_size": 1}, {"batch_size": 7}, {"seed": 1})))
    for choice in attack.candidates(one, {})[:3]:
        scores = attack.score(one, choice)
        assert same(attack.score(other, choice), scores)
        assert same(attack.score(reseeded, choice), scores) == (name in ("pia", "pian", "secmi", "sima"))


def same(a, b):
    """Equal to 1e-5 of the scores' own spread and size."""
    return np.allclose(a, b, rtol=1e-5, atol=1e-5 * np.std(b))


def plain_scores(name, tables, choice):
    """The card's formula, image by image, from the stored draws."""

    def mean(table, t, i, first=None):
        column = list(tables[table].timesteps).index(t)
        return float(np.mean(tables[table].per_draw[:first, column, i].astype(np.float64)))

    def z(values):
        return [(v - np.mean(values)) / np.std(values) for v in values]

    rows, t = range(tables[ATTACKS[name].card.tables[0]].images), choice["t"]
    if name in ("dime", "dime_m"):
        b, d = ([mean(table, t, i, choice["directions"]) for i in rows] for table in ("dime_bias", "dime_spread"))
        if name == "dime_m":
            return [-(b[i] ** 2 - d[i]) for i in rows]
        zb, zd = z([v * v for v in b]), z(d)
        return [-np.cos(choice["angle"]) * zb[i] + np.sin(choice["angle"]) * zd[i] for i in rows]
    if name == "pfami":
        steps = [s for s in (0, 5, 10, 15, 20, 25, 30, 35, 40, 45) if s <= t]
        return [np.mean([mean("pfami_crop_mse", s, i) / mean("pfami_mse", s, i) - 1 for s in steps]) for i in rows]
    if name == "gray_free":
        column = list(tables["gray_free_mse"].timesteps).index(t)
        return [-min(float(draw) for draw in tables["gray_free_mse"].per_draw[:, column, i]) for i in rows]
    if name == "rediffuse":
        return [-mean({"ssim": "rediffuse_dssim", "l2": "rediffuse_l2"}[choice["distance"]], t, i) for i in rows]
    table = {"naive_loss": "eps_mse", "sima_mc": "eps_hat_l4", "pia": "pia_l4", "pian": "pian_l4", "secmi": "secmi_l2"}.get(name)
    table = table or {"scaled": "sima_scaled_l4", "unscaled": "sima_l4"}[choice["query"]]
    table += "_low" if choice.get("filter") == "low-pass" else ""
    return [-mean(table, t - 1 if choice.get("loop") == "released" else t, i) for i in rows]


@pytest.mark.parametrize("name", STEPPED)
def test_every_score_agrees_with_the_plain_formula(name, varied):
    attack = ATTACKS[name]
    for fixed in ({}, {"loop": "released"}, {"directions": 3}, {"filter": "low-pass"}):
        if set(fixed) <= {s.name for s in attack.card.settings}:
            for choice in attack.candidates(varied, fixed):
                np.testing.assert_allclose(attack.score(varied, choice), plain_scores(name, varied, choice.settings()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", STEPPED)
def test_every_setting_of_the_card_changes_the_score(name, varied):
    attack = ATTACKS[name]
    steps = attack.timesteps(varied)
    values = {"filter": ("none", "low-pass")}
    values |= {"t": (steps[-1], steps[1]), "loop": ("paper", "released"), "query": ("scaled", "unscaled"), "directions": (10, 1), "angle": (0.0, 1.0)}
    values["distance"] = ("ssim", "l2")
    start = {"t": steps[-1], **({"angle": 0.5} if name == "dime" else {})}
    for setting in attack.card.settings:
        scores = []
        for value in values[setting.name]:
            fixed = start | {setting.name: value}
            check_settings({name: fixed})
            (choice,) = attack.candidates(varied, fixed)[:1]
            assert choice.settings()[setting.name] == value
            scores.append(attack.score(varied, choice))
        assert not np.allclose(*scores, rtol=1e-3), setting.name
    assert {s.name for s in attack.card.settings} == set(attack.candidates(varied, {})[0].settings())


@pytest.mark.parametrize("name", STEPPED)
def test_one_draw_is_what_was_measured_in_that_draw(name, varied):
    attack = ATTACKS[name]
    choice = attack.candidates(varied, {})[-1]
    whole, each = attack.score(varied, choice), [attack.score_draw(varied, choice, d) for d in range(DRAWS)]
    if name in ("naive_loss", "sima_mc"):
        np.testing.assert_allclose(np.mean(each, axis=0), whole, rtol=1e-5)
    if varied[attack.card.tables[0]].draws == 1:
        assert all(np.array_equal(one, whole) for one in each)
    else:
        assert not np.allclose(*each, rtol=1e-4)
    some = np.array([3, 1])
    assert np.array_equal(attack.score(varied, choice, some), whole[some]) and np.array_equal(attack.score_draw(varied, choice, 1, some), each[1][some])


@pytest.mark.parametrize("name", STEPPED)
def test_a_fixed_timestep_is_the_nearest_one_measured(name, varied):
    attack = ATTACKS[name]
    steps = attack.timesteps(varied)
    assert {c.t for c in attack.candidates(varied, {"t": steps[1] + 0.4})} == {steps[1]}
    assert {c.t for c in attack.candidates(varied, {"t": 10**6})} == {steps[-1]}


@pytest.mark.parametrize("name", ASKING)
def test_calls_are_those_of_its_probe(name, varied):
    attack, model = ATTACKS[name], denoiser(steps=100)
    (probe,) = attack.card.probes
    plan = plan_of(model, (name,))
    as_run, shared = calls_of(plan, model)[probe], shared_calls(plan, model)
    assert attack.calls_per_image(varied) == as_run + -(-shared // varied[attack.card.tables[0]].images)
    as_run += shared  # an attacker with a single image pays for all of it
    assert all(1 <= attack.calls_at_setting(varied, choice) <= as_run for choice in attack.candidates(varied, {}))


def test_papers_price_is_kept(varied):
    def cheapest(name, **fixed):
        return ATTACKS[name].calls_at_setting(varied, ATTACKS[name].candidates(varied, fixed)[0])

    assert [cheapest(n) for n in ("pia", "pian", "sima", "dime", "dime_m")] == [2, 2, 1, 11, 11]
    assert (cheapest("secmi", t=10), cheapest("secmi", t=10, loop="released"), cheapest("dime", directions=1)) == (12, 11, 2)
    assert (cheapest("naive_loss"), cheapest("sima_mc"), cheapest("pfami")) == (DRAWS, DRAWS, 2 * 10 * DRAWS)
    assert [cheapest("rediffuse", t=t) for t in (10, 20, 30)] == [10, 20, 30]  # n t / k with n = 10, k = T/10


@pytest.mark.parametrize("name", ATTACKS)
def test_a_missing_table_is_said_and_nothing_else_is_read(name, varied):
    attack = ATTACKS[name]
    assert all(hasattr(attack, method) for method in vars(Attack) if not method.startswith("_"))
    with pytest.raises(AttackError, match="needs a sample pool" if attack.card.needs else f"needs the table {attack.card.tables[0]}"):
        attack.candidates({}, {})
    if any(setting.name == "filter" for setting in attack.card.settings):
        filtered = attack.candidates(varied, {"filter": "low-pass"})[0]
        with pytest.raises(AttackError, match=f"needs the table {attack.card.tables[0]}_low"):
            attack.score({table: varied[table] for table in attack.card.tables}, filtered)
    own = {table: varied[table] for table in attack.card.tables}
    choice = attack.candidates(own, {})[0]
    assert np.array_equal(attack.score(own, choice), attack.score(varied, choice))


def test_no_setting_is_left_where_the_released_loop_has_no_step(varied):
    with pytest.raises(AttackError, match="choose a larger t"):
        ATTACKS["secmi"].candidates(varied, {"loop": "released", "t": 1})
    assert [c.t for c in ATTACKS["secmi"].candidates(varied, {"loop": "released"})] == list(range(2, 11))


def test_latents_are_no_pictures_of_an_api_and_everything_else_reads_them(tmp_path):
    tables = tables_of(tmp_path, denoiser(steps=100, pixel_space=False), images(6))
    with pytest.raises(AttackError, match="this model does not allow it"):
        ATTACKS["gray_intermediate"].candidates(tables, {})
    for name in STEPPED:
        assert np.isfinite(ATTACKS[name].score(tables, ATTACKS[name].candidates(tables, {})[0])).all()


@pytest.mark.parametrize("name", ["loss_eps", "loss_x0"])
def test_a_window_over_the_coarse_structure_reads_the_low_passed_losses(name, varied):
    attack, (table,) = ATTACKS[name], ATTACKS[name].card.tables
    fixed = {"statistic": "mean", "truncate_by": "time", "keep_from": 0, "keep_until": 60}
    check_settings({name: fixed | {"filter": "low-pass"}})
    (plain,), (low,) = (attack.candidates(varied, fixed | {"filter": kind}) for kind in ("none", "low-pass"))
    inside = [k for k, t in enumerate(varied[table].timesteps) if t <= 60]
    for choice, read in ((plain, table), (low, f"{table}_low")):
        np.testing.assert_allclose(attack.score(varied, choice), -np.asarray(varied[read].values[inside], np.float64).mean(axis=0), rtol=1e-5)
        assert np.allclose(np.mean([attack.score_draw(varied, choice, d) for d in range(DRAWS)], axis=0), attack.score(varied, choice), rtol=1e-5)
    assert low.settings() == plain.settings() | {"filter": "low-pass"} and attack.calls_at_setting(varied, low) == attack.calls_at_setting(varied, plain)

"""Page New audit, samples alone: one's own, a surrogate that is trained on them and what that costs, and what is said before Start."""

import numpy as np
import pytest

from audit.attacks import ATTACKS
from audit.jobs.store import Store
from pages.frame import intake, samples
from tests.jobs.conftest import home, pair  # noqa: F401, fixtures
from tests.jobs.test_driver_inline import CHECK, driver, no_background_worker  # noqa: F401, the fixture acts by being here
from tests.pages.test_new_page import IMAGES, INFO, PRICE, SELF_TEST, answer, chosen, has, images_step, step, store  # noqa: F401, a fixture

ANSWERED = {"checkpoint": INFO, "images": IMAGES, "self_test": SELF_TEST, "price": PRICE}


def started(app, store):  # noqa: F811
    """The request of the audit that Start makes."""
    assert not app.button(key="new_start").disabled, [text.value for text in app.text][-3:]
    app.button(key="new_start").click().run()
    (job,) = store.list("audit")
    return job.request


def only(app, *names):
    """Tick these attacks and no other."""
    for name in ATTACKS:
        box = app.checkbox(key=f"new_use_{name}")
        box.check() if name in names else box.uncheck()
    app.run()


def own(app, store, name="generated"):  # noqa: F811
    """The page with a folder of the inbox as the samples."""
    (store.config.inbox / name).mkdir(exist_ok=True)
    app.segmented_control(key="new_pool_from").set_value(samples.OWN).run()
    return app.selectbox(key="new_inbox_pool").set_value(f"{name}/").run()


def test_attacks_on_samples_alone_are_refused_before_start_in_the_pages_words(store):  # noqa: F811
    app = chosen(store)
    only(app, "nearest", "nearest_calibrated")
    assert app.button(key="new_start").disabled
    assert has(app, "The attacks that are ticked need samples of the model: say below, under Samples alone, where they come from, or tick another attack.")
    assert not has(app, "--pool")
    only(app, "nearest")
    assert has(app, "The attack that is ticked needs samples")
    app.number_input(key="new_pool").set_value(500).run()
    assert started(app, store)["pool"] == 500


def test_ones_own_samples_reach_the_request_and_are_looked_at_again(store, tmp_path):  # noqa: F811
    app = own(chosen(store), store)
    path = str((store.config.inbox / "generated").resolve())
    assert has(app, "Your own samples generated are compared") and has(app, "no call per image: it compares your samples") and f"--pool {path}" in app.code[0].value
    (store.config.inbox / "generated" / "x.png").symlink_to(tmp_path)
    app.button(key="new_start").click().run()
    assert store.list("audit") == [] and has(app, "x.png is a link that leads out of the inbox.")
    (store.config.inbox / "generated" / "x.png").unlink()
    assert started(step(step(app, "images"), "price"), store)["pool"] == path


def test_a_path_outside_the_inbox_is_no_pool(store):  # noqa: F811
    app = chosen(store)
    app.session_state["new_inbox_pool"] = "link"  # AppTest cannot type a new option
    app.segmented_control(key="new_pool_from").set_value(samples.OWN).run()
    assert has(app, "lies outside the inbox") and app.button(key="new_start").disabled


def test_a_surrogate_is_chosen_priced_and_asked_for(store):  # noqa: F811
    app = own(chosen(store), store)
    app.checkbox(key="new_surrogate").check().run()
    assert "It is a training" in app.checkbox(key="new_surrogate").help
    app.selectbox(key="new_surrogate_network").set_value("improved").run()
    app.number_input(key="new_surrogate_steps").set_value(2000).run()
    app.multiselect(key="new_surrogate_attacks").set_value(["surrogate_sima"]).run()
    assert has(app, "A surrogate is trained on the samples: improved, at most 2,000 steps; 1 attack asks it. How long that takes here is being measured")
    asked = answer(store, **ANSWERED, training={"steps": 2000, "seconds_per_step": 1.5, "seconds": 3000.0}).request
    training = {"surrogate": {"network": "improved", "steps": 2000}}
    assert asked["settings"] == training and asked["attacks"] == ["all", "surrogate_sima"] and asked["budget"] == 1
    app.run()
    assert has(app, "The training takes at most 50 min 0 s here beside the price above")
    first, *_, last = app.code[0].value.splitlines()
    assert first == 'echo "settings: {surrogate: {network: improved, steps: 2000}}" > surrogate.yaml' and last == "  --config surrogate.yaml"
    assert "--attacks all,surrogate_sima" in app.code[0].value and "--budget 1" in app.code[0].value
    request = started(app, store)
    assert (request["attacks"], request["budget"], request["settings"]) == (["all", "surrogate_sima"], 1, training)


def test_a_surrogate_alone_may_run_and_without_attacks_none_is_trained(store):  # noqa: F811
    app = own(chosen(store), store)
    app.checkbox(key="new_surrogate").check().run()
    app.multiselect(key="new_surrogate_attacks").set_value([]).run()
    assert has(app, "No attack asks the surrogate, so it is not trained.") and "--attacks" not in app.code[0].value
    app.multiselect(key="new_surrogate_attacks").set_value(["surrogate_pia"])
    only(app)
    assert "--config" not in app.code[0].value, "nothing differs from the defaults"
    request = started(app, store)
    assert (request["attacks"], request["budget"], request["settings"]) == (["surrogate_pia"], None, {})


@pytest.mark.parametrize(("used", "budget", "expected"), [
    (tuple(ATTACKS), None, (("all", "surrogate_pia"), 1)), (tuple(ATTACKS), 5, (("all", "surrogate_pia"), 5)), (("pia",), None, (("pia", "surrogate_pia"), None)),
])  # fmt: skip
def test_all_ticked_keeps_its_budget_beside_a_surrogate(used, budget, expected):
    assert samples.Samples(100, attacks=("surrogate_pia",)).named(used, budget) == expected
    assert samples.Samples(100).named(used, budget) == ((() if len(used) > 1 else used), budget)


def test_a_surrogate_that_cannot_be_is_said_where_its_price_would_stand():
    said = samples.summary(samples.Samples(100, attacks=("surrogate_pia",)), intake.Choice(), None, None, "A surrogate is trained on square pictures.")
    assert said[-1][1].endswith("1 attack asks it. A surrogate is trained on square pictures.")


def test_a_check_times_the_training_and_prices_samples_alone(home, pair):  # noqa: F811
    from audit.jobs import submit

    def check(**given):
        job = submit.submit_check(home, CHECK | pair | {"pool": 20} | given)
        driver(home).run_waiting()
        return Store(home.home).get(job.id)

    tiny = {"surrogate": {"steps": 50, "width": 8, "batch_size": 8, "train_timesteps": 60}}
    job = check(attacks=["nearest", "surrogate_sima"], settings=tiny)
    assert (job.state, job.error) == ("done", "")
    found = job.result["training"]
    assert found["steps"] == 50 and found["seconds"] == pytest.approx(50 * found["seconds_per_step"]) and found["seconds_per_step"] > 0
    price = job.result["price"]
    assert price["model_calls"] == 0 and price["seconds_per_call"] > 0 and np.isfinite(price["seconds"])
    wrong = check(attacks=["surrogate_sima"], settings={"surrogate": {"steps": 50, "width": 10_000, "batch_size": 8}})
    assert wrong.state == "failed" and "width is 10000" in wrong.error
    assert check(attacks=["nearest"]).result["training"] is None

"""What an attacker without the model has, on page New audit: samples to draw or one's own, and a surrogate that is trained on them; kept for the other steps."""

import json
from dataclasses import dataclass, field, replace

import streamlit as st

from audit import format as fmt
from audit.attacks import ATTACKS
from audit.request import DEFAULT_BUDGET, DEFAULT_POOL_STEPS, LEAST_POOL, MOST_POOL
from audit.surrogates import BOUNDS, NETWORKS, SurrogateSettings
from pages.frame import intake
from pages.frame.states import notice

KEPT = "new_samples"
DRAWN, OWN = "Drawn from the checkpoint", "My own"
USUAL = ("surrogate_pia", "surrogate_loss_eps")
BOX, BELOW = "Samples alone", "say below, under Samples alone, where they come from"
POOL_HELP = (
    "An attacker who sees only pictures that the model generated compares the images with them. They are drawn from the checkpoint first, by DDIM, and kept for "
    "later audits with the same settings. A few thousand show more than a few hundred; left empty, none are drawn and the attacks that need them do not run."
)
OWN_HELP = (
    f"A folder, .zip or .npz of at least {LEAST_POOL} pictures that this model generated. They are cropped and resized as the query images are; "
    "one that is a query image itself is left out, and the report names it."
)
TRAIN_HELP = (
    "A second diffusion model is trained on the samples, from nothing, and the attacks below ask it in place of the checkpoint. It is a training: minutes on a GPU, "
    "often hours on a CPU. It can be cancelled and goes on where it stopped; a later audit with the same samples and settings takes the trained model."
)
NETWORK_WORDS = {"unet2d": "UNet2DModel of diffusers", "improved": "as improved-diffusion", "guided": "as guided-diffusion"}
DEFAULTS = SurrogateSettings()


@dataclass(frozen=True)
class Samples:
    """What was chosen. count: samples to draw, or None; own: intake.Choice of one's own samples; attacks: surrogate_NAME; training: settings of the surrogate
    that differ from their defaults."""

    count: int | None = None
    own: intake.Choice = field(default_factory=intake.Choice)
    attacks: tuple[str, ...] = ()
    training: dict = field(default_factory=dict)

    @property
    def pool(self):
        """As audit.request.Request takes it: a number, a path, or None."""
        return self.own.path or self.count

    @property
    def settings(self):
        """As audit.request.Request takes it."""
        return {"surrogate": self.training} if self.attacks and self.training else {}

    def named(self, used, budget):
        """(attacks, budget) of a request. Args: used: names of the listed attacks that are ticked; budget: loss grids, or None."""
        every = set(used) == set(ATTACKS)
        if not self.attacks:  # no names where all are ticked: the request's default budget decides
            return (() if every else tuple(used)), budget
        return (*(("all",) if every else used), *self.attacks), DEFAULT_BUDGET if every and budget is None else budget


def chosen():
    """The Samples that `choose` last left."""
    return st.session_state.get(KEPT, Samples())


def choose(config):
    """Draw the controls. Args: config: audit.config.Config."""
    with st.expander(BOX, icon=":material/burst_mode:", key="new_pool_box"):
        where = st.segmented_control("Samples", [DRAWN, OWN], default=DRAWN, required=True, key="new_pool_from", persist_state="session")
        if where == OWN:
            found = Samples(own=intake.choose(config, intake.IMAGES, "pool", "Where are they", OWN_HELP))
        else:
            look = {"placeholder": "none", "help": POOL_HELP, "persist_state": "session"}
            found = Samples(st.number_input("Samples to draw", min_value=LEAST_POOL, max_value=MOST_POOL, value=None, step=1000, key="new_pool", **look))
        if found.pool:
            found = _surrogate(found)
    st.session_state[KEPT] = found


def _surrogate(found):
    """The Samples with what is trained on them."""
    if not st.checkbox("Train a surrogate on the samples", key="new_surrogate", help=TRAIN_HELP, persist_state="session"):
        return found
    keep = {"persist_state": "session"}
    names = {name: ATTACKS[name].card.title for name in ATTACKS.derived()}
    attacks = st.multiselect("Attacks that ask it", list(names), default=USUAL, format_func=names.get, key="new_surrogate_attacks", **keep)
    with st.grid(2, min_column_width=150):
        look = {"format_func": NETWORK_WORDS.get, "help": "The attacker need not know the target’s.", **keep}
        network = st.selectbox("Network", NETWORKS, key="new_surrogate_network", **look)
        look = {"step": 1000, "help": "At most: it ends when held-out samples get no better.", **keep}
        steps = st.number_input("Training steps", *BOUNDS["steps"], DEFAULTS.steps, key="new_surrogate_steps", **look)
    if not attacks:
        notice("surrogate", "info", "No attack asks the surrogate, so it is not trained.")
    training = {name: value for name, value in (("network", network), ("steps", steps)) if value != getattr(DEFAULTS, name)}
    return replace(found, attacks=tuple(name for name in names if name in attacks), training=training)


def reason(samples, used):
    """Why the audit cannot start for want of samples, or "". Args: samples: Samples; used: names of the attacks that are ticked."""
    if samples.own.problem:
        return samples.own.problem
    if used and not samples.pool and all("pool" in ATTACKS[name].card.needs for name in used):
        what = "The attack that is ticked needs" if len(used) == 1 else "The attacks that are ticked need"
        return f"{what} samples of the model: {BELOW}, or tick another attack."
    return ""


def share_words(samples):
    """What an attack on samples adds to the price."""
    if samples.own.path:
        return "no call per image: it compares your samples"
    return "no call per image, once the samples are drawn" if samples.count else f"needs samples: {BELOW}"


def summary(samples, reference, price, training, problem=""):
    """[(icon, sentence)] for the last look before Start. Args: reference: intake.Choice; price, training: parts of a check, or None; problem: why nothing was
    measured of the training, or ""."""
    lines = [("burst_mode", _pool_words(samples, bool(reference.path), price))] if samples.pool else []
    return lines + ([("model_training", _training_words(samples, training, problem))] if samples.attacks else [])


def _pool_words(samples, with_reference, price):
    if samples.own.path:
        beside = ", and as many are drawn from the reference" if with_reference else ""
        return f"Your own samples {samples.own.name} are compared{beside}"
    calls = samples.count * (1 + with_reference) * DEFAULT_POOL_STEPS
    each = " from the checkpoint and as many from the reference" if with_reference else ""
    more = f", {fmt.duration(calls * price['seconds_per_call'])} here beside the price above" if price else ""
    return f"{fmt.count(samples.count)} samples{each} are drawn first: {fmt.count(calls)} calls{more}"


def _training_words(samples, training, problem):
    made = DEFAULTS if not samples.training else replace(DEFAULTS, **samples.training)
    many = "1 attack asks it" if len(samples.attacks) == 1 else f"{fmt.count(len(samples.attacks))} attacks ask it"
    said = f"A surrogate is trained on the samples: {made.network}, at most {fmt.count(made.steps)} steps; {many}"
    if problem:
        return f"{said}. {problem}"
    if training and training["steps"] == made.steps:
        return f"{said}. The training takes at most {fmt.duration(training['seconds'])} here beside the price above"
    return f"{said}. How long that takes here is being measured, or the device is busy"


def flags(samples):
    """(lines before the command, flags of it) that say the same on the command line."""
    found = [("--pool", str(samples.pool))] if samples.pool else []
    if not samples.settings:
        return [], found
    pairs = ", ".join(f"{name}: {json.dumps(value)}" if isinstance(value, bool) else f"{name}: {value}" for name, value in samples.training.items())
    return [f'echo "settings: {{surrogate: {{{pairs}}}}}" > surrogate.yaml'], [*found, ("--config", "surrogate.yaml")]

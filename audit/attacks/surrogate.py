"""Black-box: any white- or gray-box attack, asked of a surrogate in place of the target.

The attacker has only generated samples: trains a diffusion model of their own on them, and attacks that. What the samples carry over of the training images
shows on the surrogate. One class makes all of these attacks; `surrogate_pia` is `pia` on tables with the prefix "surrogate/".
"""

from dataclasses import replace

from audit.attacks.nearest import NO_POOL
from audit.errors import AttackError, NotMeasuredError
from audit.sources import SURROGATE, view

SHORT = 12  # characters of a card's short name
WEAKNESSES = (
    "needs thousands of samples and a training: an attacker with more of both may find more",
    "a null is weak evidence: what the samples do not carry over, no attack on the surrogate can find",
)


def on_surrogate(attack):
    """The attack on a surrogate, or None for one that needs no model's answers and has nothing to ask a surrogate."""
    return None if attack.card.threat_model == "black-box" else OnSurrogate(attack)


class OnSurrogate:
    """An Attack that reads the surrogate's tables. Args: attack: the registered audit.attacks.base.Attack that it applies there.

    Source: arXiv:2302.07801, black-box attack specific to diffusion models: a model trained on the target's samples, then the white-box attack on it.
    """

    def __init__(self, attack):
        self.attack, card = attack, attack.card
        self.one_draw = getattr(attack, "one_draw", False)
        self.card = replace(
            card,
            name=f"surrogate_{card.name}",
            short=f"Sur. {card.short}"[:SHORT].rstrip(),
            title=f"{card.title}, on a surrogate",
            threat_model="black-box",
            equation=f"of a diffusion model trained on generated samples of the target: {card.equation}",
            source=f"arXiv:2302.07801, black-box by a model trained on samples; there: {card.source}",
            tables=tuple(SURROGATE + table for table in card.tables),
            weaknesses=WEAKNESSES + card.weaknesses,
            needs=("pool", "surrogate"),
            on=SURROGATE,
        )

    def candidates(self, tables, fixed):
        """Those of the attack, on the surrogate's tables. Raises AttackError: nothing was measured on one."""
        if not any(name.startswith(SURROGATE) for name in tables):
            raise NotMeasuredError(NO_POOL)
        try:
            return self.attack.candidates(view(tables, SURROGATE), fixed)
        except AttackError as error:
            raise type(error)(f"on the surrogate: {error}") from None

    def score(self, tables, choice, images=slice(None)):
        """float64 (N,), higher = more likely a member of the target's training set."""
        return self.attack.score(view(tables, SURROGATE), choice, images)

    def score_draw(self, tables, choice, draw, images=slice(None)):
        """The same from one noise draw."""
        return self.attack.score_draw(view(tables, SURROGATE), choice, draw, images)

    def calls_at_setting(self, tables, choice):
        """Network calls of the surrogate; the target is asked for nothing but its samples."""
        return self.attack.calls_at_setting(view(tables, SURROGATE), choice)

    def calls_per_image(self, tables):
        """The same, as run."""
        return self.attack.calls_per_image(view(tables, SURROGATE))

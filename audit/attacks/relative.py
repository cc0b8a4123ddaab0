"""Any attack, calibrated by a reference: score = score on the target - score on the reference, at the same settings.

What makes an image easy for both models cancels; what only the target knows stays. A formula that standardises (DIME) does so on each model first.
Source: difficulty calibration as in GAN-Leaks (arXiv:1909.03935) and PFAMI (arXiv:2308.12143).  Differs from source: for every attack, one reference.
"""

from audit.errors import AttackError
from audit.sources import REFERENCE, view


class Relative:
    """An Attack around another one; `tables` hold those of both sources. Args: attack: audit.attacks.base.Attack."""

    def __init__(self, attack):
        self.attack, self.card, self.one_draw = attack, attack.card, getattr(attack, "one_draw", False)

    def candidates(self, tables, fixed):
        """Those of the attack on the target. Raises AttackError: a table is missing on either side."""
        try:
            self.attack.candidates(view(tables, REFERENCE), fixed)
        except AttackError as error:
            raise type(error)(f"on the reference: {error}") from None
        return self.attack.candidates(tables, fixed)

    def score(self, tables, choice, images=slice(None)):
        """float64 (N,), higher = more likely a member."""
        return self.attack.score(tables, choice, images) - self.alone(tables, choice, images)

    def score_draw(self, tables, choice, draw, images=slice(None)):
        """The same from one noise draw, which both models saw."""
        return self.attack.score_draw(tables, choice, draw, images) - self.attack.score_draw(view(tables, REFERENCE), choice, draw, images)

    def alone(self, tables, choice, images=slice(None)):
        """float64 (N,): the reference's own score. It cannot know who is a member: an AUC well above 0.5 says that the images differ."""
        return self.attack.score(view(tables, REFERENCE), choice, images)

    def calls_at_setting(self, tables, choice):
        """Of both models."""
        return 2 * self.attack.calls_at_setting(tables, choice)

    def calls_per_image(self, tables):
        """Of both models."""
        return self.attack.calls_per_image(tables) + self.attack.calls_per_image(view(tables, REFERENCE))

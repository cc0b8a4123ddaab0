"""Black-box: how near the variations of an image, as an image-to-image service gives them, stay to the image."""

from dataclasses import dataclass

from audit.attacks.base import Card, Setting
from audit.attacks.stepped import AT, At, SteppedAttack

DISTANCES = {"ssim": "rediffuse_dssim", "l2": "rediffuse_l2"}
VARIATIONS = 10


@dataclass(frozen=True)
class Compared(At):
    """distance: "ssim" or "l2", between the image and the mean of its variations."""

    distance: str = "ssim"


class ReDiffuse(SteppedAttack):
    """score = - rediffuse_dssim[i, t] or - rediffuse_l2[i, t]."""

    card = Card(
        name="rediffuse",
        short="ReDiffuse",
        title="Variations (ReDiffuse)",
        threat_model="black-box",
        equation="SSIM of the image and the mean of 10 of its variations, minus 1, or minus their 2-norm; a variation is the image noised to t and brought back in steps of T/10",
        source="arXiv:2405.20771 (Li et al.), t = T/5, steps of T/10, 10 variations: n t / k = 20 calls",
        differs="t is chosen on the calibration half among T/10, T/5 and 3T/10, the distance with it; no classifier is trained on the differences, so no labels are needed",
        settings=(AT, Setting("distance", "between the image and the mean of its variations", choices=tuple(DISTANCES))),
        probes=("rediffuse",),
        tables=tuple(DISTANCES.values()),
        weaknesses=(
            "needs a service that takes an image and the strength of the variation; one that only generates shows nothing here",
            "smooth images come back unharmed from any model",
            "one draw of the noise of all variations: how much it matters is not measured",
        ),
    )
    choice = Compared
    tried = {"distance": tuple(DISTANCES)}
    one_draw = True

    def value(self, read, choice):
        """See the class."""
        return -read.mean(DISTANCES[choice.distance], choice.t)

    def calls_at_setting(self, tables, choice):
        """n t / k: every variation takes as many steps as t has of them."""
        return self._draws(tables) * (self.timesteps(tables).index(choice.t) + 1)

    def calls_per_image(self, tables):
        """All variations at every measured timestep."""
        count = len(self.timesteps(tables))
        return self._draws(tables) * count * (count + 1) // 2

    def _draws(self, tables):
        return self.table(tables).draws * VARIATIONS

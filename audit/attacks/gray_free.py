"""Gray-box: does a generation from pure noise pass by the query image?"""

import math

from audit.attacks.base import Card
from audit.attacks.stepped import AT, SteppedAttack

GENERATIONS = 32  # behind one draw of the table


class GrayFree(SteppedAttack):
    """score = - smallest over draws of gray_free_mse[i, t]."""

    card = Card(
        name="gray_free",
        short="Free run",
        title="Free generation",
        threat_model="gray-box",
        equation="minus the smallest mean squared difference between the image and the picture shown at t by any of 64 generations from noise",
        source="arXiv:2302.07801, gray-box attack, Eq. 18 as inferred from the authors' code, free-running",
        differs="no caption binds a generation to the query, so the nearest of 64 counts; deterministic generation in 20 steps, pictures of 8 bits",
        settings=(AT,),
        probes=("gray_free",),
        tables=("gray_free_mse",),
        once=True,
        weaknesses=(
            "64 generations reach few of many training images: a null result with more than about a hundred members says nothing",
            "bland images lie near any generation",
            "skipped for models that are asked with class labels or captions: each would need generations of its own",
        ),
    )

    def value(self, read, choice):
        """See the class."""
        return -read.draws("gray_free_mse", choice.t).min(axis=0)

    def calls_at_setting(self, tables, choice):
        """All generations down to t: an attacker with one image pays for them too."""
        return self._generations(tables) * sum(t >= choice.t for t in self.timesteps(tables))

    def calls_per_image(self, tables):
        """The generations shared out over the images, rounded up."""
        return math.ceil(self._generations(tables) * len(self.timesteps(tables)) / self.table(tables).images)

    def _generations(self, tables):
        return self.table(tables).draws * GENERATIONS

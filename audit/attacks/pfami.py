"""Gray-box: a member's loss rises when one looks a little closer, a non-member's does not (probabilistic fluctuation)."""

import numpy as np

from audit.attacks.base import Card, Setting
from audit.attacks.stepped import SteppedAttack

FLOOR = 1e-12  # of a loss that is divided by: an exact 0 would drop the image from the audit


class PFAMI(SteppedAttack):
    """score = mean over the timesteps up to t of (pfami_crop_mse - pfami_mse) / pfami_mse."""

    card = Card(
        name="pfami",
        short="PFAMI",
        title="Loss fluctuation (PFAMI)",
        threat_model="gray-box",
        equation="the mean over timesteps of the relative rise of the noise error when the image is replaced by its centre, 81 % of each side, resized",
        source="arXiv:2308.12143 (Fu et al.), the metric attack as released: one crop of ten, t = 0 to 0.45 T in 10 steps",
        differs="both losses see the same noise, for all images; the last timestep of the mean is chosen on the calibration half",
        settings=(Setting("t", "the last timestep of the mean: the measured one nearest to it", low=0, high=10**6),),
        probes=("pfami",),
        tables=("pfami_mse", "pfami_crop_mse"),
        weaknesses=(
            "latent models: the picture is cropped and encoded again, and what the encoder loses differs between both",
            "smooth or centred pictures change little under the crop",
            "training with random crops hides the rise",
        ),
    )

    def steps_read(self, settings, timesteps):
        """All up to t."""
        return [t for t in timesteps if t <= settings["t"]]

    def candidates(self, tables, fixed):
        """The source's mean over all timesteps first, then shorter ones."""
        return super().candidates(tables, fixed)[::-1]

    def value(self, read, choice):
        """See the class."""
        rises = []
        for t in self.timesteps(read.tables):
            if t <= choice.t:
                own, crop = read.mean("pfami_mse", t), read.mean("pfami_crop_mse", t)
                rises.append((crop - own) / np.maximum(own, FLOOR))
        return np.mean(rises, axis=0)

    def calls_at_setting(self, tables, choice):
        """Both pictures, every draw, up to t."""
        return 2 * self.table(tables).draws * sum(t <= choice.t for t in self.timesteps(tables))

    def calls_per_image(self, tables):
        """The same at all timesteps."""
        return 2 * super().calls_per_image(tables)

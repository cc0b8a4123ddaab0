"""Black-box: the nearest sample, measured by how far apart images of this kind lie anyway."""

from dataclasses import dataclass, replace

import numpy as np

from audit.attacks.base import Setting
from audit.attacks.nearest import FEATURES, SPACES, Nearest, Search, column

MOST = 20  # neighbours that are measured


@dataclass(frozen=True)
class Neighbourhood(Search):
    """relative_to: "queries" or "pool"; k: neighbours, 1 to MOST."""

    relative_to: str
    k: int


class NearestCalibrated(Nearest):
    """score = - nearest_SPACE[i, 1st] / mean of neighbours_SPACE[i, 1st … kth], or / mean of nearest_SPACE[i, 2nd … k+1st] relative to the pool."""

    card = replace(
        Nearest.card,
        name="nearest_calibrated",
        short="Nearest cal.",
        title="Calibrated nearest sample",
        equation="minus the distance to the nearest sample, divided by the mean distance to the image's k nearest other query images, or to its next k samples",
        source="arXiv:1909.03935 (GAN-Leaks), calibration by a reference; arXiv:2301.13188 (Carlini et al.), extraction test relative to the nearest neighbours",
        differs="a quotient with the image's own neighbourhood needs no second model; GAN-Leaks subtracts the distance to a reference's samples (--reference does that); "
        "neighbours are query images, because the training set is not known, and near duplicates are none",
        settings=(
            *Nearest.card.settings,
            Setting("relative_to", "queries: the k nearest other query images; pool: the k samples that follow the nearest one", choices=("queries", "pool")),
            Setting("k", "how many neighbours", low=1, high=MOST),
        ),
        tables=(*Nearest.card.tables, *(f"neighbours_{space}" for space in SPACES.values() if space != FEATURES)),
        weaknesses=(
            "a null result is weak evidence: the samples of most diffusion models keep their distance from every training image",
            "relative to the pool, an image that the model repeats often looks as if nothing stood out",
            "with few query images the neighbours are far away, and say little about bland images",
        ),
    )
    choice = Neighbourhood
    tried = Nearest.tried | {"relative_to": ("queries", "pool"), "k": (1, 5, MOST)}

    def value(self, tables, choice):
        """See the class; 0 where the nearest sample is the image itself, whatever the neighbourhood."""
        k = max(1, round(choice.k))
        around = column(tables, choice.table, slice(1, k + 1)) if choice.relative_to == "pool" else column(tables, f"neighbours_{SPACES[choice.space]}", slice(0, k))
        distance = column(tables, choice.table, 0)
        return -np.divide(distance, around, out=np.zeros_like(distance), where=distance > 0)

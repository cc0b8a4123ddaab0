"""Black-box: the nearest sample, measured by how far apart images of this kind lie anyway."""

from dataclasses import dataclass, replace

import numpy as np

from audit.attacks.base import Setting
from audit.attacks.nearest import FEATURES, SPACES, Nearest, Search, column
from audit.errors import NotMeasuredError

MOST = 20  # neighbours that are measured
REFERENCE = "reference"
NO_REFERENCE = "no reference set was compared: the setting reference says where it is"


@dataclass(frozen=True)
class Neighbourhood(Search):
    """relative_to: "queries", "pool" or "reference"; k: neighbours, 1 to MOST."""

    relative_to: str
    k: int


class NearestCalibrated(Nearest):
    """score = - nearest_SPACE[i, 1st] / mean of neighbours_SPACE[i, 1st … kth], or / mean of nearest_SPACE[i, 2nd … k+1st] relative to the pool, or
    / mean of references_SPACE[i, 1st … kth] relative to a reference set."""

    card = replace(
        Nearest.card,
        name="nearest_calibrated",
        short="Nearest cal.",
        title="Calibrated nearest sample",
        equation="minus the distance to the nearest sample, divided by the mean distance to the image's k nearest other query images, to its next k samples, or "
        "to the k nearest images of a reference set",
        source="arXiv:1909.03935 (GAN-Leaks), calibration by a reference; arXiv:2301.13188 (Carlini et al.), extraction test relative to the nearest neighbours",
        differs="a quotient with the image's own neighbourhood needs no second model; GAN-Leaks subtracts the distance to a reference's samples (--reference does that); "
        "neighbours are query images, because the training set is not known, and near duplicates are none",
        settings=(
            *Nearest.card.settings,
            Setting(
                "relative_to",
                "queries: the k nearest other query images; pool: the k samples that follow the nearest one; reference: the k nearest of the set below, tried only "
                "where there is one",
                choices=("queries", "pool", REFERENCE),
            ),
            Setting(
                REFERENCE, "absolute path of a folder, .zip or .npz: images known not to be members, or samples of a model that was not trained on them", text=True
            ),
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
    tried = Nearest.tried | {"relative_to": ("queries", "pool", REFERENCE), "k": (1, 5, MOST)}

    def candidates(self, tables, fixed):
        """As for `Nearest`; a reference set is tried where `fixed` names one."""
        if fixed.get("relative_to") == REFERENCE and "references_pixels" not in tables:
            raise NotMeasuredError(NO_REFERENCE)
        found = super().candidates(tables, fixed)
        return found if REFERENCE in fixed and "references_pixels" in tables else [choice for choice in found if choice.relative_to != REFERENCE]

    def value(self, tables, choice):
        """See the class; 0 where the nearest sample is the image itself, whatever the neighbourhood."""
        k, space = max(1, round(choice.k)), SPACES[choice.space]
        table, columns = {
            "pool": (choice.table, slice(1, k + 1)), "queries": (f"neighbours_{space}", slice(0, k)), REFERENCE: (f"references_{space}", slice(0, k)),
        }[choice.relative_to]  # fmt: skip
        around = np.maximum(column(tables, table, columns), np.finfo(np.float32).tiny)  # a picture that is there twice keeps its score finite
        distance = column(tables, choice.table, 0)
        return -np.divide(distance, around, out=np.zeros_like(distance), where=distance > 0)

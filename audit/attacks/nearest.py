"""Black-box: the nearest of many generated samples. A model that repeats its training images comes close to them."""

from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from audit.attacks.base import Card, Setting
from audit.backbones import SPACE as FEATURES
from audit.errors import NotMeasuredError

SPACES = {"pixels": "pixels", "low-pass": "lowpass", FEATURES: "features"}
SPACE = Setting(
    "space",
    "pixels: the distance over all pixels; low-pass: fine detail counts a fifth, so that it does not drown the coarse structure; features: of the backbone below, "
    "tried only where there is one",
    choices=tuple(SPACES),
)
BACKBONE = Setting("backbone", "a model of timm by its name, which makes the features; needs weights, and the package timm", text=True)
WEIGHTS = Setting("weights", "absolute path of the backbone's .safetensors; nothing is ever downloaded", text=True)
MIRRORED = Setting("mirrored", "yes: a sample's mirror image counts as a sample too, as for models trained with flips", choices=("no", "yes"))
NO_POOL = "needs a sample pool"
NO_BACKBONE = "the features were not measured: settings backbone and weights say by which model they are"
TABLES = tuple(f"nearest_{space}{mirrored}" for space in SPACES.values() if space != FEATURES for mirrored in ("", "_mirrored"))


@dataclass(frozen=True)
class Search:
    """One choice: space of SPACES; mirrored: "no" or "yes"."""

    space: str
    mirrored: str

    def settings(self):
        """All settings as a plain dict."""
        return asdict(self)

    @property
    def table(self):
        """Name of the table of distances that this choice reads."""
        return f"nearest_{SPACES[self.space]}{'_mirrored' if self.mirrored == 'yes' else ''}"


class Nearest:
    """score = - nearest_SPACE[i, 1st]; see the card."""

    card = Card(
        name="nearest",
        short="Nearest",
        title="Nearest sample",
        threat_model="black-box",
        equation="minus the Euclidean distance from the image to the nearest of all samples in the pool",
        source="arXiv:1909.03935 (GAN-Leaks), full black-box attack; as inferred, the model-agnostic black-box attack of arXiv:2302.07801",
        differs="low-pass pixels, features of a vision backbone and mirrored samples are tried too, and the calibration half chooses",
        settings=(SPACE, MIRRORED, BACKBONE, WEIGHTS),
        probes=("nearest",),
        tables=TABLES,
        weaknesses=(
            "a null result is weak evidence: near chance on most diffusion models that better attacks see through (AUC 0.52 on average in SecMI's comparison)",
            "bland images lie near any sample, whether they were trained on or not; nearest_calibrated divides that out",
            "a small pool reaches few of many training images",
        ),
        needs=("pool",),
    )
    choice = Search
    tried: dict = {"space": tuple(SPACES), "mirrored": ("no", "yes")}

    def candidates(self, tables, fixed):
        """Every value of every setting, in the order of the card; `fixed` narrows them, and says whether there are features."""
        self._require(tables)
        there = "nearest_features" in tables
        if fixed.get("space") == FEATURES and not there:
            raise NotMeasuredError(NO_BACKBONE)
        tried = self.tried | {"space": [space for space in SPACES if space != FEATURES or (there and "backbone" in fixed)]}
        return [self.choice(*values) for values in product(*([fixed[name]] if name in fixed else list(tried[name]) for name in self.tried))]

    def score(self, tables, choice, images=slice(None)):
        """float64 (N,), higher = more likely a member."""
        self._require(tables)
        return self.value(tables, choice)[images]

    def value(self, tables, choice):
        """See the class."""
        return -column(tables, choice.table, 0)

    def score_draw(self, tables, choice, draw, images=slice(None)):
        """The same from every draw: a pool is drawn once."""
        return self.score(tables, choice, images)

    def calls_at_setting(self, tables, choice):
        """0: samples are shared by all images, and asking for them is no query about one."""
        return 0

    def calls_per_image(self, tables):
        """0."""
        return 0

    def _require(self, tables):
        if any(name not in tables for name in self.card.tables):
            raise NotMeasuredError(NO_POOL)


def column(tables, name, columns):
    """float64 (N,) of one column of a table, or the mean of a slice of them."""
    values = np.asarray(tables[name].values[columns], dtype=np.float64)
    return values if values.ndim == 1 else values.mean(axis=0)

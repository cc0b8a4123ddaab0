"""Gray-box: how far the pictures that an API shows between its steps lie from the query image."""

from audit.attacks.base import Card
from audit.attacks.windowed import WINDOW_SETTINGS, WindowedAttack


class GrayIntermediate(WindowedAttack):
    """score = - statistic over the kept t of x0_8bit_mse[i, t]."""

    card = Card(
        name="gray_intermediate",
        short="Intermediate",
        title="Intermediate outputs",
        threat_model="gray-box",
        equation="minus the mean, sum, median, smallest or largest of the mean squared difference between the image and the 8-bit picture shown after denoising from t",
        source="arXiv:2302.07801, gray-box attack, Eq. 18 as inferred from the authors' code: || x0 - x0_hat_t ||^2 from a noised query",
        differs="the attacker sees only pictures clamped to [-1, 1] and rounded to 8 bits; mean over pixels; noise draws are shared by all images",
        settings=WINDOW_SETTINGS,
        probes=("noised",),
        tables=("x0_8bit_mse",),
        weaknesses=(
            "needs an API that takes a picture and a step (image-to-image)",
            "rounding to 8 bits hides the smallest timesteps",
        ),
    )

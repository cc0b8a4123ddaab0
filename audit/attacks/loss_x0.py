"""White-box: the error of the predicted clean image."""

from audit.attacks.base import Card
from audit.attacks.stepped import FILTER
from audit.attacks.windowed import WINDOW_SETTINGS, WindowedAttack


class LossX0(WindowedAttack):
    """score = - statistic over the kept t of x0_mse[i, t]."""

    card = Card(
        name="loss_x0",
        short="x0 error",
        title="Clean-image error",
        threat_model="white-box",
        equation="minus the mean, sum, median, smallest or largest of the mean squared error between the image and the clean image predicted from its noised version",
        source="arXiv:2302.07801, loss terms with truncation; the authors' xstart_mse",
        differs="losses are means over several noise draws that all images share; truncation and statistic are chosen on the calibration half",
        settings=(*WINDOW_SETTINGS, FILTER),
        probes=("noised",),
        tables=("x0_mse",),
        weaknesses=("without truncation the noisy end outweighs everything, and there all images look alike",),
    )

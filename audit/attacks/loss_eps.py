"""White-box: the error of the predicted noise, the simple training loss of an epsilon model."""

from audit.attacks.base import Card
from audit.attacks.stepped import FILTER
from audit.attacks.windowed import WINDOW_SETTINGS, WindowedAttack


class LossEps(WindowedAttack):
    """score = - statistic over the kept t of eps_mse[i, t]."""

    card = Card(
        name="loss_eps",
        short="Noise error",
        title="Noise error",
        threat_model="white-box",
        equation="minus the mean, sum, median, smallest or largest of the mean squared error of the predicted noise over the timesteps that truncation keeps",
        source="arXiv:2302.07801, loss terms with truncation; Ho et al. 2020 eq. 14",
        differs="from the raw prediction, never from a clamped image; for v models it is not the training loss; means over several noise draws that all images share",
        settings=(*WINDOW_SETTINGS, FILTER),
        probes=("noised",),
        tables=("eps_mse",),
        weaknesses=("difficulty of the image adds noise: without a reference model easy images look like members",),
    )

"""Gray-box: SimA around the image instead of at it, free from the loss grid."""

from audit.attacks.base import Card
from audit.attacks.stepped import AT, SteppedAttack


class SimAMC(SteppedAttack):
    """score = - eps_hat_l4[i, t], the mean over draws of || eps_hat(x_t) ||_4."""

    card = Card(
        name="sima_mc",
        short="SimA-MC",
        title="Noised SimA (SimA-MC)",
        threat_model="gray-box",
        equation="minus the mean over noise draws of the 4-norm of eps_hat(x_t, t)",
        source="arXiv:2509.25003 (Rao et al.), the Monte-Carlo variant, p = 4",
        differs="as many draws as the loss grid has (2 or 4, the source 10 or 30), shared by all images; t is chosen on the calibration half",
        settings=(AT,),
        probes=("noised",),
        tables=("eps_hat_l4",),
        weaknesses=("with few draws the size of the noise itself is most of the number",),
    )

    def value(self, read, choice):
        """See the class."""
        return -read.mean("eps_hat_l4", choice.t)

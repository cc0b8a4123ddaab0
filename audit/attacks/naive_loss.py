"""Gray-box: the noise error at one timestep, the attack that every other is compared with."""

from audit.attacks.base import Card
from audit.attacks.stepped import AT, FILTER, Filtered, SteppedAttack


class NaiveLoss(SteppedAttack):
    """score = - eps_mse[i, t]."""

    card = Card(
        name="naive_loss",
        short="Naive loss",
        title="Loss at one timestep",
        threat_model="gray-box",
        equation="minus the mean squared error of the predicted noise at one timestep t",
        source="arXiv:2302.03262 (Matsumoto et al.), the loss threshold; SecMI, PIA and SimA compare themselves with it",
        differs="mean over several noise draws that all images share, not one draw; t is chosen on the calibration half, the source takes 350",
        settings=(AT, FILTER),
        probes=("noised",),
        tables=("eps_mse",),
        weaknesses=("difficulty of the image adds noise: without a reference model easy images look like members", "one timestep: a leak elsewhere is not seen"),
    )

    choice = Filtered
    tried = {"filter": ("none",)}

    def value(self, read, choice):
        """See the class."""
        return -read.mean(self.filtered(read.tables, "eps_mse", choice), choice.t)

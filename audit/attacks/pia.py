"""Gray-box: how far the noise that the model sees at t departs from what it saw in the image itself (proximal initialisation)."""

from audit.attacks.base import Card
from audit.attacks.stepped import AT, FILTER, Filtered, SteppedAttack


class PIA(SteppedAttack):
    """score = - pia_l4[i, t]."""

    card = Card(
        name="pia",
        short="PIA",
        title="Proximal initialisation (PIA)",
        threat_model="gray-box",
        equation="minus the 4-norm of e0 - eps_hat(sqrt(abar_t) x + sqrt(1 - abar_t) e0, t), where e0 = eps_hat(x, 0)",
        source="arXiv:2305.18355 (Kong et al.), PIA with p = 4",
        differs="t is chosen on the calibration half among shares of the schedule; the released code scans 30 timesteps and prints the best one",
        settings=(AT, FILTER),
        probes=("pia",),
        tables=("pia_l4",),
        weaknesses=(
            "one prediction at t = 0 stands for the noise: where the model is poor at the least noisy step, so is the attack",
            "near chance on large pre-trained latent models",
        ),
    )

    choice = Filtered
    tried = {"filter": ("none",)}

    def value(self, read, choice):
        """See the class."""
        return -read.mean(self.filtered(read.tables, self.card.tables[0], choice), choice.t)

    def calls_at_setting(self, tables, choice):
        """e0 and one query."""
        return 2

    def calls_per_image(self, tables):
        """e0 once, then a query per timestep."""
        return int(self.table(tables).measured.sum()) + 1

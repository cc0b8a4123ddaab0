"""White-box: the terms of the variational bound, in bits per dimension (the paper's L_t)."""

from audit.attacks.base import Card
from audit.attacks.windowed import WINDOW_SETTINGS, WindowedAttack


class LossVLB(WindowedAttack):
    """score = - statistic over the kept t of vlb_bits[i, t]; t = 0, a discretised likelihood, is left out."""

    card = Card(
        name="loss_vlb",
        short="VLB",
        title="Variational bound terms",
        threat_model="white-box",
        equation="minus the mean, sum, median, smallest or largest of the bound's terms L_t (bits per dimension) over the timesteps that truncation keeps",
        source="arXiv:2302.07801, white-box attack on L_t with truncation; terms as in improved-diffusion's calc_bpd_loop",
        differs="L_0 stays out; losses are means over several noise draws that all images share; truncation and statistic are chosen on the calibration half",
        settings=WINDOW_SETTINGS,
        probes=("noised",),
        tables=("vlb_bits",),
        weaknesses=(
            "weights small t most, where the signal is often weakest",
            "a learned variance adds its own noise to the term",
        ),
    )

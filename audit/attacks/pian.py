"""Gray-box: PIA with its stand-in for noise brought to the size of real noise."""

from dataclasses import replace

from audit.attacks.pia import PIA


class PIAN(PIA):
    """score = - pian_l4[i, t]."""

    card = replace(
        PIA.card,
        name="pian",
        short="PIAN",
        title="Normalised PIA (PIAN)",
        equation="as PIA, with e0 scaled so that its mean absolute value is sqrt(2/pi), that of standard normal noise",
        source="arXiv:2305.18355 (Kong et al.), PIAN with p = 4",
        differs="sqrt(2/pi) as in the released code, where the paper prints sqrt(pi/2); t is chosen on the calibration half",
        probes=("pian",),
        tables=("pian_l4",),
        weaknesses=(
            "the size of e0, by itself a sign of membership, is scaled away: far weaker than PIA on the bundled leaky checkpoint",
            "near chance on latent models (AUC 0.57 on Stable Diffusion in its own paper)",
        ),
    )

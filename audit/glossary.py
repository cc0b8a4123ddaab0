"""What the words mean: tooltips of the pages and the list at the end of the report."""

GLOSSARY = {
    "member": "An image the model was trained on.",
    "non-member": "An image from the same source that it never saw.",
    "held out": "Measured on images that played no part in choosing settings.",
    "exploratory": "Chosen by looking at the answer, so it flatters the attack. Do not quote it.",
    "score": "One number per image; higher means more like a member.",
    "threshold": "Images at or above it are called members.",
    "TPR": "Share of members that the attack finds.",
    "FPR": "Share of non-members wrongly called members.",
    "AUC": "Chance that a random member scores above a random non-member; 0.5 is a coin flip, 1 is perfect.",
    "95 % interval": "Audits repeated on new images would cover the true value 19 times in 20.",
    "coarse": "A value whose lower bound is 0.",
    "not resolvable": "Too few non-members to speak about a false alarm rate this small.",
    "timestep t": "How much noise was added; t = 0 is almost clean, the last t is pure noise.",
    "truncation": "Leaving timesteps out of the score, usually the noisy end, where all images look alike.",
    "white-box": "The attacker has the weights.",
    "gray-box": "The attacker sees intermediate images through an API.",
    "black-box": "The attacker sees only finished samples.",
    "blind baseline": "A classifier that never sees the model. If it can tell the sets apart, an attack's success may have nothing to do with the model.",
    "shuffled-label control": "The same audit with labels mixed at random. It must give 0.5.",
    "smallest visible leak": "The AUC that this many images would show 4 times in 5.",
    "EMA": "A smoothed copy of the weights, usually the one released.",
}
"""Word -> one or two sentences. A page takes its `help=` from here by name, so a word means the same everywhere."""

"""Gray-box: one query. A member sits where the model sees no noise in it."""

from dataclasses import dataclass

from audit.attacks.base import Card, Setting
from audit.attacks.stepped import AT, At, SteppedAttack

QUERIES = {"scaled": "sima_scaled_l4", "unscaled": "sima_l4"}


@dataclass(frozen=True)
class Query(At):
    """query: a key of QUERIES."""

    query: str = "scaled"


class SimA(SteppedAttack):
    """score = - sima_scaled_l4[i, t], or - sima_l4[i, t] with the unscaled query."""

    card = Card(
        name="sima",
        short="SimA",
        title="Single query (SimA)",
        threat_model="gray-box",
        equation="minus the 4-norm of eps_hat(sqrt(abar_t) x, t), or of eps_hat(x, t) with the unscaled query",
        source="arXiv:2509.25003 (Rao et al.), SimA with p = 4",
        differs="both queries are measured and the calibration half chooses; the released code queries x as it is, the theory sqrt(abar_t) x; t is chosen there too",
        settings=(AT, Setting("query", "scaled: the image as bright as the model expects it at t; unscaled: as it is", choices=tuple(QUERIES))),
        probes=("sima",),
        tables=tuple(QUERIES.values()),
        weaknesses=("a non-member between crowded training images looks like a member; DIME sees that case", "weak on latent models (AUC 0.56 on ImageNet LDM in its own paper)"),
    )
    choice = Query
    tried = {"query": tuple(QUERIES)}

    def value(self, read, choice):
        """See the class."""
        return -read.mean(QUERIES[choice.query], choice.t)

    def calls_at_setting(self, tables, choice):
        """One query."""
        return 1

    def calls_per_image(self, tables):
        """Both queries at every timestep."""
        return 2 * int(self.table(tables).measured.sum())

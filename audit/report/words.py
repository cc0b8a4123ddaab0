"""What a verdict says in sentences: the headline, the reason, what to do next, and the three lists. One source for card, document and JSON.

Numbers are printed by audit.format; a verdict speaks from the lower bound, never from the value.
"""

from dataclasses import dataclass

from audit import format as fmt
from audit.attacks import ATTACKS
from audit.stats.power import minimum_detectable_auc

ACCESS = {"white-box": "holding the weights", "gray-box": "using only the API", "black-box": "seeing only samples"}
LEVEL_WORDS = {"high": "High", "elevated": "Elevated", "not-detected": "Not detected", "inconclusive": "Inconclusive"}
BELOW_CHANCE = "Below chance: members score lower than non-members. Check which folder is which, or the sign of this attack."
NOT_SEEN_ALWAYS = "Images that were not audited, and attacks not yet known"
BLIND_NOT_CHECKED = "Whether the sets differ without the model: not checked yet"
CONTROL_NAMES = {"shuffled_labels": "Shuffled labels", "nonmembers_twice": "Non-members against non-members"}
LIMITS = ("It bounds what these attacks find on these images. Stronger attacks may exist.", "Nothing here speaks about images outside the audited sets.")
MORE_IMAGES = 4  # "n2 images a side would show mda2": four times as many halve the smallest visible leak
LIST_LENGTH = 3


@dataclass(frozen=True)
class VerdictWords:
    """headline, reason, next: sentences; for_, against, not_seen: at most three items each, strongest first."""

    headline: str
    reason: str
    next: str
    for_: tuple[str, ...]
    against: tuple[str, ...]
    not_seen: tuple[str, ...]


def attack_of(report, name):
    """The entry of report["attacks"] with that name."""
    return next(row for row in report["attacks"] if row["name"] == name)


def tpr_of(row, fpr):
    """The entry of row["tpr_at_fpr"] at that false positive rate."""
    return next(point for point in row["tpr_at_fpr"] if abs(point["fpr"] - fpr) < 1e-12)


def title_of(name):
    """An attack's title for people; the bare name when no card is registered."""
    return ATTACKS[name].card.title if name in ATTACKS else name


def verdict_words(report):
    """VerdictWords of a finished report (a dict as in report.json)."""
    headline, reason, next_ = _SENTENCES[report["verdict"]["kind"]](report)
    verdict = report["verdict"]
    not_seen = [BLIND_NOT_CHECKED] if report["blind_baseline"] is None else []
    not_seen += [*_failed(report), *_not_resolvable(report)]
    not_seen = [*not_seen[: LIST_LENGTH - 1], NOT_SEEN_ALWAYS]
    return VerdictWords(headline, reason, next_, tuple(verdict["reasons_for"][:LIST_LENGTH]), tuple(verdict["reasons_against"][:LIST_LENGTH]), tuple(not_seen))


def reasons(report):
    """reasons_for, reasons_against and not_tested of report["verdict"], as lists of sentences.

    Args: report: a report whose verdict holds level, headline_attack and tail_attack already.
    """
    head, tail = attack_of(report, report["verdict"]["headline_attack"]), attack_of(report, report["verdict"]["tail_attack"])
    p, point = report["permutation"]["p_value"], tpr_of(tail, 0.01)
    for_, against = [], []
    auc = f"{title_of(head['name'])}: AUC {fmt.value_interval(head['auc'])}, held out"
    beyond = head["auc"]["low"] is not None and head["auc"]["low"] > 0.5
    (for_ if beyond else against).append(auc if beyond else f"{auc}; the interval holds 0.5 or lies below it")
    if point["low"]:
        for_.append(f"{title_of(tail['name'])}: TPR {fmt.tpr_sentence(point, _n(report))}")
    if head["above_all_nonmembers"] and beyond:
        for_.append(f"{fmt.count_of(head['above_all_nonmembers'], report['queries']['evaluation_members'])} members score above all {fmt.count(_n(report))} non-members")
    (for_ if p <= 0.05 else against).append(f"Permutation test over all attacks: {fmt.p_value(p)}")
    for row in report["attacks"]:
        if row["status"] == "done" and row is not head and row["auc"]["low"] is not None and row["auc"]["low"] <= 0.5:
            against.append(f"{title_of(row['name'])} is near chance: {fmt.value_interval(row['auc'])}")
    not_tested = [BLIND_NOT_CHECKED] if report["blind_baseline"] is None else []
    not_tested += [text[0].upper() + text[1:] for name, text in report["not_checked"].items() if name not in ("blind_baseline", "verdict.claims")]
    return {"reasons_for": for_ or ["Nothing found."], "reasons_against": against or ["Nothing found."], "not_tested": [*not_tested, *_failed(report), NOT_SEEN_ALWAYS]}


def _n(report):
    return report["queries"]["evaluation_nonmembers"]


def _failed(report):
    rows = [row for row in report["attacks"] if row["status"] != "done"]
    if not rows:
        return []
    listed = ", ".join(f"{title_of(row['name'])} ({row['reason']})" for row in rows)
    return [f"{len(rows)} of {len(report['attacks'])} attacks did not run: {listed}."]


def _not_resolvable(report):
    tail, n = attack_of(report, report["verdict"]["tail_attack"]), _n(report)
    return [f"TPR at {fmt.fpr(point['fpr'])} FPR: not resolvable with n = {fmt.count(n)}" for point in tail["tpr_at_fpr"] if point["resolution"] == "none"]


def _high(report):
    tail, head = attack_of(report, report["verdict"]["tail_attack"]), attack_of(report, report["verdict"]["headline_attack"])
    low = tpr_of(tail, 0.01)["low"]
    if low is not None and low >= 0.03:
        reason = f"An attacker {ACCESS[tail['threat_model']]} names at least {fmt.percent_down(low)} of these members while wrongly accusing 1 in 100 outsiders."
    else:
        reason = f"An attacker {ACCESS[head['threat_model']]} ranks a random member above a random non-member in at least {fmt.percent_down(head['auc']['low'])} of cases."
    return (
        "This checkpoint gives its training images away.",
        reason,
        "do not release these weights. Remove duplicates, train for fewer epochs or with flips, audit again and compare.",
    )


def _elevated(report):
    head = attack_of(report, report["verdict"]["headline_attack"])
    p = report["permutation"]["p_value"]
    return (
        "Membership leaks, but few single images stand out.",
        f"Members score higher than non-members beyond chance ({fmt.p_value(p)}, AUC {fmt.value_interval(head['auc'])}); few can be named with confidence.",
        f"look at the most exposed images; decide with at least {fmt.count(2 * _side(report))} images a side.",
    )


def _not_detected(report):
    done = sum(row["status"] == "done" for row in report["attacks"])
    return (
        "No leak detected with these images and attacks.",
        f"None of the {done} attacks told members from non-members better than chance. A leak below AUC {fmt.auc(report['minimum_detectable_auc'])} would not have been seen.",
        f"{fmt.count(MORE_IMAGES * _side(report))} images a side would lower that to {fmt.auc(_mda_with_more(report))}.",
    )


def _order(report):
    return (
        "This audit cannot decide: members score lower than non-members.",
        f"AUC {fmt.value_interval(report['direction']['auc'])} is below chance beyond luck.",
        "check which folder is which.",
    )


def _few(report):
    return (
        "This audit cannot decide: too few images.",
        f"With {fmt.count(_side(report))} images a side only a leak above AUC {fmt.auc(report['minimum_detectable_auc'])} would show.",
        f"add images; {fmt.count(MORE_IMAGES * _side(report))} a side would show {fmt.auc(_mda_with_more(report))}.",
    )


def _control(report):
    failed = next(c for c in report["controls"] if not c["passed"])
    return (
        "This audit cannot decide: a control failed.",
        f"{CONTROL_NAMES.get(failed['name'], failed['name'])} gave AUC {fmt.auc_interval(failed['auc'], failed['low'], failed['high'])}; they must give 0.5.",
        "keep the run folder and report it; do not use its numbers.",
    )


def _side(report):
    """Images of the smaller class that the audit was given."""
    return min(report["queries"]["members"], report["queries"]["nonmembers"])


def _mda_with_more(report):
    q = report["queries"]
    return minimum_detectable_auc(MORE_IMAGES * q["evaluation_members"], MORE_IMAGES * q["evaluation_nonmembers"], report["permutation"]["critical_z"])


_SENTENCES = {"high": _high, "elevated": _elevated, "not-detected": _not_detected, "order": _order, "few": _few, "few-images": _few, "control": _control}

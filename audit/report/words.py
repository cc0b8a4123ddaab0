"""What a verdict says in sentences: the headline, the reason, what to do next, and the three lists. One source for card, document and JSON.

Numbers are printed by audit.format; a verdict speaks from the lower bound, never from the value. Under rules 2 and 3 (the sets differ, or may) nothing
that an attack found is called a leak: it is a difference. Every function takes a report with null fields, from an older run or a part that failed.
"""

from dataclasses import dataclass

from audit import format as fmt
from audit.halves import HALF_SPLIT_FROM
from audit.report.parts import (  # noqa: F401, look-ups and sentences are read as words.NAME
    BLIND_NOT_CHECKED,
    CONTROL_NAMES,
    api_of,
    attack_of,
    blind_missing,
    blind_of,
    blind_power,
    blind_sentence,
    clears_chance,
    contamination,
    control_row,
    control_sentence,
    curve_images,
    done_rows,
    epsilon_sentences,
    features_sentence,
    finding,
    flags_sentences,
    has_checkpoint,
    headline_auc,
    provenance_sentence,
    reference_of,
    reference_sentence,
    set_level_sentences,
    settings_words,
    terms_words,
    title_of,
    tpr_of,
)
from audit.stats.power import minimum_detectable_auc
from audit.surrogates import is_on_surrogate

ACCESS = {"white-box": "holding the weights", "gray-box": "using only the API", "black-box": "seeing only samples"}
LEVEL_WORDS = {"high": "High", "elevated": "Elevated", "not-detected": "Not detected", "inconclusive": "Inconclusive"}
BELOW_CHANCE = "Below chance: members score lower than non-members. Check which folder is which, or the sign of this attack."
NOT_SEEN_ALWAYS = "Images that were not audited, and attacks not yet known"
PROVENANCE_NOT_CHECKED = "How the split was drawn: not checked yet"
LIMITS = ("It bounds what these attacks find on these images. Stronger attacks may exist.", "Nothing here speaks about images outside the audited sets.")
CROSS_FITTED_LIMIT = "The AUC is that of settings chosen on half of these images, ten times over; the best setting for all of them may do better."
NOT_EVIDENCE = {
    "sets-differ": "not evidence: the sets differ",
    "near": "not evidence: the sets may differ",
    "control": "not evidence: a control failed",
    "order": "not evidence: below chance",
}
MORE_IMAGES = 4  # "n2 images a side would show mda2": four times as many halve the smallest visible leak
LIST_LENGTH = 3
NAMED = 5  # attacks left out for one reason that are named one by one
NEAREST = ("nearest", "nearest_calibrated")
ASKING = "asking for variations of an image"
NULL_ON_SURROGATE = "That no attack on the surrogate found anything is weak evidence"
NULL_IS_WEAK = "That no sample lies close to the members is weak evidence"
RESULT_OF = {"flags": "flagged", "set_level": "p_value", "epsilon_lower_bound": "value"}  # the field that is empty where a part has no result
SPLIT_COMMAND = "python -m audit split FOLDER"


@dataclass(frozen=True)
class VerdictWords:
    """headline, reason, next: sentences; for_, against, not_seen: at most three items each, strongest first; titles: of the three lists."""

    headline: str
    reason: str
    next: str
    for_: tuple[str, ...]
    against: tuple[str, ...]
    not_seen: tuple[str, ...]
    titles: tuple[str, str, str]


def verdict_words(report):
    """VerdictWords of a finished report (a dict as in report.json)."""
    verdict = report["verdict"]
    headline, reason, next_ = _SENTENCES[verdict["kind"]](report)
    not_seen = [] if blind_of(report) else [blind_missing(report)]
    not_seen += [*_failed(report), *_not_resolvable(report), *blind_power(report)]
    not_seen = [*not_seen[: LIST_LENGTH - 1], NOT_SEEN_ALWAYS]
    titles = ("Difference found", "What else explains it", "Could not be seen") if finding(report) == "difference" else ("Speaks for a leak", "Speaks against", "Could not be seen")
    return VerdictWords(headline, reason, next_, tuple(verdict["reasons_for"][:LIST_LENGTH]), tuple(verdict["reasons_against"][:LIST_LENGTH]), tuple(not_seen), titles)


# --- lists ------------------------------------------------------------------------------------------------------------------------------------


def reasons(report):
    """reasons_for, reasons_against and not_tested of report["verdict"], as lists of sentences, strongest first.

    Args: report: a report whose verdict holds kind, headline_attack and tail_attack already.
    """
    head, tail = attack_of(report, report["verdict"]["headline_attack"]), attack_of(report, report["verdict"]["tail_attack"])
    p, point, blind = report["permutation"]["p_value"], tpr_of(tail, 0.01), blind_of(report)
    members, n = curve_images(report)
    for_, against = [], [control_sentence(report, c) for c in report["controls"] if c["passed"] is False]
    if blind and blind["differs"]:
        against.append(blind_sentence(report))
    alone = reference_sentence(report, head)
    if alone:
        against.append(alone)
    judged = "cross-fitted" if report["queries"]["split"] == "cross-fitted" else "held out"
    auc = f"{title_of(head['name'])}{terms_words(report)}: AUC {fmt.value_interval(head['auc'])}, {judged}"
    beyond = clears_chance(head["auc"])
    (for_ if beyond else against).append(auc if beyond else f"{auc}; the interval holds 0.5 or lies below it")
    if point["low"]:
        for_.append(f"{title_of(tail['name'])}: TPR {fmt.tpr_sentence(point, n)}")
    if head["above_all_nonmembers"] and beyond:
        for_.append(f"{fmt.count_of(head['above_all_nonmembers'], members)} members score above all {fmt.count(n)} non-members")
    (for_ if p <= 0.05 else against).append(f"Permutation test over all attacks: {fmt.p_value(p)}")
    if blind and not blind["differs"]:
        (for_ if p <= 0.05 and report["verdict"]["kind"] != "near" else against).append(blind_sentence(report))
    set_p = (report.get("set_level") or {}).get("p_value")
    if set_p is not None:
        (for_ if set_p <= 0.05 else against).append(f"Members against non-members as whole sets: {fmt.p_value(set_p)}")
    for row in done_rows(report):
        if row is not head and row["auc"]["low"] is not None and row["auc"]["low"] <= 0.5:
            against.append(f"{title_of(row['name'])} is near chance: {fmt.value_interval(row['auc'])}")
    if p > 0.05:
        against += [control_sentence(report, c) for c in report["controls"] if c["name"] == "planted_leak" and c["passed"]]
    return {"reasons_for": for_ or ["Nothing found."], "reasons_against": against or ["Nothing found."], "not_tested": not_tested(report)}


def not_tested(report):
    """Everything that this audit did not look at, as sentences; the last one always stands."""
    out = [] if blind_of(report) else [blind_missing(report)]
    provenance = report["queries"].get("provenance")
    out += [PROVENANCE_NOT_CHECKED] if provenance is None else [] if provenance["kind"] == "manifest" else [provenance_sentence(report)]
    ran = access_ran(report)
    out += [f"{model[0].upper()}{model[1:]} attacks, {words}: none ran" for model, words in ACCESS.items() if model not in ran]
    out += weak_null(report)
    said = ("blind_baseline", "verdict.claims", "queries.provenance")
    out += [f"{text[0].upper()}{text[1:]}" for name, text in (report.get("not_checked") or {}).items() if name not in said]
    for name, what in (("nonmembers_twice", "Non-members against non-members"), ("planted_leak", f"Whether a planted {finding(report)} is found")):
        control = next((c for c in report["controls"] if c["name"] == name), None)
        if control is not None and control["passed"] is None:
            out.append(f"{what}: {control.get('reason') or 'not run'}")
    if not any(c["name"] == "bundled_leaky" for c in report["controls"]):
        out.append("Whether these settings work on the bundled checkpoint: python -m audit control DIR")
    for name, what in (("flags", "Flags on single images"), ("set_level", "The set-level test"), ("epsilon_lower_bound", "A lower bound on ε")):
        part = report.get(name) or {}
        if part.get("reason") and part.get(RESULT_OF[name]) in (None, 0):
            out.append(f"{what}: {part['reason']}")
    return [*out, *_failed(report), *_not_resolvable(report), *blind_power(report), NOT_SEEN_ALWAYS]


def access_words(row):
    """What the attacker of a finished attack has: `holding the weights`. Args: row: of report["attacks"]."""
    return ASKING if _asks_for_variations(row) else ACCESS.get(row["threat_model"], "of this kind")


def access_ran(report):
    """Threat models of which an attack finished; whoever needs variations of the image sees more than samples, and does not stand for those who see no more."""
    return {row["threat_model"] for row in done_rows(report) if not _asks_for_variations(row)}


def _asks_for_variations(row):
    return (row.get("needed") or {}).get("access") == "variations"


def weak_null(report):
    """Sentences where nearest samples, or attacks on a surrogate, found nothing: what that is worth; [] where they did, or did not run."""
    pool, said = report.get("pool") or {}, []
    many = f"{fmt.count(pool['images'])} samples" if pool.get("images") else "samples"
    for mine, null in (
        (lambda name: name in NEAREST, f"{NULL_IS_WEAK}: {many} show few of the training images, and other attackers see more in them"),
        (is_on_surrogate, f"{NULL_ON_SURROGATE}: {many} carry over little, and more of them or a longer training may show what this one does not"),
    ):
        ran = [row for row in done_rows(report) if mine(row["name"])]
        said += [null] if ran and not any(clears_chance(row["auc"]) for row in ran) else []
    return said


def limits(report):
    """What the report does not say: the two standing sentences, how the split was drawn, and what trained-on non-members would change."""
    said = [*LIMITS, *(f"{text}." for text in weak_null(report)), provenance_sentence(report)]
    line = contamination(report)
    said += [line] if line else []
    return [*said, CROSS_FITTED_LIMIT] if report["queries"]["split"] == "cross-fitted" else said


def _failed(report):
    rows = [row for row in report["attacks"] if row["status"] != "done"]
    if not rows:
        return []
    alike = {}
    for row in rows:
        alike.setdefault(row["reason"].removesuffix("."), []).append(title_of(row["name"]))
    listed = "; ".join(f"{', '.join(titles if len(titles) <= NAMED else [*titles[: NAMED - 1], f'{len(titles) - NAMED + 1} more'])} ({reason})" for reason, titles in alike.items())
    return [f"{len(rows)} of {len(report['attacks'])} attacks did not run: {listed}."]


def _not_resolvable(report):
    tail, (_, n) = attack_of(report, report["verdict"]["tail_attack"]), curve_images(report)
    return [f"TPR at {fmt.fpr(point['fpr'])} FPR: not resolvable with n = {fmt.count(n)}" for point in tail["tpr_at_fpr"] if point["resolution"] == "none"]


# --- the card's sentences by kind ---------------------------------------------------------------------------------------------------------------


def _high(report):
    tail, head = attack_of(report, report["verdict"]["tail_attack"]), attack_of(report, report["verdict"]["headline_attack"])
    low = tpr_of(tail, 0.01)["low"]
    lead = headline_auc(report)
    ranks = clears_chance(lead)
    if low is not None and (low >= 0.03 or (low >= 0.01 and not ranks)):
        reason = f"An attacker {access_words(tail)} names at least {fmt.percent_down(low)} of these members while wrongly accusing 1 in 100 outsiders."
    elif not ranks:
        reason = f"Members score higher than non-members beyond chance ({fmt.p_value(report['permutation']['p_value'])}, permutation test over all attacks)."
    else:
        reason = f"An attacker {access_words(head)} ranks a random member above a random non-member in at least {fmt.percent_down(lead['low'])} of cases."
    what, kept = ("This checkpoint gives", "do not release these weights") if has_checkpoint(report) else ("These samples give", "do not show such samples")
    train = "Remove duplicates, train for fewer epochs or with flips, audit again and compare."
    return f"{what} {'its' if has_checkpoint(report) else 'their model’s'} training images away.", reason, f"{kept}. {train}"


def _elevated(report):
    head = attack_of(report, report["verdict"]["headline_attack"])
    p = report["permutation"]["p_value"]
    return (
        "Membership leaks, but few single images stand out.",
        f"Members score higher than non-members beyond chance ({fmt.p_value(p)}, AUC {fmt.value_interval(head['auc'])}); few can be named with confidence.",
        f"look at the most exposed images; decide with at least {fmt.count(2 * _side(report))} images a side.",
    )


def _not_detected(report):
    return (
        "No leak detected with these images and attacks.",
        f"{none_told_apart(report)} {not_visible(report)}",
        f"audit {fmt.count(MORE_IMAGES * _side(report))} images a side: that would lower it to AUC {fmt.auc(_mda_with_more(report))}.",
    )


def none_told_apart(report):
    """`None of the 4 attacks told members from non-members better than chance.`"""
    done = len(done_rows(report))
    who = "The one attack that ran did not tell" if done == 1 else f"None of the {done} attacks told"
    return f"{who} members from non-members better than chance."


def not_visible(report):
    """`A leak below AUC 0.58, or one that exposes fewer than 5 % of the members, would not have been seen.`"""
    share = report.get("minimum_detectable_share")
    exposed = "" if share is None else f", or one that exposes fewer than {fmt.percent_up(share)} of the members,"
    what = finding(report)
    return f"A {what} below AUC {visible(report)}{exposed} would not have been seen."


def visible(report):
    """The smallest visible AUC as text."""
    mda = report["minimum_detectable_auc"]
    return "1" if mda is None else fmt.auc(mda)


def _sets_differ(report):
    blind, provenance = blind_of(report), report["queries"].get("provenance") or {}
    measured = "" if blind is None else f" (blind AUC {fmt.value_interval(blind['auc'])})"
    if provenance.get("kind") == "manifest":
        reason = f"The manifest says random, the sets say otherwise: they can be told apart without the model{measured}, so a high score cannot be blamed on it."
        return _SETS_DIFFER, reason, f"find out what tells them apart, draw both sets again ({SPLIT_COMMAND}), train and audit again."
    reason = f"The sets can be told apart without the model{measured}, so a high score cannot be blamed on it."
    return _SETS_DIFFER, reason, f"draw both sets at random from one source ({SPLIT_COMMAND}), then audit again."


def _near(report):
    blind = blind_of(report)
    measured = "" if blind is None else f" (blind AUC {fmt.value_interval(blind['auc'])})"
    helps = "" if reference_of(report) else "; a reference checkpoint helps too"
    return (
        "This audit cannot decide: too close to what a difference between the sets could do.",
        f"Members score higher ({fmt.p_value(report['permutation']['p_value'])}), but not beyond what the images alone could explain{measured}.",
        f"draw both sets at random from one source ({SPLIT_COMMAND}), then audit again{helps}.",
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
        f"With {fmt.count(_side(report))} images a side only a leak above AUC {visible(report)} would show.",
        f"add images; {fmt.count(MORE_IMAGES * _side(report))} a side would show {fmt.auc(_mda_with_more(report))}.",
    )


def _control(report):
    failed = next((c for c in report["controls"] if c["passed"] is False), None)
    if failed is None:
        reason = "A control has no result, and without it no number here can be trusted."
    elif failed["auc"] is None:
        reason = f"{CONTROL_NAMES.get(failed['name'], failed['name'])} gave no result: {failed.get('reason') or 'no reason is stored'}"
    elif failed["name"] == "planted_leak":
        reason = f"A planted leak of AUC {fmt.auc(failed['auc'])} was not found."
    elif failed["name"] == "bundled_leaky":
        shown = fmt.auc_interval(failed["auc"], failed["low"], failed["high"])
        reason = f"With these settings the known leak of the bundled checkpoint was not found: AUC {shown}."
        return "This audit cannot decide: a control failed.", reason, "measure more timesteps or draws, or name no single attack."
    else:
        reason = f"{CONTROL_NAMES.get(failed['name'], failed['name'])} gave AUC {fmt.auc_interval(failed['auc'], failed['low'], failed['high'])}; they must give 0.5."
    return "This audit cannot decide: a control failed.", reason, "keep the run folder and report it; do not use its numbers."


def _side(report):
    """Images of the smaller class that the audit was given."""
    return min(report["queries"]["members"], report["queries"]["nonmembers"])


def _mda_with_more(report):
    """The smallest visible AUC with MORE_IMAGES times as many images; from 400 a side only half of them are judged."""
    more = [MORE_IMAGES * report["queries"][name] for name in ("members", "nonmembers")]
    judged = [n - n // 2 for n in more] if min(more) >= HALF_SPLIT_FROM else more
    return minimum_detectable_auc(*judged, report["permutation"]["critical_z"])


_SETS_DIFFER = "This audit cannot decide: the two sets differ."
_SENTENCES = {
    "high": _high,
    "elevated": _elevated,
    "not-detected": _not_detected,
    "sets-differ": _sets_differ,
    "near": _near,
    "order": _order,
    "few": _few,
    "few-images": _few,
    "control": _control,
}

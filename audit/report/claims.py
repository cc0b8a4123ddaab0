"""What the owner may say about the checkpoint after this audit, and what not, with the numbers filled in.

Allowed sentences follow from the verdict and from the bounds behind it; they carry their own conditions, so that one quoted alone is still true. Blocked ones
are sentences that people are tempted to write. Under rules 2 and 3 nothing that an attack found is called a leak.
"""

from audit import format as fmt
from audit.report.parts import (
    api_of,
    as_sentence,
    attack_of,
    blind_missing,
    blind_of,
    blind_power,
    clears_chance,
    curve_images,
    done_rows,
    finding,
    has_checkpoint,
    headline_auc,
    reference_of,
    terms_words,
    title_of,
    tpr_of,
)
from audit.report.words import ACCESS, access_ran, access_words, none_told_apart, not_visible, verdict_words, visible, weak_null

NAMED_FPR = 0.01
FROM_MODELS = {"white-box": "the weights", "gray-box": "access to the API", "black-box": "samples"}


def claims(report):
    """Sentences that follow from a report, and sentences that do not.

    Args: report: a report whose verdict holds kind, level, headline_attack, tail_attack and the lists of reasons.
    Returns: {"allowed": [{"text", "evidence"}], "blocked": [{"text", "why"}]}; all four are whole sentences, `evidence` names the fields of report.json.
    """
    verdict = report["verdict"]
    allowed = [*_BY_KIND[verdict["kind"]](report)]
    if verdict["level"] in ("high", "elevated"):
        allowed += [*_set_level(report), *_flags(report)]
    if verdict["level"] != "inconclusive":
        allowed += _epsilon(report)
    allowed += _instrument(report)
    blocked = [*_against_verdict(report), *_always(report), *_unresolved(report), *_threat_models(report), *_from_samples(report), *_optimistic(report), *_relative(report)]
    blocked += [*_split(report), *_about_epsilon(report)]
    return {"allowed": [{"text": text, "evidence": evidence} for text, evidence in allowed], "blocked": [{"text": text, "why": why} for text, why in blocked]}


def claims_of(report):
    """The stored claims, or those that follow from a report that was written without them."""
    return report["verdict"].get("claims") or claims(report)


# --- allowed ----------------------------------------------------------------------------------------------------------------------------------


def _head(report):
    return attack_of(report, report["verdict"]["headline_attack"])


def _tail(report):
    return attack_of(report, report["verdict"]["tail_attack"])


def _on(report):
    """`On 225 members and 225 non-members`, with the words that say how they were judged."""
    q = report["queries"]
    how = "cross-fitted" if q["split"] == "cross-fitted" else "held out"
    return f"On {fmt.count(q['evaluation_members'])} members and {fmt.count(q['evaluation_nonmembers'])} non-members, {how}"


def _condition(report):
    """The half-sentence that an unverified split puts after a claim about members."""
    provenance = report["queries"].get("provenance") or {}
    return "" if provenance.get("kind") == "manifest" else ", provided that both sets were drawn as the owner states"


def _attacker(report, row):
    return f"an attacker {access_words(row)} ({title_of(row['name'])}{terms_words(report)})"


def _ranks(report):
    head = _head(report)
    low = fmt.percent_down(headline_auc(report)["low"])
    found = f"in at least {low} of cases (AUC {fmt.value_interval(head['auc'])}){_condition(report)}"
    return (
        f"{_on(report)}, {_attacker(report, head)} ranks a random member above a random non-member {found}.",
        "attacks[].auc of the headline attack",
    )


def _high(report):
    tail = _tail(report)
    point = tpr_of(tail, NAMED_FPR)
    out = [_ranks(report)] if clears_chance(headline_auc(report)) else []  # a high verdict may rest on the TPR alone
    if point["low"] is not None and point["low"] >= 0.01:  # below, it would be printed as 0 %
        names = f"{_on(report)}, {_attacker(report, tail)} names at least {fmt.percent_down(point['low'])} of the members while wrongly accusing 1 in 100 non-members"
        out.append((f"{names}{_condition(report)}.", "attacks[].tpr_at_fpr of the tail attack"))
    return [*out, _beyond_chance(report)]


def _beyond_chance(report):
    p, done = report["permutation"]["p_value"], len(done_rows(report))
    return (
        f"{_on(report)}, members score higher than non-members beyond chance ({fmt.p_value(p)}, permutation test over {done} attacks){_condition(report)}.",
        "permutation.p_value",
    )


def _elevated(report):
    head = _head(report)["auc"]
    few = f"The headline attack has AUC {fmt.value_interval(head)}; few single images can be named with confidence."
    return [_beyond_chance(report), (few, "attacks[].auc, attacks[].tpr_at_fpr")]


def _not_detected(report):
    head = _head(report)["auc"]
    condition = "This holds if none of the non-members was trained on."
    out = [(f"{_on(report)}: {none_told_apart(report)} {not_visible(report)} {condition}", "permutation.p_value, minimum_detectable_auc, minimum_detectable_share")]
    if head["high"] is not None:
        out.append((f"The headline attack has AUC {fmt.value_interval(head)} on these images.", "attacks[].auc of the headline attack"))
    return out


def _undecided(report):
    said = verdict_words(report)
    return [(f"{said.headline} {said.reason}", f"verdict.rule {report['verdict']['rule']}")]


def _set_level(report):
    found = report.get("set_level") or {}
    if found.get("p_value") is None or found["p_value"] > 0.05:
        return []
    return [(f"As a whole, the members score higher than the non-members ({fmt.p_value(found['p_value'])}, one-sided){_condition(report)}.", "set_level.p_value")]


def _flags(report):
    flags = report.get("flags") or {}
    if not flags.get("flagged"):
        return []
    return [(f"{fmt.count_of(flags['flagged'], flags['of'])} held-out images are flagged as likely members, with at most {fmt.percent(flags['q'])} false flags expected.", "flags")]


def _epsilon(report):
    bound = report.get("epsilon_lower_bound") or {}
    out = []
    if bound.get("value"):
        basis = "drawn at random, verified by a manifest" if bound.get("basis") == "manifest" else "drawn at random by the owner's word"
        text = fmt.epsilon(bound["value"], bound["confidence"], bound.get("ceiling"))
        out.append((f"At δ = {fmt.delta(bound['delta'])}, no ε below the lower bound of this audit fits this training: {text}; the split was {basis}.", "epsilon_lower_bound"))
    claim = bound.get("claim") or {}
    if claim.get("contradicted"):
        named = f"The claimed ε = {claim['epsilon']:g} at δ = {fmt.delta(claim['delta'])}"
        out.append((f"{named} is contradicted by this audit ({fmt.p_value(claim['p_value'])}).", "epsilon_lower_bound.claim"))
    return out


def _instrument(report):
    """What may be said about the audit itself, whatever it found."""
    out, provenance, blind = [], report["queries"].get("provenance") or {}, blind_of(report)
    if provenance.get("kind") == "manifest" and report["verdict"]["kind"] != "sets-differ":
        out.append(("The audited images and their labels are those of the manifest; that training kept to it is the owner's word.", "queries.provenance"))
    if blind and not blind["differs"]:
        seen = "".join(f" {text}." for text in blind_power(report))
        out.append((f"A classifier that never sees the model did not tell the sets apart (AUC {fmt.value_interval(blind['auc'])}).{seen}", "blind_baseline"))
    run = [c for c in report["controls"] if c["passed"] is not None]
    if run and all(c["passed"] for c in run):
        out.append((f"{'The control' if len(run) == 1 else f'All {len(run)} controls'} gave the known answer.", "controls"))
    return out


_BY_KIND = {
    "high": _high,
    "elevated": _elevated,
    "not-detected": _not_detected,
    "sets-differ": _undecided,
    "near": _undecided,
    "order": _undecided,
    "few": _undecided,
    "few-images": _undecided,
    "control": _undecided,
}


# --- blocked ----------------------------------------------------------------------------------------------------------------------------------


def _always(report):
    q, done = report["queries"], len(done_rows(report))
    audited = f"{fmt.count(q['evaluation_members'])} + {fmt.count(q['evaluation_nonmembers'])} images"
    attacks = "1 attack" if done == 1 else f"{done} attacks"
    return [
        ("No training data can be recovered from this model.", "This audit asks who was in the training set. It does not try to rebuild images, and bounds nothing about that."),
        ("These weights can be released without risk.", f"The audit bounds what {attacks} find on {audited}. Stronger attacks may exist, and other images were not audited."),
        ("The weights hold no personal data.", "That depends on the images and on the law. The audit measures one signal, membership, and its absence is no proof of absence."),
        ("This one picture was in the training set, and that one was not.", f"Scores are judged as a whole; a single image has no verdict. {_flag_reason(report)}"),
    ]


def _flag_reason(report):
    flags = report.get("flags") or {}
    if not flags.get("flagged"):
        return as_sentence(flags.get("reason") or "No image was flagged")
    rare = next((row for row in flags.get("precision") or [] if row["prior"] == 0.01 and row["value"] is not None), None)
    tail = "" if rare is None else f"; if 1 in 100 images is a member, {fmt.percent(rare['value'])} of the flagged are members"
    return f"A flag may be false in up to {fmt.percent(flags['q'])} of cases on a list like this one{tail}."


def _against_verdict(report):
    kind, head, tail = report["verdict"]["kind"], _head(report), _tail(report)
    what = finding(report)
    if kind in ("high", "elevated"):
        out = [("The model does not memorise.", f"Members score higher than non-members beyond chance ({fmt.p_value(report['permutation']['p_value'])}).")]
        point = tpr_of(tail, NAMED_FPR)
        found = fmt.tpr_sentence(point, curve_images(report)[1])
        if kind == "high":
            return [*out, ("Every training image is exposed.", f"The bounds are about shares of the audited members: {found}, AUC {fmt.value_interval(head['auc'])}.")]
        return [*out, ("An attacker names the training images one by one.", f"Few stand out: {found}.")]
    if kind == "not-detected":
        return [
            ("The model does not memorise.", not_visible(report)),
            ("The attacks have AUC 0.5.", f"The headline attack has AUC {fmt.value_interval(head['auc'])}: the interval is the finding, not its middle."),
        ]
    if kind in ("sets-differ", "near"):
        return [
            ("The model gives its training images away.", f"The attacks found a {what} between the sets, and the images alone may explain it."),
            ("The model does not memorise.", "An audit that cannot decide says nothing for either side."),
            (f"The attacks reach AUC {fmt.auc(head['auc']['value'])} on this model.", "The number measures the sets and the model together; here the two cannot be separated."),
        ]
    if kind == "control":
        return [("The numbers of this audit show something about the model.", "A control whose answer is known came out wrong, so the instrument is not to be trusted.")]
    if kind == "order":
        return [("The model hides its training images well.", "Members score lower than non-members beyond luck: the folders may be swapped, or an attack has the wrong sign.")]
    return [("No leak was found.", f"With so few images only a leak above AUC {visible(report)} would show.")]


def _unresolved(report):
    """TPRs that the number of non-members cannot carry."""
    out, tail, (_, n) = [], _tail(report), curve_images(report)
    for point in tail["tpr_at_fpr"]:
        at = f"at {fmt.fpr(point['fpr'])} FPR"
        if point["resolution"] == "none":
            most = "" if point["high"] is None else f"; at most {fmt.percent_up(point['high'])} is all that can be said"
            out.append((f"No member is found {at}.", f"Not resolvable with n = {fmt.count(n)} non-members{most}."))
        elif point["resolution"] == "coarse" and point["tpr"] is not None:
            need = fmt.LOWER_BOUND_FROM_N.get(point["fpr"])
            enough = "" if need is None else f"; from {fmt.count(need)} it does"
            out.append((f"At least {fmt.percent_down(point['tpr'])} of the members are found {at}.", f"n = {fmt.count(n)} non-members carry no lower bound {at}{enough}."))
    return out


def _threat_models(report):
    ran = access_ran(report)
    return [
        (f"An attacker {ACCESS[model]} learns nothing about membership.", f"No {model} attack ran, so nothing is known about attackers with {FROM_MODELS[model]}.")
        for model in ACCESS
        if model not in ran
    ]


def _from_samples(report):
    """What must not be made of nearest samples that found nothing, and of an audit without the model."""
    out = []
    if weak := weak_null(report):
        out.append(("Somebody who sees only samples cannot tell who was in the training set.", as_sentence(weak[0])))
    if not has_checkpoint(report):
        out.append(("The model was audited.", "Only samples were: no checkpoint was given, so nothing is known about attackers who query the model or hold its weights."))
    return out


def _optimistic(report):
    head = _head(report)
    selection, out = head.get("selection") or {}, []
    best = selection.get("best_of_sweep_auc")
    if best is not None and best > head["auc"]["value"]:
        why = f"It is the largest of {fmt.count(selection['tried'])} settings, chosen on the images that it is measured on."
        out.append((f"The best setting reaches AUC {fmt.auc(best)}.", f"{why} {_held_out(report)} it is {fmt.value_interval(head['auc'])}."))
    if report.get("paper_protocol"):
        out.append(("The numbers of the paper's protocol are this audit's result.", "They choose settings on the images that they are measured on, so they flatter the attack."))
    return out


def _relative(report):
    out = []
    if reference_of(report):
        out.append(("An attacker without another model reaches these numbers.", "Every score here is the checkpoint's minus that of a reference model on the same image."))
    if api_of(report):
        out.append(("These numbers hold for whoever has the weights.", f"Only what the API shows was attacked: {api_of(report)}."))
    return out


def _held_out(report):
    return "Cross-fitted" if report["queries"]["split"] == "cross-fitted" else "Held out"


def _split(report):
    provenance, blind = report["queries"].get("provenance") or {}, blind_of(report)
    kind, out = provenance.get("kind"), []
    if kind != "manifest":
        word = "The owner says so, and no manifest shows it." if kind == "stated-random" else "No manifest shows how they were drawn."
        out.append(("The split is verified as random.", word))
    if blind is None:
        reason = (report.get("blind_baseline") or {}).get("reason")
        why = as_sentence(blind_missing(report)) if reason else "Whether the sets differ without the model was not checked."
        out.append(("Members and non-members come from one source.", why))
    elif not blind["differs"]:
        power = blind_power(report)
        out.append(("The two sets are alike.", f"{power[0]}." if power else "A small difference is never excluded."))
    return out


def _about_epsilon(report):
    bound = report.get("epsilon_lower_bound") or {}
    value = bound.get("value")
    if value is None:
        out = [("Training meets an ε.", f"No lower bound on ε was computed. {as_sentence(bound.get('reason') or 'It needs a split that was drawn at random')}")]
    else:
        text = fmt.epsilon(value, bound["confidence"], bound.get("ceiling"))
        out = [(f"Training meets ε = {fmt.fixed(value, 1)}.", f"An audit bounds ε from below ({text}). Only a proof about the training bounds it from above.")]
    claim = bound.get("claim") or {}
    if claim and not claim.get("contradicted"):
        out.append((f"The claimed ε = {claim['epsilon']:g} is confirmed.", "An audit can contradict a claimed ε, it cannot confirm one."))
    return out

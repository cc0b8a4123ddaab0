"""What the parts of a report say, one function a part: the split, the blind baseline, controls, flags, the set-level test, ε. Look-ups that all words share.

Every function takes a report (a dict as in report.json) whose part may be null: an older run, or a part that failed. Numbers are printed by audit.format.
"""

from audit import format as fmt
from audit.api import api_words
from audit.attacks import ATTACKS

BLIND_NOT_CHECKED = "Whether the sets differ without the model: not checked yet"
CONTROL_NAMES = {
    "shuffled_labels": "Shuffled labels",
    "nonmembers_twice": "Non-members against non-members",
    "planted_leak": "Planted leak",
    "bundled_leaky": "Bundled leaky checkpoint",
}
CONTAMINATED = (0.05, 0.10)  # shares of the non-members that may have been trained on all the same
SHOWS_TOO = "A difference between the sets would show in the same way."
DIFFERENCE_KINDS = ("sets-differ", "near")


def attack_of(report, name):
    """The entry of report["attacks"] with that name."""
    return next(row for row in report["attacks"] if row["name"] == name)


def tpr_of(row, fpr):
    """The entry of row["tpr_at_fpr"] at that false positive rate."""
    return next(point for point in row["tpr_at_fpr"] if abs(point["fpr"] - fpr) < 1e-12)


def title_of(name):
    """An attack's title for people; the bare name when no card is registered."""
    return ATTACKS[name].card.title if name in ATTACKS else name


def reference_of(report):
    """What report["measurement"]["reference"] says of the model whose scores were subtracted, or None."""
    return (report.get("measurement") or {}).get("reference")


def has_checkpoint(report):
    """False where only samples were given, and nothing is known of the model behind them."""
    return (report.get("checkpoint") or {}).get("reason") is None


def api_of(report):
    """`20 steps, 8-bit pictures`: what the API showed that was attacked, in words; None where the model itself was."""
    api = (report.get("measurement") or {}).get("api")
    return api and api_words(api)


def terms_words(report):
    """`, relative to a reference model` and `, through an API that shows …`, after an attack's name or settings; empty where neither holds."""
    shown = api_of(report)
    return (", relative to a reference model" if reference_of(report) else "") + (f", through an API that shows {shown}" if shown else "")


def reference_sentence(report, row):
    """What the reference finds alone at an attack's settings: it cannot know who is a member. None where there is none."""
    if row.get("reference_auc") is None:
        return None
    auc = {"value": row["reference_auc"], **row["reference_interval"]}
    apart = "the images differ, and the reference sees it" if clears_chance(auc) else "no difference of the images shows in it"
    return f"{title_of(row['name'])} on the reference alone: AUC {fmt.value_interval(auc)}; {apart}"


def losses_alone_sentence(report):
    """What the losses of a run with a reference are, where its scores are differences. "" without one."""
    if reference_of(report) is None:
        return ""
    return (
        "The scores of this run are the checkpoint’s minus those of a reference; the losses here are one model’s alone (reference/… : the reference’s), "
        "so no number on this page is one of the report."
    )


def done_rows(report):
    """Entries of report["attacks"] that have scores."""
    return [row for row in report["attacks"] if row["status"] == "done"]


def curve_images(report):
    """(members, non-members) behind a TPR or a drawn curve.

    Under cross-fitting the AUC counts every image, a curve only the evaluation half of the first repeat: `queries.curve_members` and `curve_nonmembers`, or
    half of the images where an older report lacks them.
    """
    q = report["queries"]
    both = q["evaluation_members"], q["evaluation_nonmembers"]
    if q["split"] == "half":
        return both
    return tuple(q.get(name) or n - n // 2 for name, n in zip(("curve_members", "curve_nonmembers"), both, strict=True))


def blind_of(report):
    """report["blind_baseline"], or None where it has no AUC."""
    blind = report.get("blind_baseline")
    return blind if blind and blind.get("auc") and blind["auc"].get("value") is not None else None


def clears_chance(auc):
    """Whether the lower bound of an AUC {value, low, high} lies above 0.5; False where it has none."""
    return auc["low"] is not None and auc["low"] > 0.5


def headline_auc(report):
    """{value, low, high} of the headline attack, with the lower bound that the verdict read: under cross-fitting that is the lower one of its own bound and of
    the bound with the attack chosen per fold."""
    auc = attack_of(report, report["verdict"]["headline_attack"])["auc"]
    return auc if report["queries"]["split"] == "half" else auc | {"low": report["verdict"]["auc_low"]}


def finding(report):
    """What the attacks found is called a "leak", or a "difference" where the sets differ or may."""
    return "difference" if report["verdict"]["kind"] in DIFFERENCE_KINDS else "leak"


# --- the split, the blind baseline, the controls ------------------------------------------------------------------------------------------------


def provenance_sentence(report):
    """How the split was drawn, and on whose word that rests."""
    provenance = report["queries"].get("provenance")
    if provenance is None:
        return "How the split was drawn was not checked."
    if provenance["kind"] == "manifest":
        seed = "" if provenance.get("seed") is None else f", seed {provenance['seed']}"
        sha = provenance.get("manifest_sha256")
        named = f" {fmt.fingerprint(sha)}" if sha else ""
        return f"Split verified by manifest{named}{seed}: the images are those that were drawn at random before training. That training kept to it is the owner's word."
    if provenance["kind"] == "stated-random":
        return "That the split was drawn at random is the owner's word; no manifest shows it."
    why = provenance.get("reason")
    return f"How the split was drawn is the owner's statement; no manifest shows it{f' ({why})' if why else ''}."


def contamination(report):
    """What the AUC would be if some non-members had been in training all the same: 0.5 + (AUC − 0.5)/(1 − c). None for a verified split or no AUC above 0.5."""
    provenance = report["queries"].get("provenance")
    auc = attack_of(report, report["verdict"]["headline_attack"])["auc"]
    named, value = ("an AUC of", auc["value"]) if auc["value"] > 0.5 else ("the upper bound", auc["high"])
    if (provenance and provenance["kind"] == "manifest") or value is None or value <= 0.5:
        return None
    few, more = (fmt.auc(min(1.0, 0.5 + (value - 0.5) / (1 - share))) for share in CONTAMINATED)
    a, b = (fmt.percent(share) for share in CONTAMINATED)
    return f"If {a} of the non-members were in training all the same, {named} {fmt.auc(value)} stands for {few}; if {b} were, for {more}."


def blind_missing(report):
    """Why there is no blind baseline."""
    reason = (report.get("blind_baseline") or {}).get("reason")
    return f"Whether the sets differ without the model: {reason.rstrip('.')}" if reason else BLIND_NOT_CHECKED


def blind_sentence(report):
    """`Blind baseline: AUC 0.512 [0.47, 0.55], p = 0.4: no difference seen without the model`."""
    blind = blind_of(report)
    if blind is None:
        return blind_missing(report)
    if blind["differs"]:
        outcome = "the sets differ without the model"
    else:
        outcome = "the images alone could explain as much" if report["verdict"]["kind"] == "near" else "no difference seen without the model"
    return f"Blind baseline: AUC {fmt.value_interval(blind['auc'])}, {fmt.p_value(blind['p_value'])}: {outcome}"


def blind_power(report):
    """[one sentence] on what the blind baseline could not have seen; [] where it found a difference or did not run."""
    blind = blind_of(report)
    if blind is None or blind["differs"] or blind.get("detectable_auc") is None:
        return []
    return [f"A difference between the sets below AUC {fmt.auc(blind['detectable_auc'])} would not have been seen"]


def feature_title(name):
    """A feature's name for people."""
    return str(name).replace("_", " ")


def features_sentence(report, limit=3):
    """Which single features tell the sets apart, in words."""
    features = (blind_of(report) or {}).get("features") or []
    telling = [f for f in features if f["p_value"] is not None and f["p_value"] <= 0.05]
    if not features:
        return ""
    if not telling:
        return f"None of {fmt.count(len(features))} single features tells the sets apart (largest: {feature_title(features[0]['name'])}, {fmt.p_value(features[0]['p_value'])})."
    said = [f"{feature_title(f['name'])} ({'larger' if f['z'] > 0 else 'smaller'} for members, {fmt.p_value(f['p_value'])})" for f in telling[:limit]]
    more = len(telling) - len(said)
    return f"What tells the sets apart: {', '.join(said)}{f', and {more} more' if more else ''}."


def control_row(report, control):
    """(name, result, meaning) of one control, for a table."""
    name = CONTROL_NAMES.get(control["name"], control["name"])
    if control["passed"] is None or control["auc"] is None:
        return name, "not run", control.get("reason") or "no result"
    if control["name"] == "planted_leak":
        p = "" if control.get("p_value") is None else f" ({fmt.p_value(control['p_value'])})"
        return name, f"AUC {fmt.auc(control['auc'])} planted", f"found{p}, as it must be" if control["passed"] else f"not found{p}: a fault in the instrument"
    if control["name"] == "bundled_leaky":
        outcome = "found with these settings, as it must be" if control["passed"] else "not found: these settings are too weak"
        return name, f"AUC {fmt.auc_interval(control['auc'], control['low'], control['high'])}", outcome
    outcome = "chance, as it must be" if control["passed"] else "not chance: a fault in the instrument"
    return name, f"AUC {fmt.auc_interval(control['auc'], control['low'], control['high'])}", outcome


def control_sentence(report, control):
    """One control as a reason: `Planted leak of AUC 0.63: found (p < 0.001), as it must be`."""
    name, result, outcome = control_row(report, control)
    if control["name"] == "planted_leak" and control["auc"] is not None:
        return f"A planted {finding(report)} of AUC {fmt.auc(control['auc'])}: {outcome}"
    return f"{name}: {result}, {outcome}"


# --- attacks against each other ------------------------------------------------------------------------------------------------------------------


def comparison_cells(row):
    """(difference, p, overlap) of one entry of report["comparisons"], printed; words where there is no number."""
    shared = f"{fmt.count_of(round(row['overlap'] * row['overlap_of']), row['overlap_of'])}"
    if row["p_value"] is None:
        return fmt.difference(row["difference"]), row.get("reason") or "no interval", shared
    return fmt.difference(row["difference"], row["low"], row["high"]), fmt.p_value(row["p_value"]), shared


def comparison_note(report):
    """What the paired comparisons rest on; "" where there are none."""
    rows = report.get("comparisons")
    if not rows:
        return ""
    members, n = curve_images(report)
    images = f"{fmt.count(members)} members + {fmt.count(n)} non-members, evaluation half{'' if report['queries']['split'] == 'half' else ' of the first repeat'}"
    lists = f"by chance two lists of {fmt.count(rows[0]['overlap_of'])} members would share {fmt.fixed(rows[0]['overlap_chance'] * rows[0]['overlap_of'], 0)}"
    return f"AUC minus that of {title_of(rows[0]['b'])}, same images (n = {images}): paired DeLong, 95 % intervals; p after Holm over {fmt.count(len(rows))}; {lists}."


# --- one image, the whole set, ε ----------------------------------------------------------------------------------------------------------------


def flags_sentences(report):
    """What the flags on single images say; [] where the part did not run."""
    flags = report.get("flags")
    if not flags:
        return []
    if flags.get("flagged") is None:
        return [as_sentence(flags.get("reason") or "No image was judged")]
    if not flags["flagged"]:
        none = f"{title_of(flags['attack'])}: none of {fmt.count(flags['of'])} held-out images is flagged with at most {fmt.percent(flags['q'])} false flags expected."
        return [none, as_sentence(flags["reason"])] if flags.get("reason") else [none]
    said = [
        f"{title_of(flags['attack'])}: {fmt.count_of(flags['flagged'], flags['of'])} held-out images are flagged with at most {fmt.percent(flags['q'])} false flags expected; "
        f"{fmt.count(flags['flagged_members'])} of the flagged are members."
    ]
    said += [as_sentence(flags["reason"])] if flags.get("reason") else []
    for row in flags.get("precision") or []:
        if row["value"] is None:
            continue
        mix = "half of all images are" if row["prior"] == 0.5 else f"{fmt.percent(row['prior'])} of all images are"
        bounds = "" if row["low"] is None or row["high"] is None else f" {fmt.percent_bounds(row['low'], row['high'], 1)}"
        said.append(f"Of the flagged images {fmt.percent(row['value'], 1)}{bounds} are members if {mix}.")
    if finding(report) == "difference":
        said.append(SHOWS_TOO)
    return said


def set_level_sentences(report):
    """What the test of members against non-members as whole sets says; [] where the part did not run."""
    found = report.get("set_level")
    if not found:
        return []
    if found.get("p_value") is None:
        return [as_sentence(found.get("reason") or "No result")]
    p = found["p_value"]
    outcome = "higher than" if p <= 0.05 else "no higher, beyond chance, than"
    said = [f"As a whole, the members score {outcome} the non-members ({fmt.p_value(p)}, one-sided Welch test on the mean of all attacks)."]
    if p <= 0.05 and finding(report) == "difference":
        said.append(SHOWS_TOO)
    if found.get("needed") is not None:
        said.append(f"{fmt.count(found['needed'])} images a side give p < 0.01 in half of all draws.")
    return said


def epsilon_sentences(report):
    """The lower bound on ε, what it rests on, and what a claimed (ε, δ) looks like beside it; [] where the part did not run."""
    bound = report.get("epsilon_lower_bound")
    if not bound:
        return []
    if bound.get("value") is None:
        said = [f"No lower bound on ε: {(bound.get('reason') or 'not computed').rstrip('.')}."]
    else:
        text = fmt.epsilon(bound["value"], bound["confidence"], bound.get("ceiling"))
        said = [f"{text}; δ = {fmt.delta(bound['delta'])}, {fmt.count_of(bound['correct'], bound['guesses'])} guesses right."]
        beside = bound.get("equivalents") or {}
        if bound["value"] > 0 and beside.get("two_rate") is not None and beside.get("gdp_mu") is not None:
            said.append(f"Beside it, no bounds: two-rate estimate ε {fmt.fixed(beside['two_rate'], 1)}, Gaussian-DP μ {fmt.fixed(beside['gdp_mu'], 1)}.")
        said.append("It rests on the verified manifest." if bound.get("basis") == "manifest" else "It rests on the owner's word that the split was drawn at random.")
    claim = bound.get("claim")
    if claim and claim.get("p_value") is not None:
        named = f"ε = {claim['epsilon']:g}, δ = {fmt.delta(claim['delta'])}"
        said.append(f"The claimed {named} is contradicted ({fmt.p_value(claim['p_value'])})." if claim["contradicted"] else f"The claimed {named} is not contradicted.")
    return said


def as_sentence(reason):
    """A stored reason with a capital and a full stop."""
    return f"{reason[0].upper()}{reason[1:].rstrip('.')}."


def settings_words(settings):
    """An attack's chosen settings in one line: `mean, by time, t = 82 … 265`; `none` where it has none."""
    if not settings:
        return "none"
    if "statistic" not in settings:
        return ", ".join(f"{name} {value}" for name, value in settings.items())
    if settings["truncate_by"] == "time":
        kept = f"by time, {fmt.window(settings['keep_from'], settings['keep_until'])}"
    else:
        kept = f"by value, smallest {fmt.percent(settings['keep_share'])} kept"
    return f"{settings['statistic']}, {kept}{', low-pass' if settings.get('filter') == 'low-pass' else ''}"

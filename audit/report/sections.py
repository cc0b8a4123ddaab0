"""The content of a report, in parts: the Report page draws the same ones as the offline document, so that what is read there is what is handed over."""

import base64
from html import escape
from typing import NamedTuple

import numpy as np

from audit import format as fmt
from audit.glossary import GLOSSARY
from audit.report import words
from audit.report.claims import claims_of
from audit.report.evidence import evidence
from audit.report.markup import bullets, definitions, pairs, sentences, table
from audit.report.needed import needed_words, pool_words
from audit.report.palette import VERDICTS
from audit.report.parts import comparison_cells, comparison_note

THUMBNAILS = 24  # most exposed members shown when thumbnails are asked for
THUMBNAIL_BYTES = 64_000
HEIGHT = 290  # px; below 300 the axis titles are the short ones, which fit a phone and half a printed page
FPRS = (0.1, 0.01, 0.001)
SPLITS = {"half": "half chose the settings, half was measured", "cross-fitted": "ten times two-fold cross-fitted"}
MARKS = {"high": "\u2b23", "elevated": "\u25b2", "not-detected": "\u25cb", "inconclusive": "?"}  # hexagon, triangle, ring: shapes before colour, in every font


class Section(NamedTuple):
    """One part of the document. html: escaped markup without script or style; figures: Plotly figures that follow it, as (caption, function of no arguments)."""

    key: str
    title: str
    html: str
    figures: tuple = ()


def sections(run, thumbnails=False):
    """The document's parts in order.

    Args: run: audit.report.run.Run; thumbnails: also show the most exposed training images.
    Returns: list of Section. The first holds the verdict card and has no title.
    """
    parts = [
        Section("verdict", "", _verdict(run.report)),
        Section("access", "What an attacker needs", "", _access_figures(run)),
        Section("audited", "What was audited", _audited(run.report)),
        Section("sound", "Is the instrument sound?", sound(run.report), _feature_figures(run.report)),
        Section("attacks", "Attacks", _attacks(run.report)),
        Section("protections", "What protections of an API cost an attacker", *_protections(run)),
        Section("roc", "How many members, at what false alarm rate?", _legend(run), _roc_figures(run)),
        Section("signal", "Where the signal sits", "", _signal_figures(run)),
        Section("thresholds", "What a threshold does", _thresholds(run.report)),
        Section("single", "Single images", sentences(words.flags_sentences(run.report))),
        Section("whole", "The set as a whole", _whole(run.report)),
        Section("epsilon", "A lower bound on ε", sentences(words.epsilon_sentences(run.report))),
    ]
    parts = [part for part in parts if part.html or part.figures]
    if thumbnails:
        parts.append(Section("exposed", "Most exposed images", _exposed(run)))
    return [
        *parts,
        Section("claims", "What you may say, and what not", _claims(run.report)),
        Section("limits", "What this report does not say", _limits(run.report)),
        *_paper(run.report),
        Section("evidence", "Where the numbers come from", _evidence(run)),
        Section("left_out", "Files left out", _left_out(run.report)),
        Section("words", "Words", definitions(GLOSSARY.items())),
        Section("versions", "Versions and cost", _versions(run.report)),
    ]


def _verdict(report):
    said, level = words.verdict_words(report), report["verdict"]["level"]
    look = VERDICTS[level]
    lists = "".join(f"<div><h3>{title}</h3>{bullets(items)}</div>" for title, items in zip(said.titles, (said.for_, said.against, said.not_seen), strict=True))
    return (
        f'<div class="card {level}"><p class="level"><b>{MARKS[level]} {escape(look.word)}</b></p><h2>{escape(said.headline)}</h2><p>{escape(said.reason)}</p>'
        f'<p><b>Next:</b> {escape(said.next)}</p><div class="columns">{lists}</div></div>'
    )


def _access_figures(run):
    from audit.report import figures

    words = "The strongest attack for each kind of access, chosen on the calibration half, with 95 % intervals; more access can also run what stands above it."
    return ((f"{words} {_held_out_words(run)}", lambda: figures.ladder_figure(run)),)


def _held_out_words(run):
    """n behind a figure drawn from the stored scores; below 400 a side also why its numbers differ a little from the tables."""
    from audit.report import series

    members, n = series.held_out_counts(run)
    crossed = run.report["queries"]["split"] == "cross-fitted"
    why = ", evaluation half of the first of 10 cross-fitting repeats; the tables print the mean over all of them" if crossed else ""
    return f"n = {fmt.count(members)} members + {fmt.count(n)} non-members held out{why}."


def _audited(report):
    queries, made, measured = report["queries"], report["preprocessing"], report["measurement"]
    t = measured["timesteps"]
    rows = [
        ("Run", f"{report['run']['name']} ({report['run']['id']}), started {fmt.iso(report['run']['created'])}"),
        *_model(report),
        *_samples(report),
        ("Query images", f"{fmt.count(queries['members'])} members, {fmt.count(queries['nonmembers'])} non-members; {SPLITS[queries['split']]}"),
        ("Held out", f"{fmt.count(queries['evaluation_members'])} members, {fmt.count(queries['evaluation_nonmembers'])} non-members"),
        ("Preprocessing", f"crop {made['crop']}, filter {made['filter']}, size {_size(made['size'])}"),
        ("Model calls", f"{fmt.count(measured['model_calls'])}, {fmt.count(measured['model_calls_per_image'])} per image"),
    ]
    if t:
        grid = f"{fmt.count(len(t))} timesteps, {fmt.window(t[0], t[-1])}, {fmt.count(measured['draws'])} noise draws each"
        rows.insert(-1, ("Measured", f"{grid}, seed {measured['seed']}, {measured['precision']}"))
    return pairs(rows)


def _model(report):
    """What was recognised in the checkpoint, or that there was none."""
    checkpoint = report["checkpoint"]
    channels, height, width = checkpoint["image_shape"]
    if not words.has_checkpoint(report):
        return [("Checkpoint", f"none: {checkpoint['reason']}"), ("Compared as", f"images of {width} × {height} × {channels}")]
    return [
        ("Checkpoint", f"{checkpoint['format']}, {checkpoint['architecture']}, {fmt.millions(checkpoint['parameters'])} parameters, weights: {checkpoint['weights']}"),
        ("SHA-256", checkpoint["sha256"]),
        *_reference(report),
        *([("Seen through an API", f"{words.api_of(report)}; a timestep counts the steps shown")] if words.api_of(report) else []),
        ("Predicts", f"{checkpoint['prediction_type']}, {fmt.count(checkpoint['train_timesteps'])} timesteps, images of {width} × {height} × {channels}"),
        *((f"Setting {setting['name']}", f"{setting['value']}, from {setting['decided_by']}") for setting in checkpoint["settings"]),
    ]


def _samples(report):
    """The pool of samples, where there is one."""
    pool = report.get("pool")
    return [("Samples", pool_words(pool)), ("SHA-256 of the samples", pool["sha256"])] if pool else []


def _reference(report):
    other = words.reference_of(report)
    if other is None:
        return []
    size = f"{fmt.millions(other['parameters'])} parameters, SHA-256 {other['sha256']}"
    return [("Reference", f"{other['format']}, {other['architecture']}, {size}; every score is the checkpoint's minus its")]


def sound(report):
    """The checks of the instrument itself as markup: controls, blind baseline, duplicates, how the split was drawn. The Verdict page shows the same."""
    rows = [words.control_row(report, control) for control in report["controls"]]
    test = report["permutation"]
    rows.append(("Permutation test over all attacks", fmt.p_value(test["p_value"]), f"{fmt.count(test['draws'])} relabellings, both score kinds"))
    tried = report["self_test"]
    if tried:
        rows.append(("Self-test of the checkpoint", f"denoising error {fmt.number(tried['error'])}", f"predicting no noise has {fmt.number(tried['baseline'])}"))
    visible, share = report["minimum_detectable_auc"], report.get("minimum_detectable_share")
    smallest = f"Smallest visible {words.finding(report)}"
    rows.append((smallest, "not resolvable" if visible is None else f"AUC {fmt.auc(visible)}", "what this many images would show 4 times in 5"))
    if share is not None:
        rows.append((f"{smallest}, few members", f"{fmt.percent_up(share)} of the members, fully exposed", "what this many images would show 4 times in 5"))
    rows += [_blind(report), _duplicates(report["queries"]["duplicates"])]
    rows.append(("How the split was drawn", _provenance(report), words.provenance_sentence(report)))
    return table(("check", "result", "meaning"), rows) + sentences([text for text in (words.features_sentence(report),) if text])


def _blind(report):
    blind = words.blind_of(report)
    if blind is None:
        return "Blind baseline", "not computed" if (report.get("blind_baseline") or {}).get("reason") else "not checked yet", words.blind_missing(report)
    meaning = "the sets differ without the model" if blind["differs"] else "no difference seen without the model"
    power = "".join(f". {text}" for text in words.blind_power(report))
    return "Blind baseline", f"AUC {fmt.value_interval(blind['auc'])}, {fmt.p_value(blind['p_value'])}", meaning + power


def _duplicates(counts):
    near, clusters = counts.get("near"), counts.get("clusters")
    found = f"{fmt.count(counts['exact'])} exact, {'near ones not checked' if near is None else f'{fmt.count(near)} near'}"
    kept = f"; {fmt.count(clusters)} groups of near duplicates inside one set stay in one half" if clusters else ""
    return "Duplicates left out", found, (counts.get("rule") or "Equal images are kept once inside a set, and removed where they stand in both") + kept


def _provenance(report):
    kind = (report["queries"].get("provenance") or {}).get("kind")
    return {"manifest": "verified by manifest", "stated-random": "random, by the owner's word", "stated": "stated by the owner"}.get(kind, "not checked")


def _feature_figures(report):
    from audit.report import figures

    blind = words.blind_of(report)
    if blind is None or not blind.get("features"):
        return ()
    caption = "Each image feature alone: how far members and non-members stand apart, in standard deviations of chance."
    return ((caption, lambda: figures.features_figure(blind["features"], height=HEIGHT)),)


def _attacks(report):
    members, n = words.curve_images(report)
    found, chosen = [], []
    for row in sorted(report["attacks"], key=lambda row: -row["auc"]["value"] if row["status"] == "done" else 1):
        name = words.title_of(row["name"])
        if row["status"] != "done":
            found.append((name, row["threat_model"], f"{row['status']}: {row['reason']}", *[""] * len(FPRS)))
            continue
        found.append((name, row["threat_model"], fmt.value_interval(row["auc"]), *(fmt.tpr(words.tpr_of(row, at), members, n) for at in FPRS)))
        calls, needs = fmt.count(row["model_calls_per_image"]), needed_words(row) or ""
        chosen.append((name, words.settings_words(row["settings"]), fmt.auc(row["selection"]["calibration_auc"]), fmt.p_value(row["p_value"]), calls, needs))
    heads = ("attack", "threat model", "AUC [95 % interval]", *(f"TPR at {fmt.fpr(at)} FPR" for at in FPRS))
    settings = ("attack", "settings chosen on the calibration half", "AUC there", "permutation", "calls per image", "what the attacker needs")
    warnings = "".join(f"<p>{escape(text)}</p>" for text in report["warnings"])
    warnings += sentences([text for row in words.done_rows(report) if (text := words.reference_sentence(report, row))])
    note = f"n = {_judged(report)}. Intervals: DeLong, logit-t (AUC); binomial mixture (TPR)."
    return f"{table(heads, found, 'wide')}<p class='note'>{escape(note)}</p>{warnings}{table(settings, chosen, 'wide')}{_compared(report)}"


def _compared(report):
    """The other attacks against the headline attack, pair by pair; nothing where one attack ran or an older version made the report."""
    rows = report.get("comparisons")
    if not rows:
        return ""
    heads = ("attack", f"AUC minus that of {words.title_of(rows[0]['b'])}", "p", f"in common among the {fmt.count(rows[0]['overlap_of'])} most exposed")
    cells = [(words.title_of(row["a"]), *comparison_cells(row)) for row in rows]
    return f"{table(heads, cells, 'wide')}<p class='note'>{escape(comparison_note(report))}</p>"


def _protections(run):
    """(markup, figures) of a sweep over protections; empty where none was measured."""
    from audit.report import protected

    found = protected.protections_of(run)
    if found is None:
        return "", ()
    heads, rows = protected.table(found, run, attacks=3)
    caption = "Each attack through one API after another, with 95 % intervals; to the left is better for the owner."
    return f"{table(heads, rows, 'wide')}<p class='note'>{escape(protected.note(found))}</p>", ((caption, lambda: protected.figure(found, run)),)


def _judged(report):
    """How many images stand behind the attacks' numbers, and how they were kept apart from choosing."""
    q, (members, n) = report["queries"], words.curve_images(report)
    if q["split"] == "half":
        return f"{fmt.count(members)} members + {fmt.count(n)} non-members, never used for choosing settings"
    every = f"{fmt.count(q['evaluation_members'])} members + {fmt.count(q['evaluation_nonmembers'])} non-members for the AUC, cross-fitted"
    return f"{every}; {fmt.count(members)} + {fmt.count(n)} for the TPR, evaluation half of the first repeat"


def _legend(run):
    """Line samples with names, above both ROC figures: a legend inside them would cover the curves on a narrow page."""
    from audit.report import figures, series

    dashes = {"solid": "solid", "dash": "dashed", "dot": "dotted"}
    lines = []
    for name, (colour, width, dash) in figures.look(run, series.done(run)[:4]).items():
        _, title, threat_model = series.card(name)
        lines.append(f"<span><i style='border-top: {width}px {dashes[dash]} {colour}'></i>{escape(title)} <small>{escape(threat_model)}</small></span>")
    return f"<p class='legend'>{''.join(lines)}</p>"


def _roc_figures(run):
    from audit.report import figures, series

    members, n = series.held_out_counts(run)
    chosen = series.done(run)[:4]
    area = ", ".join(f"{series.card(name)[0]} {fmt.auc(series.attack_roc(run, name).area)}" for name in chosen)
    counts = f"n = {fmt.count(members)} members + {fmt.count(n)} non-members held out"
    return (
        (f"Log-log: the few confident accusations. {counts}.", lambda: figures.roc_figure(run, chosen, log=True, height=HEIGHT)),
        (f"Linear: the whole ranking. Areas: {area}. {counts}.", lambda: figures.roc_figure(run, chosen, height=HEIGHT)),
    )


def _signal_figures(run):
    from audit.report import figures, series

    losses = series.signal_table(run)
    if losses is None:
        return ()
    members, n = series.held_out_counts(run)
    caption = f"AUC of each timestep alone ({losses}); shaded: the window chosen on the calibration half. n = {fmt.count(members)} members + {fmt.count(n)} non-members held out."
    return ((caption, lambda: figures.auc_figure(run, height=HEIGHT)),)


def _exposed(run):
    scores = run.scores_of(run.report["verdict"]["headline_attack"])
    mine = run.evaluation & run.is_member
    outsiders = np.sort(scores[run.evaluation & ~run.is_member])
    cells = []
    for i in np.flatnonzero(mine)[np.argsort(-scores[mine], kind="stable")][:THUMBNAILS]:
        above = int(np.searchsorted(outsiders, scores[i], side="left"))
        cells.append(
            f"<figure>{_picture(run.folder, run.image_ids[i])}<figcaption>{escape(run.paths[i])}<br>above {fmt.count_of(above, len(outsiders))} non-members</figcaption></figure>"
        )
    return f"<p>Held-out members with the highest scores. These are training images: handle this document like them.</p><div class='pictures'>{''.join(cells)}</div>"


def _picture(folder, image_id):
    """The stored thumbnail as a data address; image ids are hex, and anything else is refused, so that no name from a file leads out of the folder."""
    file = folder / "thumbnails" / f"{image_id}.png"
    if not all(c in "0123456789abcdef" for c in image_id) or not file.is_file() or file.stat().st_size > THUMBNAIL_BYTES:
        return "<p>no thumbnail</p>"
    return f'<img alt="member {image_id}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'


def _thresholds(report):
    """Thresholds from the calibration half, counted on the other: one table for the headline and the tail attack."""
    from audit.report import figures

    names = dict.fromkeys((report["verdict"]["headline_attack"], report["verdict"]["tail_attack"]))
    rows = []
    for name in names:
        for point in words.attack_of(report, name).get("at_threshold") or ():
            head = words.title_of(name), fmt.fpr(point["fpr"])
            if point["threshold"] is None:
                rows.append((*head, point.get("reason") or "not set", "", "", "", ""))
                continue
            found = f"{fmt.percent(point['tpr'], 1)} {fmt.percent_bounds(point['tpr_low'], point['tpr_high'], 1)}"
            false = f"{fmt.percent(point['fpr_achieved'], 1)} {fmt.percent_bounds(point['fpr_low'], point['fpr_high'], 1)}"
            rows.append((*head, figures.score_text(point["threshold"]), found, false, fmt.number(point["balanced_accuracy"]), fmt.number(point["f1"])))
    if not rows:
        return ""
    heads = ("attack", "FPR aimed at", "member from score", "TPR [95 %]", "FPR achieved [95 %]", "balanced accuracy", "F1")
    note = "Set on the calibration half, counted on the evaluation half. This is what one threshold does; the TPR at a fixed FPR above answers another question."
    return f"{table(heads, rows, 'wide')}<p class='note'>{escape(note)}</p>"


def _whole(report):
    said, curve = words.set_level_sentences(report), (report.get("set_level") or {}).get("images_needed") or []
    rows = [(fmt.count(row["images"]), fmt.p_value(row["median_p"]), fmt.percent(row["share_below"])) for row in curve]
    return sentences(said) + (table(("images a side", "median p", "draws with p < 0.01"), rows) if rows else "")


def _claims(report):
    made = claims_of(report)
    may = bullets(f"{claim['text']} ({claim['evidence']})" for claim in made["allowed"])
    return f"<h3>You may say</h3>{may}<h3>You may not say</h3>{table(('sentence', 'why not'), [(claim['text'], claim['why']) for claim in made['blocked']])}"


def _limits(report):
    said = words.limits(report)
    not_seen = [text for text in report["verdict"]["not_tested"] if text not in said]
    return f"{bullets(said)}<h3>Not tested</h3><div class='two'>{bullets(not_seen)}</div>"


def _paper(report):
    """The paper's own protocol, its label first; nothing where it was not computed."""
    paper = report.get("paper_protocol")
    if not paper:
        return []
    truncated = fmt.percent(paper["truncated_share"])
    dropped = {"none": "every timestep", "time": f"noisiest {truncated} left out", "value": f"largest {truncated} left out"}
    rows = [(row["statistic"], dropped.get(row["truncation"], row["truncation"]), *(_spread(row[name]) for name in ("auc", "accuracy", "f1"))) for row in paper["rows"]]
    heads = ("statistic", "timesteps", *(f"{name}: mean, median [min, max]" for name in ("AUC", "accuracy", "F1")))
    note = f"Loss table {paper.get('table', '')}, {fmt.count(paper['repeats'])} random draws of {fmt.count(paper['subset'])} images a side, threshold at the median score."
    return [Section("paper", "The paper's own protocol (optimistic)", sentences([paper["label"], f"{note} Source: {paper['source']}."]) + table(heads, rows, "wide"))]


def _spread(summary):
    return f"{fmt.number(summary['mean'])}, {fmt.number(summary['median'])} {fmt.bounds(summary['min'], summary['max'], 3)}"


def _evidence(run):
    """Every headline number with what it was computed from; long, so folded. DIR in the commands is the run folder."""
    folded = []
    for entry in evidence(run).values():
        rows = [*entry.rows(run), *(("recompute" if i == 0 else "this number alone", command) for i, command in enumerate(entry.recompute))]
        folded.append(f"<details><summary>{escape(entry.what)}: {escape(entry.value)}</summary>{pairs(rows)}</details>")
    return f"<p>DIR is the run folder.</p>{''.join(folded)}"


def _left_out(report):
    q = report["queries"]
    if not q["left_out"]:
        return "<p>No file was left out.</p>"
    return table(("file", "set", "reason"), [(row["path"], row.get("set", ""), row["reason"]) for row in q["left_out"]])


def _versions(report):
    cost = report["cost"]
    rows = [(name, str(version)) for name, version in report["versions"].items()]
    rows += [
        ("measured on", str(cost["device"])),
        ("measuring took", fmt.duration(cost["seconds"])),
        ("speed", f"{fmt.number(cost['throughput'], 1)} images/s"),
        ("whole run took", fmt.duration(report["run"]["seconds"])),
    ]
    return pairs(rows)


# --- markup -----------------------------------------------------------------------------------------------------------------------------------


def _size(size):
    return " × ".join(str(side) for side in size) if isinstance(size, list) else str(size)

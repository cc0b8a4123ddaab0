"""What protections cost an attacker, drawn and said: from protections.json of a run folder (audit/protections.py). No Streamlit, no torch."""

from html import escape

import plotly.graph_objects as go

from audit import format as fmt
from audit.errors import RunFolderError
from audit.protections import in_full, read
from audit.report import figures, palette, series

TPR_FPR = 0.1  # a few hundred images carry a lower bound here, at 1 % they do not
DRAWN = 4  # attacks in colour
CAPTION = (
    "Settings are those that the run chose for the bare model, at the nearest steps that are shown; changes are paired, on the same images. "
    "An attacker who tunes for a protection may do better: this is what it costs one who does not."
)


def protections_of(run):
    """The content of protections.json where it is there, can be read and belongs to this run; else None. Args: run: audit.report.run.Run."""
    try:
        found = read(run.folder)
    except RunFolderError:
        return None
    return found if found and found["checkpoint"] == run.report["checkpoint"]["sha256"] and found["run"] == run.report["run"]["id"] else None


def leading(found, run):
    """Names of the measured attacks, the best on the calibration half first, so that the order owes nothing to the numbers shown."""
    names = [row["name"] for row in _done(found)[0]["attacks"]] if _done(found) else []
    calibrated = {row["name"]: row["selection"]["calibration_auc"] for row in run.report["attacks"] if row["status"] == "done"}
    return sorted(names, key=lambda name: -calibrated.get(name, 0))


def _done(found):
    return [entry for entry in found["sweep"] if entry["status"] == "done"]


def spot(entry, name, measure):
    """(value, low, high) of one attack at one entry; None where it has no scores. Args: measure: "AUC", or "TPR" at 10 % FPR."""
    row = next((row for row in entry["attacks"] if row["name"] == name and row["status"] == "done"), None)
    if row is None:
        return None
    if measure == "AUC":
        return row["auc"]["value"], row["auc"]["low"], row["auc"]["high"]
    point = next(point for point in row["tpr_at_fpr"] if abs(point["fpr"] - TPR_FPR) < 1e-12)
    return None if point["tpr"] is None else (point["tpr"], point["low"], point["high"])


def cell(entry, name, measure, images):
    """The same as text, `…` words where there is no number. Args: images: of protections.json."""
    row = next((row for row in entry["attacks"] if row["name"] == name), None)
    if row is None or row["status"] != "done":
        return "" if row is None else f"failed: {row['reason']}"
    if measure == "AUC":
        return fmt.value_interval(row["auc"])
    return fmt.tpr(next(point for point in row["tpr_at_fpr"] if abs(point["fpr"] - TPR_FPR) < 1e-12), images["members"], images["nonmembers"])


def table(found, run, measure="AUC", attacks=None):
    """(heads, rows) as text: what is shown, then one column an attack, then by how much the first of them changed against no API with its p after Holm."""
    names = leading(found, run)[:attacks]
    heads = ["the API shows", *(series.card(name)[0] for name in names), *([f"{series.card(names[0])[0]}: change of AUC", "p, Holm"] if names else [])]
    rows = []
    for entry in found["sweep"]:
        if entry["status"] != "done":
            rows.append([entry["shows"], f"skipped: {entry['reason']}", *[""] * (len(heads) - 2)])
            continue
        change = next((row["difference"] for row in entry["attacks"] if row["name"] == names[0] and row["status"] == "done"), None)
        said = ["", ""] if change is None else [fmt.difference(change["value"], change["low"], change["high"]), "" if change["p_value"] is None else fmt.p_value(change["p_value"])]
        rows.append([entry["shows"], *(cell(entry, name, measure, found["images"]) for name in names), *said])
    return heads, rows


def note(found):
    """n, and what was held fixed."""
    images = found["images"]
    relative = " Scores are relative to the reference." if found["relative_to_reference"] else ""
    settings = sum(entry["api"] is not None for entry in _done(found))
    holm = f"p after Holm over the {fmt.count(settings)} APIs of one attack."
    return f"{CAPTION} {holm} n = {fmt.count(images['members'])} members + {fmt.count(images['nonmembers'])} non-members of the held-out images.{relative}"


def lines(found):
    """What the command prints: one line for each entry and attack."""
    said = []
    for entry in found["sweep"]:
        head = f"{entry['shows']} ({in_full(entry['api'])})"
        said.append(f"{head}: skipped, {entry['reason']}" if entry["status"] != "done" else head)
        for row in entry["attacks"]:
            change = row.get("difference")
            p = f", {fmt.p_value(change['p_value'])}" if change and change["p_value"] is not None else ""
            by = f", {fmt.difference(change['value'], change['low'], change['high'])} against no API{p}" if change else ""
            said.append(f"  {series.card(row['name'])[1]}: " + (f"AUC {fmt.value_interval(row['auc'])}{by}" if row["status"] == "done" else f"failed: {row['reason']}"))
    return [*said, note(found)]


def figure(found, run, measure="AUC", height=520):
    """One line of the picture for each API, the attacks beside each other with 95 % bars: the first four in colour, the rest pale.

    Args: found: of `protections_of`; run: Run; measure: as in `spot`. Returns: go.Figure.
    """
    entries, names = _done(found), leading(found, run)
    fig, low = go.Figure(), 1.0
    step = 0.62 / max(1, min(len(names), DRAWN) - 1)
    for k, name in list(enumerate(names))[::-1]:
        coloured = k < DRAWN
        colour = palette.SERIES[k] if coloured else palette.MUTED
        points = [(row, found_) for row, entry in enumerate(entries) if (found_ := spot(entry, name, measure))]
        shift = (k - (min(len(names), DRAWN) - 1) / 2) * step if coloured and len(names) > 1 else 0.0
        bars = [(0, 0) if lo is None or hi is None else (hi - value, value - lo) for _, (value, lo, hi) in points]
        low = min([low, *(value if lo is None else lo for _, (value, lo, _) in points)])
        error = {"type": "data", "symmetric": False, "array": [up for up, _ in bars], "arrayminus": [down for _, down in bars], "color": colour, "thickness": 1.5, "width": 0}
        short, title = escape(series.card(name)[0]), measure_title(measure)
        said = [f"<b>{short}</b>, {escape(entries[row]['shows'])}<br>{title} {escape(cell(entries[row], name, measure, found['images']))}" for row, _ in points]
        fig.add_scatter(
            x=[value for _, (value, _, _) in points], y=[row + shift for row, _ in points], mode="markers", name=short if coloured else "others",
            marker={"symbol": palette.MARKER["gray-box"] if k == 0 else MARKS[k % len(MARKS)] if coloured else "line-ns-open", "size": 9 if coloured else 7, "color": colour},
            error_x=error if coloured else None, cliponaxis=False, showlegend=coloured or k == DRAWN, legendrank=k, meta={"attack": name},
            text=said, hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    figures.style(fig, height, description=_alt(entries, names, measure))
    ticks = {"tickvals": list(range(len(entries))), "ticktext": [escape(entry["shows"]) for entry in entries], "ticks": "", "automargin": True}
    fig.update_yaxes(title={"text": ""}, range=[len(entries) - 0.4, -0.6], showgrid=True, **ticks)
    fig.update_xaxes(title={"text": measure_title(measure)}, showgrid=True)
    if measure == "AUC":
        fig.update_xaxes(range=[min(0.44, low - 0.02), 1.02], tickvals=[v / 10 for v in range(11)])
        chance = 0.5
    else:
        fig.update_xaxes(range=[-0.01, 1.02], tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=[fmt.fpr(v) for v in (0, 0.25, 0.5, 0.75, 1)])
        chance = TPR_FPR
    fig.add_scatter(
        x=[chance, chance], y=[-0.6, len(entries) - 0.4], mode="lines", line={"color": palette.MUTED, "width": 1, "dash": "dot"}, name="chance", hoverinfo="skip", showlegend=False
    )
    return fig


MARKS = ("square", "circle", "diamond", "triangle-up")


def measure_title(measure):
    """Title of an axis or column."""
    return "AUC" if measure == "AUC" else f"TPR at {fmt.fpr(TPR_FPR)} FPR"


def _alt(entries, names, measure):
    if not entries or not names:
        return "No protection could be measured"
    values = [(entry["shows"], found[0]) for entry in entries if (found := spot(entry, names[0], measure))]
    if not values:
        return f"{series.card(names[0])[0]} has no {measure_title(measure)} at any API"
    (start, first), (weakest, least) = values[0], min(values, key=lambda pair: pair[1])
    shown = fmt.auc if measure == "AUC" else fmt.percent
    return f"{series.card(names[0])[0]}: {measure_title(measure)} {shown(first)} with {start}, lowest {shown(least)} with {weakest}"

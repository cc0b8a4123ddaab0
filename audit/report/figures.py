"""Plotly figures of an open run; no Streamlit, so that pages and the offline document draw the same ones.

Every figure is drawn from stored scores or tables (`audit.report.series`), never from a number of report.json, and works on light and dark ground:
the ground is transparent, series colours come from one palette, text and grid follow the page. A figure carries its own description for screen
readers, `alt(fig)`, and the buttons that it may show, `config(fig)`.
"""

from html import escape
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from audit import format as fmt
from audit.report import labels, palette, prices, series
from audit.report.parts import feature_title
from audit.stats.tpr import tpr_at_fpr

TRANSPARENT = "rgba(0,0,0,0)"
GRID = palette.rgba(palette.MUTED, 0.28)
TEMPLATE = go.layout.Template(layout={"xaxis": {"gridcolor": GRID, "linecolor": palette.MUTED}, "yaxis": {"gridcolor": GRID, "linecolor": palette.MUTED}})
ZOOM_BUTTONS, SAVE_BUTTON = [["zoom2d", "resetScale2d", "toImage"]], [["toImage"]]  # the default bar costs seven Tab stops a chart
FPR_TITLE, TPR_TITLE = "false positive rate (outsiders wrongly accused)", "true positive rate (members found)"
FULL_HEIGHT = 300  # px; below, titles and words beside the plot are the short ones
T_TITLE = "timestep t   (less noise → more noise)"
STRIP = 1.55  # the grey strip left of 1/n is this factor wide
LEAST_SPAN = (0.5, 0.7)  # colours of the map span at least these AUCs, so that noise does not look like signal
IMAGE_MARKERS = ("circle", "square", "diamond", "x", "cross")
UNITS = {"eps_mse": "noise error", "x0_mse": "image error", "vlb_bits": "bits per dimension", "x0_8bit_mse": "error of the 8-bit image"}
UNITS |= {"eps_mse_low": "noise error, coarse structure", "x0_mse_low": "image error, coarse structure"}


def style(fig, height, legend=True, zoom=False, top=12, description=""):
    """Everything that all figures share.

    Args: fig: changed in place; height in px; legend: horizontal, above the plot; zoom: zoom buttons beside the SVG button;
        top: px above the plot without mode bar or legend; description: one sentence with the finding, for screen readers.
    Returns: fig.
    """
    shared = {
        "template": TEMPLATE,
        "height": height,
        "margin": {"l": 56, "r": 16, "t": max(top, 30 if zoom else 12) + (18 if legend else 0), "b": 48},
        "font": {"size": 13},
        "paper_bgcolor": TRANSPARENT,
        "plot_bgcolor": TRANSPARENT,
        "dragmode": False,
        "hovermode": "closest",
        "showlegend": legend,
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "bgcolor": TRANSPARENT},
        "meta": {"alt": description, "zoom": zoom},
    }
    layout = fig.layout.to_plotly_json()
    for name in dict.fromkeys(("xaxis", "yaxis", *(part for part in layout if part[1:5] == "axis"))):
        axis = {"zeroline": False, "ticks": "outside", "ticklen": 4} | ({"showline": True, "showgrid": False} if name[0] == "x" else {})
        shared[name] = layout.get(name, {}) | axis | {"title": layout.get(name, {}).get("title", {}) | {"standoff": 8}}
    fig.layout = layout | shared  # as a whole: Plotly's update_layout takes six times as long
    return fig


def alt(fig):
    """What the figure shows, in one sentence."""
    return fig.layout.meta["alt"]


def config(fig):
    """Plotly's config for this figure: few buttons, SVG, no logo."""
    buttons = ZOOM_BUTTONS if fig.layout.meta["zoom"] else SAVE_BUTTON
    return {"modeBarButtons": buttons, "displaylogo": False, "toImageButtonOptions": {"format": "svg"}}


def _share_axis(log=False, low=None, title=None):
    """A probability axis: 0 % 25 % …, or 0.1, 1, 10, 100 % alone where it is logarithmic (the default 2 and 5 ticks are noise)."""
    values = [0.001, 0.01, 0.1, 1.0] if log else [0, 0.25, 0.5, 0.75, 1]
    axis = {"tickvals": values, "ticktext": [fmt.fpr(v) for v in values], "title": {"text": title}, "minor": {"ticks": "", "showgrid": False}}
    if log:
        return axis | {"type": "log", "range": [float(np.log10(low)), 0.012]}
    return axis | {"range": [-0.01, 1.015]}


def score_text(value):
    """A score or a loss with four digits that count: `1.444`, `−0.01203`."""
    decimals = 3 if value == 0 else max(0, 3 - int(np.floor(np.log10(abs(value)))))
    return fmt.number(float(value), min(decimals, 9))


def look(run, attacks):
    """{attack: (colour, width, dash)}: the first four in colour, the first 3 px wide, the rest a grey hairline; dash by threat model."""
    looks = {}
    for i, name in enumerate(attacks):
        coloured = i < len(palette.SERIES)
        dash = palette.DASH.get(run.attack(name)["threat_model"], "solid")
        looks[name] = (palette.SERIES[i] if coloured else palette.MUTED, 3 if i == 0 else 2 if coloured else 1, dash)
    return looks


# --- ROC --------------------------------------------------------------------------------------------------------------------------------------


def roc_figure(run, attacks, log=False, threshold=None, height=315, legend=False):
    """ROC curves on the held-out images, with the 95 % band of the first attack and a dotted diagonal.

    Args: run: Run; attacks: canonical names, finished ones, the first stands out; log: both axes logarithmic from 1/n up;
        threshold: audit.report.series.Flagged drawn as a diamond, or None.
    Returns: go.Figure; ≤ 300 points a curve, and curves are corners of the full curve, whose area hover and legend print.
    """
    members, n = series.held_out_counts(run)
    floor_x, floor_y = 1 / n, 1 / members
    fig, looks = go.Figure(), look(run, attacks)
    if attacks:
        _band(fig, run, attacks[0], log, floor_y)
    low = min(floor_x, floor_y) if log else 0
    _chance(fig, [low, 1], [low, 1])
    for name in reversed(attacks):  # the first stands on top where curves coincide
        _curve(fig, run, name, looks[name], log, floor_x, floor_y)
    if threshold is not None and (not log or threshold.tpr > 0):
        x = max(threshold.fpr, floor_x) if log else threshold.fpr
        words = f"{fmt.share(threshold.tpr, members)} of members at {fmt.share(threshold.fpr, n)} FPR"
        mark = {"symbol": "diamond", "size": 13, "color": palette.CHOSEN, "line": {"color": "white", "width": 1.5}}
        hover = f"<b>threshold</b><br>{words}<extra></extra>"
        fig.add_scatter(x=[x], y=[threshold.tpr], mode="markers", marker=mark, cliponaxis=False, name="threshold", showlegend=False, hovertemplate=hover)
    style(fig, height, legend=legend, zoom=True, description=_roc_alt(run, attacks, log))
    fig.update_layout(legend_traceorder="reversed")
    if log:
        _log_ground(fig, n, min(floor_y, floor_x), height)
    else:
        fig.update_xaxes(**_share_axis())
        fig.update_yaxes(**_share_axis())
    titles = (FPR_TITLE, TPR_TITLE) if height >= FULL_HEIGHT else (title.partition(" (")[0] for title in (FPR_TITLE, TPR_TITLE))
    for update, title in zip((fig.update_xaxes, fig.update_yaxes), titles, strict=True):
        update(title={"text": title})
    return fig


def _curve(fig, run, name, drawn_as, log, floor_x, floor_y):
    roc = series.attack_roc(run, name)
    short, _, _ = series.card(name)
    few = series.cached(run, ("drawn", name), lambda: series.drawn(roc))
    x, y = (np.maximum(few.fpr, floor_x), np.maximum(few.tpr, floor_y)) if log else (few.fpr, few.tpr)
    colour, width, dash = drawn_as
    fig.add_scatter(
        x=x.tolist(),
        y=y.tolist(),
        mode="lines",
        name=escape(short),
        line={"color": colour, "width": width, "dash": dash},
        text=_corners(few),
        hovertemplate=f"<b>{escape(short)}</b><br>%{{text}}<br>area {fmt.auc(round(roc.area, 12))}<extra></extra>",
        meta={"attack": name, "area": roc.area},
    )


def _chance(fig, x, y, where=None):
    """The dotted line of guessing."""
    line = {"color": palette.MUTED, "width": 1, "dash": "dot"}
    fig.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="chance", **(where or {}))


def _corners(roc):
    """Hover text of each corner."""
    return [f"TPR {fmt.percent(b, 1)} at FPR {fmt.percent(a, 2)}" for a, b in zip(roc.fpr, roc.tpr, strict=True)]


def _band(fig, run, name, log, floor_y):
    fpr, low, high = series.attack_band(run, name)
    if log:
        low = np.maximum(low, floor_y)
    _ribbon(fig, fpr, low, high, palette.CHOSEN, shape="hv")  # bounds step where the resolution does: a slanted edge would invent values between


def _ribbon(fig, x, low, high, colour, opacity=palette.BAND_OPACITY, name="95 % band", legend=False, row=None, shape="linear"):
    """A filled band: its lower edge, then its upper edge filled down to it."""
    where = {} if row is None else {"row": row, "col": 1}
    edge = {"x": np.asarray(x).tolist(), "mode": "lines", "line": {"width": 0, "shape": shape}, "hoverinfo": "skip", "legendgroup": name}
    fig.add_scatter(y=_plain(low), showlegend=False, name=name, **edge, **where)
    fig.add_scatter(y=_plain(high), fill="tonexty", fillcolor=palette.rgba(colour, opacity), showlegend=legend, name=name, **edge, **where)


def _plain(values):
    """A list for Plotly, None where nothing was measured."""
    return [float(v) if np.isfinite(v) else None for v in values]


def _log_ground(fig, n, low_y, height):
    """Log axes that start at 1/n, and the strip left of it that says why."""
    edge = 1 / n / STRIP
    fig.update_xaxes(**_share_axis(True, edge))
    fig.update_yaxes(**_share_axis(True, low_y))
    fig.add_shape(type="rect", x0=edge, x1=1 / n, y0=0, y1=1, yref="paper", fillcolor=palette.rgba(palette.MUTED, 0.22), line_width=0, layer="below")
    words = f"n = {fmt.count(n)}: nothing below 1/{fmt.count(n)} can be seen" if height >= FULL_HEIGHT else f"nothing below 1/{fmt.count(n)}"
    fig.add_annotation(x=float(np.log10(edge / n) / 2), y=0.5, yref="paper", text=words, textangle=-90, showarrow=False, font={"size": 11})


def _roc_alt(run, attacks, log):
    if not attacks:
        return "ROC without a curve: no attack is chosen"
    _, n = series.held_out_counts(run)
    found = []
    for name in attacks[:4]:
        roc = series.attack_roc(run, name)
        at = 0.01 if n >= 100 else 0.1
        where = f"finds {fmt.percent(roc.tpr_at(at))} of members at {fmt.fpr(at)} FPR" if log else f"has area {fmt.auc(round(roc.area, 12))}"
        found.append(f"{series.card(name)[0]} {where}")
    return f"ROC, {'log-log' if log else 'linear'}: " + "; ".join(found)


def comparison_figure(curves, height=315):
    """Linear ROC of a few curves computed on the spot.

    Args: curves: [(label, audit.stats.roc.Roc, colour, dash)], labels from this program.
    """
    fig = go.Figure()
    _chance(fig, [0, 1], [0, 1])
    for i, (label, roc, colour, dash) in enumerate(curves):
        few = series.drawn(roc)
        line = {"color": colour, "width": 3 if i == 0 else 2, "dash": dash}
        hover = f"<b>{label}</b><br>%{{text}}<br>area {fmt.auc(round(roc.area, 12))}<extra></extra>"
        fig.add_scatter(x=few.fpr.tolist(), y=few.tpr.tolist(), mode="lines", name=label, line=line, text=_corners(few), hovertemplate=hover, meta={"area": roc.area})
    said = "; ".join(f"{label} has area {fmt.auc(round(roc.area, 12))}" for label, roc, *_ in curves)
    style(fig, height, description=f"ROC, linear: {said}")
    fig.update_xaxes(**_share_axis(title="false positive rate"))
    fig.update_yaxes(**_share_axis(title="true positive rate"))
    return fig


# --- attacks and what they cost -------------------------------------------------------------------------------------------------------------------

ZERO_AT = -0.42  # where 0 calls stand on an axis of log10(calls)
PRICES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000)
SIDE_BY_SIDE, SPREAD = 0.055, 0.16  # points of the same price: their distance, and the most for all of them, on that axis
CALLS_TITLE = "model calls per image, at the chosen setting"


def pareto_figure(run, measure="AUC", height=430):
    """What each attack finds against what it costs, with 95 % bars, and a stepped line along the best for each price.

    Args: run: Run; measure: AUC, or TPR at 1 % FPR.
    Returns: go.Figure, or None where no attack has a value. Points of the same price stand side by side; names never cover each other.
    """
    found = prices.spots(run, measure)
    if not found:
        return None
    headline, best = run.report["verdict"]["headline_attack"], prices.best_for_the_price(found)
    xs, (left, right), (low, high) = _side_by_side(found), _price_range(found), _worth_range(found, measure)
    fig, edge = go.Figure(), right - 0.02
    line = {"color": palette.rgba(palette.CHOSEN, 0.65), "width": 2, "shape": "hv"}
    x, y = [_price_at(spot.calls) for spot in best], [spot.value for spot in best]
    fig.add_scatter(x=[*x, edge], y=[*y, y[-1]], mode="lines", line=line, name="best for the price", hoverinfo="skip", meta={"attacks": [spot.name for spot in best]})
    for access in dict.fromkeys(spot.threat_model for spot in found):
        for lead in (False, True):
            mine = [spot for spot in found if spot.threat_model == access and (spot.name == headline) == lead]
            if mine:
                name, colour = (f"headline attack, {escape(access)}", palette.CHOSEN) if lead else (escape(access), palette.ACCESS.get(access, palette.MUTED))
                _spots(fig, run, mine, [xs[spot.name] for spot in mine], name, colour, measure)
    title = "AUC" if measure == "AUC" else f"TPR at {fmt.fpr(prices.TPR_FPR)} FPR (members found)"
    style(fig, height, description=_pareto_alt(found, best, measure, run))
    _label(fig, found, best, xs, (left, right), (low, high), height - fig.layout.margin.t - fig.layout.margin.b)
    ticks = ([0] if left < ZERO_AT else []) + [p for p in PRICES if left <= np.log10(p) <= right]
    fig.update_xaxes(title={"text": CALLS_TITLE}, range=[left, right], tickvals=[_price_at(p) for p in ticks], ticktext=[fmt.count(p) for p in ticks])
    fig.update_yaxes(title={"text": title}, range=[low, high], showgrid=True)
    if measure == "AUC":
        fig.update_yaxes(tickvals=[v / 10 for v in range(11)])
        _chance(fig, [left, right], [0.5, 0.5])
    else:
        fig.update_yaxes(tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=[fmt.fpr(v) for v in (0, 0.25, 0.5, 0.75, 1)])
    if left < ZERO_AT:  # the axis is broken between 0 and 1
        fig.add_shape(type="line", x0=ZERO_AT / 2, x1=ZERO_AT / 2, y0=0, y1=1, yref="paper", line={"color": palette.MUTED, "width": 1, "dash": "dot"}, layer="below")
    return fig


def _spots(fig, run, mine, xs, name, colour, measure):
    text = [f"<b>{escape(spot.short)}</b><br>{_worth(run, spot, measure)}<br>{fmt.calls(spot.calls)}" for spot in mine]
    bars = [(0, 0) if spot.low is None or spot.high is None else (spot.high - spot.value, spot.value - spot.low) for spot in mine]
    error = {"type": "data", "symmetric": False, "array": [up for up, _ in bars], "arrayminus": [down for _, down in bars], "color": colour, "thickness": 1.5, "width": 3}
    mark = {"symbol": palette.MARKER.get(mine[0].threat_model, "x"), "size": 13 if colour == palette.CHOSEN else 9, "color": colour}
    fig.add_scatter(
        x=xs, y=[spot.value for spot in mine], mode="markers", marker=mark, error_y=error, name=name, text=text, hovertemplate="%{text}<extra></extra>", cliponaxis=False,
        meta={"attacks": [spot.name for spot in mine]},
    )  # fmt: skip


def _worth(run, spot, measure):
    """The value with its interval, as tables print it."""
    if measure == "AUC":
        return f"AUC {fmt.auc_interval(spot.value, spot.low, spot.high)}"
    members, n = series.held_out_counts(run)
    return f"TPR {fmt.tpr(tpr_at_fpr(series.held_out_scores(run, spot.name), series.held_out_members(run), prices.TPR_FPR).to_json(), members, n)}"


def _price_at(calls):
    return float(np.log10(calls)) if calls else ZERO_AT


def _side_by_side(found):
    """{attack: x}; those of the same price next to each other around it."""
    xs = {}
    for calls in {spot.calls for spot in found}:
        mine = [spot.name for spot in found if spot.calls == calls]
        step = min(SIDE_BY_SIDE, SPREAD / max(1, len(mine) - 1))
        xs |= {name: _price_at(calls) + step * (i - (len(mine) - 1) / 2) for i, name in enumerate(mine)}
    return xs


def _price_range(found):
    calls = [spot.calls for spot in found]
    left = ZERO_AT - 0.25 if 0 in calls else -0.3
    return left, max(np.log10(max(*calls, 10)) + 0.3, left + 1.6)


def _worth_range(found, measure):
    """Never narrower than 0.2 and with 0.5 inside for an AUC, so that noise does not look like signal; room for names above the highest point."""
    if measure == "TPR":
        return -0.02, 1.08
    low = min(0.46, *(spot.value if spot.low is None else spot.low for spot in found)) - 0.02
    high = max(0.66, *(spot.value if spot.high is None else spot.high for spot in found))
    return low, high + 0.08 * (high - low)


def _label(fig, found, best, xs, across, up, height):
    """The short names, each in a free place; a line leads back to a point that is not next to its name."""
    (left, right), (low, high) = across, up

    def down(value):
        return (high - value) / (high - low) * height

    def along(x):
        return (x - left) / (right - left)

    points = []
    for spot in found:
        bar = (down(spot.value if end is None else end) for end in (spot.low, spot.high))
        points.append(labels.Point(spot.short, along(xs[spot.name]), down(spot.value), *bar, above=spot in best))
    ends = [_price_at(spot.calls) for spot in best[1:]] + [right]
    steps = [(along(_price_at(spot.calls)), along(end), down(spot.value)) for spot, end in zip(best, ends, strict=True)]
    for spot, (dx, dy) in zip(found, labels.place(points, height, steps), strict=True):
        far = abs(dy) > labels.FAR or abs(dx) > labels.FAR + labels.CHAR * len(spot.short)
        line = {"arrowhead": 0, "arrowwidth": 1, "standoff": 7, "arrowcolor": palette.rgba(palette.MUTED, 0.8 if far else 0)}
        fig.add_annotation(x=xs[spot.name], y=spot.value, ax=dx, ay=dy, text=escape(spot.short), font={"size": 12}, showarrow=True, xanchor="center", yanchor="middle", **line)


def _pareto_alt(found, best, measure, run):
    steps = "; ".join(f"{spot.short} with {_worth(run, spot, measure)} for {fmt.calls(spot.calls)}" for spot in best)
    return f"{measure} against model calls per image for {fmt.count(len(found))} attacks; best for the price: {steps}"


def _rung(run, spot):
    return f"{spot.short}, {_worth(run, spot, 'AUC')}" if spot else "none ran"


def ladder_figure(run, height=190):
    """The ladder of access: for each threat model, least access first, the AUC of its strongest attack with its 95 % interval; `none ran` where there is none.

    Strongest on the calibration half, measured on the held-out images.
    """
    rungs, headline = prices.ladder(run), run.report["verdict"]["headline_attack"]
    fig, known = go.Figure(), [spot for _, spot in rungs if spot]
    low = min([0.46, *(spot.value if spot.low is None else spot.low for spot in known)]) - 0.02
    for row, (access, spot) in enumerate(rungs):
        if spot is None:
            fig.add_annotation(x=0.52, y=row, text="none ran", showarrow=False, xanchor="left", font={"size": 12})
            fig.add_scatter(x=[None], y=[row], mode="markers", name=access, hoverinfo="skip", meta={"attack": None})
            continue
        colour = palette.CHOSEN if spot.name == headline else palette.ACCESS[access]
        bar = (0, 0) if spot.low is None or spot.high is None else (spot.high - spot.value, spot.value - spot.low)
        error = {"type": "data", "symmetric": False, "array": [bar[0]], "arrayminus": [bar[1]], "color": colour, "thickness": 2, "width": 5}
        fig.add_scatter(
            x=[spot.value], y=[row], mode="markers", marker={"symbol": palette.MARKER[access], "size": 12, "color": colour}, error_x=error, name=access, cliponaxis=False,
            text=[f"<b>{escape(spot.short)}</b><br>{_worth(run, spot, 'AUC')}"], hovertemplate="%{text}<extra></extra>", meta={"attack": spot.name},
        )  # fmt: skip
        right = spot.value < 0.72
        at = (spot.high if right else spot.low) if spot.low is not None else spot.value
        words = f"{escape(spot.short)}  {fmt.auc_interval(spot.value, spot.low, spot.high)}"
        fig.add_annotation(x=at, y=row, text=words, showarrow=False, xanchor="left" if right else "right", xshift=10 if right else -10, font={"size": 12})
    said = "; ".join(f"{access} {_rung(run, spot)}" for access, spot in rungs)
    style(fig, height, legend=False, description=f"Strongest attack by access: {said}")
    _chance(fig, [0.5, 0.5], [-0.6, len(rungs) - 0.4])
    fig.update_xaxes(title={"text": "AUC"}, range=[low, 1.03], tickvals=[v / 10 for v in range(11)], showgrid=True)
    names = {"tickvals": list(range(len(rungs))), "ticktext": [access for access, _ in rungs], "ticks": "", "automargin": True}
    fig.update_yaxes(title={"text": "attacker’s access"}, range=[len(rungs) - 0.4, -0.6], **names)
    return fig


# --- the sets without the model -------------------------------------------------------------------------------------------------------------------


def features_figure(features, height=240, limit=8):
    """Which single image features tell members from non-members, without the model: one bar a feature, the farthest first.

    Full bars: p ≤ 0.05, adjusted for looking at all of them; hatched bars: no more than chance gives.

    Args: features: rows {name, z, p_value} of report.json's blind_baseline, sorted by |z|; limit: bars.
    """
    rows = [row for row in features if row["z"] is not None][:limit]
    names, z = [feature_title(row["name"]) for row in rows], [float(row["z"]) for row in rows]
    telling = [row["p_value"] is not None and row["p_value"] <= 0.05 for row in rows]
    colours = [palette.CHOSEN if told else palette.MUTED for told in telling]
    pattern = {"shape": ["" if told else palette.NONMEMBER_PATTERN for told in telling], "fillmode": "replace", "size": 5, "solidity": 0.35}
    text = ["" if row["p_value"] is None else fmt.p_value(row["p_value"]) for row in rows]
    fig = go.Figure()
    fig.add_bar(
        x=z, y=[escape(name) for name in names], orientation="h", marker={"color": colours, "pattern": pattern, "line": {"width": 0}}, text=text, textposition="outside",
        cliponaxis=False, name="features", hovertemplate="<b>%{y}</b><br>z = %{x:.1f}, %{text}<extra></extra>",
    )  # fmt: skip
    told = [f"{name} (z = {fmt.fixed(value, 1)})" for name, value, tells in zip(names, z, telling, strict=True) if tells]
    style(fig, height, legend=False, description=f"Image features that tell the sets apart: {', '.join(told[:3]) or 'none beyond chance'}; {len(rows)} shown")
    reach = max(4.0, max((abs(value) for value in z), default=0.0) * 1.35)  # room for the p beside the longest bar
    fig.update_xaxes(title={"text": "z   (smaller for members ← → larger for members)" if height >= FULL_HEIGHT else "z   (members smaller ← → larger)"}, range=[-reach, reach])
    fig.update_yaxes(title={"text": "feature"}, autorange="reversed", automargin=True, ticks="")
    fig.add_shape(type="line", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"color": palette.MUTED, "width": 1})
    return fig


# --- scores -----------------------------------------------------------------------------------------------------------------------------------


def histogram_figure(run, attack, threshold=None, height=215):
    """Held-out scores of one attack: hatched non-members behind, members in front, and the threshold of a Flagged.

    The first and last bar hold everything beyond them, so that a few far images do not squeeze the rest.
    """
    scores, labels = series.held_out_scores(run, attack), series.held_out_members(run)
    edges, beyond = series.histogram_edges(scores)
    centres, clipped = (edges[:-1] + edges[1:]) / 2, np.clip(scores, edges[0], edges[-1])
    fig, tallest = go.Figure(), 1
    hatch = {"shape": palette.NONMEMBER_PATTERN, "fgcolor": palette.NONMEMBER, "size": 5, "solidity": 0.35}
    span = [f"{score_text(a)} to {score_text(b)}" for a, b in pairwise(edges)]
    hatched, full = {"color": palette.rgba(palette.NONMEMBER, 0.25), "pattern": hatch}, {"color": palette.rgba(palette.MEMBER, 0.72)}
    for name, mine, fill in (("non-members", ~labels, hatched), ("members", labels, full)):
        counts, _ = np.histogram(clipped[mine], edges)
        tallest = max(tallest, int(counts.max()))
        fig.add_bar(
            x=centres.tolist(), y=counts.tolist(), width=float(edges[1] - edges[0]), name=name, marker={"line": {"width": 0}, **fill}, text=span, textposition="none",
            hovertemplate=f"<b>{name}</b><br>%{{y}} images with score %{{text}}<extra></extra>",
        )
    said = f"Scores of {series.card(attack)[0]}: median {score_text(np.median(scores[labels]))} for members, {score_text(np.median(scores[~labels]))} for non-members"
    style(fig, height, description=said)
    fig.update_layout(barmode="overlay", bargap=0)
    fig.update_xaxes(title={"text": "score   (less like a member → more like a member)"})
    fig.update_yaxes(title={"text": "images", "standoff": 16}, range=[0, 1.25 * tallest], nticks=5)  # room for the words beside the threshold
    if threshold is not None and np.isfinite(threshold.threshold):
        _threshold_line(fig, float(np.clip(threshold.threshold, edges[0], edges[-1])), edges, 1.14 * tallest)
    fig.layout.meta = {**fig.layout.meta, "beyond": int(beyond)}
    return fig


def _threshold_line(fig, at, edges, height):
    """The violet line with its diamond and the words that say which side is flagged."""
    late = at > edges[0] + 0.8 * (edges[-1] - edges[0])
    fig.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line={"color": palette.CHOSEN, "width": 3})
    fig.add_annotation(x=at, y=height, text="flagged →", showarrow=False, xanchor="right" if late else "left", xshift=-10 if late else 10, font={"size": 12})
    mark = {"symbol": "diamond", "size": 12, "color": palette.CHOSEN, "line": {"color": "white", "width": 1.5}}
    fig.add_scatter(x=[at], y=[height], mode="markers", marker=mark, showlegend=False, name="threshold", hoverinfo="skip")


# --- along t ------------------------------------------------------------------------------------------------------------------------------------


def auc_figure(run, table=None, height=240):
    """AUC of each timestep alone on the held-out images, with both bands; the calibrated window is shaded.

    Args: table: a stored table, by default series.signal_table's.
    """
    table = table or series.signal_table(run)
    fig = go.Figure()
    _auc_traces(fig, run, table, None)
    style(fig, height, legend=False, description=_auc_alt(run, table))
    fig.update_layout(hovermode="x")
    fig.update_xaxes(title={"text": T_TITLE}, range=_t_range(run, table))
    fig.update_yaxes(title={"text": "AUC"}, range=_auc_range(run, table))
    shade(fig, run, table)
    return fig


def _t_range(run, table):
    t = run.tables[table].scored_timesteps
    pad = max(1.0, 0.012 * float(t[-1] - t[0]))
    return [float(t[0]) - pad, float(t[-1]) + pad]


def _auc_range(run, table):
    """Never narrower than 0.2, with 0.5 inside, so that noise does not look like signal."""
    along = series.auc_along(run, table)
    low, high = np.nanmin([np.nanmin(along.auc), np.nanmin(along.low, initial=1)]), np.nanmax([np.nanmax(along.auc), np.nanmax(along.high, initial=0)])
    low, high = min(low, 0.46), max(high, 0.66)
    return [float(max(low - 0.02, -0.01)), float(min(high + 0.02, 1.02))]


def _auc_traces(fig, run, table, row, legend=False):
    where = {} if row is None else {"row": row, "col": 1}
    along = series.auc_along(run, table)
    t = along.timesteps
    _chance(fig, [int(t[0]), int(t[-1])], [0.5, 0.5], where)
    _ribbon(fig, t, along.low, along.high, palette.CHOSEN, name="95 % interval over images", legend=legend, row=row)
    if np.isfinite(along.noise_sd).any():
        _ribbon(fig, t, along.auc - along.noise_sd, along.auc + along.noise_sd, palette.CHOSEN, 0.42, name="± 1 sd between noise draws", legend=legend, row=row)
    mode = "lines" if len(t) > 1 else "markers"
    text = [_auc_hover(*values) for values in zip(along.auc, along.low, along.high, along.noise_sd, strict=True)]
    line, hover = {"color": palette.CHOSEN, "width": 2.5}, "t = %{x}: AUC %{text}<extra></extra>"
    fig.add_scatter(x=t.tolist(), y=_plain(along.auc), mode=mode, line=line, name="AUC, this timestep alone", showlegend=legend, text=text, hovertemplate=hover, **where)


def _auc_hover(value, low, high, noise):
    interval = fmt.auc_interval(value, None if np.isnan(low) else low, None if np.isnan(high) else high)
    return interval if np.isnan(noise) else f"{interval}, noise sd {fmt.auc(noise)}"


def _auc_alt(run, table):
    along = series.auc_along(run, table)
    at = int(along.timesteps[along.best])
    return f"AUC per timestep of {table}: largest {fmt.auc(along.auc[along.best])} at t = {at}, {fmt.auc(along.auc[-1])} at the noisy end"


def shade(fig, run, table, label=False):
    """Shade the window that the calibration half chose on this table, through all panels; nothing where it truncates by value."""
    attack = series.attack_of(run, table)
    window = series.calibrated_window(run, attack) if attack else None
    if window is None or window.truncate_by != "time":
        return
    colour = palette.rgba(palette.CHOSEN, 0.11)
    fig.add_shape(type="rect", x0=window.keep_from, x1=window.keep_until, y0=0, y1=1, xref="x", yref="paper", fillcolor=colour, line_width=0, layer="below")
    if label:
        fig.add_annotation(x=(window.keep_from + window.keep_until) / 2, y=1, yref="paper", yanchor="top", text="calibrated window", showarrow=False, font={"size": 12})


def trajectories_figure(run, table, gap=True, share=0.5, images=(), height=500, legend=True):
    """Medians and bands of the loss per timestep over all images, above the AUC of each timestep alone on the held-out ones; one x axis.

    Args: table: stored table with a timestep axis; gap: in % of the non-member median, else the loss itself on a log axis;
        share: 0.5 or 0.8, the central share that a band holds; images: up to five positions among the N images;
        legend: False where the page draws `trajectories_legend` itself, which wraps on small screens.
    """
    t, members, nonmembers = series.spreads(run, table, share, gap)
    fig = go.Figure().set_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.05)
    counts = (int((~run.is_member).sum()), int(run.is_member.sum()))
    for name, spread, colour, dash, n in (("non-members", nonmembers, palette.NONMEMBER, "dash", counts[0]), ("members", members, palette.MEMBER, "solid", counts[1])):
        _ribbon(fig, t, spread.low, spread.high, colour, 0.2, name=f"{name} band", row=1)
        text = [_loss_hover(v, gap) for v in spread.median]
        fig.add_scatter(
            x=t.tolist(), y=_plain(spread.median), mode="lines", line={"color": colour, "width": 3, "dash": dash}, name=f"{name} (n = {fmt.count(n)})", text=text,
            hovertemplate=f"{name}: %{{text}}<extra></extra>", row=1, col=1,
        )
    for marker, position in zip(IMAGE_MARKERS, images, strict=False):
        _image_trace(fig, run, table, position, marker, gap)
    _auc_traces(fig, run, table, 2, legend=True)
    style(fig, height, legend=legend, zoom=True, description=_trajectories_alt(t, members, nonmembers, table, gap) + ". " + _auc_alt(run, table))
    fig.update_layout(hovermode="x unified")
    fig.update_xaxes(range=_t_range(run, table))
    fig.update_xaxes(title={"text": T_TITLE}, row=2, col=1)
    title = "loss, % above or below the<br>non-member median" if gap else f"loss, {UNITS.get(table, escape(table))}"
    fig.update_yaxes(title={"text": title}, row=1, col=1)
    if gap:
        fig.update_yaxes(ticksuffix=f"{fmt.NARROW}%", range=_gap_range(members, nonmembers), row=1, col=1)
    else:
        fig.update_yaxes(type="log", dtick=1, tickformat="~g", minor={"ticks": "", "showgrid": False}, row=1, col=1)
    fig.update_yaxes(title={"text": "AUC"}, range=_auc_range(run, table), nticks=5, row=2, col=1)
    shade(fig, run, table, label=True)
    return fig


def trajectories_legend(run, table, images=()):
    """[(colour, width in px, dash, name, note)] of what `trajectories_figure` draws; a band is a thick pale line."""
    members = int(run.is_member.sum())
    lines = [(palette.NONMEMBER, 3, "dash", "non-members", f"n = {fmt.count(len(run.is_member) - members)}"), (palette.MEMBER, 3, "solid", "members", f"n = {fmt.count(members)}")]
    for sign, position in zip("●■◆✕+", images, strict=False):
        lines.append((palette.MUTED, 1, "solid", f"{sign} {str(run.image_ids[position])[:8]}", _kind(run, position)))
    lines.append((palette.CHOSEN, 3, "solid", "AUC, this timestep alone", ""))
    lines.append((palette.rgba(palette.CHOSEN, 0.24), 10, "solid", "95 % interval over images", ""))
    if run.tables[table].draws > 1:
        lines.append((palette.rgba(palette.CHOSEN, 0.6), 10, "solid", "± 1 sd between noise draws", ""))
    return lines


def _kind(run, position):
    return "member" if run.is_member[position] else "non-member"


def _image_trace(fig, run, table, position, marker, gap):
    t, losses = series.image_losses(run, table, position)
    if gap:
        losses = series.gap_to(losses, series.spreads(run, table, 0.5, False)[2].median)
    label = escape(f"{str(run.image_ids[position])[:8]}, {_kind(run, position)}")
    text = [_loss_hover(v, gap) for v in losses]
    look_ = {"line": {"color": palette.MUTED, "width": 1.25}, "marker": {"symbol": marker, "size": 6, "color": palette.MUTED}}
    fig.add_scatter(x=t.tolist(), y=_plain(losses), mode="lines+markers", name=label, text=text, hovertemplate=f"{label}: %{{text}}<extra></extra>", row=1, col=1, **look_)


def _loss_hover(value, gap):
    if not np.isfinite(value):
        return "not measured"
    return f"{'+' if value > 0 else ''}{fmt.fixed(value, 1)}{fmt.NARROW}%" if gap else score_text(value)


def _gap_range(members, nonmembers):
    """Both bands with room, at least ± 10 %; single images may leave it, and zoom brings them back."""
    values = np.concatenate([members.low, members.high, nonmembers.low, nonmembers.high])
    values = values[np.isfinite(values)]
    reach = max(10.0, float(np.abs(values).max()) * 1.15) if len(values) else 10.0
    return [max(-104.0, -reach), reach]


def _trajectories_alt(t, members, nonmembers, table, gap):
    difference = members.median if gap else series.gap_to(members.median, nonmembers.median)
    if not np.isfinite(difference).any():
        return f"{table} per timestep of members and non-members"
    lowest = int(np.nanargmin(difference))
    side = "below" if difference[lowest] < 0 else "above"
    return f"{table} per timestep: lowest median gap of members at t = {int(t[lowest])}, {fmt.fixed(abs(difference[lowest]), 0)} % {side} the non-members"


# --- one image ----------------------------------------------------------------------------------------------------------------------------------


def image_figure(run, table, position, share=0.8, height=240):
    """Loss of one image per timestep over the band of the non-members, in % of their median; small enough for a side panel.

    Args: table: stored table with a timestep axis; position: among the N images; share: of the non-members that the band holds.
    """
    t, _, outside = series.spreads(run, table, share, gap=True)
    middle = series.spreads(run, table, share, gap=False)[2].median
    losses = series.gap_to(series.image_losses(run, table, position)[1], middle)
    member = bool(run.is_member[position])
    fig = go.Figure()
    _ribbon(fig, t, outside.low, outside.high, palette.NONMEMBER, 0.26, name=f"non-members, {fmt.percent(share)}", legend=True)
    middle_line = {"color": palette.NONMEMBER, "width": 1.5, "dash": "dash"}
    fig.add_scatter(x=[int(t[0]), int(t[-1])], y=[0, 0], mode="lines", line=middle_line, hoverinfo="skip", showlegend=False, name="median")
    line = {"color": palette.MEMBER if member else palette.NONMEMBER, "width": 2.5}
    text = [_loss_hover(v, True) for v in losses]
    mode = "lines" if len(t) > 1 else "markers"
    fig.add_scatter(x=t.tolist(), y=_plain(losses), mode=mode, line=line, name="this image", text=text, hovertemplate="t = %{x}: %{text}<extra></extra>")
    style(fig, height, top=22, description=_image_alt(t, losses, table, _kind(run, position)))
    values = np.concatenate([losses, outside.low, outside.high])
    values = values[np.isfinite(values)]
    reach = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    room = 0.08 * max(reach[1] - reach[0], 20)
    fig.update_xaxes(title={"text": "timestep t"}, range=_t_range(run, table), nticks=5, tickangle=0)
    fig.update_yaxes(title={"text": "% vs non-member median"}, range=[max(-104.0, reach[0] - room), reach[1] + room], nticks=5)
    fig.update_layout(margin_l=60)
    return fig


def _image_alt(t, losses, table, kind):
    if not np.isfinite(losses).any():
        return f"{table} of this {kind}: not measured"
    lowest = int(np.nanargmin(losses))
    side = "below" if losses[lowest] < 0 else "above"
    return f"{table} of this {kind} per timestep: lowest at t = {int(t[lowest])}, {fmt.fixed(abs(losses[lowest]), 0)} % {side} the non-member median"


# --- every window -------------------------------------------------------------------------------------------------------------------------------

def heat_figure(grid, yours=None, calibrated=None, calibrated_name="calibrated", height=470):
    """AUC of every window: first timestep kept against last, with the shown and the calibrated window marked.

    Each cell has an invisible marker that carries its window as `customdata` [first, last]: a heat map alone cannot be clicked in Streamlit.

    Args: grid: audit.report.heat.AucGrid; yours, calibrated: (first, last) or None; calibrated_name: its words in the legend.
    """
    t, fig = grid.timesteps, go.Figure()
    low, high = min(LEAST_SPAN[0], float(np.nanmin(grid.auc))), max(LEAST_SPAN[1], float(np.nanmax(grid.auc)))
    scale = [[i / (len(palette.HEAT) - 1), colour] for i, colour in enumerate(palette.HEAT)]
    bar = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "len": 0.55, "thickness": 10, "nticks": 5, "tickformat": ".2f", "outlinewidth": 0}
    bar |= {"title": {"text": "AUC", "side": "top", "font": {"size": 13}}, "xpad": 0, "ypad": 6}
    z = [_plain(row) for row in grid.auc]
    fig.add_heatmap(x=t.tolist(), y=t.tolist(), z=z, colorscale=scale, zmin=low, zmax=high, colorbar=bar, hoverinfo="skip", name="AUC")
    ends = _cell_edges(t)
    stair = np.repeat(ends, 2).tolist()
    fig.add_scatter(x=stair[1:], y=stair[:-1], mode="lines", line={"color": palette.MUTED, "width": 1}, hoverinfo="skip", showlegend=False, name="edge")
    _cell_markers(fig, grid)
    _window_marks(fig, yours, calibrated, calibrated_name)
    style(fig, height, description=_heat_alt(grid))
    fig.update_layout(margin={"t": 66, "l": 60}, legend={"orientation": "v", "x": 1, "xanchor": "right", "y": 0.03, "yanchor": "bottom"})
    fig.update_xaxes(title={"text": "first timestep kept"}, range=[float(ends[0]), float(ends[-1])], nticks=7)
    fig.update_yaxes(title={"text": "last timestep kept"}, range=[float(ends[0]), float(ends[-1])], nticks=7)
    return fig


def _cell_edges(t):
    """float64 (G+1,): where one cell ends and the next begins, as Plotly puts them: half way."""
    t = np.asarray(t, dtype=np.float64)
    if len(t) == 1:
        return np.array([t[0] - 0.5, t[0] + 0.5])
    middle = (t[1:] + t[:-1]) / 2
    return np.concatenate([[2 * t[0] - middle[0]], middle, [2 * t[-1] - middle[-1]]])


def _cell_markers(fig, grid):
    """One invisible square per cell: what hovering names and clicking selects."""
    last, first = np.nonzero(np.isfinite(grid.auc))
    x, y = grid.timesteps[first], grid.timesteps[last]
    text = [f"{fmt.window(int(a), int(b))}<br>AUC {fmt.auc(v)}" for a, b, v in zip(x, y, grid.auc[last, first], strict=True)]
    hidden = {"marker": {"opacity": 0}}
    fig.add_scatter(
        x=x.tolist(), y=y.tolist(), mode="markers", marker={"symbol": "square", "size": 18, "opacity": 0}, selected=hidden, unselected=hidden, text=text,
        customdata=np.stack([x, y], axis=1).tolist(), hovertemplate="%{text}<extra></extra>", showlegend=False, name="windows",
    )


def _window_marks(fig, yours, calibrated, calibrated_name):
    """□ in white and black, ◆ in violet with a white edge: seen on every cell of the map and on both grounds."""
    always = {"unselected": {"marker": {"opacity": 1}}, "hoverinfo": "skip", "mode": "markers"}
    if yours:
        for colour, size, width in (("white", 17, 5), ("black", 19, 2)):
            mark = {"symbol": "square-open", "size": size, "color": colour, "line": {"width": width, "color": colour}}
            fig.add_scatter(x=[yours[0]], y=[yours[1]], marker=mark, name="your window", showlegend=False, cliponaxis=False, **always)
        mark = {"symbol": "square-open", "size": 11, "color": palette.MUTED, "line": {"width": 2}}
        fig.add_scatter(x=[None], y=[None], mode="markers", marker=mark, name="your window", showlegend=True)  # black would be lost on the dark ground
    if calibrated:
        mark = {"symbol": "diamond", "size": 12, "color": palette.CHOSEN, "line": {"color": "white", "width": 1.5}}
        fig.add_scatter(x=[calibrated[0]], y=[calibrated[1]], marker=mark, name=escape(calibrated_name), showlegend=True, cliponaxis=False, **always)


def _heat_alt(grid):
    if not grid.cells:
        return "AUC of every window: no window could be computed"
    last, first = np.unravel_index(int(np.nanargmax(grid.auc)), grid.auc.shape)
    best = fmt.window(int(grid.timesteps[first]), int(grid.timesteps[last]))
    low, high = (fmt.auc(float(v)) for v in (np.nanmin(grid.auc), np.nanmax(grid.auc)))
    return f"AUC of {grid.cells} windows, first against last timestep kept: from {low} to {high}, the largest at {best}"

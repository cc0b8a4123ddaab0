"""ROC curves."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from audit import format as fmt
from audit.report import palette, series
from audit.report.figures.base import FULL_HEIGHT, chance, look, ribbon, share_axis, style

FPR_TITLE, TPR_TITLE = "false positive rate (outsiders wrongly accused)", "true positive rate (members found)"
STRIP = 1.55  # the grey strip left of 1/n is this factor wide


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
    chance(fig, [low, 1], [low, 1])
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
        fig.update_xaxes(**share_axis())
        fig.update_yaxes(**share_axis())
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


def _corners(roc):
    """Hover text of each corner."""
    return [f"TPR {fmt.percent(b, 1)} at FPR {fmt.percent(a, 2)}" for a, b in zip(roc.fpr, roc.tpr, strict=True)]


def _band(fig, run, name, log, floor_y):
    fpr, low, high = series.attack_band(run, name)
    if log:
        low = np.maximum(low, floor_y)
    ribbon(fig, fpr, low, high, palette.CHOSEN, shape="hv")  # bounds step where the resolution does: a slanted edge would invent values between


def _log_ground(fig, n, low_y, height):
    """Log axes that start at 1/n, and the strip left of it that says why."""
    edge = 1 / n / STRIP
    fig.update_xaxes(**share_axis(True, edge))
    fig.update_yaxes(**share_axis(True, low_y))
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
    chance(fig, [0, 1], [0, 1])
    for i, (label, roc, colour, dash) in enumerate(curves):
        few = series.drawn(roc)
        line = {"color": colour, "width": 3 if i == 0 else 2, "dash": dash}
        hover = f"<b>{label}</b><br>%{{text}}<br>area {fmt.auc(round(roc.area, 12))}<extra></extra>"
        fig.add_scatter(x=few.fpr.tolist(), y=few.tpr.tolist(), mode="lines", name=label, line=line, text=_corners(few), hovertemplate=hover, meta={"area": roc.area})
    said = "; ".join(f"{label} has area {fmt.auc(round(roc.area, 12))}" for label, roc, *_ in curves)
    style(fig, height, description=f"ROC, linear: {said}")
    fig.update_xaxes(**share_axis(title="false positive rate"))
    fig.update_yaxes(**share_axis(title="true positive rate"))
    return fig

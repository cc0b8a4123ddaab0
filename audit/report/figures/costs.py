"""What each attack finds against what it costs, and by the access that it needs."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from audit import format as fmt
from audit.report import labels, palette, prices, series
from audit.report.figures.base import chance, style
from audit.stats.tpr import tpr_at_fpr

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
        chance(fig, [left, right], [0.5, 0.5])
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
    chance(fig, [0.5, 0.5], [-0.6, len(rungs) - 0.4])
    fig.update_xaxes(title={"text": "AUC"}, range=[low, 1.03], tickvals=[v / 10 for v in range(11)], showgrid=True)
    names = {"tickvals": list(range(len(rungs))), "ticktext": [access for access, _ in rungs], "ticks": "", "automargin": True}
    fig.update_yaxes(title={"text": "attacker’s access"}, range=[len(rungs) - 0.4, -0.6], **names)
    return fig

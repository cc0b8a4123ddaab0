"""Scores of one attack."""

from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from audit.report import palette, series
from audit.report.figures.base import score_text, style


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

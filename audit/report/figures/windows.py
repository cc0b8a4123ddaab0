"""AUC of every window of timesteps."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from audit import format as fmt
from audit.report import palette
from audit.report.figures.base import plain, style

LEAST_SPAN = (0.5, 0.7)  # colours of the map span at least these AUCs, so that noise does not look like signal


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
    z = [plain(row) for row in grid.auc]
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

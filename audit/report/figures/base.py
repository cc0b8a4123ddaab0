"""What all figures share: ground, axes, bands, the description for screen readers and the buttons."""

import numpy as np
import plotly.graph_objects as go

from audit import format as fmt
from audit.report import palette

TRANSPARENT = "rgba(0,0,0,0)"
GRID = palette.rgba(palette.MUTED, 0.28)
TEMPLATE = go.layout.Template(layout={"xaxis": {"gridcolor": GRID, "linecolor": palette.MUTED}, "yaxis": {"gridcolor": GRID, "linecolor": palette.MUTED}})
ZOOM_BUTTONS, SAVE_BUTTON = [["zoom2d", "resetScale2d", "toImage"]], [["toImage"]]  # the default bar costs seven Tab stops a chart
FULL_HEIGHT = 300  # px; below, titles and words beside the plot are the short ones


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


def share_axis(log=False, low=None, title=None):
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


def chance(fig, x, y, where=None):
    """The dotted line of guessing."""
    line = {"color": palette.MUTED, "width": 1, "dash": "dot"}
    fig.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="chance", **(where or {}))


def ribbon(fig, x, low, high, colour, opacity=palette.BAND_OPACITY, name="95 % band", legend=False, row=None, shape="linear"):
    """A filled band: its lower edge, then its upper edge filled down to it."""
    where = {} if row is None else {"row": row, "col": 1}
    edge = {"x": np.asarray(x).tolist(), "mode": "lines", "line": {"width": 0, "shape": shape}, "hoverinfo": "skip", "legendgroup": name}
    fig.add_scatter(y=plain(low), showlegend=False, name=name, **edge, **where)
    fig.add_scatter(y=plain(high), fill="tonexty", fillcolor=palette.rgba(colour, opacity), showlegend=legend, name=name, **edge, **where)


def plain(values):
    """A list for Plotly, None where nothing was measured."""
    return [float(v) if np.isfinite(v) else None for v in values]

"""What the images alone tell, without the model."""

from html import escape

import plotly.graph_objects as go

from audit import format as fmt
from audit.report import palette
from audit.report.figures.base import FULL_HEIGHT, style
from audit.report.parts import feature_title


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

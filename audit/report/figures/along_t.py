"""Losses and AUC along the timesteps, of the sets and of one image."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from audit import format as fmt
from audit.report import palette, series
from audit.report.figures.base import chance, plain, ribbon, score_text, style

T_TITLE = "timestep t   (less noise → more noise)"
IMAGE_MARKERS = ("circle", "square", "diamond", "x", "cross")
UNITS = {"eps_mse": "noise error", "x0_mse": "image error", "vlb_bits": "bits per dimension", "x0_8bit_mse": "error of the 8-bit image"}
UNITS |= {"eps_mse_low": "noise error, coarse structure", "x0_mse_low": "image error, coarse structure"}


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
    chance(fig, [int(t[0]), int(t[-1])], [0.5, 0.5], where)
    ribbon(fig, t, along.low, along.high, palette.CHOSEN, name="95 % interval over images", legend=legend, row=row)
    if np.isfinite(along.noise_sd).any():
        ribbon(fig, t, along.auc - along.noise_sd, along.auc + along.noise_sd, palette.CHOSEN, 0.42, name="± 1 sd between noise draws", legend=legend, row=row)
    mode = "lines" if len(t) > 1 else "markers"
    text = [_auc_hover(*values) for values in zip(along.auc, along.low, along.high, along.noise_sd, strict=True)]
    line, hover = {"color": palette.CHOSEN, "width": 2.5}, "t = %{x}: AUC %{text}<extra></extra>"
    fig.add_scatter(x=t.tolist(), y=plain(along.auc), mode=mode, line=line, name="AUC, this timestep alone", showlegend=legend, text=text, hovertemplate=hover, **where)


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
        ribbon(fig, t, spread.low, spread.high, colour, 0.2, name=f"{name} band", row=1)
        text = [_loss_hover(v, gap) for v in spread.median]
        fig.add_scatter(
            x=t.tolist(), y=plain(spread.median), mode="lines", line={"color": colour, "width": 3, "dash": dash}, name=f"{name} (n = {fmt.count(n)})", text=text,
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
    fig.add_scatter(x=t.tolist(), y=plain(losses), mode="lines+markers", name=label, text=text, hovertemplate=f"{label}: %{{text}}<extra></extra>", row=1, col=1, **look_)


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


def image_figure(run, table, position, share=0.8, height=240):
    """Loss of one image per timestep over the band of the non-members, in % of their median; small enough for a side panel.

    Args: table: stored table with a timestep axis; position: among the N images; share: of the non-members that the band holds.
    """
    t, _, outside = series.spreads(run, table, share, gap=True)
    middle = series.spreads(run, table, share, gap=False)[2].median
    losses = series.gap_to(series.image_losses(run, table, position)[1], middle)
    member = bool(run.is_member[position])
    fig = go.Figure()
    ribbon(fig, t, outside.low, outside.high, palette.NONMEMBER, 0.26, name=f"non-members, {fmt.percent(share)}", legend=True)
    middle_line = {"color": palette.NONMEMBER, "width": 1.5, "dash": "dash"}
    fig.add_scatter(x=[int(t[0]), int(t[-1])], y=[0, 0], mode="lines", line=middle_line, hoverinfo="skip", showlegend=False, name="median")
    line = {"color": palette.MEMBER if member else palette.NONMEMBER, "width": 2.5}
    text = [_loss_hover(v, True) for v in losses]
    mode = "lines" if len(t) > 1 else "markers"
    fig.add_scatter(x=t.tolist(), y=plain(losses), mode=mode, line=line, name="this image", text=text, hovertemplate="t = %{x}: %{text}<extra></extra>")
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

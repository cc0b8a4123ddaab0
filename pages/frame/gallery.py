"""Pictures on pages: always through here, so that a blurred page never holds sharp bytes."""

from decimal import ROUND_FLOOR

import streamlit as st

from audit import format as fmt
from audit.report import pictures, series
from pages.frame.menu import link

MINI = 8
BLUR_WORDS = "Blurred on the server. Turn off only where nobody else sees this screen."


def picture(run, image_id, blur, alt, width=84):
    """One thumbnail, blurred on the server or sharp; words where there is none.

    Args: alt: what it shows, without names from outside; width in px.
    """
    _draw(pictures.shown(run, image_id, blur), blur, alt, width)


def sample(run, index, blur, alt, width=84):
    """The thumbnail of one sample of the pool, by its index; otherwise as `picture`."""
    _draw(pictures.sample_shown(run, index, blur), blur, alt, width)


def surrogate_sheet(run, blur, alt, width=512):
    """The pictures that the run's surrogate draws itself, one sheet; otherwise as `picture`."""
    _draw(pictures.surrogate_shown(run, blur), blur, alt, width)


def _draw(address, blur, alt, width):
    if address is None:
        st.caption("no picture")
    else:
        st.image(address, width=width, alt=f"{alt}, blurred" if blur else alt)


def kind(run, position):
    """`● member` or `○ non-member`."""
    return "● member" if run.is_member[position] else "○ non-member"


def percentile(ranks, position):
    """`99.4 %`: share of the other held-out non-members below, rounded down; `top` above all of them; `not judged` where it was not held out."""
    share, of = ranks.share(position), int(ranks.of[position])
    if share is None:
        return "not judged"
    return "top" if share == 1 else fmt.percent(share, 1 if of >= fmt.DECIMALS_FROM_N else 0, ROUND_FLOOR)


def exposed_mini(run):
    """The members that the headline attack scores highest, eight thumbnails, and the way to page Images. Blurred unless they are the bundled demo's."""
    attack, blur = run.report["verdict"]["headline_attack"], not pictures.is_bundled(run)
    top = pictures.listed(run, attack, "Members")[:MINI]
    found = run.report["verdict"]["level"] in ("high", "elevated")
    st.markdown("**Most exposed images**: members with the highest score" if found else "**Highest scores among members**: a rank, not a finding")
    ranks = pictures.ranks(run, attack)
    with st.container(key="pixels_mini"), st.grid(4, wrap=False, min_column_width=56, gap="small"):
        for position in top:
            picture(run, str(run.image_ids[position]), blur, f"member, rank {ranks.rank[position]}", width=72)
    members, nonmembers = series.held_out_counts(run)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(f"{series.card(attack)[0]}, n = {fmt.count(members)} + {fmt.count(nonmembers)}{', blurred' if blur else ''}", width="content")
        link("images", "Open Images", "imagesmode")

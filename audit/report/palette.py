"""Colours of charts, verdicts and the offline document: one palette for the light and the dark theme.

Every series colour has a contrast of at least 3:1 on all four grounds, and the worst pair under normal, protan, deutan and tritan
sight keeps a CIEDE2000 distance of 18 (members against non-members 46); `tests/test_theme.py` recomputes both. Colour is the third cue:
each use below also has a shape or a dash.
"""

from typing import NamedTuple

GROUNDS = ("#FFFFFF", "#F4F6F9", "#11151B", "#1B212A")

MEMBER = "#D1571B"  # solid line, full bars, filled dot
NONMEMBER = "#3A7FC1"  # dashed line, bars hatched with NONMEMBER_PATTERN, open dot
NONMEMBER_PATTERN = "/"

CHOSEN = "#8351E8"  # the headline attack, the chosen window, the threshold; drawn 3 px wide
SERIES = (CHOSEN, "#7B8F15", "#5895A1", "#7D685E")  # the first is 3 px with its band, the others 2 px
BAND_OPACITY = 0.16
MUTED = "#8A93A1"  # a fifth curve and later, single images, diagonals: hairline, named on hover

HEAT = ("#2F4B7C", "#5D6A83", "#8E8B7C", "#C4B062", "#FDE737")  # AUC heat map, rising lightness

DASH = {"white-box": "solid", "gray-box": "solid", "black-box": "dash", "no model": "dot"}  # Plotly's names
ACCESS = {"white-box": SERIES[1], "gray-box": SERIES[2], "black-box": SERIES[3], "no model": MUTED}
MARKER = {"white-box": "circle", "gray-box": "square", "black-box": "diamond", "no model": "x"}


class VerdictLook(NamedTuple):
    """How a verdict level is drawn: Material icon name, word, bar colours, bar style and Streamlit's badge slot."""

    icon: str
    word: str
    bar_light: str
    bar_dark: str
    bar_style: str
    badge: str


VERDICTS = {
    "high": VerdictLook("report", "High", "#9A2462", "#B23E78", "solid", "red"),
    "elevated": VerdictLook("warning", "Elevated", "#B26A00", "#BF9056", "solid", "orange"),
    "not-detected": VerdictLook("search_off", "Not detected", "#1C6E7E", "#47A2B2", "solid", "blue"),
    "inconclusive": VerdictLook("help", "Inconclusive", "#8792A2", "#D8DDE6", "dashed", "gray"),
}


def rgba(colour: str, opacity: float) -> str:
    """`#RRGGBB` and an opacity in [0, 1] as the `rgba(r,g,b,a)` that Plotly and CSS take."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"

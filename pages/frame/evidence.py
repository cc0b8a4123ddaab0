"""What the evidence pages share: badges, charts, tiles, and the page-local state in the URL."""

from html import escape

import streamlit as st

from audit import format as fmt
from audit.glossary import GLOSSARY
from audit.report import figures
from audit.report.words import BELOW_CHANCE


def origin(held_out):
    """The badge that tells a number of the report from one that a slider made: they never look alike."""
    if held_out:
        st.badge("held out", icon=":material/verified:", color="primary", help="Chosen on one half of the images, measured on the other. This is the number in the report.")
    else:
        st.badge("exploratory", icon=":material/science:", color="gray", help=GLOSSARY["exploratory"])


def chart(fig, key):
    """A figure of audit.report.figures with its own buttons and description; both themes, no rerun."""
    st.plotly_chart(fig, key=key, config=figures.config(fig), alt=figures.alt(fig), theme="streamlit")


def legend(lines):
    """Line samples with names: [(colour, width, dash, name, note)]; a legend of its own wraps on small screens where Plotly's would cover the curves.

    Markdown cannot draw lines, so this is HTML from constants: names come from attack cards, and are escaped all the same.
    """
    styles = {"solid": "solid", "dash": "dashed", "dot": "dotted"}
    samples = "".join(
        f'<span style="display:inline-block;margin-right:1.4rem;white-space:nowrap"><span style="display:inline-block;width:24px;margin-right:.45rem;vertical-align:middle;'
        f'border-top:{width}px {styles[dash]} {colour}"></span>{escape(name)} <span style="opacity:.8">{escape(note)}</span></span>'
        for colour, width, dash, name, note in lines
    )
    st.html(f'<div style="line-height:1.9;font-size:.9375rem">{samples}</div>')


def auc_tile(value, low, high):
    """AUC with its interval as the small line, and a warning where it lies below chance."""
    st.metric("AUC", fmt.auc(value), delta=fmt.auc_bounds(low, high), delta_color="off", delta_arrow="off", help=GLOSSARY["AUC"])
    if fmt.below_chance(high):
        st.caption(f":material/warning: {BELOW_CHANCE}")


def tpr_tile(point, members, nonmembers):
    """TPR at one FPR; words where the data cannot carry a number."""
    label, explained = f"TPR at {fmt.fpr(point['fpr'])} FPR", fmt.tpr_help(point, nonmembers) or GLOSSARY["TPR"]
    if point["tpr"] is None:
        st.caption(label, help=explained)
        st.markdown(f"**{fmt.tpr_value(point, members, nonmembers)}**")
    else:
        st.metric(label, fmt.tpr_value(point, members, nonmembers), delta=fmt.tpr_bounds(point, members), delta_color="off", delta_arrow="off", help=explained)


def count_tile(label, count, share):
    """A count with its share; the label wraps, where st.metric would cut it."""
    with st.container(border=True, gap="xxsmall"):
        st.caption(label)
        st.metric(label, count, delta=share, delta_color="off", delta_arrow="off", label_visibility="collapsed")


def follow_run(page, run, defaults):
    """When another run is opened, controls that the URL does not name go to that run's own defaults.

    Widgets bound to the URL leave it when they stand at their default, and the default belongs to the run: without this, the old run's default would
    stay on the screen under a URL that means the new run's.

    Args: page: its stem; run: Run; defaults: {key: default of the new run}.
    """
    slot, opened = f"run_of_{page}", str(run.folder)
    if st.session_state.get(slot, opened) != opened:
        for key, value in defaults.items():
            if key not in st.query_params:
                st.session_state[key] = value
    st.session_state[slot] = opened

"""What a page shows when there is nothing to show yet, in the words of the design."""

import streamlit as st

from audit.errors import AuditError

FIRST_VISIT = "An audit asks which training images a checkpoint gives away. The bundled demo takes about 2 minutes on this machine and needs no data of yours."


def state(key, icon, title, text):
    """A bordered card: icon and title (constants), then `text`, which may hold names from outside. Returns the container for buttons."""
    card = st.container(border=True, key=f"state_{key}")
    card.header(title, icon=f":material/{icon}:", anchor=False)
    card.text(text)
    return card.container(horizontal=True, key=f"noprint_state_{key}")


def notice(key, icon, text):
    """One tinted line; `text` may hold names from outside."""
    with st.container(horizontal=True, key=f"notice_{key}", gap="small"):
        st.markdown(f":material/{icon}:", width="content")
        st.text(text, width="stretch")


def first_visit():
    """No run at all: what an audit is, and the two ways to get one."""
    with state("first", "science", "No audit yet", FIRST_VISIT):
        if st.button("Run the demo", type="primary", icon=":material/play_arrow:", key="first_demo"):
            start_demo()
        if st.button("Audit my checkpoint", icon=":material/add_circle:", key="first_new"):
            st.switch_page("pages/new.py")


def start_demo():
    """Submit both bundled audits, make sure a worker is there, and go to Runs. A refusal is drawn in place."""
    from audit.demo import submit_demo
    from pages.frame.runs import config

    try:
        submit_demo(config())
    except AuditError as error:
        notice("demo", "warning", str(error))
        return
    st.switch_page("pages/runs.py")

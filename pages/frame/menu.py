"""The menu, drawn by hand, and the guard that brings a page into it."""

import ctypes
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import streamlit as st

from pages.frame.runs import config, current_id
from pages.frame.theme import style

HERE = Path(__file__).parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class MenuLine(NamedTuple):
    """section, file stem in pages/ (also the URL path), title, Material icon."""

    section: str
    stem: str
    title: str
    icon: str


MENU = (
    MenuLine("Audit", "verdict", "Verdict", "gavel"),
    MenuLine("Audit", "new", "New audit", "add_circle"),
    MenuLine("Audit", "runs", "Runs", "list_alt"),
    MenuLine("Evidence", "roc", "ROC", "line_axis"),
    MenuLine("Evidence", "trajectories", "Loss trajectories", "timeline"),
    MenuLine("Evidence", "truncation", "Truncation", "content_cut"),
    MenuLine("Evidence", "images", "Images", "imagesmode"),
    MenuLine("Evidence", "samples", "Samples", "photo_library"),
    MenuLine("Compare", "attacks", "Which attack?", "scatter_plot"),
    MenuLine("Share", "report", "Report", "description"),
)

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
_script = threading.local()  # one script run has one thread; app.py marks it while it is on the stack


def main():
    """The whole of app.py: the frame, then the page that the URL names."""
    _script.in_app = True
    try:
        nav().run()
    finally:
        _script.in_app = False
        if _trim:
            _trim(0)  # every script run has a thread of its own, whose freed memory glibc would keep


def guard():
    """First line of each page: brings the frame when Streamlit ran the page's file directly, and asks for a login where one is configured.

    A cold server treats the folder pages/ as its menu until some session has called st.navigation: a deep link then skips app.py.
    """
    if not getattr(_script, "in_app", False):
        nav()
        st.rerun()
    _require_login()


def nav():
    """Declares the pages, draws the sidebar, and returns the page to run."""
    # no icon here: a page's icon becomes the tab's, which the browser would fetch from a font server
    start = "verdict"
    pages = {line: st.Page(f"pages/{line.stem}.py", title=line.title, url_path="" if line.stem == start else line.stem, default=line.stem == start) for line in existing()}
    page = st.navigation(list(pages.values()), position="hidden")
    st.set_page_config(page_title=f"{page.title} · Afterimage", page_icon=str(HERE / "mark.svg"), layout="wide", initial_sidebar_state=236)
    st.logo(str(HERE / "logo.svg"), icon_image=str(HERE / "mark.svg"))
    st.html(style())
    _require_login()
    with st.sidebar:
        query = _query({}) or None
        _menu(pages, query)
        _foot(pages, query)
    return page


def existing():
    """Lines of MENU whose file is there."""
    return [line for line in MENU if (HERE.parent / f"{line.stem}.py").is_file()]


def go(page, **query):
    """Switch to a page by its stem; `run` stays in the URL unless given."""
    st.switch_page(f"pages/{page}.py", query_params=_query(query))


def link(page, label, icon, **query):
    """A link to a page by its stem; `run` stays in the URL unless given. label, icon: constants."""
    st.page_link(f"pages/{page}.py", label=label, icon=f":material/{icon}:", query_params=_query(query))


def _query(extra):
    run = current_id()
    return ({"run": run} if run else {}) | {name: str(value) for name, value in extra.items() if value is not None}


def _menu(pages, query):
    section = None
    for line, page in pages.items():
        if line.section != section:
            section = line.section
            box = st.container(gap="xxsmall", key=f"menu_{section.lower()}")
            box.caption(section)
        box.page_link(page, icon=f":material/{line.icon}:", query_params=query, width="stretch")


def _foot(pages, query):
    from audit.jobs.launch import worker_status

    status = worker_status(config())
    with st.container(gap="xxsmall", key="menu_foot"):
        if status.running or status.waiting:
            if not status.alive:
                st.caption(":material/warning: Worker not running")
            words = ", ".join(f"{word} {n}" for word, n in (("running", status.running), ("waiting", status.waiting)) if n)
            st.page_link(
                next(page for line, page in pages.items() if line.stem == "runs"),
                label=words[0].upper() + words[1:],
                icon=":material/progress_activity:",
                query_params=query,
                width="stretch",
            )
        elif status.alive:
            st.caption(f":material/memory: Worker idle · {status.device_words}")
        else:
            st.caption(":material/memory: Worker not running", help="It starts by itself with the next audit.")
        if st.get_option("server.address") in LOOPBACK:
            st.caption(":material/computer: Served to this machine only")
        else:
            st.caption(":material/lan: Served to your network")


def _require_login():
    """Where [auth] is configured nothing is drawn for a visitor who has not logged in."""
    if st.secrets.load_if_toml_exists() and "auth" in st.secrets and not st.user.get("is_logged_in", False):
        st.title("Afterimage")
        st.markdown("This dashboard shows audits only to people who have logged in.")
        if st.button("Log in", type="primary", icon=":material/login:"):
            st.login()
        st.stop()

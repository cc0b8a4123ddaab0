"""What do I hand over? The document, and the files behind it."""

from pages.frame import guard

guard()

import streamlit as st  # noqa: E402

from audit import format as fmt  # noqa: E402
from audit.report import figures, html  # noqa: E402
from pages import frame  # noqa: E402
from pages.frame.files import npz_bytes  # noqa: E402


def document(run, thumbnails):
    """The sections of the offline document, drawn with this page's theme. Their text is escaped where they are made."""
    st.html(f"<style>{html.content_css()}</style>")
    for part in html.sections(run, thumbnails):
        if part.title:
            st.header(part.title, anchor=False)
        if part.html:
            st.html(part.html)
        for column, (position, (caption, make)) in zip(st.columns(max(1, len(part.figures))), enumerate(part.figures), strict=False):
            figure = make()
            column.plotly_chart(figure, key=f"{part.key}_{position}", alt=figures.alt(figure), config=figures.config(figure))
            column.caption(caption)


def downloads(run):
    """One button a file, with its size; the document and the tables are made when asked for."""
    name = f"afterimage-{run.report['run']['id']}"
    thumbnails = st.session_state.get("thumbnails", False)
    _file("Report, HTML", "one file, works offline", lambda: html.render(run, thumbnails).encode(), f"{name}.html", "text/html", "description")
    for label, file, mime, icon in (("Report, JSON", "report.json", "application/json", "data_object"), ("Scores, CSV", "scores.csv", "text/csv", "table")):
        path = run.folder / file
        _file(label, fmt.size(path.stat().st_size), path.read_bytes, f"{name}-{file}", mime, icon)
    stored = sum(table.values.nbytes for table in run.tables.values())
    _file("Loss tables, NPZ", f"about {fmt.size(stored)}", lambda: npz_bytes(run.folder), f"{name}-tables.npz", "application/octet-stream", "grid_on")
    st.toggle("Include thumbnails", key="thumbnails", help="Shows the most exposed members in the document.")
    st.caption("The report itself could leak training images.")


def _file(label, note, make, file_name, mime, icon):
    st.download_button(f"{label} · {note}", make, file_name, mime, key=f"download_{icon}", icon=f":material/{icon}:", width="stretch", on_click="ignore")


run = frame.page_head("Report", "What do I hand over?")
if run is None:
    st.stop()
left, right = st.columns([1.9, 1], gap="large")
with right, st.container(border=True, key="noprint_downloads"):
    st.header("Downloads", anchor=False)
    downloads(run)
with left:
    document(run, st.session_state.get("thumbnails", False))

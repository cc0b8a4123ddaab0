"""What do I hand over? The document, and the files behind it."""

from pages.frame import guard

guard()

import streamlit as st  # noqa: E402

from audit import format as fmt  # noqa: E402
from audit import gate  # noqa: E402
from audit.report import figures, html  # noqa: E402
from audit.report.markup import content_css  # noqa: E402
from audit.report.sections import sections  # noqa: E402
from pages import frame  # noqa: E402
from pages.frame.files import npz_bytes  # noqa: E402


def document(run, thumbnails):
    """The sections of the offline document, drawn with this page's theme. Their text is escaped where they are made."""
    st.html(f"<style>{content_css()}</style>")
    for part in sections(run, thumbnails):
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


ENDINGS = {
    "kept": "With these limits this run would pass (exit code 0).",
    "broken": "With these limits this run would fail (exit code 1).",
    "undecided": "With these limits this run would stay undecided (exit code 3).",
}
ICONS = {"kept": "check", "broken": "close", "undecided": "help"}
TRIED_FPR = 0.01


def gate_panel(report):
    """The gate with limits to try; what it says is what `python -m audit gate` says."""
    has_epsilon = (report["epsilon_lower_bound"] or {}).get("value") is not None
    for key, value in (("gate_auc", 0.60), ("gate_tpr", 5.0), ("gate_epsilon", 1.0 if has_epsilon else None)):
        st.session_state.setdefault(key, value)  # not value=: a field with a default of its own cannot be emptied
    auc = st.number_input("Largest AUC", 0.01, 1.0, None, 0.01, key="gate_auc", help="Empty: no limit.")
    tpr = st.number_input(f"Largest TPR at {fmt.fpr(TRIED_FPR)} FPR, in %", 0.01, 100.0, None, 0.5, key="gate_tpr", help="Empty: no limit.")
    epsilon = st.number_input("Largest ε", 0.01, None, None, 0.1, key="gate_epsilon", help="Empty: no limit. Needs a split that was drawn at random.")
    limits = gate.Limits(auc, () if tpr is None else ((TRIED_FPR, round(tpr / 100, 8)),), epsilon)
    if not limits.any:
        st.text("Give at least one limit.")
        return
    found = gate.check(report, limits)
    st.code(gate.command(limits), language="bash", wrap_lines=True)
    st.markdown(f"**{ENDINGS[found.outcome]}**")
    for row in found.rows:
        with st.container(horizontal=True, wrap=False, gap="small", key=f"line_gate_{row.key}"):
            st.markdown(f":material/{ICONS[row.outcome]}:", width="content")
            st.text(f"{row.limit}: {row.outcome}. {row.value}{f' ({row.attack})' if row.attack else ''}", width="stretch")
        with st.container(key=f"small_gate_{row.key}"):  # st.text: these words may hold text from outside
            st.text(" ".join(part for part in (row.words, row.needs) if part))
    st.caption("A policy file and a ready workflow: docs/gate.md.")


def _file(label, note, make, file_name, mime, icon):
    st.download_button(f"{label} · {note}", make, file_name, mime, key=f"download_{icon}", icon=f":material/{icon}:", width="stretch", on_click="ignore")


run = frame.page_head("Report", "What do I hand over?")
if run is None:
    st.stop()
left, right = st.columns([1.9, 1], gap="large")
with right, st.container(border=True, key="noprint_downloads"):
    st.header("Downloads", anchor=False)
    downloads(run)
with right, st.container(border=True, key="noprint_gate"):
    st.header("Gate this in CI", anchor=False)
    gate_panel(run.report)
with left:
    document(run, st.session_state.get("thumbnails", False))

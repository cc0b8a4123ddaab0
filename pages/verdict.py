"""May I release this? The answer first, then its numbers, then two curves."""

from pages.frame import guard

guard()

import streamlit as st  # noqa: E402

from audit import format as fmt  # noqa: E402
from audit.glossary import GLOSSARY  # noqa: E402
from audit.report import figures, series, words  # noqa: E402
from pages import frame  # noqa: E402

FPR = 0.01


def card(run):
    """Badge and headline, reason, what to do next, and the three lists."""
    report = run.report
    said, level = words.verdict_words(report), report["verdict"]["level"]
    with st.container(border=True, key=f"verdict_{level}", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            frame.badge(level)
            st.header(said.headline, anchor=False, width="content")
        with st.container(gap="xxsmall"):
            st.text(said.reason)
            with st.container(horizontal=True, gap="xsmall", key="next", wrap=False):
                st.markdown("**Next:**", width="content")
                st.text(said.next, width="stretch")
        lists = (("for", "Speaks for a leak", said.for_), ("against", "Speaks against", said.against), ("not_seen", "Could not be seen", said.not_seen))
        for column, (key, title, items) in zip(st.columns(3, gap="medium"), lists, strict=True):
            with column, st.container(gap="xsmall"):
                st.markdown(f"**{title}**")
                with st.container(key=f"points_{key}", gap="xxsmall"):
                    for item in items:
                        st.text(item)
        with st.container(horizontal=True, key="noprint_card"):
            if st.button("Open the report", type="primary", icon=":material/description:"):
                frame.go("report")
            with st.popover("Copy link", type="tertiary", icon=":material/link:"):
                st.code(f"{(st.context.url or '').rstrip('/')}/?run={st.query_params.get('run', '')}", language=None)


def tiles(report):
    """The four numbers that the verdict rests on."""
    verdict, queries = report["verdict"], report["queries"]
    head, tail = words.attack_of(report, verdict["headline_attack"]), words.attack_of(report, verdict["tail_attack"])
    members, n = queries["evaluation_members"], queries["evaluation_nonmembers"]
    point = words.tpr_of(tail, FPR)
    with st.grid(4, min_column_width=240, gap="small"):
        _tile(
            "AUC, best attack",
            fmt.auc(head["auc"]["value"]),
            f"95 % {fmt.auc_bounds(head['auc']['low'], head['auc']['high'])}",
            f"{words.title_of(head['name'])}. {GLOSSARY['AUC']}",
        )
        title, why = f"TPR at {fmt.fpr(FPR)} FPR", fmt.tpr_help(point, n)
        if point["resolution"] == "none":
            _tile(title, "not resolvable", f"n = {fmt.count(n)}", why)
        else:
            _tile(title, fmt.tpr_value(point, members, n), f"95 % {fmt.tpr_bounds(point, members)}", why or f"{words.title_of(tail['name'])}. {GLOSSARY['TPR']}")
        _blind(report["blind_baseline"])
        control = next((c for c in report["controls"] if c["name"] == "shuffled_labels"), None)
        if control is None:
            _tile("Shuffled-label control", "not run", "no control, no conclusion", GLOSSARY["shuffled-label control"])
        else:
            _tile(
                "Shuffled-label control",
                fmt.auc(control["auc"]),
                "chance, as it must be" if control["passed"] else "not chance: control failed",
                f"95 % {fmt.auc_bounds(control['low'], control['high'])}. {GLOSSARY['shuffled-label control']}",
            )


def _blind(blind):
    if blind is None:
        _tile("Blind baseline AUC", "not checked yet", "do the sets differ without the model?", GLOSSARY["blind baseline"])
    else:
        differ = "sets differ" if blind["differs"] else "sets match"
        _tile("Blind baseline AUC", fmt.auc(blind["auc"]["value"]), f"95 % {fmt.auc_bounds(blind['auc']['low'], blind['auc']['high'])} · {differ}", GLOSSARY["blind baseline"])


def _tile(label, value, small, help):
    st.metric(label, value, delta=small, delta_color="off", delta_arrow="off", border=True, help=help)


def minis(run):
    """ROC and AUC(t), small; each leads to its page."""
    headline = run.report["verdict"]["headline_attack"]
    members, n = series.held_out_counts(run)
    counts = f"n = {fmt.count(members)} members + {fmt.count(n)} non-members"
    left, right = st.columns(2, gap="large")
    with left, st.container(key="mini_roc", gap="xsmall"):
        st.markdown("**ROC, log-log**: the few confident accusations")
        _chart(figures.roc_figure(run, [headline], log=True, height=240), "mini_roc_chart")
        _below(f"{series.card(headline)[0]}, {counts}", "roc", "Open ROC", "line_axis")
    with right, st.container(key="mini_auc", gap="xsmall"):
        st.markdown("**Where the signal sits**: AUC of each timestep")
        table = series.table_of(headline)
        if table is None:
            st.text("This attack does not read single timesteps.")
            return
        _chart(figures.auc_figure(run, table, height=240), "mini_auc_chart")
        _below(f"{table}, shaded: calibrated window, {counts}", "trajectories", "Open trajectories", "timeline")


def _chart(figure, key):
    st.plotly_chart(figure, key=key, alt=figures.alt(figure), config=figures.config(figure))


def _below(caption, page, label, icon):
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(caption, width="content")
        frame.link(page, label, icon)


run = frame.page_head("Verdict", "Which training images does this checkpoint give away, to whom, and how sure is that?", badge=False)
if run is None:
    st.stop()
card(run)
tiles(run.report)
for position, text in enumerate(run.report["warnings"]):
    frame.notice(f"warning_{position}", "warning", text)
minis(run)

"""May I release this? The answer first, then its numbers with where each comes from, then what may be said, then the curves."""

from pages.frame import guard

guard()

import streamlit as st  # noqa: E402

from audit import format as fmt  # noqa: E402
from audit.glossary import GLOSSARY  # noqa: E402
from audit.report import figures, series, words  # noqa: E402
from audit.report.claims import claims_of  # noqa: E402
from audit.report.evidence import evidence  # noqa: E402
from audit.report.markup import content_css, pairs  # noqa: E402
from audit.report.sections import sound  # noqa: E402
from pages import frame  # noqa: E402

FPR = 0.01
HEADLINE_HELP = "The best attack on the calibration half; here it is judged on the other half."
SHORT_LIST = 4  # sentences shown before the rest is folded away


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
        for column, key, title, items in zip(st.columns(3, gap="medium"), ("for", "against", "not_seen"), said.titles, (said.for_, said.against, said.not_seen), strict=True):
            with column, st.container(gap="xsmall"):
                st.markdown(f"**{title}**")
                _points(key, items)
        with st.container(horizontal=True, key="noprint_card"):
            if st.button("Open the report", type="primary", icon=":material/description:"):
                frame.go("report")
            exposed = "See exposed images" if level in ("high", "elevated") else "See the images"
            if "images" in frame_pages() and st.button(exposed, icon=":material/imagesmode:"):
                frame.go("images")
            with st.popover("Copy link", type="tertiary", icon=":material/link:"):
                st.code(f"{(st.context.url or '').rstrip('/')}/?run={st.query_params.get('run', '')}", language=None)


def frame_pages():
    """Stems of the pages that exist."""
    from pages.frame.menu import existing

    return {line.stem for line in existing()}


def _points(key, items):
    with st.container(key=f"points_{key}", gap="xxsmall"):
        for item in items:
            st.text(item)


def tiles(run):
    """The four numbers that the verdict rests on, each with where it comes from; when nothing could be decided, the blind baseline leads."""
    report = run.report
    inconclusive = report["verdict"]["level"] == "inconclusive"
    made = [_auc_tile, _tpr_tile, _blind_tile, _control_tile]
    order = [2, 0, 1, 3] if inconclusive else range(4)
    found = evidence(run)
    with st.grid(4, min_column_width=240, gap="small"):
        for position in order:
            with st.container(gap="xxsmall"):
                made[position](report)
                entry = found.get(("auc", "tpr", "blind", "shuffled_labels")[position])
                if entry is not None:
                    drawer(run, entry)


def drawer(run, entry):
    """How one number was computed; hashes are made when it is opened."""
    with st.container(key=f"noprint_drawer_{entry.key}"):
        box = st.popover("How was this computed?", type="tertiary", icon=":material/receipt_long:", key=f"drawer_{entry.key}", on_change="rerun")
        if not box.open:
            return
        with box:
            st.text(entry.what)
            st.html(f"<style>{content_css()}</style>{pairs(entry.rows(run))}")
            st.caption("Compute it again; DIR is the run folder.")
            for command in entry.recompute:
                st.code(command, language="bash", wrap_lines=True)


def _auc_tile(report):
    head = words.attack_of(report, report["verdict"]["headline_attack"])
    bounds = f"95 % {fmt.auc_bounds(head['auc']['low'], head['auc']['high'])}"
    doubt = words.NOT_EVIDENCE.get(report["verdict"]["kind"])
    help_ = f"{words.title_of(head['name'])}. {HEADLINE_HELP} {GLOSSARY['AUC']}"
    _tile("AUC, headline attack", fmt.auc(head["auc"]["value"]), doubt or bounds, f"{bounds}. {help_}" if doubt else help_)


def _tpr_tile(report):
    tail, (members, n) = words.attack_of(report, report["verdict"]["tail_attack"]), words.curve_images(report)
    point = words.tpr_of(tail, FPR)
    title, why = f"TPR at {fmt.fpr(FPR)} FPR", fmt.tpr_help(point, n)
    if point["resolution"] == "none":
        _tile(title, "not resolvable", f"n = {fmt.count(n)}", why)
    else:
        _tile(title, fmt.tpr_value(point, members, n), f"95 % {fmt.tpr_bounds(point, members)}", why or f"{words.title_of(tail['name'])}. {GLOSSARY['TPR']}")


def _blind_tile(report):
    blind, title = words.blind_of(report), "Blind baseline AUC"
    if blind is None:
        tried = (report.get("blind_baseline") or {}).get("reason")
        _tile(title, "not computed" if tried else "not checked yet", "do the sets differ without the model?", f"{words.blind_missing(report)}. {GLOSSARY['blind baseline']}")
        return
    differ = "sets differ" if blind["differs"] else "sets match"
    power = "".join(f" {text}." for text in words.blind_power(report))
    bounds = fmt.auc_bounds(blind["auc"]["low"], blind["auc"]["high"])
    _tile(title, fmt.auc(blind["auc"]["value"]), f"95 % {bounds} · {differ}", f"{fmt.p_value(blind['p_value'])}.{power} {GLOSSARY['blind baseline']}")


def _control_tile(report):
    control, title = next((c for c in report["controls"] if c["name"] == "shuffled_labels"), None), "Shuffled-label control"
    if control is None or control["auc"] is None:
        _tile(title, "not run", "no control, no conclusion", GLOSSARY["shuffled-label control"])
        return
    outcome = "chance, as it must be" if control["passed"] else "not chance: control failed"
    _tile(title, fmt.auc(control["auc"]), outcome, f"95 % {fmt.auc_bounds(control['low'], control['high'])}. {GLOSSARY['shuffled-label control']}")


def _tile(label, value, small, help):
    st.metric(label, value, delta=small, delta_color="off", delta_arrow="off", border=True, help=help)


def minis(run):
    """ROC, AUC(t) and the most exposed images, small; each leads to its page."""
    headline = run.report["verdict"]["headline_attack"]
    members, n = series.held_out_counts(run)
    counts = f"n = {fmt.count(members)} members + {fmt.count(n)} non-members"
    exposed = _exposed_mini()
    with st.grid(3 if exposed else 2, min_column_width=300, gap="large"):
        _mini_roc(run, headline, counts)
        _mini_auc(run, counts)
        if exposed:
            with st.container(key="mini_exposed", gap="xsmall"):
                exposed(run)


def _mini_roc(run, headline, counts):
    with st.container(key="mini_roc", gap="xsmall"):
        st.markdown("**ROC, log-log**: the few confident accusations")
        _chart(figures.roc_figure(run, [headline], log=True, height=240), "mini_roc_chart")
        _below(f"{series.card(headline)[0]}, {counts}", "roc", "Open ROC", "line_axis")


def _mini_auc(run, counts):
    with st.container(key="mini_auc", gap="xsmall"):
        st.markdown("**Where the signal sits**: AUC of each timestep")
        table = series.signal_table(run)
        if table is None:
            st.text("This run stored no loss per timestep.")
        else:
            _chart(figures.auc_figure(run, table, height=240), "mini_auc_chart")
            _below(f"{table}, shaded: calibrated window, {counts}", "trajectories", "Open trajectories", "timeline")


def _exposed_mini():
    """The gallery's mini where this version has one."""
    try:
        from pages.frame.gallery import exposed_mini
    except ImportError:
        return None
    return exposed_mini


def _chart(figure, key):
    st.plotly_chart(figure, key=key, alt=figures.alt(figure), config=figures.config(figure))


def _below(caption, page, label, icon):
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(caption, width="content")
        frame.link(page, label, icon)


def claims_panel(report):
    """What may be said and what not, side by side; the first few, then the rest folded."""
    made = claims_of(report)
    may, may_not = st.columns(2, gap="large")
    with may:
        _claims("allowed", "You may say", "check", [(claim["text"], claim["evidence"]) for claim in made["allowed"]])
    with may_not:
        _claims("blocked", "You may not say", "block", [(claim["text"], claim["why"]) for claim in made["blocked"]])


def _claims(key, title, icon, rows):
    st.header(title, icon=f":material/{icon}:", anchor=False)
    for position, (text, below) in enumerate(rows[:SHORT_LIST]):
        _claim(f"{key}_{position}", text, below)
    if len(rows) > SHORT_LIST:
        with st.expander(f"{len(rows) - SHORT_LIST} more", key=f"more_{key}"):
            for position, (text, below) in enumerate(rows[SHORT_LIST:], SHORT_LIST):
                _claim(f"{key}_{position}", text, below)


def _claim(key, text, below):
    with st.container(gap=None):
        st.text(text)
        with st.container(key=f"small_{key}"):
            st.text(below)


def instrument(report):
    """Is the instrument sound: controls, blind baseline, duplicates, the split; and which features tell the sets apart."""
    st.header("Is the instrument sound?", anchor=False)
    st.html(f"<style>{content_css()}</style>{sound(report)}")
    blind = words.blind_of(report)
    if blind and blind.get("features"):
        st.markdown("**What tells the sets apart** without the model")
        _chart(figures.features_figure(blind["features"], height=260), "features_chart")
        images = f", n = {fmt.count(blind['images'])} images" if blind.get("images") else ""
        st.caption(f"Each image feature alone, in standard deviations of chance; hatched: no more than chance gives{images}.")


def not_tested(report):
    """What this audit did not look at, and what limits all of it."""
    untested, limits = st.columns(2, gap="large")
    with untested:
        st.header("Not tested", anchor=False)
        _points("not_tested", report["verdict"]["not_tested"])
    with limits:
        st.header("What this does not say", anchor=False)
        _points("limits", words.limits(report))


run = frame.page_head("Verdict", "Which training images does this checkpoint give away, to whom, and how sure is that?", badge=False)
if run is None:
    st.stop()
card(run)
tiles(run)
for position, text in enumerate(run.report["warnings"]):
    frame.notice(f"warning_{position}", "warning", text)
minis(run)
claims_panel(run.report)
instrument(run.report)
not_tested(run.report)

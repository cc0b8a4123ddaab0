"""Which attack is worth its price? What each finds against the model calls it takes, and whether it differs from the headline attack beyond luck."""
# ruff: noqa: E402  (the guard comes before every other import)

from pages.frame import guard

guard()

import pandas as pd
import streamlit as st

from audit import format as fmt
from audit.attacks import ATTACKS
from audit.glossary import GLOSSARY
from audit.report import figures, prices, series
from audit.report.needed import needed_words
from audit.report.parts import comparison_cells, comparison_note, settings_words, tpr_of
from pages.frame import notice, page_head, protections
from pages.frame.evidence import chart, follow_run, origin

TITLES = {"AUC": "AUC", "TPR": f"TPR at {fmt.fpr(prices.TPR_FPR)} FPR"}
OLDER = "This report was made by an older version, which did not compare attacks. Its stored tables are intact:"


def main():
    """Picture, table, card, protections."""
    run = page_head("Which attack?", "What each attack finds against the model calls it takes, on held-out images.")
    if run is None:
        st.stop()
    follow_run("attacks", run, {"measure": "AUC"})
    measure = st.segmented_control("Measure", list(TITLES), default="AUC", required=True, key="measure", bind="query-params", help=_measure_help())
    picture(run, measure)
    rows = sorted(run.report["attacks"], key=lambda row: -row["curve_auc"] if row["status"] == "done" else 1)
    st.header("Against the headline attack", anchor=False)
    table(run, rows, measure)
    card(run, rows)
    protections.section(run, measure)


def _measure_help():
    return f"TPR at {fmt.fpr(prices.TPR_FPR)} FPR. AUC: {GLOSSARY['AUC']} TPR: {GLOSSARY['TPR']}"


def picture(run, measure):
    """The Pareto picture, or why there is none."""
    members, n = series.held_out_counts(run)
    st.markdown(f"**{TITLES[measure]} against price** — up and to the left is better for the attacker")
    figure = figures.pareto_figure(run, measure)
    if figure is None:
        point = tpr_of(run.attack(run.report["verdict"]["headline_attack"]), prices.TPR_FPR)
        notice("no_tpr", "info", f"TPR at {fmt.fpr(prices.TPR_FPR)} FPR is not resolvable with n = {fmt.count(n)}. {fmt.tpr_help(point, n) or ''} Choose AUC.".replace("  ", " "))
        return
    with st.skeleton(height=430):
        chart(figure, "pareto")
    crossed = run.report["queries"]["split"] == "cross-fitted"
    words = "Bars: 95 % intervals. Points of the same price stand side by side. "
    words += "The line joins the largest value at each price; it is drawn by looking, so whether one step of it is more than luck is for the table to say. "
    words += "".join(f"{series.card(name)[0]}: once for all images, and an attacker with one image pays all of it. " for name in series.done(run) if _once(run.attack(name)))
    words += f"n = {fmt.count(members)} members + {fmt.count(n)} non-members held out"
    st.caption(words + (", evaluation half of the first of 10 cross-fitting repeats." if crossed else "."))


def _once(row):
    return bool((row.get("needed") or {}).get("model_calls_once"))


def table(run, rows, measure):
    """Every attack of the run: price, value, paired difference, p, overlap; a row that is chosen opens its card below."""
    compared = run.report.get("comparisons")
    if compared is None:
        notice("older", "warning", OLDER)
        st.code("python -m audit rescore DIR", language="bash")
    against, lead = {row["a"]: row for row in compared or ()}, run.report["verdict"]["headline_attack"]
    frame = pd.DataFrame([_row(run, row, measure, against, lead) for row in rows]).fillna({"status": "done"})  # no such column where all are done
    right = st.column_config.Column(alignment="right")
    columns = {"attack": st.column_config.Column(pinned=True), "calls": st.column_config.Column(alignment="right", help="Model calls per image at the chosen setting.")}
    columns |= {TITLES[measure]: right, "difference of AUC": st.column_config.Column(help="AUC minus that of the headline attack, same images."), "p": right}
    columns |= {"in common": st.column_config.Column(alignment="right", help="How many members are in both lists of the most exposed, this attack's and the headline attack's.")}
    st.dataframe(
        frame, hide_index=True, key="compared", column_config=columns, selection_mode="single-row", on_select=lambda: _chosen(rows), height="content",
        alt=_table_alt(rows, against),
    )  # fmt: skip
    if note := comparison_note(run.report):
        st.caption(f"{note} It decides nothing in the verdict. A row opens its attack's card.")
    elif compared is not None:
        st.caption("One attack has scores, so there is nothing to compare it with.")


def _row(run, row, measure, against, lead):
    short, _, threat_model = series.card(row["name"])
    out = {"attack": short, "threat model": row["threat_model"] or threat_model, "calls": "", TITLES[measure]: ""}
    out |= {"difference of AUC": "", "p": "", "in common": ""}
    if row["status"] != "done":
        return out | {"status": f"{row['status']}: {row['reason']}"}
    calls = row["model_calls_at_setting"]
    out |= {"calls": "" if calls is None else fmt.count(calls), TITLES[measure]: _value(run, row, measure)}
    if row["name"] == lead:
        return out | {"difference of AUC": "headline attack"}
    if row["name"] in against:
        out |= dict(zip(("difference of AUC", "p", "in common"), comparison_cells(against[row["name"]]), strict=True))
    return out


def _value(run, row, measure):
    """What the picture shows of this attack; below 400 a side that is the area of its curve, not the mean over the repeats."""
    if measure == "AUC":
        spot = prices.spot(run, row["name"], "AUC")
        return fmt.auc_interval(spot.value, spot.low, spot.high)
    return fmt.tpr(tpr_of(row, prices.TPR_FPR), *series.held_out_counts(run))


def _table_alt(rows, against):
    differ = sum(row["p_value"] is not None and row["p_value"] <= 0.05 for row in against.values())
    done = sum(row["status"] == "done" for row in rows)
    return f"{done} of {len(rows)} attacks with scores; {differ} of {len(against)} differ from the headline attack at p ≤ 0.05, Holm"


def _chosen(rows):
    picked = st.session_state["compared"]["selection"]["rows"]
    if picked:
        st.session_state["card"] = rows[picked[0]]["name"]


def card(run, rows):
    """One attack in words: what it does, what was chosen for it here, and where it is weak."""
    names, lead = [row["name"] for row in rows], run.report["verdict"]["headline_attack"]
    if st.session_state.get("card") not in names:
        st.session_state["card"] = lead
    with st.container(border=True, key="attack_card"):
        with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
            st.subheader("Attack card", anchor=False, width="content")
            name = st.selectbox("Attack", names, format_func=lambda name: series.card(name)[1], key="card", width=340, label_visibility="collapsed")
        row = run.attack(name)
        if row["status"] == "done":
            with st.container(horizontal=True, vertical_alignment="center"):
                with st.container(width="content"):
                    st.text(f"Chosen on the calibration half: {settings_words(row['settings'])}")
                origin(True)
        else:
            st.text(f"{row['status'].capitalize()}: {row['reason']}")
        if name not in ATTACKS:
            st.text("This version has no card of this attack.")
            return
        about = ATTACKS[name].card
        left, right = st.columns(2, gap="large")
        for column, parts in ((left, _does(about)), (right, _limits(about, row))):
            for label, text in parts:
                if text:
                    column.caption(label)
                    column.text(text)


def _does(about):
    """(label, words) on the left of a card."""
    return ("Score", about.equation), ("Source", about.source), ("Differs from the source", about.differs)


def _limits(about, row):
    """(label, words) on the right."""
    grid = row["model_calls_per_image"]
    as_run = "" if grid is None else f"; {fmt.calls(grid, 'model call')} per image as run, to choose the setting"
    measured = f"{', '.join(about.probes)}{as_run}"
    known = "; ".join(about.weaknesses)
    return ("Threat model", f"{about.threat_model}: {GLOSSARY[about.threat_model]}"), ("The attacker needs", needed_words(row)), ("Measured by", measured), (
        "Settings",
        "; ".join(f"{setting.name}: {setting.about}" for setting in about.settings),
    ), ("Known weaknesses", f"{known[:1].upper()}{known[1:]}")


main()

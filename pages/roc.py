"""How many members, at what false alarm rate? ROC curves, a threshold to move, and all attacks in a table."""

from pages.frame import guard

guard()

import pandas as pd  # noqa: E402
import streamlit as st  # noqa: E402

from audit import format as fmt  # noqa: E402
from audit.attacks import ATTACKS  # noqa: E402
from audit.glossary import GLOSSARY  # noqa: E402
from audit.report import figures, series  # noqa: E402
from audit.report.words import BELOW_CHANCE  # noqa: E402
from pages.frame import notice, page_head  # noqa: E402
from pages.frame.evidence import chart, count_tile, follow_run, legend, origin  # noqa: E402

CALIBRATED = "calibrated"


def main():
    """Pills, curves, threshold, table."""
    run = page_head("ROC", "Members found (TPR) against outsiders wrongly accused (FPR), on held-out images.")
    if run is None:
        st.stop()
    names = {series.card(name)[0]: name for name in series.done(run)}
    follow_run("roc", run, {"attacks": list(names)[:4], "fpr": first_stop(run)})
    chosen = choose_attacks(names)
    if chosen:
        curves_and_threshold(run, chosen)
    else:
        st.caption("Choose at least one attack.")
    attack_table(run)


def choose_attacks(names):
    """Canonical names of the chosen attacks, the headline first. Args: names: {pill and URL value: canonical name}."""
    known = {ATTACKS[name].card.short for name in ATTACKS}
    for label in st.query_params.get_all("attacks"):
        if label in known and label not in names:
            st.caption(f"{label} was not part of this run, or has no scores.")
    picked = st.pills("Attacks (first four in colour)", list(names), selection_mode="multi", default=list(names)[:4], key="attacks", bind="query-params")
    return [name for label, name in names.items() if label in picked]


@st.fragment
def curves_and_threshold(run, chosen):
    """Both ROCs and the threshold section: one slider moves the same point in three figures."""
    looks = figures.look(run, chosen)
    legend([(*looks[name], series.card(name)[0], series.card(name)[2]) for name in chosen])
    left, right = st.columns(2, gap="medium")
    lead = chosen[0]
    st.header(f"Set a threshold on {series.card(lead)[0]}", anchor=False)
    controls, counts = st.columns([1.15, 1], gap="medium")
    with controls:
        flagged, held_out = threshold_slider(run, lead)
        chart(figures.histogram_figure(run, lead, flagged), "histogram")
    with left:
        st.markdown("**Log-log** — the few confident accusations")
        with st.skeleton(height=315):
            chart(figures.roc_figure(run, chosen, log=True, threshold=flagged), "roc_log")
    with right:
        st.markdown("**Linear** — the whole ranking, area = AUC")
        with st.skeleton(height=315):
            chart(figures.roc_figure(run, chosen, threshold=flagged), "roc_linear")
    with counts:
        threshold_tiles(flagged, held_out)


def first_stop(run):
    """Where the slider starts: 1 %, or the smallest rate that the non-members allow."""
    stops = series.fpr_stops(run)
    return fmt.fpr(0.01 if 0.01 in stops else stops[0])


def threshold_slider(run, attack):
    """(Flagged, True where the threshold comes from the calibration half)."""
    stops, carried = {fmt.fpr(f): f for f in series.fpr_stops(run)}, series.flag_calibrated(run, attack)
    options = ([CALIBRATED] if carried else []) + list(stops)
    words = "Each stop reads its threshold off the held-out images themselves."
    if carried:
        words += f" `{CALIBRATED}` takes the threshold that {fmt.fpr(carried[0])} of the calibration half's non-members exceed, and counts on the other half."
    picked = st.select_slider("False accusations the attacker accepts", options, value=first_stop(run), key="fpr", bind="query-params", help=words)
    if picked == CALIBRATED:
        return carried[1], True
    return series.flag_at_fpr(run, attack, stops[picked]), False


def threshold_tiles(flagged, held_out):
    """The rule in words, four counts, and what a flag means in the world."""
    members, nonmembers = flagged.tp + flagged.fn, flagged.fp + flagged.tn
    with st.container(horizontal=True, vertical_alignment="center"):
        if flagged.tp + flagged.fp:
            st.markdown(f"Flagging every image with score ≥ **{figures.score_text(flagged.threshold)}**", width="content", help=GLOSSARY["threshold"])
        else:
            st.markdown("No image may be flagged at this rate.", width="content")
        origin(held_out)
    tiles = (
        ("members flagged", flagged.tp, members, f" of {fmt.count(members)}"),
        ("members missed", flagged.fn, members, ""),
        ("non-members flagged", flagged.fp, nonmembers, f" of {fmt.count(nonmembers)}"),
        ("non-members cleared", flagged.tn, nonmembers, ""),
    )
    with st.grid(2, wrap=False, min_column_width=140):
        for label, count, of, tail in tiles:
            count_tile(label, fmt.count(count), fmt.share(count / of, of) + tail)
    st.caption(meaning(flagged))


def meaning(flagged):
    """Of the flagged images x % are members: depends on how many images are members at all."""
    half, bound = flagged.precision(0.5)
    if half is None:
        return "Nothing is flagged, so nothing can be said about the flagged images."
    least = "at least " if bound else ""
    why = " No outsider was flagged; the bounds come from the 95 % limits of both shares." if bound else ""
    rare = flagged.precision(0.01)[0]
    return f"Of the flagged images {least}{_down(half)} are members if half of all images are; {least}{_down(rare)} if only 1 in 100 is.{why}"


def _down(share):
    return fmt.percent(share, 0 if share >= 0.02 else 1)


def attack_table(run):
    """Every attack of the run, those that did not run too; sorted by AUC."""
    st.header("All attacks", anchor=False)
    members, nonmembers = series.held_out_counts(run)
    rows = sorted(run.report["attacks"], key=lambda row: -row["auc"]["value"] if row["status"] == "done" else 1)
    table = pd.DataFrame([_row(row, members, nonmembers) for row in rows])
    right = st.column_config.Column(alignment="right")
    columns = {"attack": st.column_config.Column(pinned=True), "AUC": right, "calls per image": right}
    st.dataframe(table, hide_index=True, key="all_attacks", column_config=columns, alt=_table_alt(rows))
    for row in rows:
        if row["status"] == "done" and fmt.below_chance(row["auc"]["high"]):
            notice(f"below_{row['name']}", "warning", f"{series.card(row['name'])[1]}: {BELOW_CHANCE}")
    if run.report["queries"]["split"] == "cross-fitted":
        areas = ", ".join(fmt.auc(row["curve_auc"]) for row in rows if row["status"] == "done")
        st.caption(f"Curves: evaluation half of the first of 10 cross-fitting repeats, areas {areas}. AUC in the table: mean over all repeats.")
    st.caption(
        f"n = {fmt.count(members)} members + {fmt.count(nonmembers)} non-members, never used for choosing settings. "
        "Intervals, 95 %: DeLong, logit-t (AUC); binomial mixture (TPR). Calls: model calls per image, the whole grid included."
    )


def _row(row, members, nonmembers):
    short, title, threat_model = series.card(row["name"])
    out = {"attack": title if short.lower() in title.lower() else f"{title} ({short})", "threat model": row["threat_model"] or threat_model, "AUC": "", "95 % interval": ""}
    done = row["status"] == "done"
    if done:
        out |= {"AUC": fmt.auc(row["auc"]["value"]), "95 % interval": fmt.auc_bounds(row["auc"]["low"], row["auc"]["high"])}
    for fpr in (0.1, 0.01, 0.001):
        point = next((p for p in row["tpr_at_fpr"] or () if p["fpr"] == fpr), None)
        out[f"TPR at {fmt.fpr(fpr)} FPR"] = fmt.tpr(point, members, nonmembers) if point else ""
    calls = row["model_calls_per_image"]
    return out | {"calls per image": "" if calls is None else fmt.count(calls), "status": "done" if done else f"{row['status']}: {row['reason']}"}


def _table_alt(rows):
    done = [row for row in rows if row["status"] == "done"]
    best = f"; largest AUC {fmt.auc(done[0]['auc']['value'])} by {series.card(done[0]['name'])[0]}" if done else ""
    return f"{len(done)} of {len(rows)} attacks with AUC, TPR at three FPRs and model calls{best}"


main()

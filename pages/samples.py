"""What do the model's own pictures give away? The pool of samples, how it was made, and the query images that a sample came closest to."""

from pages.frame import guard

guard()

import hashlib  # noqa: E402

import streamlit as st  # noqa: E402

from audit import format as fmt  # noqa: E402
from audit.glossary import GLOSSARY  # noqa: E402
from audit.report import pictures  # noqa: E402
from audit.report.needed import pool_words  # noqa: E402
from audit.report.words import weak_null  # noqa: E402
from pages.frame import notice, page_head  # noqa: E402
from pages.frame.evidence import follow_run  # noqa: E402
from pages.frame.gallery import BLUR_WORDS, picture, sample, surrogate_sheet  # noqa: E402

PAIRS, SHEET = 12, 36  # a page of each
RELATIVE_HELP = (
    "Distance to the nearest sample, divided by the mean distance from the image to its 20 nearest other query images. Far below 1: the sample is closer than pictures of "
    "this kind are to each other, as a copy would be. Near 1 or above: no sample stands out."
)
NO_POOL = "This run has no samples. An attacker who sees only finished pictures is audited with a pool of them, drawn from the checkpoint or given as a folder:"


def main():
    """Head; how the samples were made; closest pairs; contact sheet."""
    run = page_head("Samples", "The model’s own pictures, and the query images that they come closest to.")
    if run is None:
        st.stop()
    pool, found = run.report.get("pool"), pictures.samples(run)
    follow_run("samples", run, {"pairs": 1, "sheet": 1})
    if not pool:
        st.text(NO_POOL)
        st.code("python -m audit run … --pool 2000", language="bash")
        return
    blur = made(run, pool)
    if found is None:
        notice("no_pictures", "warning", "The pictures of the samples are not in the run folder.")
        return
    closest(run, found["pairs"], blur)
    contact_sheet(run, found["shown"], pool, blur)
    if run.report.get("surrogate"):
        surrogate(run, run.report["surrogate"], blur)


def made(run, pool):
    """How the samples were drawn, what was left out, and the switch for blurring. Returns whether to blur."""
    with st.container(horizontal=True, vertical_alignment="top", horizontal_alignment="distribute"):
        with st.container(width="stretch", gap="xxsmall"):
            st.text(f"{pool_words(pool)}{_took(pool)}.")
            st.caption(f"SHA-256 {fmt.fingerprint(pool['sha256'])}. {GLOSSARY['black-box']}")
            for text in _left_out(pool):
                st.caption(text)
        with st.container(width=230, gap="xxsmall"):
            # one switch per run, as on page Images; samples of somebody's model may be copies of somebody's pictures
            key = f"blur_samples_{hashlib.sha256(str(run.folder).encode()).hexdigest()[:12]}"
            blur = st.toggle("Blur thumbnails", value=not (pictures.is_bundled(run) and pool["kind"] == "drawn"), key=key, persist_state="session")
            if blur:
                st.caption(BLUR_WORDS)
    return blur


def _took(pool):
    return f", in {fmt.duration(pool['seconds'])}" if pool.get("seconds") else ""


def _left_out(pool):
    """What is not in the pool, or not as it was given."""
    out = []
    if pool.get("resized"):
        out.append(f"{fmt.count(pool['resized'])} had another size and were resized once.")
    if pool.get("query_images"):
        many = fmt.count(pool["query_images"])
        out.append(f"{many} that {'is a query image itself was' if pool['query_images'] == 1 else 'are query images themselves were'} left out.")
    if pool.get("left_out"):
        out.append(f"{fmt.count(len(pool['left_out']))} could not be used, {pool['left_out'][0]['reason']} among the reasons.")
    return out


def closest(run, pairs, blur):
    """Query images beside their nearest sample, the strongest suspicion of a copy first."""
    st.header("Closest pairs", anchor=False)
    if not pairs:
        st.text("No attack of this run compared images with the samples.")
        return
    members = sum(pair["is_member"] for pair in pairs)
    share = sum(run.is_member) / len(run.is_member)
    st.markdown(
        f"Of the **{fmt.count(len(pairs))}** query images closest to a sample, beside their own neighbourhood, **{fmt.count(members)}** are members; "
        f"{fmt.percent(share)} of all query images are.",
        help=RELATIVE_HELP,
    )
    for text in weak_null(run.report):
        st.caption(f"{text}.")
    first = (_page(pairs, PAIRS, "pairs") - 1) * PAIRS
    with st.container(key="pixels_closest"), st.grid(3, min_column_width=260, gap="small"):
        for pair in pairs[first : first + PAIRS]:
            one_pair(run, pair, blur)
    st.caption(
        "Left the query image, right the nearest sample, by the distance over all pixels. All query images are listed here, also those that chose the settings: "
        "this is evidence to look at, not a number to quote."
    )


def one_pair(run, pair, blur):
    """Both pictures, the set, the distance, and the distance beside the neighbourhood."""
    kind = "● member" if pair["is_member"] else "○ non-member"
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, gap="medium", wrap=False):
            with st.container(gap="xxsmall", width=110):
                picture(run, pair["image_id"], blur, f"query image, {kind[2:]}", width=84)
                st.caption(kind)
            with st.container(gap="xxsmall", width=110):
                sample(run, pair["sample"], blur, "nearest sample", width=84)
                st.caption(f"sample {fmt.count(pair['sample'])}")
        st.text(f"{fmt.number(pair['relative'], 2)} of its neighbourhood · distance {fmt.number(pair['distance'], 2)}")


def contact_sheet(run, shown, pool, blur):
    """The first samples of the pool, unsorted."""
    st.header("Contact sheet", anchor=False)
    first = (_page(shown, SHEET, "sheet") - 1) * SHEET
    here = shown[first : first + SHEET]
    with st.container(key="pixels_sheet"), st.grid(6, min_column_width=92, gap="small"):
        for index in here:
            sample(run, index, blur, f"sample {index}")
    st.caption(f"The first {fmt.count(len(shown))} of {fmt.count(pool['images'])} samples, as they came; {fmt.count(first + 1)}–{fmt.count(first + len(here))} shown.")


def surrogate(run, made, blur):
    """What a model that was trained on these samples draws itself, and how it was trained."""
    st.header("Surrogate", anchor=False)
    with st.container(key="pixels_surrogate"):
        surrogate_sheet(run, blur, "samples of the surrogate")
    kept = "" if made["kept_step"] is None else f", weights of step {fmt.count(made['kept_step'])}, which did best on held-out samples"
    st.caption(
        f"Drawn by the surrogate itself: {made['architecture']}, {fmt.count(made['parameters'])} parameters, trained for {fmt.count(made['steps_done'])} steps "
        f"in {fmt.duration(made['training_seconds'])}{kept}. If these look like nothing, attacks on it say nothing."
    )


def _page(rows, size, key):
    """Page number from 1; a number beyond the last page is the last page."""
    pages = max(1, -(-len(rows) // size))
    if (st.session_state.get(key) or 1) > pages:
        st.session_state[key] = pages
    return st.pagination(pages, key=key, bind="query-params") if pages > 1 else 1


main()

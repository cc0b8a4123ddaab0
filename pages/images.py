"""Which pictures are exposed? Held-out images by rank, and one of them in detail."""

from pages.frame import guard

guard()

import hashlib  # noqa: E402

import numpy as np  # noqa: E402
import streamlit as st  # noqa: E402

from audit import format as fmt  # noqa: E402
from audit.attacks import ATTACKS  # noqa: E402
from audit.glossary import GLOSSARY  # noqa: E402
from audit.report import figures, pictures, series  # noqa: E402
from pages.frame import link, page_head  # noqa: E402
from pages.frame.evidence import chart, follow_run  # noqa: E402
from pages.frame.gallery import BLUR_WORDS, kind, percentile, picture  # noqa: E402

WHO = ("Members", "Non-members", "All")
CARDS, ROWS = 18, 100  # a page of the grid, a page of the table
TRAJECTORIES = 1000  # page Loss trajectories offers that many images by name
PAIRS_SHOWN = 24
CONFORMAL_HELP = "Share of the non-members that chose the settings, counting this image, with a score at least as high. Smaller = more like a member."
FLAG_HELP = "Flagged images are those whose conformal p is small enough that at most this share of all flags is expected to be wrong (Benjamini-Hochberg)."


def main():
    """Head, then list and detail."""
    run = page_head("Images", "Ranked by how member-like they look to the chosen attack.")
    if run is None:
        st.stop()
    names = {series.card(name)[0]: name for name in series.done(run)}
    follow_run("images", run, {"attack": next(iter(names)), "page": 1})
    gallery(run, names)


@st.fragment
def gallery(run, names):
    """Controls; cards or rows left, one image right."""
    attack, who, find, layout, blur = controls(run, names)
    positions = pictures.listed(run, attack, who, find)
    left, right = st.columns([2.1, 1], gap="medium")
    with left:
        if not len(positions):
            st.text(nothing(run, attack, who, find.strip()))
        elif layout == "Table":
            table(run, attack, positions, blur)
        else:
            grid(run, attack, positions, blur)
        if len(positions):
            st.caption(footer(run, attack))
    with right, st.container(border=True, key="detail"):
        detail(run, attack, chosen(run, positions), blur)
    left_out(run, blur)


def nothing(run, attack, who, find):
    """Why the list is empty; `find` comes from outside."""
    if not find:
        return "No held-out image of this kind."
    elsewhere = len(pictures.listed(run, attack, "All", find))
    if elsewhere:
        return f'No {who.lower()[:-1]} matches "{find[:60]}"; among all images {fmt.count(elsewhere)} {"does" if elsewhere == 1 else "do"}.'
    return f'No image matches "{find[:60]}". File names and hashes are searched.'


def controls(run, names):
    """(canonical attack, who, find, layout, blur)."""
    known = {ATTACKS[name].card.short for name in ATTACKS}
    wanted = st.query_params.get("attack")
    if wanted in known and wanted not in names:
        st.caption(f"{wanted} was not part of this run, or has no scores.")
    with st.container(horizontal=True, vertical_alignment="top"):
        short = st.selectbox("Attack", list(names), key="attack", bind="query-params", width=190, on_change=first_page)
        who = st.segmented_control("Show", WHO, default=WHO[0], required=True, key="who", bind="query-params", on_change=first_page)
        find = st.text_input("Find", key="find", placeholder="file name or hash", width=190, max_chars=200, on_change=first_page)
        layout = st.segmented_control("View", ["Grid", "Table"], default="Grid", required=True, key="layout", bind="query-params", on_change=first_page)
        with st.container(width=230, gap="xxsmall"):
            # one switch per run: what was unblurred for the demo says nothing about somebody's own pictures
            key = f"blur_{hashlib.sha256(str(run.folder).encode()).hexdigest()[:12]}"  # keys reach the browser: no path of this machine in one
            blur = st.toggle("Blur thumbnails", value=not pictures.is_bundled(run), key=key, persist_state="session")
            if blur:
                st.caption(BLUR_WORDS)
    return names[short], who, find, layout, blur


def first_page():
    """Another list begins at its first page."""
    st.session_state["page"] = 1


def chosen(run, positions):
    """Position of the image that the URL names, else the first of the list, else None."""
    wanted = st.query_params.get("image")
    if wanted is not None:
        position = pictures.position_of(run, wanted)
        if position is not None:
            return position
        st.text(f'There is no image "{wanted[:20]}" in this run.')
    return int(positions[0]) if len(positions) else None


def choose(image_id):
    """Show one image in detail; its hash in the URL, so that a link means the same image for good."""
    st.query_params["image"] = image_id


def shown_words(run, attack, first, last, count):
    """`450 images · 1–18 shown · percentile = …`."""
    _, nonmembers = series.held_out_counts(run)
    return (
        f"{fmt.count(count)} image{'' if count == 1 else 's'} · {fmt.count(first + 1)}–{fmt.count(last)} shown · "
        f"rank among all held-out images · percentile = share of the {fmt.count(nonmembers)} non-members below; top = above all of them"
    )


def grid(run, attack, positions, blur):
    """18 cards: picture, and one button with rank and percentile."""
    pages = max(1, -(-len(positions) // CARDS))
    above, body = st.container(), st.container()
    page = _page(pages)
    first = (page - 1) * CARDS
    here = positions[first : first + CARDS]
    above.caption(shown_words(run, attack, first, first + len(here), len(positions)))
    ranks, selected = pictures.ranks(run, attack), st.query_params.get("image")
    with body, st.container(key="pixels_grid"), st.grid(6, min_column_width=92, gap="small"):
        for position in here:
            image_id, rank = str(run.image_ids[position]), int(ranks.rank[position])
            words = f"{fmt.count(rank)} · {percentile(ranks, position)}" if rank else "not judged"
            with st.container(border=True, horizontal_alignment="center", gap="xsmall", key=f"card_{image_id}"):
                picture(run, image_id, blur, f"{kind(run, position)[2:]}, rank {rank}" if rank else kind(run, position)[2:])
                st.button(
                    words, key=f"show_{image_id}", on_click=choose, args=(image_id,), width="stretch", type="primary" if image_id == selected else "tertiary"
                )


def _page(pages):
    """Page number from 1; a number beyond the last page is the last page."""
    if (st.session_state.get("page") or 1) > pages:
        st.session_state["page"] = pages
    return st.pagination(pages, key="page", bind="query-params") if pages > 1 else 1


def table(run, attack, positions, blur):
    """The same as rows of text with a picture, for the keyboard and for long lists; choosing a row shows it in detail."""
    import pandas as pd

    pages = max(1, -(-len(positions) // ROWS))
    above, body = st.container(), st.container()
    first = (_page(pages) - 1) * ROWS
    here = positions[first : first + ROWS]
    above.caption(shown_words(run, attack, first, first + len(here), len(positions)))
    ranks = pictures.ranks(run, attack)
    rows = [
        {
            "picture": pictures.shown(run, str(run.image_ids[p]), blur),
            "rank": int(ranks.rank[p]) or None,
            "percentile": percentile(ranks, p),
            "set": "member" if run.is_member[p] else "non-member",
            "file": str(run.paths[p]),
            "hash": str(run.image_ids[p]),
        }
        for p in here
    ]
    ids = hash((attack, tuple(map(int, here))))  # a row number chosen in another list must not point into this one
    key = f"image_rows_{ids}"
    columns = {"picture": st.column_config.ImageColumn(width=70), "rank": st.column_config.NumberColumn(width=60)}
    body.dataframe(
        pd.DataFrame(rows), key=key, hide_index=True, row_height=56, height=620, column_config=columns, selection_mode="single-row",
        on_select=lambda: choose_row(key, here, run), alt=f"{len(rows)} images by rank: picture, percentile, set, file, hash",
    )


def choose_row(key, positions, run):
    """The chosen row in detail."""
    rows = st.session_state[key].selection.rows
    if rows and rows[0] < len(positions):
        choose(str(run.image_ids[positions[rows[0]]]))


def detail(run, attack, position, blur):
    """One image: picture, name, where it stands, its losses, its nearest neighbour."""
    if position is None:
        st.caption("No image to show.")
        return
    image_id, ranks = str(run.image_ids[position]), pictures.ranks(run, attack)
    with st.grid(2, min_column_width=132, gap="small"):  # stacked where the panel is narrow
        with st.container(key="pixels_detail"):
            picture(run, image_id, blur, f"the chosen {kind(run, position)[2:]}", width=132)
        with st.container(gap="xsmall"):
            with st.container(key="name_detail"):
                st.text(str(run.paths[position]))
            st.badge(kind(run, position), color="gray", help=GLOSSARY["member" if run.is_member[position] else "non-member"])
            st.caption(image_id)
    standing(run, attack, ranks, position)
    table = series.table_read(run, attack) or next(iter(series.loss_tables(run)), None)
    if table:
        with st.skeleton(height=240):
            chart(figures.image_figure(run, table, position), "image_losses")
        st.caption(f"{table}; band and median of all {fmt.count(int((~run.is_member).sum()))} non-members.")
    label = next((label for label, p in series.exposed(run, TRAJECTORIES).items() if p == position), None)
    if label and table:
        link("trajectories", "Open in trajectories", "timeline", table=table, images=label)
    neighbour(run, position, blur)


def standing(run, attack, ranks, position):
    """Above k of n non-members, conformal p and flag; words where the image was not judged."""
    if not ranks.rank[position]:
        calibration = run.half[position] == "calibration"
        st.markdown("Not judged: this image chose the settings." if calibration else "Not judged: an attack has no finite score for this image.")
        return
    other = "" if run.is_member[position] else "other "
    with st.container(gap="xxsmall"):
        of = int(ranks.of[position])
        st.markdown(f"Above **{fmt.count_of(int(ranks.above[position]), of)}** {other}non-members ({series.card(attack)[0]})")
        rows, headline = run.image_rows, run.report["verdict"]["headline_attack"]
        if rows is None or not np.isfinite(rows["conformal_p"][position]):
            return
        said = "" if attack == headline else f", {series.card(headline)[0]}"
        st.markdown(f"Conformal {fmt.p_value(rows['conformal_p'][position])}{said}", help=CONFORMAL_HELP)
        share = fmt.fpr((run.report.get("flags") or {}).get("q") or 0.1)
        st.markdown(f"{':material/flag: **Flagged**' if rows['flagged'][position] else 'Not flagged'} at FDR {share}{said}", help=FLAG_HELP)


def neighbour(run, position, blur):
    """The most similar other query image; drawn last, since the first time compares all thumbnails."""
    found = pictures.nearest(run, position)
    if found is None:
        return
    other, alike = found
    image_id = str(run.image_ids[other])
    st.markdown("**Nearest other query image**", help="By the correlation of both thumbnails as 16 × 16 grey values; 1 = the same picture.")
    with st.container(horizontal=True, gap="small", wrap=False, vertical_alignment="center"):
        with st.container(key="pixels_near", width=56):
            picture(run, image_id, blur, f"nearest other image, {kind(run, other)[2:]}", width=56)
        with st.container(gap="xxsmall"):
            with st.container(key="small_near"):
                st.text(str(run.paths[other]))
            st.caption(f"{kind(run, other)}, correlation {fmt.number(alike, 2)}")
    st.button("Show this one", icon=":material/image_search:", key="show_near", on_click=choose, args=(image_id,), type="tertiary")


def footer(run, attack):
    """n, and which images are not in the list."""
    members, nonmembers = series.held_out_counts(run)
    repeat = " of the first of 10 cross-fitting repeats" if run.report["queries"]["split"] == "cross-fitted" else ""
    return (
        f"n = {fmt.count(members)} members + {fmt.count(nonmembers)} non-members held out; scores{repeat} by {series.card(attack)[1]}. "
        "Images that chose the settings are not ranked; Find shows them too. A high rank is no proof: of many non-members some always stand high."
    )


def left_out(run, blur):
    """Pairs of near duplicates, where preparing the images found some."""
    pairs = pictures.near_pairs(run)
    if not pairs:
        return
    count = (run.report["queries"].get("duplicates") or {}).get("near") or 0
    st.header("Near duplicates", anchor=False)
    across = "No image was left out." if not count else "1 image was left out" if count == 1 else f"{fmt.count(count)} images were left out"
    st.markdown(f"{across}{' because a near duplicate stands in the other set.' if count else ''} Near duplicates inside one set stay, and stay together when images are split.")
    with st.container(key="pixels_pairs"), st.grid(3, min_column_width=260, gap="small"):
        for pair in pairs[:PAIRS_SHOWN]:
            near_pair(run, pair, blur)
    if len(pairs) > PAIRS_SHOWN:
        st.caption(f"The {PAIRS_SHOWN} strongest of {fmt.count(len(pairs))} pairs.")


def near_pair(run, pair, blur):
    """Two pictures, the set and the name of each, and how alike they are."""
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, gap="medium", wrap=False):
            for end in ("a", "b"):
                with st.container(gap="xxsmall", width=110):
                    picture(run, pair[end], blur, f"near duplicate, {pair[f'{end}_set']}", width=84)
                    st.caption("● member" if pair[f"{end}_set"] == "members" else "○ non-member")
        with st.container(key=f"small_pair_{pair['a']}_{pair['b']}", gap="xxsmall"):
            for end in ("a", "b"):
                st.text(pair[f"{end}_name"])
            st.text(f"{pair['how']} · correlation {fmt.number(pair['correlation'], 2)} · {'left out' if pair['left_out'] else 'both kept'}")


main()

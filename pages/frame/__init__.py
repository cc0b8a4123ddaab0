"""What all pages share. Every file directly in pages/ is a page, and its first statements are

    from pages.frame import guard
    guard()

API
    guard()                         first line of each page: the frame is there, and the visitor may see it
    page_head(title, caption, badge=True) -> Run | None
                                    h1 and caption left; run picker, verdict badge and n right. Draws the state when there is nothing to show
                                    (no run, still running, failed, unreadable) and returns None: `if run is None: st.stop()`
    heading(title, caption)         the left half alone, for pages without a run (New audit, Runs)
    config() -> audit.config.Config AUDIT_HOME is prepared; draws the error and stops when it cannot be used
    store() -> audit.jobs.store.Store
    current() -> Entry | None       the run that the URL names, or the newest finished one
    go(page, **query)               to another page by its file's stem: go("runs", show=job.id); the run in the URL stays
    link(page, label, icon, **query)  the same as a link
    first_visit()                   the "No audit yet" card with its two buttons
    start_demo()                    submits the bundled demo and goes to Runs
    state(key, icon, title, text)   a bordered card for an empty, running or failed state; use as `with state(...):` and draw buttons in it
    notice(key, icon, text)         one line in a tinted box: warnings that may hold names from outside
    badge(level)                    the verdict badge: icon, word, colour slot
    take_upload(label, key, suffixes, folder, help=None) -> Upload | None
                                    a file uploader whose bytes go to `folder` in pieces and leave the server's memory at once
    forget_upload(key)              shows the uploader again

Text from outside (file names, run names, error sentences) goes through `st.text`, a selectbox or a dataframe, never through Markdown or HTML.
CSS hooks by container key: `verdict_LEVEL…` coloured bar · `points…` bulleted `st.text` lines · `name…` st.text as a heading ·
`small…` st.text as a caption · `noprint…` left out of print · `pixels…` images without smoothing.
"""

import os

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # small tables only: Arrow's own pool would hold 5 MB for them

from pages.frame.menu import go, guard, link, main, nav
from pages.frame.runs import Entry, badge, config, current, heading, list_runs, page_head, store
from pages.frame.states import first_visit, notice, start_demo, state
from pages.frame.theme import style
from pages.frame.uploads import Upload, forget_upload, take_upload

__all__ = [
    "Entry",
    "Upload",
    "badge",
    "config",
    "current",
    "first_visit",
    "forget_upload",
    "go",
    "guard",
    "heading",
    "link",
    "list_runs",
    "main",
    "nav",
    "notice",
    "page_head",
    "start_demo",
    "state",
    "store",
    "style",
    "take_upload",
]

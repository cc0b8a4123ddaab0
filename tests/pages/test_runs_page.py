"""Page Runs: each state of a job in its words, and what its buttons do to the job list."""

import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from audit.jobs import launch
from audit.jobs.store import Store
from pages.frame import jobs as cards

APP = Path(__file__).resolve().parents[2] / "app.py"
HOSTILE = "**bold** <b>x</b> :red[y] $z$"
ALIVE = launch.WorkerStatus(True, "CPU, 2 cores", 0, 0, "")
DEAD = launch.WorkerStatus(False, "", 0, 1, "")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty AUDIT_HOME with a living worker that does nothing; `home.started` counts the workers asked for."""
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    from audit.config import load

    config = load().prepare_home()
    started = []
    monkeypatch.setattr(launch, "worker_status", lambda config: ALIVE)
    monkeypatch.setattr(launch, "ensure_worker", lambda config: started.append(config))
    store = Store(config.home)
    store.started, store.config = started, config
    return store


def submit(store, name, state="queued", **fields):
    """A job in a state, as a worker would have left it."""
    folder = store.config.runs / name.replace(" ", "-").replace("/", "_")[:20]
    folder.mkdir(exist_ok=True)
    (folder / "request.json").write_text("{}")
    request = {"checkpoint": "/c", "members": "/m", "nonmembers": "/n", "preset": "quick", "timesteps": None, "draws": None}
    job, _ = store.submit("audit", name, request, identity=name, folder=str(folder))
    if state != "queued":
        assert store.claim("w").id == job.id
        store.heartbeat("w")
        store.update(job.id, "w", "running", new_state=None if state == "running" else state, **({"phase": "Noised probe"} | fields))
    return store.get(job.id)


def page(**query):
    """Page Runs, run once."""
    app = AppTest.from_file(APP, default_timeout=30)
    for name, value in query.items():
        app.query_params[name] = value
    return app.switch_page("pages/runs.py").run()


def texts(app):
    """Everything that st.text shows, in order."""
    assert not app.exception, app.exception
    return [text.value for text in app.text]


def has(app, words):
    """True when one st.text holds these words."""
    return any(words in text for text in texts(app))


def badges(app):
    """Everything that Markdown shows, badges among it."""
    return " ".join(m.value for m in app.main.markdown)


def sweep(store, run, state="queued", **fields):
    """A sweep over protections of a run in a state, as a worker would have left it."""
    job, _ = store.submit("protections", f"protections of {run.name}", {"request": run.request, "images": 300}, identity=run.id, folder=run.folder)
    if state != "queued":
        assert store.claim("w", "protections").id == job.id
        store.heartbeat("w")
        store.update(job.id, "w", "running", new_state=None if state == "running" else state, **fields)
    return store.get(job.id)


def test_a_sweep_over_protections_is_shown_while_it_is_open_and_can_be_cancelled(home):
    run = submit(home, "faces", "done")
    going = sweep(home, run, "running", phase="Through the API that shows 4-bit pictures", done_shards=3, total_shards=12, done_images=900, total_images=3600)
    app = page()
    assert has(app, "protections of faces") and has(app, "Through the API that shows 4-bit pictures · API 4 of 12 · 900 of 3,600 images")
    assert any(t.startswith("started ") and t.endswith(" · sweep over protections · CPU") for t in texts(app))
    assert has(page(show="Running"), "protections of faces") and not has(page(show="Running"), cards.NOTHING["Running"]) and not has(page(show="Done"), "protections of faces")
    app.button(key=f"cancel_{going.id}").click().run()
    assert home.get(going.id).cancel_requested and has(app, "Stopping after this batch")
    home.update(going.id, "w", "running", new_state="failed", error="It failed.")
    assert not has(page(), "protections of faces")  # page Which attack? says what became of it


def test_a_waiting_sweep_stands_behind_all_waiting_audits(home):
    run = submit(home, "faces", "done")
    sweep(home, run)
    submit(home, "second")
    submit(home, "third")
    lines = [t for t in texts(page()) if "in line" in t]
    assert lines == ["first in line", "second in line", "third in line"] and texts(page()).index("protections of faces") > texts(page()).index("third")
    assert launch.Store(home.config.home).counts("audit", "protections") == (0, 3)


def test_running_card_says_where_it_is(home):
    done = {"done_shards": 20, "total_shards": 50, "done_images": 1680, "total_images": 4000, "done_calls": 67200, "total_calls": 160000}
    submit(home, "faces", "running", images_per_s=38.0, **done)
    app = page()
    assert has(app, "Noised probe · shard 21 of 50 · 1,680 of 4,000 images")
    line = next(t for t in texts(app) if t.startswith("38 images/s"))
    assert "about 2 min left (finishes " in line and line.endswith("67,200 of 160,000 model calls")
    assert any(t.startswith("started ") and t.endswith(" · quick preset · CPU") for t in texts(app))
    assert "Running" in badges(app)


def test_cancel_asks_the_worker_and_says_so(home):
    job = submit(home, "faces", "running", phase="Noised probe")
    app = page()
    app.button(key=f"cancel_{job.id}").click().run()
    assert home.get(job.id).cancel_requested
    assert has(app, "Stopping after this batch …") and "Cancelling" in badges(app)
    assert app.button(key=f"cancel_{job.id}").disabled


def test_waiting_has_its_place_and_the_work_that_a_check_measured(home):
    submit(home, "first one")
    time.sleep(0.01)
    submit(home, "second one")
    request = home.list()[0].request
    home.submit("check", "check", request, "c")
    check = home.claim("w", kind="check")
    home.update(check.id, "w", "running", new_state="done", result={"price": {"seconds": 200.0}})
    app = page()
    assert has(app, "first in line · about 4 min of work") and has(app, "second in line · about 4 min of work")


def test_waiting_without_a_worker_shows_its_log(home, monkeypatch):
    submit(home, "faces")
    home.config.worker_log.write_text("ImportError: no torch here\n")
    monkeypatch.setattr(launch, "worker_status", lambda config: DEAD)
    assert not has(page(), "No worker has taken this up")
    assert home.started, "opening the page replaces a dead worker"
    monkeypatch.setattr(cards, "PATIENCE_S", -1)
    app = page()
    assert has(app, "No worker has taken this up. Last lines of its log:")
    assert "no torch here" in app.code[0].value


def test_silent_worker(home, monkeypatch):
    submit(home, "faces", "running")
    monkeypatch.setattr(cards, "STALE_S", -1)
    assert has(page(), " ago. The next one resumes from the last shard.")


def test_failed_gives_the_reason_and_runs_again(home):
    job = submit(home, "ldm", "failed", error="config.json says 3 channels, the images have 1. Convert the images.")
    app = page()
    assert has(app, "config.json says 3 channels, the images have 1.") and "Failed" in badges(app)
    assert any(" · after less than 1 s" in t for t in texts(app))
    app.button(key=f"retry_{job.id}").click().run()
    assert home.get(job.id).state == "queued" and home.started


def test_cancelled_says_what_was_kept_and_resumes(home):
    job = submit(home, "cifar", "cancelled", done_calls=37, total_calls=100, done_shards=19, total_shards=50)
    app = page()
    assert has(app, "Cancelled at 37\u202f%. 19 of 50 shards kept.")
    app.button(key=f"resume_{job.id}").click().run()
    assert home.get(job.id).state == "queued" and home.started


def test_delete_asks_first(home):
    job = submit(home, "cifar", "cancelled")
    app = page()
    app.button(key=f"delete_{job.id}").click().run()
    assert has(app, "Delete cifar? ") and has(app, "The checkpoint and your images stay.")
    app.button(key="delete_keep").click().run()
    assert home.get(job.id) is not None and not has(app, "Delete cifar? ")
    app.button(key=f"delete_{job.id}").click().run()
    app.button(key="delete_confirm").click().run()
    assert home.get(job.id) is None and not (home.config.runs / "cifar").exists()


def test_finished_table_prints_the_result(home):
    auc = {"value": 0.9512, "low": 0.9364, "high": 0.9619}
    result = {"level": "high", "headline": "…", "auc": auc, "members": 1000, "nonmembers": 900, "seconds": 72.2, "sha256": "9c41e07bffff"}
    submit(home, HOSTILE, "done", result=result)
    row = page().dataframe[0].value.iloc[0]
    assert row["run"] == HOSTILE and row["verdict"] == "High" and row["AUC, headline attack"] == "0.951 [0.936, 0.962]"
    assert row["images"] == "1,000 + 900" and row["took"] == "1 min 12 s" and row["checkpoint"] == "9c41e07b"


def test_filter_is_in_the_url_and_a_bad_one_is_dropped(home):
    submit(home, "broken", "failed", error="It broke.")
    submit(home, "waits")
    app = page()
    app.button_group(key="show").set_value("Failed").run()
    assert has(app, "It broke.") and not has(app, "waits")
    app.button_group(key="show").set_value("Cancelled").run()
    assert has(app, "No audit was cancelled.")


@pytest.mark.parametrize("state", ["queued", "running", "failed", "cancelled"])
def test_names_from_outside_are_text(home, state):
    submit(home, HOSTILE, state, **({} if state in ("queued", "running") else {"error": HOSTILE}))
    app = page()
    assert HOSTILE in texts(app)
    shown_as_markup = [m.value for m in app.main.markdown] + [c.value for c in app.caption] + [h.value for h in app.subheader]
    assert not any("<b>" in m or "**bold" in m for m in shown_as_markup)


def test_log_dialog_shows_the_last_lines(home):
    job = submit(home, "faces", "failed", error="It broke.")
    (home.config.runs / "faces" / "log.txt").write_text("\n".join(f"line {i}" for i in range(1000)))
    app = page()
    app.button(key=f"log_{job.id}").click().run()
    lines = app.code[0].value.splitlines()
    assert len(lines) == cards.LOG_LINES and lines[-1] == "line 999"


def test_no_run_at_all_offers_the_demo(home):
    app = page()
    assert has(app, "The bundled demo takes about 2 minutes on this machine") and app.button(key="first_demo")


def test_position_words():
    assert [cards.place_words(n) for n in (1, 2, 9, 10)] == ["first in line", "second in line", "ninth in line", "number 10 in line"]
    assert cards.work_words(30) == "less than a minute of work" and cards.work_words(None) == ""


def test_tail_reads_the_end_only(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"\xff\xfe" + b"x" * 1000 + b"\nlast")
    assert cards.tail(log, lines=1) == "last" and cards.tail(tmp_path / "none") == "" and len(cards.last_bytes(log, 10)) == 10

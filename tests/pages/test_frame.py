"""Menu, guard, run picker, states and uploads: what all pages share."""

import json
import os
import shutil
import types
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from audit.jobs import launch
from audit.jobs.store import Store
from pages.frame import menu, uploads
from tests.evidence_home import open_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = [line.stem for line in menu.MENU]
EVIDENCE = ["verdict", "roc", "trajectories", "truncation", "report"]
HOSTILE = "<img src=x onerror=alert(1)> **b** [l](http://e.x) :red[x] $y$"


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """AUDIT_HOME before the first visit."""
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def a_job(empty_home):
    """Makes a job in a state, as a worker would have left it; returns the Job."""
    empty_home.mkdir(mode=0o700)

    def make(state, **fields):
        store = Store(empty_home)
        job, _ = store.submit("audit", "faces", {}, identity=state, folder=str(empty_home / "runs" / "faces"))
        if state == "cancelled" and not fields:
            return store.request_cancel(job.id)
        if state != "queued":
            store.claim("w")
            store.update(job.id, "w", "running", **{"phase": "Noised probe"} | ({"new_state": state} if state != "running" else {}) | fields)
        return store.get(job.id)

    return make


def texts(at):
    assert not at.exception, [e.message for e in at.exception]
    return [t.value for t in at.text]


def start(**query):
    """The start page. AppTest's switch_page does not know a default page by its file, and would drop the next click."""
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    return at.run()


def titles(at):
    return [h.value for h in at.header]


def links(at):
    """{label: query} of the menu."""
    return {link.proto.label: link.proto.query_string for link in at.sidebar.get("page_link")}


# --- menu -------------------------------------------------------------------------------------------------------------------------------------


def test_the_menu_lists_the_pages_that_exist(home):
    at = open_page("verdict", run="clear")
    assert list(links(at)) == ["Verdict", "New audit", "Runs", "ROC", "Loss trajectories", "Truncation", "Images", "Samples", "Which attack?", "Report"]
    assert {p.stem for p in (ROOT / "pages").glob("*.py")} == set(PAGES)
    assert [c.value for c in at.sidebar.caption][:4] == ["Audit", "Evidence", "Compare", "Share"]


def test_every_link_of_the_menu_keeps_the_run(home):
    assert set(links(open_page("roc", run="few")).values()) == {"run=few"}


@pytest.mark.parametrize(
    "status, line",
    [
        (launch.WorkerStatus(True, "CPU, 2 cores", 0, 0, ""), ":material/memory: Worker idle · CPU, 2 cores"),
        (launch.WorkerStatus(False, "", 0, 0, ""), ":material/memory: Worker not running"),
        (launch.WorkerStatus(False, "", 0, 2, ""), ":material/warning: Worker not running"),
    ],
)
def test_the_worker_is_named_under_the_menu(home, monkeypatch, status, line):
    monkeypatch.setattr(launch, "worker_status", lambda config: status)
    at = open_page("verdict", run="clear")
    assert line in [c.value for c in at.sidebar.caption]
    assert ("Waiting 2" in links(at)) == (status.waiting == 2)


def test_running_and_waiting_lead_to_runs(home, monkeypatch):
    monkeypatch.setattr(launch, "worker_status", lambda config: launch.WorkerStatus(True, "CPU", 1, 2, ""))
    assert "Running 1, waiting 2" in links(open_page("verdict", run="clear"))


def test_a_page_run_without_app_brings_the_frame_and_runs_again(monkeypatch):
    class Rerun(Exception):
        pass

    done = []
    monkeypatch.setattr(menu, "nav", lambda: done.append("nav"))
    monkeypatch.setattr(menu, "_require_login", lambda: done.append("login"))
    monkeypatch.setattr(st, "rerun", lambda: (_ for _ in ()).throw(Rerun))
    with pytest.raises(Rerun):
        menu.guard()
    assert done == ["nav"]


def test_a_page_inside_app_runs_on(monkeypatch):
    done = []
    page = types.SimpleNamespace(run=lambda: (menu.guard(), done.append("page")))
    monkeypatch.setattr(menu, "nav", lambda: page)
    monkeypatch.setattr(menu, "_require_login", lambda: done.append("login"))
    menu.main()
    assert done == ["login", "page"]


@pytest.mark.parametrize("stem", PAGES)
def test_nobody_sees_a_page_before_the_login_that_is_configured(home, stem):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.secrets["auth"] = {
        "redirect_uri": "http://localhost/oauth2callback",
        "cookie_secret": "x",
        "client_id": "x",
        "client_secret": "x",
        "server_metadata_url": "http://localhost/x",
    }
    at.run()
    at.switch_page(f"pages/{stem}.py").run()
    assert [b.label for b in at.button] == ["Log in"] and [t.value for t in at.title] == ["Afterimage"]
    assert not at.selectbox and not at.metric and not at.text and not at.sidebar.get("page_link")


# --- which run --------------------------------------------------------------------------------------------------------------------------------


def test_the_url_chooses_the_run_and_gets_it_when_it_has_none(home):
    assert open_page("verdict", run="few").selectbox(key="run_picker").value == "few"
    at = open_page("verdict")
    chosen = at.selectbox(key="run_picker").value
    assert chosen in ("clear", "few") and at.query_params["run"] in (chosen, [chosen])


def test_the_picker_writes_the_url(home):
    at = open_page("verdict", run="few")
    at.selectbox(key="run_picker").set_value("clear").run()
    assert at.query_params["run"] in ("clear", ["clear"])
    assert any(c.value.startswith("225 + 225 images held out") for c in at.caption)
    assert set(links(at).values()) == {"run=clear"}


def test_the_newest_run_is_shown_first_and_named_with_its_time(home):
    for run, created in (("clear", "2026-03-01T10:00:00Z"), ("few", "2026-04-01T10:00:00Z")):
        edit(home, run, lambda report, when=created: report["run"].update(created=when))
    at = open_page("verdict")
    assert at.selectbox(key="run_picker").value == "few"
    assert [option.rpartition(" · ")[0] for option in at.selectbox(key="run_picker").options] == ["few", "clear"]


def test_an_unknown_run_says_so_and_shows_the_newest(home):
    at = open_page("roc", run="xyz<b>")
    assert 'There is no run "xyz<b>" here. Showing the newest one.' in texts(at)
    assert at.selectbox(key="run_picker").value in ("clear", "few")


def edit(home_, run, change):
    """Change a report.json in place, with a later mtime, so that no open copy of it is taken for this one."""
    file = home_ / "runs" / run / "report.json"
    report = json.loads(file.read_text())
    change(report)
    file.write_text(json.dumps(report))
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1_000_000))


def test_a_changed_report_is_read_again(home):
    before = [m.value for m in open_page("verdict", run="clear").metric]
    edit(home, "clear", lambda report: report["controls"][0].update(auc=0.123))
    after = [m.value for m in open_page("verdict", run="clear").metric]
    assert after[3] == "0.123" != before[3] and after[:3] == before[:3]


@pytest.mark.parametrize("stem", EVIDENCE)
def test_a_name_from_outside_is_text_on_every_page(home, stem):
    edit(home, "clear", lambda report: report["run"].update(name=HOSTILE))
    edit(home, "clear", lambda report: report["queries"]["left_out"].append({"path": HOSTILE, "set": "members", "reason": HOSTILE}))
    at = open_page(stem, run="clear")
    assert at.selectbox(key="run_picker").options[0].startswith(HOSTILE) or at.selectbox(key="run_picker").options[1].startswith(HOSTILE)
    drawn = [m.value for m in at.markdown] + [c.value for c in at.caption] + [h.value for h in [*at.title, *at.header, *at.subheader]] + [h.proto.body for h in at.get("html")]
    assert not [text for text in drawn if "<img" in text]


# --- states -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", EVIDENCE)
def test_first_visit(empty_home, stem):
    at = open_page(stem)
    assert titles(at) == ["No audit yet"]
    assert texts(at) == ["An audit asks which training images a checkpoint gives away. The bundled demo takes about 2 minutes on this machine and needs no data of yours."]
    assert [b.label for b in at.button] == ["Run the demo", "Audit my checkpoint"]


def test_run_the_demo_submits_both_and_goes_to_runs(empty_home, monkeypatch):
    from audit import demo

    asked = []
    monkeypatch.setattr(demo, "submit_demo", lambda config, out=None: asked.append(config.home))
    at = start()
    at.button(key="first_demo").click().run()
    assert asked == [empty_home] and [t.value for t in at.title] == ["Runs"]


def test_a_demo_that_is_refused_says_why(empty_home, monkeypatch):
    from audit import demo
    from audit.errors import HomeError

    def refuse(config, out=None):
        raise HomeError("Disk: 0.1 GB free. Free space.")

    monkeypatch.setattr(demo, "submit_demo", refuse)
    at = start()
    at.button(key="first_demo").click().run()
    assert "Disk: 0.1 GB free. Free space." in texts(at) and [t.value for t in at.title] == ["Verdict"]


@pytest.mark.parametrize("stem", EVIDENCE)
def test_still_running(a_job, stem):
    job = a_job("running", done_calls=420, total_calls=1000, done_images=42, total_images=100, images_per_s=1.0)
    at = open_page(stem, run=job.id)
    assert titles(at) == ["This audit is still running"]
    assert texts(at) == ["42\u202f% done, less than a minute left. Pictures appear here when it ends."]
    assert not at.metric and not at.get("plotly_chart")


def test_a_waiting_audit_is_not_a_finished_one(a_job):
    assert texts(open_page("roc", run=a_job("queued").id)) == ["Waiting for its turn. Pictures appear here when it ends."]


@pytest.mark.parametrize("stem", EVIDENCE)
def test_failed(a_job, stem):
    sentence = f"model.safetensors {HOSTILE} ends after 41 of 143 MB. The copy was cut short: copy it again."
    at = open_page(stem, run=a_job("failed", error=sentence).id)
    assert titles(at) == ["This audit failed"] and texts(at) == [sentence]


def test_cancelled(a_job):
    job = a_job("cancelled", done_calls=37, total_calls=100, done_shards=19, total_shards=50)
    assert texts(open_page("verdict", run=job.id)) == ["Cancelled at 37\u202f%. 19 of 50 shards kept."]


def test_a_finished_audit_is_preferred_to_a_newer_one_that_runs(a_job, empty_home, run_folders):
    shutil.copytree(run_folders / "few", empty_home / "runs" / "few")
    a_job("running")
    assert open_page("verdict").selectbox(key="run_picker").value == "few"


def test_a_done_audit_whose_folder_is_gone(a_job):
    at = open_page("verdict", run=a_job("done").id)
    assert titles(at) == ["This run cannot be read"] and "report.json is missing" in texts(at)[0]


def test_an_old_schema_says_what_to_do(home):
    edit(home, "few", lambda report: report.update(schema_version=0))
    at = open_page("roc", run="few")
    assert titles(at) == ["This run cannot be read"] and "python -m audit rescore" in texts(at)[0]


def test_damaged_json_is_an_error_on_the_page(home):
    (home / "runs" / "few" / "report.json").write_text("{")
    at = open_page("roc", run="few")
    assert titles(at) == ["This run cannot be read"] and "few is damaged" in texts(at)[0]


def test_a_home_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert titles(at) == ["The audit folder cannot be used"] and texts(at) == ["AUDIT_HOME (home) is not a folder. Set AUDIT_HOME to a folder that you may write."]


# --- uploads ----------------------------------------------------------------------------------------------------------------------------------


def upload_page(folder):
    import streamlit as st

    from pages.frame import forget_upload, take_upload

    stored = take_upload("A file", "thing", (".zip",), folder)
    st.text(repr(stored and tuple(map(str, stored))))
    st.button("Another", on_click=forget_upload, args=("thing",))


@pytest.mark.parametrize("name", ["a.zip", "../../etc/x.zip", "<b>.ZIP"])
def test_an_upload_is_stored_under_its_hash_and_its_name_is_only_shown(empty_home, tmp_path, monkeypatch, name):
    empty_home.mkdir(mode=0o700)
    released = []
    monkeypatch.setattr(uploads, "_release", lambda arrived: released.append(arrived.file_id))
    folder = tmp_path / "stored"
    folder.mkdir()
    at = AppTest.from_function(upload_page, args=(str(folder),), default_timeout=30).run()
    data = os.urandom(3 * uploads.PIECE + 5)
    at.file_uploader[0].set_value((name, data, "application/zip")).run()
    assert not at.exception
    (file,) = folder.iterdir()
    assert file.read_bytes() == data and file.suffix == ".zip" and len(file.stem) == 32
    assert str(file) in at.text[0].value and len(released) == 1 and not at.file_uploader
    at.button[0].click().run()
    assert len(at.file_uploader) == 1 and at.text[0].value == "None"


def test_the_bytes_leave_streamlit_through_the_door_that_it_has(monkeypatch):
    """`uploaded_file_mgr.remove_file` is internal: this fails when an update takes it away, and the README's memory figure with it."""
    from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
    from streamlit.runtime.uploaded_file_manager import UploadedFileRec

    manager = MemoryUploadedFileManager("/upload")
    manager.add_file("session", UploadedFileRec("file", "a.zip", "", b"x" * 100))
    monkeypatch.setattr(uploads, "get_script_run_ctx", lambda: types.SimpleNamespace(uploaded_file_mgr=manager, session_id="session"))
    closed = []
    uploads._release(types.SimpleNamespace(file_id="file", close=lambda: closed.append(True)))
    assert closed and manager.get_files("session", ["file"]) == []

"""The job list: one open job per request, leases, cancel, resume, and rows that somebody damaged."""

import sqlite3
import threading
import time

import pytest

from audit.errors import HomeError, JobError
from audit.jobs.store import MAX_ATTEMPTS, STALE_S, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def add(store, identity="a", kind="audit", **kwargs):
    return store.submit(kind, "name", {"x": 1}, identity, "/nowhere", **kwargs)[0]


def sql(store, statement, *values):
    with sqlite3.connect(store.path) as db:
        db.execute(statement, values)
    db.close()


def test_a_second_click_opens_the_first_job(store):
    first, created = store.submit("audit", "n", {}, "same", "/f")
    second, again = store.submit("audit", "other", {}, "same", "/g")
    assert created and not again and second == first
    store.request_cancel(first.id)
    third, created = store.submit("audit", "n", {}, "same", "/f")
    assert created and third.id != first.id


def test_many_threads_make_one_job(store):
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(store.submit("audit", "n", {}, "same", "/f"))) for _ in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({job.id for job, _ in seen}) == 1 and sum(created for _, created in seen) == 1


def test_a_claim_is_exclusive_and_oldest_first(store):
    ids = [add(store, str(i)).id for i in range(6)]
    assert [store.queue_position(i) for i in ids] == [1, 2, 3, 4, 5, 6]
    taken = []
    threads = [threading.Thread(target=lambda n=n: taken.append(store.claim(f"w{n}").id)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(taken) == sorted(ids) and store.claim("w") is None
    assert store.queue_position(ids[0]) is None


def test_checks_and_audits_wait_in_lines_of_their_own(store):
    audit, check = add(store), add(store, kind="check")
    assert store.claim("w", "check").id == check.id and store.claim("w", "check") is None
    assert store.claim("w").id == audit.id
    assert [j.id for j in store.list()] == [audit.id] and [j.id for j in store.list("check")] == [check.id]


def test_updates_need_the_right_owner_and_state(store):
    job = add(store)
    store.claim("w")
    assert store.update(job.id, "w", "running", phase="p", done_images=3)
    assert not store.update(job.id, "other", "running", phase="q")
    assert not store.update(job.id, "w", "finalising", phase="q")
    assert (store.get(job.id).phase, store.get(job.id).done_images) == ("p", 3)
    assert store.update(job.id, "w", "running", new_state="finalising")
    assert store.update(job.id, "w", "finalising", new_state="done", result={"level": "high"})
    done = store.get(job.id)
    assert (done.state, done.result, done.owner, done.active) == ("done", {"level": "high"}, "", False) and done.finished >= done.started >= done.created
    assert not store.update(job.id, "w", "finalising", phase="late")


def test_cancel_is_at_once_for_a_waiting_job_and_a_wish_for_a_running_one(store):
    waiting, running = add(store, "1"), add(store, "2")
    store.request_cancel(waiting.id)
    assert store.get(waiting.id).state == "cancelled" and store.get(waiting.id).finished
    store.claim("w")
    store.request_cancel(running.id)
    job = store.get(running.id)
    assert job.state == "running" and job.cancel_requested and store.heartbeat("w") == {running.id: True}
    with pytest.raises(JobError, match="already"):
        store.request_cancel(waiting.id)
    with pytest.raises(JobError, match="no job"):
        store.request_cancel("nope")


def test_resume_only_what_stopped_and_only_once(store):
    job = add(store, "same")
    with pytest.raises(JobError, match="Only a failed or cancelled"):
        store.resume(job.id)
    store.request_cancel(job.id)
    other = add(store, "same")
    with pytest.raises(JobError, match="waiting or running already"):
        store.resume(job.id)
    store.request_cancel(other.id)
    again = store.resume(job.id)
    assert (again.state, again.cancel_requested, again.error, again.attempts) == ("queued", False, "", 0)


def test_a_dead_workers_jobs_are_taken_over(store):
    jobs = [add(store, str(i)) for i in range(3)]
    for _ in jobs:
        store.claim("dead")
    store.request_cancel(jobs[1].id)
    sql(store, "UPDATE jobs SET attempts=? WHERE id=?", MAX_ATTEMPTS, jobs[2].id)
    assert store.take_over_dead("new", lock_held=False) == 0  # they spoke a moment ago
    assert store.take_over_dead("dead", lock_held=True) == 0  # never one's own
    assert store.take_over_dead("new", lock_held=True) == 3
    states = [store.get(j.id).state for j in jobs]
    assert states == ["queued", "cancelled", "failed"] and "died 3 times" in store.get(jobs[2].id).error
    assert store.heartbeat("dead") == {}


def test_a_stale_lease_is_lost_without_the_lock(store):
    job = add(store)
    store.claim("dead")
    sql(store, "UPDATE jobs SET heartbeat=?", time.time() - STALE_S - 1)
    assert store.get(job.id).silent_seconds > STALE_S
    assert store.take_over_dead("new", lock_held=False) == 1
    assert store.claim("new").attempts == 2
    assert not store.update(job.id, "dead", "running", phase="zombie")


def test_damaged_and_foreign_rows_hide_no_other_and_block_no_queue(store):
    bad = [add(store, str(i)).id for i in range(4)]
    good = add(store, "good")
    sql(store, "UPDATE jobs SET request='{torn' WHERE id=?", bad[0])
    sql(store, "UPDATE jobs SET request=?, created='yesterday' WHERE id=?", b"\xff\xfe", bad[1])
    sql(store, "UPDATE jobs SET state='exploded' WHERE id=?", bad[2])
    sql(store, "UPDATE jobs SET result='[1', done_calls='many' WHERE id=?", bad[3])
    listed = {job.id: job for job in store.list()}
    assert set(listed) == {*bad, good.id} and listed[good.id].state == "queued"
    assert all(listed[i].state == "failed" and "damaged" in listed[i].error for i in bad)
    assert store.claim("w").id == good.id and store.claim("w") is None
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT state FROM jobs WHERE id=?", (bad[0],)).fetchone() == ("failed",)


def test_ids_with_quotes_are_values_not_sql(store):
    job = add(store)
    assert store.get("' OR '1'='1") is None
    with pytest.raises(JobError):
        store.delete("x'; DROP TABLE jobs; --")
    assert store.get(job.id) is not None


def test_delete_takes_the_run_folder_but_never_another_folder(store, tmp_path):
    run, foreign = tmp_path / "runs" / "r", tmp_path / "precious"
    for folder in (run, foreign):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (run / "request.json").touch()
    job, _ = store.submit("audit", "n", {}, "1", str(run))
    with pytest.raises(JobError, match="Cancel it"):
        store.delete(job.id)
    other, _ = store.submit("audit", "n", {}, "2", str(foreign))
    for j in (job, other):
        store.request_cancel(j.id)
        store.delete(j.id)
        assert store.get(j.id) is None
    assert not run.exists() and (foreign / "file").exists()


def test_to_delete_a_sweep_leaves_the_run_that_it_swept(store, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "request.json").write_text("{}")
    job, _ = store.submit("protections", "protections of run", {}, "1", str(folder))
    store.request_cancel(job.id)
    store.delete(job.id)
    assert folder.exists() and store.get(job.id) is None


def test_a_folder_that_cannot_be_made_leaves_no_row(store):
    def refuse():
        raise JobError("no")

    with pytest.raises(JobError):
        store.submit("audit", "n", {}, "1", "/f", before_commit=refuse)
    assert store.list() == []


def test_progress_figures(store):
    job = add(store)
    assert store.get(job.id).eta_seconds is None and store.get(job.id).fraction == 0
    store.claim("w")
    store.update(job.id, "w", "running", total_images=100, total_calls=1000, done_images=2, done_calls=20, images_per_s=4.0, total_shards=50, done_shards=1)
    assert store.get(job.id).eta_seconds is None  # before 5 % and 10 s
    store.update(job.id, "w", "running", done_images=37, done_calls=370, done_shards=19)
    now = store.get(job.id)
    assert now.fraction == pytest.approx(0.37) and now.eta_seconds == pytest.approx(63 / 4)
    store.request_cancel(job.id)
    store.take_over_dead("new", lock_held=True)
    assert store.get(job.id).error == "Cancelled at 37\u202f%. 19 of 50 shards kept."


def test_wal_and_busy_timeout(store):
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    writer = sqlite3.connect(store.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, lambda: None)
    timer.start()
    thread = threading.Thread(target=add, args=(store,))
    thread.start()
    assert store.list() == []  # readers never wait
    time.sleep(0.3)
    writer.execute("COMMIT")
    thread.join(timeout=5)
    writer.close()
    assert len(store.list()) == 1


def test_a_broken_list_and_a_missing_home_say_so_in_one_line(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"this is not a database, and longer than a header" * 40)
    with pytest.raises(HomeError, match="job list"):
        Store(tmp_path).list()
    with pytest.raises(HomeError, match="not there"):
        Store(tmp_path / "gone")


def test_old_checks_are_forgotten(store):
    old, new = add(store, "1", "check"), add(store, "2", "check")
    for job in (old, new):
        store.request_cancel(job.id)
    sql(store, "UPDATE jobs SET created=created-200000 WHERE id=?", old.id)
    store.forget_old_checks()
    assert [j.id for j in store.list("check")] == [new.id]

"""The real thing: a detached worker with its Dask cluster, stopped and killed in every way."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from audit.jobs import launch, steps, ticket
from audit.jobs.cluster import Embedded, Engines
from audit.jobs.driver import Driver
from audit.jobs.store import Store
from audit.jobs.submit import CHECK_FIELDS, submit_audit, submit_check
from tests.jobs import killer

pytestmark = pytest.mark.slow
LONG = {"preset": "thorough", "timesteps": 140, "draws": 2}  # 280 calls an image: some seconds in 12 shards
PATIENCE_S = 120


def until(question, seconds=PATIENCE_S):
    """Wait for a true answer and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def pid_of(config):
    return json.loads((config.home / "worker.json").read_text())["pid"]


def worker_tree(config):
    process = psutil.Process(pid_of(config))
    return [process, *process.children(recursive=True)]


def gone(processes):
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture
def worker(home):
    """The home; whatever worker lives there at the end is told to go."""
    yield home
    if home.home.is_dir() and launch.worker_alive(home):
        tree = until(lambda: (home.home / "worker.json").exists() and worker_tree(home))
        tree[0].terminate()
        _, left = psutil.wait_procs(tree, timeout=20)
        for process in left:
            process.kill()
    launch._started.pop(home.home, None)


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    """Tables of the LONG audit, measured without any interruption: {file name: bytes}."""
    from audit.config import load
    from audit.request import Request

    root = tmp_path_factory.mktemp("whole")
    environ = {"AUDIT_HOME": str(root / "home"), "AUDIT_SHARD_IMAGES": "4"}
    config = load(environ).prepare_home()
    job, _ = Store(config.home).submit("audit", "n", Request(**pair, name="tiny", batch_size=16, device="cpu", **LONG).to_json(), "1", str(root / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        driver = Driver(config, Engines(config, Embedded))
        try:
            driver.run_waiting()
        finally:
            driver.engines.close()
    assert Store(config.home).get(job.id).state == "done"
    return tables(root / "run")


def tables(folder):
    return {p.name: p.read_bytes() for p in sorted((Path(folder) / "tables").iterdir())}


def shard_files(job):
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(job.folder).glob("shards/*/*.safetensors")}


def wait_for(store, job, *states, shards=0):
    """The job once it is in one of the states with so many shards; any other end is an error."""

    def question():
        now = store.get(job.id)
        assert now.state in (*states, "queued", "running", "finalising"), now.error
        return now if now.state in states and now.done_shards >= shards else None

    return until(question)


def answers_http(port):
    """Status of a GET, in the clear and through TLS, or None when nothing that is HTTP comes back."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    for make in (lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=2), lambda: http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=blind)):
        for path in ("/", "/sitemap.json", "/health", "/metrics"):
            connection = make()
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()
    return None


def test_the_http_probe_of_these_tests_can_see_a_server():
    import http.server

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert answers_http(server.server_port) is not None
        server.shutdown()


def test_from_click_to_report_listening_on_loopback_only(worker, request_for, whole):
    store = Store(worker.home)
    job, created = submit_audit(worker, request_for(**LONG))
    assert created and submit_audit(worker, request_for(**LONG)) == (store.get(job.id), False)
    wait_for(store, job, "running", shards=1)
    listening = [c for p in worker_tree(worker) for c in p.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
    assert listening and {c.laddr.ip for c in listening} == {"127.0.0.1"}
    assert [answers_http(c.laddr.port) for c in listening] == [None] * len(listening)
    status = launch.worker_status(worker)
    assert status.alive and status.device_words.startswith("CPU, ") and (status.running, status.waiting) == (1, 0)
    done = wait_for(store, job, "done")
    assert done.attempts == 1 and done.result["level"] and done.images_per_s > 0
    assert tables(job.folder) == whole
    log = worker.worker_log.read_text()
    assert job.id in log and "members" not in log and ".png" not in log and str(worker.home) not in log


def test_a_check_is_answered_while_an_audit_runs(worker, request_for, pair):
    store = Store(worker.home)
    audit, _ = submit_audit(worker, request_for(**LONG, seed=5))
    wait_for(store, audit, "running", shards=1)
    begun = time.monotonic()
    check = submit_check(worker, dict.fromkeys(CHECK_FIELDS) | pair | {"preset": "quick", "device": "auto", "seed": 0, "precision": "fp32"})
    answer = wait_for(store, check, "done")
    assert time.monotonic() - begun < 15 and answer.result["price"]["seconds"] > 0 and answer.result["self_test"]["passed"]
    assert store.get(audit.id).state != "failed"


def test_cancel_frees_the_device_and_keeps_the_shards(worker, request_for, whole):
    store = Store(worker.home)
    job, _ = submit_audit(worker, request_for(**LONG))
    wait_for(store, job, "running", shards=2)
    begun = time.monotonic()
    assert store.request_cancel(job.id).cancel_requested and time.monotonic() - begun < 1
    stopped = wait_for(store, job, "cancelled")
    assert time.monotonic() - begun < 5
    kept = shard_files(job)
    assert stopped.error == f"Cancelled at {round(100 * stopped.fraction)}\u202f%. {len(kept)} of 12 shards kept." and len(kept) >= 2
    store.resume(job.id)
    watch = _watch_shards(job)
    wait_for(store, job, "done")
    assert kept.items() <= watch().items()
    assert tables(job.folder) == whole


def _watch_shards(job):
    """Remember every version of every shard file until called; fails when one was written twice."""
    seen, stop = {}, threading.Event()

    def look():
        while not stop.wait(0.02):
            try:
                for name, state in shard_files(job).items():
                    seen.setdefault(name, set()).add(state)
            except FileNotFoundError:  # the folder is being removed: the run is done
                return

    thread = threading.Thread(target=look)
    thread.start()

    def end():
        stop.set()
        thread.join()
        assert all(len(states) == 1 for states in seen.values()), seen
        return {name: next(iter(states)) for name, states in seen.items()}

    return end


def test_kill_9_of_the_worker_loses_and_repeats_nothing(worker, request_for, whole):
    store = Store(worker.home)
    job, _ = submit_audit(worker, request_for(**LONG))
    watch = _watch_shards(job)
    wait_for(store, job, "running", shards=3)
    tree = worker_tree(worker)
    tree[0].kill()
    until(lambda: gone(tree), 10)  # no orphan holds the device
    kept = shard_files(job)
    assert store.get(job.id).state == "running" and not launch.worker_alive(worker)
    launch._started.pop(worker.home, None)  # a page of another process
    begun = time.monotonic()
    assert launch.ensure_worker(worker)
    until(lambda: store.get(job.id).attempts == 2)
    assert time.monotonic() - begun < 10  # at once: the lease of 15 s need not run out
    wait_for(store, job, "done")
    assert len(kept) >= 3 and kept.items() <= watch().items()
    assert tables(job.folder) == whole


def test_kill_9_of_the_device_worker_is_survived(worker, request_for, whole):
    store = Store(worker.home)
    job, _ = submit_audit(worker, request_for(**LONG))
    wait_for(store, job, "running", shards=2)
    device = max((p for p in worker_tree(worker)[1:]), key=lambda p: p.memory_info().rss)
    device.kill()
    done = wait_for(store, job, "done")
    assert done.attempts == 1 and tables(job.folder) == whole


def test_a_second_worker_refuses(worker, request_for):
    submit_audit(worker, request_for())
    until(lambda: launch.worker_alive(worker))
    second = subprocess.run([sys.executable, "-m", "audit.worker"], cwd=Path(launch.__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert second.returncode == 0 and "already" in second.stdout and second.stderr == ""
    wait_for(Store(worker.home), Store(worker.home).list()[0], "done")


def test_looking_at_the_lock_does_not_turn_a_starting_worker_away(worker):
    stop = threading.Event()

    def poll():
        while not stop.is_set():
            launch.worker_alive(worker)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        launch.ensure_worker(worker)
        until(lambda: (worker.home / "worker.json").exists(), 30)
    finally:
        stop.set()
        thread.join()
    assert launch.worker_alive(worker)


def test_an_idle_worker_ends_and_leaves_nothing(worker, monkeypatch, request_for):
    monkeypatch.setenv("AUDIT_IDLE_EXIT", "1")
    job, _ = submit_audit(worker, request_for())
    wait_for(Store(worker.home), job, "done")
    tree = worker_tree(worker)
    until(lambda: gone(tree) and not launch.worker_alive(worker), 30)
    assert launch.worker_status(worker).device_words == "" and not list(worker.tmp.iterdir())


def test_a_worker_ends_when_its_home_vanishes(worker, request_for):
    job, _ = submit_audit(worker, request_for(**LONG))
    wait_for(Store(worker.home), job, "running", shards=1)
    tree = worker_tree(worker)
    os.rename(worker.home, worker.home.with_name("moved"))
    until(lambda: gone(tree), 30)
    assert not worker.home.exists()
    shutil.rmtree(worker.home.with_name("moved"))


def test_ctrl_c_in_the_foreground_is_quick_and_quiet(worker, request_for):
    store = Store(worker.home)
    job, _ = store.submit("audit", "n", request_for(**LONG).to_json(), "1", str(worker.runs / "r"))
    root = Path(launch.__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-m", "audit", "worker"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    wait_for(store, job, "running", shards=1)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    said, _ = process.communicate(timeout=30)
    assert time.monotonic() - begun < 9 and process.returncode == 0 and said == "" and store.get(job.id).state == "queued"


def test_sigterm_gives_the_job_back(worker, request_for):
    store = Store(worker.home)
    job, _ = submit_audit(worker, request_for(**LONG))
    wait_for(store, job, "running", shards=1)
    tree = worker_tree(worker)
    tree[0].send_signal(signal.SIGTERM)
    until(lambda: gone(tree), 20)
    assert store.get(job.id).state == "queued" and "told to end" in (Path(job.folder) / "log.txt").read_text()


def test_a_shard_that_kills_its_device_worker_is_named(home, request_for, monkeypatch):
    monkeypatch.setattr(steps.tasks, "measure", killer.kill_at_one_shard)
    store = Store(home.home)
    job, _ = store.submit("audit", "n", request_for().to_json(), "1", str(home.runs / "r"))
    driver = Driver(home, Engines(home, Embedded))
    try:
        driver.run_waiting()
    finally:
        driver.engines.close()
    failed = store.get(job.id)
    assert failed.state == "failed" and failed.error.startswith("Shard 3 of 12 (images 9 to 12): its device worker died")
    assert failed.done_shards >= 3


def test_a_device_that_does_not_react_is_killed(home, monkeypatch):
    monkeypatch.setattr(ticket, "HARD_STOP_S", 1.0)
    store = Store(home.home)
    store.submit("audit", "n", {}, "1", "")
    held, engines, mark = ticket.Ticket(store, "w", store.claim("w")), Engines(home, Embedded), home.tmp / "hanging"
    engine = engines.get("cpu")
    device = [psutil.Process(pid) for pid in engine.device_pids()]
    threading.Thread(target=lambda: until(mark.exists) and held.stop(cancelled=True)).start()
    with pytest.raises(ticket.Cancelled):
        steps.run_task(engines, engine, held, "x", killer.hang, str(mark))
    until(lambda: gone(device), 5)
    again = engines.get("cpu")  # the next job gets a fresh one
    assert steps.run_task(engines, again, ticket.Ticket(store, "w", held.job), "x", _fine) == 1
    engines.close()


def _fine():
    from audit.jobs.outcome import Outcome

    return Outcome(1)


def test_nobody_without_the_certificate_gets_in(home):
    engines = Engines(home, Embedded)
    engine = engines.get("cpu")
    try:
        host, port = engine.cluster.scheduler_address.removeprefix("tls://").split(":")
        assert host == "127.0.0.1"
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            plain.sendall(b"\0" * 64)
            assert _answer(plain)[:1] in (b"", b"\x15")  # closed, or a TLS alert
        blind = ssl.create_default_context()
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection((host, int(port)), timeout=5) as raw, blind.wrap_socket(raw) as secure:
            if secure.recv(1) == b"":
                raise ConnectionError("closed")
    finally:
        engines.close()


def _answer(connection):
    try:
        return connection.recv(64)
    except ConnectionResetError:
        return b""


# ---------------------------------------------------------------------- a cluster of somebody else


@pytest.fixture
def cluster(home, tmp_path, monkeypatch):
    """A scheduler and one worker as docs/configuration.md starts them, and the Config that names them: (Config, scheduler process)."""
    from distributed import Security

    from audit.config import load

    made = Security.temporary()
    files = {"CA": made.tls_ca_file, "CERT": made.tls_client_cert, "KEY": made.tls_client_key}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setenv(f"AUDIT_TLS_{name}", str(tmp_path / name))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AUDIT_SCHEDULER", f"tls://127.0.0.1:{port}")
    tls = ["--tls-ca-file", str(tmp_path / "CA"), "--tls-cert", str(tmp_path / "CERT"), "--tls-key", str(tmp_path / "KEY")]
    dask, root, quiet = [sys.executable, "-m", "dask"], Path(launch.__file__).parents[2], {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    scheduler = subprocess.Popen([*dask, "scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", *tls], env=environ, cwd=root, **quiet)
    options = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(tmp_path)]
    node = subprocess.Popen([*dask, "worker", f"tls://127.0.0.1:{port}", *options, *tls], env=environ, cwd=root, **quiet)
    yield load(), scheduler
    for process in (node, scheduler):
        process.terminate()
        process.wait(timeout=20)


def test_the_same_audit_on_an_existing_cluster(cluster, request_for, whole, monkeypatch):
    config, _ = cluster
    store = Store(config.home)
    job, _ = store.submit("audit", "n", request_for(**LONG).to_json(), "1", str(config.runs / "r"))
    driver = Driver(config)
    running = threading.Thread(target=driver.run)
    running.start()
    try:
        wait_for(store, job, "running", shards=2)
        store.request_cancel(job.id)
        begun = time.monotonic()
        stopped = wait_for(store, job, "cancelled")
        assert time.monotonic() - begun < 8 and 2 <= stopped.done_shards < 12
        store.resume(job.id)
        wait_for(store, job, "done")
    finally:
        driver.end()
        running.join(timeout=60)
    assert tables(job.folder) == whole


def test_a_scheduler_that_dies_is_not_waited_for(cluster, request_for):
    config, scheduler = cluster
    store = Store(config.home)
    job, _ = store.submit("audit", "n", request_for(**LONG, seed=3).to_json(), "1", str(config.runs / "r"))
    driver = Driver(config)
    running = threading.Thread(target=lambda: driver.run_job(store.claim(driver.owner)))
    running.start()
    try:
        wait_for(store, job, "running", shards=1)
        scheduler.kill()
        until(lambda: store.get(job.id).state == "queued", 60)
        assert "the compute cluster was lost" in (Path(job.folder) / "log.txt").read_text() and shard_files(job)
    finally:
        running.join(timeout=60)
        driver.engines.close()

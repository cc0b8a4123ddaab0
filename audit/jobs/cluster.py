"""Where tasks run: a Dask cluster inside the worker's own process tree, an existing one, or (tests) this process.

All three have the same methods: `start`, `submit`, `wait`, `flag`, `kill`, `close`. Dask peers run code on each other, so the embedded cluster listens on
127.0.0.1 only, speaks TLS with a certificate made at its start, and has no HTTP server at all.
"""

import functools
import logging
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from audit.errors import HomeError, RequestError
from audit.jobs.flags import ClusterFlag, FileFlag

DASK_SETTINGS = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.nanny.http.routes": [],
    "distributed.scheduler.allowed-failures": 1,  # twice among others, twice alone: a shard is run again three times, then named
    "distributed.scheduler.work-stealing": False,  # shards are queued one by one: nothing to even out
    "distributed.worker.profile.enabled": False,  # it samples stacks 100 times a second
    "distributed.admin.system-monitor.disk": False,
    # in place of Dask's own, which set OMP_NUM_THREADS=1 and give every freed tensor back to the system; glibc keeps up to 1 GiB, other systems ignore this
    "distributed.nanny.pre-spawn-environ": {"MALLOC_MMAP_THRESHOLD_": 2**30, "MALLOC_TRIM_THRESHOLD_": 2**30},
    "distributed.worker.daemon": True,
    "distributed.comm.timeouts.connect": "30s",
}
START_TIMEOUT_S = 120.0
NO_WORKER_S = 60.0  # a device worker restarts in seconds; after this the cluster counts as lost
HOST = "127.0.0.1"


class EngineLost(Exception):
    """The cluster, or the connection to it, is gone."""


class TaskKilled(Exception):
    """A task ended its device worker again and again."""


@dataclass(frozen=True)
class Handle:
    """One submitted task: `label` as given to `submit`, and the future of whoever runs it."""

    label: str
    future: object


def cpu_threads():
    """Threads for torch: OMP_NUM_THREADS where it is set, else the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def visible_gpus():
    """What CUDA_VISIBLE_DEVICES would have to name, one entry per usable GPU. torch is loaded only where there is a driver at all."""
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/gpus").exists() or Path("/dev/nvidia0").exists()):
        return ()
    import sys

    asked = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], capture_output=True, text=True, check=False)
    count = int(asked.stdout.strip() or 0) if asked.returncode == 0 else 0
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return tuple(named[:count]) if named else tuple(str(i) for i in range(count))


def device_kind(requested, config):
    """"cuda" or "cpu" for a request's --device. Raises RequestError: cuda asked, none here."""
    if requested == "cpu":
        return "cpu"
    gpus = visible_gpus()
    if requested == "cuda" and not gpus:
        raise RequestError("--device is cuda, but PyTorch sees no CUDA GPU here. Use --device cpu, or install a CUDA build of PyTorch.")
    return "cuda" if gpus else "cpu"


class Inline:
    """Runs each task in this process, when somebody waits for it: tests, and the same code path as a cluster."""

    external = False

    def __init__(self, config, kind="cpu"):
        self.config, self.kind, self.workers, self.threads = config, kind, 1, cpu_threads()
        self.killed = False

    def start(self):
        """Nothing to start."""
        return self

    def flag(self, name):
        """A stop sign that the tasks can see."""
        return FileFlag(self.config.tmp / f"{name}.stop")

    def submit(self, label, function, *args, device=False):
        """Queue a call. `device`: it needs the device for itself."""
        return Handle(label, {"call": (function, args)})

    def wait(self, handles, timeout):
        """Run the first waiting call; returns the handles that have a result, oldest first."""
        for handle in handles:
            if "call" in handle.future:
                function, args = handle.future.pop("call")
                handle.future["result"] = function(*args)
                break
        return [h for h in handles if "result" in h.future]

    def result(self, handle):
        """Outcome of a finished task."""
        return handle.future["result"]

    def drop(self, handles):
        """Forget tasks that have not begun."""
        for handle in handles:
            handle.future.pop("call", None)

    def kill(self):
        """End what runs, now."""
        self.killed = True

    def close(self):
        """Free everything."""


class _Dask:
    """What the embedded and the external cluster share; tasks may come from several threads."""

    external = False

    def __init__(self, config, kind):
        self.config, self.kind, self.client, self.resources = config, kind, None, None
        self._alone_since = None

    def submit(self, label, function, *args, device=False):
        """Queue a call. `device`: it needs the device for itself; others run beside it."""
        resources = self.resources if device else None
        try:
            return Handle(label, self.client.submit(function, *args, pure=False, priority=0 if device else 10, resources=resources))
        except Exception as error:
            raise EngineLost(type(error).__name__) from error

    def wait(self, handles, timeout):
        """Wait until one is finished, at most `timeout` seconds. Returns the finished handles.

        Raises: EngineLost.
        """
        import distributed

        deadline = time.monotonic() + timeout
        while True:
            finished = [h for h in handles if h.future.status in ("finished", "error")]
            # "lost" is no error while the scheduler lives: it runs the task again
            if finished:
                return finished
            if any(h.future.status == "cancelled" for h in handles):
                raise EngineLost("cancelled by the scheduler")
            self._check_alive()
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            try:
                distributed.wait([h.future for h in handles], timeout=min(left, 1.0), return_when="FIRST_COMPLETED")
            except TimeoutError:
                continue
            except distributed.CancelledError as error:
                raise EngineLost("cancelled by the scheduler") from error
            except (OSError, RuntimeError) as error:
                raise EngineLost(type(error).__name__) from error

    def result(self, handle):
        """Outcome of a finished task.

        Raises: EngineLost; TaskKilled: it ended its device worker on every attempt.
        """
        import distributed

        future = handle.future
        try:
            value = future.result(timeout=60)
        except distributed.scheduler.KilledWorker:
            raise TaskKilled(handle.label) from None
        except Exception as error:  # tasks return their own errors, so this one is the cluster's
            raise EngineLost(type(error).__name__) from error
        future.release()
        return value

    def drop(self, handles):
        """Forget tasks that have not begun; those that run end by themselves."""
        if handles and self.client is not None and self.client.status == "running":
            self.client.cancel([h.future for h in handles], force=True, reason="dropped")

    def _worker_count(self):
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def _check_alive(self):
        if self.client is None or self.client.status != "running":
            raise EngineLost("the connection ended")
        try:
            count = self._worker_count()
        except (OSError, RuntimeError, TimeoutError) as error:
            raise EngineLost(type(error).__name__) from error
        if count:
            self._alone_since = None
            return
        self._alone_since = self._alone_since or time.monotonic()
        if time.monotonic() - self._alone_since > NO_WORKER_S:
            raise EngineLost("no device worker")


class Embedded(_Dask):
    """Scheduler and Nannies in this process, one device worker per GPU, or one for the CPU."""

    def __init__(self, config, kind):
        super().__init__(config, kind)
        self.cluster, self.workers, self.threads = None, 1, cpu_threads()
        self.resources = {kind.upper(): 1}

    def start(self):
        """Start it once; returns self. Raises EngineLost."""
        if self.client is not None:
            return self
        import dask
        from distributed import Client, Security, SpecCluster

        dask.config.set(DASK_SETTINGS)
        dask.config.set({"temporary-directory": str(self.config.tmp)})
        for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler", "distributed.core"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # their lines carry addresses and arguments, so names of files
        security = Security.temporary()
        from audit.jobs.quiet import QuietNanny, QuietScheduler, QuietWorker

        common = {"host": HOST, "security": security, "protocol": "tls://", "dashboard_address": f"{HOST}:0", "dashboard": False}
        specs = {
            name: {
                "cls": QuietNanny,
                "options": {
                    **common, "nthreads": 2, "resources": self.resources, "memory_limit": 0, "local_directory": str(self.config.tmp), "env": env, "worker_class": QuietWorker,
                    "silence_logs": logging.CRITICAL, "config": {**dask.config.config},
                },
            }
            for name, env in self._environments().items()
        }  # fmt: skip
        self.workers = len(specs)
        try:
            self.cluster = SpecCluster(workers=specs, scheduler={"cls": QuietScheduler, "options": {**common, "port": 0}}, security=security, silence_logs=logging.CRITICAL)
            self.client = Client(self.cluster, security=security)
            self.client.wait_for_workers(len(specs), timeout=START_TIMEOUT_S)
        except Exception as error:
            self.kill()
            raise EngineLost(f"not started ({type(error).__name__})") from error
        return self

    def _environments(self):
        if self.kind == "cpu":
            return {"cpu": {"CUDA_VISIBLE_DEVICES": ""}}
        gpus = visible_gpus()
        chosen = range(len(gpus)) if self.config.devices is None else self.config.devices
        if any(i >= len(gpus) for i in chosen):
            raise HomeError(f"AUDIT_DEVICES names GPU {max(chosen)}, but PyTorch sees {len(gpus)}. Expected numbers from 0 to {len(gpus) - 1}.")
        return {f"gpu{i}": {"CUDA_VISIBLE_DEVICES": gpus[i]} for i in chosen}

    def flag(self, name):
        """A stop sign that the device workers can see."""
        return FileFlag(self.config.tmp / f"{name}.stop")

    def _worker_count(self):
        return len(self.cluster.scheduler.workers)

    def device_pids(self):
        """Process ids of the device workers."""
        return [n.process.process.pid for n in self.cluster.workers.values() if n.process is not None and n.process.process is not None]

    def kill(self):
        """End the device workers' processes now, whatever they do; `start` makes new ones."""
        pids = [] if self.cluster is None else self.device_pids()
        for nanny in [] if self.cluster is None else list(self.cluster.workers.values()):
            nanny.auto_restart = False
        for pid in pids:
            _kill_process(pid)
        self.close()

    def close(self):
        """Close client, device workers and scheduler."""
        client, cluster, self.client, self.cluster = self.client, self.cluster, None, None
        for part, seconds in ((client, 5), (cluster, 15)):
            if part is None:
                continue
            try:
                part.close(timeout=seconds)
            except Exception as error:  # it ends with this process at the latest
                logging.getLogger("audit").warning("closing the cluster: %s", type(error).__name__)


class External(_Dask):
    """An existing Dask cluster at AUDIT_SCHEDULER, over TLS."""

    external = True

    def __init__(self, config, kind):
        super().__init__(config, kind)
        self.workers, self.threads = 1, None

    def start(self):
        """Connect once; returns self. Raises EngineLost."""
        if self.client is not None:
            return self
        import dask
        from distributed import Client, Security

        dask.config.set(DASK_SETTINGS)
        files = (str(self.config.tls_ca), str(self.config.tls_cert), str(self.config.tls_key))
        security = Security(tls_ca_file=files[0], tls_client_cert=files[1], tls_client_key=files[2], require_encryption=True)
        try:
            self.client = Client(self.config.scheduler, security=security, timeout="30s")
            self.client.wait_for_workers(1, timeout=START_TIMEOUT_S)
            self.workers = max(1, self._worker_count())
        except Exception as error:
            self.close()
            raise EngineLost(f"AUDIT_SCHEDULER does not answer ({type(error).__name__})") from error
        return self

    def flag(self, name):
        """A stop sign that the workers ask the scheduler for."""
        return ClusterFlag(f"afterimage-{name}", self.client)

    def kill(self):
        """The cluster belongs to others: drop the connection; what runs there ends with its shard."""
        self.close()

    def close(self):
        """Close the connection."""
        client, self.client = self.client, None
        if client is not None:
            try:
                client.close(timeout=5)
            except Exception as error:
                logging.getLogger("audit").warning("closing the connection: %s", type(error).__name__)


def _kill_process(pid):
    import psutil

    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return


class Engines:
    """The engine of one worker: started when first needed, kept between jobs, replaced when an audit needs another kind of device.

    Attributes: audit_running: how many audits use it now; a check must not replace their engine.
    """

    def __init__(self, config, make=None):
        self.config, self.audit_running, self._engine, self._lock = config, 0, None, threading.RLock()
        self._make = make or (External if config.scheduler else Embedded)

    def get(self, requested, wait_for_audit=True):
        """The started engine for a request's --device.

        Args: wait_for_audit: False for a check: while an audit runs it gets that one's engine, whatever the kind.
        Raises: EngineLost; RequestError: cuda asked, none here.
        """
        kind = requested if self.config.scheduler else device_kind(requested, self.config)
        with self._lock:
            current = self._engine
            fits = current is not None and (self.config.scheduler or current.kind == kind or (self.audit_running and not wait_for_audit))
            if current is not None and not fits:
                current.close()
            if not fits:
                self._engine = self._make(self.config, kind)
            return self._engine.start()

    def kill(self):
        """End its processes; the next `get` starts anew."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.kill()

    def close(self):
        """Close it in an orderly way."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

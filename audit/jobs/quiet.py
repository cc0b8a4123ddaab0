"""Dask's scheduler, nanny and worker without their HTTP servers: even with no routes those would answer /sitemap.json."""

import signal
import threading
from concurrent.futures import Executor, Future

from distributed import Nanny, Scheduler, Worker


class QuietScheduler(Scheduler):
    """Scheduler that listens on its own port only."""

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""


class FreshThreads(Executor):
    """Runs every task in a thread of its own, which ends with it.

    GNU OpenMP keeps the helper threads of every thread that ever computed, and once there are more of them than cores, all of them sleep instead of waiting
    actively: the demo network then takes 20 instead of 10 ms for 4 images, 12 % longer for 128. How many tasks run at once, the worker decides.
    """

    def submit(self, function, /, *args, **kwargs):
        """The Future of function(*args, **kwargs), which has begun."""
        future = Future()
        future.set_running_or_notify_cancel()

        def run():
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # whoever waits for the future raises it
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


class QuietWorker(Worker):
    """Worker that listens on its own port only, and leaves Ctrl-C to the driver, which ends it after the current batch."""

    def __init__(self, *args, **kwargs):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole process group
        super().__init__(*args, executor=FreshThreads(), **kwargs)

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""


class QuietNanny(Nanny):
    """Nanny that listens on its own port only."""

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""

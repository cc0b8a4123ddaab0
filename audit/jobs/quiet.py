"""Dask's scheduler, nanny and worker without their HTTP servers: even with no routes those would answer /sitemap.json."""

import signal
import threading

from distributed import Nanny, Scheduler, Worker


class QuietScheduler(Scheduler):
    """Scheduler that listens on its own port only."""

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""


class QuietWorker(Worker):
    """Worker that listens on its own port only, and leaves Ctrl-C to the driver, which ends it after the current batch."""

    def __init__(self, *args, **kwargs):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole process group
        super().__init__(*args, **kwargs)

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""


class QuietNanny(Nanny):
    """Nanny that listens on its own port only."""

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""

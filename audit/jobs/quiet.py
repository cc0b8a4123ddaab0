"""Dask's scheduler, nanny and worker without their HTTP servers: even with no routes those would answer /sitemap.json."""

from distributed import Nanny, Scheduler, Worker


class QuietScheduler(Scheduler):
    """Scheduler that listens on its own port only."""

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""


class QuietWorker(Worker):
    """Worker that listens on its own port only."""

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""


class QuietNanny(Nanny):
    """Nanny that listens on its own port only."""

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Start none."""

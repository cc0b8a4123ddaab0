"""Stop signs: how the driver asks a task that runs elsewhere to end."""

import os
import time
from pathlib import Path


class FileFlag:
    """A stop sign on a disk that the device workers share with the driver."""

    def __init__(self, path):
        self.path = str(path)

    def set(self):
        """Ask for the stop."""
        Path(self.path).touch()

    def clear(self):
        """Take it back."""
        Path(self.path).unlink(missing_ok=True)

    def is_set(self):
        """Called between batches: one stat."""
        return os.path.exists(self.path)


class ClusterFlag:
    """A stop sign kept by an external scheduler: its workers need not see the driver's disk."""

    ASK_EVERY_S = 1.0  # a question to the scheduler costs milliseconds; batches may be shorter
    ANSWER_S = 5.0  # a scheduler that died keeps its callers waiting for much longer

    def __init__(self, name, client=None):
        self.name, self._client, self._asked = name, client, 0.0

    def __getstate__(self):
        return {"name": self.name, "_client": None, "_asked": 0.0}  # on a worker, Dask finds the worker's own client

    def _ask(self, operation):
        """One of event_set, event_clear, event_is_set. Raises OSError: no answer."""
        from distributed import get_client

        client = self._client or get_client()
        try:
            return client.sync(getattr(client.scheduler, operation), name=self.name, callback_timeout=self.ANSWER_S)
        except (RuntimeError, ValueError) as error:  # the client is closed
            raise ConnectionError(str(error)) from error

    def set(self):
        """Ask for the stop. Raises OSError: the scheduler does not answer."""
        self._ask("event_set")

    def clear(self):
        """Take it back. Raises OSError: the scheduler does not answer."""
        self._ask("event_clear")

    def is_set(self):
        """Called between batches."""
        if time.monotonic() - self._asked < self.ASK_EVERY_S:
            return False
        self._asked = time.monotonic()
        return self._ask("event_is_set")

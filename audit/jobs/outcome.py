"""How a task answers. It returns an Outcome instead of raising: Dask would log an exception with the names of files in it."""

import functools
import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """value, or why there is none: kind "stopped", "user" (a sentence for people in `error`) or "internal" (`error` = exception type, `trace` for the log)."""

    value: object = None
    kind: str = ""
    error: str = ""
    trace: str = ""


def task(function):
    """Decorator: exceptions become Outcomes."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        from audit.engine import Stopped
        from audit.errors import AuditError
        from models.errors import ModelError

        try:
            return Outcome(function(*args, **kwargs))
        except Stopped:
            return Outcome(kind="stopped")
        except (AuditError, ModelError) as error:
            return Outcome(kind="user", error=" ".join(str(error).split()), trace=traceback.format_exc())
        except Exception as error:
            return Outcome(kind="internal", error=type(error).__name__, trace=traceback.format_exc())

    return run

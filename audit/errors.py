"""Errors that a user's input can cause in an audit; `models.errors.ModelError` is the same for checkpoints and single images.

    AuditError
    ├── RequestError     a flag, setting or combination that cannot be run
    ├── ImageSetError    a set of query images that cannot be audited
    ├── PoolError        a sample pool that cannot be drawn, read or used
    ├── AttackError      an attack that cannot be scored on these tables
    │   ├── WindowError    a window that keeps no measured timestep
    │   └── NotMeasuredError  an attack whose tables this run or this model does not have: skipped, where the others are failed
    ├── RunFolderError   a run folder that is missing, foreign or unreadable
    ├── HomeError        AUDIT_HOME or the worker's surroundings cannot be used
    └── JobError         a job that cannot be cancelled, resumed or finished

Every message is one line: what was expected, what came, what to do. Exit code 2 on the command line.
"""


class AuditError(Exception):
    """Base of everything in this file."""


class RequestError(AuditError):
    """A flag, setting or combination that cannot be run."""


class ImageSetError(AuditError):
    """A set of query images that cannot be audited."""


class PoolError(AuditError):
    """A sample pool that cannot be drawn, read or used."""


class AttackError(AuditError):
    """An attack that cannot be scored on the tables that were measured."""


class WindowError(AttackError):
    """The window keeps none of the measured timesteps."""


class NotMeasuredError(AttackError):
    """The attack needs numbers that were not measured, or that this model does not have."""


class RunFolderError(AuditError):
    """A run folder that is missing, belongs to another request, or cannot be read."""


class HomeError(AuditError):
    """AUDIT_HOME or the worker's surroundings cannot be used."""


class JobError(AuditError):
    """A job that cannot be cancelled, resumed or finished."""

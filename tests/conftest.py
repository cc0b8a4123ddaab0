"""Fixtures that several folders of tests share; imported once, so that what they build is built once."""

from tests.evidence_home import home, run_folders  # noqa: F401

"""Fixtures that several folders of tests share; imported once, so that what they build is built once."""

from hypothesis import settings

from tests.evidence_home import home, run_folders  # noqa: F401

settings.register_profile("steady", deadline=None)  # a busy machine is no failure
settings.load_profile("steady")

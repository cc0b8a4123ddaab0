"""One look at the installed packages for all page tests."""

import functools

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_scan():
    """Each AppTest reads the metadata of every installed package for components that it could bring, longer than most pages take to run; one answer serves all."""
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", functools.cache(manifest_scanner.scan_component_manifests))
        yield

"""Uploads without keeping them in memory: in pieces to disk, then out of Streamlit's own store."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import NamedTuple

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from pages.frame.states import notice

PIECE = 1 << 20


class Upload(NamedTuple):
    """path: where the bytes lie; name: as the visitor's machine calls it (text from outside); sha256: hex; size: bytes."""

    path: Path
    name: str
    sha256: str
    size: int


def take_upload(label, key, suffixes, folder, help=None):
    """A file uploader; the stored file once it has arrived.

    Streamlit keeps an upload in memory until the session ends, so the bytes are copied out, its copy is removed and the widget is drawn
    again under a new key. The file is stored as its own hash plus suffix: the visitor's name for it never becomes a path.

    Args: label, help: constants; key: names the upload in the session; suffixes: (".zip", …); folder: existing folder of this program.
    Returns: Upload, or None while nothing has arrived.
    """
    from pages.frame.runs import config

    stored = st.session_state.get(f"upload_{key}")
    if stored is not None and stored.path.is_file():
        return stored
    version = st.session_state.setdefault(f"upload_version_{key}", 0)
    arrived = st.file_uploader(label, type=[suffix.lstrip(".") for suffix in suffixes], key=f"uploader_{key}_{version}", help=help, max_upload_size=config().max_upload_mb)
    if arrived is None:
        return None
    try:
        stored = _store(arrived, Path(folder))
    except OSError as error:
        notice(f"upload_{key}", "warning", f"{arrived.name} could not be stored: {error.strerror}. Free space in AUDIT_HOME, or put the file into the inbox folder.")
        return None
    _release(arrived)
    st.session_state[f"upload_{key}"] = stored
    st.session_state[f"upload_version_{key}"] = version + 1
    st.rerun()


def forget_upload(key):
    """Show the uploader again; the stored file stays until its audit is deleted."""
    st.session_state.pop(f"upload_{key}", None)


def _store(arrived, folder):
    suffix, digest, size = Path(arrived.name).suffix.lower(), hashlib.sha256(), 0
    tmp = folder / f"{secrets.token_hex(8)}.part"
    try:
        with open(tmp, "wb") as target:
            while piece := arrived.read(PIECE):
                digest.update(piece)
                target.write(piece)
                size += len(piece)
        path = folder / f"{digest.hexdigest()[:32]}{suffix}"
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    return Upload(path, arrived.name, digest.hexdigest(), size)


def _release(arrived):
    """Take the bytes out of Streamlit's memory (an internal door: tests/pages/test_frame.py holds it)."""
    arrived.close()
    context = get_script_run_ctx()
    if context is not None and hasattr(context.uploaded_file_mgr, "remove_file"):
        context.uploaded_file_mgr.remove_file(context.session_id, arrived.file_id)

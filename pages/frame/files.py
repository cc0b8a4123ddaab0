"""Files that are made when somebody asks for them."""

import tempfile
from pathlib import Path

from audit.report.export import export_npz


def npz_bytes(folder):
    """The loss tables of a run folder as the bytes of one .npz, the same as `python -m audit export` writes.  Raises: RunFolderError."""
    with tempfile.TemporaryDirectory() as where:
        return export_npz(folder, Path(where) / "tables.npz").read_bytes()

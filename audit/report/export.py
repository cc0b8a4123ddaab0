"""The loss tables of a run as one .npz that NumPy opens anywhere."""

import os
from pathlib import Path

import numpy as np

from audit.errors import RunFolderError
from audit.report.run import open_run


def export_npz(folder, file):
    """Write image_id, is_member and every table.

    Args: folder: a finished run; file: target, .npz.
    The file holds image_id (N,) str, is_member (N,) bool, and per table NAME: NAME (N,K) float32 (mean over draws), NAME__axis, and for axis
    "timestep" NAME__timesteps (K,) int64.
    Raises: RunFolderError.
    """
    run, file = open_run(folder), Path(file)
    if file.suffix != ".npz":
        raise RunFolderError(f"{file.name} is not a .npz name. Expected --tables F.npz.")
    arrays = {"image_id": run.image_ids, "is_member": run.is_member}
    for name, table in run.tables.items():
        arrays[name] = np.ascontiguousarray(np.asarray(table.values).T)
        arrays[f"{name}__axis"] = np.array(table.axis)
        if table.axis == "timestep":
            arrays[f"{name}__timesteps"] = table.timesteps
    tmp = file.with_name(file.name + ".tmp")
    try:
        with open(tmp, "wb") as handle:
            np.savez_compressed(handle, **arrays)
        os.replace(tmp, file)
    except OSError as error:
        raise RunFolderError(f"{file.name} cannot be written ({error.strerror}). Choose another place.") from None
    return file

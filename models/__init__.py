"""Checkpoints as Denoisers. Importing this package does not import torch; opening a checkpoint does."""

import os

# diffusers and huggingface_hub read these once, when they are imported: nothing is ever fetched, and no code that a checkpoint names can load.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", DIFFUSERS_DISABLE_REMOTE_CODE="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # stderr belongs to our one error line


def open_checkpoint(path, **overrides):
    """Open a checkpoint safely.

    Args: path: file, folder or .zip; overrides: settings that the files do not say; names and values in models/overrides.py:OVERRIDES.
    Returns: models.base.Denoiser on the CPU, in evaluation mode, float32.
    Raises: models.errors.CheckpointError and its children.
    """
    from models.checkpoint import open_checkpoint as open_

    return open_(path, **overrides)

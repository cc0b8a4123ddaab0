"""Errors that a user's data can cause while a model or an image is read.

    ModelError
    ├── CheckpointError      the checkpoint cannot be used
    │   ├── UnsafeCheckpoint   it holds more than tensors, or names code
    │   └── SelfTestFailed     it loads, but does not denoise the user's images
    ├── TrainingDiverged     a training whose loss is no number any more, or far above where it began
    └── ImageError           one image file cannot be used

Every message is one line: what was expected, what came, what to do. No path beyond the user's own file name.
"""


class ModelError(Exception):
    """Base of everything in this file."""


class CheckpointError(ModelError):
    """The checkpoint is missing, damaged, contradictory or of a kind that is not supported."""


class UnsafeCheckpoint(CheckpointError):
    """The checkpoint holds Python objects or names code; it was not opened."""


class SelfTestFailed(CheckpointError):
    """The checkpoint loads, but denoises the user's images no better than predicting no noise."""


class TrainingDiverged(ModelError):
    """The loss of a training is not finite, or has risen far above its start."""


class ImageError(ModelError):
    """An image file is damaged, too large, or of another kind than the model expects."""

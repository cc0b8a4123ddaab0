"""From a path to a Denoiser: unpack a .zip, ask the formats, say in one line why not.

open_checkpoint(path) -> Denoiser            on the CPU, float32, evaluation mode
inspect_checkpoint(path) -> CheckpointInfo   what was recognised; no tensor is read, no network built
rank_missing(path, images) -> Ranking        which usual values of missing settings denoise the user's images best
"""

import contextlib
import tempfile
from pathlib import Path

import torch

from models import formats, overrides
from models.errors import CheckpointError
from models.formats import foreign
from models.safety import safe_unzip, shown
from models.weights import open_content, open_weights, opened_once

EXPECTED = "Expected a diffusers folder or .zip (model_index.json with unet/ and scheduler/), or a .pt of OpenAI's or pytorch-ddpm's code"
CONFIGURATION = ("model_index.json", "config.json", "scheduler_config.json")
NONE = overrides.Takes()


def open_checkpoint(path, unpack_into=None, **settings):
    """Open a checkpoint of any registered format.

    Args:
        path: file, folder or .zip.
        unpack_into: existing folder that keeps an unpacked .zip and the safetensors of a pickle for the next time (named by their hash), so that a pickle is
            read once; default: a .zip is unpacked to a temporary one, removed at once, and a pickle is not converted.
        settings: what the files do not say, by the names of models/overrides.py:OVERRIDES; None means not given.
    Returns: models.base.Denoiser on the CPU, float32, evaluation mode.
    Raises: CheckpointError and its children; nothing of the checkpoint is ever executed.
    """
    with _recognised(path, unpack_into, settings, convert=True) as (checkpoint_format, place, given):
        return checkpoint_format.load(place, **given)


def inspect_checkpoint(path, unpack_into=None, **settings):
    """What a checkpoint is and how each of its settings was decided, without reading tensors; CheckpointInfo.missing names what must be given to open it.

    Args and Raises: as open_checkpoint.
    Returns: models.base.CheckpointInfo.
    """
    with _recognised(path, unpack_into, settings) as (checkpoint_format, place, given):
        return checkpoint_format.inspect(place, **given)


def rank_missing(path, images, cond=None, unpack_into=None, **settings):
    """A hint for settings that are missing: their usual values, ranked by how well the network then denoises the user's images. Nothing is decided by it.

    Args: images: (N,C,H,W) pictures in [-1, 1], 8 or more; cond: (N,) class labels; the rest: as open_checkpoint.
    Returns: models.selftest.Ranking, or None where nothing is missing or the format has nothing to compare.
    Raises: CheckpointError and its children.
    """
    from models.selftest import rank

    with _recognised(path, unpack_into, settings) as (checkpoint_format, place, given):
        candidates = checkpoint_format.candidates(place, **given) if hasattr(checkpoint_format, "candidates") else {}
        if not candidates:
            return None
        pictures = torch.as_tensor(images, dtype=torch.float32)
        return rank(candidates, next(iter(candidates.values())).encode(pictures), cond)


def form_of(format_name):
    """(words, questions) of a format: one line for people, and what models/overrides.py:form may ask; no questions where its files decide everything.

    Args: format_name: a key of models/formats/__init__.py:FORMATS.
    """
    known = formats.get(format_name)
    return known.words, overrides.form(getattr(known, "takes", NONE), getattr(known, "recipes", ()))


@contextlib.contextmanager
def _recognised(path, unpack_into, settings, convert=False):
    """(format, path to open, checked settings) for a file, folder or .zip."""
    path, given = Path(path), overrides.check(settings)
    if not path.exists():
        raise CheckpointError(f"{path.name} was not found. {EXPECTED}: check the path.")
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(opened_once(unpack_into))
        place = path
        if path.is_file() and path.suffix.lower() == ".zip":
            into = unpack_into or stack.enter_context(tempfile.TemporaryDirectory(prefix="checkpoint-", ignore_cleanup_errors=True))
            place = safe_unzip(path, into)
        if place.is_dir():
            place = _without_wrapping(place)
        if place.is_file():
            foreign.refuse_pickled_source(place)
        checkpoint_format = None if place.name in CONFIGURATION else formats.recognise(place)
        if checkpoint_format is None:
            raise _not_recognised(path, place)
        overrides.fit(getattr(checkpoint_format, "takes", NONE), given, f"a checkpoint of format {checkpoint_format.name}")
        if convert:
            opened.convert_from_now()
        yield checkpoint_format, place, given


def _without_wrapping(folder):
    """The folder itself, or the only folder inside it: most zip programs add one level."""
    if formats.recognise(folder) is None:
        inside = [p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX"))]
        if len(inside) == 1 and inside[0].is_dir() and formats.recognise(inside[0]):
            return inside[0]
    return folder


def _not_recognised(path, place):
    """The error for something that no format knows; a weights file is opened far enough to say what it lacks."""
    if place.is_dir():
        found = ", ".join(sorted(p.name for p in place.iterdir())[:4]) or "nothing"
        return CheckpointError(f"{path.name} is not a checkpoint that is known here (found: {found}). {EXPECTED}: give that folder.")
    if not place.is_file():
        return CheckpointError(f"{path.name} is not a regular file. {EXPECTED}: check the path.")
    if place.name in CONFIGURATION:
        return CheckpointError(f"{path.name} is one file of a checkpoint. {EXPECTED}: give its folder.")
    content = open_content(place)
    foreign.refuse(content)
    if content.sets and "" not in content.sets:
        count, found = sum(len(weights.shapes) for weights in content.sets.values()), ", ".join(shown(key, 20) for key in content.keys[:4])
        return CheckpointError(f"{path.name} holds {count} tensors (found: {found}), but of no network that is known here. {EXPECTED}: audit such a checkpoint.")
    count = len(open_weights(place).shapes)  # raises the exact reason for a text file, a pickle with code, a cut file
    return CheckpointError(f"{path.name} holds {count} tensors but no configuration. {EXPECTED}: give the folder with config.json and scheduler_config.json.")

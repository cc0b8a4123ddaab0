"""Weights that lie in several .safetensors files, with an index that says which tensor is in which: NAME.safetensors.index.json.

The index is not believed: it may only name plain files beside itself, and every file must hold exactly the tensors that the index places there.
"""

import re

from models.errors import CheckpointError, UnsafeCheckpoint
from models.safety import read_json, shown
from models.weights import Weights, open_weights

MAX_SHARDS = 500
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}\.safetensors")
_ONE_OF = re.compile(r"-\d+-of-\d+\.")


def is_shard(name):
    """Whether a file's name says that it is one of several."""
    return bool(_ONE_OF.search(name))


def read_index(root, name):
    """{relative name of a shard: set of the tensors in it} of an index.

    Args: root: Path of the checkpoint; name: relative name of the index.
    Raises: CheckpointError: not such an index, a shard is missing; UnsafeCheckpoint: it names a file elsewhere.
    """
    places = read_json(root, name).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{name} has no weight_map of tensors and files. Expected the index that save_pretrained writes: copy it again.")
    folder, found = name.rpartition("/")[0], {}
    for tensor, file in places.items():
        if not _SHARD.fullmatch(file):
            raise UnsafeCheckpoint(f"{name} names the file {shown(file)} and was not opened. Expected names of .safetensors files beside it: copy the folder again.")
        found.setdefault(f"{folder}/{file}" if folder else file, set()).add(tensor)
    if len(found) > MAX_SHARDS:
        raise CheckpointError(f"{name} names {len(found)} files. Expected at most {MAX_SHARDS}: save the model again in larger ones.")
    for file in found:
        if not (root / file).is_file():
            raise CheckpointError(f"{file} is missing, which {name} names. Expected all files of the network: copy the whole folder.")
    return dict(sorted(found.items()))


def open_shards(root, name):
    """models.weights.Weights over all shards of an index; their headers alone are read.

    Raises: CheckpointError: a shard is damaged or holds other tensors than the index says; UnsafeCheckpoint: see read_index.
    """
    parts = []
    for file, expected in read_index(root, name).items():
        part = open_weights(root / file)
        if missing := sorted(expected - set(part.shapes)):
            raise CheckpointError(f"{file} has no tensor {shown(missing[0])}, which {name} places there. Expected files of one model: copy the whole folder.")
        if extra := sorted(set(part.shapes) - expected):
            raise CheckpointError(f"{file} holds {shown(extra[0])}, which {name} does not place there. Expected each tensor once: copy the whole folder.")
        parts.append(part)

    def tensors():
        for part in parts:
            yield from part.tensors()

    shapes, dtypes = ({tensor: value for part in parts for tensor, value in getattr(part, which).items()} for which in ("shapes", "dtypes"))
    return Weights(name, shapes, dtypes, tensors)

"""Reading weights: safetensors by its header, pickles only through torch's restricted loader, never a looser one.

open_content(path) -> Content        the sets of tensors in a file, each with names, shapes, dtypes; no tensor is read
open_weights(path) -> Weights        the same for a file that is one set
load_into(network, weights, ...)     compares with a network on the meta device, then reads, as float32, and refuses NaN
"""

import argparse
import contextlib
import contextvars
import json
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from models.errors import CheckpointError, UnsafeCheckpoint
from models.safety import file_sha256, shown, size_pair

MINIMUM_TORCH = (2, 10)  # weights_only was broken before: CVE-2025-32434 (2.6), CVE-2026-24747 (2.10)
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
OTHER_DTYPES = {"I64": 8, "U64": 8, "C64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
TORCH_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
TORCH_DTYPES |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
TORCH_TYPES = {name: dtype for dtype, name in TORCH_DTYPES.items()}
IN_SET = "/"  # between a set's name and a tensor's in a converted file
# What a training script leaves beside its tensors; none of them runs anything when built. Not extendable by a user.
ALLOWED_GLOBALS = [argparse.Namespace, OrderedDict, np._core.multiarray.scalar, np.dtype, *(type(np.dtype(t)) for t in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"))]


@dataclass(frozen=True)
class Weights:
    """One weights file, described before it is read.

    Attributes:
        name: file name; shapes: {tensor name: shape}; dtypes: {tensor name: safetensors' dtype name}.
        tensors: callable that yields (name, tensor) on the CPU, one at a time.
    """

    name: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]


@dataclass(frozen=True)
class Content:
    """A weights file, described before it is read.

    Attributes:
        path: of the file as the user named it; keys: names at its top level.
        sets: {key: Weights} of the flat sets of tensors in it; the key is "" where the file itself is one.
    """

    path: Path
    keys: tuple[str, ...]
    sets: dict[str, Weights]

    @property
    def name(self):
        """The file's name."""
        return self.path.name

    @cached_property
    def sha256(self):
        """SHA-256 of the file in hex, read once."""
        return file_sha256(self.path)


class Opened(dict):
    """{path: Content} of the files that were described already.

    Attributes: keep: folder of converted pickles, or None; convert: whether a pickle that is not converted yet is converted when it is next described.
    """

    def __init__(self, keep=None):
        super().__init__()
        self.keep, self.convert = keep, False

    def convert_from_now(self):
        """Convert the pickles that were described so far, and those that will be."""
        self.convert = self.keep is not None
        for path, content in list(self.items()):
            self[path] = self.kept(content) or content

    def kept(self, content):
        """The converted Content of a pickle, where there is one or may be one; else None. Only path and sha256 of `content` are looked at for an earlier one."""
        if self.keep is None or content.path.suffix.lower() == ".safetensors":
            return None
        _refuse_text(content.path)
        return converted(content, self.keep) or (keep_converted(content, self.keep) if self.convert and content.sets else None)


_opened: contextvars.ContextVar[Opened | None] = contextvars.ContextVar("opened", default=None)


@contextlib.contextmanager
def opened_once(keep=None):
    """Inside, `open_content` parses a file once, however many formats ask for it; yields Opened.

    Args: keep: folder in which pickles that were converted to safetensors are found again (see Opened.convert_from_now), or None.
    """
    token = _opened.set(Opened(keep))
    try:
        yield _opened.get()
    finally:
        _opened.reset(token)


def open_content(path):
    """Describe the sets of tensors in a .safetensors, .bin, .pt, .pth or .ckpt file.

    Returns: Content; its sets are empty where the file holds no dict of tensors.
    Raises: CheckpointError: damaged, a text file; UnsafeCheckpoint: a pickle that holds or runs more than tensors.
    """
    path = Path(path)
    remembered = _opened.get()
    if remembered is None:
        return _described(path)
    if path not in remembered:
        unread = Content(path, (), {})
        content = remembered.kept(unread)
        if content is None:
            content = _described(path)
            if "sha256" in unread.__dict__:
                content.__dict__["sha256"] = unread.sha256  # read once
            content = remembered.kept(content) or content
        remembered[path] = content
    return remembered[path]


def _described(path):
    _refuse_text(path)
    return _safetensors(path) if path.suffix.lower() == ".safetensors" else _pickled(path)


def open_weights(path):
    """Describe a weights file that is one flat set of tensors.

    Raises: CheckpointError: damaged, a text file, no flat set of tensors; UnsafeCheckpoint: a pickle that holds or runs more than tensors.
    """
    content = open_content(path)
    if "" in content.sets:
        return content.sets[""]
    inside = ", ".join(shown(key, 20) for key in content.keys[:4])
    raise CheckpointError(
        f"{content.name} holds no flat set of named tensors (found: {inside or 'nothing'}). "
        "Save the network alone with safetensors.torch.save_file(model.state_dict(), …) and add it again."
    )


def parameter_count(weights):
    """Numbers in all tensors."""
    return sum(int(np.prod(shape, dtype=object)) for shape in weights.shapes.values())


def _refuse_text(path):
    try:
        with open(path, "rb") as handle:
            start = handle.read(512)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read ({error.strerror}). Expected a weights file: check its permissions.") from None
    if not start:
        raise CheckpointError(f"{path.name} is empty. The copy failed: copy it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path.name} is a Git LFS pointer, not the weights. Fetch them with `git lfs pull`.")
    if all(b in b"\t\n\r\f" or 32 <= b < 127 or b >= 128 for b in start) and _is_utf8(start):
        raise CheckpointError(f"{path.name} is a text file. Expected weights (.safetensors): give the checkpoint's folder or .zip.")


def _is_utf8(start):
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start > len(start) - 4  # a character cut by the end of the block
    return True


def safetensors_header(path):
    """{tensor name: (dtype name, shape)} of a .safetensors file, after checking that the header describes exactly the bytes that follow.

    Raises: CheckpointError: cut short, or a header that contradicts the file.
    Source: the safetensors format: uint64 header length, JSON header, tensors without gaps.
    """
    return _header(Path(path))[0]


def _header(path):
    """(what `safetensors_header` returns, {tensor name: (first byte, byte after its last) in the file})."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise CheckpointError(f"{path.name} does not begin with a safetensors header. Expected tensors only: save it with safetensors.torch.save_file and add it again.")
        if 8 + length > size:
            have, want, unit = size_pair(size, 8 + length)
            raise CheckpointError(f"{path.name} ends inside its header, after {have} of {want} {unit}. The copy was cut short: copy it again.")
        raw = handle.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        entries = {str(name): _entry(entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path.name} has a damaged safetensors header. Expected name, dtype, shape and offsets of each tensor: copy the file again.") from None
    position = 0
    for name, (_, _, (begin, end)) in sorted(entries.items(), key=lambda item: item[1][2]):
        if begin != position:
            raise CheckpointError(f"{path.name} has a header that does not fit itself at {shown(name)}. Expected tensors one after the other: save it again with safetensors.")
        position = end
    if size < 8 + length + position:
        have, want, unit = size_pair(size, 8 + length + position)
        raise CheckpointError(f"{path.name} ends after {have} of {want} {unit}. The copy was cut short: copy it again.")
    if size > 8 + length + position:
        raise CheckpointError(f"{path.name} holds {size - 8 - length - position} bytes beyond its tensors. Expected none: copy it again.")
    places = {name: (8 + length + begin, 8 + length + end) for name, (_, _, (begin, end)) in entries.items()}
    return {name: (dtype, shape) for name, (dtype, shape, _) in entries.items()}, places


def _entry(entry):
    """(dtype, shape, (begin, end)) of one header entry; ValueError when its numbers contradict each other."""
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end)) or len(shape) > 16:
        raise ValueError("sizes")
    item = (FLOATS | OTHER_DTYPES)[dtype]
    if end - begin != item * int(np.prod(shape, dtype=object)):
        raise ValueError("length")
    return dtype, shape, (begin, end)


def _safetensors(path):
    header, places = _header(path)

    def tensors(names=None):
        with open(path, "rb") as file:  # read, not mapped: a mapped file would count twice in memory while it is copied
            for name in header if names is None else names:
                yield name, _tensor(file, path, name, *header[name], *places[name])

    weights = Weights(path.name, {n: shape for n, (_, shape) in header.items()}, {n: dtype for n, (dtype, _) in header.items()}, tensors)
    return Content(path, tuple(header), {"": weights})


def _tensor(file, path, name, dtype, shape, begin, end):
    """One tensor of a .safetensors file whose header was checked; begin, end: its bytes in the file."""
    if dtype not in TORCH_TYPES:
        raise CheckpointError(f"{path.name}: {shown(name)} is {shown(dtype)}. Expected float32, float16 or bfloat16 weights: save the model unquantised.")
    raw = bytearray(end - begin)
    file.seek(begin)
    if file.readinto(raw) != len(raw):
        raise CheckpointError(f"{path.name} ends inside {shown(name)}. The copy was cut short: copy it again.")
    if not raw:
        return torch.empty(shape, dtype=TORCH_TYPES[dtype])
    return torch.frombuffer(raw, dtype=TORCH_TYPES[dtype]).reshape(shape)


def _pickled(path):
    is_zip = zipfile.is_zipfile(path)
    content = _by_name(_restricted_load(path, is_zip, "meta"))  # shapes alone: nothing of the tensors is read, mapped or allocated
    if not isinstance(content, dict):
        return Content(path, (type(content).__name__,), {})
    found = {"": content} if _is_set(content) else {key: value for key, value in content.items() if isinstance(key, str) and _is_set(value)}
    _check_sizes(path, found)
    sets = {key: _weights_of(path, key, value, is_zip) for key, value in found.items()}
    return Content(path, tuple(str(key) for key in content), sets)


def _by_name(content):
    """A list as {"0": …, "1": …}: some training scripts save [network, optimizer, epoch]."""
    return {str(index): value for index, value in enumerate(content)} if isinstance(content, (list, tuple)) else content


def _is_set(value):
    return isinstance(value, dict) and bool(value) and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())


def _check_sizes(path, found):
    """Refuse tensors that claim more numbers than their storage, or storages that claim more bytes than the file."""
    storages = {}
    for tensors in found.values():
        for name, tensor in tensors.items():
            storage = tensor.untyped_storage()
            if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > storage.nbytes():
                raise CheckpointError(f"{path.name}: {shown(name)} claims more numbers than the file holds. Expected dense tensors: save it again with safetensors.")
            place = storage._cdata if storage._checkpoint_offset is None else storage._checkpoint_offset
            storages[place] = storage.nbytes()
    have, claimed = os.path.getsize(path), sum(storages.values())
    if claimed > have:
        have, want, unit = size_pair(have, claimed)
        raise CheckpointError(f"{path.name} claims {want} {unit} of tensors and has {have}. It was cut short: copy it again.")


def _weights_of(path, key, tensors, is_zip):
    """Weights of one set of tensors on the meta device, whose numbers are read from the file when they are asked for, one tensor at a time."""

    def read():
        if is_zip and all(tensor.untyped_storage()._checkpoint_offset is not None for tensor in tensors.values()):
            with open(path, "rb") as file:
                for name, tensor in tensors.items():
                    yield name, _read(file, tensor, path, name)
            return
        content = _by_name(_restricted_load(path, is_zip, "cpu"))  # files of torch before 1.6 are one stream
        state = content[key] if key else content
        for name in tensors:  # dropped one by one: the caller's float32 copy takes their place
            yield name, state.pop(name)

    dtypes = {n: TORCH_DTYPES.get(t.dtype, str(t.dtype).removeprefix("torch.")) for n, t in tensors.items()}
    return Weights(path.name, {n: tuple(t.shape) for n, t in tensors.items()}, dtypes, read)


def _read(file, tensor, path, name):
    """The numbers of a tensor on the meta device whose storage knows its place in the file."""
    storage = tensor.untyped_storage()
    raw = bytearray(storage.nbytes())
    file.seek(storage._checkpoint_offset)
    if file.readinto(raw) != len(raw):
        raise CheckpointError(f"{path.name} ends inside {shown(name)}. The copy was cut short: copy it again.")
    if not raw:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    return torch.frombuffer(raw, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _restricted_load(path, is_zip, device):
    """torch.load(weights_only=True) with the fixed allow-list; the archive is gated before torch sees it."""
    if tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2]) < MINIMUM_TORCH:
        raise CheckpointError(f"torch {torch.__version__} can run code from a pickle. Expected 2.10 or newer for {path.name}: update torch or save the weights as safetensors.")
    if is_zip:
        _gate_archive(path)
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS), _shapes_alone(device == "meta" and not is_zip):
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(path, is_zip, str(error)) from None
    # A damaged or hostile pickle can raise nearly anything; none of it ran, because only torch's restricted loader is used.
    except Exception as error:
        raise CheckpointError(
            f"{path.name} is not a readable torch file ({error.__class__.__name__}). It may be cut short: copy it again, or save the weights as safetensors."
        ) from None


def _shapes_alone(wanted):
    """Files of torch before 1.6 are read to the end even for the meta device, into buffers as large as they claim; so their bytes are skipped."""
    return torch.serialization.skip_data() if wanted else contextlib.nullcontext()


def _gate_archive(path):
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise CheckpointError(f"{path.name} is a damaged torch file. It may be cut short: copy it again.") from None
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UnsafeCheckpoint(
                f"{path.name} holds compressed entries ({shown(info.filename)}), which torch never writes, and was not opened. Save it again with safetensors.torch.save_file."
            )
    if sum(info.file_size for info in infos) > os.path.getsize(path):
        raise UnsafeCheckpoint(f"{path.name} claims more bytes than it has and was not opened. Save it again with safetensors.torch.save_file.")


def _unsafe(path, is_zip, message):
    """The error for a pickle that torch's restricted loader refused, with the names of what it wanted."""
    names = []
    if is_zip:
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:  # a pickle that does not even list; the loader's own message names the first
            names = []
    if not names:
        names = re.findall(r"GLOBAL ([\w.]+)", message)
    allowed = {f"{c.__module__}.{c.__qualname__}" for c in ALLOWED_GLOBALS if hasattr(c, "__qualname__")}
    names = [shown(n, 50) for n in dict.fromkeys(names) if n not in allowed][:3]
    if not names and not re.search("GLOBAL|Can only", message):  # noise, not objects
        return CheckpointError(
            f"{path.name} is not a checkpoint that torch can read. Expected tensors only: save it with safetensors.torch.save_file(model.state_dict(), …) and add it again."
        )
    held = f" ({', '.join(names)})" if names else ""
    return UnsafeCheckpoint(
        f"{path.name} holds Python objects{held} and was not opened. Expected tensors only. Save it with safetensors.torch.save_file(model.state_dict(), …) and add it again."
    )


def load_into(network, weights, rename=lambda name: name, said_by="config.json"):
    """Fill a network that was built on the meta device, as float32 on the CPU.

    Names and shapes are compared first, so a configuration that asks for terabytes is refused before anything is allocated.

    Args:
        network: torch module on the meta device; weights: Weights; rename: file's tensor name -> the network's; said_by: what the network was built from, for messages.
    Returns: the network, no parameter on meta, gradients off.
    Raises: CheckpointError naming the first tensor that differs, is not of a float type, or holds NaN or infinity.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    names = {rename(name): name for name in weights.shapes}
    for name, shape in wanted.items():
        if name not in names:
            raise CheckpointError(f"{weights.name} has no tensor {name}, which {said_by} asks for. Expected weights and configuration of one model: copy both again.")
        if weights.shapes[names[name]] != shape:
            raise CheckpointError(
                f"{weights.name} and {said_by} disagree: {name} is {_times(weights.shapes[names[name]])} in the weights, {_times(shape)} by the configuration. "
                "Expected files of one model: copy both again."
            )
    if extra := sorted(set(names) - set(wanted)):
        raise CheckpointError(f"{weights.name} holds {shown(extra[0])}, which {said_by} has no place for. Expected weights and configuration of one model: copy both again.")
    for name, dtype in weights.dtypes.items():
        if dtype not in FLOATS:
            raise CheckpointError(f"{weights.name}: {shown(name)} is {shown(dtype)}. Expected float32, float16 or bfloat16 weights: save the model unquantised.")
    state = {}
    for name, tensor in weights.tensors():
        state[rename(name)] = tensor.to(torch.float32, copy=True).contiguous()  # a copy: the file may change or go away under a memory map
        if not bool(torch.isfinite(state[rename(name)]).all()):
            raise CheckpointError(f"{weights.name}: {shown(name)} holds NaN or infinity. Expected finite weights: use an earlier checkpoint of this training.")
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False)


def _times(shape):
    return " x ".join(str(n) for n in shape) or "a single number"


def convert_to_safetensors(path, into):
    """Write the tensors of a pickle as safetensors, once, so that no later load unpickles; one tensor at a time is in memory.

    Args: path: .bin, .pt, .pth or .ckpt with a flat set of named tensors; into: folder.
    Returns: Path of into/STEM.safetensors, written whole or not at all.
    Raises: CheckpointError, UnsafeCheckpoint.
    """
    path, into = Path(path), Path(into)
    return _write_safetensors([("", open_weights(path))], into / f"{path.stem}.safetensors")


def keep_converted(content, into):
    """Convert every set of a pickle to into/HASH.safetensors, once.

    Returns: what `converted` returns for it.
    Raises: CheckpointError: the disk is full, or a tensor's type has no place in safetensors.
    """
    found = converted(content, into)
    if found is None:
        _write_safetensors([(f"{key}{IN_SET}", weights) for key, weights in content.sets.items()], _conversion(content, into))
        found = converted(content, into)
    return found


def converted(content, into):
    """The Content that `keep_converted` left in a folder, under the original's path, sets and SHA-256; None where there is none.

    Args: content: Content of the original, of which only path and sha256 are looked at; into: folder.
    """
    target = _conversion(content, into)
    if not target.is_file():
        return None
    whole = open_weights(target)
    keys = tuple(dict.fromkeys(name.partition(IN_SET)[0] for name in whole.shapes))
    found = Content(content.path, keys if keys != ("",) else tuple(whole.shapes), {key: _part(whole, key, content.name) for key in keys})
    found.__dict__["sha256"] = content.sha256  # the user's file, not its conversion
    return found


def _conversion(content, into):
    return Path(into) / f"{content.sha256[:32]}.safetensors"


def _part(whole, key, name):
    """The set `key` of a converted file, under the name of the original."""
    start = f"{key}{IN_SET}"
    cut = {tensor: tensor.removeprefix(start) for tensor in whole.shapes if tensor.startswith(start)}

    def read():
        yield from ((cut[tensor], value) for tensor, value in whole.tensors(cut))

    return Weights(name, {short: whole.shapes[tensor] for tensor, short in cut.items()}, {short: whole.dtypes[tensor] for tensor, short in cut.items()}, read)


def _write_safetensors(sets, target):
    """Stream [(prefix, Weights)] into a .safetensors file: header first, then tensor after tensor."""
    header, position = {}, 0
    for prefix, weights in sets:
        for name, shape in weights.shapes.items():
            dtype = weights.dtypes[name]
            if dtype not in (FLOATS | OTHER_DTYPES):
                raise CheckpointError(f"{weights.name}: {shown(name)} is {shown(dtype)}. Expected float32, float16 or bfloat16 weights: save the model unquantised.")
            size = (FLOATS | OTHER_DTYPES)[dtype] * int(np.prod(shape, dtype=object))
            header[prefix + name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
            position += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    tmp = target.with_name(f".{target.stem}-{os.getpid()}.tmp")  # two processes may convert the same file at once
    try:
        with open(tmp, "wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            for _, weights in sets:
                for _, tensor in weights.tensors():
                    file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        os.replace(tmp, target)
    except OSError as error:
        name, size = sets[0][1].name, (position + len(raw)) / 1e9
        raise CheckpointError(f"{name} cannot be kept as safetensors ({error.strerror}). Expected {size:.1f} GB of free disk: make room.") from None
    finally:
        tmp.unlink(missing_ok=True)
    return target

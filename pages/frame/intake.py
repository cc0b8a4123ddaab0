"""Where the files of a new audit come from: the inbox folder of this server, or an upload.

A row that a page writes may name only what lies in the inbox once every link is followed, or an upload that this session made.
"""

import hashlib
import os
import secrets
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import streamlit as st

from audit import format as fmt
from audit.errors import RequestError
from pages.frame.states import notice
from pages.frame.uploads import Upload, forget_upload, take_upload
from pages.frame.uploads import _release as release

HERE, UPLOAD = "On this server", "Upload"
FILE, FOLDER = "File", "Folder"
LOOKED_AT = 20_000  # directory entries per listing: a folder of 50,000 images must not make the page wait
LISTED = 400
DEPTH = 3
SKIPPED = frozenset({"__MACOSX", "__pycache__"})


@dataclass(frozen=True)
class Kind:
    """What one choice may be.

    Attributes:
        folder: of AUDIT_HOME that uploads go to; uploads: endings of one uploaded file, and of the files that the inbox lists; label: of its uploader.
    """

    folder: str
    uploads: tuple[str, ...]
    label: str


CHECKPOINT = Kind("checkpoints", (".zip", ".pt", ".pth", ".ckpt", ".bin", ".safetensors"), "A .zip of a diffusers folder, or a weights file")
IMAGES = Kind("images", (".zip", ".npz"), "A .zip or .npz of images")


@dataclass(frozen=True)
class Choice:
    """One chosen input: `path` absolute, or None with the `problem` in words; `name`: what the user calls it; `uploaded`: whether it came through the browser."""

    path: str | None = None
    name: str = ""
    problem: str = ""
    uploaded: bool = False


def inbox_entries(inbox, suffixes):
    """Folders and files with one of the suffixes in the inbox, as text relative to it; folders end with "/".

    Args: inbox: folder; suffixes: lower case, with the dot.
    Returns: sorted list of at most LISTED names, no link and nothing hidden among them, DEPTH levels deep; of a folder with a config.json its files are parts, so it
        stands for them.
    """
    found, left, level = [], LOOKED_AT, [Path(inbox)]
    for _ in range(DEPTH):
        deeper = []
        for folder in level:
            files, whole = [], False
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        left -= 1
                        if left < 0 or len(found) + len(files) >= LISTED:
                            return sorted(found + files)
                        if entry.name.startswith(".") or entry.name in SKIPPED or entry.is_symlink():
                            continue
                        name = Path(entry.path).relative_to(inbox).as_posix()
                        if entry.is_dir(follow_symlinks=False):
                            found.append(name + "/")
                            deeper.append(Path(entry.path))
                        elif entry.name == "config.json":
                            whole = True
                        elif Path(entry.name).suffix.lower() in suffixes:
                            files.append(name)
                found += [] if whole else files
            except PermissionError:
                found = [name for name in found if name != folder.relative_to(inbox).as_posix() + "/"]  # what cannot be listed cannot be audited
        level = deeper
    return sorted(found)


def from_inbox(inbox, text):
    """The path that a typed or chosen name stands for, once every link is followed.

    Args: inbox: folder; text: relative to it, or absolute and inside it.
    Returns: Path, absolute, existing, inside the inbox.
    Raises: RequestError.
    """
    shown = text.strip().rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1][:80] or text[:80]
    try:
        root = Path(inbox).resolve(strict=True)
        path = (root / text.strip()).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a null byte
        raise RequestError(f"{shown} is not in the inbox. Expected a file or folder there: copy it into the inbox, then choose it.") from None
    if not path.is_relative_to(root) or path == root:
        raise RequestError(f"{shown} lies outside the inbox. Expected a file or folder inside it: copy it into the inbox, or use python -m audit run for any path.")
    return path


def refuse_links_out(inbox, path):
    """Walk a folder of the inbox and refuse the first link in it that leads out of the inbox.

    Raises: RequestError: it names the link relative to the folder.
    """
    root = Path(inbox).resolve()
    stack = [Path(path)] if Path(path).is_dir() else []
    while stack:
        folder = stack.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        if not Path(os.path.realpath(entry.path)).is_relative_to(root):
                            name = Path(entry.path).relative_to(path).as_posix()
                            raise RequestError(f"{name} is a link that leads out of the inbox. Expected files inside it: copy the file itself into the inbox.")
                    elif entry.is_dir(follow_symlinks=False):
                        stack.append(Path(entry.path))
        except OSError as error:
            raise RequestError(f"{folder.name} cannot be read ({error.strerror}). Expected a folder that this server may list: change its permissions.") from None


def checked_again(config, choice):
    """The choice's path, resolved anew and walked: what a page lets through must still hold when the row is written.

    Raises: RequestError.
    """
    if choice.uploaded:
        return choice.path
    path = from_inbox(config.inbox, choice.path)
    refuse_links_out(config.inbox, path)
    return str(path)


def choice_of(key):
    """The Choice that `choose` last left for this key, whichever step is on screen."""
    return st.session_state.get(f"new_choice_{key}", Choice())


def choose(config, kind, key, label, help=None):
    """Draw the two ways to name an input and return what is chosen now.

    Args: config: audit.config.Config; kind: Kind; key: "checkpoint", "reference", "members", "nonmembers" or "pool"; label, help: constant words.
    Returns: Choice; it stays readable through `choice_of` while other steps are shown.
    """
    where = st.segmented_control(label, [HERE, UPLOAD], default=HERE, required=True, key=f"new_where_{key}", help=help, persist_state="session")
    choice = _upload(config, kind, key) if where == UPLOAD else _inbox(config, kind, key)
    st.session_state[f"new_choice_{key}"] = choice
    if choice.problem:
        notice(f"choice_{key}", "warning", choice.problem)
    return choice


def _inbox(config, kind, key):
    folder = Path(config.inbox)
    names = inbox_entries(folder, kind.uploads) if folder.is_dir() else []
    typed = st.session_state.get(f"new_inbox_{key}")
    options = names if not typed or typed in names else [typed, *names]
    picked = st.selectbox(
        "File or folder in the inbox",
        options,
        index=None,
        key=f"new_inbox_{key}",
        accept_new_options=True,
        persist_state="session",
        placeholder="Choose, or type a path in the inbox" if names else "The inbox is empty: copy files there, or type a path in it",
    )
    with st.container(key=f"small_inbox_{key}"):
        st.text(f"Inbox of this server: {_short(folder)}")
    if not picked:
        return Choice()
    try:
        path = from_inbox(folder, picked)
        refuse_links_out(folder, path)
    except RequestError as error:
        return Choice(name=picked, problem=str(error))
    return Choice(str(path), path.name)


def _short(folder):
    """A path with the home folder as ~, to tell people where to put files."""
    home = Path.home()
    return f"~/{folder.relative_to(home).as_posix()}" if folder.is_relative_to(home) else str(folder)


def _upload(config, kind, key):
    """Draw the uploader, or what arrived through it; a folder or several images become one .zip."""
    how = st.segmented_control("Upload as", [FILE, FOLDER], default=FILE, required=True, key=f"new_as_{key}", label_visibility="collapsed", persist_state="session")
    slot = f"new_{key}_{how}"
    arrived = take_upload(kind.label, slot, kind.uploads, config.home / kind.folder) if how == FILE else _take_many(config, kind, slot)
    if arrived is not None:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.badge("Uploaded", icon=":material/check:", color="gray")
            st.text(f"{arrived.name} · {fmt.size(arrived.size)}")
            st.button("Choose another", key=f"new_other_{key}", type="tertiary", on_click=forget_upload, args=(slot,))
        return Choice(str(arrived.path), arrived.name, uploaded=True)
    with st.container(key=f"small_upload_{key}"):
        st.text(f"Uploads up to {config.max_upload_mb} MB, and they need twice their size in memory. Larger files: put them in the inbox folder.")
    return Choice(uploaded=True)


def _take_many(config, kind, slot):
    """An uploader for a whole folder; the Upload of the .zip it became, or None while nothing has arrived."""
    kept, round_ = f"upload_{slot}", f"upload_version_{slot}"
    stored = st.session_state.get(kept)
    if stored is not None and stored.path.is_file():
        return stored
    version = st.session_state.setdefault(round_, 0)
    files = st.file_uploader("A folder", accept_multiple_files="directory", key=f"uploader_{slot}_{version}", max_upload_size=config.max_upload_mb)
    if not files:
        return None
    try:
        st.session_state[kept] = pack(files, config.home / kind.folder, config.max_upload_mb * 10**6)
    except RequestError as error:
        notice(slot, "warning", str(error))
        return None
    except OSError as error:
        notice(slot, "warning", f"The folder could not be stored: {error.strerror}. Free space in AUDIT_HOME, or put it into the inbox folder.")
        return None
    for file in files:
        release(file)
    st.session_state[round_] = version + 1
    st.rerun()


def pack(files, folder, limit):
    """Write an uploaded folder as one .zip, named by its own hash; equal folders become equal files.

    Args: files: uploaded files whose names are paths from outside; folder: where the .zip goes; limit: bytes of all files together.
    Returns: Upload. Raises: RequestError: too large, or a name that leads out of the folder; OSError: the disk.
    """
    parts = {file: _parts(file.name) for file in files}
    size = sum(file.size for file in files)
    if size > limit:
        raise RequestError(f"The folder holds {fmt.size(size)}. Expected at most {fmt.size(limit)}: put it into the inbox folder.")
    tops = {names[0] for names in parts.values() if len(names) > 1}
    inside = len(tops) == 1 and all(len(names) > 1 for names in parts.values())  # the browser names the chosen folder first
    tmp = folder / f"{secrets.token_hex(8)}.part"
    try:
        with zipfile.ZipFile(tmp, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(files, key=lambda file: parts[file]):
                name = "/".join(parts[file][1:] if inside else parts[file])
                with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:  # ZipInfo's own date, 1980, keeps equal folders equal
                    shutil.copyfileobj(file, target, 1 << 20)
        digest = hashlib.sha256()
        with open(tmp, "rb") as handle:
            while piece := handle.read(1 << 20):
                digest.update(piece)
        path = folder / f"{digest.hexdigest()[:32]}.zip"
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)
    return Upload(path, next(iter(tops)) if inside else f"{len(files)} files", digest.hexdigest(), size)


def _parts(name):
    """The components of an uploaded file's name. Raises: RequestError: it is absolute or climbs."""
    names = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "."]
    if not names or any(part in ("..", "/") or ":" in part or "\0" in part for part in names):
        raise RequestError(f"{name[-80:]} is not a name inside a folder. Expected names such as unet/config.json: choose the folder again.")
    return names

"""What an audit can show before it is run, in words, from the number of images: for the New audit page, `run` and `split`. No torch."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from audit import format as fmt
from audit.stats.power import planned
from models.imagefiles import IGNORED
from models.pixels import SUFFIXES

LEAST = 2  # images a side below which nothing can be planned


def count_images(path):
    """How many images a set seems to hold: files by their names, an array by its header. Nothing is decoded, so damaged and equal files count too.

    Args: path: folder, .zip or .npz.
    Returns: int, or None where it cannot be told; reading the set then says why.
    """
    path = Path(path)
    try:
        if path.is_dir():
            names = ((Path(folder) / name).relative_to(path).as_posix() for folder, _, files in os.walk(path) for name in files)
            return sum(map(_is_image, names))
        with zipfile.ZipFile(path) as archive:  # a .npz is a zip too
            return _rows(archive) if path.suffix.lower() == ".npz" else sum(map(_is_image, archive.namelist()))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return None


def _is_image(name):
    return Path(name).suffix.lower() in SUFFIXES and not IGNORED.search(name)


def _rows(archive):
    """The first axis of `images` in an open .npz."""
    with archive.open("images.npy") as handle:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read(handle)
    return int(shape[0]) if shape else None


def power_head(members, nonmembers):
    """`What 925 + 1,000 held-out images can show`. Args: members, nonmembers: images of the two sets, at least 2 each."""
    plan = planned(members, nonmembers)
    both = f"{fmt.count(plan['members'])} + {fmt.count(plan['nonmembers'])}"
    return f"What {both} held-out images can show" if plan["split"] == "half" else f"What {both} images, cross-fitted, can show"


def power_lines(members, nonmembers):
    """Sentences on what these images can show, after audit.stats.power.planned. Args: as above. Returns: list of str."""
    plan = planned(members, nonmembers)
    lines = [f"A leak of AUC {fmt.auc(plan['minimum_detectable_auc'])} or more would be found in 4 audits of 5."]
    if (share := plan["minimum_detectable_share"]) is not None:
        lines.append(f"So would one that exposes {fmt.percent(share, 1)} of the members fully and the others not at all.")
    at = {name: [fmt.fpr(point["fpr"]) for point in plan["tpr"] if point["resolution"] == name] for name in ("resolvable", "coarse", "none")}
    if at["resolvable"]:
        lines.append(f"TPR with a lower bound at {' and '.join(at['resolvable'])} FPR.")
    if at["coarse"]:
        lines.append(f"Only a coarse TPR at {' and '.join(at['coarse'])} FPR.")
    if at["none"]:
        lines.append(f"No TPR at {' and '.join(at['none'])} FPR: not resolvable with n = {fmt.count(plan['tpr'][0]['nonmembers'])}.")
    more = [goal for goal in plan["images_needed"] if goal["images"] > min(members, nonmembers)]
    if more:
        lines.append("For " + ", ".join(f"AUC {fmt.auc(goal['auc'])}: {fmt.count(goal['images'])} images a side" for goal in more) + ".")
    return lines


def plan_of_files(members, nonmembers):
    """What `run` prints first. Args: paths of the two sets. Returns: list of lines, empty where the files cannot be counted or are too few to speak of."""
    m, n = count_images(members), count_images(nonmembers)
    if m is None or n is None or min(m, n) < LEAST:
        return []
    head = f"{fmt.count(m)} + {fmt.count(n)} images by their files' names; if none is left out: {power_head(m, n)[0].lower()}{power_head(m, n)[1:]}"
    return [head, *(f"  {line}" for line in power_lines(m, n))]

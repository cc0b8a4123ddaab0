"""The stored tables of a run: what was measured, laid out so that a slider step reads two rows.

`tables/index.json` names them; for a table NAME (a "/" in it becomes "__" on disk), timestep-major, float32 but for the running sums, which are float64
because losses at the noisy end of vlb_bits are a millionth of those before them:
    NAME.npy           (K,N)     mean over the S noise draws; NaN = not measured (whole columns only)
    NAME.draws.npy     (S,K,N)   each draw
and for tables with a timestep axis:
    NAME.prefix.npy    (M+1,N)   running sum over the M scored timesteps, each centred by its mean over images
    NAME.sorted.npy    (M,N)     each image's values, smallest first
    NAME.sorted_prefix.npy (M+1,N) running sum of the sorted values, each rank centred by its mean over images
    NAME.centres.npy   (2,M)     float64, the means taken out of the two prefix files
"Scored" are the measured columns that statistics may use: all but t = 0 of vlb_bits, which is another quantity (a discretised likelihood).
No torch here: pages read these files.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from audit.errors import RunFolderError

UNTRAINED = "untrained/eps_mse"  # what an untrained copy of the network answers: features of the blind baseline
BLOCK_IMAGES = 4096  # images per pass while building: memory stays independent of N


@dataclass(frozen=True)
class Table:
    """One stored table, opened as memory maps.

    Attributes:
        name: "eps_mse", "reference/eps_mse", …; axis: "timestep", "feature" or "none".
        timesteps: int64 (K,) for axis "timestep", else None; measured, scored: bool (K,); draws: S; images: N.
    Each array below raises RunFolderError where its file is missing, cut or of another shape.
    """

    folder: Path
    name: str
    axis: str
    timesteps: np.ndarray | None
    measured: np.ndarray
    scored: np.ndarray
    draws: int
    images: int

    def _load(self, suffix, *shape):
        file = self.folder / f"{stem(self.name)}{suffix}.npy"
        try:
            found = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise RunFolderError(f"The table {file.name} of {self.folder.parent.name} is missing or cut. Expected what the audit wrote: run the audit again.") from None
        if found.shape != shape:
            raise RunFolderError(
                f"The table {file.name} of {self.folder.parent.name} has the shape {found.shape}, tables/index.json says {shape}. Run the audit again."
            )
        return found

    @cached_property
    def values(self):
        """(K,N) float32, mean over draws, NaN columns where not measured."""
        return self._load("", len(self.measured), self.images)

    @cached_property
    def per_draw(self):
        """(S,K,N) float32."""
        return self._load(".draws", self.draws, len(self.measured), self.images)

    @cached_property
    def prefix(self):
        """(M+1,N) float64 centred running sum over scored timesteps."""
        return self._load(".prefix", len(self.scored_index) + 1, self.images)

    @cached_property
    def sorted_values(self):
        """(M,N) float32, smallest first per image."""
        return self._load(".sorted", len(self.scored_index), self.images)

    @cached_property
    def sorted_prefix(self):
        """(M+1,N) float64 centred running sum of the sorted values."""
        return self._load(".sorted_prefix", len(self.scored_index) + 1, self.images)

    @cached_property
    def centres(self):
        """(2,M) float64: per-timestep and per-rank means that the prefix files leave out."""
        return self._load(".centres", 2, len(self.scored_index))

    @cached_property
    def scored_index(self):
        """int64 (M,), positions in `timesteps` that statistics may use."""
        return np.flatnonzero(self.scored)

    @cached_property
    def finite(self):
        """bool (N,): images whose values are finite in every column that statistics may use."""
        out = np.ones(self.images, bool)
        for row in self.scored_index:
            out &= np.isfinite(self.values[row])
        return out

    @cached_property
    def scored_timesteps(self):
        """int64 (M,)."""
        return self.timesteps[self.scored]


def stem(name):
    """File stem of a table name."""
    return name.replace("/", "__")


class Tables(dict):
    """name -> Table of one run; `load` opens a run folder's tables."""

    @classmethod
    def load(cls, folder):
        """Open `folder`/index.json. Raises RunFolderError."""
        folder = Path(folder)
        try:
            index = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError):
            raise RunFolderError(f"The tables of {folder.parent.name} are missing or damaged. Expected tables/index.json: run the audit again.") from None
        for name, t in index["tables"].items():
            if not len(t["measured"]) == len(t["scored"]) == len(t["measured"] if t["timesteps"] is None else t["timesteps"]):
                raise RunFolderError(f"tables/index.json of {folder.parent.name} is damaged: the columns of {name[:60]} do not fit each other. Run the audit again.")
        return cls(
            {
                name: Table(
                    folder,
                    name,
                    t["axis"],
                    None if t["timesteps"] is None else np.array(t["timesteps"], np.int64),
                    np.array(t["measured"], bool),
                    np.array(t["scored"], bool),
                    t["draws"],
                    index["images"],
                )
                for name, t in index["tables"].items()
            }
        )


def write_tables(folder, images, specs, blocks):
    """Write the tables of a run from blocks of images.

    Args:
        folder: the run's tables/ folder, made if missing.
        images: N.
        specs: {name: (axis, timesteps or None)}; "vlb_bits" (with any prefix) is not scored at t = 0.
        blocks: an iterable of (first, {name: float32 (S,n,K)}) that covers images 0..N-1 once, in any order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    maps, index = {}, {}
    for first, arrays in blocks:
        for name, values in arrays.items():
            draws, n, columns = values.shape
            if name not in maps:
                maps[name] = np.lib.format.open_memmap(folder / f"{stem(name)}.draws.npy", "w+", np.float32, (draws, columns, images))
            maps[name][:, :, first : first + n] = values.transpose(0, 2, 1)
    for name, per_draw in maps.items():
        axis, timesteps = specs[name]
        per_draw.flush()
        keep = np.ones(per_draw.shape[1], bool)
        if name.rpartition("/")[2] == "vlb_bits":
            keep = np.asarray(timesteps) != 0
        measured, scored = _write_derived(folder, name, per_draw, axis, keep)
        index[name] = {
            "axis": axis,
            "timesteps": None if timesteps is None else [int(t) for t in timesteps],
            "measured": measured.tolist(),
            "scored": scored.tolist(),
            "draws": per_draw.shape[0],
        }
    tmp = folder / "index.tmp"
    tmp.write_text(json.dumps({"images": images, "tables": index}, indent=1) + "\n")
    os.replace(tmp, folder / "index.json")


def _write_derived(folder, name, per_draw, axis, keep):
    """Write everything but the draws; returns (measured, scored), both bool (K,)."""
    _, columns, images = per_draw.shape
    starts = range(0, images, BLOCK_IMAGES)
    mean = np.lib.format.open_memmap(folder / f"{stem(name)}.npy", "w+", np.float32, (columns, images))
    measured = np.zeros(columns, bool)
    for start in starts:
        block = slice(start, start + BLOCK_IMAGES)
        mean[:, block] = per_draw[:, :, block].mean(axis=0, dtype=np.float64)
        measured |= ~np.isnan(mean[:, block]).all(axis=1)
    mean.flush()
    scored = measured & keep
    if axis != "timestep":
        return measured, scored
    rows = np.flatnonzero(scored)
    ordered = np.lib.format.open_memmap(folder / f"{stem(name)}.sorted.npy", "w+", np.float32, (len(rows), images))
    sums = np.zeros((2, len(rows)))
    for start in starts:
        block = slice(start, start + BLOCK_IMAGES)
        values = np.asarray(mean[rows, block])
        ordered[:, block] = np.sort(values, axis=0)
        for row, part in enumerate((values, ordered[:, block])):  # one image with an infinite loss must not reach the others through the mean
            sums[row] += np.where(np.isfinite(part), part, 0).sum(axis=1, dtype=np.float64)
    centres = sums / images
    np.save(folder / f"{stem(name)}.centres.npy", centres)
    for source, centre, suffix in ((mean, centres[0], "prefix"), (ordered, centres[1], "sorted_prefix")):
        out = np.lib.format.open_memmap(folder / f"{stem(name)}.{suffix}.npy", "w+", np.float64, (len(rows) + 1, images))
        for start in starts:
            block = slice(start, start + BLOCK_IMAGES)
            values = np.asarray(source[rows, block] if source is mean else source[:, block], dtype=np.float64)
            out[1:, block] = np.cumsum(values - centre[:, None], axis=0)
        out.flush()
    ordered.flush()
    return measured, scored

"""What page Samples shows, kept in the run folder so that it needs no pool: thumbnails of some samples, and the query images that came closest to one.

    RUN/pool/samples.json      {"shown": [indices], "pairs": [{"image_id", "is_member", "sample", "distance", "around", "relative"}]}, closest first
    RUN/pool/00000012.png      a sample by its index
distance: L2 over all pixels in [-1, 1] to the nearest sample; around: mean distance to the 20 nearest other query images; relative: their quotient, the extraction check.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from audit.files import write_json
from audit.tables import Tables

SHOWN, PAIRS, SIDE = 120, 60, 128
FILE = "samples.json"


def write_samples(folder, pool):
    """Write the folder pool/ of a run, from its tables. Args: folder: of the run; pool: audit.pool.Pool."""
    folder = Path(folder)
    target, pairs = folder / "pool", closest_pairs(folder)
    target.mkdir(exist_ok=True)
    shown = [int(i) for i in pool.kept[:SHOWN]]
    for index in dict.fromkeys([*shown, *(pair["sample"] for pair in pairs)]):
        _save(target / f"{index:08d}.png", pool.images[index])
    write_json(target / FILE, {"shown": shown, "pairs": pairs})


def closest_pairs(folder, most=PAIRS):
    """The query images whose nearest sample is nearest beside their own neighbourhood: dicts as in samples.json; [] where nobody searched."""
    tables = Tables.load(Path(folder) / "tables")
    if not {"nearest_pixels", "neighbours_pixels", "nearest_sample"} <= set(tables):
        return []
    images = json.loads((Path(folder) / "queries.json").read_text(encoding="utf-8"))["images"]
    distance = np.asarray(tables["nearest_pixels"].values[0], dtype=np.float64)
    around = np.asarray(tables["neighbours_pixels"].values, dtype=np.float64).mean(axis=0)
    relative = np.divide(distance, around, out=np.zeros_like(distance), where=distance > 0)
    order = np.argsort(relative, kind="stable")[:most]
    sample = np.asarray(tables["nearest_sample"].values[0], dtype=np.int64)
    return [
        {
            "image_id": images[i]["image_id"], "is_member": images[i]["is_member"], "sample": int(sample[i]), "distance": float(distance[i]), "around": float(around[i]),
            "relative": float(relative[i]),
        }
        for i in order
    ]  # fmt: skip


def _save(file, pixels):
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    picture.save(file, format="PNG")

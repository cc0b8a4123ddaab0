"""Draw the demo's image sets from Debian's dataset-fashion-mnist: who is a member is an independent fair coin per image.

    python -m models.demo.draw --idx /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz --out DIR

DIR gets members.zip, nonmembers.zip and manifest.json (the query pool, committed in models/demo/) and twin_training.zip (the members plus 20,000 further images,
used once to train the well-behaved twin). 28 x 28 grey pictures are reduced to 16 x 16 by the one preprocessing path of models/pixels.py.
"""

import argparse
import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from models import pixels
from models.manifest import content_sha256, manifest_of

CREATED = "2026-11-24T00:00:00Z"
COINS = "models.demo.draw"
RULE = "An independent fair coin for each of 900 distinct pictures, tossed before training: member or non-member. Drawn again by python -m models.demo.draw."
SEED, POOL, EXTRA, SIZE = 20261124, 900, 20_000, 16


def read_idx(path):
    """The images of an IDX file, uint8 (N,H,W)."""
    with gzip.open(path) as handle:
        raw = handle.read()
    count, height, width = np.frombuffer(raw, ">u4", 4)[1:]
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, height, width)


def draw(images, seed=SEED, pool=POOL, extra=EXTRA, size=SIZE):
    """Distinct small pictures in random order, split by coins.

    Args: images: uint8 (N,H,W).
    Returns: (members, nonmembers, others), each a list of (name, uint8 (size,size,1)); no picture occurs twice.
    """
    rng = np.random.default_rng(seed)
    picked, seen = [], set()
    for index in rng.permutation(len(images)):
        small = pixels.fit(images[index][..., None], (size, size))
        key = pixels.image_id(small)
        if key not in seen:
            seen.add(key)
            picked.append((f"fmnist-{index:05d}.png", small))
        if len(picked) == pool + extra:
            break
    coin = rng.random(pool) < 0.5
    members = [p for p, c in zip(picked, coin, strict=False) if c]
    nonmembers = [p for p, c in zip(picked, coin, strict=False) if not c]
    return members, nonmembers, picked[pool:]


def write_zip(path, entries):
    """PNG files in a zip with fixed dates, so the same images give the same bytes. Returns {name: SHA-256 hex of the PNG}."""
    hashes = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, small in sorted(entries):
            buffer = io.BytesIO()
            Image.fromarray(small[..., 0]).save(buffer, format="PNG", optimize=True)
            archive.writestr(zipfile.ZipInfo(name, (2017, 8, 25, 0, 0, 0)), buffer.getvalue())
            hashes[name] = content_sha256(buffer.getvalue())
    return hashes


def write_manifest(path, members, nonmembers):
    """The manifest of the query pool; the same images give the same bytes. Args: members, nonmembers: {name: SHA-256 hex}."""
    named = sorted([(name, sha256, "member") for name, sha256 in members.items()] + [(name, sha256, "nonmember") for name, sha256 in nonmembers.items()])
    images = [{"path": name, "sha256": sha256, "cluster": number, "role": role} for number, (name, sha256, role) in enumerate(named)]
    path.write_text(json.dumps(manifest_of(images, SEED, CREATED, "fashion-mnist", COINS, RULE), indent=1) + "\n", encoding="utf-8")


def main(argv=None):
    """Command line; exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m models.demo.draw", description="Draw the demo's image sets.")
    parser.add_argument("--idx", required=True, metavar="F", help="train-images-idx3-ubyte.gz of Debian's dataset-fashion-mnist")
    parser.add_argument("--out", required=True, metavar="DIR")
    args = parser.parse_args(argv)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    members, nonmembers, others = draw(read_idx(args.idx))
    write_manifest(out / "manifest.json", write_zip(out / "members.zip", members), write_zip(out / "nonmembers.zip", nonmembers))
    write_zip(out / "twin_training.zip", members + others)
    print(f"{len(members)} members, {len(nonmembers)} non-members, {len(members) + len(others)} training images for the twin")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The manifest of a random split: which files are members and which are not, drawn before training. Its format, and nothing else; no torch.

    {"afterimage_split": 1, "seed": whole number, "created": ISO time, "source": name of the folder, "coins": how they were tossed, "rule": the same in words,
     "images": [{"path", "sha256", "cluster", "role": "member" | "nonmember" | "training"}], "sha256": of the images list}

`sha256` of an image is that of the file's bytes, of the array's bytes for an entry of a .npz. "training" = trained on, and no coin decided it.
"""

import hashlib
import json

VERSION = 1
ROLES = ("member", "nonmember", "training")
BY_HASH = "sha256"  # `coin` below; a manifest with these coins can be drawn again from its seed


def content_sha256(data):
    """SHA-256 hex of an image: bytes of a file, or a uint8 array."""
    return hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).hexdigest()


def images_sha256(images):
    """SHA-256 hex of the images list, as JSON with sorted keys, no spaces and ASCII only."""
    return hashlib.sha256(json.dumps(images, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()).hexdigest()


def manifest_of(images, seed, created, source, coins, rule):
    """The content of a manifest. Args: images: list of dicts as in the module's docstring; the others: its fields."""
    return {"afterimage_split": VERSION, "seed": seed, "created": created, "source": source, "coins": coins, "rule": rule, "images": images, "sha256": images_sha256(images)}


def coin(seed, key):
    """True (member) or False, a fair coin that belongs to (seed, key): the last bit of SHA-256("SEED:coin:KEY").

    No random generator, so that the same seed gives the same coins with every version of every library.

    Args: seed: whole number; key: what the coin is for: the smallest sha256 of a cluster's files.
    """
    return bool(hashlib.sha256(f"{int(seed)}:coin:{key}".encode()).digest()[-1] & 1)


def draw_order(seed, key):
    """Sort key that puts clusters in random order: SHA-256("SEED:query:KEY"), independent of the coins."""
    return hashlib.sha256(f"{int(seed)}:query:{key}".encode()).digest()

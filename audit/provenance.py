"""Who says that members and non-members were drawn at random: a manifest that verifies, the owner's word, or nobody.

Only the first supports the strong sentences: whether somebody's word is true cannot be seen in the images.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from audit.errors import ImageSetError, RequestError
from models import demo
from models.manifest import BY_HASH, ROLES, VERSION, coin, images_sha256

LEAST_COVERED = 0.95  # of what the coins put on each side: below it somebody or something has chosen among the drawn images
LARGEST_BYTES = 256 * 2**20
WORDS = {"member": "a member", "nonmember": "a non-member", "training": "trained on, without a coin"}
SIDES = {"member": "members", "nonmember": "nonmembers"}
SIDE_WORDS = {"members": "members", "nonmembers": "non-members"}
HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Manifest:
    """A manifest that reads and agrees with its own hash.

    Attributes:
        name: of the file; seed, sha256 (of the images list), rule: see models.manifest.
        images: dicts with path, sha256, cluster, role.
        drawn: every coin was tossed again and fell as listed, or this is the manifest of the bundled pair, known by its hash. Anybody can write down
            roles of their choice under another name of coins, so nothing else shows that a coin decided.
    """

    name: str
    seed: int
    sha256: str
    rule: str
    images: tuple[dict, ...]
    drawn: bool

    @cached_property
    def by_content(self):
        """{sha256 of an image: its entry}; equal files share role and cluster."""
        return {image["sha256"]: image for image in self.images}


def read_manifest(path):
    """The Manifest in a file, checked: version, fields, the hash of its list, and, where its coins can be tossed again, every coin.

    Raises: RequestError.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise RequestError(f"{path.name} is larger than {LARGEST_BYTES // 2**20} MB. Expected a manifest that python -m audit split wrote.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path.name} cannot be read ({getattr(error, 'strerror', None) or 'not text'}). Expected a manifest that python -m audit split wrote.") from None
    except (ValueError, RecursionError):
        raise RequestError(f"{path.name} is not JSON. Expected a manifest that python -m audit split wrote: it may be cut short, copy it again.") from None
    if not isinstance(data, dict) or "afterimage_split" not in data:
        raise RequestError(f"{path.name} is not a manifest. Expected a file that python -m audit split wrote.")
    if not _whole(data["afterimage_split"]) or data["afterimage_split"] != VERSION:
        raise RequestError(f"{path.name} is a manifest of version {str(data['afterimage_split'])[:20]}. Expected version {VERSION}: use the program that wrote it.")
    images = data.get("images")
    if not (_whole(data.get("seed")) and isinstance(images, list) and images and all(map(_is_entry, images))):
        raise RequestError(f"{path.name} lacks fields of a manifest. Expected seed, and images with path, sha256, cluster and role: use the file as split wrote it.")
    if data.get("sha256") != images_sha256(images):
        raise RequestError(f"{path.name} was changed after it was drawn: its list does not have the hash that it states. Use the file as split wrote it.")
    bundled = (data["sha256"], data["seed"]) == (demo.MANIFEST_SHA256, demo.MANIFEST_SEED)
    manifest = Manifest(path.name, data["seed"], data["sha256"], str(data.get("rule") or ""), tuple(images), drawn=bundled or data.get("coins") == BY_HASH)
    _check_coins(manifest, data.get("coins"))
    return manifest


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_entry(entry):
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and isinstance(entry.get("sha256"), str)
        and len(entry["sha256"]) == 64
        and set(entry["sha256"]) <= HEX
        and _whole(entry.get("cluster"))
        and entry.get("role") in ROLES
    )


def _check_coins(manifest, coins):
    """Raise RequestError when a cluster or a picture has two roles, or a coin that can be tossed again fell otherwise."""
    groups = {}
    for image in manifest.images:
        groups.setdefault(image["cluster"], []).append(image)
        if manifest.by_content[image["sha256"]]["role"] != image["role"]:
            raise RequestError(f"{manifest.name} lists {image['path']} with two roles. Expected one role a picture: use the file as split wrote it.")
    for group in groups.values():
        roles, key = {image["role"] for image in group}, min(image["sha256"] for image in group)
        tossed = "member" if coin(manifest.seed, key) else "nonmember"
        if len(roles) > 1 or (coins == BY_HASH and roles & {"member", "nonmember"} and roles != {tossed}):
            raise RequestError(f"{manifest.name} does not give {group[0]['path']} the role that its seed draws. Use the file as split wrote it.")


def provenance_of(request, queries):
    """How the split of an audit came about.

    A manifest is matched by content, never by file name: every audited image must be in it, under its own label. Files that the audit left out (equal
    pictures, damaged files) do not count as missing; when less than 95 % of what the coins put on one side was given, the audit sees a selected part, and
    the manifest vouches for nothing. Nor does it where its coins cannot be tossed again.

    Args:
        request: audit.request.Request; manifest and randomised_split are read.
        queries: content of queries.json; images with source_sha256 and is_member, left_out and duplicates.
    Returns: {"kind": "manifest" | "stated-random" | "stated", "reason": why it is not "manifest" although one was given, or null}, and with a manifest
        "manifest" (its name), "manifest_sha256" (of its images list), "seed", "rule", "members_listed", "nonmembers_listed" (drawn files of each side),
        "covered": {"members": {"audited", "left_out", "of"}, "nonmembers": …} (distinct pictures), "coins" (clusters among the audited images: near
        duplicates share a coin, so a bound that counts coins must count these), "clusters" (list of int in the order of queries["images"]: the cluster of
        the manifest that each stands in, the same where one coin decided both).
    Raises: RequestError: the manifest cannot be used; ImageSetError: an audited image is not in it, or has another role there.
    """
    if request.manifest is None:
        return {"kind": "stated-random" if request.randomised_split else "stated", "reason": None}
    manifest = read_manifest(request.manifest)
    audited, clusters = {"member": set(), "nonmember": set()}, []
    for image in queries["images"]:
        role = "member" if image["is_member"] else "nonmember"
        entry = _matched(manifest, image, role)
        audited[role].add(entry["sha256"])
        clusters.append(entry["cluster"])
    covered = {side: _coverage(manifest, role, audited[role], queries) for role, side in SIDES.items()}
    short = [(side, c) for side, c in covered.items() if c["audited"] < LEAST_COVERED * (c["of"] - c["left_out"])]
    reason = None if manifest.drawn else f"the coins of {manifest.name} cannot be tossed again, so nothing shows that they decided"
    if short:
        side, c = short[0]
        reason = f"{manifest.name} covers {c['audited']:,} of {c['of']:,} {SIDE_WORDS[side]}: a selected part is not the random split"
    listed = Counter(image["role"] for image in manifest.images)
    return {
        "kind": "stated" if reason else "manifest", "reason": reason, "manifest": manifest.name, "manifest_sha256": manifest.sha256, "seed": manifest.seed,
        "rule": manifest.rule, "members_listed": listed["member"], "nonmembers_listed": listed["nonmember"], "covered": covered,
        "coins": len(set(clusters)), "clusters": clusters,
    }  # fmt: skip


def _matched(manifest, image, role):
    """The entry of an audited image. Raises ImageSetError: there is none, or under another role."""
    entry, side = manifest.by_content.get(image["source_sha256"]), SIDE_WORDS[SIDES[role]]
    if entry is None:
        what = f"{image['path']} ({side}) is not in {manifest.name}"
        raise ImageSetError(f"{what}. Expected only files of that split, unchanged: audit the images that it drew, or leave --manifest out.")
    if entry["role"] != role:
        what = f"{image['path']} is among the {side}, and {manifest.name} lists it as {WORDS[entry['role']]}"
        raise ImageSetError(f"{what}. Check which folder is which, and audit only images that a coin decided.")
    return entry


def _coverage(manifest, role, audited, queries):
    """{"audited", "left_out", "of"}: distinct pictures of one side that were audited, that the audit left out itself, and that the coins drew."""
    drawn = {key: image["path"] for key, image in manifest.by_content.items() if image["role"] == role}
    side = SIDES[role]
    left = {entry["path"] for entry in queries.get("left_out", ()) if entry.get("set") == side}
    for pair in (queries.get("duplicates") or {}).get("pairs", ()):
        if pair.get("set") in (side, "both"):
            left |= set(pair.get("left_out", ()))
    ends = {path.rsplit("/", 1)[-1] for path in left}
    candidates = (path for key, path in drawn.items() if key not in audited and path.rsplit("/", 1)[-1] in ends)
    out = sum(any(path == name or path.endswith("/" + name) or name.endswith("/" + path) for name in left) for path in candidates)
    return {"audited": len(audited), "left_out": out, "of": len(drawn)}

"""The reference set of nearest_calibrated: pictures known not to be members, or samples of a model that was not trained on them, read and searched like a pool."""

import hashlib
from pathlib import Path

from audit.attacks import choose
from audit.errors import PoolError, RequestError
from audit.jobs import tasks_pool
from audit.jobs.shards import QUERIES_AT_ONCE, ShardFolder, cut, shard_key
from audit.pool.store import PoolFolder, pool_key

ATTACK, SETTING = "nearest_calibrated", "reference"
WHAT = f"{ATTACK}: {SETTING}"


def path_of(request):
    """Path of the reference set of a Request, or None. Raises RequestError: it cannot be one beside what else was asked."""
    path = request.settings.get(ATTACK, {}).get(SETTING) if ATTACK in choose(request.attacks) else None
    if path is None:
        return None
    if not Path(path).is_absolute():
        raise RequestError(f"{WHAT} is {path[:60]!r}. Expected the absolute path of a folder, .zip or .npz of images.")
    if request.reference is not None:
        raise RequestError(f"{WHAT} and --reference calibrate twice. Expected one of them: leave the other out.")
    return Path(path)


class ReferenceSet:
    """Of one audit. Args: pools: audit.jobs.pools.Pools. Attributes: pool: audit.pool.Pool, or None where none was asked for; specs: of the tables; seconds."""

    def __init__(self, pools):
        self.pools, self.pool, self.specs, self.seconds = pools, None, {}, 0.0
        self.path = path_of(pools.request)

    def read(self, image_shape):
        """Read it, without the query images. Args: image_shape: (C,H,W) of the pool."""
        if self.path is None:
            return
        from audit.jobs.inputs import fingerprint

        audit = self.pools.audit
        if not self.path.exists():
            raise PoolError(f"{WHAT}: {self.path.name} was not found. Expected a folder, .zip or .npz of images: check the path.")
        key = pool_key(kind="given", path=hashlib.sha256(str(self.path).encode()).hexdigest(), files=fingerprint(self.path), shape=list(image_shape), what=SETTING)
        audit.ticket.phase("Reading the reference set")
        found = self.pools.read_folder(self.path, image_shape, PoolFolder(audit.config.home / "pools", key), WHAT)
        self.pool = self.pools.without_queries(found, WHAT, "reference images")

    def search(self):
        """Measure every query image against it. Returns [(source, ShardFolder, shards)] for audit.tables.write_tables, and fills `specs`."""
        from audit.pool.nearest import REFERENCES, Nearest
        from audit.sources import TARGET

        if self.pool is None:
            return []
        audit, pool = self.pools.audit, self.pool
        audit.ticket.phase("Comparing with the reference set")
        ids = hashlib.sha256("\n".join(image["image_id"] for image in audit.queries["images"]).encode()).hexdigest()
        key = {"reference_set": pool.info["sha256"], "left_out": pool.left_out.tolist(), "images": ids, "version": Nearest.VERSION}
        key |= {"torch": audit.opened.torch_version, "device": audit.opened.device_type}
        at, shards = ShardFolder(audit.folder, shard_key(key)), cut(audit.count, QUERIES_AT_ONCE)

        def start(shard, flag):
            label = f"Reference {shard.index + 1} of {len(shards)} (images {shard.first + 1} to {shard.stop})"
            more = (str(audit.images), shard.first, shard.stop, str(pool.folder), pool.left_out, flag)
            return audit.engine.submit(label, tasks_pool.search_references, audit.place, *more, device=True)

        self.seconds += self.pools.fly(at, shards, start)
        self.specs = {TARGET + table: ("feature", None) for table in REFERENCES}
        return [(TARGET, at, shards), *self.pools.features.search_references(pool, ids)]

    def facts(self):
        """What measurement.json says of it; None without one."""
        if self.pool is None:
            return None
        return {"images": len(self.pool.kept), "sha256": self.pool.info["sha256"], "resized": self.pool.info["resized"], "query_images": len(self.pool.left_out)}

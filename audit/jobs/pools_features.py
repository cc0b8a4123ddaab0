"""The space of features in an audit: pictures through the backbone and the search among them, in shards on the device workers; asked for by a card's settings."""

import hashlib
import os

import numpy as np

from audit.attacks import ATTACKS, choose
from audit.backbones import backbone_of
from audit.jobs import tasks_features
from audit.jobs.shards import QUERIES_AT_ONCE, ShardFolder, cut, shard_key
from audit.sources import TARGET

REFERENCES = "references_features"
PICTURES_AT_ONCE = 256  # pictures of one shard through the backbone


class Features:
    """The features of one audit's query images and samples.

    Args: audit: audit.jobs.steps.Audit; fly: audit.jobs.pools.Pools.fly.
    Attributes: backbone: audit.backbones.Backbone, or None where no attack that runs names one; facts: what was opened, or None; specs: of the tables;
        seconds: on the device.
    """

    def __init__(self, audit, fly):
        names = [name for name in choose(audit.request.attacks) if "nearest" in ATTACKS[name].card.probes]
        self.audit, self.fly, self.facts, self.specs, self.seconds, self._queries = audit, fly, None, {}, 0.0, None
        self.backbone = backbone_of({name: values for name, values in audit.request.settings.items() if name in names})

    def open(self):
        """Open the backbone before anything is drawn for it. Raises what its task raises."""
        if self.backbone is not None:
            self.facts = self.audit._task("backbone", tasks_features.backbone_facts, self.audit.place, self.backbone)
            self.audit.ticket.log.write(f"backbone: {self.facts['model']}, {self.facts['numbers']} numbers a picture, sha256 {self.facts['sha256']}")

    def search(self, source, pool, clusters):
        """Measure every query image against a pool. Returns (source, ShardFolder, shards) for audit.tables.write_tables, or None without a backbone."""
        from audit.pool.features import TABLES

        if self.backbone is None:
            return None
        audit, version = self.audit, self._version()
        ids = hashlib.sha256("\n".join(image["image_id"] for image in audit.queries["images"]).encode()).hexdigest()
        if self._queries is None:
            audit.ticket.phase("Features of the images")
            self._queries = self._made({"images": ids, **version}, str(audit.images), audit.count, ("features", "mirrored"))
        audit.ticket.phase("Features of the samples")
        samples = self._made({"pool": pool.info["sha256"], **version}, str(pool.folder / "images.npy"), len(pool), ("features",))
        audit.ticket.phase("Comparing features with the samples")
        self.specs |= {source + table: ("feature", None) for table in TABLES}
        key = {"pool": pool.info["sha256"], "left_out": pool.left_out.tolist(), "images": ids, "clusters": hashlib.sha256(clusters.tobytes()).hexdigest(), **version}
        at, shards = ShardFolder(audit.folder, shard_key(key)), cut(audit.count, QUERIES_AT_ONCE)

        def start(shard, flag):
            label = f"Features {shard.index + 1} of {len(shards)} (images {shard.first + 1} to {shard.stop})"
            more = (*self._queries, *samples, shard.first, shard.stop, clusters, pool.left_out, flag)
            return audit.engine.submit(label, tasks_features.search_features, audit.place, *more, device=True)

        self.seconds += self.fly(at, shards, start)
        return source, at, shards

    def search_references(self, pool, ids):
        """The same against a reference set. Args: pool: audit.pool.Pool; ids: hash of the query images. Returns [(source, ShardFolder, shards)]."""
        if self.backbone is None:
            return []
        audit, version = self.audit, self._version()
        audit.ticket.phase("Features of the reference set")
        (references,) = self._made({"pool": pool.info["sha256"], **version}, str(pool.folder / "images.npy"), len(pool), ("features",))
        key = {"reference_set": pool.info["sha256"], "left_out": pool.left_out.tolist(), "images": ids, **version}
        at, shards = ShardFolder(audit.folder, shard_key(key)), cut(audit.count, QUERIES_AT_ONCE)

        def start(shard, flag):
            label = f"Reference features {shard.index + 1} of {len(shards)} (images {shard.first + 1} to {shard.stop})"
            more = (self._queries[0], references, shard.first, shard.stop, pool.left_out, flag)
            return audit.engine.submit(label, tasks_features.search_references, audit.place, *more, device=True)

        self.seconds += self.fly(at, shards, start)
        self.specs |= {REFERENCES: ("feature", None)}
        return [(TARGET, at, shards)]

    def _version(self):
        """What can change a feature beside the pictures."""
        from audit.pool.features import VERSION

        named = {"backbone": self.facts["sha256"], "model": self.facts["model"], "timm": self.facts["timm"], "version": VERSION}
        return named | {"torch": self.audit.opened.torch_version, "device": self.audit.opened.device_type}

    def _made(self, key, images, count, names):
        """Paths of one float32 (count,D) .npy for each name: features of the pictures of a .npy, made shard by shard."""
        audit, at, shards = self.audit, ShardFolder(self.audit.folder, shard_key(key)), cut(count, PICTURES_AT_ONCE)

        def start(shard, flag):
            label = f"Backbone {shard.index + 1} of {len(shards)} (pictures {shard.first + 1} to {shard.stop})"
            more = (self.backbone, self.facts["sha256"], images, shard.first, shard.stop, "mirrored" in names, flag)
            return audit.engine.submit(label, tasks_features.embed, audit.place, *more, device=True)

        self.seconds += self.fly(at, shards, start)
        paths = [at.folder / f"{name}.npy" for name in names]
        if not all(path.exists() for path in paths):
            wide = [np.lib.format.open_memmap(path.with_suffix(".tmp"), "w+", np.float32, (count, self.facts["numbers"])) for path in paths]
            for first, tables in at.blocks(shards):
                for name, values in zip(names, wide, strict=True):
                    values[first : first + tables[name].shape[1]] = tables[name][0]
            for path, values in zip(paths, wide, strict=True):
                values.flush()
                os.replace(path.with_suffix(".tmp"), path)
        return [str(path) for path in paths]

"""The space of features in an audit: pictures through the backbone and the search among them, in shards on the device workers; asked for by a card's settings."""

import hashlib
import os

import numpy as np

from audit.attacks import ATTACKS, choose
from audit.backbones import backbone_of
from audit.jobs import tasks_features
from audit.jobs.shards import ShardFolder, cut, shard_key

PICTURES_AT_ONCE, QUERIES_AT_ONCE = 256, 2048  # pictures of one shard through the backbone; query images of one shard of the search


class Features:
    """The features of one audit's query images and samples.

    Args: audit: audit.jobs.steps.Audit.
    Attributes: backbone: audit.backbones.Backbone, or None where no attack that runs names one; facts: what was opened, or None; specs: of the tables;
        seconds: on the device.
    """

    def __init__(self, audit):
        names = [name for name in choose(audit.request.attacks) if "nearest" in ATTACKS[name].card.probes]
        self.audit, self.facts, self.specs, self.seconds, self._queries = audit, None, {}, 0.0, None
        self.backbone = backbone_of({name: values for name, values in audit.request.settings.items() if name in names})

    def open(self):
        """Open the backbone before anything is drawn for it. Raises what its task raises."""
        if self.backbone is not None:
            self.facts = self.audit._task("backbone", tasks_features.backbone_facts, self.audit.place, self.backbone)
            self.audit.ticket.log.write(f"backbone: {self.facts['model']}, {self.facts['numbers']} numbers a picture, sha256 {self.facts['sha256']}")

    def search(self, source, pool, clusters):
        """Measure every query image against a pool. Returns (source, ShardFolder, shards) for audit.tables.write_tables, or None without a backbone."""
        from audit.pool.features import TABLES, VERSION

        if self.backbone is None:
            return None
        audit, version = self.audit, {"backbone": self.facts["sha256"], "model": self.facts["model"], "timm": self.facts["timm"], "version": VERSION}
        version |= {"torch": audit.opened.torch_version, "device": audit.opened.device_type}
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

        self._fly(at, shards, start)
        return source, at, shards

    def _made(self, key, images, count, names):
        """Paths of one float32 (count,D) .npy for each name: features of the pictures of a .npy, made shard by shard."""
        audit, at, shards = self.audit, ShardFolder(self.audit.folder, shard_key(key)), cut(count, PICTURES_AT_ONCE)

        def start(shard, flag):
            label = f"Backbone {shard.index + 1} of {len(shards)} (pictures {shard.first + 1} to {shard.stop})"
            more = (self.backbone, self.facts["sha256"], images, shard.first, shard.stop, "mirrored" in names, flag)
            return audit.engine.submit(label, tasks_features.embed, audit.place, *more, device=True)

        self._fly(at, shards, start)
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

    def _fly(self, at, shards, start):
        """Run the shards that are not stored yet. Args: at: ShardFolder; start: as audit.jobs.steps.Audit.fly takes it."""
        kept = {shard.index: seconds for shard in shards if (seconds := at.seconds_if_intact(shard)) is not None}
        self.seconds += sum(kept.values())

        def keep(shard, value):
            at.write(shard, *value)
            self.seconds += value[1]

        self.audit.fly([shard for shard in shards if shard.index not in kept], start, keep)

"""The part of an audit that attackers without a model play: drawing or reading sample pools, and searching them. Shards on the same device workers, resumable."""

import hashlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from audit.attacks import ATTACKS, choose
from audit.errors import HomeError, PoolError
from audit.jobs import tasks_pool
from audit.jobs.inputs import fingerprint
from audit.jobs.shards import ShardFolder, cut, shard_key
from audit.pool import open_pool
from audit.pool.evidence import write_samples
from audit.pool.given import query_images, read_given
from audit.pool.measures import MEASURES
from audit.pool.store import PoolFolder, pool_key, samples_at_once
from audit.request import LEAST_POOL
from audit.sources import REFERENCE, TARGET

QUERIES_AT_ONCE = 2048  # query images in one shard of the search: the pool is read once for each
LEAK = "counting them would show the attacker the answer, a leak of the test itself"


class Pools:
    """The pools of one audit.

    Args: audit: audit.jobs.steps.Audit.
    Attributes: of: {source: audit.pool.Pool}, empty without --pool; calls: network calls that drew them; warnings: sentences for the report; specs: of the tables.
    """

    def __init__(self, audit):
        self.audit, self.request = audit, audit.request
        self.of, self.calls, self.warnings, self.specs, self.search_seconds, self._searched = {}, 0, [], {}, 0.0, []

    def __getitem__(self, source):
        return self.of[source]

    # ------------------------------------------------------------------ making

    def make(self):
        """Read or draw the pool of the target, and draw one of as many samples from a reference."""
        if self.request.pool is None:
            return
        channels, *size = self.audit.opened.info["image_shape"]
        if self.request.draws_pool:
            self._draw(TARGET, self.request.pool)
        else:
            self.of[TARGET] = self._without_queries(self.read_given((channels, *size)))
        if self.request.reference is not None:
            self._draw(REFERENCE, len(self.of[TARGET].kept))
        if self.request.api:
            self.warnings.append("--api changes what a query shows, not the samples of the pool: those are what the model finishes.")

    def read_given(self, image_shape):
        """The Pool of the user's own images, without a look at the query images yet. Args: image_shape: (C,H,W), or None where no checkpoint says."""
        if TARGET in self.of:
            return self.of[TARGET]
        path = Path(self.request.pool)
        key = pool_key(kind="given", path=hashlib.sha256(str(path).encode()).hexdigest(), files=fingerprint(path), shape=image_shape and list(image_shape))
        target = PoolFolder(self.audit.config.home / "pools", key)
        pool = target.finished()
        if pool is None:
            self.audit.ticket.phase("Reading the samples")
            pool = read_given(path, image_shape, target, self.audit.ticket.check)
        self.of[TARGET] = pool
        self.audit.ticket.log.write(f"{len(pool)} samples given, {len(pool.info['left_out'])} left out, {pool.info['resized']} resized")
        return pool

    def _without_queries(self, pool):
        ids = {image["image_id"] for image in self.audit.queries["images"]}
        found = query_images(pool, ids)
        if pool.info["resized"]:
            size = f"{pool.info['shape'][1]} x {pool.info['shape'][0]}"
            self.warnings.append(f"{pool.info['resized']:,} of {len(pool):,} samples had another size and were brought to {size} once: finer detail of theirs is not compared.")
        if not len(found):
            return pool
        first, many = pool.info["paths"][found[0]], f"{len(found):,} sample{'s are' if len(found) > 1 else ' is'}"
        if len(pool) - len(found) < LEAST_POOL:
            raise PoolError(f"--pool: {many} query images (first: {first}), which leaves {len(pool) - len(found)}. Expected at least {LEAST_POOL} images that the model generated.")
        self.warnings.append(f"{many} also among the query images (first: {first}) and left out of the pool: {LEAK}.")
        return open_pool(pool.folder, found)

    def _draw(self, source, count):
        """Draw a pool, unless one with these bytes is there."""
        audit, (sampler, steps) = self.audit, self.request.sampler
        read, classes, each = audit._task("sampler", tasks_pool.pool_facts, audit.place, source, sampler, steps or 0)
        shape = audit.opened.info["image_shape"]
        key = pool_key(
            kind="drawn", checkpoint=read, overrides=sorted(self.request.overrides.items()), sampler=sampler, steps=steps, seed=self.request.seed, count=count, shape=shape,
            classes=classes, torch=audit.opened.torch_version, device=audit.opened.device_type,
        )  # fmt: skip
        self.calls += count * each
        target, total = PoolFolder(audit.config.home / "pools", key), audit.facts.calls(audit.count) + self.calls
        audit.ticket.update(total_calls=total)
        pool = target.finished()
        if pool is None:
            self._check_disk(count * int(np.prod(shape)))
            audit.ticket.phase("Drawing samples" + (" from the reference" if source else ""))
            pool = self._draw_shards(target, source, count, (*shape[1:], shape[0]), each, classes)
        else:
            audit.ticket.log.write(f"{count} samples were drawn before")
        self.of[source] = pool
        audit.ticket.update(done_calls=self.calls, done_images=0, total_images=audit.count, done_shards=0, total_shards=0)

    def _check_disk(self, size):
        free = shutil.disk_usage(self.audit.config.home).free
        if free < 2 * size:  # the shards, and the array that is made of them
            raise HomeError(f"Disk: {free / 1e9:.1f} GB free, the samples take {size / 1e9:.1f} GB and twice that while they are drawn. Free space, or ask for fewer: --pool N.")

    def _draw_shards(self, target, source, count, shape, each, classes):
        audit, (sampler, steps) = self.audit, self.request.sampler
        plan = target.plan(at_once=samples_at_once((shape[2], *shape[:2]), audit.opened.device_type), threads=audit.engine.threads)
        place = replace(audit.place, threads=plan["threads"])
        shards = cut(count, plan["at_once"])
        seconds = {s.index: kept for s in shards if (kept := target.seconds_if_intact(s, shape)) is not None}
        before, begun, kept_before = self.calls - count * each, time.monotonic(), sum(shards[i].images for i in seconds)

        def tell():
            done = sum(shards[i].images for i in seconds)
            rate = (done - kept_before) / max(1e-6, time.monotonic() - begun)
            audit.ticket.update(
                done_images=done, total_images=count, done_shards=len(seconds), total_shards=len(shards), done_calls=before + done * each, images_per_s=round(rate, 3)
            )

        def start(shard, flag):
            label = f"Samples {shard.first + 1} to {shard.stop} of {count}"
            return audit.engine.submit(label, tasks_pool.draw_samples, place, source, shard.first, shard.stop, sampler, steps or 0, self.request.seed, flag, device=True)

        def keep(shard, value):
            images, took = value
            target.write(shard, images, took)
            seconds[shard.index] = took
            tell()

        tell()
        audit.fly([s for s in shards if s.index not in seconds], start, keep)
        return target.finish(
            count, shape, (target.read(shard) for shard in shards), None if classes is None else np.arange(count) % classes, kind="drawn", sampler=sampler,
            steps=steps or each, seed=self.request.seed, seconds=sum(seconds.values()), checkpoint=audit.opened.info["sha256"] if not source else None, classes=classes,
            resized=0, left_out=[], paths=None, device=audit.opened.device_type,
        )  # fmt: skip

    # ------------------------------------------------------------------ searching

    def search(self):
        """Measure every query image against every pool, shard by shard."""
        names = tuple(m for m in MEASURES if any(m in ATTACKS[name].card.probes for name in choose(self.request.attacks)))
        if not self.of or not names:
            return
        audit = self.audit
        audit.ticket.phase("Comparing with the samples")
        clusters = np.array([image["cluster"] for image in audit.queries["images"]])
        ids = hashlib.sha256("\n".join(image["image_id"] for image in audit.queries["images"]).encode()).hexdigest()
        for source, pool in self.of.items():
            self.specs |= {source + table: ("feature", None) for name in names for table in MEASURES[name].TABLES}
            key = shard_key(
                {
                    "pool": pool.info["sha256"], "left_out": pool.left_out.tolist(), "images": ids, "clusters": hashlib.sha256(clusters.tobytes()).hexdigest(),
                    "versions": {name: MEASURES[name].VERSION for name in names}, "torch": audit.opened.torch_version, "device": audit.opened.device_type,
                }
            )  # fmt: skip
            self._search(source, pool, names, clusters, ShardFolder(audit.folder, key))

    def _search(self, source, pool, names, clusters, at):
        audit, shards = self.audit, cut(self.audit.count, QUERIES_AT_ONCE)
        todo = []
        for shard in shards:
            seconds = at.seconds_if_intact(shard)
            if seconds is None:
                todo.append(shard)
            else:
                self.search_seconds += seconds

        def start(shard, flag):
            label = f"Search {shard.index + 1} of {len(shards)} (images {shard.first + 1} to {shard.stop})"
            more = (str(audit.images), shard.first, shard.stop, clusters, str(pool.folder), pool.left_out, flag)
            return audit.engine.submit(label, tasks_pool.search_pool, audit.place, names, *more, device=True)

        def keep(shard, value):
            tables, took = value
            at.write(shard, tables, took)
            self.search_seconds += took

        audit.fly(todo, start, keep)
        self._searched.append((source, at, shards))

    def blocks(self):
        """(first, {table: float32 (1,n,K)}) of everything that was searched, for audit.tables.write_tables."""
        for source, at, shards in self._searched:
            for first, tables in at.blocks(shards):
                yield first, {source + name: values for name, values in tables.items()}

    # ------------------------------------------------------------------ afterwards

    def facts(self):
        """What measurement.json says of the pool; None without one."""
        if not self.of:
            return None
        pool = self.of[TARGET]
        kept = {name: pool.info[name] for name in ("sha256", "kind", "sampler", "steps", "seed", "seconds", "classes", "resized")}
        return {"images": len(pool.kept), **kept, "query_images": len(pool.left_out), "left_out": pool.info["left_out"], "model_calls": self.calls}

    def write_evidence(self):
        """The pictures and pairs of page Samples, into the run folder."""
        if self.of:
            write_samples(self.audit.folder, self.of[TARGET])

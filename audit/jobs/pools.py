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
from audit.jobs.pools_features import Features
from audit.jobs.pools_reference import ReferenceSet
from audit.jobs.shards import QUERIES_AT_ONCE, ShardFolder, cut, shard_key
from audit.pool import open_pool, prompts
from audit.pool.evidence import write_samples
from audit.pool.given import query_images, read_given
from audit.pool.measures import MEASURES
from audit.pool.store import PoolFolder, pool_key, samples_at_once
from audit.request import LEAST_POOL
from audit.sources import REFERENCE, TARGET

LEAK = "counting them would show the attacker the answer, a leak of the test itself"


class Pools:
    """The pools of one audit.

    Args: audit: audit.jobs.steps.Audit.
    Attributes: of: {source: audit.pool.Pool}, empty without --pool; calls: network calls that drew them; warnings: sentences for the report; specs: of the tables.
    """

    def __init__(self, audit):
        self.audit, self.request = audit, audit.request
        self.of, self.calls, self.warnings, self.specs, self.search_seconds, self._searched = {}, 0, [], {}, 0.0, []
        self.features, self.reference_set = Features(audit, self.fly), ReferenceSet(self)

    def __getitem__(self, source):
        return self.of[source]

    # ------------------------------------------------------------------ making

    def make(self):
        """Read or draw the pool of the target, and draw one of as many samples from a reference."""
        if self.request.pool is None:
            return
        self.features.open()
        channels, *size = self.audit.opened.info["image_shape"]
        self.reference_set.read((channels, *size))
        if self.request.draws_pool:
            self._draw(TARGET, self.request.pool)
            self._warn_of_captions(self.request.pool)
        else:
            self.of[TARGET] = self.without_queries(self.read_given((channels, *size)))
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
        self.audit.ticket.phase("Reading the samples")
        pool = self.of[TARGET] = self.read_folder(path, image_shape, target)
        self.audit.ticket.log.write(f"{len(pool)} samples given, {len(pool.info['left_out'])} left out, {pool.info['resized']} resized")
        return pool

    def read_folder(self, path, image_shape, target, what="--pool"):
        """The Pool of pictures that somebody gives, read once. Args: target: PoolFolder; what: names the folder in an error."""
        return target.finished() or read_given(path, image_shape, target, self.audit.ticket.check, what)

    def without_queries(self, pool, what="--pool", named="samples"):
        """The Pool without the pictures that are query images, which the report names. Args: what, named: in an error, in a warning."""
        ids = {image["image_id"] for image in self.audit.queries["images"]}
        found = query_images(pool, ids)
        if pool.info["resized"]:
            size = f"{pool.info['shape'][1]} x {pool.info['shape'][0]}"
            self.warnings.append(f"{pool.info['resized']:,} of {len(pool):,} {named} had another size and were brought to {size} once: finer detail of theirs is not compared.")
        if not len(found):
            return pool
        first, many = pool.info["paths"][found[0]], f"{len(found):,} {named} are" if len(found) > 1 else f"1 {named.removesuffix('s')} is"
        if len(pool) - len(found) < LEAST_POOL:
            raise PoolError(f"{what}: {many} query images (first: {first}), which leaves {len(pool) - len(found)}. Expected at least {LEAST_POOL} that are none.")
        place = "pool" if what == "--pool" else "reference set"
        self.warnings.append(f"{many} also among the query images (first: {first}) and left out of the {place}: {LEAK}.")
        return open_pool(pool.folder, found)

    def _draw(self, source, count):
        """Draw a pool, unless one with these bytes is there."""
        audit, (sampler, steps) = self.audit, self.request.sampler
        read, classes, each = audit._task("sampler", tasks_pool.pool_facts, audit.place, source, sampler, steps or 0)
        shape, captions = audit.opened.info["image_shape"], self._captions()
        asked = {"captions": prompts.digest(captions, count)} if captions else {}  # pools that are asked for none keep their key
        key = pool_key(
            kind="drawn", checkpoint=read, overrides=sorted(self.request.overrides.items()), sampler=sampler, steps=steps, seed=self.request.seed, count=count, shape=shape,
            classes=classes, torch=audit.opened.torch_version, device=audit.opened.device_type, **asked,
        )  # fmt: skip
        self.calls += count * each
        target, total = PoolFolder(audit.config.home / "pools", key), audit.facts.calls(audit.count) + self.calls
        audit.ticket.update(total_calls=total)
        pool = target.finished()
        if pool is None:
            self._check_disk(count * int(np.prod(shape)))
            audit.ticket.phase("Drawing samples" + (" from the reference" if source else ""))
            pool = self._draw_shards(target, source, count, (*shape[1:], shape[0]), each, captions or (classes and range(classes)))
        else:
            audit.ticket.log.write(f"{count} samples were drawn before")
        self.of[source] = pool
        audit.ticket.update(done_calls=self.calls, done_images=0, total_images=audit.count, done_shards=0, total_shards=0)

    def _captions(self):
        """Of the query images, in turn; None where the model is asked with none, or with the empty prompt."""
        audit = self.audit
        if audit.asked_with.kind != "captions":
            return None
        sides = {side: [said for image, said in zip(audit.queries["images"], audit.said, strict=True) if image["is_member"] is side] for side in (True, False)}
        return prompts.captions_in_turn(sides[True], sides[False], self.request.seed)

    def _warn_of_captions(self, count):
        captions = self._captions()
        if captions and count < len(captions):
            few = f"{count:,} samples were drawn for {len(captions):,} captions, as large a share of either set's"
            self.warnings.append(f"{few}: most images have no sample of their own caption. Draw {len(captions):,} or more.")

    def _check_disk(self, size):
        free = shutil.disk_usage(self.audit.config.home).free
        if free < 2 * size:  # the shards, and the array that is made of them
            raise HomeError(f"Disk: {free / 1e9:.1f} GB free, the samples take {size / 1e9:.1f} GB and twice that while they are drawn. Free space, or ask for fewer: --pool N.")

    def _draw_shards(self, target, source, count, shape, each, values):
        """Args: values: classes or captions that the samples are asked for in turn, or None."""
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
            told = prompts.told_of(values, shard.first, shard.stop)
            return audit.engine.submit(label, tasks_pool.draw_samples, place, source, shard.first, shard.stop, sampler, steps or 0, self.request.seed, told, flag, device=True)

        def keep(shard, value):
            images, took = value
            target.write(shard, images, took)
            seconds[shard.index] = took
            tell()

        tell()
        audit.fly([s for s in shards if s.index not in seconds], start, keep)
        classes, captions = (len(values) if isinstance(values, kind) else None for kind in (range, tuple))
        if captions is None and audit.opened.captions:
            captions = 0
        return target.finish(
            count, shape, (target.read(shard) for shard in shards), None if classes is None else np.arange(count) % classes, kind="drawn", sampler=sampler,
            steps=steps or each, seed=self.request.seed, seconds=sum(seconds.values()), checkpoint=audit.opened.info["sha256"] if not source else None, classes=classes,
            captions=captions and min(count, captions), resized=0, left_out=[], paths=None, device=audit.opened.device_type,
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
            if found := self.features.search(source, pool, clusters):
                self._searched.append(found)
        if "nearest" in names:
            self._searched += self.reference_set.search()
        self.specs |= self.features.specs | self.reference_set.specs
        self.search_seconds += self.features.seconds + self.reference_set.seconds

    def _search(self, source, pool, names, clusters, at):
        audit, shards = self.audit, cut(self.audit.count, QUERIES_AT_ONCE)

        def start(shard, flag):
            label = f"Search {shard.index + 1} of {len(shards)} (images {shard.first + 1} to {shard.stop})"
            more = (str(audit.images), shard.first, shard.stop, clusters, str(pool.folder), pool.left_out, flag)
            return audit.engine.submit(label, tasks_pool.search_pool, audit.place, names, *more, device=True)

        self.search_seconds += self.fly(at, shards, start)
        self._searched.append((source, at, shards))

    def fly(self, at, shards, start):
        """Run the shards that are not stored yet and store them. Returns device seconds of all.

        Args: at: audit.jobs.shards.ShardFolder; start: as audit.jobs.steps.Audit.fly takes it, its task returns ({table: float32 (1,n,K)}, seconds).
        """
        seconds = {shard.index: kept for shard in shards if (kept := at.seconds_if_intact(shard)) is not None}

        def keep(shard, value):
            at.write(shard, *value)
            seconds[shard.index] = value[1]

        self.audit.fly([shard for shard in shards if shard.index not in seconds], start, keep)
        return sum(seconds.values())

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
        kept = {name: pool.info.get(name) for name in ("sha256", "kind", "sampler", "steps", "seed", "seconds", "classes", "captions", "resized")}
        beside = {"backbone": self.features.facts, "reference_set": self.reference_set.facts()}
        return {"images": len(pool.kept), **kept, "query_images": len(pool.left_out), "left_out": pool.info["left_out"], "model_calls": self.calls, **beside}

    def write_evidence(self):
        """The pictures and pairs of page Samples, into the run folder."""
        if self.of:
            write_samples(self.audit.folder, self.of[TARGET])

"""One audit, from a claimed request to a finished report: every step of it, in order, each of which can be stopped and gone on with.

The driver's process holds no network: the checkpoint is opened, tested and measured on the device workers, images and numbers are handled here.
"""

import dataclasses
import hashlib
import json
import platform
import secrets
import shutil
import time
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import numpy as np

from audit import __version__
from audit.api import Api
from audit.conditions import condition_of
from audit.errors import HomeError
from audit.files import write_json
from audit.jobs import surrogate, tasks, tasks_pool
from audit.jobs.cluster import EngineLost, TaskKilled
from audit.jobs.facts import joined
from audit.jobs.inputs import checkpoint_place, fingerprints, kept_in, require_unchanged
from audit.jobs.pools import Pools
from audit.jobs.shards import ShardFolder, cut, disk_bytes, images_per_shard, read_as, remove_shards, shard_key
from audit.presets import PRESETS
from audit.provenance import provenance_of
from audit.report.words import verdict_words
from audit.request import Request
from audit.sources import SURROGATE, TARGET

POLL_S = 0.25
REFERENCE_FIELDS = ("sha256", "format", "architecture", "parameters")  # of the reference, in report.json


class TaskFailed(Exception):
    """A task ended with an error: `sentence` for people ("" for an internal one), `kind` the exception's type, `trace` for the log."""

    def __init__(self, outcome):
        self.sentence = outcome.error if outcome.kind == "user" else ""
        self.kind, self.trace = outcome.error, outcome.trace
        super().__init__(self.sentence or self.kind)


def run_task(engines, engine, ticket, label, function, *args, device=True):
    """Run one task and wait for its value, watching the ticket.

    Raises: TaskFailed; EngineLost; TaskKilled; the ticket's reasons to stop, after the task has ended or been killed.
    """
    handle = engine.submit(label, function, *args, device=device)
    while not engine.wait([handle], POLL_S):
        if ticket.overdue:
            engines.kill()
            ticket.check()
    ticket.check()
    return value_of(engine.result(handle))


def value_of(outcome):
    """The value of an Outcome. Raises TaskFailed."""
    if outcome.kind:
        raise TaskFailed(outcome)
    return outcome.value


def wish_of(request):
    """What a Request asks of the measurement, as audit.jobs.facts.facts_of takes it."""
    return {
        "grid_size": request.grid_size, "draws": request.noise_draws, "seed": request.seed, "batch_size": request.batch_size,
        "precision": request.precision, "attacks": tuple(request.attacks), "budget": request.attack_budget, "settings": request.settings, "api": request.api,
        "captions": request.captions is not None,
        "also": ("untrained",) if PRESETS[request.preset].untrained else (),
    }  # fmt: skip


class Audit:
    """The steps of one audit; `run` returns the result for the job's row."""

    def __init__(self, config, engines, ticket):
        self.config, self.engines, self.ticket = config, engines, ticket
        self.folder = Path(ticket.job.folder)
        self.request = Request.from_json(ticket.job.request)

    def run(self):
        """All steps. Returns {"level", "headline", "auc", "members", "nonmembers", "seconds", "sha256"}."""
        ticket = self.ticket
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.folder / "request.json").exists():
            write_json(self.folder / "request.json", self.request.to_json())
        ticket.log.write(f"afterimage {__version__}, job {ticket.job.id}, attempt {ticket.job.attempts}")
        if self._finished_before():
            return self._result()
        ticket.phase("Starting the device")
        before = fingerprints(self.request)
        self.engine = self.engines.get(self.request.device)
        self.pools = Pools(self)
        if self.request.checkpoint is None:
            self._open_nothing()
        else:
            ticket.phase("Opening the checkpoint")
            self._open(before)
        ticket.phase("Reading the images")
        self.asked_with = condition_of(self.request, self.opened.classes, self.opened.captions)
        self._prepare_images(before)
        self.self_test = None
        if self.request.checkpoint is not None:
            ticket.phase("Self-test")
            self.self_test = self._task("self-test", tasks.test_network, self.place, str(self.images), self.count, self._said_at_the_ends())
        self.pools.make()
        self.pools.search()
        self._train_surrogate()
        self._plan_shards()
        self._measure()
        require_unchanged(self.request, before)
        self._finalise()
        return self._result()

    def _task(self, label, function, *args):
        return run_task(self.engines, self.engine, self.ticket, label, function, *args)

    def _finished_before(self):
        """True when only the last UPDATE is missing: the worker died, or a finished folder came from another home."""
        shutil.rmtree(self.folder / "shards.done", ignore_errors=True)
        return (self.folder / "report.json").exists() and (self.folder / "tables" / "index.json").exists() and not (self.folder / "shards").exists()

    # ------------------------------------------------------------------ before measuring

    def _open(self, before):
        path = checkpoint_place(self.request.checkpoint, self.config)
        second = (checkpoint_place(self.request.reference, self.config), before["reference"]) if self.request.reference else (None, None)
        shown = None if self.request.api is None else Api(**self.request.api)
        self.place = tasks.place_of(self.request, path, before["checkpoint"], self.engine.threads, *second, shown, kept_in(self.config))
        self.opened, self.facts = self._task("checkpoint", tasks.open_network, self.place, wish_of(self.request))
        info = self.opened.info
        self.ticket.log.write(f"{info['format']}, {info['architecture']}, {info['parameters']:,} parameters, sha256 {info['sha256']}; {self.opened.device_words}")
        if other := self.facts.reference:
            self.ticket.log.write(f"reference: {other['format']}, {other['architecture']}, {other['parameters']:,} parameters, sha256 {other['sha256']}")

    def _open_nothing(self):
        """Without a checkpoint: the samples say which size is compared."""
        self.place = tasks.Place("", "", self.request.device, self.engine.threads)
        shape = self.pools.read_given(None).info["shape"]
        self.opened, self.facts = self._task("device", tasks_pool.device_facts, self.place, (shape[2], *shape[:2]), wish_of(self.request))
        self.ticket.log.write(f"no checkpoint; {self.opened.device_words}")

    def _prepare_images(self, before):
        """Decode both sets, unless exactly these files were decoded for this folder before."""
        from audit import images

        self.images, mark = self.folder / "images.npy", self.folder / "shards" / "inputs.json"
        wanted = {name: before[name] for name in ("members", "nonmembers", "labels", "captions") if name in before} | {"shape": list(self.opened.info["image_shape"])}
        if not (_json_or_none(mark) == wanted and self.images.exists() and (self.folder / "queries.json").exists()):
            mark.unlink(missing_ok=True)
            shape = tuple(self.opened.info["image_shape"])
            images.prepare(self.request.members, self.request.nonmembers, shape, self.folder, on_progress=self.ticket.check, asked_with=self.asked_with)
            mark.parent.mkdir(exist_ok=True)
            write_json(mark, wanted)
        self.queries = json.loads((self.folder / "queries.json").read_text(encoding="utf-8"))
        self.count = len(self.queries["images"])
        column = self.asked_with.kind and self.asked_with.kind[:-1]
        self.said = column and tuple(image[column] for image in self.queries["images"])
        self.provenance = provenance_of(self.request, self.queries)
        self.ticket.update(total_images=self.count, total_calls=self.facts.calls(self.count))  # samples add theirs once it is known how many
        self.ticket.log.write(f"{self.queries['members']} members, {self.queries['nonmembers']} non-members, {len(self.queries['left_out'])} left out")

    def _said_at_the_ends(self):
        """Labels or captions of the images that the self-test looks at; a million captions need not travel."""
        half = min(tasks.SELF_TEST_IMAGES, self.count) // 2
        return self.said and self.said[:half] + self.said[-half:]

    def _train_surrogate(self):
        """Where attacks ask a surrogate: train it, and measure it beside the target; their reason where it cannot be used."""
        self.surrogate, self.others, self.failed = None, {}, {}
        names = surrogate.asked(self.request)
        if not names or not self.pools.of:
            return
        self.surrogate, reason = surrogate.prepare(self, self.pools[TARGET])
        if self.surrogate is None:
            self.failed = dict.fromkeys(names, reason)
            return
        self.failed = {surrogate.PREFIX + name: reason for name, reason in self.surrogate.facts.skipped.items()}
        self.place = surrogate.beside(self.place, self.surrogate)
        self.others = {SURROGATE: self.surrogate.facts.plan}
        self.facts = joined(self.facts, self.surrogate.facts, SURROGATE)
        self.ticket.update(total_calls=self.facts.calls(self.count))

    def _key(self):
        ids = hashlib.sha256("\n".join(image["image_id"] for image in self.queries["images"]).encode()).hexdigest()
        settings = {k: v for k, v in self.facts.plan.items() if k != "batch_size"}
        added = {"reference": read_as(self.facts.reference)} if self.facts.reference else {}
        added |= {"api": self.request.api} if self.request.api else {}
        added |= {self.asked_with.kind: hashlib.sha256(json.dumps(self.said).encode()).hexdigest()} if self.said else {}
        if self.surrogate:
            plan = {k: v for k, v in self.surrogate.facts.plan.items() if k != "batch_size"}
            added["surrogate"] = {"sha256": self.surrogate.info["sha256"], "settings": plan}
        return shard_key(
            {
                "checkpoint": read_as(self.opened.info), "images": ids, "preprocessing": self.queries["preprocessing"],
                "settings": settings | {"timesteps": list(settings["timesteps"])}, "versions": self.facts.versions, "overrides": sorted(self.request.overrides.items()),
                "torch": self.opened.torch_version, "device": self.opened.device_type,
            } | added
        )  # fmt: skip

    @property
    def _probes(self):
        """Names of all probes that are run, on the checkpoint or on a surrogate."""
        return tuple(dict.fromkeys(name for plan in (self.facts.plan, *self.others.values()) for name in plan["probes"]))

    def _plan_shards(self):
        """Batch size, cut and threads: those of an earlier attempt under the same key, because each changes last digits; else from a short probe."""
        if not self._probes:  # only samples are attacked
            self.shards_at, self.shards, self.settings = None, [], self.facts.plan
            return
        self.shards_at = ShardFolder(self.folder, self._key())
        kept = self.shards_at.read_plan()
        if kept is None:
            self.ticket.phase("Finding the batch size")
            asked = self.said and self.said[: tasks.SELF_TEST_IMAGES]
            probed = self._task("batch size", tasks.probe_network, self.place, str(self.images), self.count, self.facts.plan, asked, self.others)
            self._check_disk()
            size = self.config.shard_images or images_per_shard(self.config.shard_seconds, probed.seconds_per_call, self.facts.calls_per_image, self.facts.values_per_image)
            kept = {"batch_size": int(probed.batch_size), "shard_images": int(min(size, self.count)), "seconds_per_call": float(probed.seconds_per_call)}
            kept["threads"] = self.engine.threads
            self.shards_at.write_plan(**kept)
        self.place = dataclasses.replace(self.place, threads=kept["threads"])
        self._set_batch_size(kept["batch_size"])
        self.shards = cut(self.count, kept["shard_images"])
        self.ticket.log.write(f"{len(self.shards)} shards of at most {kept['shard_images']} images, batch size {kept['batch_size']}, {kept['seconds_per_call']:.3g} s a call")

    def _set_batch_size(self, size):
        """Of every model that is measured."""
        self.settings = self.facts.plan | {"batch_size": size}
        self.others = {source: plan | {"batch_size": size} for source, plan in self.others.items()}

    def _check_disk(self):
        timesteps, tables = max(1, len(self.facts.plan["timesteps"])), self.facts.full_tables
        needed = disk_bytes(self.count, int(np.prod(self.opened.info["image_shape"])), timesteps, self.facts.plan["draws"], tables)
        free = shutil.disk_usage(self.folder).free
        if free < 2 * needed:
            raise HomeError(f"Disk: {free / 1e9:.1f} GB free, this audit writes {needed / 1e9:.1f} GB and needs twice that while it runs. Free space or set AUDIT_HOME elsewhere.")

    # ------------------------------------------------------------------ measuring

    def _measure(self):
        """Keep every device worker busy: one shard in work and one waiting each, results written as they come."""
        ticket = self.ticket
        self.seconds = {s.index: kept for s in self.shards if (kept := self.shards_at.seconds_if_intact(s)) is not None}
        todo = [s for s in self.shards if s.index not in self.seconds]
        self.kept_seconds = sum(self.seconds.values())
        names = self._probes
        if not names:
            return
        ticket.phase(f"{', '.join(names)} probe{'' if len(names) == 1 else 's'}".capitalize())
        self._begun, self._new_images = time.monotonic(), 0
        self._progress()

        def start(shard, flag):
            label = f"Shard {shard.index + 1} of {len(self.shards)} (images {shard.first + 1} to {shard.stop})"
            told = self.said and self.said[shard.first : shard.stop]
            return self.engine.submit(
                label, tasks.measure, self.place, str(self.images), shard.first, shard.stop, self.settings, flag, told, self.others, device=True
            )  # fmt: skip

        self.fly(todo, start, self._keep)

    def fly(self, todo, start, keep):
        """Run one task per shard on the device workers.

        Args: todo: list of Shard; start(shard, flag): submits its task and returns the Handle; keep(shard, value): called as results come.
        Raises: what the tasks and the ticket raise; EngineLost; TaskKilled.
        """
        ticket = self.ticket
        flag = self.engine.flag(f"{ticket.job.id}-{secrets.token_hex(4)}")
        ticket.add_flag(flag)
        flying = {}
        try:
            suspects = self._run_shards(todo, flying, flag, 2 * self.engine.workers + 1, start, keep)
            # those waiting behind a shard die with it: one by one, the guilty one dies again
            self._run_shards(suspects, flying, flag, 1, start, keep)
        except EngineLost:
            raise  # nobody is left to see the flag
        except Exception:
            flag.set()  # and it stays: shards of this attempt that still run end at it
            self.engine.drop([handle for handle, _ in flying.values()])
            raise
        ticket.remove_flag(flag)
        ticket.check()

    def _run_shards(self, todo, flying, flag, window, start, keep):
        """Run shards, `window` of them on their way at once. Returns those that died with their device worker; alone, such a one raises TaskKilled."""
        todo, killed = list(reversed(todo)), []
        while flying or (todo and not self.ticket.must_stop):
            while todo and len(flying) < window and not self.ticket.must_stop:
                shard = todo.pop()
                handle = start(shard, flag)
                flying[handle.label] = handle, shard
            finished = self.engine.wait([handle for handle, _ in flying.values()], POLL_S)
            for handle in finished:
                _, shard = flying.pop(handle.label)
                try:
                    outcome = self.engine.result(handle)
                except TaskKilled:
                    if window == 1:
                        raise
                    killed.append(shard)
                    continue
                if outcome.kind != "stopped" or not self.ticket.must_stop:
                    keep(shard, value_of(outcome))
            if self.ticket.overdue and flying:
                self.ticket.log.write("the device did not stop in time and was ended")
                self.engines.kill()
                break
        return killed

    def _keep(self, shard, measured):
        tables, seconds, batch_size = measured
        if batch_size < self.settings["batch_size"]:
            self.ticket.log.write(f"the device's memory was too small: batch size {batch_size} from here on")
            self._set_batch_size(batch_size)
        self.shards_at.write(shard, tables, seconds)
        self.seconds[shard.index] = seconds
        self._new_images += shard.images
        self._progress()

    def _progress(self):
        images = sum(self.shards[i].images for i in self.seconds)
        rate = self._new_images / max(1e-6, time.monotonic() - self._begun)
        calls = self.facts.calls(images) + self.pools.calls
        self.ticket.update(done_images=images, done_shards=len(self.seconds), total_shards=len(self.shards), done_calls=calls, images_per_s=round(rate, 3))

    # ------------------------------------------------------------------ afterwards

    def _finalise(self):
        from audit.analysis import analyse
        from audit.images import write_thumbnails
        from audit.tables import write_tables

        ticket = self.ticket
        ticket.check()
        ticket.update(new_state="finalising", phase="Writing the tables")
        ticket.log.write("Writing the tables")
        measured = self.shards_at.blocks(self.shards) if self.shards else ()
        write_tables(self.folder / "tables", self.count, self.facts.specs | self.pools.specs, chain(measured, self.pools.blocks()))
        ticket.check()
        write_thumbnails(self.folder)
        self.pools.write_evidence()
        write_json(self.folder / "measurement.json", self._measurement())
        ticket.phase("Scoring the attacks")
        analyse(self.folder, ticket.check)
        ticket.check()
        remove_shards(self.folder)

    def _measurement(self):
        plan, seconds, job = self.settings, sum(self.seconds.values()) + self.pools.search_seconds, self.ticket.job
        calls = self.facts.calls(self.count) + self.pools.calls
        measured = plan if plan["probes"] else {"timesteps": (), "draws": 1}
        return {
            "run": {"id": job.id, "name": job.name, "created": datetime.fromtimestamp(job.created, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")},
            "checkpoint": self.opened.info,
            "provenance": self.provenance,
            "schedule": {"alphas_cumprod": self.opened.alphas_cumprod.tolist()},
            "self_test": self.self_test,
            "measurement": {
                "timesteps": list(measured["timesteps"]), "draws": measured["draws"], "seed": plan["seed"], "batch_size": plan["batch_size"], "precision": plan["precision"],
                "probes": list(plan["probes"]), "model_calls": calls, "model_calls_per_image": self.facts.calls_per_image,
                "model_calls_once": self.facts.shared_calls, "own": [{"probe": p, "timesteps": list(t), "draws": s} for p, t, s in plan["own"]],
                "asked_with": self.asked_with.to_json(),
                "api": self.request.api, "skipped": self.facts.skipped, "reference": self.facts.reference and {name: self.facts.reference[name] for name in REFERENCE_FIELDS},
            },
            "cost": {"model_calls": calls, "seconds": seconds, "device": self.opened.device_words, "throughput": self.count * self.engine.workers / max(1e-6, seconds)},
            "versions": {
                "afterimage": __version__, "torch": self.opened.torch_version, "diffusers": self.opened.diffusers_version,
                "numpy": np.__version__, "python": platform.python_version(),
            },
            "pool": self.pools.facts(),
            "surrogate": self.surrogate and self.surrogate.to_json(self.request),
            "failed": self.failed,
            "warnings": [*self.facts.warnings, *self.asked_with.warnings, *self.pools.warnings],
            "seconds": time.time() - job.started + self.kept_seconds,
        }  # fmt: skip

    def _result(self):
        """What the list of runs shows, from report.json."""
        report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        headline = next((a for a in report["attacks"] if a["name"] == report["verdict"]["headline_attack"]), None)
        auc = headline and headline["auc"] and {k: headline["auc"][k] for k in ("value", "low", "high")}
        queries = report["queries"]
        total = queries["members"] + queries["nonmembers"]
        calls = report["cost"]["model_calls"]
        self.ticket.update(done_images=total, total_images=total, done_calls=calls, total_calls=calls)
        return {
            "level": report["verdict"]["level"], "headline": verdict_words(report).headline, "auc": auc, "members": queries["members"], "nonmembers": queries["nonmembers"],
            "seconds": report["run"]["seconds"], "sha256": report["checkpoint"]["sha256"],
        }  # fmt: skip


def _json_or_none(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


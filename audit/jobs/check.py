"""A look at the inputs of a new audit before it starts: what the checkpoint is, what the sets hold, whether it denoises them, what the audit would cost.

Answers come one by one: the row's `result` is written after each, and what cannot be said in time stays None. Of a model that is asked with something beside the
picture: asks_for {"kind": "labels" | "captions", "required": bool, "classes": int or None}, then asked_with {"kind": the same, or None for the empty prompt, "source":
file or "sub-folders", "warnings": sentences} or asked_with_error, a sentence.
"""

import dataclasses
import secrets
import shutil
import time
from pathlib import Path

import numpy as np

from audit.api import Api
from audit.attacks import GRID
from audit.conditions import as_text, condition_of
from audit.errors import AuditError
from audit.jobs import tasks, tasks_check, tasks_surrogate
from audit.jobs.cluster import device_kind
from audit.jobs.inputs import checkpoint_place, fingerprint, kept_in
from audit.jobs.shards import disk_bytes
from audit.jobs.steps import TaskFailed, run_task, wish_of
from audit.provenance import provenance_of
from audit.request import Request
from audit.surrogates import needs_surrogate, surrogate_settings
from models.errors import ImageError, ModelError

IMAGES_S = 8.0  # for reading the sets; larger ones are only counted
PRICE_RANGE = 0.25  # two batches tell the speed of the whole to about this share
EMPTY = dict.fromkeys(
    (
        "checkpoint", "checkpoint_error", "plan", "plan_error", "costs", "asks_for", "asked_with", "asked_with_error",
        "images", "images_error", "provenance", "provenance_error", "self_test", "ranking", "price", "training", "training_error",
    )
)  # fmt: skip
TELLS_APART_Z = 4.0  # of a feature before the audit: by luck once in 16,000 features
DIFFERENT_SHARES = 0.1  # of a file type or size between the sets


class _TooLong(Exception):
    """The sets are too large to be read before somebody waits."""


class Check:
    """The steps of one check; `run` returns the result for the job's row."""

    def __init__(self, config, engines, ticket):
        self.config, self.engines, self.ticket = config, engines, ticket
        self.payload = ticket.job.request
        self.result = dict(EMPTY)
        self.scratch = config.tmp / f"check-{ticket.job.id}-{secrets.token_hex(4)}"

    def run(self):
        """All parts that the payload allows. Returns the result."""
        payload = self.payload
        given, self.told = {k: v for k, v in payload.items() if v is not None}, None
        self.request = Request.from_json({"checkpoint": "", "members": "", "nonmembers": "", **given, "name": "check"})
        self.scratch.mkdir(mode=0o700)
        try:
            if payload["checkpoint"] and self._checkpoint():
                whole = not self.result["checkpoint"]["missing"]
                if whole:
                    self._plan()
                if payload["members"] and payload["nonmembers"] and None not in self.shape:
                    ready = not whole or self._asked_with()
                    sampled = self._sample()
                    self._images()
                    if sampled and ready:
                        (self._self_test_and_price if whole else self._rank)(sampled)
                if whole and needs_surrogate(self.request.attacks):
                    self._training()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        return self.result

    def _say(self, **parts):
        self.result |= parts
        self.ticket.check()
        self.ticket.update(result=self.result)

    def _checkpoint(self):
        """What it is; opened where nothing is missing. Returns False where it cannot be audited."""
        self.ticket.phase("Reading the checkpoint")
        self.engine, self.facts, self.condition = self.engines.get(self.request.device, wait_for_audit=False), None, None
        try:
            place = checkpoint_place(self.request.checkpoint, self.config)
            self.place = tasks.place_of(self.request, place, fingerprint(self.request.checkpoint), self.engine.threads, keep=kept_in(self.config))
            found = self._task("checkpoint", tasks_check.recognise, self.place)
            if not found["missing"]:
                self.opened = self._task("checkpoint", tasks_check.look, self.place)
                found |= self.opened.info
        except (AuditError, ModelError, TaskFailed) as error:
            self._say(checkpoint_error=_sentence(error))
            return False
        self.shape = tuple(found["image_shape"])
        kind = None
        if not found["missing"]:
            classes, captions = self.opened.classes, self.opened.captions
            kind = "labels" if classes is not None else "captions" if captions else None
        self._say(checkpoint=found, asks_for=kind and {"kind": kind, "required": kind == "labels", "classes": classes})
        return True

    def _asked_with(self):
        """Look up what every image is asked with. Returns False where that cannot be said, so that the network cannot be asked at all."""
        try:
            self.condition = condition_of(self.request, self.opened.classes, self.opened.captions)
        except AuditError as error:
            self._say(asked_with_error=str(error))
            return False
        if self.condition.kind or self.condition.warnings:
            self._say(asked_with={"kind": self.condition.kind, "source": self.condition.source, "warnings": list(self.condition.warnings)})
        return True

    def _plan(self):
        """What would be measured, with the reference and through the API; `facts` stays None where that cannot be."""
        request, beside = self.request, {}
        try:
            if request.reference is not None:
                beside = {"reference": checkpoint_place(request.reference, self.config), "reference_version": fingerprint(request.reference)}
            api = None if request.api is None else Api(**request.api)
            self.place = dataclasses.replace(self.place, **beside, api=api)
            self.facts = self._task("plan", tasks_check.plan_check, self.place, wish_of(request))
        except (AuditError, ModelError, TaskFailed) as error:
            self._say(plan_error=_sentence(error))
            return
        self._say(plan={"skipped": self.facts.skipped, "reference": self.facts.reference, "warnings": list(self.facts.warnings)})

    @property
    def _wanted(self):
        """Kind of the device that the audit would run on."""
        return self.request.device if self.engine.external else device_kind(self.request.device, self.config)

    def _task(self, label, function, *args, device=False):
        return run_task(self.engines, self.engine, self.ticket, label, function, *args, device=device)

    def _images(self):
        from audit import images

        self.ticket.phase("Reading the images")
        deadline, shape = time.monotonic() + IMAGES_S, self.shape

        def watch(*_):
            self.ticket.check()
            if time.monotonic() > deadline:
                raise _TooLong

        try:
            images.prepare(self.request.members, self.request.nonmembers, shape, self.scratch, on_progress=watch)
        except (AuditError, ModelError) as error:
            self._say(images_error=str(error))
            return
        except _TooLong:
            counts = {side: _count(getattr(self.request, side)) for side in ("members", "nonmembers")}
            self._say(images=counts | {"shape": list(shape), "modes": None, "left_out": [], "duplicates": None, "complete": False, "differences": []})
            return
        import json

        found = json.loads((self.scratch / "queries.json").read_text(encoding="utf-8"))
        differences = mode_differences(found["modes"]) + feature_differences(self.scratch / "features.npz", [image["is_member"] for image in found["images"]])
        parts = {k: found[k] for k in ("members", "nonmembers", "left_out", "duplicates", "modes")}
        self._say(images=parts | {"shape": list(shape), "complete": True, "differences": differences})
        if self.request.manifest is not None:
            try:
                self._say(provenance=provenance_of(self.request, found))
            except AuditError as error:
                self._say(provenance_error=str(error))

    def _sample(self):
        """Decode a few images of each set for the self-test. Returns how many, 0 when a set has none."""
        from models.imagefiles import ImageFile, pixels_of, read_set
        from models.pixels import fit

        channels, *size = self.shape
        rows, told = [], []
        for side in ("members", "nonmembers"):
            taken = []
            try:
                for entry in read_set(getattr(self.request, side)):
                    self.ticket.check()
                    if not isinstance(entry, ImageFile):
                        continue
                    try:
                        taken.append(fit(pixels_of(entry, channels), tuple(size)))
                    except ImageError:
                        continue  # reading the sets names it
                    if self.condition is not None and self.condition.kind:
                        told.append(self.condition.said[side][as_text(entry.name)])
                    if len(taken) == tasks.SELF_TEST_IMAGES // 2:
                        break
            except ModelError:
                return 0  # reading the sets says why
            if not taken:
                return 0
            rows += taken
        np.save(self.scratch / "sample.npy", np.stack(rows))
        self.told = tuple(told) or None
        return len(rows)

    def _rank(self, sampled):
        """A hint for the settings that are missing."""
        self.ticket.phase("Trying the usual settings")
        try:
            self._say(ranking=self._task("ranking", tasks_check.rank, self.place, str(self.scratch / "sample.npy"), sampled))
        except TaskFailed as error:
            self._say(ranking={"words": _sentence(error), "best": None})

    def _self_test_and_price(self, sampled):
        self.ticket.phase("Self-test and price")
        sample, counted, plan = str(self.scratch / "sample.npy"), self.result["images"], self.facts and self.facts.plan
        if plan and not plan["probes"]:  # only samples are attacked: what drawing them costs is still worth a look
            plan = plan | {"probes": (GRID,)}
        engine_kind, wanted = self.engine.kind, self._wanted
        on_cpu = wanted == "cpu" and engine_kind == "cpu"
        try:
            tested, problem, priced = self._task("self-test", tasks_check.look_closer, self.place, sample, sampled, plan, bool(on_cpu and counted), self.told)
            self._say(self_test=tested)
            if problem:
                self._say(plan_error=problem)
                return
            if plan and counted and not on_cpu and wanted == engine_kind:
                priced = self._task("price", tasks_check.price_on_device, self.place, sample, sampled, plan, self.told, device=True)
        except TaskFailed as error:
            self._say(checkpoint_error=_sentence(error))
            return
        if priced is not None:
            kind = "cpu" if on_cpu else wanted
            images, at_once = counted["members"] + counted["nonmembers"], self.engine.workers if kind != "cpu" else 1
            costs = {"probes": self.facts.costs, "seconds_per_call": priced.seconds_per_call / at_once, "seconds_per_shared_call": priced.seconds_per_shared_call, "images": images}
            self._say(price=self._price(priced, images, at_once, kind), costs=costs)

    def _training(self):
        """What training the surrogate takes, by a few steps of it on noise; nothing where the device is busy with an audit of another kind."""
        settings, wanted = surrogate_settings(self.request.settings.get("surrogate", {})), self._wanted
        try:
            training = settings.training(self.shape)
            if wanted != self.engine.kind:
                return
            self.ticket.phase("Price of the training")
            each = self._task("training", tasks_surrogate.price_training, dataclasses.replace(self.place, device=wanted), training, device=wanted != "cpu")
        except (AuditError, TaskFailed) as error:
            self._say(training_error=_sentence(error))
            return
        self._say(training={"steps": settings.steps, "seconds_per_step": each, "seconds": settings.steps * each})

    def _price(self, probed, images, at_once, kind):
        calls = self.facts.calls(images)
        seconds = images * self.facts.calls_per_image * probed.seconds_per_call / at_once + self.facts.shared_calls * probed.seconds_per_shared_call
        shape, plan = self.shape, self.facts.plan
        return {
            "seconds": seconds, "low": seconds * (1 - PRICE_RANGE), "high": seconds * (1 + PRICE_RANGE), "model_calls": calls, "calls_per_image": self.facts.calls_per_image,
            "memory_bytes": probed.memory_bytes, "disk_bytes": disk_bytes(images, int(np.prod(shape)), len(plan["timesteps"]), plan["draws"], self.facts.full_tables),
            "seconds_per_call": probed.seconds_per_call, "batch_size": probed.batch_size, "device": self.opened.device_words if kind == "cpu" else kind,
        }  # fmt: skip


def _sentence(error):
    """What an error says to people. Raises it where it is an internal one."""
    if isinstance(error, TaskFailed):
        if not error.sentence:
            raise error
        return error.sentence
    return " ".join(str(error).split())


def mode_differences(modes):
    """What file type and size tell about the set. Args: modes: of queries.json, {set: {"28 x 28 grey PNG": count}}.

    Returns: [{"what": "file type" | "size and colour", "members": [name, share], "nonmembers": [name, share]}] where the share of the commonest kind of one
        set differs by a tenth or more; names are this program's words, never from outside.
    """
    found = []
    for what, part in (("file type", lambda mode: mode.rsplit(" ", 1)[-1]), ("size and colour", lambda mode: mode.rsplit(" ", 1)[0])):
        shares = {}
        for side in ("members", "nonmembers"):
            total, counts = sum(modes[side].values()), {}
            for mode, count in modes[side].items():
                counts[part(mode)] = counts.get(part(mode), 0) + count
            shares[side] = {name: count / max(1, total) for name, count in counts.items()}
        kinds = [*shares["members"], *shares["nonmembers"]]
        gap = {kind: abs(shares["members"].get(kind, 0) - shares["nonmembers"].get(kind, 0)) for kind in kinds}
        if kinds and max(gap.values()) >= DIFFERENT_SHARES:
            kind = max(kinds, key=gap.get)
            found.append({"what": what} | {side: [kind, shares[side].get(kind, 0.0)] for side in ("members", "nonmembers")})
    return found


def feature_differences(path, is_member):
    """Named features in which members rank otherwise than non-members by more than luck: a look before the audit, not the blind baseline's test.

    Args: path: features.npz; is_member: list of bool, in its order.
    Returns: [{"what": name, "z": rank z, positive where members have more}] with |z| of 4 or more, largest first; empty without the file.
    """
    from audit.stats.scores import midranks

    if not path.exists():
        return []
    with np.load(path, allow_pickle=False) as data:
        named = [(str(name), column) for name, is_scalar, column in zip(data["names"], data["scalar"], data["values"].T, strict=True) if is_scalar]
    is_member, found = np.asarray(is_member, bool), []
    m, total = int(is_member.sum()), len(is_member)
    for name, column in named:
        ranks = midranks(column)
        if spread := ranks.var(ddof=1):
            z = (ranks[is_member].sum() - m * ranks.mean()) / np.sqrt(m * (total - m) / total * spread)
            if abs(z) >= TELLS_APART_Z:
                found.append({"what": name, "z": float(z)})
    return sorted(found, key=lambda difference: -abs(difference["z"]))


def _count(path):
    """Entries of a set that may be images, by their names alone."""
    import os
    import zipfile

    from models.pixels import SUFFIXES

    path = Path(path)
    if path.is_dir():
        names = (name for _, _, files in os.walk(path) for name in files)
    else:
        with zipfile.ZipFile(path) as archive:  # only these two get here: a .npz is read before the first progress call
            names = archive.namelist()
    return sum(Path(name).suffix.lower() in SUFFIXES for name in names)

"""A sweep over protections, from a claimed job to protections.json in the run folder: the model is opened again, and must be the one that was audited."""

import dataclasses
import json
import secrets
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from audit import protections
from audit.errors import RequestError, RunFolderError
from audit.files import write_json, write_text
from audit.jobs import tasks, tasks_protections
from audit.jobs.inputs import checkpoint_place, fingerprints, kept_in, require_unchanged
from audit.jobs.steps import run_task
from audit.report.run import open_run
from audit.request import Request
from audit.tables import Tables, write_tables


class Protections:
    """The steps of one sweep; `run` returns the result for the job's row."""

    def __init__(self, config, engines, ticket):
        self.config, self.engines, self.ticket = config, engines, ticket
        self.folder, self.payload = Path(ticket.job.folder), ticket.job.request
        asked = Request.from_json(self.payload["request"])
        self.request = dataclasses.replace(asked, members=asked.checkpoint, nonmembers=asked.checkpoint)  # the images come from the run folder
        self.scratch = config.tmp / f"protections-{ticket.job.id}-{secrets.token_hex(4)}"

    def run(self):
        """All of it. Returns {"images", "settings", "model_calls"}."""
        begun, run = time.time(), open_run(self.folder)
        attacks, index = protections.attacks_of(run.report), protections.images_of(run, self.payload["images"])
        self.scratch.mkdir(mode=0o700)
        try:
            self._open(run.report)
            try:
                np.save(self.scratch / "images.npy", np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)[index])
            except (OSError, ValueError):
                raise RunFolderError(f"{self.folder.name} has no images.npy that can be read. Expected the pictures of the run in its folder: audit again.") from None
            rows = self._sweep(attacks, run, index)
            require_unchanged(self.request, self.before)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)
        is_member = np.asarray(run.is_member)[index]
        counts = {"members": int(is_member.sum()), "nonmembers": int((~is_member).sum())}
        calls = sum(row["model_calls"] for row in rows)
        made = {"schema_version": protections.SCHEMA_VERSION, "run": run.report["run"]["id"], "checkpoint": run.report["checkpoint"]["sha256"]}
        made |= {"created": datetime.fromtimestamp(begun, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"), "seed": run.report["run"]["seed"], "images": counts}
        made |= {"relative_to_reference": self.request.reference is not None, "sweep": rows, "model_calls": calls, "seconds": time.time() - begun}
        self.ticket.check()
        write_json(self.folder / protections.FILE, made)
        self._write_document()
        return {"images": len(index), "settings": len(rows), "model_calls": calls}

    def _write_document(self):
        from audit.report.html import render

        write_text(self.folder / "report.html", render(open_run(self.folder)))

    def _task(self, label, function, *args, device=True):
        return run_task(self.engines, self.engine, self.ticket, label, function, *args, device=device)

    def _open(self, report):
        """The network, on the device; it must be the audited one by its hash. Raises RequestError."""
        self.ticket.phase("Opening the checkpoint")
        for name in ("checkpoint", *(["reference"] if self.request.reference else [])):
            if not Path(getattr(self.request, name)).exists():
                raise RequestError(f"The {name} {Path(getattr(self.request, name)).name} is not where it was. Expected it there, unchanged since the run: put it back.")
        self.before = fingerprints(self.request)
        self.engine = self.engines.get(self.request.device)
        path = checkpoint_place(self.request.checkpoint, self.config)
        second = (checkpoint_place(self.request.reference, self.config), self.before["reference"]) if self.request.reference else (None, None)
        self.place = tasks.place_of(self.request, path, self.before["checkpoint"], self.engine.threads, *second, keep=kept_in(self.config))
        found = self._task("checkpoint", tasks_protections.hashes, self.place)
        audited = [report["checkpoint"]["sha256"], *([report["measurement"]["reference"]["sha256"]] if self.request.reference else [])]
        for name, now, then in zip(("checkpoint", "reference"), found, audited, strict=False):
            if now != then:
                raise RequestError(f"The {name} is another one than was audited (SHA-256 {now[:8]}, audited {then[:8]}). Expected the same weights: put them back, or audit again.")

    def _said(self, asked_with, index):
        """Class labels or captions that the run asked these images with, or None."""
        if not asked_with:
            return None
        images = json.loads((self.folder / "queries.json").read_text(encoding="utf-8"))["images"]
        return tuple(images[i][asked_with["kind"][:-1]] for i in index)

    def _sweep(self, attacks, run, index):
        """The entries of protections.json, one for each API."""
        measurement, is_member = run.report["measurement"], np.asarray(run.is_member)[index]
        labels = (run.image_rows or {}).get("cluster")
        mine = labels[index] if labels is not None and (labels[index] >= 0).all() else None
        clusters = mine if mine is not None and len(np.unique(mine)) < len(mine) else None
        rows, bare, count = [], {}, len(index)
        self.ticket.update(total_images=count * len(protections.SWEEP), total_shards=len(protections.SWEEP))
        wanted = {"attacks": attacks, "measurement": {name: measurement[name] for name in ("timesteps", "draws", "own")}}
        wanted |= {"seed": measurement["seed"], "batch_size": measurement["batch_size"], "precision": measurement["precision"]}
        wanted["said"] = self._said(measurement["asked_with"], index)
        flag = self.engine.flag(f"{self.ticket.job.id}-{secrets.token_hex(4)}")
        self.ticket.add_flag(flag)
        for number, api in enumerate(protections.SWEEP):
            self.ticket.phase(f"Through the API that shows {protections.words_of(api)}" if api else "Without an API")
            measured = self._task(f"setting {number + 1}", tasks_protections.measure_shown, self.place, api, str(self.scratch / "images.npy"), count, wanted, flag)
            if isinstance(measured, str):
                if api is None:
                    raise RequestError(measured)
                rows.append(protections.entry(api, "skipped", measured))
            else:
                tables, specs, shown, calls = measured
                folder = self.scratch / str(number)
                write_tables(folder, count, specs, [(0, tables)])
                scores, failed = protections.scores_of(Tables.load(folder), shown.fixed, protections.sources(tables))
                bare = bare or scores
                rows.append(protections.row_of(api, shown, calls, scores, failed, bare, is_member, clusters))
                shutil.rmtree(folder)
            done = sum(row["model_calls"] for row in rows)
            share = (number + 1) / len(protections.SWEEP)
            self.ticket.update(done_images=count * (number + 1), done_shards=number + 1, done_calls=done, total_calls=max(done, round(done / share)))
        self.ticket.remove_flag(flag)
        return protections.adjusted(rows)

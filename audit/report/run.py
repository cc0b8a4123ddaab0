"""A finished run folder, opened read-only. Moving the folder breaks nothing; pages, the document and the command line read through this."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from audit.errors import RunFolderError
from audit.tables import Tables

SCHEMA_VERSION = 1
TRUNK = {  # what every version of this schema holds: objects and the fields in them that something reads
    "run": ("id", "name", "created", "seconds"),
    "verdict": ("level", "kind", "rule", "headline_attack", "tail_attack", "reasons_for", "reasons_against", "not_tested"),
    "checkpoint": ("sha256", "format", "architecture", "image_shape", "settings"),
    "queries": ("members", "nonmembers", "evaluation_members", "evaluation_nonmembers", "split", "left_out", "duplicates"),
    "preprocessing": (),
    "measurement": ("timesteps", "draws", "seed"),
    "permutation": ("p_value", "attack", "critical_z", "draws"),
    "direction": ("attack", "auc", "passed"),
    "cost": (),
    "versions": (),
}
ROWS = {"attacks": ("name", "status", "reason", "threat_model", "auc", "tpr_at_fpr"), "controls": ("name", "auc", "passed")}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes: folder: Path; report, request: the parsed JSON files.
    Arrays follow the order of scores.csv: N images.
    """

    folder: Path
    report: dict
    request: dict

    @cached_property
    def _columns(self):
        """{column of scores.csv: list of str}; read without pandas, which alone would double the dashboard's memory."""
        with open(self.folder / "scores.csv", encoding="utf-8", newline="") as handle:
            rows = csv.reader(handle)
            header = next(rows)
            return dict(zip(header, zip(*rows, strict=True), strict=True))

    @cached_property
    def tables(self):
        """audit.tables.Tables."""
        return Tables.load(self.folder / "tables")

    @cached_property
    def is_member(self):
        """(N,) bool."""
        return np.array(self._columns["is_member"]) == "True"

    @cached_property
    def half(self):
        """(N,) str, "calibration" or "evaluation"."""
        return np.array(self._columns["half"])

    @cached_property
    def evaluation(self):
        """(N,) bool: evaluation images with finite scores in every attack, those behind every held-out number."""
        finite = np.ones(len(self.is_member), bool)
        for name in list(self._columns)[4:]:
            finite &= np.isfinite(self.scores_of(name))
        return (self.half == "evaluation") & finite

    @cached_property
    def image_ids(self):
        """(N,) str."""
        return np.array(self._columns["image_id"])

    @cached_property
    def paths(self):
        """(N,) str, relative to their set: text from outside."""
        return np.array(self._columns["path"])

    @cached_property
    def _scores(self):
        return {name: np.array([float(v) if v else np.nan for v in self._columns[name]]) for name in list(self._columns)[4:]}

    def scores_of(self, attack):
        """(N,) float64, higher = more likely a member; NaN where not finite."""
        return self._scores[attack]

    @cached_property
    def image_rows(self):
        """{column of images.csv: array (N,)}, joined to scores.csv by image id; None where the run has no images.csv that can be read.

        conformal_p, blind: float64, NaN where there is none; flagged: bool; blind_fold, cluster: int64, -1 where there is none.
        """
        try:
            with open(self.folder / "images.csv", encoding="utf-8", newline="") as handle:
                rows = {row["image_id"]: row for row in csv.DictReader(handle)}
            mine = [rows.get(image_id, {}) for image_id in self._columns["image_id"]]
            numbers = {name: np.array([float(row.get(name) or "nan") for row in mine]) for name in ("conformal_p", "blind", "blind_fold", "cluster")}
        except (OSError, KeyError, ValueError):
            return None
        whole = {name: np.nan_to_num(numbers[name], nan=-1).astype(np.int64) for name in ("blind_fold", "cluster")}
        return numbers | whole | {"flagged": np.array([row.get("flagged") == "True" for row in mine], dtype=bool)}

    def attack(self, name):
        """The entry of one attack in report["attacks"]. Raises RunFolderError: it was not part of the run."""
        for row in self.report["attacks"]:
            if row["name"] == name:
                return row
        raise RunFolderError(f"{name} was not part of this run.")

    @property
    def scored(self):
        """Names of the attacks with scores, in the report's order."""
        return [row["name"] for row in self.report["attacks"] if row["status"] == "done"]


def open_run(folder):
    """Open a finished run folder.

    Raises: RunFolderError: it is missing, unfinished or of another schema version.
    """
    folder = Path(folder)
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{folder.name} is not a finished run: {Path(error.filename).name} is missing. Expected a run folder with report.json.") from None
    except (ValueError, RecursionError):
        report = request = None
    if not isinstance(report, dict) or not isinstance(request, dict):
        raise RunFolderError(f"{folder.name} is damaged: report.json or request.json cannot be read. Make it again with python -m audit rescore DIR.")
    if report.get("schema_version") != SCHEMA_VERSION:
        raise RunFolderError(f"This run was made by another version and reads only in part. Its stored tables are intact: python -m audit rescore {folder.name}")
    if missing := _missing(report):
        raise RunFolderError(f"{folder.name} is damaged: report.json lacks {missing}. Make it again with python -m audit rescore DIR.")
    return Run(folder, report, request)


def _missing(report):
    """The first part or field of the trunk that a report does not have, in words; "" where it is whole."""
    for part, fields in TRUNK.items():
        if not isinstance(report.get(part), dict):
            return part
        for name in fields:
            if name not in report[part]:
                return f"{part}.{name}"
    for part, fields in ROWS.items():
        if not isinstance(report.get(part), list):
            return part
        for row in report[part]:
            if not isinstance(row, dict) or not set(fields) <= set(row):
                return f"fields of {part}"
    done = [row["name"] for row in report["attacks"] if row["status"] == "done"]
    return "" if report["verdict"]["headline_attack"] in done and report["verdict"]["tail_attack"] in done else "the attacks that its verdict names"

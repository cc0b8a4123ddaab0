"""A finished run folder, opened read-only. Moving the folder breaks nothing; pages, the document and the command line read through this."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from audit.errors import RunFolderError
from audit.tables import Tables

SCHEMA_VERSION = 1


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
    def scores(self):
        """pandas DataFrame of scores.csv: image_id, path, is_member, half, one column per scored attack."""
        import pandas as pd

        frame = pd.read_csv(self.folder / "scores.csv", dtype={"image_id": str, "path": str, "half": str}, keep_default_na=False, na_values={})
        for name in frame.columns[4:]:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        return frame

    @cached_property
    def tables(self):
        """audit.tables.Tables."""
        return Tables.load(self.folder / "tables")

    @cached_property
    def is_member(self):
        """(N,) bool."""
        column = self.scores["is_member"]
        return (column.astype(str) == "True").to_numpy()

    @cached_property
    def half(self):
        """(N,) str, "calibration" or "evaluation"."""
        return self.scores["half"].to_numpy(dtype=str)

    @cached_property
    def evaluation(self):
        """(N,) bool: evaluation images with finite scores in every attack, those behind every held-out number."""
        finite = np.ones(len(self.scores), bool)
        for name in self.scores.columns[4:]:
            finite &= np.isfinite(self.scores_of(name))
        return (self.half == "evaluation") & finite

    @cached_property
    def image_ids(self):
        """(N,) str."""
        return self.scores["image_id"].to_numpy(dtype=str)

    @cached_property
    def paths(self):
        """(N,) str, relative to their set: text from outside."""
        return self.scores["path"].to_numpy(dtype=str)

    def scores_of(self, attack):
        """(N,) float64, higher = more likely a member; NaN where not finite."""
        return self.scores[attack].to_numpy(dtype=np.float64)

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
    except ValueError:
        raise RunFolderError(f"{folder.name} is damaged: report.json or request.json cannot be read. Make it again with python -m audit rescore DIR.") from None
    if report.get("schema_version") != SCHEMA_VERSION:
        raise RunFolderError(f"This run was made by another version and reads only in part. Its stored tables are intact: python -m audit rescore {folder.name}")
    return Run(folder, report, request)

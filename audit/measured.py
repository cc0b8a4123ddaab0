"""A run folder after measuring, before any number: what `audit.analysis` starts from."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audit.errors import RunFolderError
from audit.request import Request
from audit.tables import Tables


@dataclass(frozen=True)
class Features:
    """What the blind baseline knows of each image: names (F,) str; scalar (F,) bool, one of the named single features; values float64 (N,F)."""

    names: tuple[str, ...]
    scalar: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Measured:
    """request: Request; queries, facts: the parsed queries.json and measurement.json; tables: Tables; features: Features."""

    request: Request
    queries: dict
    facts: dict
    tables: Tables
    features: Features

    @property
    def is_member(self):
        """bool (N,)."""
        return np.array([image["is_member"] for image in self.queries["images"]], dtype=bool)

    @property
    def clusters(self):
        """int (N,): near duplicates share a number."""
        return np.array([image["cluster"] for image in self.queries["images"]])

    @property
    def provenance(self):
        """How the split was drawn: {"kind": "manifest" | "stated-random" | "stated", …}."""
        return self.facts["provenance"]


def read_measured(folder):
    """The Measured of a run folder. Raises RunFolderError."""
    folder = Path(folder)
    try:
        request = Request.from_json(json.loads((folder / "request.json").read_text(encoding="utf-8")))
        queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
        facts = json.loads((folder / "measurement.json").read_text(encoding="utf-8"))
        with np.load(folder / "features.npz", allow_pickle=False) as data:
            features = Features(tuple(data["names"].tolist()), data["scalar"].astype(bool), data["values"].astype(np.float64))
    except OSError as error:
        raise RunFolderError(f"{folder.name} is not a measured run: {Path(error.filename).name} is missing. Expected a run folder with its tables.") from None
    except (ValueError, KeyError):
        raise RunFolderError(f"{folder.name} is damaged: request.json, queries.json, measurement.json or features.npz cannot be read. Run the audit again.") from None
    return Measured(request, queries, facts, Tables.load(folder / "tables"), features)

"""A run folder after measuring, before any number: what `audit.analysis` starts from."""

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from audit.errors import RunFolderError
from audit.known_leak import known_leak
from audit.request import Request
from audit.stats.controls import Control
from audit.tables import UNTRAINED, Tables


@dataclass(frozen=True)
class Features:
    """What the blind baseline knows of each image: names (F,) str; scalar (F,) bool, one of the named single features; values float64 (N,F)."""

    names: tuple[str, ...]
    scalar: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Measured:
    """request: Request; queries, facts: the parsed queries.json and measurement.json; tables: Tables; features: Features; known_leak: Control or None."""

    request: Request
    queries: dict
    facts: dict
    tables: Tables
    features: Features
    known_leak: Control | None = None

    @cached_property
    def is_member(self):
        """bool (N,)."""
        return np.array([image["is_member"] for image in self.queries["images"]], dtype=bool)

    @cached_property
    def clusters(self):
        """int (N,): near duplicates share a number, and so do images that shared one coin of a manifest."""
        found = np.array([image["cluster"] for image in self.queries["images"]])
        coins = self.facts["provenance"].get("clusters")
        if coins is None:
            return found
        count = len(found)
        images, groups = np.tile(np.arange(count), 2), count + np.concatenate([_numbered(found), count + _numbered(np.array(coins))])
        links = coo_array((np.ones(2 * count, np.int8), (images, groups)), (3 * count,) * 2)
        return _numbered(connected_components(links, directed=False)[1][:count])

    @cached_property
    def blind_features(self):
        """Features, with the losses of an untrained network beside those of the pictures where they were measured and are finite."""
        table = self.tables.get(UNTRAINED)
        if table is None:
            return self.features
        columns = [(f"untrained loss at t = {t}", np.asarray(row, dtype=np.float64)) for t, row in zip(table.timesteps, table.values, strict=True) if np.isfinite(row).all()]
        named = tuple(name for name, _ in columns)
        values = np.column_stack([self.features.values, *(row for _, row in columns)])
        return Features(self.features.names + named, np.append(self.features.scalar, np.zeros(len(named), bool)), values)

    @property
    def provenance(self):
        """How the split was drawn: {"kind": "manifest" | "stated-random" | "stated", …}."""
        return self.facts["provenance"]


def _numbered(labels):
    """The same grouping, numbered from 0; (N,) -> int (N,)."""
    return np.unique(labels, return_inverse=True)[1]


def read_measured(folder):
    """The Measured of a run folder. Raises RunFolderError."""
    folder = Path(folder)
    try:
        request = Request.from_json(json.loads((folder / "request.json").read_text(encoding="utf-8")))
        queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
        facts = json.loads((folder / "measurement.json").read_text(encoding="utf-8"))
        with np.load(folder / "features.npz", allow_pickle=False) as data:
            features = Features(tuple(data["names"].tolist()), data["scalar"].astype(bool), data["values"].astype(np.float64))
        count = len(queries["images"])
        tables = Tables.load(folder / "tables")
        whole = all({"image_id", "path", "is_member", "cluster"} <= set(image) for image in queries["images"]) and {"measurement", "provenance", "checkpoint", "run"} <= set(facts)
        if not whole or features.values.shape != (count, len(features.names)) or any(table.images != count for table in tables.values()):
            raise ValueError
    except OSError as error:
        raise RunFolderError(f"{folder.name} is not a measured run: {Path(error.filename or 'a file').name} is missing. Expected a run folder with its tables.") from None
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        what = "request.json, queries.json, measurement.json, features.npz or the tables"
        raise RunFolderError(f"{folder.name} is damaged, or of another version: {what} cannot be read or do not belong together. Run the audit again.") from None
    return Measured(request, queries, facts, tables, features, known_leak(folder))

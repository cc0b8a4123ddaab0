"""Device work in the space of features: pictures through a vision backbone, and the search among them. audit.jobs.tasks says how tasks answer."""

import threading
import time

import numpy as np

from audit.jobs.outcome import task
from audit.jobs.tasks import device_of_place, prepare_process

_opened: dict = {}  # the last backbone of this process
_lock = threading.Lock()


def _embedder(place, backbone, sha256=None):
    """The Embedder of a backbone, opened when another one was used before, or when its file changed. Raises RequestError."""
    from audit.pool.features import Embedder

    prepare_process(place)
    device = device_of_place(place)
    with _lock:
        kept = _opened.get((backbone, str(device)))
        if kept is None or sha256 not in (None, kept.facts["sha256"]):
            _opened.clear()
            kept = _opened[(backbone, str(device))] = Embedder(backbone, device)
        return kept


@task
def backbone_facts(place, backbone):
    """Open a backbone. Returns audit.pool.features.Embedder.facts."""
    with _lock:
        _opened.clear()  # the file may be another one than when it was opened
    return _embedder(place, backbone).facts


@task
def embed(place, backbone, sha256, images, first, stop, mirror, flag):
    """Features of pictures first … stop-1 of a .npy. Args: mirror: those of the mirror images too. Returns ({"features"[, "mirrored"]: float32 (1,n,D)}, seconds)."""
    begun, embedder = time.perf_counter(), _embedder(place, backbone, sha256)
    pictures = np.load(images, mmap_mode="r", allow_pickle=False)[first:stop]
    made = {"features": embedder.features(pictures, flag.is_set)}
    if mirror:
        made["mirrored"] = embedder.features(pictures[:, :, ::-1], flag.is_set)
    return {name: values[None] for name, values in made.items()}, time.perf_counter() - begun


@task
def search_features(place, queries, mirrored, samples, first, stop, clusters, left_out, flag):
    """The search of query images first … stop-1. Args: queries, mirrored, samples: paths of .npy, float32. Returns ({table: float32 (1,n,K)}, seconds)."""
    from audit.pool.features import search

    prepare_process(place)
    begun = time.perf_counter()
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in (queries, mirrored, samples)]
    return search(*arrays, first, stop, np.asarray(clusters), left_out, device_of_place(place), flag.is_set), time.perf_counter() - begun


@task
def search_references(place, queries, references, first, stop, left_out, flag):
    """Query images first … stop-1 among a reference set. Args: queries, references: paths of .npy, float32. Returns ({table: float32 (1,n,20)}, seconds)."""
    from audit.jobs.pools_features import REFERENCES
    from audit.pool.features import among

    prepare_process(place)
    begun = time.perf_counter()
    mine, other = (np.load(path, mmap_mode="r", allow_pickle=False) for path in (queries, references))
    return {REFERENCES: among(mine[first:stop], other, left_out, device_of_place(place), flag.is_set)}, time.perf_counter() - begun

"""Whole audits without a model: small loss tables and features in, the verdict's own computation on them, nothing stubbed.

`relabelled` keeps the stored tables of a run and deals its images out again: the null is then true whatever the tables hold. `drawn` makes tables and features.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from audit.analysis import compute
from audit.measured import Features, Measured
from audit.request import Request
from audit.tables import Tables, write_tables
from tests.synthetic import loss_tables

TIMESTEPS = np.arange(0, 1000, 167)  # 6
ATTACKS = ("loss_x0", "loss_eps")
SCALARS, FEATURES = 10, 40


def request_of(seed, attacks=ATTACKS):
    """A Request that points nowhere: no file of it is read."""
    return Request("/checkpoint", "/members", "/nonmembers", "simulated", "quick", attacks, seed=seed, draws=1)


def measured_of(tables, is_member, features, seed, provenance="manifest", clusters=None, attacks=ATTACKS, draws=1):
    """A Measured of tables, labels and features. Args: features: audit.measured.Features; provenance: kind of the split; clusters: int (N,) or None."""
    numbers = np.arange(len(is_member)) if clusters is None else clusters
    images = [{"image_id": f"{k:016x}", "path": f"{k}.png", "is_member": bool(m), "cluster": int(c)} for k, (m, c) in enumerate(zip(is_member, numbers, strict=True))]
    queries = {"images": images, "left_out": [], "duplicates": {}, "preprocessing": {}}
    facts = {"provenance": {"kind": provenance}, "measurement": {"draws": draws}, "warnings": []}
    return Measured(request_of(seed, attacks), queries, facts, tables, features)


def stored(tables, folder, timesteps=TIMESTEPS):
    """audit.tables.Tables of {name: float32 (S,N,K)}, written and opened like a run's."""
    count = next(iter(tables.values())).shape[1]
    write_tables(folder, count, {name: ("timestep", timesteps) for name in tables}, [(0, tables)])
    return Tables.load(folder)


def noise_features(rng, count):
    """Features that say nothing: 40 columns, 10 of them named."""
    return Features(tuple(f"feature {i}" for i in range(FEATURES)), np.arange(FEATURES) < SCALARS, rng.normal(size=(count, FEATURES)))


def drawn(seed, members, nonmembers, provenance="manifest", edit=None, clusters=None, features=None, keep=compute):
    """`keep` of one audit of images that the model never saw.

    Args: edit(tables, is_member, rng): may change {name: float32 (1,N,6)} in place; features: audit.measured.Features, None = noise; clusters: int (N,) or None.
    """
    rng, count = np.random.default_rng([seed, members, nonmembers]), members + nonmembers
    is_member = np.arange(count) < members
    tables = {name: values for name, values in loss_tables(is_member, TIMESTEPS, 1, 0.0, int(rng.integers(2**31))).items() if name in ("eps_mse", "x0_mse")}
    if edit:
        edit(tables, is_member, rng)
    with tempfile.TemporaryDirectory() as folder:
        opened = stored(tables, Path(folder))
        return keep(measured_of(opened, is_member, features or noise_features(rng, count), seed, provenance, clusters))


def relabelled(measured, seed, side=None, provenance="manifest", keep=compute):
    """`keep` of one audit in which chance alone decides who is called a member.

    Args: measured: audit.measured.Measured of a finished run; seed: of the labels and of the audit; side: images a side, drawn from all, None = all as they are.
    """
    rng, total = np.random.default_rng(seed), len(measured.is_member)
    if side is None:
        labels = rng.permutation(measured.is_member)
        return keep(_again(measured, measured.tables, np.arange(total), labels, seed, provenance))
    picked = np.sort(rng.permutation(total)[: 2 * side])
    labels = rng.permutation(np.arange(2 * side) < side)
    with tempfile.TemporaryDirectory() as folder:
        tables = {n: np.asarray(t.per_draw[:, :, picked]).transpose(0, 2, 1) for n, t in measured.tables.items() if n in ("eps_mse", "x0_mse", "vlb_bits", "x0_8bit_mse")}
        timesteps = measured.tables["eps_mse"].timesteps
        return keep(_again(measured, stored(tables, Path(folder), timesteps), picked, labels, seed, provenance))


def _again(measured, tables, picked, labels, seed, provenance):
    """`measured` with other tables and labels, and only the picked images."""
    clusters = np.unique(measured.clusters[picked], return_inverse=True)[1]
    features = dataclasses.replace(measured.features, values=measured.features.values[picked])
    return measured_of(tables, labels, features, seed, provenance, clusters, measured.request.attacks, measured.facts["measurement"]["draws"])

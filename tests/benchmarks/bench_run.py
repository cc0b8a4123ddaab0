"""A whole `python -m audit run` on 512 images against the bare forward pass of the same network, in one run.

    python tests/benchmarks/bench_run.py [--preset standard]

Ratio = (model calls of the run / seconds of the run) / (bare calls per second). Measured twice: from the command to its end, which holds the imports and
the start of the cluster, and inside the job as report.json states it. Target 0.8.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from bench_engine import bare, best_batch, network  # noqa: E402  (a script beside this one)

DEMO = ROOT / "models" / "demo"
A_SIDE = 256


def first_images(archive, into):
    """The first A_SIDE pictures of a zip as files."""
    into.mkdir()
    with zipfile.ZipFile(archive) as found:
        for name in sorted(found.namelist())[:A_SIDE]:
            (into / name).write_bytes(found.read(name))
    return into


def main(argv=None):
    """Print both ratios. Returns 0."""
    parser = argparse.ArgumentParser(description="A whole run against the bare forward pass.")
    parser.add_argument("--preset", default="standard", help="quick, standard or thorough (%(default)s)")
    preset = parser.parse_args(argv).preset
    device = torch.device("cpu")
    model, _ = network(device)
    batch = best_batch(model, device)
    before = bare(model, device, batch, 10)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sides = [first_images(DEMO / f"{side}.zip", folder / side) for side in ("members", "nonmembers")]
        command = [sys.executable, "-m", "audit", "run", "--checkpoint", str(DEMO / "leaky"), "--members", str(sides[0]), "--nonmembers", str(sides[1])]
        began = time.monotonic()
        environ = {**os.environ, "AUDIT_HOME": str(folder / "home"), "AUDIT_IDLE_EXIT": "1"}
        subprocess.run([*command, "--preset", preset, "--out", str(folder / "out")], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, check=True)
        seconds = time.monotonic() - began
        report = json.loads((folder / "out" / "report.json").read_text())
    after = bare(model, device, batch, 10)
    ceiling = (before + after) / 2
    calls = report["cost"]["model_calls"]
    print(f"bare network: {before:,.0f} calls/s before, {after:,.0f} after, batch {batch}")
    for words, spent in (("command to end", seconds), ("job, start to report", report["run"]["seconds"]), ("measuring alone", report["cost"]["seconds"])):
        print(f"{words}: {calls:,} calls in {spent:.1f} s, ratio {calls / spent / ceiling:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

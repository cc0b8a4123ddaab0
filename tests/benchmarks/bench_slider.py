"""One step of the truncation slider at N = 20,000 images and K = 1,000 timesteps: window -> statistic -> ROC -> AUC -> TPR -> 300 points.

    python tests/benchmarks/bench_slider.py [N] [K]

Prints the median and the slowest of 25 steps in ms for each statistic and way of truncating, over the windows that a dragged slider visits; target:
below 10 ms each on the images held out: half of them, as in every run from 400 images a side. All N are timed as well. Memory maps are read from the page's file cache,
as they are after the first step. Exits with 1 when the target is missed.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from audit.report.series import slider_step
from audit.stats.window import STATISTICS, TRUNCATIONS, Window
from audit.tables import Tables, write_tables

TARGET_MS = 10.0
STEPS = 25


def stored_table(folder, images, timesteps):
    """A table of random losses whose members are 8 % lower in the middle, written and opened like a run's."""
    rng, is_member = np.random.default_rng(0), np.arange(images) % 2 == 0
    t = np.arange(timesteps)
    middle = np.exp(-(((t - timesteps * 0.15) / (timesteps * 0.1)) ** 2))

    def blocks():
        for first in range(0, images, 1000):
            n = min(1000, images - first)
            loss = np.exp(rng.normal(0, 0.3, (1, n, timesteps)) - 0.08 * is_member[first : first + n, None] * middle)
            yield first, {"eps_mse": loss.astype(np.float32)}

    write_tables(folder, images, {"eps_mse": ("timestep", t.tolist())}, blocks())
    return Tables.load(folder)["eps_mse"], is_member


def windows(timesteps, statistic, by):
    """STEPS windows: a third of the timesteps moved along, or a growing share of the smallest losses."""
    for i in range(STEPS):
        if by == "value":
            yield Window(statistic, "value", keep_share=0.05 + 0.9 * i / STEPS)
        else:
            first = i * timesteps // (2 * STEPS)
            yield Window(statistic, "time", first, min(timesteps - 1, first + timesteps // 3))


def times_ms(table, is_member, index, statistic, by):
    """float64 (STEPS,): ms of each step, after one that warms the file cache."""
    labels, out = is_member[index], []
    for window in windows(len(table.timesteps), statistic, by):
        slider_step(table, window, index, labels)
    for window in windows(len(table.timesteps), statistic, by):
        began = time.perf_counter()
        step = slider_step(table, window, index, labels)
        out.append(1000 * (time.perf_counter() - began))
        assert len(step.points.fpr) <= 300 and abs(step.points.area - step.auc) < 1e-6
    return np.array(out)


def main(images=20_000, timesteps=1_000):
    """Print one line per statistic; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        table, is_member = stored_table(Path(folder) / "tables", images, timesteps)
        missed = False
        for what, index in (("held-out half", np.flatnonzero(np.random.default_rng(1).random(images) < 0.5)), ("all images", np.arange(images))):
            for statistic, by in itertools.product(STATISTICS, TRUNCATIONS):
                ms = times_ms(table, is_member, index, statistic, by)
                missed |= len(index) < images and np.median(ms) >= TARGET_MS
                print(f"N={images} K={timesteps} {what:13s} {statistic:6s} by {by:5s} median {np.median(ms):6.2f} ms  slowest {ms.max():6.2f} ms")
    print(f"target on the held-out half: below {TARGET_MS:g} ms: {'MISSED' if missed else 'reached'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

"""Why attacks of a finished run find more or less than their papers lead to expect: the parts of their scores, each alone, on the same held-out images.

python tests/experiments/surprises.py RUN [--generations N,N,…] [--draws N,N,…]

RUN: a run folder whose checkpoint lies where it was; a section is left out where its attack has no scores. docs/surprises.md reads the answer for the bundled pair.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from scipy.stats import spearmanr

from audit import format as fmt
from audit.attacks.dime import ANGLES, standardised
from audit.engine import MeasurePlan, choose_device, measure_block
from audit.probes import measure
from audit.probes.gray_free import GrayFree
from audit.report.run import open_run
from audit.stats.auc import auc_interval
from models import open_checkpoint
from models.pixels import to_model_range

GENERATIONS, DRAWS = (64, 256, 1024), (2, 10, 30)


class Experiment:
    """A run, its held-out images, and the network that it audited. Args: folder: of the run."""

    def __init__(self, folder):
        self.run = open_run(folder)
        self.inside, self.seed = self.run.evaluation, self.run.report["measurement"]["seed"]
        self.is_member = np.asarray(self.run.is_member)[self.inside]
        self.chosen = {row["name"]: row["settings"] for row in self.run.report["attacks"] if row["status"] == "done"}

    @functools.cached_property
    def model(self):
        """The Denoiser, on the run's kind of device."""
        return open_checkpoint(self.run.request["checkpoint"], **self.run.request["overrides"]).to(choose_device())

    @functools.cached_property
    def x0(self):
        """(n,C,H,W) float32 of the held-out images."""
        return to_model_range(np.load(self.run.folder / "images.npy", mmap_mode="r", allow_pickle=False)[self.inside])

    def column(self, table, t):
        """float64 (n,): mean over draws of a stored table at t."""
        found = self.run.tables[table]
        return np.asarray(found.values[list(found.timesteps).index(t)], np.float64)[self.inside]

    def line(self, what, score):
        """`what | AUC [low, high]`. Args: score: (n,), higher = more likely a member."""
        found = auc_interval(score, self.is_member)
        return f"| {what} | {fmt.auc_interval(found.value, found.low, found.high)} |"


def pian(on):
    """Is the size of the model's answer to the clean image, which PIAN scales away, what PIA reads?"""
    t = on.chosen["pian"]["t"]
    size = measure(on.model, on.x0, [0], probe="sima", seed=on.seed)["sima_l4"][:, 0].astype(np.float64)
    pia, scaled = on.column("pia_l4", t), on.column("pian_l4", t)
    yield on.line(f"PIA at t = {t}", -pia)
    yield on.line("the size of e0 alone, minus its 4-norm: one call", -size)
    yield on.line("PIA's distance divided by the size of e0", -pia / size)
    yield on.line(f"PIAN at t = {t}", -scaled)
    yield f"| rank correlation of PIA's distance with the size of e0 | {spearmanr(pia, size)[0]:.2f} |"
    yield f"| the same of PIAN's | {spearmanr(scaled, size)[0]:.2f} |"


def dime(on):
    """What do bias and crowding find, each alone and mixed, and with which weight does the weight-free form mix them?"""
    t = on.chosen["dime"]["t"]
    bias, spread = on.column("dime_bias", t) ** 2, on.column("dime_spread", t)
    yield on.line(f"bias alone at t = {t}", -bias)
    yield on.line("crowding alone", spread)
    for angle in ANGLES[1:-1:4]:
        yield on.line(f"mixed at angle {angle:.2f}", -np.cos(angle) * standardised(bias) + np.sin(angle) * standardised(spread))
    yield on.line("DIME-M there", spread - bias)
    yield f"| the angle that DIME-M's fixed weights amount to here | {np.arctan2(spread.std(), bias.std()):.2f} |"
    yield f"| correlation of bias and crowding over these images | {np.corrcoef(bias, spread)[0, 1]:.2f} |"


def gray_free(on, generations):
    """Are 64 generations too few to come near the members?"""
    t, probe = on.chosen["gray_free"]["t"], GrayFree()
    for count in generations:
        draws = max(1, count // probe.NOISES_PER_DRAW)
        plan = MeasurePlan((t,), probes=("gray_free",), seed=on.seed, own=(("gray_free", (t,), draws),), batch_size=64)
        nearest = measure_block(on.model, on.x0, plan)["gray_free_mse"][:, :, 0].min(axis=0)
        yield on.line(f"the nearest of {fmt.count(draws * probe.NOISES_PER_DRAW)} generations at t = {t}", -nearest.astype(np.float64))


def noised(on, draws):
    """Do more noise draws lift the attacks that average over them?"""
    for name, table in (("naive_loss", "eps_mse"), ("sima_mc", "eps_hat_l4")):
        if name in on.chosen:
            t = on.chosen[name]["t"]
            for count in draws:
                yield on.line(f"{name} at t = {t}, {fmt.count(count)} draws", -measure(on.model, on.x0, [t], seed=on.seed, draws=count)[table][:, 0].astype(np.float64))
    if "sima_mc" in on.chosen:
        t = on.chosen["sima_mc"]["t"]
        yield on.line(f"SimA, the same without noise, scaled, at t = {t}", -measure(on.model, on.x0, [t], probe="sima", seed=on.seed)["sima_scaled_l4"][:, 0].astype(np.float64))


def secmi(on):
    """Where along its path does SecMI see most?"""
    for t in on.run.tables["secmi_l2"].timesteps:
        yield on.line(f"SecMI at t = {t}", -on.column("secmi_l2", int(t)))


def main(argv=None):
    """Print each section as a Markdown table. Returns 0."""
    parser = argparse.ArgumentParser(description="The parts of surprising scores, each alone.")
    parser.add_argument("run")
    for name, default in (("generations", GENERATIONS), ("draws", DRAWS)):
        parser.add_argument(f"--{name}", type=lambda text: tuple(int(part) for part in text.split(",")), default=default, metavar="N,N,…")
    args = parser.parse_args(argv)
    on = Experiment(args.run)
    sections = (({"pia", "pian"}, pian(on)), ({"dime", "dime_m"}, dime(on)), ({"secmi"}, secmi(on)))
    sections += (({"gray_free"}, gray_free(on, args.generations)), ({"sima_mc"}, noised(on, args.draws)))
    for needs, lines in sections:
        if needs <= set(on.chosen):
            print(f"\n| {', '.join(sorted(needs))} | AUC, {fmt.count(int(on.is_member.sum()))} + {fmt.count(int((~on.is_member).sum()))} held out |\n|---|---|", flush=True)
            for line in lines:
                print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

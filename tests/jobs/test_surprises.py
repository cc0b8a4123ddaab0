"""The parts of surprising scores: what the experiment calls an attack is that attack's own number, and a part is what its name says."""

import re
from dataclasses import replace

import numpy as np
import pytest

from audit.probes import measure
from audit.report.run import open_run
from audit.stats.auc import auc
from models import open_checkpoint
from models.pixels import to_model_range
from tests.experiments import surprises
from tests.jobs.test_driver_inline import no_background_worker, run  # noqa: F401, the fixture acts by being here


def test_the_parts_of_a_run_are_read_and_measured_as_they_are_called(home, request_for, capsys):
    request = request_for(attacks=("gray_free", "naive_loss", "pia", "pian", "secmi", "sima_mc", "dime", "dime_m"), seed=2)
    opened = open_run(run(home, replace(request, settings={"dime": {"angle": 0.0}})).folder)
    assert surprises.main([str(opened.folder), "--generations", "64,96", "--draws", "1,3"]) == 0
    lines = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", capsys.readouterr().out, re.M)
    found = {what: float(value.split()[0]) for what, value in lines if value[0] in "01"}
    chosen, inside, is_member = {row["name"]: row["settings"] for row in opened.report["attacks"]}, opened.evaluation, np.asarray(opened.is_member)

    def of(name):
        return pytest.approx(auc(opened.scores_of(name)[inside], is_member[inside]), abs=6e-4)  # three decimals are printed

    t = {name: chosen[name]["t"] for name in chosen}
    for name, words in (("pian", f"PIAN at t = {t['pian']}"), ("secmi", f"SecMI at t = {t['secmi']}"), ("dime", f"bias alone at t = {t['dime']}")):
        assert found[words] == of(name), name
    assert found[f"the nearest of 64 generations at t = {t['gray_free']}"] == of("gray_free") and f"the nearest of 96 generations at t = {t['gray_free']}" in found
    assert found[f"naive_loss at t = {t['naive_loss']}, 1 draws"] == of("naive_loss") and found[f"sima_mc at t = {t['sima_mc']}, 1 draws"] == of("sima_mc")
    x0 = to_model_range(np.load(opened.folder / "images.npy")[inside])
    size = measure(open_checkpoint(request.checkpoint), x0, [0], probe="sima")["sima_l4"][:, 0]
    assert found["the size of e0 alone, minus its 4-norm: one call"] == pytest.approx(auc(-size, is_member[inside]), abs=6e-4)

"""The trajectories page draws the stored table: medians, bands, AUC per timestep, both kinds of spread."""

import numpy as np
from sklearn.metrics import roc_auc_score

from audit import format as fmt
from audit.report.run import open_run
from audit.report.series import calibrated_window
from audit.stats.auc import auc_interval
from tests.evidence_home import control, open_page, specs, trace


def values(folder, table):
    """(timesteps, values (K,N), draws (S,K,N)) straight from the files."""
    stored = open_run(folder).tables[table]
    return stored.timesteps, np.load(folder / "tables" / f"{table}.npy"), np.load(folder / "tables" / f"{table}.draws.npy")


def test_gap_is_percent_of_the_non_member_median(home):
    folder = home / "runs" / "clear"
    run, (t, x, _) = open_run(folder), values(folder, "eps_mse")
    spec = specs(open_page("trajectories", run="clear", table="eps_mse"))[0]
    middle = np.median(x[:, ~run.is_member].astype(float), axis=1)
    curve = trace(spec, "members (n = 450)")
    assert curve["x"] == t.tolist()
    np.testing.assert_allclose(curve["y"], 100 * (np.median(x[:, run.is_member].astype(float), axis=1) / middle - 1), atol=1e-9)
    assert np.allclose(trace(spec, "non-members (n = 450)")["y"], 0)


def test_loss_itself_has_a_log_axis_and_the_wider_band(home):
    folder = home / "runs" / "clear"
    run, (_, x, _) = open_run(folder), values(folder, "x0_mse")
    spec = specs(open_page("trajectories", run="clear", table="x0_mse", view="Loss itself", band=fmt.percent(0.8)))[0]
    assert spec["layout"]["yaxis"]["type"] == "log"
    low, high = [t for t in spec["data"] if t.get("name") == "members band"]
    np.testing.assert_allclose(low["y"], np.quantile(x[:, run.is_member].astype(float), 0.1, axis=1))
    np.testing.assert_allclose(high["y"], np.quantile(x[:, run.is_member].astype(float), 0.9, axis=1))


def test_auc_per_timestep_uses_the_evaluation_half_with_both_spreads(home):
    folder = home / "runs" / "clear"
    run, (t, x, draws) = open_run(folder), values(folder, "eps_mse")
    spec, inside = specs(open_page("trajectories", run="clear", table="eps_mse"))[0], run.evaluation
    curve = trace(spec, "AUC, this timestep alone")
    expected = [roc_auc_score(run.is_member[inside], -row[inside].astype(float)) for row in x]
    np.testing.assert_allclose(curve["y"], expected, atol=1e-12)
    low, high = [b for b in spec["data"] if b.get("name") == "95 % interval over images"]
    interval = auc_interval(-x[3][inside].astype(float), run.is_member[inside])
    assert (low["y"][3], high["y"][3]) == (interval.low, interval.high)
    noise = np.std([[roc_auc_score(run.is_member[inside], -row[inside].astype(float)) for row in draw] for draw in draws], axis=0, ddof=1)
    below, above = [b for b in spec["data"] if b.get("name") == "± 1 sd between noise draws"]
    np.testing.assert_allclose(np.subtract(above["y"], below["y"]) / 2, noise, atol=1e-12)
    assert len(t) == len(noise)


def test_window_is_shaded_and_the_best_timestep_is_named_as_selection(home):
    folder = home / "runs" / "clear"
    run = open_run(folder)
    at = open_page("trajectories", run="clear", table="eps_mse")
    window, shapes = calibrated_window(run, "loss_eps"), [s for s in specs(at)[0]["layout"]["shapes"] if s["type"] == "rect"]
    said = " ".join(c.value for c in at.caption)
    if window.truncate_by == "time":
        assert [(s["x0"], s["x1"]) for s in shapes] == [(window.keep_from, window.keep_until)]
        assert f"t = {window.keep_from} to {window.keep_until}" in said
    else:
        assert not shapes and "there is no window to shade" in said
    assert "picking it by eye is selection" in said


def test_single_images_by_hash(home):
    folder = home / "runs" / "clear"
    run, (_, x, _) = open_run(folder), values(folder, "eps_mse")
    at = open_page("trajectories", run="clear", table="eps_mse", view="Loss itself")
    picker = control(at, "Single images", "multiselect")
    first = picker.options[0]
    where = int(np.argmax(run.scores_of(run.report["verdict"]["headline_attack"])))
    assert run.image_ids[where].startswith(first), "the most exposed image comes first"
    picker.set_value([first]).run()
    kind = "member" if run.is_member[where] else "non-member"
    np.testing.assert_allclose(trace(specs(at)[0], f"{first}, {kind}")["y"], x[:, where], rtol=1e-6)

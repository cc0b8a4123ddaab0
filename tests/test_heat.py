"""The map of every window: each cell is what the slider shows there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from audit import format as fmt
from audit.errors import WindowError
from audit.report import figures, heat, palette, series
from audit.stats.window import STATISTICS, Window
from audit.tables import Tables, write_tables


def a_run(folder, timesteps, images=60, edit=None, seed=0):
    """What the map needs of a Run: one table of random losses, members lower at small t; every third image chose the settings."""
    rng = np.random.default_rng(seed)
    is_member = rng.permutation(images) < images // 2
    losses = np.exp(rng.normal(0, 0.4, (2, images, len(timesteps))) - 0.5 * is_member[:, None] * (np.asarray(timesteps) < 300)).astype(np.float32)
    if edit:
        edit(losses)
    write_tables(folder / "tables", images, {"eps_mse": ("timestep", timesteps), "vlb_bits": ("timestep", timesteps)}, [(0, {"eps_mse": losses, "vlb_bits": losses})])
    return SimpleNamespace(tables=Tables.load(folder / "tables"), is_member=is_member, evaluation=np.arange(images) % 3 > 0, folder=folder)


def slider(run, table, statistic, first, last):
    window = Window(statistic, "time", int(first), int(last))
    return series.slider_step(run.tables[table], window, series.held_out_index(run), series.held_out_members(run)).auc


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("count", [12, 70])
def test_each_cell_is_the_sliders_number(tmp_path, statistic, count):
    run = a_run(tmp_path, np.round(np.linspace(0, 999, count)).astype(int))
    grid = heat.auc_grid(run, "eps_mse", statistic)
    size = len(grid.timesteps)
    assert size == min(count, 25) and grid.cells == size * (size + 1) // 2 <= 325
    for last in range(size):
        for first in range(size):
            if first > last:
                assert np.isnan(grid.auc[last, first])
            else:
                assert grid.auc[last, first] == pytest.approx(slider(run, "eps_mse", statistic, grid.timesteps[first], grid.timesteps[last]), abs=1e-12)


def test_only_held_out_images_count(tmp_path):
    run = a_run(tmp_path, np.arange(0, 1000, 100))
    before = heat.auc_grid(run, "eps_mse", "mean").auc
    flipped = SimpleNamespace(**{k: v for k, v in vars(run).items() if k != "_series"})
    flipped.is_member = np.where(run.evaluation, run.is_member, ~run.is_member)
    np.testing.assert_array_equal(heat.auc_grid(flipped, "eps_mse", "mean").auc, before)
    flipped.evaluation, flipped._series = ~run.evaluation, {}
    assert not np.array_equal(heat.auc_grid(flipped, "eps_mse", "mean").auc, before, equal_nan=True)


def test_steps_that_statistics_may_not_use_are_no_cells(tmp_path):
    run = a_run(tmp_path, np.arange(0, 1000, 100))
    assert heat.auc_grid(run, "vlb_bits", "min").timesteps.tolist() == list(range(100, 1000, 100))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_cell_is_empty_exactly_where_the_slider_refuses(tmp_path, statistic):
    run = a_run(tmp_path, np.arange(0, 1000, 100), edit=lambda x: x.__setitem__((slice(None), slice(None), 4), np.inf))
    grid = heat.auc_grid(run, "eps_mse", statistic)
    assert 0 < grid.cells < 55
    for last, first in zip(*np.tril_indices(10), strict=True):
        try:
            expected = slider(run, "eps_mse", statistic, grid.timesteps[first], grid.timesteps[last])
        except WindowError:
            expected = np.nan
        np.testing.assert_allclose(grid.auc[last, first], expected, atol=1e-12)


def test_medians_of_a_large_table_get_a_coarser_map():
    assert len(heat.coarse(1000, 1000, "median")) == 25
    few = heat.coarse(1000, 10_000, "median")
    assert 5 <= len(few) < 20 and (few[0], few[-1]) == (0, 999)
    assert len(heat.coarse(1000, 10_000, "mean")) == 25
    assert len(heat.coarse(1000, 1_000_000, "median")) == 5


def test_a_click_names_its_window_and_nothing_else_does():
    offered = [0, 53, 105]
    assert heat.clicked([{"customdata": [53, 105]}], offered) == (53, 105)
    assert heat.clicked([{"customdata": {"0": 53, "1": 53}}], offered) == (53, 53)
    for hostile in ([], [{}], [{"customdata": [105, 53]}], [{"customdata": [54, 105]}], [{"customdata": "53"}], [None], [{"customdata": [[0], None]}], [{"customdata": [0]}]):
        assert heat.clicked(hostile, offered) is None, hostile


@pytest.fixture
def grid(tmp_path):
    return heat.auc_grid(a_run(tmp_path, np.arange(0, 1000, 100)), "eps_mse", "mean")


def traces(fig, name):
    return [t for t in json.loads(fig.to_json())["data"] if t.get("name") == name]


def test_markers_carry_the_window_under_them_and_are_never_seen(grid):
    marks = traces(figures.heat_figure(grid), "windows")[0]
    assert len(marks["x"]) == grid.cells
    assert marks["customdata"] == [[x, y] for x, y in zip(marks["x"], marks["y"], strict=True)]
    assert marks["marker"]["opacity"] == marks["selected"]["marker"]["opacity"] == marks["unselected"]["marker"]["opacity"] == 0
    at = {int(t): i for i, t in enumerate(grid.timesteps)}
    for x, y, text in zip(marks["x"], marks["y"], marks["text"], strict=True):
        assert text.endswith(f"AUC {fmt.auc(grid.auc[at[y], at[x]])}")


def test_both_windows_are_marked_where_they_are(grid):
    fig = figures.heat_figure(grid, (100, 400), (200, 300), "calibrated (median)")
    squares, diamond = traces(fig, "your window"), traces(fig, "calibrated (median)")
    assert [(t["x"], t["y"]) for t in squares if t["x"] != [None]] == [([100], [400])] * 2
    assert [(t["x"], t["y"], t["marker"]["symbol"]) for t in diamond] == [([200], [300], "diamond")]
    alone = figures.heat_figure(grid)
    assert not traces(alone, "your window") and not traces(alone, "calibrated")


def test_noise_does_not_fill_the_colour_scale(grid):
    noise = heat.AucGrid(grid.timesteps, np.where(np.isnan(grid.auc), np.nan, 0.5 + 0.01 * np.sin(np.arange(100)).reshape(10, 10)))
    shown = traces(figures.heat_figure(noise), "AUC")[0]
    assert shown["zmin"] <= 0.5 and shown["zmax"] >= 0.7
    assert [c for _, c in shown["colorscale"]] == list(palette.HEAT)
    below = heat.AucGrid(grid.timesteps, np.where(np.isnan(grid.auc), np.nan, 0.2))
    assert traces(figures.heat_figure(below), "AUC")[0]["zmin"] == pytest.approx(0.2), "below chance is shown as it is"
    assert "0.200" in figures.alt(figures.heat_figure(below))

"""audit/stats/window.py and audit/tables.py against a plain NumPy version that keeps every number in memory."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import RequestError, RunFolderError, WindowError
from audit.stats import window as module
from audit.stats.window import STATISTICS, Window, kept_rows, reduce, reduce_draw
from audit.tables import Tables, write_tables

N, S = 45, 3  # 45 is no multiple of the 16 images a block
TIMESTEPS = np.array([0, 3, 10, 25, 80, 200, 500, 900, 999])
UNMEASURED = [2, 8]  # columns that no image has
RANDOM = np.random.default_rng(0)
DRAWS = {
    # one scale per timestep over five orders of magnitude, as losses have
    "eps_mse": RANDOM.gamma(2, 1, (S, N, 9)) * np.geomspace(1e-4, 10, 9),
    "vlb_bits": RANDOM.gamma(2, 1, (S, N, 9)) * np.geomspace(10, 1e-4, 9),
    "reference/vlb_bits": RANDOM.normal(0, 1, (S, N, 9)).round(1),  # negative values and ties
    "full": RANDOM.normal(0, 1, (S, N, 9)),
}
DRAWS = {name: values.astype(np.float32) for name, values in DRAWS.items()}
for table in ("eps_mse", "vlb_bits"):
    DRAWS[table][:, :, UNMEASURED] = np.nan
SINGLE = RANDOM.normal(0, 1, (1, N, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables, written in uneven blocks out of order and derived 16 images at a time."""
    folder = tmp_path_factory.mktemp("run") / "tables"
    blocks = [(first, {k: v[:, first:last] for k, v in DRAWS.items()} | {"nearest": SINGLE[:, first:last]}) for first, last in ((20, 45), (0, 7), (7, 20))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audit.tables.BLOCK_IMAGES", 16)
        write_tables(folder, N, {k: ("timestep", TIMESTEPS) for k in DRAWS} | {"nearest": ("none", None)}, blocks)
    return Tables.load(folder)


def columns(name):
    """(timesteps, float32 (N,M)): what statistics may use; mean over draws in float64, then rounded as stored."""
    mean = DRAWS[name].mean(axis=0, dtype=np.float64).astype(np.float32)
    use = ~np.isnan(mean).all(axis=0)
    if name.endswith("vlb_bits"):
        use &= TIMESTEPS != 0
    return TIMESTEPS[use], mean[:, use]


def naive(values, timesteps, window):
    """The statistic per image with NumPy's own functions in float64."""
    values = values.astype(np.float64)
    if window.truncate_by == "time":
        values = values[:, (timesteps >= window.keep_from) & (timesteps <= window.keep_until)]
    else:
        values = np.sort(values, axis=1)[:, : max(1, math.floor(window.keep_share * values.shape[1] + 1e-9))]
    return {"sum": np.sum, "mean": np.mean, "median": np.median, "min": np.min, "max": np.max}[window.statistic](values, axis=1)


def tolerance(values, window):
    """A sum is a difference of two float32 running sums: each is off by 2^-24 of the largest running sum, which is at most Σ |centred values|."""
    if window.statistic not in ("sum", "mean"):
        return 1e-6 * np.abs(values).max()  # one rounding of a float32
    ordered = np.sort(values, axis=1)
    largest = sum(np.abs(v - v.mean(axis=0)).sum(axis=1).max() for v in (values, ordered))
    return 4 * 2.0**-24 * largest + 1e-9


BY_TIME = [("time", a, b) for a, b in itertools.combinations_with_replacement([0, 3, 10, 25, 80, 200, 500, 900, 999], 2)] + [("time", 1, 24), ("time", -5, 10**6), ("time", 4, 26)]
BY_VALUE = [("value", share) for share in (0.01, 0.1, 1 / 7, 0.3, 0.5, 6 / 7, 0.9, 1.0)]


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("how", BY_TIME + BY_VALUE, ids=str)
def test_every_statistic_and_truncation_is_numpys(tables, name, statistic, how):
    window = Window(statistic, "time", how[1], how[2]) if how[0] == "time" else Window(statistic, "value", keep_share=how[1])
    timesteps, values = columns(name)
    kept = ((timesteps >= how[1]) & (timesteps <= how[2])).sum() if how[0] == "time" else max(1, math.floor(how[1] * len(timesteps) + 1e-9))
    if not kept:
        with pytest.raises(WindowError, match="keeps none"):
            reduce(tables[name], window)
        return
    lo, hi = kept_rows(tables[name], window)
    assert hi - lo == kept
    result = reduce(tables[name], window)
    assert result.dtype == np.float64 and result.shape == (N,)
    assert np.allclose(result, naive(values, timesteps, window), rtol=1e-6, atol=tolerance(values.astype(np.float64), window))


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("how", [("time", 3, 500), ("value", 0.4)], ids=str)
def test_images_can_be_picked_and_draws_looked_at_alone(tables, statistic, how):
    window = Window(statistic, "time", how[1], how[2]) if how[0] == "time" else Window(statistic, "value", keep_share=how[1])
    index = np.array([44, 0, 7, 7])
    mask = np.arange(N) % 3 == 0
    for table in (tables["eps_mse"], tables["vlb_bits"]):
        whole = reduce(table, window)
        assert np.array_equal(reduce(table, window, index), whole[index]) and np.array_equal(reduce(table, window, mask), whole[mask])
        timesteps, _ = columns(table.name)
        for draw in range(S):
            values = DRAWS[table.name][draw][:, np.isin(TIMESTEPS, timesteps)]
            assert np.allclose(reduce_draw(table, window, draw, index), naive(values, timesteps, window)[index], rtol=1e-12)


def test_what_is_not_measured_stays_nan_and_is_not_scored(tables):
    table = tables["eps_mse"]
    assert np.flatnonzero(~table.measured).tolist() == UNMEASURED and np.array_equal(table.measured, table.scored)
    assert np.isnan(table.values[UNMEASURED]).all() and np.isfinite(np.delete(table.values, UNMEASURED, axis=0)).all()
    assert 10 not in table.scored_timesteps
    for suffix in ("prefix", "sorted_values", "sorted_prefix", "centres"):
        assert np.isfinite(getattr(table, suffix)).all()


@pytest.mark.parametrize("name", ["vlb_bits", "reference/vlb_bits"])
def test_t_0_of_the_likelihood_is_stored_but_never_scored(tables, name):
    table = tables[name]
    assert table.measured[0] and not table.scored[0] and np.isfinite(table.values[0]).all()
    everything = Window("max", "value", keep_share=1.0)
    assert np.array_equal(reduce(table, everything), np.nanmax(table.values[1:], axis=0))
    with pytest.raises(WindowError):
        reduce(table, Window("mean", "time", 0, 0))
    assert tables["full"].scored[0]


def test_stored_arrays_are_what_the_index_says(tables):
    assert set(tables) == {*DRAWS, "nearest"}
    for name, draws in DRAWS.items():
        table, (_, values) = tables[name], columns(name)
        assert (table.images, table.draws, table.axis) == (N, S, "timestep") and np.array_equal(table.timesteps, TIMESTEPS)
        assert np.array_equal(table.per_draw, draws.transpose(0, 2, 1), equal_nan=True)
        assert np.array_equal(table.values[table.scored_index], values.T)
        assert np.array_equal(table.sorted_values, np.sort(values, axis=1).T)
        assert table.prefix.shape == table.sorted_prefix.shape == (values.shape[1] + 1, N) and not table.prefix[0].any()
        centred = values.T.astype(np.float64) - values.T.mean(axis=1, dtype=np.float64)[:, None]
        assert np.allclose(table.prefix[1:], np.cumsum(centred, axis=0), rtol=1e-6, atol=1e-7)
    assert tables["nearest"].timesteps is None and np.array_equal(tables["nearest"].values, SINGLE[0].T)


def test_the_block_size_changes_no_number(tables, tmp_path):
    write_tables(tmp_path, N, {k: ("timestep", TIMESTEPS) for k in DRAWS}, [(0, DRAWS)])
    whole = Tables.load(tmp_path)
    for name in DRAWS:
        assert np.array_equal(whole[name].values, tables[name].values, equal_nan=True) and np.array_equal(whole[name].sorted_values, tables[name].sorted_values)
        assert np.allclose(whole[name].centres, tables[name].centres, rtol=1e-14)
        for window in (Window("mean", "time", 0, 999), Window("sum", "value", keep_share=0.6)):
            assert np.allclose(reduce(whole[name], window), reduce(tables[name], window), rtol=1e-6, atol=1e-6)


def test_a_small_loss_behind_a_large_one_keeps_its_digits(tmp_path):
    """A thousand timesteps, all but the last 10^6 times larger and nearly alike for all images: the last one alone still ranks the images rightly."""
    rng, k, name = np.random.default_rng(1), 1000, "eps_mse"
    values = np.concatenate([np.full((1, N, k - 1), 100.0) + rng.normal(0, 1e-3, (1, N, k - 1)), 1e-4 * rng.gamma(2, 1, (1, N, 1))], axis=2).astype(np.float32)
    write_tables(tmp_path, N, {name: ("timestep", np.arange(k))}, [(0, {name: values})])
    far_end = reduce(Tables.load(tmp_path)[name], Window("sum", "time", 999, 999))
    assert np.corrcoef(far_end, values[0, :, -1])[0, 1] > 0.999


@given(st.floats(1e-6, 1.0), st.integers(1, 1000))
def test_the_kept_share_is_floored_but_never_empty(share, m):
    class Scored:
        scored_index = np.arange(m)

    lo, hi = kept_rows(Scored(), Window("mean", "value", keep_share=share))
    assert lo == 0 and 1 <= hi <= m and (hi <= share * m + 1e-6 or hi == 1) and hi > share * m - 1


def test_the_kept_share_forgives_products_of_floats():
    class Scored:
        scored_index = np.arange(100)

    assert kept_rows(Scored(), Window("mean", "value", keep_share=0.29)) == (0, 29)  # 0.29 · 100 is 28.999999999999996


@pytest.mark.parametrize(
    "bad",
    [
        {"statistic": "mode", "keep_from": 0, "keep_until": 1},
        {"truncate_by": "size", "keep_share": 0.5},
        {"truncate_by": "value"},
        {"truncate_by": "value", "keep_share": 0.0},
        {"truncate_by": "value", "keep_share": 1.01},
        {"truncate_by": "value", "keep_share": math.nan},
        {"keep_from": 0},
        {"keep_until": 5},
        {"keep_from": 6, "keep_until": 5},
    ],
)
def test_windows_refuse_bad_values_when_built(bad):
    with pytest.raises(RequestError, match="Expected"):
        Window(**bad)


def test_settings_name_only_what_matters():
    assert Window("max", "value", keep_share=0.5).settings() == {"statistic": "max", "truncate_by": "value", "keep_share": 0.5}
    assert Window("sum", "time", 0, 300).settings() == {"statistic": "sum", "truncate_by": "time", "keep_from": 0, "keep_until": 300}


def test_missing_or_damaged_tables_are_named(tmp_path):
    with pytest.raises(RunFolderError, match="missing or damaged"):
        Tables.load(tmp_path / "gone" / "tables")
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(RunFolderError):
        Tables.load(tmp_path)


@pytest.mark.parametrize("rows", [1, 2, 3, 101, 256])
def test_the_median_is_numpys_bit_for_bit(rows, monkeypatch):
    """In one block, in blocks on two threads, with an infinite loss and with a missing one."""
    monkeypatch.setattr(module, "MEDIAN_BLOCK", 400)
    values = np.random.default_rng(rows).normal(size=(rows, 1500)).astype(np.float32)
    values[rows // 2, 700] = np.inf
    values[0, 3] = np.nan
    images = np.random.default_rng(1).permutation(1500)[:1300]
    with np.errstate(invalid="ignore"):
        expected = np.median(values[:, images], axis=0)
    assert np.array_equal(module._median(values, images), expected, equal_nan=True)

"""The blocked search beside brute force, where float32 is hardest: near copies, far from zero, ties, many blocks."""

import numpy as np
import pytest
import torch

from audit.engine import Stopped
from audit.pool import open_pool, search
from audit.pool.nearest import NEIGHBOURS, Nearest
from audit.pool.search import nearest
from audit.pool.store import PoolFolder
from audit.probes.lowpass import low_pass


def brute(queries, pool, k, transform=None, skip=None):
    """The same by differences in float64."""
    x, g = (torch.from_numpy(a.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1) for a in (queries, pool))
    x, g = ((a if transform is None else transform(a)).flatten(1).double().numpy() for a in (x, g))
    distance = np.sqrt(((x[:, None] - g[None]) ** 2).sum(axis=2))
    if skip is not None:
        distance[skip] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distance, order, 1), order


def crowd(count, seed=0, shape=(12, 12, 3), low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (count, *shape), dtype=np.uint8)


def near_copies():
    """Bright pictures a grey level or two apart, equal ones among them: |x|² is 100,000 times their squared distances."""
    pool = crowd(300, 1, low=250)
    queries = pool[:40].copy()
    queries[::2, 0, 0, 0] ^= 1
    pool[200:210] = pool[:10]
    return queries, pool


@pytest.mark.parametrize("block", [2**12, 2**26])
@pytest.mark.parametrize("transform", [None, low_pass])
@pytest.mark.parametrize("pictures", ["random", "near copies"])
def test_equal_to_brute_force(pictures, transform, block, monkeypatch):
    monkeypatch.setattr(search, "BLOCK_BYTES", block)
    queries, pool = (crowd(50, 2), crowd(400, 3)) if pictures == "random" else near_copies()
    found = nearest(queries, pool, 7, transform=transform)
    distance, index = brute(queries, pool, 7, transform)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6, atol=1e-9)  # each pixel's difference is rounded to float32
    if transform is None:  # ties go to the smaller index; after a filter they are ties no more
        assert np.array_equal(found.index, index)


def test_more_ties_than_spare_candidates_are_settled_by_looking_at_everything(monkeypatch):
    monkeypatch.setattr(search, "BLOCK_BYTES", 2**13)
    pool = np.repeat(crowd(3, 4), 60, axis=0)[np.random.default_rng(5).permutation(180)]
    found = nearest(pool[:20], pool, 3)
    assert np.array_equal(found.index, brute(pool[:20], pool, 3)[1]) and not found.distance.any()


def test_pairs_that_do_not_count_and_pools_that_are_too_small():
    queries, clusters = crowd(30, 6), np.arange(30) // 2
    together = clusters[:, None] == clusters[None]
    found = nearest(queries, queries, 5, skip=lambda a, b: together[:, a:b])
    distance, index = brute(queries, queries, 5, skip=together)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-6)
    assert np.array_equal(found.index, index)
    few = nearest(queries, queries[:3], 5)
    assert np.isinf(few.distance[:, 3:]).all() and (few.index[:, 3:] == -1).all() and np.isfinite(few.distance[:, :3]).all()


def test_a_stop_is_heard_between_blocks(monkeypatch):
    monkeypatch.setattr(search, "BLOCK_BYTES", 2**12)
    asked = []
    with pytest.raises(Stopped):
        nearest(crowd(5), crowd(100), 2, should_stop=lambda: len(asked) == 3 or asked.append(1))
    assert len(asked) == 3


def pool_of(folder, samples):
    return PoolFolder(folder, "k" * 32).finish(len(samples), samples.shape[1:], [samples])


def test_the_measure_fills_its_tables(tmp_path):
    queries, samples = crowd(40, 7), crowd(90, 8)
    samples[5], samples[6] = queries[3], queries[4][:, ::-1]
    pool = pool_of(tmp_path, samples)
    clusters = np.arange(40)
    clusters[1] = 0
    made = Nearest().measure(queries, 0, 40, clusters, pool, "cpu")
    assert {name: values.shape for name, values in made.items()} == {name: (1, 40, k) for name, k in Nearest.TABLES.items()}
    plain, mirrored, around = (made[name][0] for name in ("nearest_pixels", "nearest_pixels_mirrored", "neighbours_pixels"))
    np.testing.assert_allclose(plain, brute(queries, samples, NEIGHBOURS + 1)[0], rtol=1e-6)
    assert plain[3, 0] == 0 and plain[4, 0] > 0 and mirrored[4, 0] == 0 and (mirrored <= plain).all()
    assert made["nearest_sample"][0, 3].tolist() == [5, 5]
    np.testing.assert_allclose(around, brute(queries, queries, NEIGHBOURS, skip=clusters[:, None] == clusters[None])[0], rtol=1e-6)
    np.testing.assert_allclose(made["nearest_lowpass"][0], brute(queries, samples, NEIGHBOURS + 1, low_pass)[0], rtol=1e-6)
    part = Nearest().measure(queries, 10, 25, clusters, pool, "cpu")
    for name, values in made.items():
        np.testing.assert_allclose(part[name], values[:, 10:25], rtol=1e-6)


def test_samples_that_are_left_out_are_nobodys_neighbours_and_small_pools_repeat_the_last(tmp_path):
    queries, samples = crowd(30, 9), crowd(15, 10)
    samples[2] = queries[0]
    whole = pool_of(tmp_path, samples)
    made = Nearest().measure(queries, 0, 30, np.arange(30), open_pool(whole.folder, [2]), "cpu")
    rest = np.delete(samples, 2, axis=0)
    distance, index = brute(queries, rest, 14)
    np.testing.assert_allclose(made["nearest_pixels"][0][:, :14], distance, rtol=1e-6)
    assert (made["nearest_pixels"][0][:, 14:] == made["nearest_pixels"][0][:, 13:14]).all()
    assert np.array_equal(made["nearest_sample"][0][:, 0], np.delete(np.arange(15), 2)[index[:, 0]])

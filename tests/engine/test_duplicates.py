"""Near duplicates: altered copies are found, ordinary pictures of one source are left alone, and the block search is the naive one."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from audit import duplicates
from audit.duplicates import describe, near_duplicates, renumbered, search
from models.imagefiles import pixels_of, read_set

DEMO = Path(__file__).parents[2] / "models" / "demo"
FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")  # Debian's dataset-fashion-mnist


def jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def cropped(image, share):
    """`share` of width and height cut off each side, resized back."""
    height, width = image.shape[:2]
    box = (width * share, height * share, width * (1 - share), height * (1 - share))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box))


def brighter(image, levels):
    return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


# how an altered copy is reported, and the least share that is found among (the demo's 16 x 16, Fashion-MNIST's 28 x 28)
ALTERED = {
    "JPEG 90": (lambda i: jpeg(i, 90), "same", (0.99, 0.99)),
    "JPEG 75": (lambda i: jpeg(i, 75), "same", (0.97, 0.99)),
    "12 levels brighter": (lambda i: brighter(i, 12), "same", (0.99, 0.99)),
    "12 levels darker": (lambda i: brighter(i, -12), "same", (0.99, 0.97)),
    "15 % more contrast": (lambda i: np.clip(i * 1.15, 0, 255).astype(np.uint8), "same", (0.99, 0.99)),
    "1 % cut off each side": (lambda i: cropped(i, 0.01), "same", (0.99, 0.97)),
    "2 % cut off each side": (lambda i: cropped(i, 0.02), "same", (0.94, 0.40)),
    "mirrored": (np.fliplr, "mirrored", (0.99, 0.99)),
    "mirrored, JPEG 85": (lambda i: jpeg(np.ascontiguousarray(np.fliplr(i)), 85), "mirrored", (0.99, 0.97)),
    "a quarter turn": (np.rot90, "rotated 90", (0.99, 0.99)),
    "a half turn": (lambda i: np.rot90(i, 2), "rotated 180", (0.99, 0.99)),
    "three quarter turns": (lambda i: np.rot90(i, 3), "rotated 270", (0.99, 0.99)),
}


def ordinary(source):
    """uint8 (N,H,W) distinct pictures of one source."""
    if source == "demo":
        return np.stack([pixels_of(entry, 1)[..., 0] for name in ("members", "nonmembers") for entry in read_set(DEMO / f"{name}.zip")])
    if not FASHION.exists():
        pytest.skip("dataset-fashion-mnist is not installed")
    from models.demo.draw import read_idx

    return read_idx(FASHION)[:2000]


def found_share(images, change, how, count=150):
    """Share of altered copies, each added to all others as the second set, that are paired with their original under the right name."""
    chosen = np.random.default_rng(0).choice(len(images), count, replace=False)
    everything = np.concatenate([images, np.stack([change(images[i]) for i in chosen])])[..., None]
    pairs = near_duplicates(everything, np.arange(len(everything)) < len(images)).pairs
    named = {(pair["a"], pair["b"]): pair["how"] for pair in pairs}
    right = [named.get((i, len(images) + k)) for k, i in enumerate(chosen)]
    # what is symmetric is found under either name
    return np.mean([name == how or (name is not None and name in ("same", "mirrored") and how in ("same", "mirrored")) for name in right])


@pytest.mark.parametrize("change", ALTERED)
def test_altered_copies_of_the_demo_are_found(change):
    function, how, least = ALTERED[change]
    assert found_share(ordinary("demo"), function, how) >= least[0]


@pytest.mark.slow
@pytest.mark.parametrize("change", ALTERED)
def test_altered_copies_of_fashion_pictures_are_found(change):
    function, how, least = ALTERED[change]
    assert found_share(ordinary("fashion"), function, how) >= least[1]


@pytest.mark.parametrize("source", ["demo", pytest.param("fashion", marks=pytest.mark.slow)])
def test_ordinary_pictures_of_one_source_are_rarely_near_duplicates(source):
    images = ordinary(source)
    found = near_duplicates(images[..., None], np.arange(len(images)) % 2 == 0)
    assert len(np.unique(np.concatenate([found.pairs["a"], found.pairs["b"]]))) <= 0.01 * len(images)
    assert np.bincount(found.cluster).max() <= 3


def test_few_ordinary_pictures_are_no_near_duplicates():
    """Twenty pictures say little about how dense their source is: 200 draws of 20, at most 3 with any pair."""
    images, rng = ordinary("demo"), np.random.default_rng(1)
    assert sum(len(near_duplicates(images[rng.choice(900, 20, replace=False), :, :, None]).pairs) > 0 for _ in range(200)) <= 3


# ---------------------------------------------------------------------- what is returned


def smooth(count, size=(20, 20), channels=1, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 7, 7, 3), dtype=np.uint8)
    resized = np.stack([np.asarray(Image.fromarray(c).resize(size[::-1], Image.Resampling.BICUBIC)) for c in coarse])
    return resized[..., :channels]


def test_pairs_are_ordered_and_named_by_how_a_becomes_b():
    images = smooth(30)
    everything = np.concatenate([images, np.rot90(images[4])[None], np.fliplr(images[7])[None], jpeg(images[9, ..., 0], 60)[None, ..., None]])
    pairs = near_duplicates(everything).pairs
    assert {(int(p["a"]), int(p["b"]), str(p["how"])) for p in pairs} == {(4, 30, "rotated 90"), (7, 31, "mirrored"), (9, 32, "same")}
    assert pairs["correlation"].tolist() == sorted(pairs["correlation"], reverse=True) and pairs["correlation"][:2] == pytest.approx(1, abs=1e-5)
    turned_back = near_duplicates(everything[::-1]).pairs
    assert {(int(p["a"]), int(p["b"]), str(p["how"])) for p in turned_back} == {(2, 28, "rotated 270"), (1, 25, "mirrored"), (0, 23, "same")}


def test_clusters_are_of_one_set_and_count_from_0():
    images = smooth(12)
    near = [jpeg(images[i, ..., 0], 80)[..., None] for i in (3, 3, 5)]
    near[1] = np.fliplr(near[1])
    everything = np.concatenate([images, near])
    cluster = near_duplicates(everything).cluster
    assert cluster.tolist() == [*range(12), 3, 3, 5]
    apart = near_duplicates(everything, np.arange(15) != 14)
    assert apart.cluster.tolist() == [*range(12), 3, 3, 12] and {(5, 14)} <= {(int(p["a"]), int(p["b"])) for p in apart.pairs}


def test_a_picture_of_other_colours_is_another_picture():
    images = smooth(20, channels=3)
    swapped = images[2][..., [2, 1, 0]].astype(float)
    swapped += ((images[2] - swapped) @ duplicates.GREY)[..., None]  # same grey, red and blue changed places
    everything = np.concatenate([images, swapped.clip(0, 255).astype(np.uint8)[None], np.rot90(images[3], 3)[None], brighter(images[5], 9)[None]])
    assert {(int(p["a"]), int(p["b"]), str(p["how"])) for p in near_duplicates(everything).pairs} == {(3, 21, "rotated 270"), (5, 22, "same")}


def test_ten_copies_of_one_picture_are_one_cluster():
    images = smooth(40, seed=2)
    everything = np.concatenate([images, *[jpeg(images[0, ..., 0], q)[None, ..., None] for q in range(50, 95, 5)]])
    assert near_duplicates(everything).cluster.tolist() == [*range(40), *[0] * 9]


def test_flat_small_and_few_pictures():
    flat = np.full((5, 12, 12, 1), 90, np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None]
    assert not len(near_duplicates(flat).pairs) and near_duplicates(flat).cluster.tolist() == list(range(5))
    for count in (0, 1, 2, 3):
        assert near_duplicates(smooth(3)[:count]).cluster.tolist() == list(range(count))
    pair = smooth(1)
    assert near_duplicates(np.concatenate([pair, np.fliplr(pair[0])[None]])).pairs["how"].tolist() == ["mirrored"]
    assert near_duplicates(np.random.default_rng(0).integers(0, 256, (9, 2, 3, 3), dtype=np.uint8)).cluster.shape == (9,)


def test_a_descriptor_has_length_1_and_no_mean():
    for shape in ((20, 20, 1), (37, 16, 3), (5, 9, 3)):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        d = describe(image)
        side = min(16, *shape[:2])
        assert d.dtype == np.float32 and np.linalg.norm(d) == pytest.approx(1, abs=1e-6) and d[: side * side].sum() == pytest.approx(0, abs=1e-4)
    assert len(describe(smooth(1, channels=3)[0])) == 256 + 32
    assert not describe(np.full((8, 8, 3), 77, np.uint8)).any()


@pytest.mark.parametrize("size", [(28, 28), (16, 16), (30, 22), (64, 64), (7, 7)])
def test_areas_are_averages_and_mirror_exactly(size):
    plane = np.random.default_rng(0).random(size).astype(np.float32)
    side = min(16, *size)
    small = duplicates._reduced(plane, side)
    assert small.mean() == pytest.approx(plane.mean(), rel=1e-5)
    assert duplicates._reduced(np.ascontiguousarray(plane[:, ::-1]), side) == pytest.approx(small[:, ::-1], abs=1e-6)
    if size == (64, 64):
        assert small == pytest.approx(plane.reshape(16, 4, 16, 4).mean(axis=(1, 3)), abs=1e-6)


# ---------------------------------------------------------------------- the search


def naive(descriptors, shape, members):
    """Every pair and turn one by one, float64."""
    turns = duplicates._turned_indices(shape)
    quarter = turns["rotated 90"]
    turns = {"same": np.arange(len(quarter)), **turns, "rotated 270": quarter[quarter][quarter]}
    d = descriptors.astype(np.float64)
    count = len(d)
    plain = 1 - d @ d.T
    limit = np.full(count, 0.003)
    for i in range(count):
        others = np.sort(np.delete(plain[i], i))
        if count > 2:
            limit[i] = np.clip(0.2 * others[min(10, count - 2) - 1], 0.003, 0.02)
    out = {}
    for i in range(count):
        for j in range(i + 1, count):
            best = max(((d[i][turns[how]] @ d[j], how) for how in turns), key=lambda pair: round(pair[0], 6))
            if 1 - best[0] <= min(limit[i], limit[j]):
                out[i, j] = best
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.integers(2, 40), st.booleans())
def test_the_search_is_the_naive_one(seed, channels, count, blocks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "ALIKE_PAIRS", 10**9)  # copies spread over all turns here
        rng = np.random.default_rng(seed)
        images = smooth(count, size=(12, 12), channels=channels, seed=seed)
        for k in range(1, count, 3):  # every third is an altered copy
            turned = [np.fliplr, np.rot90, lambda i: np.rot90(i, 2), lambda i: np.rot90(i, 3), lambda i: i][rng.integers(5)](images[rng.integers(k)])
            images[k] = brighter(turned, int(rng.integers(-30, 30)))
        descriptors = np.stack([describe(i) for i in images])
        members = rng.random(count) < 0.5
        with pytest.MonkeyPatch.context() as patch:
            if blocks:
                patch.setattr(duplicates, "BLOCK_VALUES", 7 * count)
            found = search(descriptors, (channels, 12, 12), members)
        expected = naive(descriptors, (channels, 12, 12), members)
        got = {(int(p["a"]), int(p["b"])): float(p["correlation"]) for p in found.pairs}
        assert set(got) == set(expected)
        assert all(got[key] == pytest.approx(expected[key][0], abs=2e-6) for key in got)  # float32 products
        joined = {frozenset((i, j)) for i in range(count) for j in range(i) if found.cluster[i] == found.cluster[j]}
        assert {frozenset(key) for key in got if members[key[0]] == members[key[1]]} <= joined and all(members[i] == members[j] for i, j in map(tuple, joined))


@pytest.mark.parametrize("seed", range(2))
def test_both_images_must_find_the_other_outstanding(seed):
    """Points of a three-dimensional source, so crowded that the limits lie between 0.003 and 0.02 and differ from image to image."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(150, 3)) @ rng.normal(size=(3, 49))
    descriptors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    found = search(descriptors, (1, 7, 7))
    got = {(int(p["a"]), int(p["b"])) for p in found.pairs}
    assert len(got) > 20 and got == set(naive(descriptors, (1, 7, 7), None))


def test_a_set_of_equal_descriptors_keeps_few_pairs_and_one_cluster_a_set(monkeypatch):
    """600 images that are all alike: 180,000 pairs, of which 16 a row, set and turn are remembered."""
    one = describe(smooth(1)[0])
    members = np.arange(600) < 200
    found = search(np.tile(one, (600, 1)), (1, 20, 20), members)
    assert len(found.pairs) <= 600 * 2 * 16 * 5 and len(np.unique(found.cluster)) == 2
    across = found.pairs[members[found.pairs["a"]] != members[found.pairs["b"]]]
    assert len(np.unique(np.concatenate([across["a"], across["b"]]))) == 600


def test_the_search_can_be_stopped_between_blocks():
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(np.stack([describe(i) for i in smooth(12)]), (1, 20, 20), None, stop)


def test_renumbered_keeps_groups():
    assert renumbered(np.array([7, 2, 7, 9, 2])).tolist() == [0, 1, 0, 2, 1] and renumbered(np.array([], int)).tolist() == []


def blobs(count, seed):
    """uint8 (N,8,8,1): soft round blobs; any two in mirrored or turned places are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:8, 0:8]
    centre, width = rng.uniform(1, 6, (2, count, 1, 1)), rng.uniform(1.5, 3, (count, 1, 1))
    return np.round(200 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))).astype(np.uint8)[..., None]


@pytest.mark.parametrize("count", [48, 400])
def test_pictures_that_are_alike_by_nature_are_left_alone(count):
    found = near_duplicates(blobs(count, 0), np.arange(count) % 2 == 0)
    assert found.alike and not len(found.pairs) and np.array_equal(found.cluster, np.arange(count))


def test_copies_among_them_are_still_seen():
    """Half of the set are copies of the other half, a little brighter: upright pairs now outnumber turned ones."""
    images = blobs(24, 1)
    found = near_duplicates(np.concatenate([images, images + 4]), np.arange(48) < 24)
    assert not found.alike and all(any((p["a"], p["b"]) == (i, i + 24) for p in found.pairs) for i in range(24))

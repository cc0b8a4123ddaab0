"""The splitter: fair coins per group of near duplicates, a manifest that can be drawn again, copies for a trainer, and refusals in one line."""

import hashlib
import io
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom

from audit.cli import main
from audit.errors import ImageSetError, RequestError
from audit.provenance import read_manifest
from audit.splitter import draw_roles, split
from models.imagefiles import read_set
from models.manifest import coin, images_sha256


def picture(seed, size=12, channels=None):
    shape = (size, size) if channels is None else (size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels, **how):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", **how)
    return buffer.getvalue()


@pytest.fixture
def same_thumbnail(monkeypatch):
    """In place of the search for near duplicates: pictures that are equal once decoded share a group. The fixture collects what was handed over."""
    seen = []

    def near_duplicates(pixels, is_member):
        seen.append(pixels)
        _, cluster = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_inverse=True)
        return types.SimpleNamespace(cluster=cluster.ravel(), pairs=[])

    monkeypatch.setitem(sys.modules, "audit.duplicates", types.SimpleNamespace(near_duplicates=near_duplicates))
    return seen


@pytest.fixture
def folder(tmp_path, same_thumbnail):
    """60 pictures in two sub-folders, two of them once more in another file, and two files that are no picture."""
    root = tmp_path / "photos"
    for number in range(60):
        file = root / ("a" if number % 2 else "b") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(picture(number)))
    (root / "copy of 7.png").write_bytes(png(picture(7)))
    (root / "8 again.png").write_bytes(png(picture(8), compress_level=1))
    (root / "broken.png").write_bytes(b"\x89PNG")
    (root / "notes.txt").write_text("no picture")
    return root


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def by_path(manifest):
    return {image["path"]: image for image in manifest["images"]}


def test_the_manifest_holds_every_picture_with_its_hash_cluster_and_role(folder, tmp_path):
    drawn = split(folder, tmp_path / "split.json", seed=3)
    manifest = json.loads((tmp_path / "split.json").read_text())
    assert manifest == drawn.manifest and (manifest["afterimage_split"], manifest["seed"], manifest["source"]) == (1, 3, "photos")
    images = by_path(manifest)
    assert len(images) == 62 and images["a/7.png"]["sha256"] == digest(folder / "a/7.png")
    assert manifest["sha256"] == images_sha256(manifest["images"])
    assert sorted(name for name, _ in drawn.left_out) == ["broken.png", "notes.txt"] and drawn.sharing == 4
    assert sum(drawn.counts.values()) == 62 and drawn.counts["training"] == 0


def test_near_duplicates_share_their_coin(folder, tmp_path):
    for seed in range(12):
        images = by_path(split(folder, tmp_path / f"{seed}.json", seed=seed).manifest)
        for one, other in (("a/7.png", "copy of 7.png"), ("b/8.png", "8 again.png")):
            assert (images[one]["cluster"], images[one]["role"]) == (images[other]["cluster"], images[other]["role"])
        assert len({image["cluster"] for image in images.values()}) == 60


def test_equal_files_share_their_coin_even_where_the_search_misses_them(folder, tmp_path, monkeypatch):
    apart = types.SimpleNamespace(near_duplicates=lambda pixels, is_member: types.SimpleNamespace(cluster=np.arange(len(pixels)), pairs=[]))
    monkeypatch.setitem(sys.modules, "audit.duplicates", apart)
    images = by_path(split(folder, tmp_path / "split.json", seed=1).manifest)
    assert images["a/7.png"]["cluster"] == images["copy of 7.png"]["cluster"] and len({image["cluster"] for image in images.values()}) == 61


def test_the_same_seed_draws_the_same_roles_in_any_order_and_another_seed_others(folder, tmp_path):
    one, same, other = (split(folder, tmp_path / f"{n}.json", seed=seed).manifest for n, seed in enumerate((5, 5, 6)))
    assert one["images"] == same["images"] and one["images"] != other["images"]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in sorted(folder.rglob("*.*"), reverse=True):
            archive.write(file, "z" + file.name)
    zipped = {image["sha256"]: image["role"] for image in split(tmp_path / "photos.zip", tmp_path / "z.json", seed=5).manifest["images"]}
    assert zipped == {image["sha256"]: image["role"] for image in one["images"]}


def test_without_a_seed_each_split_is_new(folder, tmp_path):
    seeds = {split(folder, tmp_path / f"{n}.json").manifest["seed"] for n in range(3)}
    assert len(seeds) == 3


def test_the_coins_are_fair_and_independent():
    keys = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(2000)]
    tossed = np.array([[coin(seed, key) for key in keys] for seed in range(5)])
    low, high = binom.interval(0.9999, len(keys), 0.5)
    assert all(low <= row.sum() <= high for row in tossed), "fair"
    assert all(low <= (tossed[a] == tossed[b]).sum() <= high for a in range(5) for b in range(a)), "another seed tells nothing"
    assert low <= (tossed[0][1:] == tossed[0][:-1]).sum() <= high, "nor does the neighbour"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 45), st.randoms())
def test_roles_go_by_whole_clusters_and_do_not_depend_on_the_order(seed, clusters, query, random):
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(len(clusters))]
    roles = draw_roles(hashes, clusters, seed, query)
    assert all(len({role for role, c in zip(roles, clusters, strict=True) if c == cluster}) == 1 for cluster in set(clusters))
    drawn = sum(role != "training" for role in roles)
    left_out = [clusters.count(c) for c in set(clusters) if roles[clusters.index(c)] == "training"]
    assert drawn <= query and all(drawn + size > query for size in left_out), "as many as fit"
    order = list(range(len(clusters)))
    random.shuffle(order)
    assert draw_roles([hashes[i] for i in order], [clusters[i] for i in order], seed, query) == [roles[i] for i in order]


def test_query_leaves_the_rest_for_training_and_changes_no_coin(folder, tmp_path):
    drawn, whole = split(folder, tmp_path / "q.json", seed=2, query=30), by_path(split(folder, tmp_path / "w.json", seed=2).manifest)
    assert drawn.counts["training"] == 32 and drawn.counts["member"] + drawn.counts["nonmember"] == 30
    assert all(image["role"] in ("training", whole[path]["role"]) for path, image in by_path(drawn.manifest).items())
    assert "30 images" in drawn.manifest["rule"] and read_manifest(tmp_path / "q.json").seed == 2


def test_which_images_are_queried_is_drawn_too():
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(400)]
    queried = np.array([[role != "training" for role in draw_roles(hashes, range(400), seed, 100)] for seed in range(20)])
    low, high = binom.interval(0.9999, 20 * 200, 0.25)
    assert (queried.sum(axis=1) == 100).all() and low <= queried[:, :200].sum() <= high, "the first files are no likelier than the last"
    members = np.array([[role == "member" for role in draw_roles(hashes, range(400), seed, 100)] for seed in range(20)])
    low, high = binom.interval(0.9999, 2000, 0.5)
    assert low <= members.sum() <= high


def test_copies_of_a_folder_can_be_trained_on_and_audited(folder, tmp_path):
    manifest = split(folder, tmp_path / "s.json", seed=4, query=40, copy=tmp_path / "drawn").manifest
    for role, name in (("member", "members"), ("nonmember", "nonmembers"), ("training", "training")):
        copied = {entry.name: hashlib.sha256(entry.data).hexdigest() for entry in read_set(tmp_path / "drawn" / name)}
        assert copied == {image["path"]: image["sha256"] for image in manifest["images"] if image["role"] == role}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drawn", "photos", "s.json"], "nothing half-written stays"


def test_names_in_a_zip_never_lead_out_of_the_copies(tmp_path, same_thumbnail):
    names = ["../out.png", "/abs.png", "a\\..\\..\\b.png", "C:/x.png", "same.png", "ok/fine.png", "same.png/inner.png"] + [f"{n}.png" for n in range(20)]
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, png(picture(number)))
    (tmp_path / "deep").mkdir()
    split(tmp_path / "in.zip", tmp_path / "s.json", seed=0, copy=tmp_path / "deep" / "drawn")
    files = [p for p in tmp_path.rglob("*.png") if p.is_file()]
    assert len(files) == 27 and all(p.is_relative_to(tmp_path / "deep" / "drawn") for p in files)
    assert {p.name for p in files} >= {"fine.png", "same.png", "3.png"}


def test_an_npz_is_split_by_its_arrays_and_copied_as_arrays(tmp_path, same_thumbnail):
    images = np.stack([picture(n, channels=3) for n in range(40)])
    np.savez_compressed(tmp_path / "all.npz", images=images)
    manifest = split(tmp_path / "all.npz", tmp_path / "s.json", seed=9, copy=tmp_path / "drawn").manifest
    assert manifest["images"][3] | {"role": "", "cluster": 0} == {"path": "images[3]", "sha256": hashlib.sha256(images[3].tobytes()).hexdigest(), "cluster": 0, "role": ""}
    rows = {role: [n for n, image in enumerate(manifest["images"]) if image["role"] == role] for role in ("member", "nonmember")}
    for role, name in (("member", "members.npz"), ("nonmember", "nonmembers.npz")):
        assert np.array_equal(np.load(tmp_path / "drawn" / name)["images"], images[rows[role]])


def test_pictures_of_different_sizes_are_compared_at_one_size(tmp_path, same_thumbnail):
    root = tmp_path / "mixed"
    root.mkdir()
    for number in range(24):
        (root / f"{number}.png").write_bytes(png(picture(number, size=20 + 10 * (number % 4), channels=3)))
    split(root, tmp_path / "s.json")
    assert same_thumbnail[0].shape == (24, 32, 32, 1) and same_thumbnail[0].dtype == np.uint8


def test_the_real_search_finds_a_mirrored_copy(tmp_path):
    pytest.importorskip("audit.duplicates")
    root = tmp_path / "photos"
    root.mkdir()
    smooth = [np.asarray(Image.fromarray(picture(n, size=6)).resize((32, 32), Image.Resampling.BICUBIC)) for n in range(30)]
    for number, pixels in enumerate(smooth):
        (root / f"{number}.png").write_bytes(png(pixels))
    (root / "mirror.png").write_bytes(png(np.ascontiguousarray(smooth[4][:, ::-1])))
    images = by_path(split(root, tmp_path / "s.json", seed=1).manifest)
    assert images["mirror.png"]["cluster"] == images["4.png"]["cluster"] and len({image["cluster"] for image in images.values()}) == 30


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"out": "photos"}, RequestError, "photos exists, and a split is drawn once"),
        ({"out": "nowhere/s.json"}, RequestError, "the folder nowhere was not found"),
        ({"query": 5}, RequestError, "--query is 5. Expected at least 20"),
        ({"query": 63}, RequestError, "--query is 63, and photos holds 62 images"),
        ({"seed": -1}, RequestError, "--seed is -1"),
        ({"copy": "photos"}, RequestError, "photos exists and is not an empty folder"),
        ({"copy": "photos/in"}, RequestError, "lies inside photos"),
        ({"copy": "no/where"}, RequestError, "the folder no was not found"),
        ({"source": "elsewhere"}, ImageSetError, "elsewhere was not found"),
        ({"source": "photos/notes.txt"}, ImageSetError, "notes.txt is not an image set"),
        ({"source": "empty"}, ImageSetError, "empty holds 0 images"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(folder, tmp_path, change, error, words):
    (tmp_path / "empty").mkdir()
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    arguments = {"source": "photos", "out": "s.json"} | change
    arguments |= {name: tmp_path / arguments[name] for name in ("source", "out", "copy") if name in arguments}
    with pytest.raises(error, match=words) as caught:
        split(**arguments)
    assert "\n" not in str(caught.value) and sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_too_few_pictures_or_too_few_different_ones(tmp_path, same_thumbnail):
    for name, count, different in (("few", 19, 19), ("same", 40, 19)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").write_bytes(png(picture(number % different)))
    with pytest.raises(ImageSetError, match=r"few holds 19 images that can be read\. Expected at least 20"):
        split(tmp_path / "few", tmp_path / "s.json")
    with pytest.raises(ImageSetError, match="40 images in 19 groups of near duplicates"):
        split(tmp_path / "same", tmp_path / "s.json")


def test_the_command_prints_counts_and_the_next_two_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["split", "photos", "--out", "s.json", "--seed", "4", "--query", "40", "--copy", "my drawn"]) == 0
    out, err = capsys.readouterr()
    roles = [image["role"] for image in json.loads(Path("s.json").read_text())["images"]]
    assert err == "" and f"{roles.count('member')} members, {roles.count('nonmember')} non-members, 22 for training only" in out
    assert "62 images read, 2 left out" in out and "4 of them share their coin" in out and "would be found in 4 audits of 5" in out
    assert "python -m models.train --images 'my drawn/members' --images 'my drawn/training' --out MODEL" in out
    assert "python -m audit run --checkpoint MODEL --members 'my drawn/members' --nonmembers 'my drawn/nonmembers' --manifest s.json" in out
    assert main(["split", "photos", "--out", "s.json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: s.json exists") and err.count("\n") == 1

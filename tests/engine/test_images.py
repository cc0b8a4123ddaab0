"""From two sets of files to the query images: one path for both, everything left out is named, and bad sets are refused in one line."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.errors import ImageSetError
from audit.images import QuerySet, prepare, write_thumbnails
from models.pixels import fit, image_id

GREY, RGB = (1, 8, 8), (3, 8, 8)


def pictures(count, shape=(8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def save(folder, arrays, start=0, suffix=".png"):
    """img0.png, img1.png, …; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays, start):
        Image.fromarray(array).save(folder / f"img{i}{suffix}")
    return folder


@pytest.fixture
def sets(tmp_path):
    """(members, nonmembers): two folders of 12 and 11 grey PNG files of 8 x 8, all different."""
    return save(tmp_path / "cats", pictures(12)), save(tmp_path / "dogs", pictures(11, seed=1))


def files_of(sets):
    """Paths of both folders in natural order."""
    return [folder / f"img{i}.png" for folder in sets for i in range(len(list(folder.iterdir())))]


def photo(count=1, size=(24, 24), seed=0):
    """Smooth grey pictures, uint8 (count,*size): re-encoding and small crops leave them nearly as they are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize(size[::-1], Image.Resampling.BICUBIC)) for c in coarse])


def refused(members, nonmembers, tmp_path, shape=GREY):
    """The message of the ImageSetError, after checking that it is one line, shows no path and left nothing behind."""
    with pytest.raises(ImageSetError) as caught:
        prepare(members, nonmembers, shape, tmp_path / "run")
    text = str(caught.value)
    assert "\n" not in text and str(tmp_path) not in text
    assert not [p for p in (tmp_path / "run").glob("*")]
    return text


# ---------------------------------------------------------------------- what is written


def test_images_and_queries_are_written_members_first_in_natural_order(sets, tmp_path):
    found = prepare(*sets, GREY, tmp_path / "run")
    pixels = np.load(tmp_path / "run" / "images.npy")
    assert pixels.dtype == np.uint8 and np.array_equal(pixels[..., 0], np.concatenate([pictures(12), pictures(11, seed=1)]))
    queries = json.loads((tmp_path / "run" / "queries.json").read_text())
    assert [q["path"] for q in queries["images"]] == [f"img{i}.png" for i in range(12)] + [f"img{i}.png" for i in range(11)]
    assert [q["is_member"] for q in queries["images"]] == [True] * 12 + [False] * 11
    assert [q["image_id"] for q in queries["images"]] == [image_id(p) for p in pixels]
    assert (queries["members"], queries["nonmembers"], queries["left_out"]) == (12, 11, [])
    duplicates = queries["duplicates"]
    assert "left out" in duplicates.pop("rule") and duplicates == {"exact": 0, "pairs": [], "near": 0, "clusters": 0, "near_pairs": []}
    assert [q["cluster"] for q in queries["images"]] == list(range(23))
    assert [q["source_sha256"] for q in queries["images"]] == [hashlib.sha256(f.read_bytes()).hexdigest() for f in files_of(sets)]
    assert queries["preprocessing"] == {"crop": "center", "filter": "bicubic", "size": [8, 8]}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["features.npz", "images.npy", "queries.json"]
    loaded = QuerySet.load(tmp_path / "run")
    assert loaded == found and len(loaded) == 23 and np.array_equal(loaded.pixels, pixels) and loaded.is_member.sum() == 12


def test_a_folder_a_zip_and_an_npz_of_the_same_pictures_are_the_same_set(sets, tmp_path):
    folder, other = sets
    zipped, packed = tmp_path / "cats.zip", tmp_path / "cats.npz"
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"deep/er/{file.name}")
    np.savez(packed, images=pictures(12)[..., None])
    ids = [[q["image_id"] for q in prepare(members, other, GREY, tmp_path / f"run{i}").images] for i, members in enumerate((folder, zipped, packed))]
    assert ids[0] == ids[1] == ids[2]
    assert prepare(zipped, other, GREY, tmp_path / "z").images[3]["path"] == "deep/er/img3.png" and prepare(packed, other, GREY, tmp_path / "p").images[3]["path"] == "images[3]"


def test_both_sets_take_the_same_path_to_the_models_size(sets, tmp_path):
    large = pictures(12, (30, 20), seed=2)
    found = prepare(save(tmp_path / "large", large), sets[1], GREY, tmp_path / "run")
    assert np.array_equal(found.pixels[:12], [fit(p[..., None], (8, 8), "bicubic") for p in large])
    assert found.resized == {"members": 12, "nonmembers": 0} and found.modes == {"members": {"20 x 30 grey PNG": 12}, "nonmembers": {"8 x 8 grey PNG": 11}}


def test_grey_palette_alpha_and_jpeg_become_what_a_colour_model_takes(tmp_path):
    members = save(tmp_path / "m", pictures(10, (8, 8, 3)))
    grey, alpha = pictures(1)[0], np.dstack([pictures(1, (8, 8, 3), seed=3)[0], np.full((8, 8), 128, np.uint8)])
    Image.fromarray(grey).save(members / "x1.png")
    Image.fromarray(alpha).save(members / "x2.png")
    Image.fromarray(grey).convert("P").save(members / "x3.png")
    Image.fromarray(pictures(1, (8, 8, 3), seed=4)[0]).save(members / "x4.jpg")
    found = prepare(members, save(tmp_path / "n", pictures(10, (8, 8, 3), seed=5)), RGB, tmp_path / "run")
    assert found.modes["members"] == {"8 x 8 RGB PNG": 10, "8 x 8 grey PNG": 1, "8 x 8 RGBA PNG": 1, "8 x 8 palette PNG": 1, "8 x 8 RGB JPEG": 1}
    assert np.array_equal(found.pixels[10], np.repeat(grey[..., None], 3, axis=-1)) and found.duplicates["pairs"][0]["left_out"] == ["x3.png"]
    assert np.abs(found.pixels[11].astype(float) - alpha[..., :3] * (128 / 255)).max() <= 1


def test_the_same_picture_has_the_same_id_wherever_it_lies(sets, tmp_path):
    first = prepare(*sets, GREY, tmp_path / "a").images[5]["image_id"]
    moved = tmp_path / "moved"
    shutil.copytree(sets[0], moved / "sub" / "sub")
    (moved / "sub" / "sub" / "img5.png").rename(moved / "elsewhere.png")
    again = prepare(moved, sets[1], GREY, tmp_path / "b").images
    assert next(q["image_id"] for q in again if q["path"] == "elsewhere.png") == first


def test_progress_counts_every_file_and_may_stop(sets, tmp_path):
    seen = []
    prepare(*sets, GREY, tmp_path / "run", on_progress=seen.append)
    assert seen[:23] == list(range(1, 24)) and set(seen[23:]) == {23} and len(seen) == 23 + 4  # once in each of the four searches: no turn, mirror, quarter, half

    def stop(files):
        if files == 15:
            raise KeyboardInterrupt

    def stop_late(files):
        last.append(files)
        if last.count(23) == 3:
            raise KeyboardInterrupt

    last = []
    for stopper in (stop, stop_late):
        with pytest.raises(KeyboardInterrupt):
            prepare(*sets, GREY, tmp_path / "stopped", on_progress=stopper)
        assert not list((tmp_path / "stopped").iterdir())


# ---------------------------------------------------------------------- left out


def test_files_that_cannot_be_used_are_named_with_the_reason(sets, tmp_path):
    members = sets[0]
    (members / "a.txt").write_text("notes")
    (members / "b.png").write_bytes(b"")
    (members / "c.png").write_bytes((members / "img0.png").read_bytes()[:60])
    (members / "d.jpg").write_text("<html>")
    Image.fromarray(pictures(1, (8, 8, 3))[0]).save(members / "e.png")
    (members / "f\udcff.png").write_bytes(b"?")
    (members / "Thumbs.db").write_bytes(b"?")
    os.symlink(members / "gone.png", members / "h.png")
    found = prepare(*sets, GREY, tmp_path / "run")
    reasons = {entry["path"]: entry["reason"] for entry in found.left_out}
    assert all(entry["set"] == "members" for entry in found.left_out) and found.members == 12
    assert set(reasons) == {"a.txt", "b.png", "c.png", "d.jpg", "e.png", "f\\udcff.png", "h.png"} and all(reasons.values())
    assert reasons["a.txt"] == "not an image file" and "colour" in reasons["e.png"] and "damaged" in reasons["c.png"] and "not a PNG" in reasons["d.jpg"]


def test_a_picture_twice_in_a_set_is_kept_once(sets, tmp_path):
    shutil.copy(sets[0] / "img3.png", sets[0] / "copy.png")
    Image.open(sets[0] / "img3.png").save(sets[0] / "img99.bmp")
    found = prepare(*sets, GREY, tmp_path / "run")
    names = [q["path"] for q in found.images if q["is_member"]]
    assert found.members == 12 and "copy.png" in names and "img3.png" not in names  # the first in natural order stays
    assert found.duplicates["exact"] == 2 and found.duplicates["pairs"] == [
        {"image_id": image_id(pictures(12)[3][..., None]), "set": "members", "kept": "copy.png", "left_out": ["img3.png", "img99.bmp"]}
    ]
    assert np.array_equal(found.pixels[..., 0], np.concatenate([pictures(12)[3:4], np.delete(pictures(12), 3, axis=0), pictures(11, seed=1)]))


def test_few_pictures_in_both_sets_leave_both(tmp_path):
    members, others = save(tmp_path / "m", pictures(40)), save(tmp_path / "n", pictures(30, seed=1))
    shutil.copy(members / "img7.png", others / "z1.png")
    shutil.copy(members / "img7.png", others / "z2.png")
    found = prepare(members, others, GREY, tmp_path / "run")
    assert (found.members, found.nonmembers) == (39, 30) and "img7.png" not in [q["path"] for q in found.images if q["is_member"]]
    assert (found.duplicates["exact"], found.duplicates["near"]) == (3, 0)
    assert found.duplicates["pairs"] == [{"image_id": image_id(pictures(40)[7][..., None]), "set": "both", "kept": None, "left_out": ["img7.png", "z1.png", "z2.png"]}]
    assert np.array_equal(found.pixels[..., 0], np.concatenate([np.delete(pictures(40), 7, axis=0), pictures(30, seed=1)]))


@pytest.mark.parametrize(("shared", "allowed"), [(2, True), (3, False)])
def test_more_than_five_per_cent_in_both_sets_is_refused(shared, allowed, tmp_path):
    """40 and 50 pictures: 2 of 40 are exactly 5 %."""
    members, others = save(tmp_path / "m", pictures(40)), save(tmp_path / "n", pictures(50 - shared, seed=1))
    save(others, pictures(40)[:shared], start=100)
    if allowed:
        assert prepare(members, others, GREY, tmp_path / "run").members == 38
    else:
        text = refused(members, others, tmp_path)
        assert text == "3 files are in both folders (first: img0.png). An image cannot be member and non-member: remove them from one side."


# ---------------------------------------------------------------------- near duplicates

NEAR = (1, 24, 24)


@pytest.fixture
def photos(tmp_path):
    """Two folders of 60 and 50 smooth pictures; arrays of both."""
    ours, theirs = photo(60), photo(50, seed=1)
    return save(tmp_path / "m", ours), save(tmp_path / "n", theirs), ours, theirs


def test_near_duplicates_across_the_sets_leave_both_with_pictures(photos, tmp_path):
    members, others, ours, theirs = photos
    Image.fromarray(ours[7]).save(others / "z1.jpg", quality=80)
    save(members, [np.rot90(theirs[3])], start=90)
    found = prepare(members, others, NEAR, tmp_path / "run")
    assert (found.members, found.nonmembers, found.duplicates["near"], found.duplicates["exact"], found.duplicates["clusters"]) == (59, 49, 4, 0, 0)
    names = [(q["path"], q["is_member"]) for q in found.images]
    assert not {("img7.png", True), ("img90.png", True), ("z1.jpg", False), ("img3.png", False)} & set(names)
    assert np.array_equal(found.pixels[..., 0], np.concatenate([np.delete(ours, 7, axis=0), np.delete(theirs, 3, axis=0)]))
    assert [(entry["path"], entry["set"], entry["of"]) for entry in found.left_out] == [
        ("img7.png", "members", "z1.jpg"), ("img90.png", "members", "img3.png"), ("img3.png", "nonmembers", "img90.png"), ("z1.jpg", "nonmembers", "img7.png"),
    ]  # fmt: skip
    assert {entry["reason"] for entry in found.left_out} == {"near duplicate in the other set"}
    turned, encoded = found.duplicates["near_pairs"]
    assert [turned[key] for key in ("a_path", "a_set", "b_path", "b_set", "how", "left_out")] == ["img90.png", "members", "img3.png", "nonmembers", "rotated 270", True]
    assert (encoded["a"], encoded["how"]) == (image_id(ours[7][..., None]), "same") and 0.98 < encoded["correlation"] < turned["correlation"] <= 1.000001
    write_thumbnails(tmp_path / "run")
    shown = {f.stem: np.asarray(Image.open(f)) for f in (tmp_path / "run" / "thumbnails" / "near").iterdir()}
    assert set(shown) == {turned["a"], turned["b"], encoded["a"], encoded["b"]} and np.array_equal(shown[turned["b"]], theirs[3]) and np.array_equal(shown[encoded["a"]], ours[7])
    assert all(Path(tmp_path / "run" / "thumbnails" / f"{q['image_id']}.png").exists() for q in found.images)


def test_near_duplicates_inside_a_set_stay_and_share_a_cluster(photos, tmp_path):
    members, others, ours, theirs = photos
    save(members, [np.fliplr(ours[2])], start=100)
    Image.fromarray(ours[2]).save(members / "x1.jpg", quality=85)
    Image.fromarray(theirs[9]).save(others / "x2.jpg", quality=85)
    found = prepare(members, others, NEAR, tmp_path / "run")
    cluster = {(q["path"], q["is_member"]): q["cluster"] for q in found.images}
    assert (found.members, found.nonmembers, found.left_out) == (62, 51, ())
    assert cluster["img2.png", True] == cluster["img100.png", True] == cluster["x1.jpg", True] and cluster["img9.png", False] == cluster["x2.jpg", False]
    assert (found.duplicates["near"], found.duplicates["clusters"], len(set(cluster.values())), max(cluster.values())) == (0, 2, 110, 109)
    assert found.clusters.tolist() == [q["cluster"] for q in found.images] and found.clusters[0] == 0
    assert len(found.duplicates["near_pairs"]) == 4 and not any(pair["left_out"] for pair in found.duplicates["near_pairs"])
    assert not (tmp_path / "run" / "near.npz").exists()


def test_a_picture_that_is_only_like_a_left_out_one_stays(photos, tmp_path):
    """c and z lie on either side of b: each is near b, but c is not near z."""
    members, others, ours, _ = photos
    b, step = 40 + 0.7 * ours[4], 0.1 * (photo(seed=9)[0] - 128.0)
    for folder, number, picture in ((members, 4, b), (members, 80, b + step), (others, 80, b - step)):
        save(folder, [picture.round().astype(np.uint8)], start=number)
    found = prepare(members, others, NEAR, tmp_path / "run")
    assert [(entry["path"], entry["set"]) for entry in found.left_out] == [("img4.png", "members"), ("img80.png", "nonmembers")]
    assert [(pair["a_path"], pair["b_path"], pair["b_set"]) for pair in found.duplicates["near_pairs"]] == [("img4.png", "img80.png", "nonmembers")]
    assert found.members == 60 and found.duplicates["clusters"] == 0


def test_pairs_that_are_listed_are_at_most_a_hundred_and_those_left_out_come_first(photos, tmp_path, monkeypatch):
    members, others, ours, _ = photos
    save(members, [np.fliplr(picture) for picture in ours[10:20]], start=200)
    Image.fromarray(ours[7]).save(others / "z1.jpg", quality=75)
    monkeypatch.setattr("audit.images.PAIRS_KEPT", 4)
    pairs = prepare(members, others, NEAR, tmp_path / "run").duplicates["near_pairs"]
    assert len(pairs) == 4 and sum(pair["left_out"] for pair in pairs) == 1
    assert [pair["correlation"] for pair in pairs] == sorted((pair["correlation"] for pair in pairs), reverse=True)


@pytest.mark.parametrize(("copies", "allowed"), [(2, True), (3, False)])
def test_more_than_five_per_cent_nearly_in_both_sets_is_refused(copies, allowed, tmp_path):
    """40 and 50 pictures: 2 of 40 are exactly 5 %. Exact copies count too."""
    ours = photo(40)
    members, others = save(tmp_path / "m", ours), save(tmp_path / "n", photo(50 - copies, seed=1))
    save(others, [ours[0]], start=100)
    save(others, [np.fliplr(picture) for picture in ours[1:copies]], start=101)
    if allowed:
        found = prepare(members, others, NEAR, tmp_path / "run")
        assert (found.members, found.duplicates["exact"], found.duplicates["near"]) == (38, 2, 2)
    else:
        text = refused(members, others, tmp_path, NEAR)
        assert text == (
            "2 files have near duplicates in the other folder (first: img1.png and img101.png, mirrored). "
            "An image cannot be member and non-member: remove them from one side."
        )


def test_a_second_attempt_leaves_no_near_pictures_of_the_first(photos, tmp_path):
    members, others, ours, _ = photos
    save(others, [np.fliplr(ours[0])], start=100)
    assert prepare(members, others, NEAR, tmp_path / "run").duplicates["near"] == 2 and (tmp_path / "run" / "near.npz").exists()
    (others / "img100.png").unlink()
    assert prepare(members, others, NEAR, tmp_path / "run").duplicates["near"] == 0 and not (tmp_path / "run" / "near.npz").exists()


def test_the_demo_keeps_more_than_400_a_side(tmp_path):
    demo = Path(__file__).parents[2] / "models" / "demo"
    found = prepare(demo / "members.zip", demo / "nonmembers.zip", (1, 16, 16), tmp_path / "run")
    assert min(found.members, found.nonmembers) >= 440 and found.duplicates["near"] <= 0.01 * 900


# ---------------------------------------------------------------------- features


def test_features_lie_beside_the_images_in_their_order(sets, tmp_path):
    shutil.copy(sets[0] / "img3.png", sets[0] / "copy.png")
    found = prepare(*sets, GREY, tmp_path / "run")
    with np.load(tmp_path / "run" / "features.npz", allow_pickle=False) as stored:
        names, scalar, values = (stored[key] for key in ("names", "scalar", "values"))
    assert values.shape == (23, len(names)) and values.dtype == np.float64 and np.isfinite(values).all() and scalar.dtype == bool and scalar.any() and not scalar.all()
    assert values[:, list(names).index("brightness")] == pytest.approx(found.pixels.mean(axis=(1, 2, 3)))
    sizes = [(sets[0 if q["is_member"] else 1] / q["path"]).stat().st_size for q in found.images]
    assert values[:, list(names).index("file bytes")].tolist() == sizes


def test_an_array_has_no_file_and_that_tells_the_sets_apart_from_nothing(sets, tmp_path):
    np.savez(tmp_path / "cats.npz", images=pictures(12)[..., None])
    found = prepare(tmp_path / "cats.npz", sets[1], GREY, tmp_path / "run")
    with np.load(tmp_path / "run" / "features.npz", allow_pickle=False) as stored:
        names, values = list(stored["names"]), stored["values"]
    assert not values[:, names.index("file bytes")].any() and not values[:, names.index("PNG file")].any() and values[:, names.index("contrast")].all()
    assert found.images[2]["source_sha256"] == hashlib.sha256(pictures(12)[2].tobytes()).hexdigest()


# ---------------------------------------------------------------------- refused


def test_one_class_alone_is_refused(sets, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    only_members = "Only members were given. Without non-members there is no ROC and no verdict: add a folder of non-members."
    assert refused(sets[0], empty, tmp_path) == refused(sets[0], None, tmp_path) == refused(sets[0], "", tmp_path) == only_members
    assert refused(empty, sets[1], tmp_path) == only_members.replace("non-members", "X").replace("members", "non-members").replace("X", "members")
    assert refused(empty, empty.parent / "run2", tmp_path).startswith("run2 was not found")
    assert refused(None, None, tmp_path).startswith("No images were given")


def test_the_same_folder_twice_is_refused(sets, tmp_path):
    same = "Members and non-members are the same folder (cats). Expected two different sets: choose one for each."
    assert refused(sets[0], sets[0], tmp_path) == refused(sets[0], sets[1] / ".." / "cats", tmp_path) == same
    link = tmp_path / "link"
    link.symlink_to(sets[0])
    assert "are the same folder" in refused(sets[0], link, tmp_path)
    assert refused(sets[0], shutil.copytree(sets[0], tmp_path / "copy"), tmp_path).startswith("12 files are in both folders")


@pytest.mark.parametrize("count", [9, 1])
def test_fewer_than_ten_a_side_are_refused(sets, tmp_path, count):
    few = save(tmp_path / "few", pictures(count, seed=7))
    (few / "notes.txt").write_text("x")
    says = f"few (non-members) holds {count} usable image{'' if count == 1 else 's'} in {count + 1} files. Expected at least 10 a side: add images."
    assert refused(sets[0], few, tmp_path) == says
    assert prepare(sets[0], save(tmp_path / "ten", pictures(10, seed=7)), GREY, tmp_path / "run").nonmembers == 10


def test_a_set_without_a_usable_file_names_the_first(sets, tmp_path):
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "a.txt").write_text("x")
    (junk / "b.png").write_text("x")
    assert refused(junk, sets[1], tmp_path) == "None of the 2 files in junk (members) can be used (first: a.txt: not an image file). Expected PNG, JPEG, WebP or BMP images."


def test_colour_pictures_for_a_grey_model_are_one_message_and_not_a_thousand(sets, tmp_path):
    colour = save(tmp_path / "colour", pictures(50, (8, 8, 3)))
    says = "The checkpoint takes 1 channel (grey), the images in colour have 3. Convert the images or choose the 3-channel checkpoint."
    assert refused(sets[0], colour, tmp_path) == refused(colour, sets[1], tmp_path) == says
    np.savez(tmp_path / "colour.npz", images=pictures(12, (8, 8, 3)))
    assert "colour.npz have 3" in refused(tmp_path / "colour.npz", sets[1], tmp_path)
    save(sets[0], pictures(13, (8, 8, 3)), start=50)  # most of a mixed set: what is left would be another population
    assert "the images in cats have 3" in refused(*sets, tmp_path)


@pytest.mark.parametrize(("name", "content", "says"), [("a.zip", b"PK\x03\x04cut", "readable .zip"), ("a.npz", b"x", "readable .npz"), ("a.tar", b"x", "not an image set")])
def test_a_set_that_cannot_be_read_is_an_image_set_error(sets, tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in refused(sets[0], tmp_path / name, tmp_path)


def test_a_bomb_is_left_out_by_its_header(sets, tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (7_200, 7_200)).save(buffer, format="PNG")
    (sets[0] / "bomb.png").write_bytes(buffer.getvalue())
    found = prepare(*sets, GREY, tmp_path / "run")
    assert [entry["path"] for entry in found.left_out] == ["bomb.png"] and "million" in found.left_out[0]["reason"]


@pytest.mark.parametrize("damage", [None, "{", '{"images": []}', "[]"])
def test_a_damaged_folder_is_named(sets, tmp_path, damage):
    prepare(*sets, GREY, tmp_path / "run")
    if damage is None:
        (tmp_path / "run" / "queries.json").unlink()
    else:
        (tmp_path / "run" / "queries.json").write_text(damage)
    with pytest.raises(ImageSetError, match="query images of run are missing or damaged"):
        QuerySet.load(tmp_path / "run")


def test_what_the_audit_adds_to_queries_json_later_is_read(sets, tmp_path):
    assert prepare(*sets, GREY, tmp_path / "run").provenance is None
    file = tmp_path / "run" / "queries.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"provenance": {"kind": "stated"}, "of a later version": 1}))
    assert QuerySet.load(tmp_path / "run").provenance == {"kind": "stated"}


# ---------------------------------------------------------------------- memory and thumbnails


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """6,000 pictures of 64 x 64 x 3 are 74 MB decoded; the scratch file holds them, not the process."""
    pytest.importorskip("resource")
    rng = np.random.default_rng(0)
    for name, count in (("m", 3000), ("n", 3000)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for i in range(count):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.NEAREST).save(buffer, format="BMP")
                archive.writestr(f"{i}.bmp", buffer.getvalue())
    code = (
        "import resource, sys; from audit.images import prepare; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "seen = {}\ndef note(files): seen.setdefault(files, peak()) if files in (500, 6000) else None\n"
        "prepare(sys.argv[1], sys.argv[2], (3, 64, 64), sys.argv[3], note); print(peak() - seen[500])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / n) for n in ("m.zip", "n.zip", "run"))], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert np.load(tmp_path / "run" / "images.npy", mmap_mode="r").shape == (6000, 64, 64, 3)
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) < 45e6  # 16 MB copied at a time, twice, and the names; all of it would be 74 MB


def test_thumbnails_are_named_by_id_and_small(sets, tmp_path):
    found = prepare(save(tmp_path / "big", pictures(10, (300, 200, 3))), save(tmp_path / "big2", pictures(10, (300, 200, 3), seed=2)), (3, 300, 200), tmp_path / "run")
    write_thumbnails(tmp_path / "run")
    files = sorted((tmp_path / "run" / "thumbnails").iterdir())
    assert [f.stem for f in files] == sorted(q["image_id"] for q in found.images) and all(Image.open(f).size == (85, 128) for f in files)
    small = prepare(*sets, GREY, tmp_path / "small")
    write_thumbnails(tmp_path / "small")
    first = tmp_path / "small" / "thumbnails" / f"{small.images[0]['image_id']}.png"
    assert np.array_equal(np.asarray(Image.open(first)), pictures(12)[0])
    before = first.stat().st_mtime_ns
    write_thumbnails(tmp_path / "small")
    assert first.stat().st_mtime_ns == before

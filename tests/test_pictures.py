"""Pictures of a run: what leaves the server blurred, and that picture, score and rank belong together."""

import base64
import csv
import hashlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from audit import demo
from audit.demo import demo_request
from audit.report import pictures
from audit.report.run import Run


def png(pixels, **save):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **save)
    return out.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def a_run(tmp_path, scores, is_member, evaluation=None, paths=None, pixels=None):
    """What pictures.py needs of a Run, with thumbnails of random pixels."""
    n = len(scores)
    ids = np.array([hashlib.sha256(f"image {i}".encode()).hexdigest()[:16] for i in range(n)])
    if tmp_path is not None:
        (tmp_path / "thumbnails").mkdir(parents=True)
        for i, image_id in enumerate(ids):
            shown = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8) if pixels is None else pixels[i]
            (tmp_path / "thumbnails" / f"{image_id}.png").write_bytes(png(shown))
    held_out = np.ones(n, bool) if evaluation is None else np.asarray(evaluation, bool)
    return SimpleNamespace(
        folder=tmp_path, image_ids=ids, is_member=np.asarray(is_member, bool), evaluation=held_out, scores_of=lambda _: np.asarray(scores, float),
        paths=np.array(paths if paths is not None else [f"image-{i}.png" for i in range(n)]),
    )


# --- blur ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(28, 28), (64, 64, 3), (32, 16)])
def test_blur_is_the_mean_of_each_block_and_nothing_else(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    out = decoded(pictures.blurred(png(pixels)))
    h, w = shape[0] // 4, shape[1] // 4
    means = pixels.reshape(4, h, 4, w, *shape[2:]).mean(axis=(1, 3))
    bh, bw = out.shape[0] // 4, out.shape[1] // 4
    blocks = out.reshape(4, bh, 4, bw, *shape[2:])
    assert (blocks == blocks[:, :1, :, :1]).all(), "a block has one colour"
    np.testing.assert_allclose(blocks[:, 0, :, 0], means, atol=1.01)  # PIL rounds once per direction


def test_two_pictures_with_equal_block_means_are_the_same_bytes_once_blurred():
    flat = np.full((32, 32), 100, np.uint8)
    board = np.where(np.indices((32, 32)).sum(axis=0) % 2, 90, 110).astype(np.uint8)
    assert pictures.blurred(png(flat)) == pictures.blurred(png(board)), "the blurred file still knows more than its block means"


def test_what_a_file_carries_beside_its_pixels_is_left_behind():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "taken at home")
    assert b"taken at home" not in pictures.blurred(png(np.zeros((16, 16), np.uint8), pnginfo=info))


def test_shown_holds_sharp_bytes_only_when_asked(tmp_path):
    run = a_run(tmp_path, [1.0], [True])
    sharp = (tmp_path / "thumbnails" / f"{run.image_ids[0]}.png").read_bytes()
    blur, clear = (base64.b64decode(pictures.shown(run, run.image_ids[0], b).partition(",")[2]) for b in (True, False))
    assert clear == sharp and blur != sharp
    assert len(np.unique(decoded(blur))) <= 16


@pytest.mark.parametrize("name", ["../../secret", "", "0" * 15, "0" * 17, "ABCDEF0123456789", "0" * 15 + "\n"])
def test_only_an_image_id_names_a_picture(tmp_path, name):
    run = a_run(tmp_path / "run", [1.0], [True])
    (tmp_path / "secret.png").write_bytes(png(np.zeros((4, 4), np.uint8)))
    (tmp_path / "run" / "thumbnails" / ".png").write_bytes(png(np.zeros((4, 4), np.uint8)))
    assert pictures.thumbnail(run, name) is None


@pytest.mark.parametrize("data", [b"", b"<svg onload=alert(1)>", png(np.zeros((600, 4), np.uint8)), png(np.zeros((9, 9), np.uint8))[:30], b"\x89PNG" + b"0" * 2_000_000])
def test_a_damaged_or_foreign_file_is_no_picture(tmp_path, data):
    run = a_run(tmp_path, [1.0], [True])
    (tmp_path / "thumbnails" / f"{run.image_ids[0]}.png").write_bytes(data)
    assert pictures.shown(run, run.image_ids[0], True) is None


def test_a_cut_picture_cannot_be_blurred_and_is_not_shown(tmp_path):
    run = a_run(tmp_path, [1.0], [True])
    file = tmp_path / "thumbnails" / f"{run.image_ids[0]}.png"
    file.write_bytes(file.read_bytes()[:120])
    assert pictures.shown(run, run.image_ids[0], True) is None
    assert pictures.nearest(a_run(tmp_path / "b", [1.0, 2.0], [True, False], pixels=[np.zeros((8, 8), np.uint8)] * 2), 0) is None, "flat pictures have no neighbour"


def test_only_the_bundled_sets_are_shown_sharp_unasked():
    for which in demo.NAMES:
        assert pictures.is_bundled(SimpleNamespace(request=demo_request(which).to_json()))
    mine = demo_request("leaky").to_json() | {"members": "/home/me/faces"}
    assert not pictures.is_bundled(SimpleNamespace(request=mine))
    assert not pictures.is_bundled(SimpleNamespace(request={}))


# --- ranks ---------------------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_ranks_count_what_a_slow_loop_counts(rows):
    scores, is_member, evaluation = (list(column) for column in zip(*rows, strict=True))
    run = a_run(None, scores, is_member, evaluation)
    ranks = pictures.ranks(run, "any")
    assert sorted(ranks.rank[run.evaluation]) == list(range(1, sum(evaluation) + 1))
    assert [scores[p] for p in ranks.order] == sorted((s for s, e in zip(scores, evaluation, strict=True) if e), reverse=True)
    for i in range(len(rows)):
        if not evaluation[i]:
            assert ranks.rank[i] == 0 and ranks.share(i) is None
            continue
        others = [scores[j] for j in range(len(rows)) if evaluation[j] and not is_member[j] and j != i]
        assert (ranks.above[i], ranks.of[i]) == (sum(s < scores[i] for s in others), len(others))


def test_lists_hold_out_images_and_find_adds_those_that_chose_the_settings():
    run = a_run(None, [3, 1, 2, 9], [True, True, False, True], [True, True, True, False], ["a/cat.png", "b/Dog.png", "c/cat.png", "d/CAT.png"])
    assert pictures.listed(run, "x").tolist() == [0, 2, 1]
    assert pictures.listed(run, "x", "Members").tolist() == [0, 1]
    assert pictures.listed(run, "x", "Non-members").tolist() == [2]
    assert pictures.listed(run, "x", "All", " cAt ").tolist() == [0, 2, 3]
    assert pictures.listed(run, "x", "All", str(run.image_ids[1])[:9].upper()).tolist() == [1]
    assert pictures.listed(run, "x", "All", "(*").tolist() == []


def test_an_image_is_found_by_its_hash_alone():
    run = a_run(None, [1, 2, 3], [True, False, True])
    for i, image_id in enumerate(run.image_ids):
        assert pictures.position_of(run, str(image_id)) == pictures.position_of(run, str(image_id)[:8]) == i
    assert pictures.position_of(run, str(run.image_ids[0])[:7]) is None and pictures.position_of(run, "1") is None


# --- neighbours ----------------------------------------------------------------------------------------------------------------------------------


def test_the_nearest_picture_is_the_planted_one(tmp_path):
    rng = np.random.default_rng(3)
    pixels = [rng.integers(0, 200, (28, 28), dtype=np.uint8) for _ in range(12)]
    pixels[7] = (pixels[2] * 0.9 + 20).astype(np.uint8)  # brighter and flatter: the mean and the contrast do not count
    run = a_run(tmp_path, np.arange(12), np.arange(12) < 6, pixels=pixels)
    other, alike = pictures.nearest(run, 2)
    assert other == 7 and 0.99 < alike <= 1
    assert pictures.nearest(run, 7)[0] == 2 and pictures.nearest(run, 3)[1] < 0.9


def test_too_many_pictures_are_not_compared(tmp_path, monkeypatch):
    run = a_run(tmp_path, [1, 2, 3], [True, False, True])
    assert pictures.nearest(run, 0) is not None
    monkeypatch.setattr(pictures, "COMPARED", 2)
    assert pictures.nearest(run, 0) is None


def test_near_pairs_are_named_and_damage_is_no_crash(tmp_path):
    run = a_run(tmp_path, [1, 2], [True, False])
    pair = {"a": str(run.image_ids[0]), "a_set": "members", "b": "f" * 16, "b_set": "nonmembers", "how": "mirrored", "correlation": 0.98, "left_out": True}
    queries = {"duplicates": {"near_pairs": [pair]}, "left_out": [{"path": "x/late.png", "image_id": "f" * 16}, {"path": "notes.txt"}]}
    (tmp_path / "queries.json").write_text(json.dumps(queries))
    assert [(p["a_name"], p["b_name"], p["how"]) for p in pictures.near_pairs(run)] == [("image-0.png", "x/late.png", "mirrored")]
    for damaged in ("{", "[]", "{}", '{"duplicates": {"near_pairs": [1]}}', '{"duplicates": {"near_pairs": [{"a": 1}]}}', '{"duplicates": {"exact": 0}}'):
        (tmp_path / "queries.json").write_text(damaged)
        run._series = {}
        assert pictures.near_pairs(run) == [], damaged


# --- images.csv ----------------------------------------------------------------------------------------------------------------------------------


def write(file, rows):
    with open(file, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows(rows)


def test_images_csv_is_joined_by_hash_not_by_position(tmp_path):
    write(tmp_path / "scores.csv", [["image_id", "path", "is_member", "half", "x"], *([i, i, True, "evaluation", 1.0] for i in "abc")])
    head = ["image_id", "conformal_p", "flagged", "blind", "blind_fold"]
    write(tmp_path / "images.csv", [head, ["c", "", "", "", ""], ["a", 0.01, True, -0.5, 3], ["z", 0.9, True, 9, 9]])
    rows = Run(tmp_path, {}, {}).image_rows
    np.testing.assert_array_equal(rows["conformal_p"], [0.01, np.nan, np.nan])
    np.testing.assert_array_equal(rows["blind"], [-0.5, np.nan, np.nan])
    assert rows["flagged"].tolist() == [True, False, False] and rows["blind_fold"].tolist() == [3, -1, -1]


@pytest.mark.parametrize("damaged", [None, "a,b\n1,2\n", "image_id,conformal_p,flagged,blind,blind_fold\na,low,,,\n"])
def test_a_run_without_a_readable_images_csv_says_none(tmp_path, damaged):
    write(tmp_path / "scores.csv", [["image_id", "path", "is_member", "half", "x"], ["a", "a", True, "evaluation", 1.0]])
    if damaged:
        (tmp_path / "images.csv").write_text(damaged)
    assert Run(tmp_path, {}, {}).image_rows is None

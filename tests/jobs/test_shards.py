"""Shards: whole or absent, never of another measurement."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.jobs import shards
from audit.jobs.shards import MAX_SHARD_BYTES, Shard, ShardFolder, cut, disk_bytes, images_per_shard, remove_shards, shard_key
from audit.tables import Tables, write_tables

PARTS = {"checkpoint": "c", "images": "i", "preprocessing": {"size": [8, 8]}, "settings": {"seed": 0}, "versions": {"noised": 1}, "torch": "2", "device": "cpu"}


@given(st.integers(1, 5000), st.integers(1, 600))
def test_the_cut_covers_every_image_once(images, size):
    made = cut(images, size)
    assert [i for s in made for i in range(s.first, s.stop)] == list(range(images))
    assert max(s.images for s in made) <= size and max(s.images for s in made) - min(s.images for s in made) <= 1


def test_shard_size_follows_the_measured_speed():
    assert images_per_shard(2.0, 0.001, 40, 240) == 50
    assert images_per_shard(2.0, 10.0, 100, 240) == 1
    assert images_per_shard(5.0, 1e-9, 1, 2**20) == MAX_SHARD_BYTES // 2**22


@pytest.mark.parametrize("name", PARTS)
def test_every_part_of_the_key_changes_it(name):
    assert shard_key(PARTS) == shard_key(dict(reversed(PARTS.items())))
    assert shard_key(PARTS | {name: "other"}) != shard_key(PARTS)


def tables(rng, n):
    return {"eps_mse": rng.random((2, n, 3), dtype=np.float32), "reference/x0_mse": rng.random((2, n, 3), dtype=np.float32)}


def test_what_is_read_is_what_was_written(tmp_path):
    at, shard, values = ShardFolder(tmp_path, "k" * 64), Shard(1, 4, 9), tables(np.random.default_rng(0), 5)
    assert at.seconds_if_intact(shard) is None
    at.write(shard, values, 1.25)
    assert at.seconds_if_intact(shard) == 1.25
    back = at.read(shard)
    assert back.keys() == values.keys() and all(np.array_equal(back[k], values[k]) for k in values)
    assert [p.name for p in at.folder.iterdir()] == ["00000004-00000009.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header"])
def test_an_unreadable_shard_is_deleted(tmp_path, damage):
    at, shard = ShardFolder(tmp_path, "k" * 64), Shard(0, 0, 5)
    at.write(shard, tables(np.random.default_rng(0), 5), 1.0)
    path = next(at.folder.iterdir())
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-7], "empty": b"", "text": b"not a shard at all", "header": b"\xff" * 8 + data[8:]}[damage])
    assert at.seconds_if_intact(shard) is None and not path.exists()


def test_shards_of_another_key_cut_or_size_are_never_used(tmp_path):
    mine, other = ShardFolder(tmp_path, "a" * 64), ShardFolder(tmp_path, "b" * 64)
    shard, values = Shard(0, 0, 5), tables(np.random.default_rng(0), 5)
    other.write(shard, values, 1.0)
    assert mine.seconds_if_intact(shard) is None and other.seconds_if_intact(shard) == 1.0
    os.replace(next(other.folder.glob("*.safetensors")), mine.folder / "00000000-00000005.safetensors")  # smuggled in
    assert mine.seconds_if_intact(shard) is None and not list(mine.folder.glob("*.safetensors"))
    mine.write(shard, tables(np.random.default_rng(0), 4), 1.0)  # fewer images than its name says
    assert mine.seconds_if_intact(shard) is None


def test_the_plan_is_kept_per_key_and_a_torn_one_is_forgotten(tmp_path):
    at = ShardFolder(tmp_path, "a" * 64)
    assert at.read_plan() is None
    at.write_plan(batch_size=7, shard_images=3)
    assert ShardFolder(tmp_path, "a" * 64).read_plan()["batch_size"] == 7
    assert ShardFolder(tmp_path, "c" * 64).read_plan() is None
    (at.folder / "plan.json").write_text('{"key": "aa')
    assert at.read_plan() is None


def test_a_crash_while_writing_leaves_no_shard(tmp_path, monkeypatch):
    at, shard = ShardFolder(tmp_path, "a" * 64), Shard(0, 0, 5)

    def die(*_):
        raise OSError("killed here")

    monkeypatch.setattr(shards.os, "replace", die)
    with pytest.raises(OSError, match="killed here"):
        at.write(shard, tables(np.random.default_rng(0), 5), 1.0)
    monkeypatch.undo()
    assert len(list(at.folder.glob("*.tmp"))) == 1
    again = ShardFolder(tmp_path, "a" * 64)
    assert again.seconds_if_intact(shard) is None and not list(at.folder.iterdir())


def test_blocks_become_tables_in_order(tmp_path):
    at, rng, parts = ShardFolder(tmp_path, "a" * 64), np.random.default_rng(1), cut(11, 4)
    whole = tables(rng, 11)
    for shard in reversed(parts):
        at.write(shard, {k: v[:, shard.first : shard.stop] for k, v in whole.items()}, 1.0)
    write_tables(tmp_path / "tables", 11, {k: ("timestep", (0, 5, 9)) for k in whole}, at.blocks(parts))
    made = Tables.load(tmp_path / "tables")
    assert all(np.array_equal(made[k].per_draw.transpose(0, 2, 1), whole[k]) for k in whole)
    written = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert written < disk_bytes(11, 64, 3, 2, 2)
    remove_shards(tmp_path)
    assert not (tmp_path / "shards").exists() and not (tmp_path / "shards.done").exists()

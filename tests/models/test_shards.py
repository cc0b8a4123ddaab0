"""Weights in several .safetensors files: read as one, and an index that lies about them is refused in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import open_checkpoint
from models.checkpoint import inspect_checkpoint
from models.errors import CheckpointError, UnsafeCheckpoint
from models.safety import files_sha256
from tests.models import tiny

INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
XT, T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 900])


@pytest.fixture
def sharded(tmp_path):
    """(network, folder) as save_pretrained writes it with a small max_shard_size."""
    network = tiny.save(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    network.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    assert len(shards_of(tmp_path)) > 2 and (tmp_path / INDEX).is_file()
    return network, tmp_path


def shards_of(folder):
    return sorted((folder / "unet").glob("*-of-*.safetensors"))


def edit(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_are_read_as_one_network(sharded):
    network, folder = sharded
    model = open_checkpoint(folder)
    with torch.inference_mode():
        torch.testing.assert_close(model.predict(XT, T).eps_hat, network(XT, T).sample, atol=0, rtol=0)
    names = [f"unet/{path.name}" for path in shards_of(folder)]
    used = sorted([INDEX, "unet/config.json", "scheduler/scheduler_config.json", "model_index.json", *names])
    assert list(model.info.files) == used and model.info.sha256 == files_sha256(folder, used)
    assert model.info == inspect_checkpoint(folder) and model.info.parameters == sum(p.numel() for p in network.parameters())


def test_another_file_of_the_network_gives_another_hash(sharded):
    before, last = inspect_checkpoint(sharded[1]).sha256, shards_of(sharded[1])[-1]
    save_file({name: tensor + 1 for name, tensor in load_file(last).items()}, last)
    assert inspect_checkpoint(sharded[1]).sha256 != before


def test_a_zip_of_shards_opens(sharded, tmp_path_factory):
    archive = shutil.make_archive(tmp_path_factory.mktemp("zip") / "model", "zip", sharded[1])
    assert open_checkpoint(archive).info.sha256 == inspect_checkpoint(sharded[1]).sha256


OUTSIDE = ["../other.safetensors", "/tmp/other.safetensors", "a/b.safetensors", "..", "x.bin", ".hidden.safetensors", "a\\b.safetensors", "", "x.safetensors\n"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_the_folder_is_refused(sharded, name):
    shutil.copy(shards_of(sharded[1])[0], sharded[1] / "other.safetensors")
    edit(sharded[1], lambda places: places.update({next(iter(places)): name}))
    one_line(UnsafeCheckpoint, sharded[1], "names the file .* and was not opened")


LIES = {
    "a tensor that its file does not hold": (lambda f: edit(f, lambda places: places.update(stranger=shards_of(f)[0].name)), "has no tensor stranger, which unet/"),
    "a tensor left out": (lambda f: edit(f, lambda places: places.pop("conv_in.bias")), "holds conv_in.bias, which unet/.* does not place there"),
    "a tensor in two files": (lambda f: twice(f), "does not place there. Expected each tensor once"),
    "a file that is missing": (lambda f: shards_of(f)[-1].unlink(), "-of-.*is missing, which unet/"),
    "a file that was cut short": (lambda f: shards_of(f)[0].write_bytes(shards_of(f)[0].read_bytes()[:-5]), "cut short"),
    "no map": (lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
    "an empty map": (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), "has no weight_map"),
    "numbers for names": (lambda f: edit(f, lambda places: places.update({"conv_in.bias": 3})), "has no weight_map"),
    "a thousand files": (lambda f: edit(f, lambda places: places.update({str(n): f"{n}.safetensors" for n in range(1000)})), "Expected at most 500"),
    "code": (lambda f: (f / INDEX).write_text('{"auto_map": "x", "weight_map": {}}'), "names code to load"),
    "not JSON": (lambda f: (f / INDEX).write_text("{"), "is not readable JSON"),
}


def twice(folder):
    first, last = shards_of(folder)[0], shards_of(folder)[-1]
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(last) | {name: tensor + 1}, last)


@pytest.mark.parametrize("name", LIES)
def test_an_index_that_lies_is_refused(sharded, name):
    spoil, match = LIES[name]
    spoil(sharded[1])
    one_line(CheckpointError, sharded[1], match)


def one_line(kind, folder, match):
    for action in (open_checkpoint, inspect_checkpoint):
        with pytest.raises(kind, match=match) as caught:
            action(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 and ("Expected" in str(caught.value) or "copy it again" in str(caught.value))


def test_one_shard_alone_asks_for_the_folder(sharded):
    with pytest.raises(CheckpointError, match=r"is one of several files of one network.*give the folder"):
        open_checkpoint(shards_of(sharded[1])[0])


def test_the_whole_file_goes_before_shards(sharded):
    network, folder = sharded
    save_file(network.state_dict(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert INDEX not in inspect_checkpoint(folder).files

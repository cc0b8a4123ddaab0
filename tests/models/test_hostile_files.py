"""Single weights files that were made to harm, for every format that reads one: refused in one line, nothing run, nothing allocated; and honest big ones cost little."""

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.checkpoint import inspect_checkpoint, open_checkpoint
from models.errors import CheckpointError, UnsafeCheckpoint
from models.weights import converted, keep_converted, open_content
from tests.models import test_openai, test_pytorch_ddpm, tiny
from tests.models.test_hostile import Bomb, Evaluates, canary, refused

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["canary"]  # a fixture

HONEST = {
    "openai": (lambda: test_openai.random_state(test_openai.layout()), test_openai.FULL),
    "pytorch_ddpm": (test_pytorch_ddpm.checkpoint, test_pytorch_ddpm.RECIPE),
}


@pytest.fixture(params=HONEST)
def honest(request):
    """(content of a file, settings that open it)."""
    make, settings = HONEST[request.param]
    return make(), settings


@pytest.mark.parametrize("bomb", [Bomb, Evaluates])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["beside", "in a set", "as a key"])
def test_code_hidden_among_good_tensors_is_not_run(tmp_path, canary, honest, bomb, legacy, place):
    content, settings = honest
    evil = bomb(canary)
    if place == "beside":
        content["args"] = {"deep": [1, {"x": evil}]}
    elif place == "in a set":
        next((v for v in content.values() if isinstance(v, dict)), content)["zz"] = evil
    else:
        content[(evil,)] = 1
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    (tmp_path / "kept").mkdir()
    for action in (open_checkpoint, inspect_checkpoint):
        refused(lambda path: action(path, tmp_path / "kept", **settings), tmp_path / "model.pt", kind=UnsafeCheckpoint, match="and was not opened")  # noqa: B023
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_files_that_were_cut_short_are_refused(tmp_path, honest, part, kind):
    content, settings = honest
    path = tmp_path / f"model.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        save_file(next((v for k, v in content.items() if k == "ema_model"), content), path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    raw = path.read_bytes()
    open_checkpoint(path, **settings)
    path.write_bytes(raw[: int(len(raw) * part)])
    refused(lambda p: open_checkpoint(p, **settings), path)


def test_compressed_entries_are_refused_before_they_are_inflated(tmp_path, honest):
    content, settings = honest
    torch.save(content, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as source, zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    refused(lambda p: open_checkpoint(p, **settings), tmp_path / "model.pt", kind=UnsafeCheckpoint, match="compressed entries")


def only_on_linux():
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")


def in_a_process(code, *arguments):
    """(result, MB that the process grew) of Python `code` after torch and the loader were imported; `code` sets `result`."""
    start = "import json, sys\nimport torch\nfrom models.checkpoint import inspect_checkpoint, open_checkpoint\n"
    start += "from models.errors import CheckpointError\nfrom models import formats\n[formats.get(n) for n in formats.FORMATS]\n"
    start += tiny.PEAK + "before = peak()\n"
    end = "\nprint(json.dumps([result, peak() - before]))"
    done = subprocess.run([sys.executable, "-c", start + code + end, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout)


REFUSE = "try:\n open_checkpoint(sys.argv[1], **json.loads(sys.argv[2])); result = 'opened'\nexcept CheckpointError as error:\n result = str(error)"


@pytest.mark.slow
def test_a_header_that_lies_about_sizes_takes_no_memory(tmp_path):
    """A safetensors header may describe gigabytes in a file that has none."""
    only_on_linux()
    header, position = {}, 0
    for name, shape in test_openai.random_state(test_openai.layout()).items():
        size = 4 * int(np.prod([n * 8 for n in shape.shape]))
        header[name] = {"dtype": "F32", "shape": [n * 8 for n in shape.shape], "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(1000))
    result, grown = in_a_process(REFUSE, tmp_path / "model.safetensors", json.dumps(test_openai.FULL))
    assert "ends after" in result and grown < 100


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_whose_tensors_claim_more_than_the_file_takes_no_memory(tmp_path, legacy):
    """The storage's size lies in the pickle: raised a thousandfold there, the file does not grow with it."""
    only_on_linux()
    state = test_openai.random_state(test_openai.layout()) | {"out.2.bias": torch.zeros(123_457)}
    path = tmp_path / "model.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    raw = path.read_bytes()
    lie = raw.replace(struct.pack("<i", 123_457), struct.pack("<i", 2_123_456_789))
    assert lie != raw and len(lie) == len(raw)
    path.write_bytes(lie)
    result, grown = in_a_process(REFUSE, path, json.dumps(test_openai.FULL))
    assert ("claims" in result or "not a readable" in result) and grown < 100


@pytest.mark.slow
def test_recognising_a_big_file_is_quick_and_small_and_opening_it_holds_it_once(tmp_path):
    """400 MB of weights: recognised in less than 100 MB, opened in little more memory than their own."""
    only_on_linux()
    made = test_openai.layout(widths=(256, 512, 512), blocks=2, model_channels=256)
    state = test_openai.random_state(made)
    size = sum(t.numel() * 4 for t in state.values()) / 2**20
    torch.save(state, tmp_path / "model.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "kept").mkdir()
    del state
    inspect = "result = inspect_checkpoint(sys.argv[1], **json.loads(sys.argv[2])).parameters"
    opened = "result = open_checkpoint(sys.argv[1], sys.argv[3] or None, **json.loads(sys.argv[2])).info.parameters"
    for name, limit in (("model.pt", 1.25), ("model.safetensors", 1.25), ("legacy.pt", 2.25)):
        parameters, grown = in_a_process(inspect, tmp_path / name, json.dumps(test_openai.FULL))
        assert parameters * 4 / 2**20 == pytest.approx(size) and grown < 100
        assert in_a_process(opened, tmp_path / name, json.dumps(test_openai.FULL), "")[1] < limit * size
    assert in_a_process(opened, tmp_path / "model.pt", json.dumps(test_openai.FULL), tmp_path / "kept")[1] < 1.25 * size


def test_a_pickle_is_converted_once_and_never_unpickled_again(tmp_path, honest, monkeypatch):
    content, settings = honest
    path, kept = tmp_path / "model.pt", tmp_path / "kept"
    torch.save(content, path)
    kept.mkdir()
    plain, first = open_checkpoint(path, **settings), open_checkpoint(path, kept, **settings)
    assert [p.name for p in kept.iterdir()] == [f"{plain.info.sha256[:32]}.safetensors"]
    stamp = next(kept.iterdir()).stat().st_mtime_ns

    def unpickle(*args, **kwargs):
        raise AssertionError("unpickled again")

    monkeypatch.setattr(torch, "load", unpickle)
    again = open_checkpoint(path, kept, **settings)
    assert next(kept.iterdir()).stat().st_mtime_ns == stamp
    assert plain.info == first.info == again.info == inspect_checkpoint(path, kept, **settings)
    for one, two, three in zip(plain.network.parameters(), first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
    if "ema_model" in content:  # every set is kept, so that asking for the other weights needs no unpickling
        raw = open_checkpoint(path, kept, **settings | {"weights": "raw"})
        assert torch.equal(raw.network.head.weight, content["net_model"]["head.weight"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_every_type_and_shape_survives_conversion_bit_for_bit(tmp_path, dtype):
    values = torch.arange(24).reshape(2, 3, 4).to(dtype)
    saved = {"a": {"whole": values, "turned": values.transpose(0, 2), "part": values[1:, ::2], "one": values[0, 0, 1], "none": values[:0], "tied": values}, "step": 3}
    torch.save(saved, tmp_path / "x.pt")
    content = open_content(tmp_path / "x.pt")
    assert converted(content, tmp_path) is None
    back = keep_converted(content, tmp_path)
    assert back.name == "x.pt" and back.sha256 == content.sha256 and list(back.sets) == ["a"]
    for source in (content, back):
        assert {name: (shape, source.sets["a"].dtypes[name]) for name, shape in source.sets["a"].shapes.items()} == {
            name: (tuple(v.shape), content.sets["a"].dtypes[name]) for name, v in saved["a"].items()
        }
        for name, tensor in source.sets["a"].tensors():
            assert tensor.dtype == dtype and torch.equal(tensor, saved["a"][name])


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(3), "b": torch.zeros(3)}, tmp_path / "x.pt")
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr("models.weights._read", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match=r"cannot be kept as safetensors \(No space left on device\)"):
        keep_converted(open_content(tmp_path / "x.pt"), tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())

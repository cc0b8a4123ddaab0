"""Files that were made to harm, or are merely broken: refused in one line, nothing executed, nothing left behind."""

import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import inspect_checkpoint, open_checkpoint
from models.errors import CheckpointError, UnsafeCheckpoint
from models.safety import MAX_ENTRIES, safe_unzip, size_pair
from models.weights import convert_to_safetensors, open_weights
from tests.models import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def canary(tmp_path):
    """A file that exists only if something from a checkpoint ran."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code from the checkpoint was executed"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    tiny.save(made)
    return made


def refused(action, *args, kind=CheckpointError, match=".", exact=False):
    """The message of the refusal: one line that says what was expected or what to do."""
    with pytest.raises(kind, match=match) as caught:
        action(*args)
    if exact:
        assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 and text.count(". ") >= 1 and text.endswith((".", ")"))
    return text


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


class Evaluates(Bomb):
    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".pth"])
@pytest.mark.parametrize("bomb", [Bomb, Evaluates])
@pytest.mark.parametrize("where", ["alone", "in a nested dict", "legacy file", "plain pickle"])
def test_a_pickle_that_runs_code_is_not_run(tmp_path, canary, suffix, bomb, where):
    path, content = tmp_path / f"model{suffix}", bomb(canary)
    if where == "in a nested dict":
        content = {"state_dict": {"a": torch.zeros(2), "inner": {"deep": [1, {"x": content}]}}}
    if where == "plain pickle":
        path.write_bytes(pickle.dumps(content, 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=where != "legacy file")
    for action in (open_checkpoint, inspect_checkpoint, open_weights, lambda p: convert_to_safetensors(p, tmp_path)):
        text = refused(action, path, kind=UnsafeCheckpoint, match="holds Python objects .* and was not opened")
        assert ("posix.system" in text or "nt.system" in text) if bomb is Bomb else "eval" in text
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("where", ["folder", "zip"])
def test_a_pickle_that_runs_code_inside_a_diffusers_checkpoint_is_not_run(tmp_path, folder, canary, where):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Bomb(canary)}, folder / "unet" / "diffusion_pytorch_model.bin")
    target = pack(folder, tmp_path / "model.zip") if where == "zip" else folder
    refused(open_checkpoint, target, kind=UnsafeCheckpoint, match="system")
    refused(inspect_checkpoint, target, kind=UnsafeCheckpoint, match="system")


def test_a_bomb_beside_good_safetensors_is_never_touched(folder, canary):
    torch.save(Bomb(canary), folder / "unet" / "diffusion_pytorch_model.bin")
    open_checkpoint(folder)


def test_a_whole_module_is_named_and_not_opened(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert "torch.nn.modules.linear.Linear" in refused(open_checkpoint, tmp_path / "model.pt", kind=UnsafeCheckpoint)


def test_what_training_scripts_leave_beside_tensors_is_allowed_but_is_not_a_checkpoint(tmp_path):
    import argparse

    torch.save({"args": argparse.Namespace(lr=1.0), "loss": np.float64(0.5), "state": {"a": torch.zeros(2)}}, tmp_path / "model.pt")
    refused(open_checkpoint, tmp_path / "model.pt", match="tensors .found: args, loss, state.*of no network", exact=True)


def test_tensors_without_configuration_say_what_is_missing(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.pt")
    save_file({"a": torch.zeros(2), "b": torch.zeros(1)}, tmp_path / "model.safetensors")
    refused(open_checkpoint, tmp_path / "model.pt", match="1 tensors but no configuration", exact=True)
    refused(open_checkpoint, tmp_path / "model.safetensors", match="2 tensors but no configuration", exact=True)


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.safetensors", "model.ckpt", "notes"])
@pytest.mark.parametrize("text", ["these are not weights\n" * 40, "Gewichte für später\n", "<html><body>404</body></html>"])
def test_a_text_file_is_called_one(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    refused(open_checkpoint, tmp_path / name, match=f"{name} is a text file", exact=True)


def test_a_text_pickle_is_not_read_either(tmp_path, canary):
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Bomb(canary), 0))
    refused(open_checkpoint, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (os.urandom(4096), "not a readable torch file|not a checkpoint"),
        (b"PK\x03\x04" + bytes(900), "not a"),
    ],
    ids=["empty", "lfs", "noise", "zip start"],
)
def test_other_files_are_refused_in_words(tmp_path, content, match):
    (tmp_path / "model.pt").write_bytes(content)
    refused(open_checkpoint, tmp_path / "model.pt", match=match)


def test_a_missing_path_an_empty_folder_and_a_lone_part_are_refused(tmp_path, folder):
    refused(open_checkpoint, tmp_path / "nowhere", match="nowhere was not found")
    (tmp_path / "empty").mkdir()
    refused(open_checkpoint, tmp_path / "empty", match=r"not a checkpoint that is known here \(found: nothing\)")
    refused(open_checkpoint, folder / "model_index.json", match="one file of a checkpoint")
    refused(open_checkpoint, folder / "unet", match="no scheduler/scheduler_config.json")
    refused(open_checkpoint, folder / "unet" / "diffusion_pytorch_model.safetensors", match="no scheduler/scheduler_config.json, and train_timesteps, beta_schedule")


def test_compressed_entries_in_a_torch_file_are_refused_before_they_are_inflated(tmp_path):
    torch.save({"a": torch.zeros(30_000_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as source, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 500_000
    refused(open_weights, tmp_path / "bomb.pt", kind=UnsafeCheckpoint, match="compressed entries")


def test_a_tensor_that_claims_more_numbers_than_its_storage_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "model.pt")
    refused(convert_to_safetensors, tmp_path / "model.pt", tmp_path, match="claims more numbers")


# zip archives


def pack(folder, target, extra=()):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
        for name, data in extra:
            archive.writestr(name, data)
    return target


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entry", "data", "match"),
    [
        ("../escaped.json", "{}", "leaves its folder"),
        ("unet/../../escaped.json", "{}", "leaves its folder"),
        ("/etc/escaped.json", "{}", "leaves its folder"),
        ("unet\\..\\escaped.json", "{}", "leaves its folder"),
        ("C:/escaped.json", "{}", "holds the name"),
        ("unet/config.json.", "{}", "."),
        ("UNET/CONFIG.JSON", "{}", "holds the name"),
        (link("unet/link.json"), "/etc/passwd", "link or special file"),
        (link("linked"), "/etc", "link or special file"),
        ("unet/unet.py", "raise SystemExit", "brings code"),
        ("scheduler/x.so", "", "brings code"),
        ("evil.pkl", "", "brings code"),
        ("zeros.bin", bytes(60_000_000), "200 times its size"),
    ],
    ids=lambda value: getattr(value, "filename", value) if isinstance(value, str) or hasattr(value, "filename") else "data",
)
def test_hostile_zip_entries(tmp_path, folder, entry, data, match):
    target = pack(folder, tmp_path / "model.zip", [(entry, data)])
    before = sorted(p.name for p in tmp_path.iterdir())
    (tmp_path / "into").mkdir()
    if entry == "unet/config.json.":  # no suffix that is unpacked: stays in the archive
        assert not (safe_unzip(target, tmp_path / "into") / entry).exists()
        return
    refused(safe_unzip, target, tmp_path / "into", match=match)
    assert not list((tmp_path / "into").iterdir()), "left something behind"
    refused(open_checkpoint, target, match=match)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "into"]) and not (tmp_path.parent / "escaped.json").exists()


def test_a_zip_of_too_many_or_too_large_entries_is_refused(tmp_path, folder):
    (tmp_path / "into").mkdir()
    many = pack(folder, tmp_path / "many.zip", [(f"{i}.txt", "") for i in range(MAX_ENTRIES + 1)])
    refused(safe_unzip, many, tmp_path / "into", match="entries. Expected at most 500")
    large = pack(folder, tmp_path / "large.zip", [("large.bin", os.urandom(3_000_000))])
    refused(safe_unzip, large, tmp_path / "into", 2_000_000, match="unpacks to 0.0 GB")
    assert not list((tmp_path / "into").iterdir())


def test_an_entry_that_lies_about_its_size_is_stopped_while_copying(tmp_path):
    target = tmp_path / "lie.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.bin", bytes(40_000_000))
    raw = target.read_bytes().replace(struct.pack("<I", 40_000_000), struct.pack("<I", 1000))  # both headers now claim 1,000 bytes
    target.write_bytes(raw)
    (tmp_path / "into").mkdir()
    refused(safe_unzip, target, tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())


def test_a_broken_zip_and_a_zip_of_something_else_are_refused(tmp_path, folder):
    whole = pack(folder, tmp_path / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refused(open_checkpoint, tmp_path / "cut.zip", match="not a readable .zip")
    pack(folder / "nothing", tmp_path / "other.zip", [("a.txt", "1"), ("b.json", "{}")])
    refused(open_checkpoint, tmp_path / "other.zip", match=r"found: a.txt, b.json")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    refused(open_checkpoint, tmp_path / "flipped.zip")


# code named by configuration


@pytest.mark.parametrize(
    ("role", "entry", "named"),
    [
        ("unet", ["os", "system"], "os.system"),
        ("helper", ["subprocess", "Popen"], "subprocess.Popen"),
        ("unet", ["torch.hub", "load"], "torch.hub.load"),
        ("unet", ["my_unet", "MyUNet"], "my_unet.MyUNet"),
        ("text_encoder", ["transformers", "CLIPTextModel"], "transformers.CLIPTextModel"),
        ("unet", ["diffusers", "UNet2DModel", "os"], "UNet2DModel.os"),
    ],
)
def test_components_of_other_libraries_are_named_and_never_imported(folder, role, entry, named):
    tiny.edit(folder / "model_index.json", **{role: entry})
    assert named in refused(open_checkpoint, folder, kind=UnsafeCheckpoint)
    assert named in refused(inspect_checkpoint, folder, kind=UnsafeCheckpoint)


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "VQModel", "AutoencoderKL", "DiTTransformer2DModel"])
def test_diffusers_classes_that_are_not_supported_are_named(folder, name):
    tiny.edit(folder / "model_index.json", unet=["diffusers", name])
    refused(open_checkpoint, folder, match=name, exact=True)
    tiny.edit(folder / "model_index.json", unet=["diffusers", "UNet2DModel"])
    tiny.edit(folder / "unet" / "config.json", _class_name=name)
    refused(open_checkpoint, folder, match=name, exact=True)


@pytest.mark.parametrize("pipeline", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "ScoreSdeVePipeline", "LDMPipeline"])
def test_other_pipelines_are_named(folder, pipeline):
    tiny.edit(folder / "model_index.json", _class_name=pipeline)
    refused(open_checkpoint, folder, match=pipeline, exact=True)


def test_a_custom_pipeline_is_not_loaded(folder, canary):
    tiny.edit(folder / "model_index.json", _class_name=["pipeline", "Mine"])
    (folder / "pipeline.py").write_text(f"open({str(canary)!r}, 'w')")
    refused(open_checkpoint, folder, kind=UnsafeCheckpoint, match="pipeline")


@pytest.mark.parametrize("place", ["unet/my_unet.py", "scheduler/scheduler.py", "pipeline.py", "unet/native.so"])
def test_code_beside_the_configuration_is_named_and_not_run(folder, canary, place):
    (folder / place).write_text(f"open({str(canary)!r}, 'w')")
    assert place in refused(open_checkpoint, folder, kind=UnsafeCheckpoint, match="brings code")


@pytest.fixture
def pipeline(tmp_path):
    """A Stable Diffusion pipeline, which has every kind of component."""
    made = tmp_path / "pipeline"
    tiny.save_stable_diffusion(made)
    return made


CONFIGURATIONS = ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json", "vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize(("key", "value"), [("auto_map", {"UNet2DModel": "my_unet.UNet2DModel"}), ("trust_remote_code", True), ("custom_pipeline", "pipeline.py")])
def test_a_configuration_that_asks_for_code_is_refused(pipeline, canary, name, key, value):
    tiny.edit(pipeline / name, **{key: value})
    refused(open_checkpoint, pipeline, kind=UnsafeCheckpoint, match=f"{name} names code to load .{key}")


@pytest.mark.parametrize("place", ["vae/vae.py", "text_encoder/modeling.py", "tokenizer/tokenization.py", "tokenizer/merges.so", "pipeline.py"])
def test_code_beside_any_component_is_named_and_not_run(pipeline, canary, place):
    (pipeline / place).write_text(f"open({str(canary)!r}, 'w')")
    assert place in refused(open_checkpoint, pipeline, kind=UnsafeCheckpoint, match="brings code")


@pytest.mark.parametrize("part", ["vae/diffusion_pytorch_model", "text_encoder/model", "unet/diffusion_pytorch_model"])
def test_a_pickle_that_runs_code_in_any_component_is_not_run(pipeline, canary, part):
    (pipeline / f"{part}.safetensors").unlink()
    torch.save({"encoder.conv_in.weight": Bomb(canary)}, pipeline / f"{part.replace('r/model', 'r/pytorch_model')}.bin")
    refused(open_checkpoint, pipeline, kind=UnsafeCheckpoint, match="system")
    refused(inspect_checkpoint, pipeline, kind=UnsafeCheckpoint, match="system")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("name", [*CONFIGURATIONS[1:], "tokenizer/vocab.json", "vae/diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("target", ["/dev/zero", "/etc", "/nowhere", "secret"])
def test_links_to_devices_folders_and_other_files_are_refused_and_never_shown(pipeline, tmp_path, name, target):
    (tmp_path / "secret").write_text("root:x:0:0 do not show me")
    (pipeline / name).unlink()
    (pipeline / name).symlink_to(tmp_path / target if target == "secret" else target)
    text = refused(open_checkpoint, pipeline)
    assert "root:x" not in text and "do not" not in text


def test_links_to_the_right_files_are_read_as_the_cache_of_the_hub_has_them(pipeline, tmp_path):
    before = inspect_checkpoint(pipeline)
    for number, file in enumerate(sorted(p for p in pipeline.rglob("*") if p.is_file())):
        blob = tmp_path / f"blob{number}"
        file.rename(blob)
        file.symlink_to(blob)
    assert open_checkpoint(pipeline).info == before


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "ScoreSdeVeScheduler", "os.system", "__import__", ["os", "system"], 3])
def test_schedulers_off_the_list_are_named(folder, name):
    tiny.edit(folder / "model_index.json", scheduler=...)
    tiny.edit(folder / "scheduler" / "scheduler_config.json", _class_name=name)
    refused(open_checkpoint, folder, match="which is not supported")


# configuration that lies


CONFIG_LIES = [
    ("unet/config.json", {"block_out_channels": [200_000, 200_000]}, "block_out_channels is"),
    ("unet/config.json", {"block_out_channels": [8] * 40}, "levels"),
    ("unet/config.json", {"block_out_channels": [8, -16]}, "block_out_channels is"),
    ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block is 1000000000"),
    ("unet/config.json", {"layers_per_block": "1"}, "layers_per_block is 1"),
    ("unet/config.json", {"sample_size": 10**7}, "sample_size is"),
    ("unet/config.json", {"sample_size": None}, "does not say the image size"),
    ("unet/config.json", {"sample_size": 7}, "7 x 7 pixels"),
    ("unet/config.json", {"norm_num_groups": 3}, "cannot|can be built|does not describe"),
    ("unet/config.json", {"act_fn": "os.system"}, "does not describe a UNet2DModel"),
    ("unet/config.json", {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, "names CrossAttnDownBlock2D"),
    ("unet/config.json", {"down_block_types": 5}, "down_block_types names 5"),
    ("unet/config.json", {"time_embedding_type": "fourier"}, "fourier"),
    ("unet/config.json", {"time_embedding_type": "learned"}, "embeds 0 timesteps"),
    ("unet/config.json", {"in_channels": 4}, "in_channels is 4"),
    ("unet/config.json", {"in_channels": True}, "in_channels is true"),
    ("unet/config.json", {"out_channels": 5}, "out_channels is 5"),
    ("unet/config.json", {"out_channels": 2}, "two channels out for each in"),
    ("unet/config.json", {"num_class_embeds": 10}, "has no tensor class_embedding.weight"),
    ("unet/config.json", {"num_class_embeds": 10**9}, "num_class_embeds is"),
    ("unet/config.json", {"class_embed_type": "timestep"}, "class labels"),
    ("scheduler/scheduler_config.json", {"variance_type": "learned_range"}, "says variance_type learned_range"),
    ("scheduler/scheduler_config.json", {"variance_type": "mine"}, "variance_type is mine"),
    ("scheduler/scheduler_config.json", {"variance_type": ["learned"]}, "variance_type is"),
    ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "prediction_type is flow_prediction"),
    ("scheduler/scheduler_config.json", {"prediction_type": {"a": 1}}, "prediction_type is"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "num_train_timesteps is"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": "1000"}, "num_train_timesteps is"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "mine"}, "beta schedule 'mine'"),
    ("scheduler/scheduler_config.json", {"beta_schedule": ["linear"]}, "beta schedule"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "exp"}, "DDPMScheduler refuses"),
    ("scheduler/scheduler_config.json", {"beta_start": -1}, "beta_start -1"),
    ("scheduler/scheduler_config.json", {"beta_end": float("nan")}, "beta_end NaN"),
    ("scheduler/scheduler_config.json", {"trained_betas": [0.1, 0.2]}, "2 entries for 1000 timesteps"),
    ("scheduler/scheduler_config.json", {"trained_betas": [2.0] * 1000}, "betas outside"),
    ("scheduler/scheduler_config.json", {"trained_betas": ["x"] * 1000}, "trained_betas has"),
    ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "flow sigmas"),
    ("scheduler/scheduler_config.json", {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "tells the network noise levels, not timesteps"),
    ("scheduler/scheduler_config.json", {"predict_epsilon": False, "prediction_type": "epsilon"}, "predict_epsilon false and prediction_type epsilon"),
    ("scheduler/scheduler_config.json", {"predict_epsilon": "no"}, "predict_epsilon is no"),
]


@pytest.mark.parametrize(("name", "lie", "match"), CONFIG_LIES, ids=lambda v: str(v)[:40])
def test_configuration_that_cannot_be_is_refused(folder, name, lie, match):
    tiny.edit(folder / name, **lie)
    refused(open_checkpoint, folder, match=match, exact=True)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '"text"', "[" * 100_000, "\x00\xff", '{"_class_name": "\\u001b[31mRed\\nline"}'],
    ids=["cut", "list", "null", "text", "deep", "binary", "escapes"],
)
@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
def test_configuration_that_is_not_json_is_refused(folder, name, content):
    (folder / name).write_text(content)
    text = refused(open_checkpoint, folder)
    assert "\x1b" not in text and (name in text or "Red" in text)


def test_a_configuration_file_of_many_megabytes_is_not_parsed(folder):
    (folder / "unet" / "config.json").write_text(json.dumps({"x": "y" * 5_000_000}))
    refused(open_checkpoint, folder, match="unet/config.json has 4 MB")


@pytest.mark.slow
def test_a_huge_network_is_refused_without_its_memory(folder):
    """16,000 channels pass the sanity limits; built for real they would take 100 GB. The address space is limited to prove that nothing is taken."""
    tiny.edit(folder / "unet" / "config.json", block_out_channels=[16_000, 16_000], norm_num_groups=4, layers_per_block=8)
    code = (
        "import sys\nimport torch; from diffusers import UNet2DModel\nfrom models.checkpoint import open_checkpoint\nfrom models.errors import CheckpointError\n"
        f"{tiny.PEAK}before = peak()\n"
        f"try:\n open_checkpoint({str(folder)!r})\nexcept CheckpointError as error:\n print(peak() - before, error)"
    )

    resource = pytest.importorskip("resource")  # not on Windows

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    megabytes, _, message = done.stdout.partition(" ")
    assert "disagree" in message and float(megabytes) < 100, done.stdout + done.stderr[-300:]


# weights that lie


def weights_of(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def test_truncated_safetensors_say_how_much_is_there(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(143_000_000 // 40)}, path)
    raw = path.read_bytes()
    path.write_bytes(raw[:4_100_000])
    assert refused(open_weights, path) == "model.safetensors ends after 4 of 14 MB. The copy was cut short: copy it again."
    path.write_bytes(raw[:40])
    refused(open_weights, path, match="ends inside its header|ends after 40 of")
    path.write_bytes(raw[:5])
    refused(open_weights, path, match="does not begin with a safetensors header|is a text file")
    path.write_bytes(raw + b"more")
    refused(open_weights, path, match="4 bytes beyond its tensors")


@pytest.mark.parametrize(
    ("have", "want", "text"),
    [(41_000_000, 143_000_000, "41 of 143 MB"), (142_900_001, 143_000_000, "142900 of 143000 kB"), (3, 12, "3 of 12 bytes"), (20_000, 90_400, "20 of 90 kB")],
)
def test_sizes_are_told_in_a_unit_that_shows_the_difference(have, want, text):
    assert "{} of {} {}".format(*size_pair(have, want)) == text


def test_a_truncated_checkpoint_is_refused_by_inspect_too(folder):
    weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:-1000])
    for action in (open_checkpoint, inspect_checkpoint):
        refused(action, folder, match="diffusion_pytorch_model.safetensors ends after .* copy it again")


def header_file(path, header, data=b""):
    raw = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {"dtype": "F32", "shape": [10**6], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, bytes(16)),
        ({"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "X99", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": 7}, b""),
        (b"[1, 2]", b""),
        (b"{{{{", b""),
    ],
    ids=["length", "overlap", "gap", "negative", "overflow", "dtype", "shape", "entry", "list", "not json"],
)
def test_safetensors_headers_that_lie_are_refused(tmp_path, header, data):
    header_file(tmp_path / "model.safetensors", header, data)
    refused(open_weights, tmp_path / "model.safetensors", match="header", exact=True)


def test_a_header_longer_than_the_file_takes_no_memory(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}" + bytes(20))
    refused(open_weights, path, match="does not begin with a safetensors header")
    path.write_bytes(struct.pack("<Q", 90_000_000) + b"{}" + bytes(20))
    refused(open_weights, path, match="ends inside its header, after 0 of 90 MB")


def spoil(folder, change):
    state = load_file(weights_of(folder))
    change(state)
    save_file(state, weights_of(folder))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("conv_out.bias"), "has no tensor conv_out.bias"),
        (lambda s: s.update(stranger=torch.zeros(1)), "holds stranger, which unet/config.json has no place for"),
        (lambda s: s.update({"conv_in.weight": torch.zeros(8, 3, 3, 3)}), "conv_in.weight is 8 x 3 x 3 x 3 in the weights, 8 x 1 x 3 x 3 by the configuration"),
        (lambda s: s["conv_in.weight"].view(-1)[5].fill_(torch.nan), "conv_in.weight holds NaN or infinity"),
        (lambda s: s["conv_out.bias"].fill_(torch.inf), "conv_out.bias holds NaN or infinity"),
        (lambda s: s.update({"conv_out.bias": torch.full((1,), 1e300, dtype=torch.float64)}), "conv_out.bias holds NaN or infinity"),
        (lambda s: s.update({"conv_out.bias": torch.zeros(1, dtype=torch.int8)}), "conv_out.bias is I8"),
    ],
    ids=["missing", "extra", "shape", "nan", "inf", "overflow", "int8"],
)
def test_weights_that_disagree_or_are_not_finite_are_refused_by_name(folder, change, match):
    spoil(folder, change)
    refused(open_checkpoint, folder, match=match, exact=True)


def test_nan_in_half_precision_and_in_a_pickle_is_found(folder):
    state = {k: v.half() for k, v in load_file(weights_of(folder)).items()}
    state["conv_out.bias"][0] = torch.nan
    weights_of(folder).unlink()
    torch.save(state, folder / "unet" / "diffusion_pytorch_model.bin")
    refused(open_checkpoint, folder, match="conv_out.bias holds NaN")


def test_missing_weights_and_pickled_shards_are_refused_in_words(folder):
    weights_of(folder).rename(folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")
    refused(open_checkpoint, folder, match="diffusion_pytorch_model.safetensors is missing")
    (folder / "unet" / "diffusion_pytorch_model.bin.index.json").write_text("{}")
    refused(open_checkpoint, folder, match="split over several pickles")


def test_old_torch_is_refused_for_pickles_only(folder, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    open_checkpoint(folder)
    torch.save(load_file(weights_of(folder)), folder / "unet" / "diffusion_pytorch_model.bin")
    weights_of(folder).unlink()
    refused(open_checkpoint, folder, match="torch 2.9.1")

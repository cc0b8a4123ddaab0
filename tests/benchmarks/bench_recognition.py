"""What it costs to recognise a checkpoint of every format, and to open a large one.

    python tests/benchmarks/bench_recognition.py [--large-mb 500] [--repeats 3]

Each measurement is a process of its own, after `import torch` and the loader: seconds of processor time and resident memory beyond that point (the largest ever
held). Recognising means `inspect_checkpoint`, without tensors; the first call also imports the formats. "SHA-256" is the part of it that hashes the files.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from tests.models import test_contract_formats, test_openai, tiny  # noqa: E402

START = tiny.PEAK + """
import json, sys, time
import torch
from models.checkpoint import inspect_checkpoint, open_checkpoint
from models.safety import file_sha256
path, settings, keep = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] or None
before, began = peak(), time.process_time()
"""
END = "\nprint(json.dumps([time.process_time() - began, peak() - before]))"
INSPECT, OPEN, HASH = "inspect_checkpoint(path, **settings)", "open_checkpoint(path, unpack_into=keep, **settings)", "file_sha256(path)"


def measured(code, path, settings, keep=""):
    """(seconds of processor time, MB beyond the imports) of one action in a process of its own."""
    done = subprocess.run([sys.executable, "-c", START + code + END, str(path), json.dumps(settings), str(keep)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-600:])
    return json.loads(done.stdout.splitlines()[-1])


def large_files(folder, megabytes):
    """[(name, path, settings)] of an improved-diffusion network of about that size, as .pt, .pt of torch before 1.6 and .safetensors."""
    width = 256
    while True:
        made = test_openai.layout(widths=(width, 2 * width, 2 * width), blocks=2, model_channels=width)
        with torch.device("meta"):
            size = sum(t.numel() for t in test_openai.OpenAIUNet(made, test_openai.Heads()).state_dict().values()) * 4 / 2**20
        if size >= megabytes or width > 2048:
            break
        width += 32
    state = test_openai.random_state(made)
    torch.save(state, folder / "model.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "model.safetensors")
    return [(name, folder / name, test_openai.FULL) for name in ("model.pt", "legacy.pt", "model.safetensors")]


def main(argv=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Cost of recognising and opening checkpoints.")
    parser.add_argument("--large-mb", type=int, default=500, help="size of the large file")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        root = Path(root)
        print(f"recognising, median of {args.repeats}: seconds of processor time, MB beyond the imports")
        for name, make in test_contract_formats.SAMPLES:
            folder = root / make.__name__
            folder.mkdir()
            path, settings = make(folder)
            runs = [measured(INSPECT, path, settings) for _ in range(args.repeats)]
            print(f"  {name:<14} {make.__name__:<22} {statistics.median(r[0] for r in runs):6.2f} s {statistics.median(r[1] for r in runs):7.0f} MB", flush=True)
        print(f"a file of about {args.large_mb} MB: MB beyond the imports, and as a share of the file")
        keep = root / "kept"
        for name, path, settings in large_files(root, args.large_mb):
            size = path.stat().st_size / 2**20
            keep.mkdir(exist_ok=True)
            steps = [("recognise", INSPECT, ""), ("of it SHA-256", HASH, ""), ("open", OPEN, "")]
            if path.suffix == ".pt":
                steps += [("open, converting", OPEN, keep), ("open the converted", OPEN, keep)]
            for words, code, place in steps:
                seconds, grown = measured(code, path, settings, place)
                print(f"  {name:<18} {size:5.0f} MB  {words:<20} {seconds:6.2f} s {grown:7.0f} MB {grown / size:6.2f}", flush=True)
            path.unlink()
            for file in keep.iterdir():
                file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())

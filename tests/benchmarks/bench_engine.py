"""How much of the bare network's speed the engine keeps, as a ratio within one run.

    python tests/benchmarks/bench_engine.py [--seconds 90] [--threads 2] [--device cpu]

Bare: the network alone on ready-made tensors, inference mode, at its best batch size. Engine: `measure_block` on the quick grid (20 timesteps, 2 draws) with
the batch size that its own probe found, noise, arithmetic and tables included. The two take turns of about a second, so that other work on the machine
slows both; the ratio is the median over pairs of turns.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from audit.engine import MeasurePlan, choose_device, default_batch_size, find_batch_size, measure_block  # noqa: E402
from audit.presets import grid  # noqa: E402
from models import open_checkpoint  # noqa: E402
from models.base import CheckpointInfo, Denoiser  # noqa: E402
from models.schedule import betas_for, from_betas  # noqa: E402

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
TURN_S = 1.0
TARGET = 0.90


def network(device):
    """(Denoiser, name): the bundled leaky checkpoint, or an untrained network of its configuration."""
    path = ROOT / "models" / "demo" / "leaky"
    if path.exists():
        return open_checkpoint(path).to(device), "models/demo/leaky"
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=16,
    ).eval()
    info = CheckpointInfo("", "none", "UNet2DModel", sum(p.numel() for p in unet.parameters()), "only", "epsilon", 1000, (1, 16, 16), ())
    return Denoiser(unet, from_betas(betas_for({})), (1, 16, 16), "epsilon", "fixed_small", info).to(device), "an untrained network of the demo's configuration"


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare(model, device, batch, at_least_s):
    """Rows per second of the network alone."""
    xt = torch.randn((batch, *model.image_shape), device=device)
    t = torch.randint(0, len(model.schedule), (batch,), device=device)
    if device.type == "cuda":
        xt = xt.contiguous(memory_format=torch.channels_last)
    rows, begun = 0, time.perf_counter()
    with torch.inference_mode():
        while rows == 0 or time.perf_counter() - begun < at_least_s:
            model.network(xt, t)
            wait(device)
            rows += batch
    return rows / (time.perf_counter() - begun)


def engine(model, x0, plan):
    """Rows per second of the engine on one block."""
    begun = time.perf_counter()
    measure_block(model, x0, plan)
    return len(x0) * len(plan.timesteps) * plan.draws / (time.perf_counter() - begun)


def best_batch(model, device):
    """Batch size with the largest bare throughput, each at its fastest of five interleaved turns: other work only ever slows one down."""
    bare(model, device, 16, 0.2)
    rates = {batch: [] for batch in BATCHES}
    for _ in range(5):
        for batch in BATCHES:
            rates[batch].append(bare(model, device, batch, 0.3))
    return max(rates, key=lambda batch: max(rates[batch]))


def compare(model, x0, plan, device, batch, seconds):
    """(ratios, bare rates, engine rates) of interleaved turns."""
    ratios, bares, engines, end = [], [], [], time.monotonic() + seconds
    while len(ratios) < 5 or time.monotonic() < end:
        before, kept, after = bare(model, device, batch, TURN_S / 2), engine(model, x0, plan), bare(model, device, batch, TURN_S / 2)
        ceiling = (before + after) / 2
        ratios, bares, engines = [*ratios, kept / ceiling], [*bares, ceiling], [*engines, kept]
    return ratios, bares, engines


def main(argv=None):
    """Print the ratio; exit code 1 when it is below the target."""
    parser = argparse.ArgumentParser(description="Engine throughput as a share of the bare network's.")
    parser.add_argument("--seconds", type=float, default=90, help="length of each comparison")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    model, name = network(device)
    if device.type == "cuda":
        model.network.to(memory_format=torch.channels_last)
    plan = MeasurePlan(grid(20, len(model.schedule)), 2)
    batch = best_batch(model, device)
    rate = bare(model, device, batch, TURN_S)
    x0 = torch.rand((max(16, round(TURN_S * rate / (len(plan.timesteps) * plan.draws))), *model.image_shape)) * 2 - 1
    print(f"{name}; {device.type}, {args.threads} threads, torch {torch.__version__}; bare network best at batch {batch}; engine blocks of {len(x0)} images")
    good = True
    for what, size in (("run (batch size from the probe)", find_batch_size(model, plan, device)), ("measure (default batch size)", default_batch_size(model, plan, device))):
        ratios, bares, engines = compare(model, x0, replace(plan, batch_size=size), device, batch, args.seconds)
        low, _, high = statistics.quantiles(ratios, n=4)
        ratio = statistics.median(ratios)
        good &= ratio >= TARGET
        speeds = f"{statistics.median(engines):,.0f} of {statistics.median(bares):,.0f} calls/s"
        print(f"{what}: batch {size}, {speeds}; ratio {ratio:.3f}, quartiles {low:.3f} to {high:.3f}, {len(ratios)} turns (target {TARGET:.2f})", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

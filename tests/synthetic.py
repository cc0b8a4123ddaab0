"""A finished run folder without a model, in about a second: synthetic loss tables, then the real analysis.

python -m tests.synthetic DIR        three runs (high, not detected, few images) to look at pages with
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from audit import __version__
from audit.analysis import analyse
from audit.presets import grid
from audit.request import Request
from audit.tables import write_tables

STEPS = 1000
ATTACKS = ("loss_vlb", "loss_x0", "loss_eps", "gray_intermediate")  # one for each loss table that is made up here
QUERIES = ("gray_free", "naive_loss", "pia", "pian", "secmi", "sima", "sima_mc", "dime", "dime_m", "pfami")  # with `query_tables`
CREATED = "2026-01-02T03:04:05Z"


def schedule():
    """float64 (1000,) abar of the linear schedule."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, STEPS))


def loss_tables(is_member, timesteps, draws, leak, seed):
    """{table: float32 (S,N,K)}: losses fall with noise, differ by image difficulty, and are `leak` standard deviations lower for members around t = 150."""
    rng, n, k = np.random.default_rng(seed), len(is_member), len(timesteps)
    difficulty = rng.normal(0, 0.25, (n, 1))
    exposure = rng.exponential(1, (n, 1))
    where = np.exp(-(((timesteps - 150) / 120.0) ** 2))
    gap = -0.22 * leak * is_member[:, None] * where * exposure
    log_loss = np.log(0.9 * np.exp(-timesteps / 150) + 0.01) + difficulty + gap
    eps_mse = np.exp(log_loss + rng.normal(0, 0.12, (draws, n, k)))
    abar = schedule()
    snr = abar / (1 - abar)
    x0_mse = np.minimum(eps_mse / snr[timesteps] * np.exp(rng.normal(0, 0.1, (n, k))), 4.0)
    steps = np.append(np.inf, snr[:-1])[timesteps] - snr[timesteps]
    vlb = np.where(timesteps == 0, 5.0 + difficulty, steps * x0_mse * np.exp(rng.normal(0, 0.1, (n, k))) / (2 * np.log(2)))
    quantised = (x0_mse + (2 / 255) ** 2 / 12) * np.exp(rng.normal(0, 0.2, (n, k)))
    norm = 16.0 * (1 + 0.01 * rng.normal(0, 1, (draws, n, k)))
    return {
        k: v.astype(np.float32) for k, v in {"eps_mse": eps_mse, "x0_mse": x0_mse, "vlb_bits": vlb, "eps_hat_l2": norm, "eps_hat_l4": norm / 3, "x0_8bit_mse": quantised}.items()
    }


def query_tables(eps_mse, seed):
    """{table: float32 (S,N,K)} of the query attacks: each sees the noise error through noise of its own, the dearer ones less of it."""
    rng = np.random.default_rng([seed, 2])

    def seen(spread):
        return (eps_mse * np.exp(rng.normal(0, spread, eps_mse.shape))).astype(np.float32)

    blur = {"pia_l4": 0.3, "pian_l4": 1.5, "secmi_l2": 0.5, "sima_l4": 0.8, "sima_scaled_l4": 0.4, "dime_bias": 0.2, "gray_free_mse": 6.0, "pfami_mse": 0.4}
    made = {name: seen(spread) for name, spread in blur.items()}
    return made | {"dime_spread": 1 / seen(0.6), "pfami_crop_mse": seen(0.4) + made["pfami_mse"].mean()}


def synthetic_run(
    folder, members=450, nonmembers=450, leak=2.0, seed=0, preset="quick", draws=2, name="synthetic", timesteps=20, edit=None, shift=0.0, provenance="manifest", clusters=None,
    attacks=ATTACKS, thumbnails=True, pool=0, checkpoint=True,
):  # fmt: skip
    """Write a finished run folder and return its report.

    Args: folder: made; leak: strength of the members' advantage (0 = none, 2 = clear); edit: called with {table: array} before the tables are written;
        shift: by how many sd the members' files are larger, which the blind baseline sees; provenance: kind of the split; clusters: int (N,) near duplicates;
        attacks: of ATTACKS and QUERIES; thumbnails: False where nobody looks at pictures, since 900 files take as long as the tables and their report;
        pool: so many samples, near copies of members as far as there is a leak, with the attacks that read them; checkpoint: False = nothing but these samples.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng, n = np.random.default_rng(seed), members + nonmembers
    is_member = np.arange(n) < members
    images = np.clip(rng.normal(0, 1, (n, 4, 4, 1)).repeat(4, 1).repeat(4, 2) * 60 + 110, 0, 255).astype(np.uint8)
    ids = [hashlib.sha256(i.tobytes()).hexdigest()[:16] for i in images]
    if thumbnails:
        (folder / "thumbnails").mkdir(exist_ok=True)
        for image_id, pixels in zip(ids, images, strict=True):
            Image.fromarray(pixels[..., 0]).save(folder / "thumbnails" / f"{image_id}.png")
    np.save(folder / "images.npy", images)
    t = grid(timesteps, STEPS)
    tables = loss_tables(is_member, t, draws, leak, seed)
    if set(attacks) & set(QUERIES):
        tables |= query_tables(tables["eps_mse"], seed)
    if edit:
        edit(tables)
    specs = {name: ("timestep", t) for name in tables}
    if not checkpoint:
        tables, specs, attacks, draws, t = {}, {}, (), 1, np.empty(0, np.int64)
    sampled = sample_tables(folder, images, is_member, pool, leak, seed) if pool else None
    if pool:
        tables, specs, attacks = tables | sampled[0], specs | dict.fromkeys(sampled[0], ("feature", None)), (*attacks, "nearest", "nearest_calibrated")
    write_tables(folder / "tables", n, specs, [(0, {name: values}) for name, values in tables.items()])
    where = ("/checkpoints/synthetic" if checkpoint else None, "/images/members", "/images/nonmembers")
    request = Request(*where, name, preset, seed=seed, draws=draws, timesteps=timesteps, attacks=attacks, pool=(pool and (pool if checkpoint else "/samples")) or None)
    queries = {
        "images": [
            {"image_id": i, "path": f"image-{k:05d}.png", "is_member": bool(m), "cluster": int(c), "source_sha256": hashlib.sha256(f"file {k}".encode()).hexdigest()}
            for k, (i, m, c) in enumerate(zip(ids, is_member, np.arange(n) if clusters is None else clusters, strict=True))
        ],
        "members": members,
        "nonmembers": nonmembers,
        "left_out": [{"path": "notes.txt", "set": "members", "reason": "not an image file"}],
        "duplicates": {"exact": 0, "pairs": [], "near": 0, "clusters": 0, "near_pairs": [], "rule": "made without pictures"},
        "preprocessing": {"crop": "center", "filter": "bicubic", "size": [16, 16]},
    }
    described = {"sha256": hashlib.sha256(name.encode()).hexdigest(), "format": "diffusers", "architecture": "UNet2DModel 32-64-64", "parameters": 1_112_801, "weights": "only"}
    described |= {
        "prediction_type": "epsilon",
        "train_timesteps": STEPS,
        "image_shape": [1, 16, 16],
        "settings": [{"name": "beta_schedule", "value": "linear", "decided_by": "scheduler_config.json"}],
    }
    described |= {"confidence": "certain", "files": ["unet/config.json"], "missing": []}
    if not checkpoint:
        from audit.jobs.tasks_pool import no_checkpoint

        described = no_checkpoint((1, 16, 16))
    calls = len(t) * draws
    measurement = {
        "run": {"id": hashlib.sha256(str(folder.name).encode()).hexdigest()[:8], "name": name, "created": CREATED},
        "checkpoint": described,
        "pool": sampled and sampled[1] | ({} if checkpoint else {"kind": "given", "sampler": None, "steps": None, "seed": None, "seconds": 0.0}),
        "provenance": {"kind": provenance},
        "schedule": {"alphas_cumprod": schedule().tolist()},
        "self_test": {"passed": True, "error": 0.05, "baseline": 1.0, "per_t": [], "hint": ""} if checkpoint else None,
        "measurement": {
            "timesteps": t.tolist(),
            "draws": draws,
            "seed": seed,
            "batch_size": 64,
            "precision": "fp32",
            "probes": ["noised"],
            "model_calls": calls * n,
            "model_calls_per_image": calls,
        },
        "cost": {"model_calls": calls * n, "seconds": 30.0, "device": "CPU, 2 cores", "throughput": n / 30.0},
        "versions": {"afterimage": __version__, "torch": "2.13.0", "diffusers": "0.42.1", "numpy": np.__version__, "python": "3.11.7"},
        "warnings": [],
        "seconds": 34.0,
    }
    features = np.random.default_rng([seed, 1]).normal(0, 1, (n, 24))
    features[:, 0] += shift * is_member
    names = ["file bytes", "bytes per pixel", "mean", "sd", "sharpness", *(f"pixel {i}" for i in range(19))]
    np.savez(folder / "features.npz", names=np.array(names), scalar=np.arange(24) < 5, values=features)
    for file, data in (("request.json", request.to_json()), ("queries.json", queries), ("measurement.json", measurement)):
        (folder / file).write_text(json.dumps(data), encoding="utf-8")
    (folder / "log.txt").write_text("synthetic run\n", encoding="utf-8")
    if pool:
        from audit.pool.evidence import write_samples

        write_samples(folder, sampled[2])
    return analyse(folder)


def sample_tables(folder, images, is_member, count, leak, seed):
    """({table: float32 (1,N,K)}, what measurement.json says of the pool, the Pool): every second sample is a member under noise that falls with the leak."""
    import tempfile

    from audit.pool.nearest import Nearest
    from audit.pool.store import PoolFolder

    rng = np.random.default_rng([seed, 3])
    samples = np.clip(rng.normal(0, 1, (count, 4, 4, 1)).repeat(4, 1).repeat(4, 2) * 60 + 110, 0, 255)
    known = rng.permutation(np.flatnonzero(is_member))[: (count + 1) // 2]
    samples[::2][: len(known)] = images[known] + rng.normal(0, 120 / (1 + 2 * leak), samples[::2][: len(known)].shape)
    pool = PoolFolder(tempfile.mkdtemp(dir=folder.parent), "0" * 64).finish(count, (16, 16, 1), [np.clip(samples, 0, 255).astype(np.uint8)], kind="drawn", left_out=[], resized=0)
    tables = Nearest().measure(images, 0, len(images), np.arange(len(images)), pool, "cpu")
    told = {"sampler": "ddim", "steps": 50, "seed": seed, "seconds": 61.0, "classes": None, "resized": 0, "query_images": 0, "left_out": [], "model_calls": 50 * count}
    return tables, {"images": count, "sha256": pool.info["sha256"], "kind": "drawn"} | told, pool


if __name__ == "__main__":
    for made, arguments in {"high": {}, "quiet": {"leak": 0.0, "seed": 3}, "few": {"members": 64, "nonmembers": 64, "leak": 0.7, "seed": 5}}.items():
        print(made, synthetic_run(Path(sys.argv[1]) / made, name=made, **arguments)["verdict"]["level"])

"""Pools of a Stable Diffusion model: each sample by a caption of the query images, through the model's own text encoder; else by the empty prompt."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.jobs import tasks, tasks_pool
from audit.jobs.store import Store
from audit.pool import open_pool, prompts
from audit.pool import store as pool_store
from audit.pool.sampler import draw
from models import open_checkpoint
from models.pixels import to_model_range
from tests.jobs import pair as pairs
from tests.jobs.test_driver_inline import driver, fail_in, no_background_worker, run  # noqa: F401, the fixture acts by being here
from tests.jobs.test_pools import pool_folders, report_of
from tests.models import tiny

WORDS = ("the cat", "a cat on the cat", "the dog", "zebra")


@pytest.fixture(scope="session")
def painter(tmp_path_factory):
    """{"checkpoint", "members", "nonmembers", "captions"}: a tiny StableDiffusionPipeline that denoises its pictures of 1 x 16 x 16."""
    import diffusers

    root, images = tmp_path_factory.mktemp("painter"), pairs.pictures(48, 0).repeat(2, axis=1).repeat(2, axis=2)
    place = root / "painter"
    tiny.save_stable_diffusion(place, scheduler_config={"num_train_timesteps": 100, "beta_end": 0.1})
    opened = open_checkpoint(place)
    captions = [WORDS[i % len(WORDS)] for i in range(48)]
    with torch.no_grad():
        latents = opened.encode(torch.from_numpy(to_model_range(images)))
    factor = float(1 / latents.std())
    tiny.edit(place / "vae" / "config.json", scaling_factor=factor * opened.autoencoder.scale)
    network = diffusers.UNet2DConditionModel.from_pretrained(place / "unet").train()
    x0, cond, abar = latents[:24] * factor, opened.embed(captions)[:24], torch.from_numpy(opened.schedule.alphas_cumprod).float()
    generator, optimiser = torch.Generator().manual_seed(1), torch.optim.AdamW(network.parameters(), lr=8e-3)
    for _ in range(120):
        chosen = torch.randint(24, (16,), generator=generator)
        noise, t = torch.randn((16, *x0.shape[1:]), generator=generator), torch.randint(100, (16,), generator=generator)
        a = abar[t].view(-1, 1, 1, 1)
        answer = network(a.sqrt() * x0[chosen] + (1 - a).sqrt() * noise, t, encoder_hidden_states=cond[chosen]).sample
        loss = (answer - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.save_pretrained(place / "unet")
    sides = {side: pairs.save_pictures(root / side, part) for side, part in (("members", images[:24]), ("nonmembers", images[24:]))}
    rows = [f"{file.parent.name}/{file.name},{captions[i]}" for i, file in enumerate(file for side in sides.values() for file in sorted(side.iterdir()))]
    (root / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    return {name: str(root / file) for name, file in (("checkpoint", "painter"), ("members", "members"), ("nonmembers", "nonmembers"), ("captions", "captions.csv"))}


@pytest.fixture
def asked(request_for, painter, monkeypatch):
    """A Request of 10 samples in 3 steps, 4 samples a shard; keywords change it."""
    monkeypatch.setattr(pool_store, "CPU_PIXELS", 4 * 256)
    tasks._cache.clear()
    yield lambda **changes: request_for(**{**painter, "pool": 10, "pool_steps": 3, "attacks": ("nearest",), **changes})
    tasks._cache.clear()


def expected(checkpoint, captions):
    """uint8 (10,16,16,1): ten samples by these captions in turn, four at a time, through the checkpoint's own text encoder."""
    opened = open_checkpoint(checkpoint)
    told = [captions[i % len(captions)] for i in range(10)]
    return np.concatenate([draw(opened, range(a, min(10, a + 4)), "ddim", 3, 0, opened.embed(told[a : a + 4])) for a in (0, 4, 8)])


def test_samples_are_asked_for_by_the_captions_of_the_query_images_in_turn(home, asked, painter):
    job = run(home, asked())
    assert (job.state, job.error) == ("done", "")
    (folder,) = pool_folders(home)
    pool, order = open_pool(folder), prompts.captions_in_turn(WORDS, WORDS, 0)
    assert sorted(order) == sorted(WORDS) and np.array_equal(pool.images, expected(painter["checkpoint"], order))
    assert not np.array_equal(pool.images, expected(painter["checkpoint"], order[::-1]))
    assert report_of(job)["pool"]["captions"] == 4 and "by 4 captions of the query images in turn" in (Path(job.folder) / "report.html").read_text()


def test_other_captions_are_another_pool_and_none_are_the_empty_prompt(home, asked, painter, tmp_path):
    run(home, asked(), out=tmp_path / "with")
    job = run(home, asked(captions=None), out=tmp_path / "without")
    assert job.state == "done" and report_of(job)["pool"]["captions"] == 0 and len(pool_folders(home)) == 2
    assert "by the empty prompt" in (Path(job.folder) / "report.html").read_text()
    found = {open_pool(folder).info["captions"]: open_pool(folder).images for folder in pool_folders(home)}
    assert np.array_equal(found[0], expected(painter["checkpoint"], ("",)))
    other = tmp_path / "other.csv"
    other.write_text(Path(painter["captions"]).read_text().replace("zebra", "horse"))
    run(home, asked(captions=str(other)), out=tmp_path / "other")
    assert len(pool_folders(home)) == 3
    few = run(home, asked(captions=str(_one_each(painter, tmp_path))), out=tmp_path / "few")
    assert "10 samples were drawn for 48 captions" in " ".join(report_of(few)["warnings"]) and report_of(few)["pool"]["captions"] == 10


def _one_each(painter, tmp_path):
    """A file with another caption for each image."""
    rows = [row.rsplit(",", 1)[0] for row in Path(painter["captions"]).read_text().splitlines()[1:]]
    (tmp_path / "each.csv").write_text("image,caption\n" + "\n".join(f"{row},cat {i}" for i, row in enumerate(rows)) + "\n")
    return tmp_path / "each.csv"


def test_a_stopped_pool_goes_on_with_the_same_bytes(home, asked, monkeypatch, tmp_path):
    run(home, asked(), out=tmp_path / "whole")
    (folder,) = pool_folders(home)
    whole = (folder / "images.npy").read_bytes()
    shutil.rmtree(folder)
    with monkeypatch.context() as broken:
        fail_in(broken, "draw_samples", RuntimeError("stop"), after=1, module=tasks_pool)
        job = run(home, asked(name="broken"), out=tmp_path / "broken")
    assert job.state == "failed" and len(list(folder.glob("shards/*.npz"))) == 1
    Store(home.home).resume(job.id)
    driver(home).run_waiting()
    assert Store(home.home).get(job.id).state == "done" and (folder / "images.npy").read_bytes() == whole


def test_a_reference_reads_the_captions_with_its_own_text_encoder(home, asked, painter, tmp_path):
    other = Path(shutil.copytree(painter["checkpoint"], tmp_path / "tuned"))
    file = other / "text_encoder" / "model.safetensors"
    save_file({name: w * 1.05 if w.is_floating_point() else w for name, w in load_file(file).items()}, file)
    job = run(home, asked(reference=str(other)))
    assert (job.state, job.error) == ("done", "")
    order = prompts.captions_in_turn(WORDS, WORDS, 0)
    drawn = {json.loads((folder / "index.json").read_text())["checkpoint"] is None: open_pool(folder).images for folder in pool_folders(home)}
    assert np.array_equal(drawn[False], expected(painter["checkpoint"], order)) and np.array_equal(drawn[True], expected(other, order))
    assert not np.array_equal(drawn[False], drawn[True])


def test_the_order_takes_both_sets_alike_and_does_not_know_which_is_which():
    members, nonmembers = [f"m{i}" for i in range(60)] + ["both"] * 5, [f"n{i}" for i in range(30)] + ["both", "n1", "n1"]
    order = prompts.captions_in_turn(members, nonmembers, 3)
    assert sorted(order) == sorted({*members, *nonmembers}) and order == prompts.captions_in_turn(nonmembers, members, 3) != prompts.captions_in_turn(members, nonmembers, 4)
    for stop in range(1, len(order) + 1):
        share = {side: sum(caption[0] == side for caption in order[:stop]) / count for side, count in (("m", 60), ("n", 30))}
        assert abs(share["m"] - share["n"]) <= 1 / 30
    assert prompts.digest(order, 10) == prompts.digest((*order[:10], "else"), 10) != prompts.digest(order, 11)
    assert prompts.told_of(("a", "b", "c"), 2, 6) == ("c", "a", "b", "c") and prompts.told_of(None, 0, 3) is None and prompts.told_of(range(2), 1, 4) == (1, 0, 1)

"""Device work of sample pools: drawing samples and searching them; and what stands for a checkpoint where there is none. audit.jobs.tasks says how tasks answer."""

import time

import numpy as np

from audit.jobs.facts import Facts, Opened, cpu_words
from audit.jobs.outcome import task
from audit.jobs.shards import read_as
from audit.jobs.tasks import cond_of, device_of_place, networks, prepare_process

NO_CHECKPOINT = "needs a checkpoint"


@task
def device_facts(place, image_shape, wish):
    """(Opened, Facts) of an audit without a checkpoint: no network, so nothing of one is known. Args: image_shape: (C,H,W) of the pool."""
    import diffusers

    from audit.attacks import ATTACKS, choose

    torch, device = prepare_process(place), device_of_place(place)
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_words(torch.get_num_threads())
    opened = Opened(no_checkpoint(image_shape), np.empty(0), True, device.type, words, torch.__version__, diffusers.__version__)
    plan = {name: wish[name] for name in ("seed", "batch_size", "precision")} | {"timesteps": (), "draws": 1, "probes": (), "own": ()}
    return opened, Facts(plan, {}, 0, 0, {}, skipped={name: NO_CHECKPOINT for name in choose(wish["attacks"]) if "pool" not in ATTACKS[name].card.needs})


def no_checkpoint(image_shape):
    """What report.json says of the checkpoint where there is none: every field null but the shape, and why."""
    nothing = dict.fromkeys(("sha256", "format", "architecture", "parameters", "weights", "prediction_type", "train_timesteps", "confidence"))
    return nothing | {"image_shape": list(image_shape), "settings": [], "files": [], "missing": [], "notes": [], "reason": "no checkpoint was given, only samples"}


@task
def draw_samples(place, source, first, stop, sampler, steps, seed, told, flag):
    """Draw samples first … stop-1 from the network of one source. Returns (uint8 (n,H,W,C), seconds).

    An API's view changes nothing here: it is the finished samples that a black-box attacker sees.

    Args: told: what each is asked for, classes or captions, which the source embeds by its own text encoder; None for the empty prompt, or nothing.
    """
    from audit.pool.sampler import draw

    begun = time.perf_counter()
    denoiser = networks(place)[0][source]
    denoiser = getattr(denoiser, "behind", denoiser)
    return draw(denoiser, np.arange(first, stop), sampler, steps, seed, cond_of(denoiser, told), flag.is_set), time.perf_counter() - begun


@task
def pool_facts(place, source, sampler, steps):
    """(what tells the network from another (audit.jobs.shards.read_as), classes or None, network calls per sample) of one source."""
    from audit.pool.sampler import calls_per_sample

    denoiser = networks(place)[0][source]
    denoiser = getattr(denoiser, "behind", denoiser)
    return read_as(denoiser.info.to_json()), denoiser.classes, calls_per_sample(denoiser, sampler, steps)


@task
def search_pool(place, names, images, first, stop, clusters, folder, left_out, flag):
    """Measure query images first … stop-1 against a pool. Args: names: in MEASURES. Returns ({table: float32 (1,n,K)}, seconds)."""
    from audit.pool import open_pool
    from audit.pool.measures import MEASURES

    prepare_process(place)
    begun, tables, queries, pool = time.perf_counter(), {}, np.load(images, mmap_mode="r", allow_pickle=False), open_pool(folder, left_out)
    for name in names:
        tables |= MEASURES[name].measure(queries, first, stop, np.asarray(clusters), pool, device_of_place(place), flag.is_set)
    return tables, time.perf_counter() - begun


@task
def search_references(place, images, first, stop, folder, left_out, flag):
    """Query images first … stop-1 among a reference set, which lies in a pool's folder. Returns ({table: float32 (1,n,20)}, seconds)."""
    from audit.pool import open_pool
    from audit.pool.nearest import to_references

    prepare_process(place)
    begun, queries = time.perf_counter(), np.load(images, mmap_mode="r", allow_pickle=False)
    return to_references(queries[first:stop], open_pool(folder, left_out), device_of_place(place), flag.is_set), time.perf_counter() - begun

"""What an attacker must have to run an attack: access, samples, model calls; `attacks[].needed` of report.json and its words."""

from audit import format as fmt

ACCESS = {"white-box": "weights", "gray-box": "queries", "black-box": "samples"}
OF_ACCESS = {"weights": "the weights", "queries": "queries through an API that shows intermediate pictures", "variations": "variations of the image from an image-to-image service"}


def needed(card, calls, pool, surrogate=None):
    """What one finished attack needed.

    Args: card: audit.attacks.base.Card; calls: model calls per image at the chosen setting; pool: what measurement.json says of the sample pool, or None;
        surrogate: what it says of a surrogate, or None.
    Returns: {"access", "samples", "steps": of each sample (None for given ones), "model_calls_per_image", "model_calls_once" (for all images together), "training_hours"};
        None = not needed.
    """
    access = "variations" if card.threat_model == "black-box" and "pool" not in card.needs else ACCESS[card.threat_model]
    found = {"access": access, "samples": None, "steps": None, "model_calls_per_image": None, "model_calls_once": None, "training_hours": None}
    found["model_calls_once" if card.once else "model_calls_per_image"] = calls or None
    if "pool" in card.needs and pool is not None:
        found |= {"samples": pool["images"], "steps": pool["steps"]}
    if "surrogate" in card.needs and surrogate is not None:  # its answers cost the target nothing
        found |= {"model_calls_per_image": None, "model_calls_once": None, "training_hours": surrogate["training_seconds"] / 3600}
    return found


def needed_words(row):
    """`2,000 samples of 50 steps each, and no query`; None for an attack without scores or of an older report. Args: row: of report["attacks"]."""
    found = row.get("needed")
    if not found:
        return None
    if found["samples"] is None:
        kinds = (("model_calls_per_image", "each image"), ("model_calls_once", "all images together"))
        return ", ".join([OF_ACCESS.get(found["access"], found["access"]), *(f"{fmt.calls(made, 'model call')} for {whom}" for kind, whom in kinds if (made := found.get(kind)))])
    steps = "" if found["steps"] is None else f" of {fmt.count(found['steps'])} steps each"
    trained = "" if found["training_hours"] is None else f", {found['training_hours']:.2g} hours of training"
    return f"{fmt.count(found['samples'])} finished samples{steps}{trained}, and no query about an image"


def pool_words(pool):
    """`2,000 samples, DDIM in 50 steps, seed 0, sha256 …`: what an audit's samples are. Args: pool: of report.json."""
    made = "given by the owner" if pool["kind"] == "given" else f"drawn by {pool['sampler'].replace('ddim', 'DDIM')} in {fmt.count(pool['steps'])} steps, seed {pool['seed']}"
    asked = f", {fmt.count(pool['classes'])} classes in turn" if pool.get("classes") else ""
    if pool.get("captions") is not None:
        asked = f", by {fmt.count(pool['captions'])} captions of the query images in turn" if pool["captions"] else ", by the empty prompt"
    return f"{fmt.count(pool['images'])} samples, {made}{asked}"

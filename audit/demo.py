"""The bundled pair: a leaky checkpoint and its well-behaved twin, with one query pool split by fair coins (models/demo/SOURCE.md)."""

from pathlib import Path

from audit.request import Request

FOLDER = Path(__file__).resolve().parent.parent / "models" / "demo"
ATTACKS = ("loss_vlb", "loss_x0", "loss_eps", "gray_intermediate", "naive_loss", "pia", "sima", "sima_mc")  # the loss grid's, and the two strongest for a few more calls
NAMES = {"leaky": "leaky-fmnist", "twin": "twin-fmnist"}


def demo_request(which):
    """The Request of "leaky" or "twin": quick preset on both query sets, ATTACKS, with the manifest of their split."""
    sets = {name: str(FOLDER / f"{name}.zip") for name in ("members", "nonmembers")}
    return Request(checkpoint=str(FOLDER / which), **sets, name=NAMES[which], preset="quick", attacks=ATTACKS, manifest=str(FOLDER / "manifest.json"))


def submit_demo(config, out=None):
    """Submit both audits to the worker.

    Args: config: audit.config.Config; out: folder that gets leaky/ and twin/, or None for AUDIT_HOME/runs.
    Returns: the two Jobs, leaky first. An open demo is not submitted twice, a stopped one is gone on with.
    """
    from audit.jobs.submit import stopped_folder, submit_audit

    requests = {which: demo_request(which) for which in NAMES}
    return [submit_audit(config, request, Path(out) / which if out else stopped_folder(config, request))[0] for which, request in requests.items()]

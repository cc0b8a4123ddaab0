"""Kinds of pass through the model, and `measure`, the one call that notebooks need.

A probe turns rows (x0, eps, t) into numbers; the engine makes the rows, batches them and lays the numbers out as tables.
A new probe is one file here and one line in PROBES. Importing this package does not import torch; measuring does.
"""

from audit.registry import Registry

PROBES = Registry(
    {
        "noised": "audit.probes.noised:Noised",
        "pia": "audit.probes.pia:PIA",
        "pian": "audit.probes.pia:PIAN",
        "secmi": "audit.probes.secmi:SecMI",
        "sima": "audit.probes.sima:SimA",
        "dime": "audit.probes.dime:DIME",
        "pfami": "audit.probes.pfami:PFAMI",
        "gray_free": "audit.probes.gray_free:GrayFree",
        "rediffuse": "audit.probes.rediffuse:ReDiffuse",
        "untrained": "audit.probes.untrained:Untrained",
    }
)


def measure(d, x0, timesteps, probe="noised", seed=0, draws=1, noise=None, clip=None, cond=None, batch_size=None, device="auto"):
    """Tables of one probe on one model, the same every time for the same arguments.

    Args:
        d: models.base.Denoiser.
        x0: (N,C,H,W) float, clean images in model space (in [-1, 1] for pixel models), NumPy or torch; computed in float32.
        timesteps: K ints, 0-based steps of d.schedule, in any order.
        probe: a name in PROBES; seed: of the noise bank; draws: S, noise draws per timestep (for "dime" directions); probes that draw no noise take one.
        noise: float (S,K,C,H,W), the same for every image, or (S,K,N,C,H,W): replaces the bank; S is then its first length.
        clip: clamp x0_hat to [-1, 1] for x0_mse and vlb_bits; None = True for pixel models, False for latent ones.
        cond: one entry for each image, as d.predict takes it: whole numbers (N,), the class labels that a class-conditional model needs, or caption embeddings (N,…)
            of a model that takes text, for which None is the empty prompt. Anything but None is refused for a model that takes neither.
        batch_size: rows per forward pass; None = a size that suits the image and the device.
        device: "auto", "cpu" or "cuda"; the model is moved there.
    Returns: {table: (N,K) float32}, mean over the S draws; NaN = not measured.
    Raises: RequestError: shapes, labels, timesteps or settings that do not fit; models.errors.CheckpointError: the model returned NaN or infinity.
    """
    from audit.engine import measure_images

    return measure_images(d, x0, timesteps, probe, seed, draws, noise, clip, cond, batch_size, device)

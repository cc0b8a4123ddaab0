"""What tables are measured on: the target, and where asked for a reference or a surrogate, whose tables carry a prefix ("reference/eps_mse")."""

import numpy as np

from audit.errors import RequestError

TARGET, REFERENCE, SURROGATE = "", "reference/", "surrogate/"  # prefixes of table names
SAME_NOISE = 5e-3  # relative, in 1 - abar: the tolerance of models.schedule for one schedule written twice


def view(tables, source):
    """{name without prefix: Table} of one source; other sources keep their prefix, and are read by nobody who asks for plain names."""
    return {name[len(source) :]: table for name, table in tables.items() if name.startswith(source)}


def require_comparable(target, reference):
    """Refuse a reference whose tables could not stand beside the target's.

    Args: target, reference: models.base.Denoiser.
    Raises: RequestError: it is the same checkpoint, or pictures, pixel or latent space, the latents' shape, what it is asked with, or the number of timesteps differ.
    """
    from audit.latents import shape_of

    if target.info.sha256 == reference.info.sha256:
        raise RequestError("--reference is the audited checkpoint itself, so every score would be 0. Expected a model that was not trained on the members.")
    for what, of in (
        ("pictures of (C,H,W) =", lambda d: tuple(d.image_shape)),
        ("a model of", lambda d: "pixels" if d.pixel_space else "latents"),
        ("latents of (C,H,W) =", shape_of),
        ("inputs beside the picture that are", asked_with),
        ("a number of timesteps that is", lambda d: len(d.schedule)),
    ):
        mine, other = of(target), of(reference)
        if mine != other:
            raise RequestError(f"--reference has {what} {other}, the checkpoint {mine}. Expected the same: choose another reference.")


def asked_with(denoiser):
    """What a model is asked with beside the picture: "none", "1 of 10 classes", "a caption"."""
    return "a caption" if denoiser.captions else "none" if denoiser.classes is None else f"1 of {denoiser.classes} classes"


def align(target, reference):
    """Measure both at the timesteps that both allow: a difference of scores needs the same columns on both sides."""
    both = target.measurable & reference.measurable
    target.measurable, reference.measurable = both, both.copy()


def noise_warning(target, reference):
    """A sentence where both add different noise at one timestep, else None."""
    mine, other = (1 - np.asarray(d.schedule.alphas_cumprod) for d in (target, reference))
    if np.max(np.abs(mine - other) / mine) <= SAME_NOISE:
        return None
    return "The reference adds other noise at the same timestep than the checkpoint does: the difference of their scores also holds the difference of their schedules."

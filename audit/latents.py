"""Pictures -> x0 in model space. Pixel models take the pictures themselves; latent models encode them, in float32 whatever the audit's precision, a few at a time."""

import weakref

import torch

ENCODED_AT_ONCE = 2**20  # pixels: 4 pictures of 512 x 512

_shapes = weakref.WeakKeyDictionary()  # denoiser -> (C,H,W) of its x0


def encoded(denoiser, pictures):
    """x0 of pictures, on the CPU.

    Args: denoiser: models.base.Denoiser, on its device; pictures: (n,C,H,W) float32 in [-1, 1], on the CPU.
    Returns: (n,c,h,w) float32; the pictures themselves for pixel models.
    """
    if denoiser.pixel_space:
        return pictures
    return _in_parts(denoiser, pictures, denoiser.encode)


def decoded(denoiser, x0):
    """Pictures (n,C,H,W) float32 of x0 in model space, on the CPU, clamped to [-1, 1]; x0 itself for pixel models."""
    return x0 if denoiser.pixel_space else _in_parts(denoiser, x0, denoiser.decode).clamp(-1, 1)


def _in_parts(denoiser, values, function):
    from audit.engine import arithmetic

    parameter = next(denoiser.network.parameters(), None)
    device = values.device if parameter is None else parameter.device
    _, height, width = denoiser.image_shape
    step = max(1, ENCODED_AT_ONCE // (height * width))
    with arithmetic("fp32", device):
        parts = [function(values[first : first + step].to(device)).to("cpu", torch.float32) for first in range(0, len(values), step)]
    return torch.cat(parts)


def shape_of(denoiser):
    """(C,H,W) of x0: the pictures' for pixel models, else that of one encoded grey picture; found once."""
    if denoiser.pixel_space:
        return tuple(denoiser.image_shape)
    if denoiser not in _shapes:
        _shapes[denoiser] = tuple(encoded(denoiser, torch.zeros((1, *denoiser.image_shape))).shape[1:])
    return _shapes[denoiser]

"""What can be seen of an image without any model: the features of the blind baseline.

Named scalar features are tested one by one and shown to the reader; the rest (a tiny thumbnail, a histogram, block contrasts) only feed the ridge classifier.
Features of the file come from its header and bytes, all others from the pixels that the model sees.
"""

import io
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image

from models.pixels import FORMATS

FILE_FEATURES = ("file bytes", "bytes per pixel", "JPEG file", "PNG file", "JPEG table mean", "metadata in the file", "channels in the file", "original width", "original height")
PIXEL_FEATURES = ("brightness", "contrast", "spectrum slope", "sharpness", "compressed bytes per pixel")
COLOUR_FEATURES = ("colourfulness",)
METADATA = frozenset({"exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "comment", "photoshop"})
GREY = np.array([0.299, 0.587, 0.114])
HISTOGRAM_BINS = 8
SPECTRUM_LEAST = 8  # pixels a side; below it a slope is a line through two points


def feature_names(channels):
    """(names (F,) str, scalar (F,) bool) of `features_of`, in its order. Args: channels: 1 or 3."""
    scalars = (*FILE_FEATURES, *PIXEL_FEATURES, *(COLOUR_FEATURES if channels == 3 else ()))
    side = _thumbnail_side(channels)
    planes = ("red", "green", "blue") if channels == 3 else ("grey",)
    others = [f"thumbnail {plane} {row} {column}" for row in range(side) for column in range(side) for plane in planes]
    others += [f"histogram {i}" for i in range(HISTOGRAM_BINS)] + [f"block contrast {row} {column}" for row in range(3) for column in range(3)]
    names = np.array([*scalars, *others])
    return names, np.arange(len(names)) < len(scalars)


def features_of(entry, pixels):
    """The features of one image.

    Args: entry: ImageFile (models.imagefiles) that was decoded before; pixels: uint8 (H,W,C) as the model sees it, C is 1 or 3.
    Returns: float64 (F,), finite but for the file features of an array without a file (.npz), which are NaN: see `as_table`.
    """
    image = pixels.astype(np.float64)
    channels = image.shape[-1]
    grey = image[..., 0] if channels == 1 else image @ GREY
    scalars = [*_file_features(entry), grey.mean(), grey.std(), spectrum_slope(grey), sharpness(grey), compressed_size(pixels)]
    if channels == 3:
        scalars.append(colourfulness(image))
    side = _thumbnail_side(channels)
    down, across = _averages(image.shape[0], side), _averages(image.shape[1], side)
    thumbnail = across @ (down @ image.reshape(image.shape[0], -1)).reshape(side, -1, channels)
    histogram = np.bincount(grey.astype(np.int64).clip(0, 255).ravel() * HISTOGRAM_BINS // 256, minlength=HISTOGRAM_BINS) / grey.size
    blocks = [block.std() for band in _thirds(grey, 0) for block in _thirds(band, 1)]
    return np.concatenate([scalars, thumbnail.ravel(), histogram, blocks])


def as_table(rows):
    """The features of all images, finite everywhere.

    A column that one image cannot have is 0 for all: arrays have no file, and whether a set came as files or as an array says nothing about its pictures.

    Args: rows: list of float64 (F,) from `features_of`.
    Returns: float64 (N,F).
    """
    table = np.stack(rows)
    table[:, ~np.isfinite(table).all(axis=0)] = 0.0
    return table


def _thumbnail_side(channels):
    return 4 if channels == 3 else 6  # 48 and 36 numbers: the ridge was simulated with 40 features


def _file_features(entry):
    """FILE_FEATURES of an entry; reads the header only."""
    if entry.data is None:
        return [np.nan] * len(FILE_FEATURES)
    image = Image.open(io.BytesIO(entry.data), formats=FORMATS)
    tables = getattr(image, "quantization", None) or {}
    metadata = bool(METADATA & image.info.keys()) or any(isinstance(value, str) for value in image.info.values())
    size = len(entry.data)
    return [
        size, size / (image.width * image.height), image.format == "JPEG", image.format == "PNG", np.mean([np.mean(t) for t in tables.values()]) if tables else 0.0,
        metadata, len(image.getbands()), image.width, image.height,
    ]  # fmt: skip


def spectrum_slope(grey):
    """Slope of log power over log frequency: about -2 for photographs, 0 for white noise, lower where detail is missing.

    Rings of equal integer radius up to half of the sampling rate of the smaller side, without the mean; least squares over rings, each counted once.

    Args: grey: float (H,W).
    Returns: float; 0 for a flat picture or one smaller than 8 pixels.
    Source: Field 1987.
    """
    height, width = grey.shape
    if min(height, width) < SPECTRUM_LEAST:
        return 0.0
    power = np.abs(np.fft.rfft2(grey - grey.mean())) ** 2
    ring, inside, counts = _rings(height, width)
    mean = np.bincount(ring[inside], weights=power[inside], minlength=len(counts))[1:] / counts[1:]
    if power.max() <= 1e-12 * grey.size:
        return 0.0
    x, y = np.log(np.arange(1, len(counts))), np.log(mean + 1e-9 * mean.max())
    return float(((x - x.mean()) @ y) / ((x - x.mean()) @ (x - x.mean())))


@lru_cache(maxsize=4)
def _rings(height, width):
    """(ring number, within the range) of every frequency of rfft2, and how many frequencies a ring has."""
    smaller = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]) * smaller
    ring = np.rint(radius).astype(np.int64)
    inside = ring <= smaller // 2
    return ring, inside, np.bincount(ring[inside])


def sharpness(grey):
    """Variance of the Laplacian (4 neighbours), in squared grey levels; 0 for a picture smaller than 3 pixels. Args: grey: float (H,W)."""
    if min(grey.shape) < 3:
        return 0.0
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def compressed_size(pixels):
    """Bytes per pixel after differences along the rows and deflate, as a PNG would have them. Args: pixels: uint8 (H,W,C)."""
    differences = np.diff(pixels, axis=1, prepend=np.uint8(0))
    return len(zlib.compress(differences.tobytes(), 1)) / (pixels.shape[0] * pixels.shape[1])


def colourfulness(image):
    """√(sd(rg)² + sd(yb)²) + 0.3·√(mean(rg)² + mean(yb)²), rg = R - G, yb = (R + G)/2 - B; 0 for grey.

    Args: image: float (H,W,3).  Source: Hasler & Süsstrunk 2003.
    """
    rg, yb = image[..., 0] - image[..., 1], (image[..., 0] + image[..., 1]) / 2 - image[..., 2]
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


@lru_cache(maxsize=8)
def _averages(length, side):
    """(side, length) weights of averages over equal parts; pixels are shared where a part ends inside one."""
    edges = np.arange(side + 1) * (length / side)
    pixel = np.arange(length)
    return np.maximum(np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel), 0) * (side / length)


def _thirds(grey, axis):
    """Three parts along an axis, none empty (a picture of 1 or 2 pixels gives parts twice)."""
    length = grey.shape[axis]
    starts = [k * length // 3 for k in range(3)]
    return [np.take(grey, range(s, max(s + 1, (k + 1) * length // 3)), axis=axis) for k, s in enumerate(starts)]

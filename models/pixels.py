"""One path from an image file to the pixels a model sees; training and auditing both take it.

decode -> centre crop to a square -> resize (filter named in the report) -> uint8 (H,W,C) -> k/127.5 - 1.
No torch here: the report and the trainer's manifest use the same functions.
"""

import hashlib
import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from models.errors import ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # decoders that may run; anything else is refused by PIL before decoding
MAX_PIXELS = 50_000_000  # a 79 kB PNG can claim 81 MP: refuse by the header, before memory is taken
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


def decode(data, channels):
    """Image file -> pixels.

    Args:
        data: bytes of a PNG, JPEG, WebP or BMP file.
        channels: 1 or 3, what the model takes. Grey pictures become RGB by repetition and alpha is laid on black; colour is never turned grey
            without a word (a colour picture that happens to be grey in every pixel is).
    Returns: uint8 (H,W,channels).
    Raises: ImageError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width} x {height} pixels; at most {MAX_PIXELS // 1_000_000} million are read")
            image.load()
            return _to_channels(image, channels)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"more than {MAX_PIXELS // 1_000_000} million pixels") from None
    except UnidentifiedImageError:
        raise ImageError("not a PNG, JPEG, WebP or BMP image") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise ImageError(f"damaged image ({error.__class__.__name__})") from None


def _to_channels(image, channels):
    if image.mode in ("I;16", "I;16B", "I", "F"):
        raise ImageError(f"{image.mode} pixels; 8-bit grey or colour is expected")
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if has_alpha:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    rgb = np.asarray(image.convert("RGB"), dtype=np.uint8)
    if channels == 3:
        return rgb
    if not (np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2])):
        raise ImageError("colour image; the model takes 1-channel grey images: convert it or choose a 3-channel checkpoint")
    return np.ascontiguousarray(rgb[..., :1])


def fit(pixels, size, resample="bicubic"):
    """Centre crop to the model's aspect ratio, then resize.

    Args:
        pixels: uint8 (H,W,C); size: (height, width) of the model; resample: a key of FILTERS.
    Returns: uint8 (*size, C), unchanged when it already fits.
    """
    height, width, channels = pixels.shape
    if (height, width) == tuple(size):
        return pixels
    scale = min(height / size[0], width / size[1])
    crop = max(1, min(height, round(size[0] * scale))), max(1, min(width, round(size[1] * scale)))
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    cropped = np.ascontiguousarray(pixels[top : top + crop[0], left : left + crop[1]])
    image = Image.fromarray(cropped[..., 0] if channels == 1 else cropped)
    out = np.asarray(image.resize((size[1], size[0]), FILTERS[resample]), dtype=np.uint8)
    return out[..., None] if channels == 1 else out


def to_model_range(pixels):
    """uint8 (N,H,W,C), 0-255 -> float32 (N,C,H,W) on the grid k/127.5 - 1, in [-1, 1]."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1))


def image_id(pixels):
    """First 16 hex digits of the SHA-256 of one preprocessed uint8 (H,W,C) array: the same picture has the same id everywhere."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]

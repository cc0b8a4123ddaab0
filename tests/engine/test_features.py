"""Features of the blind baseline: what each number means, on pictures for which it is known; always finite."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from audit.features import as_table, colourfulness, compressed_size, feature_names, features_of, sharpness, spectrum_slope
from models.imagefiles import ImageFile

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format=format, **options)
    return ImageFile("x", data=buffer.getvalue())


def named(entry, pixels):
    return dict(zip(feature_names(pixels.shape[-1])[0].tolist(), features_of(entry, pixels).tolist(), strict=True))


@pytest.mark.parametrize(("channels", "scalars", "others"), [(1, 14, 36 + 8 + 9), (3, 15, 48 + 8 + 9)])
def test_names_are_distinct_and_the_scalars_come_first(channels, scalars, others):
    names, scalar = feature_names(channels)
    assert len(set(names.tolist())) == len(names) == scalars + others and scalar.tolist() == [True] * scalars + [False] * others
    assert len(features_of(encoded(NOISE[..., :channels]), NOISE[..., :channels])) == len(names)


def test_features_of_the_file():
    entry = encoded(NOISE, "JPEG", quality=75)
    found = named(entry, NOISE)
    tables = Image.open(io.BytesIO(entry.data)).quantization
    assert found["file bytes"] == len(entry.data) and found["bytes per pixel"] == len(entry.data) / 4096
    assert (found["JPEG file"], found["PNG file"], found["metadata in the file"], found["channels in the file"]) == (1, 0, 0, 3)
    assert found["JPEG table mean"] == pytest.approx(np.mean([np.mean(tables[0]), np.mean(tables[1])]))
    assert named(encoded(NOISE, "JPEG", quality=95), NOISE)["JPEG table mean"] < found["JPEG table mean"]
    wide = named(encoded(NOISE[:20, :, :1]), NOISE)  # the file is 64 x 20 grey, the model sees something else
    assert (wide["original width"], wide["original height"], wide["channels in the file"], wide["PNG file"], wide["JPEG table mean"]) == (64, 20, 1, 1, 0)


def test_metadata_is_seen_and_what_every_file_has_is_not():
    exif = Image.Exif()
    exif[271] = "camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "editor")
    for format, options in (("JPEG", {"exif": exif}), ("PNG", {"pnginfo": text}), ("JPEG", {"comment": b"x"}), ("WEBP", {"exif": exif}), ("PNG", {"icc_profile": b"abc"})):
        assert named(encoded(NOISE, format, **options), NOISE)["metadata in the file"] == 1
    for format, options in (("JPEG", {"dpi": (72, 72)}), ("PNG", {"dpi": (72, 72)}), ("BMP", {}), ("WEBP", {}), ("JPEG", {"progressive": True})):
        assert named(encoded(NOISE, format, **options), NOISE)["metadata in the file"] == 0


def test_features_of_the_pixels():
    half = np.zeros((12, 12, 1), np.uint8)
    half[:, 6:] = 200
    found = named(encoded(half), half)
    assert (found["brightness"], found["contrast"]) == (100, 100) and found["thumbnail grey 0 0"] == 0 and found["thumbnail grey 5 5"] == pytest.approx(200)
    assert (found["histogram 0"], found["histogram 6"]) == (0.5, 0.5) and sum(found[f"histogram {i}"] for i in range(8)) == 1
    assert found["block contrast 0 1"] == pytest.approx(100) and found["block contrast 2 0"] == 0
    tall = np.zeros((40, 8, 3), np.uint8)
    tall[30:, :, 2] = 80
    found = named(encoded(tall), tall)
    assert found["thumbnail blue 3 0"] == pytest.approx(80) and found["thumbnail blue 2 3"] == found["thumbnail red 3 0"] == 0


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0])
def test_the_spectrum_slope_of_a_made_spectrum(slope):
    """Noise filtered to power ~ frequency^slope; 0.15 is three times the spread over seeds."""
    rng = np.random.default_rng(1)
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None, :])
    radius[0, 0] = 1
    made = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(128, 128))) * radius ** (slope / 2))
    assert spectrum_slope(made) == pytest.approx(slope, abs=0.15)


def test_sharpness_compression_and_colour():
    grey = NOISE[..., 0].astype(float)
    blurred = np.asarray(Image.fromarray(NOISE[..., 0]).resize((16, 16), Image.Resampling.BOX).resize((64, 64), Image.Resampling.BICUBIC), dtype=float)
    assert sharpness(grey) > 20 * sharpness(blurred) > 0 and sharpness(np.add.outer(np.arange(9.0), np.arange(9.0))) == 0
    assert sharpness(grey) == pytest.approx(20 * 256**2 / 12, rel=0.1)  # 4² + 4 times the variance of a pixel
    assert compressed_size(NOISE) > 2.9 and compressed_size(np.full((64, 64, 3), 9, np.uint8)) < 0.05
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))[..., None]
    assert compressed_size(ramp) < len(zlib.compress(ramp.tobytes(), 1)) / 4096  # differences along a row
    assert colourfulness(np.repeat(grey[..., None], 3, axis=2)) == 0
    assert colourfulness(np.full((4, 4, 3), [200.0, 100.0, 50.0])) == pytest.approx(0.3 * np.hypot(100, 100))
    assert colourfulness(NOISE.astype(float)) == pytest.approx(np.sqrt(256**2 / 12 * (2 + 1.5)), rel=0.05)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]), st.sampled_from([0, 1, 255]), st.integers(0, 99))
def test_always_finite(height, width, channels, spread, seed):
    pixels = np.random.default_rng(seed).integers(0, spread + 1, (height, width, channels), dtype=np.uint8)
    values = features_of(encoded(pixels), pixels)
    assert np.isfinite(values).all() and values.dtype == np.float64
    bare = features_of(ImageFile("images[0]", pixels=pixels), pixels)
    assert np.isnan(bare[:9]).all() and np.array_equal(bare[9:], values[9:])


def test_what_one_image_cannot_have_counts_for_none():
    rows = [features_of(encoded(NOISE), NOISE), features_of(ImageFile("a", pixels=NOISE), NOISE)]
    table = as_table(rows)
    assert np.isfinite(table).all() and not table[:, :9].any() and np.array_equal(table[0], table[1])
    assert as_table(rows[:1])[0, 0] > 0 and np.isnan(rows[1][0])

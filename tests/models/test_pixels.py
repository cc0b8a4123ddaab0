"""From image files to the model's pixels: exact where nothing is resized, refused by name where a file cannot be used."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.errors import ImageError, ModelError
from models.imagefiles import ImageFile, pixels_of, read_set
from models.pixels import FILTERS, decode, fit, image_id, to_model_range


def encoded(array, kind="PNG", **options):
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_files_come_back_exactly(kind):
    colour, grey = noise(5, 7, 3), noise(5, 7)
    assert np.array_equal(decode(encoded(colour, kind), 3), colour)
    assert np.array_equal(decode(encoded(grey, kind), 1), grey[..., None])
    assert np.array_equal(decode(encoded(grey, kind), 3), np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_files_are_read(kind):
    flat = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    got = decode(encoded(flat, kind, quality=95), 3)
    assert got.shape == (16, 16, 3) and np.abs(got.astype(int) - flat).max() <= 6  # colour conversion of the codec


def test_colour_is_never_made_grey_but_a_grey_picture_in_colour_is_taken():
    grey = noise(4, 4)
    assert np.array_equal(decode(encoded(np.repeat(grey[..., None], 3, axis=-1)), 1), grey[..., None])
    with pytest.raises(ImageError, match="colour image"):
        decode(encoded(noise(4, 4, 3)), 1)


def test_alpha_is_laid_on_black():
    rgba = np.dstack([np.full((2, 2, 3), 200, np.uint8), np.array([[0, 255], [128, 255]], np.uint8)])
    got = decode(encoded(rgba), 3)
    assert got[0, 0].tolist() == [0, 0, 0] and got[0, 1].tolist() == [200, 200, 200] and abs(int(got[1, 0, 0]) - 100) <= 1
    palette = Image.fromarray(noise(4, 4, 3)).convert("P")
    assert decode(encoded(palette, transparency=0), 3).shape == (4, 4, 3)


def test_sixteen_bit_pictures_are_refused():
    with pytest.raises(ImageError, match="8-bit"):
        decode(encoded(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4))), 1)


def bomb():
    """A PNG of a few bytes whose header claims 81 million pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9001))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "match"),
    [(b"", "not a PNG"), (b"text", "not a PNG"), (bomb(), "million"), (encoded(noise(8, 8, 3), "GIF"), "not a PNG"), (encoded(noise(64, 64, 3))[:-900], "damaged")],
    ids=["empty", "text", "bomb", "gif", "cut"],
)
def test_files_that_cannot_be_used_say_why(data, match):
    with pytest.raises(ImageError, match=match):
        decode(data, 3)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "BMP", "WEBP"]), cut=st.floats(0, 1), place=st.floats(0, 1), value=st.integers(0, 255))
def test_any_damage_ends_in_pixels_or_in_an_image_error(kind, cut, place, value):
    data = bytearray(encoded(noise(12, 12, 3), kind))
    data[int(place * (len(data) - 1))] = value
    try:
        assert decode(bytes(data[: int(cut * len(data)) + 1]), 3).shape[-1] == 3
    except ImageError as error:
        assert "\n" not in str(error)


def test_fit_returns_an_image_that_fits_unchanged_and_crops_the_centre():
    image = noise(6, 6, 3)
    assert fit(image, (6, 6)) is image
    wide = np.zeros((4, 10, 1), np.uint8)
    wide[:, 3:7] = 255
    assert np.array_equal(fit(wide, (4, 4)), np.full((4, 4, 1), 255))
    assert np.array_equal(fit(wide.transpose(1, 0, 2), (4, 4)), np.full((4, 4, 1), 255))


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_keeps_a_flat_picture_and_gives_the_asked_size(name):
    got = fit(np.full((31, 50, 3), 77, np.uint8), (8, 12), name)
    assert got.shape == (8, 12, 3) and got.dtype == np.uint8 and (got == 77).all()


def test_box_filter_is_the_mean_of_blocks():
    image = noise(8, 8, 1)
    expected = image[..., 0].reshape(4, 2, 4, 2).mean((1, 3))
    assert np.abs(fit(image, (4, 4), "box")[..., 0] - expected).max() <= 1  # rounded once per direction


def test_model_range_is_the_grid_and_goes_back_exactly():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_model_range(every)
    assert x.dtype == np.float32 and x.shape == (1, 1, 16, 16) and x.min() == -1 and x.max() == 1
    assert np.array_equal(np.rint((x.astype(np.float64) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1), every)
    layout = noise(2, 3, 4, 3)
    assert to_model_range(layout)[1, 2, 0, 3] == np.float32(layout[1, 0, 3, 2]) / np.float32(127.5) - np.float32(1)


def test_an_image_id_follows_the_pixels_alone():
    image = noise(6, 6, 3)
    assert image_id(image) == image_id(np.asfortranarray(image)) == image_id(decode(encoded(image), 3)) and len(image_id(image)) == 16
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert image_id(other) != image_id(image)


def entries(path):
    taken, left = [], {}
    for entry in read_set(path):
        if isinstance(entry, ImageFile):
            taken.append(entry.name)
        else:
            left[entry[0]] = entry[1]
    return taken, left


def test_a_folder_is_read_in_natural_order_and_names_what_is_left_out(tmp_path):
    for name in ("img10.png", "img2.png", "sub/img1.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(noise(2, 2)))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    os.symlink(tmp_path / "nowhere", tmp_path / "gone.png")
    assert entries(tmp_path) == (["img2.png", "img10.png", "sub/img1.PNG"], {"notes.txt": "not an image file", "gone.png": "not a regular file"})


def test_a_zip_is_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/2.png", encoded(noise(2, 2)))
        archive.writestr("../1.png", encoded(noise(2, 2)))
        archive.writestr("./3.png", encoded(noise(2, 2)))
        archive.writestr("zeros.png", bytes(3_000_000))
        archive.writestr("__MACOSX/._x.png", "x")
        archive.writestr("a.txt", "x")
    taken, left = entries(tmp_path / "set.zip")
    assert sorted(taken) == ["../1.png", "./3.png", "b/2.png"] and left == {"zeros.png": "unpacks to far more than its size", "a.txt": "not an image file"}
    assert sorted(p.name for p in tmp_path.parent.glob("1.png")) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_entry_is_left_out_and_the_others_are_read(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", method) as archive:
        archive.writestr("bad.png", encoded(noise(20, 20)))
        archive.writestr("good.png", encoded(noise(2, 2)))
    raw = bytearray((tmp_path / "set.zip").read_bytes())
    raw[60:120] = bytes(60)
    (tmp_path / "set.zip").write_bytes(raw)
    taken, left = entries(tmp_path / "set.zip")
    assert taken == ["good.png"] and left["bad.png"].startswith("damaged zip entry")


def test_an_npz_is_read_and_its_shape_checked(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", images=noise(3, 4, 4, 3))
    got = list(read_set(tmp_path / "set.npz"))
    assert [e.name for e in got] == ["images[0]", "images[1]", "images[2]"] and np.array_equal(pixels_of(got[1], 3), noise(3, 4, 4, 3)[1])
    np.savez(tmp_path / "grey.npz", images=noise(2, 4, 4))
    assert pixels_of(next(read_set(tmp_path / "grey.npz")), 3).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": np.zeros(3)}, "no array `images`"),
        ({"images": np.zeros((2, 4, 4, 3))}, "float64"),
        ({"images": noise(2, 4, 4, 2)}, "1 or 3 channels"),
        ({"images": np.array([{}, {}])}, "plain arrays"),
    ],
    ids=["name", "dtype", "channels", "objects"],
)
def test_an_npz_of_something_else_is_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ModelError, match=match):
        list(read_set(tmp_path / "set.npz"))


def test_an_npz_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", images=np.zeros((300, 1000, 1000, 1), np.uint8))
    with pytest.raises(ModelError, match="far more than its size"):
        list(read_set(tmp_path / "set.npz"))


@pytest.mark.parametrize("name", ["missing", "set.tar", "broken.zip", "broken.npz"])
def test_sets_that_cannot_be_read_are_refused(tmp_path, name):
    if name != "missing":
        (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ModelError, match=name.split(".")[0]):
        list(read_set(tmp_path / name))

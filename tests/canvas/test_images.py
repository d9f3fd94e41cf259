"""Pictures in and out: made and read back by other libraries than the one under test."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from msbd_dist.canvas import export
from msbd_dist.canvas.export import Edited, How, save_png, verify
from msbd_dist.canvas.images import (
    Picture,
    from_float,
    to_float,
    turn_stored,
    turn_upright,
)
from msbd_dist.canvas.reader import Samples
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import ImageError, MsbdError, NonFiniteError, RunError

Array = NDArray[Any]


# ---------------------------------------------------------------- pictures made by others


def every_level(bands: int, bits: int) -> Array:
    """(h, w, bands): both the upper and the lower half of each band hold every level."""
    rng = np.random.default_rng(bits + bands)
    height, width = (256, 512) if bits == 16 else (48, 128)
    levels = np.arange(height // 2 * width) % 2**bits
    halves = [rng.permutation(levels) for _ in range(2 * bands)]
    planes = np.stack(halves).reshape(bands, height, width)
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1), dtype=f"u{bits // 8}")


def photo(height: int, width: int, seed: int = 0) -> Array:
    """(h, w, 3) uint8 with gradients and noise."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([90 * np.sin(x / 37) + 70 * np.cos(y / 51), (x + y) % 256 - 128, x - y], -1)
    noise = np.random.default_rng(seed).normal(128, 12, waves.shape)
    return (waves + noise).clip(0, 255).astype(np.uint8)


def squeezed(samples: Array) -> Array:
    return samples[..., 0] if samples.shape[-1] == 1 else samples


def make_png(path: Path, samples: Array) -> None:
    path.write_bytes(imagecodecs.png_encode(squeezed(samples)))


def make_tiff(path: Path, samples: Array, **options: Any) -> None:
    bands = samples.shape[-1]
    extra = {"extrasamples": ["unassalpha"]} if bands in (2, 4) else {}
    colours = "rgb" if bands > 2 else "minisblack"
    tifffile.imwrite(path, squeezed(samples), photometric=colours, **(extra | options))


def make_webp(path: Path, samples: Array) -> None:
    Image.fromarray(squeezed(samples)).save(path, lossless=True, exact=True)


def decoded(path: Path, mode: str | None = None) -> Array:
    """As Pillow decodes it."""
    with Image.open(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


def read_back(path: Path) -> Array:
    """(h, w, bands) as stored, by another library than libvips."""
    if path.suffix == ".png":
        samples = imagecodecs.png_decode(path.read_bytes())
    elif path.suffix == ".webp":
        samples = decoded(path)
    else:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            samples = page.asarray()
            if page.photometric == 0:  # white is zero
                samples = ~samples
            if page.planarconfig == 2 and samples.ndim == 3:
                samples = np.moveaxis(samples, 0, -1)
    return samples if samples.ndim == 3 else samples[..., None]


class All:
    """A mask of all pixels."""

    def any(self, box: Box) -> bool:
        return True

    def window(self, box: Box) -> Array:
        return np.ones(box.size.shape, bool)


def edited(picture: Picture, patch: Samples, box: Box) -> Edited:
    """With a patch of the box's size in memory."""

    def read(inside: Box) -> Samples:
        ys, xs = inside.relative_to(box).slices
        return patch[:, ys, xs]

    return Edited(picture, box, read, All())


def write_edited(picture: Picture, patch: Samples, box: Box, target: Path, **how: Any) -> None:
    """Write it, whatever is lost, and compare it with what it is to be."""
    one = edited(picture, patch, box)
    export.write_edited(one, target, How(**({"allow_loss": True} | how)))
    verify(one, target, "full")


def check(picture: Picture) -> None:
    """Decode all of it."""
    for _ in picture.strips():
        pass


def losses(picture: Picture, suffix: str) -> list[str]:
    return [str(loss) for loss in export.losses(picture, Path(f"out{suffix}"), How(tiff="plain"))]


def check_target(picture: Picture, target: Path) -> None:
    export.check_target(picture, target, How())


def edit_of(picture: Picture, seed: int = 0) -> tuple[Array, Box, Array]:
    """(patch, box, mask of the whole picture): noise in a ragged mask, the source elsewhere."""
    size = picture.size
    rng = np.random.default_rng(seed)
    box = Box(size.height // 2, size.width // 4, size.height - 1, size.width * 3 // 4)
    mask = np.zeros((size.height, size.width), bool)
    mask[box.slices] = rng.random((box.height, box.width)) < 0.4
    source = picture.read(box)
    noise = rng.integers(0, np.iinfo(picture.dtype).max + 1, source.shape, picture.dtype)
    return np.where(mask[box.slices], noise, source), box, mask


def assert_exact(source: Path, stored: Array, target: Path, *, levels: int = 0) -> None:
    """Edit ``source``, whose stored samples are ``stored``, and compare the target's with them."""
    picture = Picture.open(source)
    patch, box, mask = edit_of(picture)
    write_edited(picture, patch, box, target)
    got = read_back(target)
    colours = 1 if stored.shape[-1] < 3 else 3
    if target.suffix == ".webp" and colours == 1:  # WebP knows no grey
        stored = np.concatenate([stored[..., :1]] * 3 + [stored[..., 1:]], -1)
    assert got.dtype == stored.dtype
    assert got.shape == stored.shape
    outside = ~turn_stored(mask, picture.orientation)
    assert np.count_nonzero(got[outside] != stored[outside]) == 0
    assert np.array_equal(got[..., 3:], stored[..., 3:])
    if levels:
        assert all(len(np.unique(band)) == levels for band in got[outside][:, :colours].T)
    if colours == 3:
        assert np.array_equal(Picture.open(target).read(box), patch)
    again = Picture.open(target)
    assert again.has_alpha == picture.has_alpha
    assert again.bands == colours or target.suffix == ".webp"


# ---------------------------------------------------------------- integers and floats


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives_the_way_to_float_and_back(dtype: Any) -> None:
    levels = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    floats = to_float(levels)
    assert floats.dtype == np.float32
    assert (floats[0], floats[-1]) == (0, 1)
    assert np.array_equal(from_float(floats, dtype), levels)


def test_floats_are_rounded_and_clipped_never_truncated() -> None:
    values = np.array([-0.5, 0.999 / 255, 1.4 / 255, 254.6 / 255, 1.5])
    assert from_float(values, np.uint8).tolist() == [0, 1, 1, 255, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_not_stored(bad: float) -> None:
    with pytest.raises(NonFiniteError):
        from_float(np.array([0.5, bad], np.float32), np.uint8)


def test_other_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="int32"):
        to_float(np.zeros(3, np.int32))


# ---------------------------------------------------------------- exactness

TARGETS = [".png", ".tif", ".webp"]
BANDS = [1, 2, 3, 4]  # grey, grey and alpha, RGB, RGBA


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("kind", "bands"),
    [(kind, bands) for kind in ("png", "tif") for bands in BANDS] + [("webp", 3), ("webp", 4)],
)
def test_8_bits_outside_the_mask_are_the_input_s(
    tmp_path: Path, kind: str, bands: int, target: str
) -> None:
    source, stored = tmp_path / f"in.{kind}", every_level(bands, 8)
    {"png": make_png, "tif": make_tiff, "webp": make_webp}[kind](source, stored)
    assert_exact(source, stored, tmp_path / f"out{target}", levels=256)


@pytest.mark.parametrize("target", [".png", ".tif"])
@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_outside_the_mask_are_the_input_s(
    tmp_path: Path, kind: str, bands: int, target: str
) -> None:
    source, stored = tmp_path / f"in.{kind}", every_level(bands, 16)
    {"png": make_png, "tif": make_tiff}[kind](source, stored)
    assert_exact(source, stored, tmp_path / f"out{target}", levels=65536)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 200))], ids=str)
def test_a_palette_becomes_its_colours(tmp_path: Path, transparency: Any, target: str) -> None:
    image = Image.fromarray(photo(96, 128)).quantize(200)
    extra = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "in.png", **extra)
    mode = "RGB" if transparency is None else "RGBA"
    stored = decoded(tmp_path / "in.png", mode)
    assert_exact(tmp_path / "in.png", stored, tmp_path / f"out{target}")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_small_palette_becomes_its_colours(tmp_path: Path, bits: int) -> None:
    image = Image.fromarray(photo(96, 128)).quantize(2**bits)
    image.save(tmp_path / "in.png", bits=bits)
    stored = np.asarray(image.convert("RGB"))
    assert_exact(tmp_path / "in.png", stored, tmp_path / "out.png")


@pytest.mark.parametrize("name", ["in.png", "in.tif", "group4.tif"])
@pytest.mark.parametrize("target", TARGETS)
def test_one_bit_is_grey_0_or_255(tmp_path: Path, name: str, target: str) -> None:
    image = Image.fromarray(photo(96, 128)).convert("1")
    image.save(tmp_path / name, **({"compression": "group4"} if "4" in name else {}))
    stored = np.asarray(image.convert("L"))[..., None]
    assert_exact(tmp_path / name, stored, tmp_path / f"out{target}")


def test_grey_made_transparent_by_a_key_colour_keeps_both(tmp_path: Path) -> None:
    grey = every_level(1, 8)
    Image.fromarray(grey[..., 0]).save(tmp_path / "in.png", transparency=7)
    stored = np.concatenate([grey, np.where(grey == 7, 0, 255).astype(np.uint8)], -1)
    assert_exact(tmp_path / "in.png", stored, tmp_path / "out.png")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "deflate", "predictor": True, "tile": (64, 64)},
        {"compression": "packbits", "bigtiff": True},
        {"byteorder": ">"},
        {"planarconfig": "separate"},
    ],
    ids=str,
)
@pytest.mark.parametrize("bits", [8, 16])
def test_tiffs_of_all_layouts_are_exact(tmp_path: Path, bits: int, options: Any) -> None:
    stored = every_level(3, bits)
    written = np.moveaxis(stored, -1, 0) if "planarconfig" in options else stored
    tifffile.imwrite(tmp_path / "in.tif", written, photometric="rgb", **options)
    assert_exact(tmp_path / "in.tif", stored, tmp_path / "out.tif")


def test_white_is_zero_is_read_as_seen(tmp_path: Path) -> None:
    grey = every_level(1, 8)
    tifffile.imwrite(tmp_path / "in.tif", grey[..., 0], photometric="miniswhite")
    assert_exact(tmp_path / "in.tif", 255 - grey, tmp_path / "out.tif")


def test_a_tiff_of_one_large_strip_is_read(tmp_path: Path) -> None:
    black = np.zeros((6000, 10000), np.uint8)  # more than libvips' default limit on one strip
    tifffile.imwrite(tmp_path / "in.tif", black, rowsperstrip=6000, compression="zlib")
    check(Picture.open(tmp_path / "in.tif"))


@pytest.mark.parametrize("target", [".png", ".tiff"])
def test_a_name_with_brackets_and_umlauts_is_only_a_name(tmp_path: Path, target: str) -> None:
    source, stored = tmp_path / "ä [Q=1] %d.png", every_level(3, 8)
    make_png(source, stored)
    assert_exact(source, stored, tmp_path / f"ö [strip] %d{target}")


def test_an_interlaced_png_is_exact(tmp_path: Path) -> None:
    stored = every_level(3, 8)
    (tmp_path / "in.png").write_bytes(adam7(stored))
    assert_exact(tmp_path / "in.png", stored, tmp_path / "out.png")


def adam7(samples: Array) -> bytes:
    """An interlaced 8-bit RGB PNG; no library here writes one."""
    height, width, _ = samples.shape
    rows = b""
    for y0, x0, dy, dx in [
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]:  # fmt: skip
        for row in samples[y0::dy, x0::dx]:
            rows += b"\0" + row.tobytes()
    return png_of(width, height, zlib.compress(rows), interlace=1)


def png_of(width: int, height: int, data: bytes, *, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# ---------------------------------------------------------------- lossy input


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_s_decoded_samples_are_kept(tmp_path: Path, mode: str, target: str) -> None:
    Image.fromarray(photo(201, 303)).convert(mode).save(tmp_path / "in.jpg", quality=90)
    stored = decoded(tmp_path / "in.jpg")
    stored = stored if mode == "RGB" else stored[..., None]
    assert_exact(tmp_path / "in.jpg", stored, tmp_path / f"out{target}")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("sampling", [0x111111, 0x211111, 0x221111, 0x121111, 0x411111])
@pytest.mark.parametrize(("height", "width"), [(301, 211), (17, 9), (1, 33), (8, 1)])
def test_jpeg_decodes_as_in_pillow(
    tmp_path: Path, height: int, width: int, sampling: int, progressive: bool
) -> None:
    path = str(tmp_path / "in.jpg")
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_QUALITY, 88]
    cv2.imwrite(
        path, photo(height, width), [*options, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    )
    assert_reads_as_pillow(tmp_path / "in.jpg")


def test_a_large_odd_jpeg_decodes_as_in_pillow(tmp_path: Path) -> None:
    Image.fromarray(photo(2117, 1803)).save(tmp_path / "in.jpg", quality=92, subsampling=2)
    assert_reads_as_pillow(tmp_path / "in.jpg")


def test_a_lossy_webp_decodes_as_in_pillow(tmp_path: Path) -> None:
    Image.fromarray(photo(301, 211)).save(tmp_path / "in.webp", quality=70)
    assert_reads_as_pillow(tmp_path / "in.webp")


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_a_jpeg_in_a_tiff_decodes_as_in_pillow(tmp_path: Path, tile: Any) -> None:
    make_tiff(tmp_path / "in.tif", photo(301, 211), compression="jpeg", tile=tile)
    assert_reads_as_pillow(tmp_path / "in.tif")


def assert_reads_as_pillow(path: Path) -> None:
    picture = Picture.open(path)
    expected = decoded(path, "RGB")
    assert np.array_equal(picture.read(Box.of(picture.size)).transpose(1, 2, 0), expected)


# ---------------------------------------------------------------- windows


def test_any_window_is_the_same_as_cut_from_the_whole(tmp_path: Path) -> None:
    stored = every_level(3, 16)
    make_tiff(tmp_path / "in.tif", stored, tile=(64, 64), compression="zlib")
    picture = Picture.open(tmp_path / "in.tif")
    for box in [Box(200, 300, 256, 512), Box(0, 0, 1, 1), Box(63, 60, 130, 200)]:
        window = picture.read(box)
        assert window.flags.writeable
        assert window.dtype == np.uint16
        assert np.array_equal(window, stored[box.slices[0], box.slices[1]].transpose(2, 0, 1))


@pytest.mark.parametrize("box", [Box(0, 0, 49, 5), Box(-1, 0, 5, 5), Box(5, 5, 5, 9)], ids=str)
def test_a_window_outside_the_picture_is_a_mistake(tmp_path: Path, box: Box) -> None:
    make_png(tmp_path / "in.png", every_level(3, 8))
    with pytest.raises(ValueError, match=r"in\.png.*not inside"):
        Picture.open(tmp_path / "in.png").read(box)


def test_strips_are_the_picture_from_top_to_bottom(tmp_path: Path) -> None:
    stored = every_level(4, 8)
    make_png(tmp_path / "in.png", stored)
    strips = list(Picture.open(tmp_path / "in.png").strips(rows=20))
    assert [y for y, _ in strips] == [0, 20, 40]
    assert np.array_equal(np.concatenate([strip for _, strip in strips]), stored)


def test_a_file_written_again_is_read_anew(tmp_path: Path) -> None:
    for level in (10, 200):
        make_png(tmp_path / "in.png", np.full((8, 8, 3), level, np.uint8))
        assert Picture.open(tmp_path / "in.png").read(Box(0, 0, 8, 8)).min() == level


def test_the_format_is_told_in_words(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(30, 20)).save(tmp_path / "a.jpg", exif=exif, icc_profile=icc_profile())
    assert Picture.open(tmp_path / "a.jpg").format == (
        "JPEG 30x20 RGB 8-bit, ICC profile, EXIF, orientation 6"
    )
    make_png(tmp_path / "b.png", every_level(2, 16))
    assert Picture.open(tmp_path / "b.png").format == "PNG 512x256 grey + alpha 16-bit"


# ---------------------------------------------------------------- orientation


def oriented(path: Path, stored: Array, orientation: int) -> Array:
    """Write a file with that tag; returns the stored samples as others decode them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".tif":
        make_tiff(path, stored, extratags=[(274, "H", 1, orientation, True)])
        return stored
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(stored).save(path, exif=exif, **lossless)
    return decoded(path)


def stored_orientation(path: Path) -> int:
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            return int(file.pages[0].tags[274].value)
    with Image.open(path) as image:
        return int(image.getexif()[0x0112])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("source", "target"),
    [("a.jpg", "b.png"), ("a.jpg", "b.tif"), ("a.png", "b.webp"), ("a.webp", "b.png"),
     ("a.tif", "b.tif"), ("a.tif", "b.png"), ("a.tif", "b.webp")],
)  # fmt: skip
def test_a_turned_picture_is_edited_upright_and_stored_as_it_was(
    tmp_path: Path, source: str, target: str, orientation: int
) -> None:
    stored = oriented(tmp_path / source, photo(50, 70), orientation)
    picture = Picture.open(tmp_path / source)
    seen = upright_by_pillow(stored, orientation)
    assert picture.size == Size(*seen.shape[:2])
    assert picture.stored_size == Size(50, 70)
    assert np.array_equal(picture.read(Box.of(picture.size)).transpose(1, 2, 0), seen)
    assert_exact(tmp_path / source, stored, tmp_path / target)
    if orientation != 1:
        assert stored_orientation(tmp_path / target) == orientation
    assert Picture.open(tmp_path / target).orientation == orientation


def upright_by_pillow(stored: Array, orientation: int) -> Array:
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_back_undoes_turning_upright(orientation: int) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(turn_stored(turn_upright(array, orientation), orientation), array)


def test_an_orientation_that_does_not_exist_is_upright(tmp_path: Path) -> None:
    oriented(tmp_path / "a.png", photo(5, 7), 9)
    assert Picture.open(tmp_path / "a.png").orientation == 1


# ---------------------------------------------------------------- metadata

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://w3.org/rdf#"/></x:xmpmeta>'


@cache
def icc_profile() -> bytes:
    """One profile for all: each new one holds the time of its making."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def full_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x8298] = "Maker", "Model", "(c) someone"
    details = exif.get_ifd(0x8769)
    details[0x9003], details[0x829A] = "2020:01:01 00:00:00", (1, 50)
    details[0xA001], details[0x927C] = 1, b"maker's notes" * 5
    place = exif.get_ifd(0x8825)
    place[1], place[2] = "N", (1.0, 2.0, 3.5)
    return exif


def with_metadata(path: Path, bands: int = 3) -> Path:
    stored = Image.fromarray(squeezed(every_level(bands, 8)))
    common = {"icc_profile": icc_profile(), "exif": full_exif(), "dpi": (300, 300)}
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Title", "a title")
        stored.save(path, pnginfo=info, **common)
    elif path.suffix == ".tif":
        tags = {700: XMP, 270: "a description"}
        stored.save(path, icc_profile=icc_profile(), dpi=(300, 300), tiffinfo=tags)
    else:
        more = {"lossless": True} if path.suffix == ".webp" else {}
        stored.save(path, xmp=XMP, **more, **common)
    return path


def rewritten(source: Path, target: Path, **how: Any) -> Image.Image:
    picture = Picture.open(source)
    patch, box, _ = edit_of(picture)
    write_edited(picture, patch, box, target, **how)
    with Image.open(target) as image:
        image.load()
        return image


def xmp_of(image: Image.Image) -> bytes:
    held = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", "").encode()
    return bytes(held).rstrip(b"\0")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.tif", "in.webp"])
def test_icc_profile_and_xmp_are_kept(tmp_path: Path, source: str, target: str) -> None:
    image = rewritten(with_metadata(tmp_path / source), tmp_path / f"out{target}")
    assert image.info["icc_profile"] == icc_profile()
    assert xmp_of(image) == XMP


@pytest.mark.parametrize("target", [".png", ".webp"])
@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.webp"])
def test_exif_is_kept_with_place_and_maker_s_notes(
    tmp_path: Path, source: str, target: str
) -> None:
    image = rewritten(with_metadata(tmp_path / source), tmp_path / f"out{target}")
    kept, original = image.getexif(), full_exif()
    for ifd in (0x8769, 0x8825):
        assert original.get_ifd(ifd).items() <= kept.get_ifd(ifd).items()
    own = {tag: value for tag, value in original.items() if tag not in (0x8769, 0x8825)}
    assert own.items() <= dict(kept).items()


@pytest.mark.parametrize("target", [".png", ".tif"])
@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.tif"])
def test_resolution_is_kept(tmp_path: Path, source: str, target: str) -> None:
    image = rewritten(with_metadata(tmp_path / source), tmp_path / f"out{target}")
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_resolution_reaches_webp_by_exif(tmp_path: Path) -> None:
    Image.fromarray(every_level(3, 8)).save(tmp_path / "in.png", dpi=(300, 300))
    image = rewritten(tmp_path / "in.png", tmp_path / "out.webp")
    assert image.getexif()[0x011A] == pytest.approx(300, abs=0.01)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", ["in.png", "in.tif", "in.webp"])
def test_no_exif_is_made_up(tmp_path: Path, source: str, target: str) -> None:
    make = {"png": make_png, "tif": make_tiff, "webp": make_webp}[source[3:]]
    make(tmp_path / source, every_level(3, 8))
    image = rewritten(tmp_path / source, tmp_path / f"out{target}")
    assert not image.getexif().get_ifd(0x8769)
    assert "exif" not in image.info


def test_a_text_stays_in_a_png_and_a_description_in_a_tiff(tmp_path: Path) -> None:
    image = rewritten(with_metadata(tmp_path / "in.png"), tmp_path / "out.png")
    assert image.info["Title"] == "a title"
    image = rewritten(with_metadata(tmp_path / "in.tif"), tmp_path / "out.tif")
    assert image.tag_v2[270] == "a description"


def test_photoshop_s_resources_and_iptc_stay_in_a_tiff(tmp_path: Path) -> None:
    iptc = b"\x1c\x02\x05\x00\x07A title"
    held = b"8BIM\x04\x04\0\0\0\0\0\x0c" + iptc
    tags = [(33723, "B", len(iptc), iptc, True), (34377, "B", len(held), held, True)]
    make_tiff(tmp_path / "in.tif", every_level(3, 8), extratags=tags)
    picture = Picture.open(tmp_path / "in.tif")
    for target in TARGETS:
        assert losses(picture, target) == []
    rewritten(tmp_path / "in.tif", tmp_path / "out.tif", tiff="plain")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert bytes(file.pages[0].tags[33723].value) == iptc
    assert held in (tmp_path / "out.tif").read_bytes()


def test_a_grey_profile_stays(tmp_path: Path) -> None:
    profile = icc_profile().replace(b"RGB ", b"GRAY", 1)  # the header says for which colours
    Image.fromarray(every_level(1, 8)[..., 0]).save(tmp_path / "in.png", icc_profile=profile)
    image = rewritten(tmp_path / "in.png", tmp_path / "out.png")
    assert image.mode == "L"
    assert image.info["icc_profile"] == profile


def test_losses_are_named(tmp_path: Path) -> None:
    png = Picture.open(with_metadata(tmp_path / "in.png"))
    assert losses(png, ".png") == []
    assert losses(png, ".TIF") == ["text (Title)"]
    assert losses(png, ".webp") == ["text (Title)"]
    tiff = Picture.open(with_metadata(tmp_path / "in.tif"))
    assert losses(tiff, ".tiff") == []
    assert losses(tiff, ".png") == []
    with pytest.raises(ImageError, match=r"\.bmp"):
        losses(png, ".bmp")


def test_losses_no_format_can_help_are_named_too(tmp_path: Path) -> None:
    image, tags = Image.fromarray(every_level(3, 8)), TiffImagePlugin.ImageFileDirectory_v2()
    tags[271], tags[34665], tags[34853] = "Maker", {36867: "2020:01:01 00:00:00"}, {1: "N"}
    image.save(tmp_path / "exif.tif", tiffinfo=tags)
    assert losses(Picture.open(tmp_path / "exif.tif"), ".tif") == []
    assert losses(Picture.open(tmp_path / "exif.tif"), ".png") == []
    make_tiff(tmp_path / "own.tif", every_level(3, 8), extratags=[(65000, "s", 0, "x", True)])
    assert losses(Picture.open(tmp_path / "own.tif"), ".png")[-1:] == ["TIFF tag 65000"]
    make_png(tmp_path / "in.png", every_level(3, 8))
    data = (tmp_path / "in.png").read_bytes()
    gamma = png_chunk(b"gAMA", struct.pack(">I", 100000))
    (tmp_path / "gamma.png").write_bytes(data[:33] + gamma + data[33:])
    picture = Picture.open(tmp_path / "gamma.png")
    assert losses(picture, ".tif") == ["the PNG's gAMA chunk"]
    assert losses(picture, ".png") == []
    box = Box(0, 0, 9, 9)
    write_edited(picture, picture.read(box), box, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes()[33:49] == gamma


def test_an_extra_channel_without_a_meaning_becomes_alpha(tmp_path: Path) -> None:
    stored = every_level(4, 8)
    make_tiff(tmp_path / "in.tif", stored, extrasamples=["unspecified"])
    assert "extra channel" in losses(Picture.open(tmp_path / "in.tif"), ".png")[0]
    assert_exact(tmp_path / "in.tif", stored, tmp_path / "out.tif")


# ---------------------------------------------------------------- grey


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_picture_takes_the_patch_s_luma(tmp_path: Path, bits: int) -> None:
    stored = every_level(1, bits)
    make_png(tmp_path / "in.png", stored)
    picture = Picture.open(tmp_path / "in.png")
    patch = np.random.default_rng(0).integers(0, 2**bits, (3, 9, 8)).astype(picture.dtype)
    write_edited(picture, patch, Box(3, 4, 12, 12), tmp_path / "out.png")
    expected = 0.2126 * patch[0] + 0.7152 * patch[1] + 0.0722 * patch[2]
    assert np.array_equal(read_back(tmp_path / "out.png")[3:12, 4:12, 0], np.rint(expected))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_picture_put_into_itself_is_itself(tmp_path: Path, bits: int) -> None:
    stored = every_level(1, bits)
    make_png(tmp_path / "in.png", stored)
    picture = Picture.open(tmp_path / "in.png")
    whole = Box.of(picture.size)
    write_edited(picture, picture.read(whole), whole, tmp_path / "out.png")
    assert np.array_equal(read_back(tmp_path / "out.png"), stored)


# ---------------------------------------------------------------- refused


def pillow_file(tmp_path: Path, name: str, mode: str, **options: Any) -> Path:
    Image.fromarray(photo(64, 64)).convert(mode).save(tmp_path / name, **options)
    return tmp_path / name


def tiff_of(tmp_path: Path, samples: Array, **options: Any) -> Path:
    tifffile.imwrite(tmp_path / "x.tif", samples, **options)
    return tmp_path / "x.tif"


def bytes_file(tmp_path: Path, name: str, data: bytes) -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def frames(tmp_path: Path, name: str, **options: Any) -> Path:
    first, second = Image.fromarray(photo(64, 64)), Image.fromarray(photo(64, 64, seed=1))
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    return tmp_path / name


GREY = np.arange(4096, dtype=np.uint8).reshape(64, 64)
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda t: t / "x.png", "no such file"),
    "folder": (lambda t: t, "is a folder"),
    "through a file": (lambda t: bytes_file(t, "f", b"x") / "x.png", "can't be read"),
    "empty": (lambda t: bytes_file(t, "x.png", b""), "is empty"),
    "text": (lambda t: bytes_file(t, "x.png", b"hello, world"), "not a PNG, JPEG, TIFF or WebP"),
    "BMP": (lambda t: pillow_file(t, "x.bmp", "RGB"), "convert it to PNG or TIFF"),
    "CMYK JPEG": (lambda t: pillow_file(t, "x.jpg", "CMYK"), "CMYK; convert it to RGB"),
    "CMYK TIFF": (lambda t: pillow_file(t, "x.tif", "CMYK"), "CMYK; convert it to RGB"),
    "Lab TIFF": (lambda t: pillow_file(t, "x.tif", "LAB"), "Lab; convert it to RGB"),
    "YCbCr TIFF": (lambda t: pillow_file(t, "x.tif", "YCbCr"), "YCbCr; convert it to RGB"),
    "float": (lambda t: tiff_of(t, GREY.astype("f4")), "floats; convert it to 8 or 16 bits"),
    "uint32": (lambda t: tiff_of(t, GREY.astype("u4")), "32 bits per sample; convert it"),
    "int16": (lambda t: tiff_of(t, GREY.astype("i2")), "signed integers; convert it"),
    "pages": (lambda t: frames(t, "x.tif"), "2 pages"),
    "animated WebP": (lambda t: frames(t, "x.webp"), "2 pages"),
    "animated PNG": (lambda t: frames(t, "x.png"), "animated"),
    "premultiplied": (
        lambda t: tiff_of(t, np.dstack([photo(64, 64), GREY]), extrasamples=["assocalpha"],
                          photometric="rgb"),
        "multiplied by alpha",
    ),
    "five channels": (
        lambda t: tiff_of(t, np.dstack([photo(64, 64), GREY, GREY]), photometric="rgb"),
        "5 channels",
    ),
    "preview": (lambda t: tiff_of(t, photo(64, 64), photometric="rgb", subfiletype=1), "raw file"),
    "absurd PNG": (
        lambda t: bytes_file(t, "x.png", png_of(100_000, 100_000, zlib.compress(bytes(500)))),
        "declares 100000x100000 pixels in",
    ),
    "absurd JPEG": (lambda t: absurd_jpeg(t), "declares 65500x65500 pixels in"),
    "absurd TIFF": (lambda t: absurd_tiff(t), "declares 100000x100000 pixels"),
}  # fmt: skip


def absurd_jpeg(tmp_path: Path) -> Path:
    data = bytearray(pillow_file(tmp_path, "x.jpg", "RGB").read_bytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65500, 65500)
    return bytes_file(tmp_path, "x.jpg", bytes(data))


def absurd_tiff(tmp_path: Path) -> Path:
    path = tiff_of(tmp_path, photo(64, 64), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[name].overwrite(100_000)
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_exact_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    make, said = REFUSED[name]
    path = make(tmp_path)
    with pytest.raises(ImageError, match=said) as caught:
        check(Picture.open(path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("codec", ["zstd", "lzma", "lerc", "jpeg2000", "jpegxl"])
def test_what_libvips_can_t_decode_is_decoded_right(tmp_path: Path, codec: str) -> None:
    options: dict[str, Any] = {"compressionargs": {"level": 100}} if codec == "jpegxl" else {}
    stored = photo(64, 64)
    path = tiff_of(tmp_path, stored, photometric="rgb", compression=codec, **options)
    assert_exact(path, tifffile.imread(path), tmp_path / "out.png")
    assert np.array_equal(tifffile.imread(path), stored) or codec == "jpegxl"


def cuttable(tmp_path: Path, name: str) -> Path:
    image, path = Image.fromarray(photo(300, 400)), tmp_path / name
    options: dict[str, Any] = {"progressive": True} if "progressive" in name else {}
    if path.suffix == ".tif":
        make_tiff(path, photo(300, 400), compression="zlib" if "zlib" in name else None)
    else:
        image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "progressive.jpg", "a.webp", "plain.tif", "zlib.tif"]
)
def test_a_file_cut_off_anywhere_is_found(tmp_path: Path, name: str) -> None:
    whole = cuttable(tmp_path, name)
    check(Picture.open(whole))
    data = whole.read_bytes()
    rng = np.random.default_rng(0)
    cuts = {*range(1, 30), len(data) - 20, len(data) // 2, *rng.integers(1, len(data), 10).tolist()}
    for cut in sorted(cuts):
        path = bytes_file(tmp_path, "cut" + whole.suffix, data[:-cut])
        with pytest.raises(ImageError, match=r"cut off|not a|decoded") as caught:
            check(Picture.open(path))
        assert "\n" not in str(caught.value)


def test_a_changed_byte_in_a_png_is_found(tmp_path: Path) -> None:
    data = cuttable(tmp_path, "a.png").read_bytes()
    for position in np.random.default_rng(0).integers(60, len(data) - 30, 20):
        changed = bytearray(data)
        changed[position] ^= 0x10
        path = bytes_file(tmp_path, "changed.png", bytes(changed))
        with pytest.raises(ImageError):
            check(Picture.open(path))


def test_a_hole_of_zeros_in_a_png_is_found(tmp_path: Path) -> None:
    data = cuttable(tmp_path, "a.png").read_bytes()
    path = bytes_file(tmp_path, "hole.png", data[:5000] + bytes(len(data) - 5000))
    with pytest.raises(ImageError):
        check(Picture.open(path))


def test_reading_a_damaged_window_fails_too(tmp_path: Path) -> None:
    data = cuttable(tmp_path, "a.jpg").read_bytes()
    path = bytes_file(tmp_path, "cut.jpg", data[: len(data) // 2])
    with pytest.raises(ImageError, match="damaged, cut off"):
        Picture.open(path).read(Box(290, 0, 300, 10))


@given(data=st.binary(max_size=80), start=st.sampled_from([b"II*\0", b"MM\0*", b"II+\0"]))
def test_any_bytes_after_a_tiff_s_mark_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.tif"
    path.write_bytes(start + data)
    with pytest.raises(ImageError) as caught:
        check(Picture.open(path))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- targets


def colour_picture(tmp_path: Path, bits: int = 8) -> Picture:
    make_png(tmp_path / "in.png", every_level(3, bits))
    return Picture.open(tmp_path / "in.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "a.dzi"])
def test_a_target_that_is_not_lossless_must_be_allowed(tmp_path: Path, name: str) -> None:
    picture, target = colour_picture(tmp_path), tmp_path / name
    with pytest.raises(ImageError, match=r"can't keep exact samples.*--allow-loss"):
        check_target(picture, target)
    export.check_target(picture, target, How(allow_loss=True))


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a"])
def test_a_target_that_nobody_writes_is_refused(tmp_path: Path, name: str) -> None:
    picture = colour_picture(tmp_path)
    with pytest.raises(ImageError, match=r"\.png, \.tif, \.webp"):
        check_target(picture, tmp_path / name)
    with pytest.raises(ImageError):
        write_edited(picture, picture.read(Box(0, 0, 9, 9)), Box(0, 0, 9, 9), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_16_bits_do_not_fit_a_webp(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="can't keep 16 bits"):
        check_target(colour_picture(tmp_path, 16), tmp_path / "a.webp")


def test_a_long_picture_does_not_fit_a_webp(tmp_path: Path) -> None:
    make_png(tmp_path / "long.png", np.zeros((2, 16384, 3), np.uint8))
    with pytest.raises(ImageError, match="16384x2"):
        check_target(Picture.open(tmp_path / "long.png"), tmp_path / "a.webp")


@pytest.mark.parametrize("name", ["a.PNG", "a.Tiff", "a.tif", "a.webp"])
def test_suffixes_may_be_upper_case(tmp_path: Path, name: str) -> None:
    picture = colour_picture(tmp_path)
    check_target(picture, tmp_path / name)
    box = Box(0, 0, 9, 9)
    write_edited(picture, picture.read(box), box, tmp_path / name)
    assert np.array_equal(Picture.open(tmp_path / name).read(box), picture.read(box))


def test_a_patch_of_another_size_or_depth_is_a_mistake(tmp_path: Path) -> None:
    picture = colour_picture(tmp_path)
    for patch in [np.zeros((3, 4, 5), np.uint8), np.zeros((3, 5, 5), np.uint16)]:
        with pytest.raises(ValueError, match="wanted uint8"):
            write_edited(picture, patch, Box(0, 0, 5, 5), tmp_path / "out.png")


def test_a_tiff_is_tiled_and_deflated(tmp_path: Path) -> None:
    picture = colour_picture(tmp_path, 16)
    box = Box(0, 0, 9, 9)
    write_edited(picture, picture.read(box), box, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        page = file.pages[0]
        assert (page.tilewidth, page.compression.name, page.predictor.name) == (
            512, "ADOBE_DEFLATE", "HORIZONTAL",
        )  # fmt: skip


def test_a_target_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    picture, target = colour_picture(tmp_path), tmp_path / "out.png"
    target.write_bytes(b"old")
    box = Box(0, 0, 9, 9)
    write_edited(picture, picture.read(box), box, target)
    assert np.array_equal(Picture.open(target).read(box), picture.read(box))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "out.png"]


@pytest.mark.parametrize("folder", ["missing", "in.png"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, folder: str) -> None:
    picture, target = colour_picture(tmp_path), tmp_path / folder / "out.png"
    box = Box(0, 0, 9, 9)
    for write in (
        lambda: write_edited(picture, picture.read(box), box, target),
        lambda: save_png(target, np.zeros((3, 4, 4), np.uint8)),
    ):
        with pytest.raises(RunError, match="can't be written") as caught:
            write()
        assert str(caught.value).startswith(str(target))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", TARGETS)
def test_a_full_disk_leaves_the_old_target_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    picture, target = colour_picture(tmp_path), tmp_path / f"out{suffix}"
    target.write_bytes(b"old")
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 128)).astype(np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(RunError, match="can't be written") as caught:
            write_edited(picture, noise, Box.of(picture.size), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", target.name]


def test_a_source_that_breaks_on_the_way_is_the_source_s_fault(tmp_path: Path) -> None:
    data = cuttable(tmp_path, "a.jpg").read_bytes()
    path = bytes_file(tmp_path, "cut.jpg", data[: len(data) // 2])
    patch = np.zeros((3, 5, 5), np.uint8)
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        write_edited(Picture.open(path), patch, Box(0, 0, 5, 5), tmp_path / "out.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "cut.jpg"]


# ---------------------------------------------------------------- previews


def test_a_preview_is_an_8_bit_png(tmp_path: Path) -> None:
    stored = every_level(3, 8).transpose(2, 0, 1)
    save_png(tmp_path / "a.png", stored)
    save_png(tmp_path / "b.png", to_float(stored))
    for name in ("a.png", "b.png"):
        assert np.array_equal(read_back(tmp_path / name).transpose(2, 0, 1), stored)
    assert len(list(tmp_path.iterdir())) == 2


def test_errors_of_this_module_are_the_user_s(tmp_path: Path) -> None:
    with pytest.raises(MsbdError) as caught:
        Picture.open(tmp_path / "missing.png")
    assert caught.value.exit_code == 2

"""Masks: what counts as edit, at which size, and that no stroke is ever lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from whole import feather as old_feather
from whole import read_mask as old_read_mask
from whole import scale_mask as old_scale_mask

from msbd_dist.canvas.images import Picture
from msbd_dist.canvas.masks import Mask, feather, read_mask, scale_mask
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.errors import ImageError, MaskError

Array = NDArray[Any]


def picture_of(tmp_path: Path, height: int, width: int, orientation: int = 1) -> Picture:
    exif = Image.Exif()
    exif[0x0112] = orientation
    samples = np.zeros((height, width, 3), np.uint8)
    Image.fromarray(samples).save(tmp_path / "picture.png", exif=exif)
    return Picture.open(tmp_path / "picture.png")


def saved(path: Path, samples: Array, **options: Any) -> Path:
    Image.fromarray(samples).save(path, **options)
    return path


def blob(height: int, width: int) -> NDArray[np.bool_]:
    """A mask without symmetry, so that every turn of it differs."""
    mask = np.zeros((height, width), bool)
    mask[2 : height // 2, 3 : width - 5] = True
    mask[height // 2 :, 4] = True
    return mask


def read_whole(path: Path, picture: Picture) -> NDArray[np.bool_]:
    """All of a mask as one window."""
    return read_mask(path, picture).window(Box.of(picture.size))


def reader(mask: Array) -> Callable[[Box], Array]:
    """Windows of an array; outside of it nothing is masked."""

    def read(box: Box) -> Array:
        out = np.zeros(box.size.shape, bool)
        if common := box.intersection(Box.of(Size(*mask.shape))):
            out[common.relative_to(box).slices] = mask[common.slices]
        return out

    return read


def scale_whole(mask: Array, rect: Rect, size: Size) -> Array:
    return scale_mask(reader(mask), rect, size)


def feather_whole(mask: Array, pixels: float) -> Array:
    box = Box.of(Size(*mask.shape))
    return feather(reader(mask), pixels, box, bounds=box)


def bbox_of(mask: Array) -> Box | None:
    ys, xs = np.nonzero(mask)
    return Box(ys.min(), xs.min(), ys.max() + 1, xs.max() + 1) if len(ys) else None


@st.composite
def boxes_in(draw: st.DrawFn, size: Size) -> Box:
    """Any box inside a picture."""
    y0, x0 = draw(st.integers(0, size.height - 1)), draw(st.integers(0, size.width - 1))
    y1, x1 = draw(st.integers(y0 + 1, size.height)), draw(st.integers(x0 + 1, size.width))
    return Box(y0, x0, y1, x1)


def agrees(found: Mask, wanted: Array, box: Box) -> bool:
    """Is a mask, in a box, what an array is?"""
    same = np.array_equal(found.window(box), wanted[box.slices])
    return same and found.any(box) == wanted[box.slices].any()


# ---------------------------------------------------------------- what counts as edit


def test_half_of_the_range_and_above_is_edit(tmp_path: Path) -> None:
    picture, levels = picture_of(tmp_path, 16, 16), np.arange(256).reshape(16, 16)
    mask = read_whole(saved(tmp_path / "mask.png", levels.astype(np.uint8)), picture)
    assert mask.dtype == np.bool_
    assert np.array_equal(mask, levels >= 128)


def test_half_of_16_bits_and_above_is_edit(tmp_path: Path) -> None:
    picture, levels = picture_of(tmp_path, 256, 256), np.arange(65536).reshape(256, 256)
    cv2.imwrite(str(tmp_path / "mask.png"), levels.astype(np.uint16))
    assert np.array_equal(read_whole(tmp_path / "mask.png", picture), levels >= 32768)
    tifffile.imwrite(tmp_path / "rgb.tif", np.dstack([levels] * 3).astype("u2"), photometric="rgb")
    assert np.array_equal(read_whole(tmp_path / "rgb.tif", picture), levels >= 32768)


def test_colours_count_by_their_luma(tmp_path: Path) -> None:
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[0, :5] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (128, 128, 128)]
    mask = read_whole(saved(tmp_path / "mask.png", colours), picture_of(tmp_path, 16, 16))
    assert mask[0, :5].tolist() == [False, True, False, True, True]
    assert not mask[1:].any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_every_kind_of_file_gives_the_same_mask(tmp_path: Path, mode: str, suffix: str) -> None:
    if suffix == ".webp" and mode in ("1", "P", "LA"):
        mode = "RGBA"
    image = Image.fromarray(blob(40, 50)).convert("L").convert(mode)
    image.save(tmp_path / f"mask{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    mask = read_whole(tmp_path / f"mask{suffix}", picture_of(tmp_path, 40, 50))
    assert np.array_equal(mask, blob(40, 50))


def test_a_jpeg_mask_is_as_good(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.jpg", blob(40, 50).astype(np.uint8) * 255, quality=95)
    assert np.array_equal(read_whole(path, picture_of(tmp_path, 40, 50)), blob(40, 50))


def test_what_is_transparent_is_not_edit(tmp_path: Path) -> None:
    white = np.full((16, 16, 4), 255, np.uint8)
    white[:, :, 3] = np.arange(256).reshape(16, 16)
    mask = read_whole(saved(tmp_path / "mask.png", white), picture_of(tmp_path, 16, 16))
    assert np.array_equal(mask, white[:, :, 3] >= 128)


def test_a_mask_of_more_rows_than_a_strip_is_whole(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((1000, 30)) < 0.5
    path = saved(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    assert np.array_equal(read_whole(path, picture_of(tmp_path, 1000, 30)), mask)


# ---------------------------------------------------------------- refused


def test_an_empty_mask_tells_how_bright_it_is(tmp_path: Path) -> None:
    dim = np.full((16, 16), 12, np.uint8)
    path = saved(tmp_path / "mask.png", dim)
    with pytest.raises(MaskError, match=r"mask\.png.*empty.*12 of 255.*white") as caught:
        read_whole(path, picture_of(tmp_path, 16, 16))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: np.full((16, 16), 3000, np.uint16), "3000 of 65535"),
        (lambda: np.full((16, 16, 4), (255, 255, 255, 0), np.uint8), "0 of"),
        (lambda: np.full((16, 16, 3), (255, 0, 0), np.uint8), "54 of 255"),
    ],
)  # fmt: skip
def test_brightness_is_told_in_the_file_s_own_range(tmp_path: Path, make: Any, said: str) -> None:
    path = saved(tmp_path / "mask.png", make())
    with pytest.raises(MaskError, match=said):
        read_whole(path, picture_of(tmp_path, 16, 16))


@pytest.mark.parametrize("size", [(30, 50), (48, 40), (100, 40), (40, 52), (80, 104)])
def test_another_aspect_names_both_files_and_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    picture = picture_of(tmp_path, 40, 50)
    path = saved(tmp_path / "mask.png", np.full(size, 255, np.uint8))
    said = rf"mask\.png.*{size[1]}x{size[0]}.*picture\.png.*50x40"
    with pytest.raises(MaskError, match=said) as caught:
        read_whole(path, picture)
    assert "\n" not in str(caught.value)


def test_a_mask_that_is_no_picture_says_so(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("hello")
    with pytest.raises(ImageError, match=r"mask\.png"):
        read_whole(tmp_path / "mask.png", picture_of(tmp_path, 16, 16))


def test_a_mask_that_is_cut_off_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    data = saved(tmp_path / "mask.jpg", noise).read_bytes()
    (tmp_path / "mask.jpg").write_bytes(data[:-2000])
    with pytest.raises(ImageError, match="damaged, cut off"):
        read_whole(tmp_path / "mask.jpg", picture_of(tmp_path, 300, 300))


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_s_own_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "mask.png", blob(40, 50).astype(np.uint8) * 255, exif=exif)
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image)) > 127
    assert np.array_equal(read_whole(path, picture_of(tmp_path, *seen.shape)), seen)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [1, 2])
def test_a_mask_of_the_upright_size_is_taken_as_it_is(
    tmp_path: Path, orientation: int, factor: int
) -> None:
    picture = picture_of(tmp_path, 40, 50, orientation)
    mask = blob(picture.size.height, picture.size.width)
    large = mask.repeat(factor, 0).repeat(factor, 1).astype(np.uint8) * 255
    assert np.array_equal(read_whole(saved(tmp_path / "mask.png", large), picture), mask)


@pytest.mark.parametrize("orientation", range(5, 9))
@pytest.mark.parametrize("factor", [1, 2])
def test_a_mask_of_the_stored_size_is_turned_along(
    tmp_path: Path, orientation: int, factor: int
) -> None:
    picture = picture_of(tmp_path, 40, 50, orientation)
    stored = Image.fromarray(blob(40, 50))
    stored.getexif()[0x0112] = orientation
    seen = np.asarray(ImageOps.exif_transpose(stored))
    large = blob(40, 50).repeat(factor, 0).repeat(factor, 1).astype(np.uint8) * 255
    assert np.array_equal(read_whole(saved(tmp_path / "mask.png", large), picture), seen)


# ---------------------------------------------------------------- another size


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_a_smaller_mask_is_enlarged_to_blocks(tmp_path: Path, factor: int) -> None:
    path = saved(tmp_path / "mask.png", blob(40, 50).astype(np.uint8) * 255)
    mask = read_whole(path, picture_of(tmp_path, 40 * factor, 50 * factor))
    assert np.array_equal(mask, blob(40, 50).repeat(factor, 0).repeat(factor, 1))


@pytest.mark.parametrize(("have", "want"), [(20, 31), (20, 30), (31, 20), (20, 53), (20, 20)])
def test_a_pixel_is_edit_where_any_of_the_mask_lies_under_it(
    tmp_path: Path, have: int, want: int
) -> None:
    """In exact fractions of the mask's pixels."""
    drawn = np.random.default_rng(have * want).random((have, have)) < 0.05
    path = saved(tmp_path / "mask.png", drawn.astype(np.uint8) * 255)

    def under(index: int) -> slice:
        low, high = Fraction(index * have, want), Fraction((index + 1) * have, want)
        return slice(floor(low), ceil(high))

    wanted = [[drawn[under(y), under(x)].any() for x in range(want)] for y in range(want)]
    found = read_mask(path, picture_of(tmp_path, want, want))
    assert agrees(found, np.array(wanted), Box(3, 5, want - 2, want - 1))
    assert agrees(found, np.array(wanted), Box.of(found.size))
    assert found.bbox == bbox_of(np.array(wanted))
    assert found.share == np.mean(wanted)


@pytest.mark.parametrize(
    ("have", "want"),
    [((2117, 1803), (264, 225)), ((2117, 1803), (264, 224)), ((1001, 667), (500, 333)),
     ((333, 500), (667, 1001)), ((40, 50), (41, 50)), ((512, 436), (2117, 1803))],
)  # fmt: skip
def test_a_size_rounded_either_way_has_the_same_aspect(
    tmp_path: Path, have: tuple[int, int], want: tuple[int, int]
) -> None:
    path = saved(tmp_path / "mask.png", np.full(have, 255, np.uint8))
    mask = read_whole(path, picture_of(tmp_path, *want))
    assert mask.shape == want
    assert mask.all()


@pytest.mark.parametrize("at", [0, 1, 499, 737, 999])
def test_a_stroke_of_one_pixel_survives_any_shrinking(tmp_path: Path, at: int) -> None:
    for stroke in (np.s_[at, :], np.s_[:, at]):
        drawn = np.zeros((1000, 1000), np.uint8)
        drawn[stroke] = 255
        path = saved(tmp_path / "mask.png", drawn)
        mask = read_whole(path, picture_of(tmp_path, 63, 63))
        assert mask.sum() == 63


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from([0.2, 0.5, 0.93, 1.0, 1.7, 2.0, 6.0]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_windows_are_those_of_the_whole_mask_at_any_size_and_turn(
    tmp_path: Path, own: int, other: int, scale: float, stored: bool, seed: int, data: Any
) -> None:
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    picture = picture_of(tmp_path, height, width, other)
    size = picture.stored_size if stored else picture.size
    upright = [max(1, round(edge * scale)) for edge in size.shape]
    shape = upright if own < 5 else upright[::-1]
    rng = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x0112] = own
    drawn = (rng.random(shape) < rng.choice([0.01, 0.5])).astype(np.uint8) * 255
    path = saved(tmp_path / "mask.png", drawn, exif=exif)
    try:
        wanted = old_read_mask(path, picture)
    except MaskError as error:
        with pytest.raises(MaskError, match=re.escape(str(error))):
            read_mask(path, picture)
        return
    found = read_mask(path, picture)
    assert found.size == picture.size
    assert found.bbox == bbox_of(wanted)
    assert found.share == wanted.mean()
    for box in (Box.of(picture.size), data.draw(boxes_in(picture.size))):
        assert agrees(found, wanted, box)


def test_a_window_of_a_much_larger_mask_is_read_in_tiles(tmp_path: Path) -> None:
    drawn = np.zeros((2900, 3100), np.uint8)
    drawn[1500:2100, 700:1700] = drawn[1447:1449, 3:5] = 255
    picture, path = picture_of(tmp_path, 29, 31), saved(tmp_path / "mask.png", drawn)
    wanted, found = old_read_mask(path, picture), read_mask(path, picture)
    assert found.bbox == bbox_of(wanted)
    assert agrees(found, wanted, Box.of(picture.size))
    assert agrees(found, wanted, Box(13, 0, 16, 29))


# ---------------------------------------------------------------- scaling by maximum


def slow_scale(mask: Array, rect: Rect, size: Size) -> Array:
    """One output pixel after the other: is any True pixel under it by more than a rounding?"""
    out = np.zeros((size.height, size.width), bool)

    def reach(start: float, extent: float, count: int, index: int) -> range:
        low = start + index * (extent / count) + 1e-6
        high = start + (index + 1) * (extent / count) - 1e-6
        return range(floor(low), max(ceil(high), floor(low) + 1))

    for i in range(size.height):
        for j in range(size.width):
            for y in reach(rect.y0, rect.height, size.height, i):
                for x in reach(rect.x0, rect.width, size.width, j):
                    inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
                    out[i, j] |= inside and mask[y, x]
    return out


lengths = st.integers(1, 12)
edges = st.one_of(st.integers(-6, 14).map(float), st.floats(-6, 14, width=32))
extents = st.one_of(st.integers(1, 16).map(float), st.floats(0.125, 16, width=32))


@settings(max_examples=300, deadline=None)
@given(lengths, lengths, edges, edges, extents, extents, lengths, lengths, st.randoms())
def test_scaling_is_the_maximum_under_each_pixel(
    rows: int,
    columns: int,
    y0: float,
    x0: float,
    height: float,
    width: float,
    out_rows: int,
    out_columns: int,
    random: Any,
) -> None:
    mask = np.array([random.random() < 0.2 for _ in range(rows * columns)]).reshape(rows, columns)
    rect, size = Rect(y0, x0, y0 + height, x0 + width), Size(out_rows, out_columns)
    assert np.array_equal(scale_whole(mask, rect, size), slow_scale(mask, rect, size))


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_no_single_pixel_is_ever_lost(length: int, count: int, data: Any) -> None:
    mask = np.zeros((length, 3), bool)
    mask[data.draw(st.integers(0, length - 1)), 1] = True
    scaled = scale_whole(mask, Rect(0, 0, length, 3), Size(count, 1))
    assert scaled.any()


@pytest.mark.parametrize("count", [1, 3, 64, 700])
def test_a_large_region_is_scaled_in_tiles_of_two_million_pixels(count: int) -> None:
    mask = np.random.default_rng(0).random((3000, 2000)) < 1 / 1000
    rect, asked = Rect(10.5, -300.25, 2990.25, 1900.75), []

    def read(box: Box) -> Array:
        asked.append(box.size.area)
        return reader(mask)(box)

    box = rect.outer()
    wanted = old_scale_mask(reader(mask)(box), rect.relative_to(box), Size(count, count))
    assert np.array_equal(scale_mask(read, rect, Size(count, count)), wanted)
    assert max(asked) <= 2**21


def test_the_same_size_is_the_same_mask() -> None:
    mask = np.random.default_rng(0).random((70, 90)) < 0.3
    assert np.array_equal(scale_whole(mask, Rect(0, 0, 70, 90), Size(70, 90)), mask)
    window = scale_whole(mask, Rect(10, 20, 30, 60), Size(20, 40))
    assert np.array_equal(window, mask[10:30, 20:60])


def test_outside_of_the_mask_is_no_edit() -> None:
    mask = np.ones((4, 4), bool)
    assert not scale_whole(mask, Rect(10, 0, 20, 4), Size(5, 2)).any()
    assert not scale_whole(mask, Rect(-9, -9, -1, -1), Size(5, 2)).any()
    around = scale_whole(mask, Rect(-2, -2, 6, 6), Size(4, 4))
    assert around.tolist() == np.pad(np.ones((2, 2), bool), 1).tolist()


@pytest.mark.parametrize("rect", [Rect(3, 0, 3, 4), Rect(0, 5, 4, 1)])
def test_a_window_without_extent_is_a_mistake(rect: Rect) -> None:
    with pytest.raises(ValueError, match="positive extent"):
        scale_whole(np.ones((4, 4), bool), rect, Size(2, 2))


# ---------------------------------------------------------------- feather


def test_the_feather_is_0_outside_and_rises_to_1_inside() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 8:32] = True
    weights = feather_whole(mask, 5)
    assert weights.dtype == np.float32
    assert not weights[~mask].any()
    assert weights[20, 8:14] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert (weights[15:25, 13:27] == 1).all()


def test_the_feather_follows_the_distance_to_the_edge() -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.97
    outside = np.argwhere(~mask)
    pixels = np.argwhere(np.ones_like(mask))
    away = np.sqrt(((pixels[:, None] - outside[None]) ** 2).sum(-1)).min(1).reshape(mask.shape)
    assert feather_whole(mask, 7.5) == pytest.approx(np.minimum(away / 7.5, 1))


@pytest.mark.parametrize("pixels", [0, 0.5, 1])
def test_a_feather_of_one_pixel_is_the_mask(pixels: float) -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.5
    assert np.array_equal(feather_whole(mask, pixels), mask.astype(np.float32))


def test_the_picture_s_border_is_no_edge() -> None:
    assert (feather_whole(np.ones((9, 9), bool), 4) == 1).all()
    half = np.zeros((9, 9), bool)
    half[:, :5] = True
    assert (feather_whole(half, 4)[:, 0] == 1).all()


def test_an_empty_mask_has_an_empty_feather() -> None:
    assert not feather_whole(np.zeros((5, 5), bool), 3).any()


def test_a_negative_feather_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="-1"):
        feather_whole(np.ones((5, 5), bool), -1)


@given(st.floats(0, 12), st.integers(0, 2**32 - 1), st.data())
def test_a_window_s_feather_is_that_of_the_whole(pixels: float, seed: int, data: Any) -> None:
    rng = np.random.default_rng(seed)
    size = Size(data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50)))
    mask = rng.random(size.shape) < data.draw(st.sampled_from([0.2, 0.97, 0.999, 1]))
    box, whole = data.draw(boxes_in(size)), Box.of(size)
    found = feather(reader(mask), pixels, box, bounds=whole)
    assert np.array_equal(found, old_feather(mask, pixels)[box.slices])


def test_beyond_a_ring_around_the_mask_s_box_nothing_matters() -> None:
    mask = np.zeros((60, 70), bool)
    mask[0:30, 20:50] = np.random.default_rng(0).random((30, 30)) < 0.98
    bbox = bbox_of(mask)
    assert bbox is not None
    bounds = bbox.grown(1).intersection(Box(0, 0, 60, 70))
    assert bounds is not None
    found = feather(reader(mask), 40, bbox, bounds=bounds)
    assert np.array_equal(found, old_feather(mask, 40)[bbox.slices])

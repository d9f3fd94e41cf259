"""Masks as whole arrays: what windows of them have to agree with, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from msbd_dist.canvas.images import Picture, Samples, turn_upright, width_x_height
from msbd_dist.core.geometry import Rect, Size
from msbd_dist.errors import MaskError

Mask = NDArray[np.bool_]

_LUMA = np.array((2126, 7152, 722), dtype=np.uint64)  # Rec. 709, in ten-thousandths
_LUMA_SUM = 10_000
_SLACK = 1e-6  # an edge that is an integer but for rounding stays where it is


def read_mask(path: Path | str, picture: Picture) -> Mask:
    """(H, W) bool at the picture's upright size."""
    source = Picture.open(path)
    stored, brightest = _threshold(source)
    mask = turn_upright(stored, source.orientation)
    if not mask.any():
        peak = np.iinfo(source.dtype).max
        raise MaskError(
            f"{path}: the mask is empty (its brightest value is {brightest} of {peak}); "
            "paint the part to edit white"
        )
    return _fit(mask, source, picture)


def scale_mask(mask: Mask, rect: Rect, size: Size) -> Mask:
    """A window of (H, W) bool seen as ``size`` pixels, by maximum.

    An output pixel is True when any True mask pixel lies under its footprint, the part of ``rect``
    (edges in mask pixels, may leave the mask; outside is False) that it covers. Whatever the scale,
    no True pixel inside ``rect`` is lost.
    """
    if rect.height <= 0 or rect.width <= 0:
        raise ValueError(f"a window has a positive extent, not {rect.height} x {rect.width}")
    rows = _any_under(mask, *_footprints(rect.y0, rect.height, size.height), axis=0)
    return _any_under(rows, *_footprints(rect.x0, rect.width, size.width), axis=1)


def feather(mask: Mask, pixels: float) -> NDArray[np.float32]:
    """(H, W) weights in [0, 1]: 0 outside the mask, 1 from ``pixels`` inside its edge on."""
    weights = mask.astype(np.float32)
    if pixels <= 1 or mask.all() or not mask.any():
        return weights
    distance = ndimage.distance_transform_edt(mask)
    return np.minimum(distance / pixels, 1.0).astype(np.float32)


def _threshold(source: Picture) -> tuple[Mask, int]:
    """(stored mask, brightest value): one pass over the file in strips, in exact integers."""
    peak = int(np.iinfo(source.dtype).max)
    full = _LUMA_SUM * (peak if source.has_alpha else 1)  # what one step of the range is scaled to
    stored = source.stored_size
    mask = np.empty((stored.height, stored.width), dtype=np.bool_)
    brightest = 0
    for y, strip in source.strips(rows=256):
        light = _light(strip, source)
        mask[y : y + len(strip)] = 2 * light >= full * peak
        brightest = max(brightest, int(light.max()) // full)
    return mask, brightest


def _light(strip: Samples, source: Picture) -> NDArray[np.uint64]:
    """(h, W, bands + alpha) -> (h, W): luma in ten-thousandths, times alpha where there is one."""
    wide = strip.astype(np.uint64)
    light = wide[..., 0] * _LUMA_SUM if source.bands == 1 else wide[..., :3] @ _LUMA
    return light * wide[..., -1] if source.has_alpha else light


def _fit(mask: Mask, source: Picture, picture: Picture) -> Mask:
    """The mask at the picture's upright size, turned along with it where it fits only unturned."""
    size, have = picture.size, Size(*mask.shape)
    if have == size:
        return np.ascontiguousarray(mask)
    if have == picture.stored_size:
        return np.ascontiguousarray(turn_upright(mask, picture.orientation))
    if _same_aspect(have, size):
        return _resize(mask, size)
    if _same_aspect(have, picture.stored_size):
        return _resize(turn_upright(mask, picture.orientation), size)
    raise MaskError(
        f"{source.path}: the mask is {width_x_height(have)} and {picture.path} is "
        f"{width_x_height(size)}; give the mask the picture's size, or its aspect"
    )


def _same_aspect(a: Size, b: Size) -> bool:
    """Shrink the one with the longer edge until the longer edges agree: do the shorter, to 1 px?"""
    small, large = sorted((a, b), key=lambda size: size.long_edge)
    scale = small.long_edge / large.long_edge
    heights = abs(large.height * scale - small.height)
    widths = abs(large.width * scale - small.width)
    return max(heights, widths) <= 1


def _resize(mask: Mask, size: Size) -> Mask:
    """Each axis by itself, by maximum."""
    for axis, length in enumerate((size.height, size.width)):
        have = mask.shape[axis]
        if length != have:
            mask = _any_under(mask, *_footprints(0.0, float(have), length), axis=axis)
    return np.ascontiguousarray(mask)


def _footprints(
    start: float, extent: float, count: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """[low, high) mask pixels under each of ``count`` equal parts of an interval of real edges."""
    edges = start + np.arange(count + 1) * (extent / count)
    low = np.floor(edges[:-1] + _SLACK).astype(np.intp)
    high = np.ceil(edges[1:] - _SLACK).astype(np.intp)
    return low, np.maximum(high, low + 1)


def _any_under(mask: Mask, low: NDArray[np.intp], high: NDArray[np.intp], *, axis: int) -> Mask:
    """Is any pixel of [low, high) True, for each pair along one axis? Outside the mask is False."""
    first, last = max(int(low[0]), 0), min(int(high[-1]), mask.shape[axis])
    if first >= last:
        shape = (len(low), mask.shape[1]) if axis == 0 else (mask.shape[0], len(low))
        return np.zeros(shape, dtype=np.bool_)
    window = mask[first:last] if axis == 0 else mask[:, first:last]
    edge = [(0, 0), (0, 0)]
    edge[axis] = (0, 1)  # a False row or column for ranges that end with the mask to begin anew at
    low, high = (np.clip(ends - first, 0, last - first) for ends in (low, high))
    pairs = np.stack((low, high), axis=1).ravel()
    found = np.logical_or.reduceat(np.pad(window, edge), pairs, axis=axis)
    found = found[::2] if axis == 0 else found[:, ::2]
    found[(low >= high) if axis == 0 else (slice(None), low >= high)] = False
    return found

"""Pictures in, pictures out: masks in latent cells, resampling, low-pass, sums of segments.

Arrays are (C, H, W) float32 in [0, 1] unless said otherwise; masks are (H, W) bool. Windows of a
raster are read through a function ``read(box) -> array`` that accepts boxes beyond the picture's
edge; `read_reflected` makes such a function from one that does not. numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from msbd_dist.core.geometry import Box, Rect, Size, map_box
from msbd_dist.core.plan import LOWPASS_HALO, Stage
from msbd_dist.core.spec import Compose
from msbd_dist.core.tiling import Grid

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Read = Callable[[Box], Floats]


def latent_mask(mask: Bools, factor: int) -> Bools:
    """Max-pool a pixel mask to latent cells: a cell is True when any of its pixels is.

    (H, W) -> (H / factor, W / factor), so a stroke of one pixel keeps at least one cell.
    """
    height, width = mask.shape
    cells = mask.reshape(height // factor, factor, width // factor, factor)
    return np.asarray(cells.any(axis=(1, 3)))


def reflected_indices(start: int, stop: int, limit: int) -> npt.NDArray[np.intp]:
    """Indices ``start .. stop`` folded into ``0 .. limit`` by reflection about the edge pixels."""
    if limit == 1:
        return np.zeros(stop - start, np.intp)
    period = 2 * (limit - 1)
    folded = np.arange(start, stop, dtype=np.intp) % period
    return np.where(folded < limit, folded, period - folded)


def read_reflected(
    read: Callable[[Box], npt.NDArray[Any]], box: Box, bounds: Box
) -> npt.NDArray[Any]:
    """``read(box)`` for a box that may leave ``bounds``: what is outside is a reflection.

    ``read`` is asked once, for pixels inside ``bounds`` only; its last two axes are y and x.
    """
    inside = box.relative_to(bounds)
    ys = reflected_indices(inside.y0, inside.y1, bounds.height)
    xs = reflected_indices(inside.x0, inside.x1, bounds.width)
    need = Box(int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1)
    pixels = read(need.shifted(bounds.y0, bounds.x0))
    if need == inside:
        return pixels
    return pixels[..., ys[:, None] - need.y0, xs[None, :] - need.x0]


TILE = 1024  # pixels along each edge of what is averaged together

WEIGHT_ROUNDING = 1e-6  # weights of fully planned pixels sum to 1 within this

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def resample(picture: Floats, rect: Rect, size: Size, kind: str = "bilinear") -> Floats:
    """The window ``rect`` of a picture at another size; antialiased when it shrinks.

    ``rect`` has real-valued edges in the picture's pixels and lies inside it. (C, H, W) in,
    (C, size.height, size.width) out.
    """
    height, width = picture.shape[-2:]
    whole = Rect(0, 0, height, width)
    if rect == whole and size == Size(height, width):
        return picture
    box = (
        max(rect.x0, 0.0),
        max(rect.y0, 0.0),
        min(rect.x1, float(width)),
        min(rect.y1, float(height)),
    )
    target = (size.width, size.height)
    planes = [
        np.asarray(Image.fromarray(plane).resize(target, FILTERS[kind], box=box))
        for plane in np.ascontiguousarray(picture, np.float32)
    ]
    return np.stack(planes)


def block_edge(scale: float) -> int:
    """Pixels along the edge of the blocks that are averaged first, where so many become one.

    1 (none are) below a scale of 6; from there on at least 3 blocks are left for each pixel.
    """
    return max(1, floor(scale / 3 + 1e-9))


def block_means(read: Read, blocks: Box, edges: tuple[int, int]) -> Floats:
    """Means of a picture over blocks of ``edges`` = (height, width) pixels: (C, h, w).

    ``blocks`` counts in blocks from pixel (0, 0), so that windows that overlap agree bit for bit.
    The picture is read in tiles of whole blocks, about 1024 x 1024 pixels each, and summed in
    float64, in an order that depends on nothing but the edges.
    """
    height, width = edges
    parts = blocks.tiles(Size(max(1, TILE // height), max(1, TILE // width)))
    means: Floats | None = None
    for part in parts:
        tile = read(Box(part.y0 * height, part.x0 * width, part.y1 * height, part.x1 * width))
        if means is None:
            means = np.empty((len(tile), *blocks.size.shape), np.float32)
        means[(slice(None), *part.relative_to(blocks).slices)] = _means(tile, height, width)
    assert means is not None
    return means


def _means(tile: Floats, height: int, width: int) -> npt.NDArray[np.floating[Any]]:
    """(C, h * height, w * width) -> (C, h, w)."""
    if (height, width) == (1, 1):
        return tile
    rows = tile[:, ::height].astype(np.float64)
    for y in range(1, height):
        rows += tile[:, y::height]
    sums = rows[:, :, ::width].copy()
    for x in range(1, width):
        sums += rows[:, :, x::width]
    return sums / (height * width)


def view(read: Read, rect: Rect, size: Size) -> Floats:
    """The window ``rect`` of what ``read`` gives at another size; antialiased when it shrinks.

    ``read`` may be asked for a little more than the window. Where 6 or more of its pixels become
    one, blocks of them are averaged first, tile by tile: memory grows with ``size``, not ``rect``.
    """
    height, width = block_edge(rect.height / size.height), block_edge(rect.width / size.width)
    if height > 1 or width > 1:
        rect = Rect(rect.y0 / height, rect.x0 / width, rect.y1 / height, rect.x1 / width)
    scale = max(rect.height / size.height, rect.width / size.width)
    box = rect.outer(0 if scale == 1 else ceil(scale))
    small = height == width == 1
    pixels = read(box) if small else block_means(read, box, (height, width))
    return resample(pixels, rect.relative_to(box), size)


def stage_view(read: Read, stage: Stage, window: Box) -> Floats:
    """The input picture as a window of a stage sees it: ``read`` speaks image pixels.

    At full resolution these are the picture's own pixels; at a lower one the antialiased picture.
    """
    return view(read, stage.image_rect(window), window.size)


def between(window: Box, stage: Stage, other: Stage) -> Rect:
    """A window of one stage in the pixels of another stage of the same plan."""
    return map_box(
        window,
        source=stage.region,
        source_size=stage.size,
        target=other.region,
        target_size=other.size,
    )


def lowpass(read: Read, stage: Stage, coarse: Stage, window: Box) -> Floats:
    """The input picture in a window of ``stage``, no sharper than ``coarse`` (section A.4).

    Antialiased down to the pixel grid of ``coarse`` and bilinearly back up. The coarse grid is the
    same for every window, so overlapping windows agree.
    """
    rect = between(window, stage, coarse)
    box = rect.outer(LOWPASS_HALO)
    return resample(stage_view(read, coarse, box), rect.relative_to(box), window.size)


def colour_agreement(picture: Floats, mask: Bools, bins: int = 8) -> float:
    """How far the colours inside the mask are those outside it: 0 none to 1 the same.

    The intersection of the two colour histograms (Swain and Ballard 1991), each of ``bins`` per
    channel and summing to 1. It ranks candidates of an edit without words: the best continues its
    surroundings. 1 where the mask leaves nothing outside to compare with.
    """
    if mask.all():
        return 1.0
    cells = np.clip((picture * bins).astype(np.int64), 0, bins - 1)
    colours = cells[0] * bins * bins + cells[1] * bins + cells[2]
    inside, outside = (
        np.bincount(colours[part], minlength=bins**3) / part.sum() for part in (mask, ~mask)
    )
    return float(np.minimum(inside, outside).sum())


def composed(mask: Bools, inside: Floats, outside: Floats) -> Floats:
    """``m * inside + (1 - m) * outside`` for a binary mask: exactly one or the other."""
    return np.where(mask, inside, outside)


def compose_chunk(
    grid: Grid,
    slots: Iterable[tuple[int, Floats]],
    background: Callable[[], Floats],
    box: Box,
    *,
    kind: Compose = "sum",
) -> Floats:
    """One box of a stage from the segments that meet it.

    ``slots``: (grid index, (C, segment.height, segment.width)) in ascending index order, each of
    which meets the box. A segment that was not planned counts as the background in the weights:
    ``out = sum(w_i * slot_i) + (1 - sum(w_i)) * background()``, where ``background`` gives the
    input picture in the box and is asked only if needed. ``kind="over"`` paints the segments
    one over the other instead (Porter and Duff), which depends on their order.
    """
    out: Floats = np.zeros((3, box.height, box.width), np.float32)
    if kind == "over":
        out += background()
    total = np.zeros((box.height, box.width), np.float32)
    for index, pixels in slots:
        window = grid.window(index)
        common = window.intersection(box)
        assert common is not None
        ys, xs = common.relative_to(window).slices
        yt, xt = common.relative_to(box).slices
        weight = grid.weights(index)[ys, xs]
        if kind == "sum":
            out[:, yt, xt] += weight * pixels[:, ys, xs]
            total[yt, xt] += weight
        else:
            out[:, yt, xt] += weight * (pixels[:, ys, xs] - out[:, yt, xt])
    missing = np.clip(1 - total, 0, 1)
    if kind == "sum" and missing.max() > WEIGHT_ROUNDING:
        out += missing * background()
    return out

"""labelme's JSON: polygons, rectangles and circles, and masks as small pictures in it."""

from __future__ import annotations

import base64
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import acos, ceil, cos, hypot, pi, sin
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.bitmap import BLOCK, Bitmap
from msbd_dist.canvas.coco import require_size
from msbd_dist.canvas.geo import Polygon
from msbd_dist.canvas.masks import Mask, stored_mask
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.spec import MaskFile, Vertex
from msbd_dist.errors import MaskError

WITHOUT_AREA = ("point", "points", "line", "linestrip")
_SAGITTA = 1 / 64  # pixels between a circle and the polygon that stands for it


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels of a part of the picture."""

    box: Box
    pixels: NDArray[np.bool_]


def read_labelme(
    content: dict[str, Any], spec: MaskFile, size: Size, skipped: Counter[str]
) -> tuple[tuple[Polygon, ...], tuple[Patch, ...]]:
    """The shapes of the wanted labels; those without an area are counted.

    MaskError for another size, for labels that it has not, and for shapes that nobody knows.
    """
    require_size(content.get("imageHeight"), content.get("imageWidth"), spec.file, size)
    polygons: list[Polygon] = []
    patches: list[Patch] = []
    for shape in _of_category(content["shapes"], spec, lambda shape: str(shape.get("label"))):
        kind = shape.get("shape_type") or "polygon"
        if kind in WITHOUT_AREA:
            skipped[kind] += 1
        elif kind == "mask":
            patches += _patch(shape, size)
        else:
            polygons.append((_ring(kind, shape, spec.file),))
    return tuple(polygons), tuple(patches)


def _of_category(items: Any, spec: MaskFile, called: Any) -> Iterator[Any]:
    """Those that are called as is wanted. MaskError where none is."""
    names = dict.fromkeys(map(called, items))
    if spec.category and not set(spec.category) & names.keys():
        known = ", ".join(str(name) for name in list(names)[:8]) or "nothing"
        raise MaskError(f"{spec.file}: has no {' or '.join(spec.category)}; it has {known}")
    return (item for item in items if not spec.category or called(item) in spec.category)


def _ring(kind: str, shape: dict[str, Any], place: str) -> tuple[Vertex, ...]:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if kind == "polygon":
        return tuple(points)
    if kind == "rectangle":  # two corners, or all four
        (xs, ys) = zip(*points, strict=True)
        x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
        return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    if kind == "circle":  # its centre, and a point on it
        return _circle(*points)
    word = kind if isinstance(kind, str) and kind.isidentifier() else f"{kind!r:.40}"
    raise MaskError(
        f"{place}: holds a {word}, which is not read; use polygons, rectangles, circles and masks"
    )


def _circle(centre: Vertex, edge: Vertex) -> tuple[Vertex, ...]:
    radius = hypot(edge[0] - centre[0], edge[1] - centre[1])
    count = max(8, ceil(pi / acos(max(0.0, 1 - _SAGITTA / radius)))) if radius else 3
    angles = (2 * pi * n / count for n in range(count))
    return tuple((centre[0] + radius * cos(a), centre[1] + radius * sin(a)) for a in angles)


# ---------------------------------------------------------------- masks


def _patch(shape: dict[str, Any], size: Size) -> Iterator[Patch]:
    """A PNG of what lies between two corners, both of which belong to it."""
    (x0, y0), (x1, y1) = ((round(x), round(y)) for x, y in shape["points"])
    data = base64.b64decode(shape["mask"], validate=True)
    if data[:4] != b"\x89PNG" or len(data) < 33:
        raise ValueError("a mask that is no PNG")
    width, height = struct.unpack(">II", data[16:24])
    if max(abs(x1 - x0 + 1 - width), abs(y1 - y0 + 1 - height)) > 1:
        raise ValueError(f"a mask of {width}x{height} pixels in a box of another size")
    if width > size.width + 1 or height > size.height + 1:
        raise ValueError(f"a mask of {width}x{height} pixels, more than the picture's")
    try:
        samples = imagecodecs.png_decode(data).reshape(height, width, -1)
    except imagecodecs.PngError as error:
        raise ValueError(f"a mask that is damaged: {error}") from None
    colours = 1 if samples.shape[-1] < 3 else 3
    pixels: NDArray[np.bool_] = samples[..., :colours].max(axis=-1) > 0
    box = Box(y0, x0, y0 + height, x0 + width)
    common = box.intersection(Box.of(size))
    if common is not None:
        yield Patch(common, pixels[common.relative_to(box).slices])


def patches_mask(size: Size, patches: tuple[Patch, ...]) -> Mask | None:
    """What any of several patches holds; None where that is nothing."""
    bitmap = Bitmap(size, _bands(size, patches))
    return None if bitmap.bbox is None else stored_mask(bitmap)


def _bands(size: Size, patches: tuple[Patch, ...]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    for y in range(0, size.height, BLOCK):
        band = Box(y, 0, min(y + BLOCK, size.height), size.width)
        pixels = np.zeros(band.size.shape, np.bool_)
        for patch in patches:
            if common := patch.box.intersection(band):
                part = patch.pixels[common.relative_to(patch.box).slices]
                pixels[common.relative_to(band).slices] |= part
        yield y, pixels

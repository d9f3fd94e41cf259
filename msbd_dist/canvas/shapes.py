"""Masks without a file: boxes and polygons, drawn where they are looked at.

    Shapes(size, boxes=[(x, y, w, h)], polygons=[[ring, hole, ...]])    a Mask

Coordinates are pixels of the upright picture, x before y as GeoJSON has them; pixel (y, x) covers
x to x + 1 and y to y + 1. Nothing is drawn before a window is asked for: memory is that of the
vertices and of the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from msbd_dist.canvas.masks import drawn_share
from msbd_dist.core.geometry import Box, Size
from msbd_dist.errors import MaskError

Ring = Sequence[Sequence[float]]
"""Vertices (x, y), of which the first may be repeated at the end."""

_FARTHEST = 2.0**31  # a coordinate beyond it is a mistake
_HELD = 1 << 20  # crossings that are worked on together


class Shapes:
    """The union of boxes and polygons, as a mask of a picture of ``size``.

    A pixel is True when its centre is inside. A polygon is a ring and its holes, in any order and
    direction: a point is inside when a line from it to the left crosses an odd number of edges. A
    centre on an edge belongs to what lies to its right, or below it where the edge is horizontal
    (half-open, top-left), so that shapes with a common edge cover each pixel along it once.

    Crossings are computed from the vertices alone: a pixel is the same in every window.
    """

    def __init__(
        self,
        size: Size,
        *,
        boxes: Sequence[Sequence[float]] = (),
        polygons: Sequence[Sequence[Ring]] = (),
    ) -> None:
        """Raises MaskError for shapes that are none, and where no pixel is inside."""
        self.size = size
        rings = [([_corners(box)], f"box {n}") for n, box in enumerate(boxes, 1)]
        rings += [(list(polygon), f"polygon {n}") for n, polygon in enumerate(polygons, 1)]
        if not rings:
            raise MaskError("the mask has no shapes; give a box or a polygon")
        shapes = [_Polygon.of(each, name) for each, name in rings]
        if not any(shape.meets(size) for shape in shapes):
            raise MaskError(f"the mask's shapes all lie outside the picture of {size}")
        found = [(shape, extent) for shape in shapes if (extent := shape.extent(Box.of(size)))]
        if not found:
            raise MaskError("the mask's shapes hold no pixel's centre; make them larger")
        self._shapes = tuple(shape for shape, _ in found)
        self._extents = np.array([(b.y0, b.x0, b.y1, b.x1) for _, b in found])
        self.bbox = reduce(Box.union, (extent for _, extent in found))

    def window(self, box: Box) -> NDArray[np.bool_]:
        """The mask in a box inside the picture: (h, w), True = edit."""
        out = np.zeros(box.size.shape, np.bool_)
        for shape, part in self._met(box):
            out[part.relative_to(box).slices] |= shape.drawn(part)
        return out

    @property
    def share(self) -> float:
        """How much of the picture may change, 0 to 1."""
        return drawn_share(self)

    def any(self, box: Box) -> bool:
        """Is any pixel of a box inside the picture True?"""
        return any(shape.extent(part) is not None for shape, part in self._met(box))

    def _met(self, box: Box) -> Iterator[tuple[_Polygon, Box]]:
        """Shapes that the box may meet, each with the part of the box that it may fill."""
        if not Box.of(self.size).contains(box):
            raise ValueError(f"box {box} is not inside the picture of {self.size}")
        y0, x0, y1, x1 = self._extents.T
        near = (y0 < box.y1) & (y1 > box.y0) & (x0 < box.x1) & (x1 > box.x0)
        for number in np.flatnonzero(near).tolist():
            part = Box(*self._extents[number].tolist()).intersection(box)
            assert part is not None
            yield self._shapes[number], part


def _corners(box: Sequence[float]) -> Ring:
    """(x, y, w, h) -> the corners, all of them one where the box is not one."""
    if len(box) != 4:
        raise MaskError(f"a mask's box is [x, y, width, height], not {list(box)}")
    x, y, width, height = box
    if width <= 0 or height <= 0:
        raise MaskError(f"a mask's box has a positive width and height, not {width} x {height}")
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


@dataclass(frozen=True, eq=False)
class _Polygon:
    """Edges that go down, from (x0, y0) to (x1, y1); horizontal ones are never crossed."""

    edges: NDArray[np.float64]  # (n, 4): x0, y0, x1, y1

    @classmethod
    def of(cls, rings: Sequence[Ring], name: str) -> _Polygon:
        if not rings:
            raise MaskError(f"{name} of the mask has no vertices")
        edges = np.concatenate([_edges(ring, name) for ring in rings])
        down = np.where((edges[:, 1] > edges[:, 3])[:, None], edges[:, [2, 3, 0, 1]], edges)
        return cls(down)

    def meets(self, size: Size) -> bool:
        """Is any of the polygon's bounding box inside the picture?"""
        xs, ys = self.edges[:, ::2], self.edges[:, 1::2]
        inside_x = xs.max() > 0 and xs.min() < size.width
        return bool(inside_x and ys.max() > 0 and ys.min() < size.height)

    def drawn(self, box: Box) -> NDArray[np.bool_]:
        """(h, w): is the centre of each pixel of the box inside?"""
        turns = np.zeros((box.height, box.width + 1), np.bool_)  # where in becomes out, or out in
        for rows, columns in self._crossings(box):
            np.logical_xor.at(turns, (rows - box.y0, columns - box.x0), True)
        return np.logical_xor.accumulate(turns[:, :-1], axis=1)

    def extent(self, box: Box) -> Box | None:
        """The smallest box that holds every True pixel of the box; None where there is none."""
        found: list[Box] = []
        for rows, columns in self._crossings(box):
            order = np.lexsort((columns, rows))  # of each row, an even number: in, out, in, out
            rows, start, stop = rows[order][::2], columns[order][::2], columns[order][1::2]
            some = start < stop
            if some.any():
                rows, start, stop = rows[some], start[some], stop[some]
                y0, y1 = int(rows.min()), int(rows.max()) + 1
                found.append(Box(y0, int(start.min()), y1, int(stop.max())))
        return reduce(Box.union, found) if found else None

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[first, last) rows whose centres each edge crosses: from its upper end to its lower."""
        ends = np.ceil(self.edges[:, 1::2] - 0.5).astype(np.int64)
        return ends[:, 0], ends[:, 1]

    def _crossings(self, box: Box) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(rows, columns) at which pixels of the box begin to be beyond an edge; all of a row
        together, and as ``x0`` what is left of the box, as ``x1`` what is right of it."""
        low, high = self._rows
        near = np.flatnonzero((low < box.y1) & (high > box.y0) & (low < high))
        step = max(1, _HELD // max(1, len(near)))
        for y in range(box.y0, box.y1, step):
            first, last = np.maximum(low[near], y), np.minimum(high[near], min(y + step, box.y1))
            counts = np.maximum(last - first, 0)
            edge = np.repeat(near, counts)
            before = np.repeat(np.cumsum(counts) - counts, counts)
            rows = np.arange(len(edge)) - before + np.repeat(first, counts)
            x0, y0, x1, y1 = self.edges[edge].T
            crossed = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            columns = np.clip(np.ceil(crossed - 0.5), box.x0, box.x1)
            yield rows, columns.astype(np.int64)


def _edges(ring: Ring, name: str) -> NDArray[np.float64]:
    """(n, 4): from each vertex of a ring to the next."""
    try:
        vertices = np.array(ring, np.float64).reshape(len(ring), 2)
    except (TypeError, ValueError):
        raise MaskError(f"{name} of the mask is not a list of vertices [x, y]") from None
    wrong = np.flatnonzero(~(np.abs(vertices) < _FARTHEST).all(axis=1))
    if len(wrong):
        x, y = vertices[wrong[0]]
        raise MaskError(f"{name} of the mask has a vertex that is nowhere: [{x:g}, {y:g}]")
    following = np.roll(vertices, -1, axis=0)
    edges: NDArray[np.float64] = np.hstack((vertices, following))
    edges = edges[(vertices != following).any(axis=1)]
    if len(edges) < 3:
        raise MaskError(f"{name} of the mask has fewer than 3 vertices")
    return edges

"""Boxes and sizes: integers, half-open, y before x. No torch, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor


@dataclass(frozen=True, order=True)
class Size:
    """Height and width in pixels (or latent cells, where the name ends in ``_lat``)."""

    height: int
    width: int

    @property
    def long_edge(self) -> int:
        return max(self.height, self.width)

    @property
    def shape(self) -> tuple[int, int]:
        """For making arrays."""
        return self.height, self.width

    @property
    def area(self) -> int:
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"  # as people say it


@dataclass(frozen=True, order=True)
class Box:
    """Pixels ``y0 <= y < y1``, ``x0 <= x < x1``. May reach beyond the image it speaks of."""

    y0: int
    x0: int
    y1: int
    x1: int

    @classmethod
    def of(cls, size: Size) -> Box:
        """The box of a whole picture."""
        return cls(0, 0, size.height, size.width)

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def size(self) -> Size:
        return Size(self.height, self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """For indexing the last two axes of an array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def shifted(self, dy: int, dx: int) -> Box:
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def relative_to(self, other: Box) -> Box:
        """The same pixels, counted from the other box's corner."""
        return self.shifted(-other.y0, -other.x0)

    def grown(self, pixels: int) -> Box:
        return Box(self.y0 - pixels, self.x0 - pixels, self.y1 + pixels, self.x1 + pixels)

    def contains(self, other: Box) -> bool:
        return (
            self.y0 <= other.y0
            and self.x0 <= other.x0
            and self.y1 >= other.y1
            and self.x1 >= other.x1
        )

    def intersection(self, other: Box) -> Box | None:
        """The common pixels, or None where there are none."""
        box = Box(
            max(self.y0, other.y0),
            max(self.x0, other.x0),
            min(self.y1, other.y1),
            min(self.x1, other.x1),
        )
        return box if box.height > 0 and box.width > 0 else None

    def tiles(self, size: Size) -> Iterator[Box]:
        """Parts of ``size`` from the box's corner on, row by row; the last ones may be smaller."""
        for y in range(self.y0, self.y1, size.height):
            for x in range(self.x0, self.x1, size.width):
                yield Box(y, x, min(y + size.height, self.y1), min(x + size.width, self.x1))

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box(
            min(self.y0, other.y0),
            min(self.x0, other.x0),
            max(self.y1, other.y1),
            max(self.x1, other.x1),
        )

    def __str__(self) -> str:
        return f"[{self.y0}:{self.y1}, {self.x0}:{self.x1}]"


@dataclass(frozen=True)
class Rect:
    """A box with real-valued edges: a window of one picture seen in another one's pixels."""

    y0: float
    x0: float
    y1: float
    x1: float

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    def outer(self, halo: int = 0) -> Box:
        """The smallest integer box around it, with ``halo`` pixels more on each side."""
        slack = 1e-6  # an edge that is an integer but for rounding stays where it is
        return Box(
            floor(self.y0 + slack),
            floor(self.x0 + slack),
            ceil(self.y1 - slack),
            ceil(self.x1 - slack),
        ).grown(halo)

    def relative_to(self, box: Box) -> Rect:
        return Rect(self.y0 - box.y0, self.x0 - box.x0, self.y1 - box.y0, self.x1 - box.x0)


def map_box(window: Box, *, source: Box, source_size: Size, target: Box, target_size: Size) -> Rect:
    """A window of one raster in the pixels of another.

    Each raster shows a box of the image (``source``, ``target``) with its own number of pixels
    (``source_size``, ``target_size``); y and x scale independently.
    """

    def axis(value: int, s0: int, s: int, ns: int, t0: int, t: int, nt: int) -> float:
        return (s0 + value * s / ns - t0) * nt / t

    def y(value: int) -> float:
        return axis(
            value,
            source.y0,
            source.height,
            source_size.height,
            target.y0,
            target.height,
            target_size.height,
        )

    def x(value: int) -> float:
        return axis(
            value,
            source.x0,
            source.width,
            source_size.width,
            target.x0,
            target.width,
            target_size.width,
        )

    return Rect(y(window.y0), x(window.x0), y(window.y1), x(window.x1))


def round_up(value: float, multiple: int) -> int:
    """The smallest multiple that is not below ``value``."""
    return ceil(value / multiple - 1e-9) * multiple


def placed(center2: tuple[int, int], size: Size, image: Size) -> Box:
    """A box of ``size`` about a centre (given doubled), moved inside the image.

    An axis on which the image is smaller than the box is centred on the image instead, and reaches
    beyond it equally on both sides (to within one pixel).
    """

    def axis(center: int, length: int, limit: int) -> int:
        if length > limit:
            return -((length - limit) // 2)
        return min(max((center - length) // 2, 0), limit - length)

    y0 = axis(center2[0], size.height, image.height)
    x0 = axis(center2[1], size.width, image.width)
    return Box(y0, x0, y0 + size.height, x0 + size.width)

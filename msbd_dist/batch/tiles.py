"""The edited part of a picture, before and after, cut into tiles that a browser can show.

    tiles/<level>/<row>-<column>-before.webp, -after.webp     of `TILE` pixels
    tiles/index.json                                           which there are; outline, seams

Level 0 has the picture's own pixels, without loss (16 bits as 8); each further level is half as
large, with a little loss, until one tile holds all. Where the mask is not, there is no "after".
Of each level at most `LEVEL` pixels are kept, about 1 byte each at level 0 and 0.2 above: where
the mask's edge is first, then inside it, then around it, each from the middle outwards. Every pixel
is read once, and memory does not grow with the part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from math import hypot
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from msbd_dist.canvas.files import Files
from msbd_dist.canvas.images import from_float, to_float
from msbd_dist.canvas.masks import scale_mask
from msbd_dist.canvas.reader import Samples
from msbd_dist.core.compose import Bools
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.measure import Steps, seams
from msbd_dist.core.outline import outline
from msbd_dist.core.plan import Plan
from msbd_dist.core.tiling import Grid

TILE = 512  # pixels along each edge
LEVEL = 64_000_000  # pixels of a level that are kept, before and after together
OUTLINE = 1024  # longest edge of the mask whose outline is drawn
PIECES = 2000  # borders of segments that are shown: the worst
PROFILE = 16384  # bytes of a colour profile that every tile can carry
EXACT = {"lossless": True, "quality": 20, "method": 0}
SMALLER = {"quality": 88, "method": 1}

Pixels = npt.NDArray[np.uint8]
Place = tuple[int, int, int]  # level, row, column


@dataclass(frozen=True)
class View:
    """What is shown: boxes are in pixels of the upright picture."""

    box: Box
    edited: Box  # inside ``box``; what ``after`` and ``mask`` may be asked for
    before: Callable[[Box], Samples]  # (3, h, w) of a box inside ``box``
    after: Callable[[Box], Samples]
    mask: Callable[[Box], Bools]  # (h, w)
    icc: bytes | None = None

    @cached_property
    def levels(self) -> int:
        """How many, down to a single tile."""
        return max(0, (self.box.size.long_edge - 1) // TILE).bit_length() + 1

    def tile(self, place: Place) -> Box:
        """The pixels that a tile shows."""
        level, row, column = place
        edge = TILE << level
        y, x = self.box.y0 + row * edge, self.box.x0 + column * edge
        return Box(y, x, min(y + edge, self.box.y1), min(x + edge, self.box.x1))

    def places(self, level: int) -> Iterator[Place]:
        edge = TILE << level
        for row in range(-(-self.box.height // edge)):
            for column in range(-(-self.box.width // edge)):
                yield level, row, column


def around(bbox: Box, bounds: Box) -> Box:
    """The mask's box with some surroundings: what is shown of an edit."""
    box = bbox.grown(max(bbox.height, bbox.width) // 3 + 8).intersection(bounds)
    assert box is not None
    return box


def most_bytes(plan: Plan) -> int:
    """What the tiles of an edit take at most, about: noise does not get smaller without loss."""
    area = around(plan.bbox, plan.source_box).size.area
    return 3 * min(2 * area, LEVEL) + sum(min(2 * area >> 2 * level, LEVEL) for level in (1, 2, 3))


@dataclass
class _Cut:
    """Tiles as they are cut, each from the four below it."""

    files: Files
    view: View
    kept: set[Place]
    masked: dict[Place, int]  # how much of a tile: 0 nothing, 1 something, 2 all
    written: list[tuple[int, int, int, int]] = field(default_factory=list)

    def make(self, place: Place) -> tuple[Pixels, Pixels | None]:
        """A tile before and after: (3, h, w); no after where no pixel of it is masked."""
        level, row, column = place
        if level == 0:
            before, after = self._read(place)
        else:
            before, after = self._joined(level - 1, 2 * row, 2 * column)
        if place in self.kept:
            name = f"tiles/{level}/{row}-{column}"
            self.files.write(f"{name}-before.webp", self._encoded(before, level))
            if after is not None:
                self.files.write(f"{name}-after.webp", self._encoded(after, level))
            self.written.append((level, row, column, int(after is not None)))
        return before, after

    def _read(self, place: Place) -> tuple[Pixels, Pixels | None]:
        box = self.view.tile(place)
        before = eight_bit(self.view.before(box))
        common = box.intersection(self.view.edited)
        if common is None or not self.masked[place]:
            return before, None
        after = before.copy()
        after[(slice(None), *common.relative_to(box).slices)] = eight_bit(self.view.after(common))
        return before, after

    def _joined(self, level: int, row: int, column: int) -> tuple[Pixels, Pixels | None]:
        """The means of two by two pixels of four tiles."""
        rows: list[list[tuple[Pixels, Pixels | None]]] = []
        for y in (row, row + 1):
            some = []
            for x in (column, column + 1):
                if (level, y, x) in self.masked:
                    before, after = self.make((level, y, x))
                    some.append((halved(before), None if after is None else halved(after)))
            if some:
                rows.append(some)
        before = np.concatenate([np.concatenate([b for b, _ in r], axis=2) for r in rows], axis=1)
        if all(after is None for r in rows for _, after in r):
            return before, None
        later = [np.concatenate([b if a is None else a for b, a in r], axis=2) for r in rows]
        return before, np.concatenate(later, axis=1)

    def _encoded(self, pixels: Pixels, level: int) -> bytes:
        return webp(pixels, icc=self.view.icc, **(EXACT if level == 0 else SMALLER))


def cut(files: Files, view: View) -> tuple[dict[str, Any], Pixels]:
    """Cut a view into tiles under ``files``, in place of those that were there.

    Returns which there are, as the page reads it, and the whole view after the edit at the size of
    the last level: (3, h, w).
    """
    files.remove("tiles")
    masked = _masked(view)
    cutting = _Cut(files, view, _kept(view, masked), masked)
    before, after = cutting.make((view.levels - 1, 0, 0))
    exact = sum(1 for level, *_ in cutting.written if level == 0)
    box = view.box
    index = {
        "box": [box.y0, box.x0, box.y1, box.x1],
        "tile": TILE,
        "levels": view.levels,
        "tiles": sorted(cutting.written),
        "complete": exact == sum(1 for _ in view.places(0)),
    }
    return index, before if after is None else after


def _masked(view: View) -> dict[Place, int]:
    """How much of every tile of every level the mask holds: 0 nothing, 1 something, 2 all."""
    found: dict[Place, int] = {}
    for place in view.places(0):
        box = view.tile(place)
        common = box.intersection(view.edited)
        mask = np.zeros((1, 1), bool) if common is None else view.mask(common)
        found[place] = 0 if not mask.any() else 2 if common == box and mask.all() else 1
    for level in range(1, view.levels):
        for _, row, column in view.places(level):
            four = [
                found[level - 1, y, x]
                for y in (2 * row, 2 * row + 1)
                for x in (2 * column, 2 * column + 1)
                if (level - 1, y, x) in found
            ]
            found[level, row, column] = four[0] if len(set(four)) == 1 else 1
    return found


def _kept(view: View, masked: dict[Place, int]) -> set[Place]:
    """The tiles of each level that `LEVEL` has room for."""
    middle = (view.edited.y0 + view.edited.y1) / 2, (view.edited.x0 + view.edited.x1) / 2

    def rank(place: Place) -> tuple[int, float, Place]:
        box = view.tile(place)
        away = hypot((box.y0 + box.y1) / 2 - middle[0], (box.x0 + box.x1) / 2 - middle[1])
        return (2, 0, 1)[masked[place]], away, place  # first the edge, then inside, then around

    kept: set[Place] = set()
    for level in range(view.levels):
        room = LEVEL
        for place in sorted(view.places(level), key=rank):
            area = view.tile(place).size.area >> 2 * level
            room -= area * (2 if masked[place] else 1)
            if room < 0:
                break
            kept.add(place)
    return kept


def eight_bit(samples: Samples) -> Pixels:
    """uint8 or uint16 of any shape -> uint8, rounded."""
    if samples.dtype == np.uint8:
        return np.asarray(samples, np.uint8)
    return np.asarray(from_float(to_float(samples), np.uint8), np.uint8)


def halved(pixels: Pixels) -> Pixels:
    """Means of two by two pixels, rounded: (3, h, w) -> (3, ceil(h / 2), ceil(w / 2))."""
    _, height, width = pixels.shape
    even = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)), "edge").astype(np.uint16)
    sums = even[:, ::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, ::2] + even[:, 1::2, 1::2]
    return ((sums + 2) >> 2).astype(np.uint8)


def webp(pixels: Pixels, *, icc: bytes | None = None, **how: Any) -> bytes:
    """(3, h, w) as a WebP file. ``icc`` is left out where it is large or not of RGB."""
    buffer = BytesIO()
    if icc and len(icc) <= PROFILE and icc[16:20] == b"RGB ":
        how["icc_profile"] = icc
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "WEBP", **how)
    return buffer.getvalue()


def thumbnail(pixels: Pixels, edge: int) -> bytes:
    """A picture (3, h, w) as a small WebP whose longest edge is ``edge``."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((edge, edge))
    return webp(np.asarray(image).transpose(2, 0, 1), quality=80)


def outlined(view: View) -> dict[str, Any]:
    """The mask's outline: an SVG path, and where its units lie in the picture."""
    box = view.edited
    scale = min(1.0, OUTLINE / box.size.long_edge)
    size = Size(max(1, round(box.height * scale)), max(1, round(box.width * scale)))

    def read(part: Box) -> Bools:
        return view.mask(part.shifted(box.y0, box.x0))

    small = scale_mask(read, Rect(0, 0, box.height, box.width), size)
    unit, loops = outline(small)
    path = "".join("M" + "L".join(f"{x} {y}" for y, x in loop) + "Z" for loop in loops)
    half = unit / 2
    return {
        "path": path,
        "y": box.y0,
        "x": box.x0,
        "unit": [box.height / size.height * half, box.width / size.width * half],
    }


def seams_of(view: View, grid: Grid, region: Box, *, cell: int) -> dict[str, Any]:
    """How far the borders of the final stage's segments show: of each piece, and of all.

    ``region`` is where the stage lies in the picture, pixel on pixel, and ``cell`` the edge of its
    latent cells. Of more than `PIECES` pieces the worst are listed.
    """
    bounds = view.edited.relative_to(region)

    def read(part: Box) -> npt.NDArray[np.float32]:
        return to_float(view.after(part.shifted(region.y0, region.x0)))

    def mask(part: Box) -> Bools:
        return view.mask(part.shifted(region.y0, region.x0))

    whole, pieces = Steps(), []
    for piece, steps in seams(grid, read, mask, bounds, cell=cell):
        whole += steps
        at = piece.shifted(region.y0, region.x0)
        ratio = steps.ratio
        assert ratio is not None
        pieces.append([at.y0, at.x0, at.y1, at.x1, round(ratio, 3)])
    pieces.sort(key=lambda piece: -piece[-1])
    overall = whole.ratio
    return {
        "overall": None if overall is None else round(overall, 3),
        "pieces": pieces[:PIECES],
        "measured": len(pieces),
    }

"""How far the borders of a stage's segments show in a finished picture. numpy only.

Where segments overlap they are blended, so what can show is where one begins or ends:

    |<----- segment ----->|                 lines at every x where a window begins or ends inside
                |<----- segment ----->|     the stage, cut into pieces of one stride each;
                ^         ^                 horizontal ones likewise

Every such line is a boundary of latent cells, across which a decoder may make larger steps
anywhere. So a border is compared with the boundaries of cells beside it, and with nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from msbd_dist.core.compose import Bools, Floats, Read
from msbd_dist.core.geometry import Box
from msbd_dist.core.tiling import Grid

BESIDE = 4  # boundaries of cells on each side of a border that it is compared with
FEW = 32  # pairs of pixels across a border below which nothing is said of it
EPSILON = 1 / 1020  # a quarter of an 8-bit step: where nothing varies, the ratio is 1


@dataclass(frozen=True)
class Steps:
    """Absolute differences of neighbouring pixels: across a border, and beside it."""

    across: float = 0.0  # sums, in [0, 1] per pair
    num_across: int = 0
    beside: float = 0.0
    num_beside: int = 0

    def __add__(self, other: Steps) -> Steps:
        return Steps(
            self.across + other.across,
            self.num_across + other.num_across,
            self.beside + other.beside,
            self.num_beside + other.num_beside,
        )

    @property
    def ratio(self) -> float | None:
        """(mean across + e) / (mean beside + e), e = `EPSILON`: about 1 where no seam shows, well
        above 1 where one does. None where too little of the mask is there to say."""
        if self.num_across < FEW or self.num_beside < FEW:
            return None
        across, beside = self.across / self.num_across, self.beside / self.num_beside
        return (across + EPSILON) / (beside + EPSILON)


def steps_across(
    picture: Floats, mask: Bools, at: int, skip: tuple[int, ...] = (), *, cell: int
) -> Steps:
    """Steps of a window about a vertical border, between its columns ``at - 1`` and ``at``.

    ``picture`` is (C, h, w) in [0, 1], ``mask`` (h, w). A pair of neighbours in a row counts where
    both are masked; its difference is the mean over the channels. "Beside" are the lines that are
    whole cells away, of ``cell`` pixels each, without those of ``skip``: other borders.
    """
    steps = np.abs(np.diff(picture.astype(np.float64), axis=-1)).mean(axis=0)  # (h, w - 1)
    pairs = mask[:, 1:] & mask[:, :-1]
    sums, counts = (steps * pairs).sum(axis=0), pairs.sum(axis=0)
    beside = (np.arange(1, len(sums) + 1) - at) % cell == 0
    for border in (at, *skip):
        if 1 <= border <= len(sums):
            beside[border - 1] = False
    return Steps(
        float(sums[at - 1]),
        int(counts[at - 1]),
        float(sums[beside].sum()),
        int(counts[beside].sum()),
    )


def lines(length: int, *, segment: int, stride: int, count: int) -> tuple[int, ...]:
    """Where segments begin or end along an axis, inside ``length`` pixels, ascending."""
    begins = {i * stride for i in range(1, count)}
    ends = {i * stride + segment for i in range(count - 1)}
    return tuple(sorted(at for at in begins | ends if 0 < at < length))


def borders(grid: Grid) -> Iterator[Box]:
    """The pieces of all borders, in stage pixels: boxes without width, or without height."""
    size, step = grid.content, grid.stride
    xs, ys = border_lines(grid)
    for x in xs:
        for y in range(0, size.height, step.height):
            yield Box(y, x, min(y + step.height, size.height), x)
    for y in ys:
        for x in range(0, size.width, step.width):
            yield Box(y, x, y, min(x + step.width, size.width))


def border_lines(grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The x of all vertical borders and the y of all horizontal ones."""
    size, segment, step = grid.content, grid.segment, grid.stride
    return (
        lines(size.width, segment=segment.width, stride=step.width, count=grid.columns),
        lines(size.height, segment=segment.height, stride=step.height, count=grid.rows),
    )


def seams(
    grid: Grid, read: Read, mask: Callable[[Box], Bools], bounds: Box, *, cell: int
) -> Iterator[tuple[Box, Steps]]:
    """Every border's piece with its steps, of those of which something can be said.

    ``read`` gives (C, h, w) in [0, 1] of a box inside ``bounds``, ``mask`` its (h, w); all are in
    stage pixels; ``cell`` is the edge of a latent cell in them. Windows of a stride times
    2 * `BESIDE` cells and a pixel more are read, one at a time.
    """
    reach = BESIDE * cell + 1
    xs, ys = border_lines(grid)
    for piece in borders(grid):
        upright = piece.width == 0
        window = Box(
            piece.y0 - (0 if upright else reach),
            piece.x0 - (reach if upright else 0),
            piece.y1 + (0 if upright else reach),
            piece.x1 + (reach if upright else 0),
        ).intersection(bounds)
        if window is None:
            continue
        masked = mask(window)
        start, at = (window.x0, piece.x0) if upright else (window.y0, piece.y0)
        length = window.width if upright else window.height
        if not 0 < at - start < length or not masked.any():
            continue
        pixels = read(window)
        if not upright:
            pixels, masked = pixels.swapaxes(-1, -2), masked.T
        others = tuple(line - start for line in (xs if upright else ys) if line != at)
        steps = steps_across(pixels, masked, at - start, others, cell=cell)
        if steps.ratio is not None:
            yield piece, steps

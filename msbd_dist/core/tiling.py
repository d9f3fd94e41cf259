"""The segment grid of a stage: windows of one size on a regular grid, and their weights.

    |<----- segment ----->|
    |           |<-overlap>|
    |<- stride ->|<----- segment ----->|

The stage is padded on its lower right to ``n * stride + overlap`` pixels, so that no segment is
shifted and all are equal. Ramps cover the whole overlap; at every pixel the weights of all segments
sum to 1. No torch, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from msbd_dist.core.geometry import Box, Size

Floats = npt.NDArray[np.float32]


def num_segments(length: int, *, stride: int, overlap: int) -> int:
    """Segments that cover ``length`` pixels: ``max(1, ceil((length - overlap) / stride))``."""
    return max(1, -(-(length - overlap) // stride))


class Chunk(NamedTuple):
    """A piece of a stored stage."""

    row: int
    column: int
    box: Box


@dataclass(frozen=True)
class Grid:
    """A stage of ``content`` pixels cut into windows of ``segment`` pixels.

    A stage that is not cut is a grid of one window without overlap. Segment ``i`` is row
    ``i // columns``, column ``i % columns``.
    """

    content: Size
    segment: Size
    overlap: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= min(self.segment.height, self.segment.width) // 2:
            raise ValueError(
                f"overlap {self.overlap} must be between 0 and half of segment {self.segment}"
            )

    @classmethod
    def whole(cls, size: Size) -> Grid:
        return cls(size, size)

    @property
    def stride(self) -> Size:
        return Size(self.segment.height - self.overlap, self.segment.width - self.overlap)

    @property
    def rows(self) -> int:
        return num_segments(self.content.height, stride=self.stride.height, overlap=self.overlap)

    @property
    def columns(self) -> int:
        return num_segments(self.content.width, stride=self.stride.width, overlap=self.overlap)

    def __len__(self) -> int:
        return self.rows * self.columns

    @property
    def canvas(self) -> Size:
        """The padded size, ``n * stride + overlap`` per axis."""
        return Size(
            self.rows * self.stride.height + self.overlap,
            self.columns * self.stride.width + self.overlap,
        )

    def window(self, index: int) -> Box:
        """The pixels that segment ``index`` sees and writes, in stage pixels."""
        row, column = divmod(index, self.columns)
        y0, x0 = row * self.stride.height, column * self.stride.width
        return Box(y0, x0, y0 + self.segment.height, x0 + self.segment.width)

    def meeting(self, box: Box) -> Iterator[int]:
        """Indices of the segments whose window meets ``box``, ascending."""

        def axis(low: int, high: int, stride: int, segment: int, count: int) -> range:
            first = max(0, -(-(low - segment + 1) // stride))
            return range(first, min(count, -(-high // stride)))

        rows = axis(box.y0, box.y1, self.stride.height, self.segment.height, self.rows)
        columns = axis(box.x0, box.x1, self.stride.width, self.segment.width, self.columns)
        return (row * self.columns + column for row in rows for column in columns)

    @property
    def num_chunks(self) -> int:
        """How many stored chunks the content has, each of one stride."""
        return -(-self.content.height // self.stride.height) * self._chunk_columns

    def chunk(self, number: int) -> Chunk:
        """A stored chunk, row by row, clipped to the content."""
        row, column = divmod(number, self._chunk_columns)
        y0, x0 = row * self.stride.height, column * self.stride.width
        y1 = min(y0 + self.stride.height, self.content.height)
        x1 = min(x0 + self.stride.width, self.content.width)
        return Chunk(row, column, Box(y0, x0, y1, x1))

    def chunks(self) -> Iterator[Chunk]:
        """All stored chunks in order."""
        return map(self.chunk, range(self.num_chunks))

    @property
    def _chunk_columns(self) -> int:
        return -(-self.content.width // self.stride.width)

    def weights(self, index: int) -> Floats:
        """The weight of each pixel of a segment's window: (height, width), float32 in (0, 1]."""
        row, column = divmod(index, self.columns)
        vertical = ramp(self.segment.height, self.overlap, row > 0, row < self.rows - 1)
        horizontal = ramp(self.segment.width, self.overlap, column > 0, column < self.columns - 1)
        return vertical[:, None] * horizontal[None, :]


@lru_cache(maxsize=64)
def ramp(length: int, overlap: int, rises: bool, falls: bool) -> Floats:
    """Weights along one axis: (length,) float32. Two neighbours' ramps sum to 1.

    They rise as a sine's square does: what a segment has at its very edge, where its convolutions
    saw zeros beyond, weighs next to nothing.
    """
    weights = np.ones(length, np.float32)
    places = (np.arange(overlap, dtype=np.float64) + 0.5) / max(overlap, 1)
    rise = (np.sin(places * np.pi / 2) ** 2).astype(np.float32)
    if rises:
        weights[:overlap] = rise
    if falls:
        weights[length - overlap :] = np.float32(1) - rise
    weights.setflags(write=False)
    return weights


def planned(grid: Grid, any_mask: Callable[[Box], bool]) -> tuple[int, ...]:
    """Segments whose window meets the mask; ``any_mask`` answers for a box of stage pixels."""
    return tuple(i for i in range(len(grid)) if any_mask(grid.window(i)))


def batches(slots: int, size: int) -> tuple[tuple[int, ...], ...]:
    """``0 .. slots-1`` in ``ceil(slots / size)`` runs whose lengths differ by at most one."""
    count = -(-slots // size)
    edges = [slots * i // count for i in range(count + 1)]
    return tuple(tuple(range(a, b)) for a, b in pairwise(edges))

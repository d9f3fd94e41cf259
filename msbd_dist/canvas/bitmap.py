"""A bitmap of any size in blocks, most of which are all False or all True.

    Bitmap(size, strips)    from strips of rows, (y, (h, W) bool), top to bottom
    bitmap.window(box)      (h, w) bool
    bitmap.any(box)         is a pixel of the box True?

Only blocks that an edge runs through are kept, a bit per pixel: memory grows with the length of
what was outlined, and ends at an eighth of a byte per pixel for noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from msbd_dist.core.geometry import Box, Size

BLOCK = 256  # pixels along each edge of a block; a multiple of 8
_EMPTY, _FULL = -2, -1  # in the index; from 0 on it says where a block is kept


class Bitmap:
    """Pixels that are True or False, ``count`` of them True; ``bbox`` holds every True one, and is
    None without any."""

    def __init__(self, size: Size, strips: Iterable[tuple[int, NDArray[np.bool_]]]) -> None:
        """``strips`` go from top to bottom without a gap and may be of any height."""
        self.size = size
        self.count = 0  # of True pixels
        across = -(-size.width // BLOCK)
        self._index = np.full((-(-size.height // BLOCK), across), _EMPTY, np.int64)
        self._kept = bytearray()  # one for all: small arrays between strips would hold the heap
        bits_of_columns = np.zeros(across * BLOCK // 8, np.uint8)
        first, last = size.height, 0
        for row, band in enumerate(_bands(size, strips)):
            self._keep(row, band)
            bits_of_columns |= np.bitwise_or.reduce(band, axis=0)
            ys = np.flatnonzero(band.any(axis=1)) + row * BLOCK
            if len(ys):
                first, last = min(first, int(ys[0])), int(ys[-1]) + 1
        xs = np.flatnonzero(np.unpackbits(bits_of_columns))
        self.bbox = Box(first, int(xs[0]), last, int(xs[-1]) + 1) if len(xs) else None
        self._counts = np.zeros(np.add(self._index.shape, 1), np.int64)  # of blocks not empty
        self._counts[1:, 1:] = (self._index != _EMPTY).cumsum(axis=0).cumsum(axis=1)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that are kept."""
        return len(self._kept)

    def window(self, box: Box) -> NDArray[np.bool_]:
        """The pixels of a box inside the bitmap: (h, w)."""
        self._require_inside(box)
        out = np.zeros(box.size.shape, np.bool_)
        for part, pixels in self._pieces(box):
            out[part.relative_to(box).slices] = pixels
        return out

    def any(self, box: Box) -> bool:
        """Is any pixel of a box inside the bitmap True? Quick for boxes of any size."""
        self._require_inside(box)
        common = None if self.bbox is None else self.bbox.intersection(box)
        if common is None or common == self.bbox:
            return common is not None
        if self._whole_blocks(box):
            return True
        return any(bool(pixels.any()) for _, pixels in self._pieces(common))

    def _whole_blocks(self, box: Box) -> int:
        """How many blocks that are not empty lie in the box from edge to edge."""
        down, across = self._index.shape
        y0, x0 = -(-box.y0 // BLOCK), -(-box.x0 // BLOCK)
        y1 = down if box.y1 == self.size.height else box.y1 // BLOCK
        x1 = across if box.x1 == self.size.width else box.x1 // BLOCK
        if y0 >= y1 or x0 >= x1:
            return 0
        counts = self._counts
        return int(counts[y1, x1] - counts[y0, x1] - counts[y1, x0] + counts[y0, x0])

    def _pieces(self, box: Box) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
        """The parts of the box in blocks that are not empty, with their pixels."""
        top, left = box.y0 // BLOCK, box.x0 // BLOCK
        states = self._index[top : -(-box.y1 // BLOCK), left : -(-box.x1 // BLOCK)]
        for row, column in np.argwhere(states != _EMPTY).tolist():
            y, x = (top + row) * BLOCK, (left + column) * BLOCK
            block = Box(y, x, y + BLOCK, x + BLOCK)
            part = block.intersection(box)
            assert part is not None
            where = int(states[row, column])
            yield part, self._pixels(where, self._shape(y, x), part.relative_to(block))

    def _shape(self, y: int, x: int) -> tuple[int, int]:
        """Rows and bytes per row that are kept of the block at a pixel."""
        height, width = min(BLOCK, self.size.height - y), min(BLOCK, self.size.width - x)
        return height, -(-width // 8)

    def _pixels(self, where: int, shape: tuple[int, int], part: Box) -> NDArray[np.bool_]:
        """A part of one block."""
        if where == _FULL:
            return np.ones(part.size.shape, np.bool_)
        kept = np.frombuffer(self._kept, np.uint8, shape[0] * shape[1], where).reshape(shape)
        start = part.x0 // 8
        packed = kept[part.y0 : part.y1, start : -(-part.x1 // 8)]
        bits = np.unpackbits(packed, axis=1)[:, part.x0 - 8 * start : part.x1 - 8 * start]
        return bits.view(np.bool_)

    def _keep(self, row: int, band: NDArray[np.uint8]) -> None:
        """Take a row of blocks in: (BLOCK, across * BLOCK / 8) packed bits."""
        across = self._index.shape[1]
        blocks = band.reshape(BLOCK, across, BLOCK // 8).swapaxes(0, 1)
        counts = np.bitwise_count(blocks).sum(axis=(1, 2), dtype=np.int64)
        self.count += int(counts.sum())
        height = min(BLOCK, self.size.height - row * BLOCK)
        widths = np.minimum(BLOCK, self.size.width - np.arange(across) * BLOCK)
        self._index[row] = np.where(counts == 0, _EMPTY, _FULL)
        for column in np.flatnonzero((counts > 0) & (counts < height * widths)).tolist():
            self._index[row, column] = len(self._kept)
            rows, bytes_of_row = self._shape(row * BLOCK, column * BLOCK)
            self._kept += blocks[column, :rows, :bytes_of_row].tobytes()

    def _require_inside(self, box: Box) -> None:
        if box.height < 1 or box.width < 1 or not Box.of(self.size).contains(box):
            raise ValueError(f"box {box} is not inside the bitmap of {self.size}")


def _bands(
    size: Size, strips: Iterable[tuple[int, NDArray[np.bool_]]]
) -> Iterator[NDArray[np.uint8]]:
    """Strips of any height -> (BLOCK, width / 8) packed bits of one row of blocks after another.

    The same array each time.
    """
    band = np.zeros((BLOCK, -(-size.width // BLOCK) * BLOCK // 8), np.uint8)
    for y, strip in strips:
        packed = np.packbits(strip, axis=1)
        while len(packed):
            offset = y % BLOCK
            now, packed = packed[: BLOCK - offset], packed[BLOCK - offset :]
            band[offset : offset + len(now), : now.shape[1]] = now
            y += len(now)
            if y % BLOCK == 0 or y == size.height:
                yield band
                band[:] = 0

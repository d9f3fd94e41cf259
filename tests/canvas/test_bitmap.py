"""A bitmap in blocks: what was drawn, in memory that grows with its edge."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from msbd_dist.canvas.bitmap import BLOCK, Bitmap
from msbd_dist.core.geometry import Box, Size

Bools = NDArray[np.bool_]
Strips = Iterator[tuple[int, Bools]]


def strips_of(mask: Bools, rows: int) -> Strips:
    for y in range(0, len(mask), rows):
        yield y, mask[y : y + rows]


def blobs(size: Size, seed: int) -> Bools:
    """Boxes, thin and thick, some of them cut out again."""
    rng, mask = np.random.default_rng(seed), np.zeros(size.shape, bool)
    for _ in range(rng.integers(0, 6)):
        ys, xs = (np.sort(rng.integers(0, edge + 1, 2)) for edge in size.shape)
        mask[ys[0] : ys[1], xs[0] : xs[1]] = rng.random() < 0.7
    return mask


@given(
    st.integers(1, 900), st.integers(1, 900), st.integers(1, 600), st.integers(0, 2**32 - 1),
    st.data(),
)  # fmt: skip
def test_every_window_is_what_was_drawn(
    height: int, width: int, rows: int, seed: int, data: Any
) -> None:
    mask = blobs(Size(height, width), seed)
    bitmap = Bitmap(Size(height, width), strips_of(mask, rows))
    ys, xs = np.nonzero(mask)
    box = Box(ys.min(), xs.min(), ys.max() + 1, xs.max() + 1) if len(ys) else None
    assert bitmap.bbox == box
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    for box in (Box(y0, x0, y1, x1), Box(0, 0, height, width)):
        assert np.array_equal(bitmap.window(box), mask[box.slices])
        assert bitmap.any(box) == mask[box.slices].any()


def test_blocks_without_an_edge_take_no_memory() -> None:
    mask = np.ones((5 * BLOCK, 5 * BLOCK + 3), bool)
    mask[:, : 2 * BLOCK] = False
    assert Bitmap(Size(*mask.shape), strips_of(mask, 100)).nbytes == 0
    mask[700, 700] = False
    assert Bitmap(Size(*mask.shape), strips_of(mask, 100)).nbytes == BLOCK * BLOCK // 8


def test_a_large_mask_takes_the_memory_of_its_edge_and_noise_a_bit_per_pixel() -> None:
    edge = 8192
    columns = np.arange(edge)
    rng = np.random.default_rng(0)

    def disc() -> Strips:
        for y in range(0, edge, 64):
            rows = np.arange(y, y + 64)[:, None]
            yield y, (rows - edge // 2) ** 2 + (columns - edge // 2) ** 2 < (edge // 3) ** 2

    def noise() -> Strips:
        for y in range(0, edge, 64):
            yield y, rng.integers(0, 2, (64, edge), np.uint8).view(bool)

    for strips, bound in ((disc(), 16e6), (noise(), edge**2 / 8 + 16e6)):
        tracemalloc.start()
        bitmap = Bitmap(Size(edge, edge), strips)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < bound
        assert bitmap.nbytes <= edge**2 / 8
        assert bitmap.any(Box(0, 0, edge, edge))


@pytest.mark.parametrize("box", [Box(0, 0, 11, 5), Box(-1, 0, 3, 3), Box(2, 2, 2, 4)])
def test_a_window_that_is_not_inside_is_a_mistake(box: Box) -> None:
    bitmap = Bitmap(Size(10, 10), strips_of(np.ones((10, 10), bool), 10))
    with pytest.raises(ValueError, match="not inside"):
        bitmap.window(box)

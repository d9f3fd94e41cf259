"""Segment grids: counts, coverage, weights (check C5)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.tiling import Grid, batches, planned, ramp


@st.composite
def grids(draw: st.DrawFn, most: int = 400) -> Grid:
    segment = draw(st.integers(2, 96))
    overlap = draw(st.integers(0, segment // 2))
    content = Size(draw(st.integers(1, most)), draw(st.integers(1, most)))
    return Grid(content, Size(segment, segment), overlap)


@pytest.mark.parametrize(("side", "count"), [(768, 1), (1536, 9), (2048, 9), (4096, 49)])
def test_counts_of_the_paper_sizes(side: int, count: int) -> None:
    assert len(Grid(Size(side, side), Size(768, 768), 128)) == count


@given(grids())
@settings(max_examples=150)
def test_weights_sum_to_one_at_every_pixel(grid: Grid) -> None:
    total = np.zeros(grid.canvas.shape, np.float32)
    for index in range(len(grid)):
        total[grid.window(index).slices] += grid.weights(index)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@given(st.integers(1, 200), st.booleans(), st.booleans())
def test_ramps_rise_over_the_whole_overlap_and_stay_between_0_and_1(
    overlap: int, rises: bool, falls: bool
) -> None:
    weights = ramp(2 * overlap + 5, overlap, rises, falls)
    assert weights.min() > 0
    assert weights.max() == 1
    if rises:
        assert (np.diff(weights[: overlap + 1]) > 0).all()
    if falls:
        assert (np.diff(weights[-overlap - 1 :]) < 0).all()


@given(grids())
def test_the_canvas_covers_the_content_with_less_than_a_stride_to_spare(grid: Grid) -> None:
    for canvas, content, segment, stride in zip(
        grid.canvas.shape, grid.content.shape, grid.segment.shape, grid.stride.shape, strict=True
    ):
        assert canvas >= content
        assert canvas == segment or canvas < content + stride


@given(grids(), st.data())
def test_meeting_finds_exactly_the_windows_that_meet_a_box(grid: Grid, data: st.DataObject) -> None:
    y0 = data.draw(st.integers(0, grid.content.height - 1))
    x0 = data.draw(st.integers(0, grid.content.width - 1))
    box = Box(
        y0,
        x0,
        data.draw(st.integers(y0 + 1, grid.content.height)),
        data.draw(st.integers(x0 + 1, grid.content.width)),
    )
    wanted = [i for i in range(len(grid)) if grid.window(i).intersection(box)]
    assert list(grid.meeting(box)) == wanted


@given(grids())
def test_chunks_partition_the_content_and_meet_at_most_four_segments(grid: Grid) -> None:
    area = 0
    for _, _, box in grid.chunks():
        area += box.size.area
        assert 1 <= len(list(grid.meeting(box))) <= 4
    assert area == grid.content.area


def test_only_segments_that_meet_the_mask_are_planned() -> None:
    grid = Grid(Size(4096, 4096), Size(768, 768), 128)
    mask = Box(1000, 1000, 1010, 1010)
    found = planned(grid, lambda window: window.intersection(mask) is not None)
    assert found == (8,)  # row 1, column 1 of 7 x 7


@pytest.mark.parametrize("overlap", [-1, 385])
def test_an_impossible_overlap_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Grid(Size(1000, 1000), Size(768, 768), overlap)


@given(st.integers(1, 500), st.integers(1, 64))
def test_batches_are_uniform_and_complete(slots: int, size: int) -> None:
    groups = batches(slots, size)
    assert [slot for group in groups for slot in group] == list(range(slots))
    assert len(groups) == -(-slots // size)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1

"""Masks, resampling, low-pass, sums of segments (checks C5, C6, C10)."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.core.compose import (
    Floats,
    colour_agreement,
    compose_chunk,
    latent_mask,
    lowpass,
    read_reflected,
    resample,
    stage_view,
)
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.plan import make_plan
from msbd_dist.core.spec import Family, Method
from msbd_dist.core.tiling import Grid

SD = Family(native=512, segment=768, overlap=128)


@given(st.integers(0, 63), st.integers(0, 63))
def test_a_pixel_always_hits_a_latent_cell(y: int, x: int) -> None:
    mask = np.zeros((64, 64), bool)
    mask[y, x] = True
    cells = latent_mask(mask, 8)
    assert cells.shape == (8, 8)
    assert cells.sum() == 1
    assert cells[y // 8, x // 8]


@given(st.integers(-40, 40), st.integers(1, 60), st.integers(1, 17))
def test_reads_beyond_the_edge_are_numpys_reflection(start: int, length: int, limit: int) -> None:
    row = np.arange(limit, dtype=np.float32)[None, None, :].repeat(3, 1)
    asked: list[Box] = []

    def read(box: Box) -> Floats:
        asked.append(box)
        return row[(slice(None), *box.slices)]

    bounds = Box(0, 0, 3, limit)
    found = read_reflected(read, Box(0, start, 3, start + length), bounds)
    padded = np.pad(row[0, 0], 100, mode="reflect" if limit > 1 else "edge")
    np.testing.assert_array_equal(found[0, 1], padded[100 + start : 100 + start + length])
    assert all(bounds.contains(box) for box in asked)


def test_resampling_to_the_same_size_is_the_identity_and_flat_stays_flat() -> None:
    picture = np.random.default_rng(0).random((3, 20, 30), np.float32)
    assert resample(picture, Rect(0, 0, 20, 30), Size(20, 30)) is picture
    flat = np.full((3, 50, 40), 0.25, np.float32)
    out = resample(flat, Rect(3.3, 1.7, 44.1, 39.2), Size(13, 71))
    np.testing.assert_allclose(out, 0.25, atol=1e-6)


def test_shrinking_is_antialiased() -> None:
    checks = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)[None]
    out = resample(checks, Rect(0, 0, 64, 64), Size(8, 8))
    assert abs(float(out.mean()) - 0.5) < 1e-3
    assert float(out.std()) < 0.02


def large_plan() -> tuple[Floats, object]:
    rng = np.random.default_rng(1)
    picture = rng.random((3, 3000, 2600), np.float32)
    bbox = Box(400, 300, 2400, 2300)
    plan = make_plan(
        Size(3000, 2600), bbox, lambda b: b.intersection(bbox) is not None, family=SD,
        method=Method(),
    )  # fmt: skip
    return picture, plan


def test_overlapping_windows_see_the_same_view_and_low_pass() -> None:
    picture, plan = large_plan()

    def read(box: Box) -> Floats:
        return np.asarray(
            read_reflected(lambda b: picture[(slice(None), *b.slices)], box, Box(0, 0, 3000, 2600))
        )

    coarse, final = plan.stages[1], plan.stages[2]  # type: ignore[attr-defined]
    a, b = final.grid.window(0), final.grid.window(1)
    common = a.intersection(b)
    for view in (
        lambda w: stage_view(read, final, w),
        lambda w: lowpass(read, final, coarse, w),
    ):
        left = view(a)[(slice(None), *common.relative_to(a).slices)]
        right = view(b)[(slice(None), *common.relative_to(b).slices)]
        np.testing.assert_allclose(left, right, atol=1e-5)

    def roughness(pixels: Floats) -> float:
        return float(np.abs(np.diff(pixels, axis=-1)).mean())

    low, sharp = lowpass(read, final, coarse, a), stage_view(read, final, a)
    assert roughness(low) < 0.2 * roughness(sharp)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_chunks_equal_one_sum_over_the_whole_stage_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid(Size(100, 90), Size(32, 32), 8)
    planned = sorted(rng.choice(len(grid), size=7, replace=False).tolist())
    slots = {i: rng.random((3, 32, 32), np.float32) for i in planned}
    canvas = np.zeros((3, *grid.canvas.shape), np.float32)
    total = np.zeros(grid.canvas.shape, np.float32)
    background = rng.random((3, 100, 90), np.float32)
    for index, pixels in slots.items():
        window = grid.window(index)
        canvas[(slice(None), *window.slices)] += grid.weights(index) * pixels
        total[window.slices] += grid.weights(index)
    wanted = canvas[:, :100, :90] + (1 - total[:100, :90]) * background
    for _, _, box in grid.chunks():
        found = compose_chunk(
            grid,
            [(i, slots[i]) for i in grid.meeting(box) if i in slots],
            lambda box=box: background[(slice(None), *box.slices)],
            box,
        )
        np.testing.assert_allclose(found, wanted[(slice(None), *box.slices)], atol=2e-6)


def test_equal_segments_compose_to_themselves_without_a_seam() -> None:
    grid = Grid(Size(100, 100), Size(40, 40), 16)
    flat = np.full((3, 40, 40), 0.6, np.float32)

    def never() -> Floats:
        raise AssertionError("the background is not needed where all segments are planned")

    for _, _, box in grid.chunks():
        found = compose_chunk(grid, [(i, flat) for i in grid.meeting(box)], never, box)
        np.testing.assert_allclose(found, 0.6, atol=1e-6)


def test_over_depends_on_order_and_sum_does_not() -> None:
    grid = Grid(Size(64, 24), Size(24, 24), 8)
    a, b = np.zeros((3, 24, 24), np.float32), np.ones((3, 24, 24), np.float32)
    box = Box(16, 0, 24, 24)
    background = np.full((3, 8, 24), 0.5, np.float32)
    results = {}
    for kind in ("sum", "over"):
        forward = compose_chunk(grid, [(0, a), (1, b)], lambda: background, box, kind=kind)
        backward = compose_chunk(grid, [(1, b), (0, a)], lambda: background, box, kind=kind)
        results[kind] = float(np.abs(forward - backward).max())
    assert results["sum"] == pytest.approx(0, abs=1e-7)
    assert results["over"] > 0.2


def test_composing_a_canvas_of_32768_squared_takes_the_memory_of_a_few_segments() -> None:
    grid = Grid(Size(32768, 32768), Size(768, 768), 128)
    segment = np.full((3, 768, 768), 0.5, np.float32)
    tracemalloc.start()
    done = 0
    for row, _, box in grid.chunks():
        if row > 1:
            break
        compose_chunk(grid, [(i, segment) for i in grid.meeting(box)], lambda: segment, box)
        done += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done == 2 * 52
    assert peak < 6 * segment.nbytes


def test_colours_that_continue_the_surroundings_agree() -> None:
    rng = np.random.default_rng(0)
    picture = (0.5 + 0.1 * rng.random((3, 64, 64))).astype(np.float32)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    assert colour_agreement(picture, mask) > 0.9
    painted = picture.copy()
    painted[:, 25:35, 25:35] = np.array([0.9, 0.1, 0.1], np.float32)[:, None, None]
    assert colour_agreement(painted, mask) == pytest.approx(0.75, abs=0.05)
    assert colour_agreement(picture, np.ones((64, 64), bool)) == 1

"""Masks, resampling, low-pass, sums of segments (checks C5, C6, C10)."""

from __future__ import annotations

import tracemalloc
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msbd_dist.core import compose
from msbd_dist.core.compose import (
    Floats,
    block_edge,
    block_means,
    colour_agreement,
    compose_chunk,
    latent_mask,
    lowpass,
    read_reflected,
    resample,
    stage_view,
    view,
)
from msbd_dist.core.geometry import Box, Rect, Size
from msbd_dist.core.plan import Stage, make_plan
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
    for look in (
        lambda w: stage_view(read, final, w),
        lambda w: lowpass(read, final, coarse, w),
    ):
        left = look(a)[(slice(None), *common.relative_to(a).slices)]
        right = look(b)[(slice(None), *common.relative_to(b).slices)]
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


# ---------------------------------------------------------------- large scales


def pattern(box: Box) -> Floats:
    """A picture without end: a function of the pixel's place, (3, h, w) in [0, 1]."""
    ys, xs = np.arange(box.y0, box.y1)[:, None], np.arange(box.x0, box.x1)
    mixed = (ys * 7919 + xs * 104729) % 251
    return np.stack([((mixed + 83 * c) % 251) / np.float32(250) for c in range(3)]).astype("f4")


def base_stage(region: Box, edge: int) -> Stage:
    return Stage(0, "base", region, Grid.whole(Size(edge, edge)), (0,), 1, 1.0)


@pytest.mark.parametrize(("scale", "edge"), [(1, 1), (5.99, 1), (6, 2), (8.9, 2), (9, 3), (64, 21)])
def test_blocks_are_averaged_from_a_scale_of_6_on(scale: float, edge: int) -> None:
    assert block_edge(scale) == edge


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(-20, 20), st.integers(-20, 20),
    st.integers(1, 12), st.integers(1, 12),
)  # fmt: skip
def test_means_of_blocks_are_exact_and_the_same_in_every_window(
    height: int, width: int, y: int, x: int, rows: int, columns: int
) -> None:
    blocks = Box(y, x, y + rows, x + columns)
    box = Box(y * height, x * width, (y + rows) * height, (x + columns) * width)
    found = block_means(pattern, blocks, (height, width))
    cells = pattern(box).astype(float).reshape(3, rows, height, columns, width)
    np.testing.assert_allclose(found, cells.mean(axis=(2, 4)), atol=1e-6)
    around = block_means(pattern, blocks.grown(2), (height, width))
    np.testing.assert_array_equal(around[:, 2:-2, 2:-2], found)


def test_means_do_not_depend_on_the_tiles_they_were_read_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = block_means(pattern, Box(0, 0, 90, 70), (13, 11))
    for tile in (1, 100, 257):
        monkeypatch.setattr(compose, "TILE", tile)
        np.testing.assert_array_equal(block_means(pattern, Box(0, 0, 90, 70), (13, 11)), whole)


@pytest.mark.parametrize("edge", [97, 200, 333])
def test_a_view_at_a_large_scale_is_close_to_the_antialiased_picture(edge: int) -> None:
    region, size = Box(-150, 40, 1850, 2040), Size(edge, edge)

    def smooth(box: Box) -> Floats:
        ys, xs = np.arange(box.y0, box.y1)[:, None], np.arange(box.x0, box.x1)
        waves = 0.5 + 0.25 * np.sin(ys / 50) + 0.25 * np.cos(xs / 70)
        return np.stack([waves] * 3).astype(np.float32)

    stage = base_stage(region, edge)
    rect = stage.image_rect(Box.of(size))
    box = rect.outer(ceil(2000 / edge))
    for read, tolerance in ((smooth, 2e-3), (pattern, 0.05)):
        found = stage_view(read, stage, Box.of(size))
        wanted = resample(read(box), rect.relative_to(box), size)
        np.testing.assert_allclose(found, wanted, atol=tolerance)
        assert float(found.mean()) == pytest.approx(float(wanted.mean()), abs=2e-4)


def test_below_a_scale_of_6_a_view_is_the_antialiased_picture_bit_for_bit() -> None:
    stage, window = base_stage(Box(3, 5, 1193, 1195), 200), Box(10, 20, 150, 180)
    rect = stage.image_rect(window)
    box = rect.outer(6)
    wanted = resample(pattern(box), rect.relative_to(box), window.size)
    np.testing.assert_array_equal(stage_view(pattern, stage, window), wanted)


def test_overlapping_windows_agree_at_a_large_scale() -> None:
    stage = base_stage(Box(-70, 31, 3930, 4031), 300)
    a, b = Box(0, 0, 200, 190), Box(120, 90, 300, 300)
    common = a.intersection(b)
    assert common is not None
    left, right = (
        stage_view(pattern, stage, w)[(slice(None), *common.relative_to(w).slices)] for w in (a, b)
    )
    np.testing.assert_allclose(left, right, atol=1e-6)


def test_a_squeezed_picture_is_averaged_along_its_longer_axis_only() -> None:
    asked = []

    def read(box: Box) -> Floats:
        asked.append(box)
        return np.broadcast_to(
            np.arange(box.y0, box.y1)[:, None] / np.float32(64), (3, *box.size.shape)
        )

    found = view(read, Rect(0, 0, 40, 840), Size(40, 40))
    np.testing.assert_allclose(found[:, 2:-2], read(Box(2, 0, 38, 40)), atol=1e-2)
    assert all(box.width % 7 == 0 for box in asked[:-1])


@pytest.mark.parametrize("edge", [64, 512])
def test_a_view_of_20000_squared_takes_the_memory_of_its_own_size(edge: int) -> None:
    asked = []

    def read(box: Box) -> Floats:
        asked.append(box.size.area)
        return np.full((3, *box.size.shape), 0.25, np.float32)

    stage = base_stage(Box(-500, 0, 19500, 20000), edge)
    tracemalloc.start()
    found = stage_view(read, stage, Box(0, 0, edge, edge))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(found, 0.25, atol=1e-6)
    assert max(asked) <= 1024**2
    assert peak < 60e6 + 4.5**2 * edge**2 * 12 * 2

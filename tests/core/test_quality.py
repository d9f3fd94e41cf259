"""Each measure tells its fault, and only its own."""

from __future__ import annotations

import numpy as np
import pytest

from msbd_dist.core.compose import Bools, Floats
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.quality import (
    CELL,
    CYCLES,
    HALO,
    Edge,
    Sharpness,
    changed_outside,
    depths_of,
    edge_consistency,
    measured,
    sharpness,
    stride_peak,
)

SIDE = 320
YY, XX = np.mgrid[:SIDE, :SIDE]
DISC: Bools = (YY - 150) ** 2 + (XX - 160) ** 2 < 100**2
BOX: Bools = (abs(YY - 150) < 90) & (abs(XX - 170) < 110)
EVERYWHERE = np.ones((SIDE, SIDE), bool)
EVEN: Bools = (abs(YY - 159.5) < 96) & (abs(XX - 159.5) < 128)  # as cells are
MASKS = pytest.mark.parametrize("mask", [DISC, BOX, EVEN], ids=["disc", "box", "even"])


def clouds(seed: int, coarse: int = 1, *, size: int = SIDE) -> Floats:
    """Noise about 0.5, blurred over ``coarse`` pixels by a mean that wraps around."""
    picture = np.random.default_rng(seed).random((3, size, size))
    for axis in (1, 2):
        shifted = [np.roll(picture, by, axis) for by in range(coarse)]
        picture = np.mean(shifted, axis=0)
    return (0.5 + 0.05 * (picture - picture.mean()) / picture.std()).astype(np.float32)


def inside(mask: Bools, one: Floats, other: Floats) -> Floats:
    return np.where(mask, one, other)


# --- exactness ------------------------------------------------------------------------------------


def test_samples_outside_the_mask_are_counted_and_no_others() -> None:
    before = np.zeros((3, SIDE, SIDE), np.uint16)
    after = before + DISC.astype(np.uint16)
    assert changed_outside(before, after, DISC) == 0
    after[1, 0, 0], after[:, -1, -1] = 1, 65535
    assert changed_outside(before, after, DISC) == 4


# --- the mask's edge ------------------------------------------------------------------------------


def test_depths_count_from_the_edge_to_both_sides() -> None:
    mask = np.zeros((1, 9), bool)
    mask[0, 4:] = True
    assert depths_of(mask, 3).tolist() == [[-3, -2, -1, 0, 1, 2, 3, 4, 4]]
    assert depths_of(np.ones((2, 2), bool), 3).tolist() == [[4, 4], [4, 4]]


@MASKS
@pytest.mark.parametrize("coarse", [1, 4, 16])
def test_an_edge_of_which_nothing_shows_is_about_1(mask: Bools, coarse: int) -> None:
    found = edge_consistency(clouds(3, coarse), mask)
    assert found.gradient == pytest.approx(1, abs=0.1)
    assert found.colour == pytest.approx(1, abs=0.2)


@MASKS
def test_a_flat_picture_and_a_shaded_one_have_no_edge(mask: Bools) -> None:
    flat = np.full((3, SIDE, SIDE), 0.3, np.float32)
    assert edge_consistency(flat, mask).gradient == 1
    assert edge_consistency(flat, mask).colour == 1
    shaded = np.broadcast_to((XX / SIDE).astype(np.float32), flat.shape)
    assert edge_consistency(shaded, mask).gradient == pytest.approx(1, abs=0.05)
    assert edge_consistency(shaded, mask).colour == pytest.approx(1, abs=0.1)


@MASKS
@pytest.mark.parametrize("coarse", [1, 4, 16])
def test_another_colour_inside_shows(mask: Bools, coarse: int) -> None:
    picture = clouds(3, coarse)
    whole = edge_consistency(picture + 0.05 * mask, mask)
    faint = edge_consistency(picture + 0.02 * mask, mask)
    assert whole.colour is not None
    assert faint.colour is not None
    assert whole.colour > 1.8
    assert 1.05 < faint.colour < whole.colour


@MASKS
def test_a_line_along_the_edge_shows_as_a_line(mask: Bools) -> None:
    picture = clouds(3, 4)
    rim = depths_of(mask, 4) == 1
    found = edge_consistency(picture + 0.1 * rim, mask)
    assert found.gradient is not None
    assert found.colour is not None
    assert found.gradient > 3
    assert found.colour < found.gradient


@MASKS
def test_pictures_that_do_not_go_on_into_one_another_show(mask: Bools) -> None:
    found = edge_consistency(inside(mask, clouds(4, 12), clouds(3, 12)), mask)
    assert found.gradient is not None
    assert found.colour is not None
    assert found.gradient > 3
    assert found.colour > 1.5


def test_what_is_far_from_the_edge_does_not_count() -> None:
    picture = clouds(3, 4)
    middle = (YY - 150) ** 2 + (XX - 160) ** 2 < 80**2
    assert edge_consistency(picture + 0.3 * middle, DISC) == edge_consistency(picture, DISC)


def test_nothing_is_said_of_an_edge_that_is_not_there() -> None:
    assert edge_consistency(clouds(3), EVERYWHERE) == Edge()
    assert Edge().gradient is None
    assert Edge().colour is None
    few = np.zeros((SIDE, SIDE), bool)
    few[5:7, 5:7] = True
    assert edge_consistency(clouds(3), few).gradient is None


@pytest.mark.parametrize("bounds", [Box(0, 0, SIDE, SIDE), Box(3, 40, 290, 310)], ids=str)
def test_windows_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch, bounds: Box) -> None:
    monkeypatch.setattr("msbd_dist.core.quality.WINDOW", Size(2 * CELL, 3 * CELL))
    picture = clouds(3, 2)
    asked: list[Box] = []

    def read(box: Box) -> Floats:
        assert bounds.contains(box)
        asked.append(box)
        return picture[(slice(None), *box.slices)]

    edge, sharp = measured(read, lambda b: DISC[b.slices], Box(50, 60, 251, 261), bounds)
    part = (slice(None), *bounds.slices)
    at_once = measured(
        lambda b: picture[(slice(None), *b.slices)], lambda b: DISC[b.slices], bounds, bounds
    )
    for name, value in vars(edge).items():
        assert value == pytest.approx(getattr(at_once[0], name)), name
    assert sharp.value == pytest.approx(sharpness(picture[part], DISC[bounds.slices]))
    assert max(box.height for box in asked) <= 2 * CELL + 2 * HALO
    if bounds == Box(0, 0, SIDE, SIDE):
        for name, value in vars(edge_consistency(picture, DISC)).items():
            assert value == pytest.approx(getattr(edge, name)), name


# --- sharpness ------------------------------------------------------------------------------------


def test_sharpness_falls_with_blur_and_does_not_see_the_edge() -> None:
    values = [sharpness(clouds(3, coarse), DISC) for coarse in (1, 2, 4, 8)]
    assert all(value is not None for value in values)
    assert values == sorted(values, reverse=True)
    picture = clouds(3, 4)
    assert sharpness(picture + 0.3 * DISC, DISC) == pytest.approx(sharpness(picture, DISC), 1e-3)


def test_sharpness_is_between_0_and_1() -> None:
    board = np.broadcast_to(((XX + YY) % 2).astype(np.float32), (3, SIDE, SIDE))
    assert sharpness(board, DISC) == 1
    assert sharpness(np.zeros_like(board), DISC) == 0
    assert sharpness(board, np.zeros_like(DISC)) is None
    assert (Sharpness(1.0, 4) + Sharpness(3.0, 12)).value == 0.5


# --- the spectrum of seams ------------------------------------------------------------------------


def seamed(picture: Floats, stride: int, step: float, *, axis: int = 2) -> Floats:
    """With ``step`` up and down at every multiple of the stride."""
    places = XX if axis == 2 else YY
    return picture + np.float32(step) * (places // stride % 2).astype(np.float32)


@pytest.mark.parametrize("stride", [24, 40, 64])
@pytest.mark.parametrize("axis", [1, 2])
def test_seams_at_a_stride_are_a_peak_at_that_stride(stride: int, axis: int) -> None:
    picture = clouds(3, 4)
    usual = stride_peak(picture, EVERYWHERE, stride)
    peak = stride_peak(seamed(picture, stride, 0.06, axis=axis), EVERYWHERE, stride)
    other = stride_peak(seamed(picture, stride, 0.06, axis=axis), EVERYWHERE, stride + 7)
    assert usual is not None
    assert usual < 2
    assert peak is not None
    assert peak > 4
    assert other is None or other < peak / 2


def test_clouds_have_no_peak_and_a_flat_picture_has_1() -> None:
    peaks = [
        stride_peak(clouds(seed, coarse), EVERYWHERE, 40) for seed in range(4) for coarse in (1, 8)
    ]
    assert np.mean([peak or 0 for peak in peaks]) == pytest.approx(1.1, abs=0.35)
    assert stride_peak(np.full((3, SIDE, SIDE), 0.5, np.float32), EVERYWHERE, 40) == 1


def test_another_colour_inside_the_mask_is_no_seam() -> None:
    picture = clouds(3, 4)
    found = stride_peak(picture + 0.2 * DISC, DISC, 32)
    assert found == pytest.approx(stride_peak(picture, DISC, 32), rel=0.05)


def test_a_mask_that_is_too_small_for_strides_says_nothing() -> None:
    assert stride_peak(clouds(3), DISC, 200 // CYCLES + 1) is None
    assert stride_peak(clouds(3), np.zeros_like(DISC), 8) is None

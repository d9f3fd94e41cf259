"""Seams: seen where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from msbd_dist.core.compose import Bools, Floats
from msbd_dist.core.geometry import Box, Size
from msbd_dist.core.measure import BESIDE, FEW, Steps, border_lines, borders, seams, steps_across
from msbd_dist.core.tiling import Grid

GRID = Grid(Size(200, 300), Size(96, 96), 32)  # strides of 64: 3 rows and 5 columns
WHOLE = Box.of(GRID.content)


def ratios(picture: Floats, mask: Bools) -> dict[Box, float]:
    found = seams(
        *(GRID, lambda b: picture[(slice(None), *b.slices)], lambda b: mask[b.slices], WHOLE),
        cell=8,
    )
    return {piece: steps.ratio for piece, steps in found if steps.ratio is not None}


@pytest.fixture
def noise() -> Floats:
    rng = np.random.default_rng(3)
    return rng.random((3, *GRID.content.shape), np.float32) * np.float32(0.2) + np.float32(0.3)


EVERYWHERE = np.ones(GRID.content.shape, bool)


def test_borders_are_where_windows_begin_and_end_inside_the_stage() -> None:
    xs, ys = border_lines(GRID)
    windows = [GRID.window(i) for i in range(len(GRID))]
    wanted = {edge for w in windows for edge in (w.x0, w.x1) if 0 < edge < 300}
    assert set(xs) == wanted == {64, 96, 128, 160, 192, 224, 256, 288}
    assert ys == (64, 96, 128, 160)
    assert all((piece.width == 0) != (piece.height == 0) for piece in borders(GRID))
    assert sum(piece.height for piece in borders(GRID)) == len(xs) * 200
    assert sum(piece.width for piece in borders(GRID)) == len(ys) * 300


def test_a_stage_that_is_not_cut_has_no_borders() -> None:
    assert not list(borders(Grid.whole(Size(96, 96))))


def test_noise_has_no_seams(noise: Floats) -> None:
    found = ratios(noise, EVERYWHERE)
    assert set(found) == {piece for piece in borders(GRID) if piece.size.long_edge >= FEW}
    assert all(0.7 < ratio < 1.4 for ratio in found.values())
    assert np.mean(list(found.values())) == pytest.approx(1, abs=0.03)


def test_a_flat_picture_has_no_seams() -> None:
    flat = np.full((3, *GRID.content.shape), 0.5, np.float32)
    assert set(ratios(flat, EVERYWHERE).values()) == {1.0}


def test_a_seam_is_found_where_it_is(noise: Floats) -> None:
    noise[:, 64:128, 160:] += 0.4
    found = ratios(noise, EVERYWHERE)
    assert max(found, key=lambda piece: found[piece]) == Box(64, 160, 128, 160)
    assert found[Box(64, 160, 128, 160)] > 4
    assert found[Box(0, 160, 64, 160)] < 1.4
    assert found[Box(64, 192, 64, 256)] > 4  # the same step, from above
    assert found[Box(64, 0, 64, 64)] < 1.4


def test_what_is_not_masked_does_not_count(noise: Floats) -> None:
    mask = EVERYWHERE.copy()
    mask[:, 150:] = False
    noise[:, :, 160:] += 0.4
    found = ratios(noise, mask)
    assert all(ratio < 1.4 for ratio in found.values())
    assert not [piece for piece in found if piece.x0 >= 150]


def test_nothing_is_said_of_a_few_pixels(noise: Floats) -> None:
    mask = np.zeros(GRID.content.shape, bool)
    mask[60:70, 60:70] = True
    assert not ratios(noise, mask)
    assert Steps().ratio is None


def test_only_windows_inside_the_bounds_are_read(noise: Floats) -> None:
    bounds = Box(30, 70, 170, 290)

    def read(box: Box) -> Floats:
        assert bounds.contains(box)
        assert min(box.height, box.width) <= 2 * (8 * BESIDE + 1)
        return noise[(slice(None), *box.slices)]

    found = dict(seams(GRID, read, lambda b: EVERYWHERE[b.slices], bounds, cell=8))
    assert {piece.x0 for piece in found if piece.width == 0} == {96, 128, 160, 192, 224, 256, 288}


def test_boundaries_of_cells_are_no_seams(noise: Floats) -> None:
    cells = noise[:, ::8, ::8].repeat(8, 1).repeat(8, 2)[:, :200, :300]
    assert np.mean(list(ratios(cells, EVERYWHERE).values())) == pytest.approx(1, abs=0.05)
    cells[..., 160:] += 0.2
    assert ratios(cells, EVERYWHERE)[Box(0, 160, 64, 160)] > 2


def test_other_borders_are_not_beside_one() -> None:
    picture = np.zeros((1, 40, 20), np.float32)
    picture[..., 10:] = 0.5
    picture[..., 14:] = 1.0
    mask = np.ones((40, 20), bool)
    with_it = steps_across(picture, mask, 10, cell=2)
    without = steps_across(picture, mask, 10, (14, 40), cell=2)
    assert with_it.beside > 0
    assert without == Steps(across=20.0, num_across=40, beside=0.0, num_beside=7 * 40)
    assert (without + without).num_across == 80

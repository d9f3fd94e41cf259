"""Outlines: closed, around all that is masked, and never too long."""

from __future__ import annotations

import numpy as np
import pytest

from msbd_dist.core import outline as module
from msbd_dist.core.outline import Vertex, outline


def area(loop: list[Vertex]) -> float:
    """Enclosed by a loop, in pixels: positive around what is True, negative around a hole."""
    following = [*loop[1:], loop[0]]
    return sum(x0 * y1 - x1 * y0 for (y0, x0), (y1, x1) in zip(loop, following, strict=True)) / 8


def test_a_box_is_eight_corners() -> None:
    mask = np.zeros((9, 12), bool)
    mask[2:7, 3:11] = True
    unit, (loop,) = outline(mask)
    assert unit == 1
    assert len(loop) == 8  # each corner is cut by half a pixel
    assert {min(y for y, _ in loop), max(y for y, _ in loop)} == {4, 14}
    assert {min(x for _, x in loop), max(x for _, x in loop)} == {6, 22}
    assert area(loop) == 5 * 8 - 4 / 8


def test_a_hole_is_a_loop_the_other_way_round() -> None:
    mask = np.ones((20, 20), bool)
    mask[5:15, 5:15] = False
    _, loops = outline(mask)
    assert sorted(round(area(loop)) for loop in loops) == [-100, 400]


def test_a_diagonal_is_one_line() -> None:
    _, (loop,) = outline(np.tri(50, dtype=bool))
    assert len(loop) < 8


@pytest.mark.parametrize("seed", range(3))
def test_loops_enclose_about_what_is_true(seed: int) -> None:
    mask = np.random.default_rng(seed).random((37, 41)) < 0.5  # many corners that only touch
    _, loops = outline(mask)
    assert sum(map(area, loops)) == pytest.approx(mask.sum(), rel=0.15)


def test_nothing_has_no_outline() -> None:
    assert outline(np.zeros((5, 5), bool)) == (1, [])


def test_a_ragged_mask_is_drawn_coarser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 200)
    mask = np.zeros((63, 63), bool)
    mask[::2, ::2] = True  # 1024 islands
    unit, loops = outline(mask)
    assert unit == 2
    assert sum(map(area, loops)) * unit**2 == pytest.approx(64 * 64, rel=0.01)

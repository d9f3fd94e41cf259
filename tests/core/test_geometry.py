"""Boxes, placement and the plan of stages (checks C2 and C5's geometry)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msbd_dist.core.geometry import Box, Rect, Size, map_box, placed, round_up

sides = st.integers(1, 5000)
offsets = st.integers(-3000, 3000)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    y0, x0 = draw(offsets), draw(offsets)
    return Box(y0, x0, y0 + draw(sides), x0 + draw(sides))


@given(boxes(), boxes())
def test_intersection_is_inside_both_and_union_holds_both(a: Box, b: Box) -> None:
    assert a.union(b).contains(a)
    assert a.union(b).contains(b)
    common = a.intersection(b)
    if common is not None:
        assert a.contains(common)
        assert b.contains(common)


@given(boxes(), offsets, offsets)
def test_shifting_there_and_back_changes_nothing(box: Box, dy: int, dx: int) -> None:
    assert box.shifted(dy, dx).shifted(-dy, -dx) == box
    assert box.relative_to(box) == Box.of(box.size)


@given(st.integers(0, 9000), st.integers(0, 9000), sides, sides, sides, sides)
def test_a_placed_box_stays_inside_or_covers_the_image(
    cy: int, cx: int, h: int, w: int, image_h: int, image_w: int
) -> None:
    box = placed((cy, cx), Size(h, w), Size(image_h, image_w))
    assert box.size == Size(h, w)
    for low, high, length, limit in (
        (box.y0, box.y1, h, image_h),
        (box.x0, box.x1, w, image_w),
    ):
        if length <= limit:
            assert low >= 0
            assert high <= limit
        else:
            assert low <= 0
            assert high >= limit


def test_mapping_keeps_height_with_height_and_width_with_width() -> None:
    window = Box(0, 0, 10, 40)
    rect = map_box(
        window,
        source=Box(100, 200, 200, 600),
        source_size=Size(10, 40),
        target=Box(100, 200, 200, 600),
        target_size=Size(50, 800),
    )
    assert rect == Rect(0, 0, 50, 800)


def test_outer_ignores_rounding_and_takes_a_halo() -> None:
    assert Rect(1.0000000001, 2, 3.9999999999, 5.5).outer() == Box(1, 2, 4, 6)
    assert Rect(1, 2, 3, 4).outer(2) == Box(-1, 0, 5, 6)


@given(st.floats(0, 1e6), st.integers(1, 512))
def test_round_up_is_the_next_multiple(value: float, multiple: int) -> None:
    up = round_up(value, multiple)
    assert up % multiple == 0
    assert value - 1e-3 <= up < value + multiple
